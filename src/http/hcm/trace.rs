//! `tracing` without a provider: nobody is told of spans. Envoy chooses requests to be traced all the same, which
//! x-request-id tells those behind, and counts them; names of operations travel in a header.

use http::{HeaderMap, HeaderName, HeaderValue};
use nuncio_config::route::{Decorator, RouteEntry, TraceShares, check_spans};
use nuncio_filter_api::{LowerCx, Refused, RequestHead, StreamCx};
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as proto;
use nuncio_proto::envoy::r#type::v3::FractionalPercent;
use nuncio_proto::envoy::r#type::v3::fractional_percent::DenominatorType;
use nuncio_telemetry::stats::catalogue::TracingStats;

use super::request_head::name;
use crate::request_id::{self, TraceReason};

/// A client that wants its request to be traced gives it a name of its own in this.
const CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");
const DECORATOR_OPERATION: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");

/// The number of OUTBOUND among traffic directions.
const OUTBOUND: i64 = 2;

/// The section as it is lowered.
#[derive(Clone, Debug)]
pub(crate) struct Tracing {
    shares: TraceShares,
    ids: request_id::TraceOptions,
}

/// What the response of a request is told of its operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing.
    #[default]
    Nothing,
    /// What the route calls it, unless the client called it something.
    Operation(HeaderValue),
    /// What the host says of it is for us.
    Hidden,
}

// === impl Tracing ===

impl Tracing {
    pub(super) fn lower(
        message: proto::Tracing,
        ids: request_id::TraceOptions,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        // What else is there is told to tracers.
        let proto::Tracing {
            client_sampling,
            random_sampling,
            overall_sampling,
            verbose: _,
            max_path_tag_length: _,
            custom_tags,
            provider,
            spawn_upstream_span: _,
            operation,
            upstream_operation,
            no_context_propagation: _,
        } = message;
        let supported = cx.unsupported("provider", &provider);
        let spans =
            check_spans(custom_tags, [("operation", &operation), ("upstream_operation", &upstream_operation)], cx);
        supported.and(spans)?;
        // Envoy: of a hundred they have no decimals, of random ones there are two.
        let hundred = |percent: f64| FractionalPercent { numerator: percent as u32, denominator: 0 };
        let denominator = DenominatorType::TenThousand.into();
        let precise = |percent: f64| FractionalPercent { numerator: (percent * 100.0).round() as u32, denominator };
        let shares = [
            client_sampling.map(|p| hundred(p.value)),
            random_sampling.map(|p| precise(p.value)),
            overall_sampling.map(|p| hundred(p.value)),
        ];
        Ok(Self { shares: TraceShares::new(shares, cx), ids })
    }

    /// Begins with a request whose route has been found: chooses whether it is traced, unless it began `anew`, and sees
    /// to the name of its operation. Envoy: nobody chooses a second time, and so it counts as not traced.
    pub(super) fn begin(&self, head: &mut RequestHead, cx: &StreamCx, anew: bool, stats: &TracingStats) -> Told {
        let route = cx.route().and_then(|route| route.downcast::<RouteEntry>());
        let reason = if anew { TraceReason::None } else { self.choose(&mut head.headers, route, cx.random) };
        match reason {
            TraceReason::None => stats.not_traceable().inc(),
            TraceReason::Sampled => stats.random_sampling().inc(),
            TraceReason::Forced => stats.service_forced().inc(),
            TraceReason::Client => stats.client_enabled().inc(),
        }
        let is_egress = cx.info.connection.origin.as_ref().is_some_and(|origin| origin.direction == OUTBOUND);
        tell_operation(&mut head.headers, route.and_then(RouteEntry::decorator), is_egress)
    }

    fn choose(&self, headers: &mut HeaderMap, route: Option<&RouteEntry>, random: u64) -> TraceReason {
        if !self.ids.decide {
            return TraceReason::Sampled;
        }
        let Some(id) = headers.get(name::REQUEST_ID) else { return TraceReason::None };
        let Some(number) = request_id::number(id) else { return TraceReason::None };
        // Envoy: the share of ten thousand that all proxies on the way agree on.
        let number = number % 10_000;
        let shares = route.and_then(RouteEntry::trace_shares).unwrap_or(&self.shares);
        let before = if self.ids.pack { TraceReason::of(id) } else { TraceReason::None };
        let chosen = match before {
            TraceReason::None if headers.contains_key(CLIENT_TRACE_ID) && shares.client.holds(random) => {
                TraceReason::Client
            }
            TraceReason::None if headers.contains_key(name::FORCE_TRACE) => TraceReason::Forced,
            TraceReason::None if shares.random.holds(number) => TraceReason::Sampled,
            before => before,
        };
        let reason = if shares.overall.holds(number) { chosen } else { TraceReason::None };
        // An id that was never written to keeps whatever digit it has.
        if self.ids.pack && (chosen != before || reason != chosen) {
            let id = reason.mark(id);
            headers.insert(name::REQUEST_ID, id);
        }
        reason
    }
}

/// Sees to the header that tells an operation's name: of what leaves this host those behind are told, of what comes in
/// the client.
fn tell_operation(headers: &mut HeaderMap, decorator: Option<&Decorator>, is_egress: bool) -> Told {
    let operation = decorator.filter(|decorator| decorator.propagate);
    let operation = operation.and_then(|decorator| HeaderValue::from_str(&decorator.operation).ok());
    if is_egress {
        if let Some(operation) = operation {
            headers.insert(DECORATOR_OPERATION, operation);
        }
        return Told::Hidden;
    }
    let clients = headers.remove(DECORATOR_OPERATION);
    match operation {
        Some(operation) if clients.is_none_or(|name| name.is_empty()) => Told::Operation(operation),
        _ => Told::Nothing,
    }
}

// === impl Told ===

impl Told {
    /// Tells it.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::Nothing => {}
            Self::Operation(operation) => drop(headers.insert(DECORATOR_OPERATION, operation.clone())),
            Self::Hidden => drop(headers.remove(DECORATOR_OPERATION)),
        }
    }
}
