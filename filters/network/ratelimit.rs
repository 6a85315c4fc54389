//! `envoy.filters.network.ratelimit`: asks a service whether a connection is one too many.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use nuncio_config::format::format;
use nuncio_config::grpc::GrpcServiceConfig;
use nuncio_config::metadata::object;
use nuncio_config::protocol::duration;
use nuncio_filter_api::{Connection, Flow, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused, RuntimeKey};
use nuncio_proto::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use nuncio_proto::envoy::extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor};
use nuncio_proto::envoy::extensions::filters::network::ratelimit::v3::RateLimit as Proto;
use nuncio_proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse, rate_limit_response};
use nuncio_telemetry::format::{Format, FormatCx, Missing};
use nuncio_telemetry::{ConnectionInfo, StreamInfo};
use rate_limit_response::Code;

use crate::grpc_call::{GrpcCall, check_version};

pub(crate) const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.ratelimit",
    config: "envoy.extensions.filters.network.ratelimit.v3.RateLimit",
    lower,
};

nuncio_telemetry::stats! {
    /// `ratelimit.<stat_prefix>`
    struct RateLimitStats {
        total: Counter,
        error: Counter,
        over_limit: Counter,
        ok: Counter,
        failure_mode_allowed: Counter,
        cx_closed: Counter,
        active: Gauge,
    }
}

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Envoy's default of `timeout`.
const TIMEOUT: Duration = Duration::from_millis(20);
/// Where what the service says is among the metadata of a connection.
const METADATA: &str = "envoy.filters.network.ratelimit";

struct RateLimit {
    stats: RateLimitStats,
    domain: String,
    descriptors: Box<[Box<[Entry]>]>,
    call: GrpcCall,
    denies_on_failure: bool,
    is_enabled: RuntimeKey,
    is_enforced: RuntimeKey,
}

struct Entry {
    key: String,
    value: Format,
}

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let Proto { stat_prefix, domain, descriptors, timeout, failure_mode_deny, rate_limit_service } =
        prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    let descriptors = cx.each("descriptors", descriptors, lower_descriptor);
    let timeout = cx.opt("timeout", timeout, duration);
    let service = cx.opt("rate_limit_service", rate_limit_service, |service, cx| {
        let RateLimitServiceConfig { grpc_service, transport_api_version } = service;
        check_version(transport_api_version, cx)?;
        let service = cx.opt("grpc_service", grpc_service, GrpcServiceConfig::lower)?;
        service.ok_or_else(|| cx.at("grpc_service", |cx| cx.invalid("is required")))
    })?;
    let service = service.ok_or_else(|| cx.at("rate_limit_service", |cx| cx.invalid("is required")))?;
    Ok(Arc::new(RateLimit {
        stats: RateLimitStats::new(&cx.env.stats.scope("ratelimit").scope(&stat_prefix)),
        domain,
        descriptors: descriptors?.into(),
        call: GrpcCall::new(service, METHOD, TIMEOUT).with_timeout(timeout?),
        denies_on_failure: failure_mode_deny,
        is_enabled: cx.runtime("ratelimit.tcp_filter_enabled"),
        is_enforced: cx.runtime("ratelimit.tcp_filter_enforcing"),
    }))
}

fn lower_descriptor(proto: RateLimitDescriptor, cx: &mut LowerCx<'_>) -> Result<Box<[Entry]>, Refused> {
    // Envoy reads nothing but the entries here.
    let RateLimitDescriptor { entries, limit: _, hits_addend: _, is_negative_hits: _ } = proto;
    let entries = cx.each("entries", entries, |entry, cx| {
        let rate_limit_descriptor::Entry { key, value } = entry;
        Ok(Entry { key, value: cx.at("value", |cx| format(&value, cx))? })
    });
    entries.map(Into::into)
}

impl NetworkFilter for RateLimit {
    fn run(self: Arc<Self>, connection: Connection, cx: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        Box::pin(async move {
            let random = || cx.worker.rng.u64();
            if !self.is_enabled.holds_for_percent(100, random) || self.allows(&connection.info, &cx).await {
                return Flow::Next(connection);
            }
            self.stats.cx_closed().inc();
            Flow::Refused(connection)
        })
    }

    fn is_terminal(&self) -> bool {
        false
    }
}

// === impl RateLimit ===

impl RateLimit {
    async fn allows(&self, info: &Rc<ConnectionInfo>, cx: &NetworkCx) -> bool {
        self.stats.total().inc();
        let answer = self.call.call::<RateLimitResponse>(&self.request(info, cx), self.stats.active(), cx).await;
        let Ok(answer) = answer else { return self.allows_failure(info) };
        // Envoy: what is no "too many" is none too many.
        let is_over = Code::try_from(answer.overall_code) == Ok(Code::OverLimit);
        if let Some(fields) = answer.dynamic_metadata.map(object).filter(|fields| !fields.is_empty()) {
            info.metadata.borrow_mut().get_or_insert_default().insert(METADATA.into(), fields);
        }
        if !is_over {
            self.stats.ok().inc();
            return true;
        }
        self.stats.over_limit().inc();
        let is_enforced = self.is_enforced.holds_for_percent(100, || cx.worker.rng.u64());
        if is_enforced {
            info.local_close_reason.set(Some("ratelimit_close_over_limit"));
        }
        !is_enforced
    }

    fn allows_failure(&self, info: &ConnectionInfo) -> bool {
        self.stats.error().inc();
        match self.denies_on_failure {
            true => info.local_close_reason.set(Some("ratelimit_error_failure_mode_connection_close")),
            false => self.stats.failure_mode_allowed().inc(),
        }
        !self.denies_on_failure
    }

    fn request(&self, info: &Rc<ConnectionInfo>, cx: &NetworkCx) -> RateLimitRequest {
        let clock = &cx.worker.clock;
        let record = StreamInfo::of_connection(info.clone(), clock.wall(info.start));
        let format_cx = FormatCx::new(&record, clock.now(), clock.wall(clock.now()));
        let entry = |entry: &Entry| {
            let mut value = Vec::new();
            entry.value.write(&format_cx, Missing::Dash, &mut value);
            let value = String::from_utf8_lossy(&value).into_owned();
            rate_limit_descriptor::Entry { key: entry.key.clone(), value }
        };
        let descriptors = self.descriptors.iter().map(|entries| RateLimitDescriptor {
            entries: entries.iter().map(entry).collect(),
            ..RateLimitDescriptor::default()
        });
        RateLimitRequest { domain: self.domain.clone(), descriptors: descriptors.collect(), hits_addend: 0 }
    }
}
