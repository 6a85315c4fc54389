//! `session_filters`: what is done to the datagrams of each session.

use std::sync::Arc;

use nuncio_config::cluster::DnsCacheConfig;
use nuncio_config::extension::unknown;
use nuncio_config::protocol::message_name;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::filters::udp::udp_proxy::session::dynamic_forward_proxy::v3 as forward;
use nuncio_proto::envoy::extensions::filters::udp::udp_proxy::session::http_capsule::v3 as capsule;
use nuncio_proto::envoy::extensions::filters::udp::udp_proxy::v3::udp_proxy_config::{SessionFilter, session_filter};
use prost::Message;

/// The filters as configured.
pub(super) struct SessionFilters {
    pub(super) framing: Framing,
    pub(super) forward: Vec<ForwardProxy>,
}

/// What stands around the datagrams that hosts get and give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Plain,
    /// Capsules (RFC 9297): `http_capsule`.
    Capsules,
}

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
    pub(super) cache: Arc<DnsCacheConfig>,
    _stats: BufferStats,
}

enum Lowered {
    Capsules,
    Forward(ForwardProxy),
}

const CAPSULES: &str = "envoy.extensions.filters.udp.udp_proxy.session.http_capsule.v3.FilterConfig";
const FORWARD: &str = "envoy.extensions.filters.udp.udp_proxy.session.dynamic_forward_proxy.v3.FilterConfig";

// === impl SessionFilters ===

impl SessionFilters {
    pub(super) fn lower(filters: Vec<SessionFilter>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let mut this = Self { framing: Framing::Plain, forward: Vec::new() };
        for filter in cx.each("session_filters", filters, lower)? {
            match filter {
                Lowered::Capsules if this.framing == Framing::Capsules => {
                    return Err(cx.at("session_filters", |cx| cx.not_implemented("capsules in capsules")));
                }
                Lowered::Capsules => this.framing = Framing::Capsules,
                Lowered::Forward(forward) => this.forward.push(forward),
            }
        }
        Ok(this)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.framing == Framing::Plain && self.forward.is_empty()
    }
}

fn lower(filter: SessionFilter, cx: &mut LowerCx<'_>) -> Result<Lowered, Refused> {
    let SessionFilter { name: _, config_type } = filter;
    let any = match config_type {
        Some(session_filter::ConfigType::TypedConfig(any)) => any,
        Some(session_filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(cx.at("config_discovery", |cx| cx.not_implemented("discovery of session filters")));
        }
        None => return Err(cx.invalid("typed_config is required")),
    };
    cx.at("typed_config", |cx| match message_name(&any) {
        CAPSULES => match capsule::FilterConfig::decode(&any.value[..]) {
            Ok(capsule::FilterConfig {}) => Ok(Lowered::Capsules),
            Err(error) => Err(cx.invalid(format!("does not decode: {error}"))),
        },
        FORWARD => ForwardProxy::lower(&any.value, cx).map(Lowered::Forward),
        other => {
            let (kind, reason) = unknown("session filter", other, [CAPSULES, FORWARD].into_iter());
            Err(cx.record(kind, reason))
        }
    })
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
