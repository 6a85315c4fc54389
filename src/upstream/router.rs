//! `envoy.filters.http.router`: sends a request where its route says.

mod attempts;
mod body;
mod counts;
mod deadline;
mod drop_overload;
mod forward;
mod hedge;
mod mirror;
mod numbers;
mod priorities;
mod redirect;
mod replay;
mod retry;
#[cfg(test)]
mod tests;
mod timeouts;
mod tunnel;
mod watch;

use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use http::{HeaderName, HeaderValue, StatusCode};
use nuncio_config::http_chain::HttpChain;
use nuncio_config::route::{Action, EnvoyHeaders, RouteEntry};
use nuncio_filter_api::{
    ClusterNames, HttpFilter, HttpFilterConfig, HttpFilterRow, LocalReply, LowerCx, Refused, Request, ResponseHead,
    RouteRef, Sides, Step, StreamCx, Verdict,
};
use nuncio_proto::envoy::extensions::filters::http::router::v3 as proto;
use nuncio_telemetry::ResponseFlag;
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::stats::catalogue::HttpStats;
use prost::Message;

use crate::codes::Origin;
use crate::failure::Failure;
use crate::host::Host;
use watch::UpstreamLogs;

pub(crate) use forward::{cluster_of, note_cluster};
pub(crate) use numbers::LastNumber;
pub(crate) use watch::Watch;

/// The filter's row in the table.
pub const ROW: HttpFilterRow = HttpFilterRow {
    name: "envoy.filters.http.router",
    config: "envoy.extensions.filters.http.router.v3.Router",
    lower,
    per_route: None,
    sides: Sides::Downstream,
};

/// The router as configured.
pub(crate) struct Config {
    stats: HttpStats,
    /// The address that copies of requests are forwarded from.
    local_ip: String,
    /// To find the cluster that a header names.
    names: Arc<ClusterNames>,
    /// Whether response codes and times are counted.
    dynamic_stats: bool,
    /// That of this node; empty where not known.
    zone: Box<str>,
    /// x-envoy-* headers of our own are added, or not.
    envoy_headers: EnvoyHeaders,
    /// Whether the time-out that a proxy before us expects takes the place of the route's.
    respect_expected_timeout: bool,
    /// Headers whose values must be whole numbers.
    strict: Box<[HeaderName]>,
    /// What each attempt passes where its cluster has no filters of its own.
    filters: Option<Arc<HttpChain>>,
    /// Where attempts are told of.
    upstream_logs: Option<Arc<UpstreamLogs>>,
}

/// The router of one stream.
struct Router {
    config: Arc<Config>,
}

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Refused> {
    let message = proto::Router::decode(bytes).map_err(|e| cx.invalid(format!("does not decode: {e}")))?;
    Ok(Arc::new(Config::lower(message, cx)?))
}

// === impl Config ===

impl Config {
    // Deprecated fields are configuration too.
    #[allow(deprecated)]
    fn lower(message: proto::Router, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::Router {
            dynamic_stats,
            // Spans are begun by tracers, which are refused where they are configured.
            start_child_span: _,
            upstream_log,
            upstream_log_options,
            suppress_envoy_headers,
            strict_check_headers,
            respect_expected_rq_timeout,
            suppress_grpc_request_failure_code_stats,
            upstream_http_filters,
            reject_connect_request_early_data,
        } = message;
        let supported: Result<(), Refused> = [
            cx.unsupported("suppress_grpc_request_failure_code_stats", &suppress_grpc_request_failure_code_stats),
            cx.unsupported("reject_connect_request_early_data", &reject_connect_request_early_data.filter(|v| v.value)),
        ]
        .into_iter()
        .collect();
        let strict = cx.each("strict_check_headers", strict_check_headers, |name, cx| strict_header(&name, cx));
        let filters = HttpChain::lower_upstream("upstream_http_filters", upstream_http_filters, cx);
        let logs = UpstreamLogs::lower(upstream_log, upstream_log_options, cx);
        supported?;
        Ok(Self {
            filters: filters?,
            upstream_logs: logs?,
            stats: HttpStats::new(cx.scope()),
            local_ip: cx.env.local_ip.to_string(),
            names: cx.env.clusters.clone(),
            dynamic_stats: dynamic_stats.is_none_or(|v| v.value),
            zone: cx.env.node.zone.as_str().into(),
            envoy_headers: if suppress_envoy_headers { EnvoyHeaders::Suppress } else { EnvoyHeaders::Add },
            respect_expected_timeout: respect_expected_rq_timeout,
            strict: strict?.into(),
        })
    }

    /// What decides where responses of `host` are counted.
    fn origin<'a>(&'a self, host: Option<&'a Host>, is_internal: bool) -> Origin<'a> {
        let zone = host.and_then(|host| host.locality.as_ref()).map_or("", |locality| &*locality.zone);
        Origin { is_internal, is_canary: host.is_some_and(Host::is_canary), zones: [&*self.zone, zone] }
    }
}

