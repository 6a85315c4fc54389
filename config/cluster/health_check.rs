//! Active health checks: `envoy.config.core.v3.HealthCheck`.

mod endpoint;
mod http;
mod log;
mod payload;
mod redis;
#[cfg(test)]
mod tests;
mod thrift;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused, RuntimeKey};
use nuncio_proto::CheckNames;
use nuncio_proto::envoy::config::core::v3 as pb;
use nuncio_proto::envoy::config::core::v3::health_check::{self, HealthChecker, TlsOptions};
use nuncio_proto::google::protobuf;
use serde_json::{Map, Value};

pub use endpoint::EndpointCheck;
pub use http::{HttpHealthCheck, StatusRanges};
pub use log::HealthCheckLog;
pub use payload::Payloads;
pub use redis::RedisHealthCheck;
pub use thrift::{ThriftHealthCheck, ThriftProtocol, ThriftTransport};

use super::UpstreamProtocol;
use crate::header_rules::{HeaderRules, Side};
use crate::metadata::object;
use crate::protocol::{any_as, duration, message_name};
use crate::route::ProxyHeader;

/// Envoy's `no_traffic_interval`.
const DEFAULT_NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);

/// How the hosts of a cluster are checked.
#[derive(Debug)]
pub struct HealthCheck {
    /// What it is counted by; empty where it has no name.
    pub name: Box<str>,
    /// What is sent, and what answer is a good one.
    pub checker: Checker,
    /// How long an answer may take.
    pub timeout: Duration,
    /// When the next check is made.
    pub intervals: Intervals,
    /// So many failed checks in a row make a host unhealthy.
    pub unhealthy_threshold: u32,
    /// So many good checks in a row make a host healthy again.
    pub healthy_threshold: u32,
    /// Whether a connection is kept for the next check.
    pub reuse_connection: bool,
    /// `tls_options`: the protocols that TLS offers, in place of those of the cluster.
    pub alpn: Box<[Box<[u8]>]>,
    /// `transport_socket_match_criteria`: what chooses the transport socket, in place of the metadata of the host.
    pub transport_criteria: Option<Map<String, Value>>,
    /// Where events are logged.
    pub log: HealthCheckLog,
}

/// Times between the checks of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// While the host is healthy.
    pub healthy: Duration,
    /// While the host is unhealthy.
    pub unhealthy: Duration,
    /// While a healthy host is on its way to be unhealthy.
    pub unhealthy_edge: Duration,
    /// While an unhealthy host is on its way to be healthy.
    pub healthy_edge: Duration,
    /// While the cluster has had no connection.
    pub no_traffic: Duration,
    /// While the cluster has had no connection and the host is healthy.
    pub no_traffic_healthy: Duration,
    /// A random time below this is waited before the first check.
    pub initial_jitter: Duration,
    /// A random time below this is added to each interval.
    pub jitter: Duration,
    /// As `jitter`, in percent of the interval.
    pub jitter_percent: u32,
    /// `health_check.min_interval` of the runtime: no interval is shorter, in milliseconds.
    pub least: RuntimeKey,
    /// `health_check.max_interval` of the runtime: no interval is longer, but for the shortest.
    pub most: RuntimeKey,
}

/// A kind of check.
#[derive(Debug)]
pub enum Checker {
    /// A request, answered with an expected status.
    Http(Box<HttpHealthCheck>),
    /// A connection, over which bytes may be sent and expected.
    Tcp(TcpHealthCheck),
    /// A call of `grpc.health.v1.Health`.
    Grpc(GrpcHealthCheck),
    /// A command of Redis.
    Redis(RedisHealthCheck),
    /// A call of Thrift.
    Thrift(ThriftHealthCheck),
}

/// Bytes sent, and bytes that the answer must have.
#[derive(Debug)]
pub struct TcpHealthCheck {
    /// Sent once connected.
    pub send: bytes::Bytes,
    /// Sent before `send`, each time.
    pub proxy_header: Option<ProxyHeader>,
    /// Looked for in the answer; none is a check of the connection alone.
    pub receive: Payloads,
}

/// A call of `grpc.health.v1.Health/Check`.
#[derive(Debug)]
pub struct GrpcHealthCheck {
    /// The service asked about; empty for the server as a whole.
    pub service: Arc<str>,
    /// `:authority`; empty takes the name of the cluster.
    pub authority: Arc<str>,
    /// Added to the request.
    pub metadata: HeaderRules,
}

// === impl HealthCheck ===

