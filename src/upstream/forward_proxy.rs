//! `envoy.filters.http.dynamic_forward_proxy`: has the host that a request names resolved before the request goes on.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderName, StatusCode};
use nuncio_config::cluster::{Discovery, DnsCacheConfig};
use nuncio_config::protocol::duration;
use nuncio_config::route::RouteEntry;
use nuncio_filter_api::filter_state::UPSTREAM_ADDRESS;
use nuncio_filter_api::{
    ByteStr, HttpFilter, HttpFilterConfig, HttpFilterRow, LocalReply, LowerCx, PerRoute, Refused, Request, RequestHead,
    Sides, Step, StreamCx,
};
use nuncio_proto::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as proto;
use nuncio_telemetry::{Address, FilterValue, LifeSpan, ResponseFlag, StreamInfo};
use prost::Message;

use crate::dns_cache::{DnsCache, Found, Lookup, normalize};
use crate::lb::forward_proxy::{DEFAULT_PORT, left_by_filters, resolution_failure};
use crate::router::{cluster_of, note_cluster};
use crate::worker::{WorkerCluster, WorkerClusters};

/// The filter's row in the table.
pub const ROW: HttpFilterRow = HttpFilterRow {
    name: "envoy.filters.http.dynamic_forward_proxy",
    config: "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
    lower,
    per_route: Some(("envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig", lower_route)),
    sides: Sides::Downstream,
};

struct Config {
    resolves: Resolves,
    /// Whether filters and logs are told the address.
    saves_address: bool,
    /// Whether what filters left comes before the authority.
    obeys_filters: bool,
}

/// What a request waits for.
enum Resolves {
    /// An address in a cache.
    ByCache {
        config: Arc<DnsCacheConfig>,
        /// The cache itself, once a request asked for it.
        made: OnceLock<Arc<DnsCache>>,
    },
    /// A cluster for its host, for so long.
    ByCluster { timeout: Duration },
}

/// What takes the place of the authority.
enum HostRewrite {
    Keep,
    Literal(ByteStr),
    Header(HeaderName),
}

struct Filter {
    config: Arc<Config>,
    name: Arc<str>,
}

/// Envoy's `cluster_init_timeout`.
const DEFAULT_INIT_TIMEOUT: Duration = Duration::from_secs(5);

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Refused> {
    use proto::filter_config::ImplementationSpecifier as Specifier;
    let message = proto::FilterConfig::decode(bytes).map_err(|e| cx.invalid(format!("does not decode: {e}")))?;
    let proto::FilterConfig { save_upstream_address, allow_dynamic_host_from_filter_state, implementation_specifier } =
        message;
    let resolves = match implementation_specifier {
        Some(Specifier::DnsCacheConfig(config)) => {
            let config = cx.at("dns_cache_config", |cx| DnsCacheConfig::lower(config, cx))?;
            Resolves::ByCache { config: Arc::new(config), made: OnceLock::new() }
        }
        Some(Specifier::SubClusterConfig(proto::SubClusterConfig { cluster_init_timeout })) => {
            let timeout =
                cx.at("sub_cluster_config", |cx| cx.opt("cluster_init_timeout", cluster_init_timeout, duration));
            Resolves::ByCluster { timeout: timeout?.unwrap_or(DEFAULT_INIT_TIMEOUT) }
        }
        None => return Err(cx.invalid("one of dns_cache_config and sub_cluster_config is required")),
    };
    Ok(Arc::new(Config {
        resolves,
        saves_address: save_upstream_address,
        obeys_filters: allow_dynamic_host_from_filter_state,
    }))
}

fn lower_route(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<PerRoute, Refused> {
    use proto::per_route_config::HostRewriteSpecifier as Specifier;
    let message = proto::PerRouteConfig::decode(bytes).map_err(|e| cx.invalid(format!("does not decode: {e}")))?;
    let proto::PerRouteConfig { host_rewrite_specifier } = message;
    let rewrite = match host_rewrite_specifier {
        Some(Specifier::HostRewriteLiteral(host)) if !host.is_empty() => HostRewrite::Literal(host.into()),
        Some(Specifier::HostRewriteHeader(name)) if !name.is_empty() => HostRewrite::Header(
            name.to_ascii_lowercase()
                .parse()
                .map_err(|_| cx.at("host_rewrite_header", |cx| cx.invalid("is no header name")))?,
        ),
        // Envoy: what is empty rewrites nothing.
        _ => HostRewrite::Keep,
    };
    Ok(Arc::new(rewrite))
}

impl HttpFilterConfig for Config {
    fn instantiate(self: Arc<Self>, name: &Arc<str>, _cx: &StreamCx) -> Box<dyn HttpFilter> {
        Box::new(Filter { config: self, name: name.clone() })
    }
}

impl Config {
    fn found(&self, found: &Found, info: &StreamInfo) -> Result<(), LocalReply> {
        let Some(address) = found.addresses.first() else {
            let details = resolution_failure(&found.details);
            return Err(refusal("DNS resolution failure", details).flag(ResponseFlag::DnsResolutionFailed));
        };
        if self.saves_address {
            // Envoy: no log can print it.
            let value = FilterValue::Object(Rc::new(Address::Ip(*address)));
            info.filter_state.borrow_mut().set(UPSTREAM_ADDRESS, value, LifeSpan::Request);
        }
        Ok(())
    }

    /// What is asked for, as `host:port`; `None` if the request does not say.
    fn key<'a>(&self, head: &'a RequestHead, info: &StreamInfo) -> Option<Cow<'a, str>> {
        let (host, port) = if self.obeys_filters { left_by_filters(info) } else { (None, None) };
        let port = port.unwrap_or(DEFAULT_PORT);
        match host {
            Some(host) => Some(Cow::Owned(normalize(&host, port).into_owned())),
            None if head.authority.is_empty() => None,
            None => Some(normalize(&head.authority, port)),
        }
    }
}