fn strict_header(name: &str, cx: &mut LowerCx<'_>) -> Result<HeaderName, Refused> {
    match name.to_ascii_lowercase().as_str() {
        "x-envoy-upstream-rq-timeout-ms" | "x-envoy-upstream-rq-per-try-timeout-ms" | "x-envoy-max-retries" => {
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| cx.invalid("is no header name"))
        }
        _ => Err(cx.not_implemented(format_args!("checking {name} strictly"))),
    }
}

impl HttpFilterConfig for Config {
    fn instantiate(self: Arc<Self>, _name: &Arc<str>, _cx: &StreamCx) -> Box<dyn HttpFilter> {
        Box::new(Router { config: self })
    }

    fn is_terminal(&self) -> bool {
        true
    }
}

// === impl Router ===

impl HttpFilter for Router {
    fn request<'a>(&'a mut self, request: &'a mut Request, cx: &'a mut StreamCx) -> Step<'a> {
        let stats = &self.config.stats;
        stats.rq_total().inc();
        let Some(route) = cx.route().cloned() else {
            stats.no_route().inc();
            return Step::Done(Err(no_route().into()));
        };
        let Some(entry) = route.downcast::<RouteEntry>() else { return Step::Done(Err(no_route().into())) };
        match entry.action() {
            Action::Forward(_) => Step::Wait(forwarding(&self.config, request, cx, route)),
            // Envoy counts redirects here as well.
            Action::Redirect(_) | Action::TlsRedirect | Action::DirectResponse(_) => {
                stats.rq_direct_response().inc();
                Step::Done(self.config.answer(entry, request, cx))
            }
            // Envoy: a route without cluster.
            Action::NonForwarding => {
                stats.no_cluster().inc();
                let reply = Failure::NoCluster.reply();
                Step::Done(Err(self.config.with_route_headers(reply, entry, request, cx).into()))
            }
        }
    }
}

/// [`Config::forward`], made where it stays: within a larger function it is made elsewhere and copied.
#[inline(never)]
fn forwarding<'a>(
    config: &'a Arc<Config>,
    request: &'a mut Request,
    cx: &'a mut StreamCx,
    route: RouteRef,
) -> LocalBoxFuture<'a, Verdict> {
    Box::pin(async move { config.forward(request, cx, &route).await })
}

fn no_route() -> LocalReply {
    LocalReply::new(StatusCode::NOT_FOUND, "route_not_found").flag(ResponseFlag::NoRouteFound)
}

impl Config {
    /// The answer of a route that asks no cluster.
    fn answer(&self, entry: &RouteEntry, request: &mut Request, cx: &StreamCx) -> Verdict {
        let (status, body, content_type) = match entry.action() {
            Action::Redirect(redirect) => (redirect.status, bytes::Bytes::new(), None),
            Action::DirectResponse(direct) => {
                (direct.status, direct.body(&request.head, &format_cx(cx)), direct.content_type())
            }
            _ => (StatusCode::MOVED_PERMANENTLY, bytes::Bytes::new(), None),
        };
        let mut reply = LocalReply::new(status, "direct_response").body(body);
        if let Some(location) =
            entry.location(&request.head, &format_cx(cx)).and_then(|l| HeaderValue::try_from(l).ok())
        {
            reply.headers.insert(http::header::LOCATION, location);
        }
        entry.rewrite_redirected(&mut request.head, self.envoy_headers);
        let mut reply = self.with_route_headers(reply, entry, request, cx);
        if let Some(content_type) = content_type {
            reply.headers.entry(http::header::CONTENT_TYPE).or_insert(content_type);
        }
        Err(reply.into())
    }

    /// Envoy: a route's response headers are those of the router's own replies too.
    fn with_route_headers(
        &self,
        reply: LocalReply,
        entry: &RouteEntry,
        request: &Request,
        cx: &StreamCx,
    ) -> LocalReply {
        // Envoy: the headers may speak of the reply that they are of.
        cx.info.set_details(reply.details.clone());
        cx.info.flags.set(cx.info.flags.get().union(reply.flags));
        let mut head = ResponseHead { headers: reply.headers, ..ResponseHead::new(reply.status) };
        entry.rewrite_response(&mut head, &request.head, &format_cx(cx));
        LocalReply { headers: head.headers, ..reply }
    }
}

/// What header rules may speak of.
fn format_cx(cx: &StreamCx) -> FormatCx<'_> {
    let now = cx.worker.clock.now();
    FormatCx::new(&cx.info, now, cx.worker.clock.wall(now))
}

/// The route's entry; only routes that have one get as far as to ask.
fn entry_of(route: &RouteRef) -> &RouteEntry {
    route.downcast().expect("the router forwards only along routes of the route table")
}