impl HealthCheck {
    /// Lowers the checks of a cluster that speaks `protocol`. Several have names of their own.
    pub(super) fn lower(
        protos: Vec<pb::HealthCheck>,
        names: CheckNames,
        protocol: Option<UpstreamProtocol>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Vec<Self>, Refused> {
        let several = protos.len() > 1;
        let mut lowered = cx.each("health_checks", protos, |proto, cx| Self::lower_one(proto, protocol, cx))?;
        let mut known = HashSet::new();
        let names = names.checks.into_iter().map(|check| check.name).chain(std::iter::repeat_with(String::new));
        for (at, (check, name)) in lowered.iter_mut().zip(names).enumerate() {
            let reason = match (several, known.insert(name.clone())) {
                (true, _) if name.is_empty() => "is missing, and several health checks must have names".to_owned(),
                (true, false) => format!("duplicate health check name '{name}'"),
                _ => {
                    check.name = name.into();
                    continue;
                }
            };
            return Err(cx.at("health_checks", |cx| cx.at_index(at, |cx| cx.at("name", |cx| cx.invalid(reason)))));
        }
        Ok(lowered)
    }

    fn lower_one(
        proto: pb::HealthCheck,
        protocol: Option<UpstreamProtocol>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let intervals = Intervals::lower(&proto, cx);
        let pb::HealthCheck {
            timeout,
            interval: _,
            initial_jitter: _,
            interval_jitter: _,
            interval_jitter_percent: _,
            unhealthy_threshold,
            healthy_threshold,
            // Envoy does not read it: the port of a check is that of the endpoint's health_check_config.
            alt_port: _,
            reuse_connection,
            no_traffic_interval: _,
            no_traffic_healthy_interval: _,
            unhealthy_interval: _,
            unhealthy_edge_interval: _,
            healthy_edge_interval: _,
            event_log_path,
            event_logger,
            event_service,
            always_log_health_check_failures,
            always_log_health_check_success,
            tls_options,
            transport_socket_match_criteria,
            health_checker,
        } = proto;
        if event_service.is_some() {
            tracing::info!(path = cx.path(), "event_service has no effect: Envoy 1.40 does not use it either");
        }
        let alpn = lower_alpn(tls_options, cx);
        let checker = Checker::lower(health_checker, protocol, cx);
        let log = HealthCheckLog::lower(event_log_path, event_logger, cx);
        let mut required = |field: &str, value: Option<protobuf::UInt32Value>| {
            value.map(|v| v.value).ok_or_else(|| cx.at(field, |cx| cx.invalid("is required")))
        };
        let thresholds =
            [required("unhealthy_threshold", unhealthy_threshold), required("healthy_threshold", healthy_threshold)];
        let [unhealthy_threshold, healthy_threshold] = thresholds;
        Ok(Self {
            name: Box::default(),
            checker: checker?,
            timeout: positive("timeout", timeout, cx)?.ok_or_else(|| cx.invalid("timeout is required"))?,
            intervals: intervals?,
            unhealthy_threshold: unhealthy_threshold?,
            healthy_threshold: healthy_threshold?,
            reuse_connection: reuse_connection.is_none_or(|v| v.value),
            alpn: alpn?,
            transport_criteria: transport_socket_match_criteria.map(object),
            log: HealthCheckLog {
                all_failures: always_log_health_check_failures,
                all_successes: always_log_health_check_success,
                ..log?
            },
        })
    }
}

// === impl Intervals ===

impl Intervals {
    fn lower(proto: &pb::HealthCheck, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let healthy = positive("interval", proto.interval, cx)?.ok_or_else(|| cx.invalid("interval is required"))?;
        let unhealthy = positive("unhealthy_interval", proto.unhealthy_interval, cx)?.unwrap_or(healthy);
        let no_traffic = positive("no_traffic_interval", proto.no_traffic_interval, cx)?;
        let no_traffic = no_traffic.unwrap_or(DEFAULT_NO_TRAFFIC_INTERVAL);
        let no_traffic_healthy = positive("no_traffic_healthy_interval", proto.no_traffic_healthy_interval, cx)?;
        Ok(Self {
            healthy,
            unhealthy,
            unhealthy_edge: positive("unhealthy_edge_interval", proto.unhealthy_edge_interval, cx)?
                .unwrap_or(unhealthy),
            healthy_edge: positive("healthy_edge_interval", proto.healthy_edge_interval, cx)?.unwrap_or(healthy),
            no_traffic,
            no_traffic_healthy: no_traffic_healthy.unwrap_or(no_traffic),
            initial_jitter: cx.opt("initial_jitter", proto.initial_jitter, duration)?.unwrap_or_default(),
            jitter: cx.opt("interval_jitter", proto.interval_jitter, duration)?.unwrap_or_default(),
            jitter_percent: proto.interval_jitter_percent,
            least: cx.runtime("health_check.min_interval"),
            most: cx.runtime("health_check.max_interval"),
        })
    }
}

fn lower_alpn(proto: Option<TlsOptions>, cx: &mut LowerCx<'_>) -> Result<Box<[Box<[u8]>]>, Refused> {
    let TlsOptions { alpn_protocols } = proto.unwrap_or_default();
    let names = cx.at("tls_options", |cx| {
        cx.each("alpn_protocols", alpn_protocols, |name, cx| match name.len() {
            1..=255 => Ok(name.into_bytes().into()),
            _ => Err(cx.invalid("a protocol's name has 1 to 255 bytes")),
        })
    });
    Ok(names?.into())
}

fn positive(field: &str, proto: Option<protobuf::Duration>, cx: &mut LowerCx<'_>) -> Result<Option<Duration>, Refused> {
    cx.opt(field, proto, |proto, cx| {
        let value = duration(proto, cx)?;
        if value.is_zero() { Err(cx.invalid("must be greater than 0s")) } else { Ok(value) }
    })
}

// === impl Checker ===

impl Checker {
    fn lower(
        proto: Option<HealthChecker>,
        protocol: Option<UpstreamProtocol>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        match proto {
            Some(HealthChecker::HttpHealthCheck(http)) => {
                cx.at("http_health_check", |cx| HttpHealthCheck::lower(http, cx)).map(|http| Self::Http(Box::new(http)))
            }
            Some(HealthChecker::TcpHealthCheck(tcp)) => {
                cx.at("tcp_health_check", |cx| TcpHealthCheck::lower(tcp, cx)).map(Self::Tcp)
            }
            Some(HealthChecker::GrpcHealthCheck(grpc)) => cx.at("grpc_health_check", |cx| {
                if protocol.is_some_and(|p| !matches!(p, UpstreamProtocol::Http2 | UpstreamProtocol::Auto)) {
                    return Err(cx.invalid("the cluster must support HTTP/2 for gRPC health checks"));
                }
                GrpcHealthCheck::lower(grpc, cx).map(Self::Grpc)
            }),
            Some(HealthChecker::CustomHealthCheck(custom)) => {
                cx.at("custom_health_check", |cx| Self::lower_custom(custom, cx))
            }
            None => Err(cx.invalid("needs one of http_health_check, tcp_health_check and grpc_health_check")),
        }
    }