impl HttpFilter for Filter {
    fn request<'a>(&'a mut self, request: &'a mut Request, cx: &'a mut StreamCx) -> Step<'a> {
        let clusters = WorkerClusters::of(&cx.worker);
        let Some(route) = cx.route().filter(|route| route.downcast::<RouteEntry>().is_some()) else {
            return Step::CONTINUE;
        };
        let Some(cluster) = cluster_of(route, &clusters) else { return Step::CONTINUE };
        if !matches!(cluster.shared.cluster.config.discovery, Discovery::ForwardProxy(_)) {
            return Step::CONTINUE;
        }
        if let Some(rewrite) = route.filter_config::<HostRewrite>(&self.name) {
            rewrite.apply(&mut request.head);
        }
        // Whoever is answered here has a cluster nonetheless.
        note_cluster(&mut cx.info.upstream.borrow_mut(), Some(&cluster));
        match &self.config.resolves {
            Resolves::ByCache { config, made } => {
                let clusters = &cluster.shared.env.clusters;
                self.wait_for_address(made.get_or_init(|| clusters.dns_caches().cache(config)), request, cx)
            }
            Resolves::ByCluster { timeout } => self.wait_for_cluster(&cluster, *timeout, request, cx),
        }
    }
}

impl Filter {
    fn wait_for_cluster<'a>(
        &self,
        cluster: &WorkerCluster,
        timeout: Duration,
        request: &Request,
        cx: &StreamCx,
    ) -> Step<'a> {
        let parent = &cluster.shared.cluster;
        let Some(table) = parent.sub_clusters.get() else { return Step::CONTINUE };
        // Envoy leaves it to the balancer to say so.
        let Some(key) = self.config.key(&request.head, &cx.info) else { return Step::CONTINUE };
        let clusters = cluster.shared.env.clusters.clone();
        let Ok(id) = table.ensure(&key, parent, &clusters) else {
            return Step::Done(Err(refusal("Sub cluster overflow", "sub_cluster_overflow").into()));
        };
        if clusters.snapshot().get(id).is_some() {
            return Step::CONTINUE;
        }
        Step::Wait(Box::pin(async move {
            let too_late = |_| refusal("Sub cluster warming timeout", "sub_cluster_warming_timeout").into();
            tokio::time::timeout(timeout, clusters.in_use(&[id])).await.map_err(too_late)
        }))
    }

    fn wait_for_address<'a>(&self, cache: &Arc<DnsCache>, request: &Request, cx: &StreamCx) -> Step<'a> {
        if !cache.may_wait() {
            let body = "Dynamic forward proxy pending request overflow";
            return Step::Done(Err(refusal(body, "dynamic_forward_proxy_pending_request_overflow").into()));
        }
        let Some(key) = self.config.key(&request.head, &cx.info) else {
            return empty_host();
        };
        match cache.look_up(&key) {
            Lookup::Known(found) => Step::Done(self.config.found(&found, &cx.info).map_err(Into::into)),
            Lookup::Overflow => Step::Done(Err(refusal("DNS cache overflow", "dns_cache_overflow").into())),
            Lookup::Pending(name) => {
                let (pending, config, info) = (cache.wait(), self.config.clone(), Rc::clone(&cx.info));
                Step::Wait(Box::pin(async move {
                    let found = name.found().await;
                    drop(pending);
                    config.found(&found, &info).map_err(Into::into)
                }))
            }
        }
    }
}

fn empty_host<'a>() -> Step<'a> {
    let reply = LocalReply::new(StatusCode::BAD_REQUEST, "empty_host_header").body("Empty host header");
    Step::Done(Err(reply.into()))
}

fn refusal(body: &'static str, details: impl Into<Cow<'static, str>>) -> LocalReply {
    LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, details).body(body)
}

// === impl HostRewrite ===

impl HostRewrite {
    fn apply(&self, head: &mut RequestHead) {
        match self {
            Self::Keep => {}
            Self::Literal(host) => head.authority = host.clone(),
            Self::Header(name) => {
                if let Some(host) = head.headers.get(name).and_then(|value| value.to_str().ok()) {
                    head.authority = host.to_owned().into();
                }
            }
        }
    }
}
