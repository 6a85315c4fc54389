//! `session_filters`: what is done to the datagrams of each session.

use std::sync::Arc;

use nuncio_config::cluster::DnsCacheConfig;
use nuncio_config::extension::{Category, Discovered, refuse_unknown};
use nuncio_config::protocol::message_name;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::filters::udp::udp_proxy::session::dynamic_forward_proxy::v3 as forward;
use nuncio_proto::envoy::extensions::filters::udp::udp_proxy::session::http_capsule::v3 as capsule;
use nuncio_proto::envoy::extensions::filters::udp::udp_proxy::v3::udp_proxy_config::{SessionFilter, session_filter};
use nuncio_proto::google::protobuf::Any;
use prost::Message;

/// The filters as configured.
pub(super) struct SessionFilters(Box<[Filter]>);

enum Filter {
    Fixed(Kind),
    /// One that discovery configures, for sessions that begin later.
    Discovered(Arc<Discovered<Kind>>),
}

#[derive(Clone)]
enum Kind {
    Capsules,
    Forward(Arc<ForwardProxy>),
}

/// What stands around the datagrams that hosts get and give: so many capsules (RFC 9297), one in the other
/// (`http_capsule`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framing(pub(super) usize);

/// The configuration of a filter has not come, or is gone.
#[derive(Debug)]
pub(super) struct Missing;

nuncio_telemetry::stats! {
    /// `udp.session.dynamic_forward_proxy.<stat_prefix>`
    struct BufferStats {
        /// Datagrams that were to wait for the name server, and found no room.
        buffer_overflow: Counter,
    }
}

/// `dynamic_forward_proxy`: has the host that is left in a session's filter state resolved before the session goes on.
/// Envoy has no session filter that leaves one there, and lets a session that names no host go on at once, whatever may
/// wait (`buffer_options`): what there is to see is the cache, and the stat.
pub(super) struct ForwardProxy {
    cache: Arc<DnsCacheConfig>,
    _stats: BufferStats,
}

const CAPSULES: &str = "envoy.extensions.filters.udp.udp_proxy.session.http_capsule.v3.FilterConfig";
const FORWARD: &str = "envoy.extensions.filters.udp.udp_proxy.session.dynamic_forward_proxy.v3.FilterConfig";

// === impl SessionFilters ===

impl SessionFilters {
    pub(super) fn lower(filters: Vec<SessionFilter>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        cx.each("session_filters", filters, Filter::lower).map(|filters| Self(filters.into()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is done for a session that begins now.
    pub(super) fn framing(&self) -> Result<Framing, Missing> {
        let current = self.0.iter().map(|filter| match filter {
            Filter::Fixed(Kind::Capsules) => Ok(1),
            Filter::Fixed(Kind::Forward(_)) => Ok(0),
            Filter::Discovered(filter) => match &*filter.current().ok_or(Missing)? {
                Kind::Capsules => Ok(1),
                Kind::Forward(_) => Ok(0),
            },
        });
        current.sum::<Result<usize, Missing>>().map(Framing)
    }

    /// The caches that there are from the start.
    pub(super) fn caches(&self) -> impl Iterator<Item = Arc<DnsCacheConfig>> {
        self.0.iter().filter_map(|filter| match filter {
            Filter::Fixed(Kind::Forward(forward)) => Some(forward.cache.clone()),
            Filter::Fixed(Kind::Capsules) => None,
            Filter::Discovered(filter) => match &*filter.current()? {
                Kind::Forward(forward) => Some(forward.cache.clone()),
                Kind::Capsules => None,
            },
        })
    }
}

// === impl Filter ===

impl Filter {
    fn lower(filter: SessionFilter, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let SessionFilter { name, config_type } = filter;
        match config_type {
            Some(session_filter::ConfigType::TypedConfig(any)) => {
                cx.at("typed_config", |cx| lower(&any, cx)).map(|kind| Self::Fixed(Kind::clone(&kind)))
            }
            Some(session_filter::ConfigType::ConfigDiscovery(source)) => cx.at("config_discovery", |cx| {
                Discovered::lower(&name, Category::UdpSessionFilter, source, lower, cx).map(Self::Discovered)
            }),
            None => Err(cx.invalid("typed_config is required")),
        }
    }
}

fn lower(any: &Any, cx: &mut LowerCx<'_>) -> Result<Arc<Kind>, Refused> {
    match message_name(any) {
        CAPSULES => match capsule::FilterConfig::decode(&any.value[..]) {
            Ok(capsule::FilterConfig {}) => Ok(Kind::Capsules.into()),
            Err(error) => Err(cx.invalid(format!("does not decode: {error}"))),
        },
        FORWARD => ForwardProxy::lower(&any.value, cx).map(|forward| Kind::Forward(forward.into()).into()),
        other => Err(refuse_unknown("session filter", other, [CAPSULES, FORWARD], cx)),
    }
}

// === impl ForwardProxy ===

impl ForwardProxy {
    fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use forward::filter_config::ImplementationSpecifier;
        let message = forward::FilterConfig::decode(bytes).map_err(|e| cx.invalid(format!("does not decode: {e}")))?;
        let forward::FilterConfig { stat_prefix, buffer_options, implementation_specifier } = message;
        if buffer_options.is_some() {
            tracing::info!(path = cx.path(), "buffer_options has no effect: no session waits for the name server");
        }
        let Some(ImplementationSpecifier::DnsCacheConfig(cache)) = implementation_specifier else {
            return Err(cx.at("dns_cache_config", |cx| cx.invalid("is required")));
        };
        let cache = cx.at("dns_cache_config", |cx| DnsCacheConfig::lower(cache, cx))?;
        let scope = cx.env.stats.scope("udp.session.dynamic_forward_proxy").scope(&stat_prefix);
        Ok(Self { cache: Arc::new(cache), _stats: BufferStats::new(&scope) })
    }
}