    fn lower_custom(proto: health_check::CustomHealthCheck, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let health_check::CustomHealthCheck { name, config_type } = proto;
        let Some(health_check::custom_health_check::ConfigType::TypedConfig(any)) = config_type else {
            return Err(cx.not_implemented(format_args!("health checker {name} without typed_config")));
        };
        cx.at("typed_config", |cx| match message_name(&any) {
            "envoy.extensions.health_checkers.redis.v3.Redis" => {
                RedisHealthCheck::lower(any_as(&any, cx)?, cx).map(Self::Redis)
            }
            "envoy.extensions.health_checkers.thrift.v3.Thrift" => {
                ThriftHealthCheck::lower(any_as(&any, cx)?, cx).map(Self::Thrift)
            }
            other => Err(cx.not_implemented(format_args!("health checker {other}"))),
        })
    }
}

// === impl TcpHealthCheck ===

impl TcpHealthCheck {
    fn lower(proto: health_check::TcpHealthCheck, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let health_check::TcpHealthCheck { send, receive, proxy_protocol_config } = proto;
        Ok(Self {
            proxy_header: proxy_protocol_config.map(ProxyHeader::lower),
            send: cx.opt("send", send, payload::lower)?.unwrap_or_default(),
            receive: Payloads::lower(receive, cx)?,
        })
    }
}

// === impl GrpcHealthCheck ===

impl GrpcHealthCheck {
    fn lower(proto: health_check::GrpcHealthCheck, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let health_check::GrpcHealthCheck { service_name, authority, initial_metadata } = proto;
        let metadata = HeaderRules::lower_additions(Side::Request, "initial_metadata", initial_metadata, cx)?;
        Ok(Self { service: service_name.into(), authority: authority.into(), metadata })
    }
}
