//! Servers of configuration: `core.v3.ApiConfigSource`.

use std::fmt;
use std::time::Duration;

use nuncio_filter_api::{ClusterName, LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::core::v3::api_config_source::ApiType;
use nuncio_proto::envoy::extensions::config::validators::minimum_clusters::v3::MinimumClustersValidator;

use crate::grpc::GrpcServiceConfig;
use crate::protocol::{duration, extension, non_zero};
use crate::refuse_set;

/// Envoy's defaults of `rate_limit_settings`.
const DEFAULT_MAX_TOKENS: u32 = 100;
const DEFAULT_FILL_RATE: f64 = 10.0;
/// Envoy's default of `request_timeout`.
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// A server that is asked for configuration.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// Who offers the service; the later ones are for when the earlier ones are away.
    pub services: Vec<GrpcServiceConfig>,
    /// Which dialect it speaks.
    pub dialect: Dialect,
    /// How many requests it is sent.
    pub rate_limit: Option<RateLimitConfig>,
    /// Whether only the first message of a stream tells who is asking.
    pub node_on_first_message_only: bool,
    /// Updates that would leave fewer clusters are refused.
    pub min_clusters: u32,
    /// Whether one stream is for resources of all kinds.
    pub is_aggregated: bool,
}

/// A server that is polled (`api_type: REST`).
#[derive(Clone, Debug)]
pub struct RestServer {
    /// Whose hosts are asked.
    pub cluster: ClusterName,
    /// The least time between an answer and the next request.
    pub refresh_delay: Duration,
    /// How long an answer may take.
    pub request_timeout: Duration,
}

/// How a server is asked.
#[derive(Clone, Debug)]
pub enum Plane {
    /// By streams of gRPC.
    Grpc(ControlPlane),
    /// By polling.
    Rest(RestServer),
}

/// A dialect of xDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Each response tells the state of the world.
    Sotw,
    /// Responses tell what has changed.
    Delta,
}

/// A bucket of tokens, one for each request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimitConfig {
    /// Tokens that it holds.
    pub max_tokens: u32,
    /// Tokens that it gains in a second.
    pub fill_rate: f64,
}

impl ControlPlane {
    /// Lowers the message.
    pub fn lower(proto: core::ApiConfigSource, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let api_type = proto.api_type();
        if api_type == ApiType::Rest {
            return Err(
                cx.at("api_type", |cx| cx.invalid("REST is for single kinds of resources, not for all at once"))
            );
        }
        // transport_api_version: messages of v3 are spoken whatever it says; v2 has them in other clothes, which
        // servers have dropped.
        let core::ApiConfigSource {
            api_type: _,
            transport_api_version: _,
            cluster_names,
            grpc_services,
            // The pace of polling.
            refresh_delay: _,
            request_timeout: _,
            rate_limit_settings,
            set_node_on_first_message_only,
            config_validators,
        } = proto;
        let validators = cx.each("config_validators", config_validators, |validator, cx| {
            let MinimumClustersValidator { min_clusters_num } = extension(validator, cx)?;
            Ok(min_clusters_num)
        });
        let rate_limit = cx.opt("rate_limit_settings", rate_limit_settings, RateLimitConfig::lower);
        let services = lower_services(grpc_services, &cluster_names, cx);
        let dialect = match api_type {
            ApiType::Grpc | ApiType::AggregatedGrpc => Ok(Dialect::Sotw),
            ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc => Ok(Dialect::Delta),
            ApiType::Rest | ApiType::DeprecatedAndUnavailableDoNotUse => {
                Err(cx.at("api_type", |cx| cx.invalid("one of REST, GRPC and DELTA_GRPC is required")))
            }
        };
        Ok(Self {
            min_clusters: validators?.into_iter().max().unwrap_or_default(),
            services: services?,
            dialect: dialect?,
            rate_limit: rate_limit?,
            node_on_first_message_only: set_node_on_first_message_only,
            is_aggregated: matches!(api_type, ApiType::AggregatedGrpc | ApiType::AggregatedDeltaGrpc),
        })
    }

    /// Lowers the message where it cannot stand for the stream of all: it is that stream, or one beside it.
    pub fn lower_itself(proto: core::ApiConfigSource, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        match proto.api_type() {
            ApiType::AggregatedGrpc | ApiType::AggregatedDeltaGrpc => {
                Err(cx.at("api_type", |cx| cx.invalid("must be of non-aggregated gRPC: GRPC or DELTA_GRPC")))
            }
            _ => Self::lower(proto, cx),
        }
    }
}

impl RestServer {
    /// Lowers the message.
    pub fn lower(proto: core::ApiConfigSource, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let core::ApiConfigSource {
            api_type: _,
            // As for gRPC: there is but one version.
            transport_api_version: _,
            cluster_names,
            grpc_services,
            refresh_delay,
            request_timeout,
            // Of streams; Envoy passes over both.
            rate_limit_settings: _,
            set_node_on_first_message_only: _,
            config_validators,
        } = proto;
        let refused = refuse_set!(cx; config_validators);
        let delay = cx.opt("refresh_delay", refresh_delay, duration);
        let timeout = cx.opt("request_timeout", request_timeout, duration);
        if !grpc_services.is_empty() {
            return Err(cx.at("grpc_services", |cx| cx.invalid("is for gRPC; REST has cluster_names")));
        }
        let [name] = &*cluster_names else {
            return Err(cx.at("cluster_names", |cx| cx.invalid("must have exactly one name")));
        };
        let cluster = cx.env.clusters.intern(name);
        if !cx.env.clusters.is_declared(name) {
            return Err(cx.at("cluster_names", |cx| cx.invalid(unknown_cluster(name))));
        }
        refused?;
        let Some(refresh_delay) = delay?.and_then(non_zero) else {
            return Err(cx.at("refresh_delay", |cx| cx.invalid("is required for REST")));
        };
        let request_timeout = timeout?.and_then(non_zero).unwrap_or(DEFAULT_REQUEST_TIMEOUT);
        Ok(Self { cluster, refresh_delay, request_timeout })
    }
}

impl Plane {
    /// Lowers the message.
    pub fn lower(proto: core::ApiConfigSource, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        match proto.api_type() {
            ApiType::Rest => RestServer::lower(proto, cx).map(Self::Rest),
            _ => ControlPlane::lower(proto, cx).map(Self::Grpc),
        }
    }
}

fn unknown_cluster(name: &str) -> String {
    format!("unknown cluster '{name}': the cluster of a control plane must be static")
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grpc(plane) => plane.fmt(f),
            Self::Rest(server) => write!(f, "REST of {}", server.cluster.name),
        }
    }
}

impl fmt::Display for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clusters: Vec<&str> = self.services.iter().map(|service| &*service.target.cluster.name).collect();
        let dialect = if self.dialect == Dialect::Sotw { "GRPC" } else { "DELTA_GRPC" };
        write!(f, "{dialect} of {}", clusters.join(", "))
    }
}

fn lower_services(
    services: Vec<core::GrpcService>,
    cluster_names: &[String],
    cx: &mut LowerCx<'_>,
) -> Result<Vec<GrpcServiceConfig>, Refused> {
    if !cluster_names.is_empty() {
        return Err(cx.at("cluster_names", |cx| cx.invalid("is for REST; gRPC has grpc_services")));
    }
    if services.is_empty() {
        return Err(cx.at("grpc_services", |cx| cx.invalid("must not be empty")));
    }
    cx.each("grpc_services", services, |mut service, cx| {
        if service.retry_policy.take().is_some() {
            tracing::info!(path = cx.path(), "retry_policy has no effect: streams are opened again for ever");
        }
        let service = GrpcServiceConfig::lower(service, cx)?;
        let cluster = &service.target.cluster.name;
        if !cx.env.clusters.is_declared(cluster) {
            return Err(cx.invalid(unknown_cluster(cluster)));
        }
        Ok(service)
    })
}

impl RateLimitConfig {
    fn lower(proto: core::RateLimitSettings, _: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let core::RateLimitSettings { max_tokens, fill_rate } = proto;
        Ok(Self {
            max_tokens: max_tokens.map_or(DEFAULT_MAX_TOKENS, |v| v.value),
            fill_rate: fill_rate.map_or(DEFAULT_FILL_RATE, |v| v.value),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    use super::*;
    use nuncio_filter_api::Invalid;

    fn lower(proto: core::ApiConfigSource) -> Result<ControlPlane, Vec<Invalid>> {
        let env = crate::testing::env();
        env.clusters.declare(&env.clusters.intern("xds"));
        let mut cx = LowerCx::new(&env);
        ControlPlane::lower_itself(proto, &mut cx).map_err(|Refused| cx.finish())
    }

    fn grpc(api_type: ApiType, cluster: &str) -> core::ApiConfigSource {
        let envoy = EnvoyGrpc { cluster_name: cluster.into(), ..Default::default() };
        let service =
            core::GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() };
        core::ApiConfigSource { api_type: api_type.into(), grpc_services: vec![service], ..Default::default() }
    }

    #[test]
    fn the_type_tells_transport_and_dialect() {
        for (api_type, dialect) in [(ApiType::Grpc, Dialect::Sotw), (ApiType::DeltaGrpc, Dialect::Delta)] {
            let lowered = lower(grpc(api_type, "xds")).unwrap();
            assert_eq!(lowered.services.len(), 1);
            assert_eq!(lowered.dialect, dialect);
        }
    }

    #[test]
    fn a_server_that_is_no_static_cluster_is_refused_by_name() {
        let refused = lower(grpc(ApiType::Grpc, "other")).unwrap_err();
        assert!(refused[0].to_string().starts_with("grpc_services[0]: unknown cluster 'other'"), "{}", refused[0]);
    }

    #[test]
    fn polling_is_for_single_kinds() {
        let refused = lower(grpc(ApiType::Rest, "xds")).unwrap_err();
        assert!(refused[0].to_string().starts_with("api_type: REST is for single kinds"), "{}", refused[0]);
    }

    #[test]
    fn the_stream_of_all_does_not_stand_for_itself() {
        for api_type in [ApiType::AggregatedGrpc, ApiType::AggregatedDeltaGrpc] {
            let refused = lower(grpc(api_type, "xds")).unwrap_err();
            assert_eq!(refused[0].to_string(), "api_type: must be of non-aggregated gRPC: GRPC or DELTA_GRPC");
        }
    }

    #[test]
    fn a_server_that_is_polled_has_one_cluster_and_a_delay() {
        let lower = |names: &[&str], seconds: i64| {
            let env = crate::testing::env();
            env.clusters.declare(&env.clusters.intern("xds"));
            let mut cx = LowerCx::new(&env);
            let delay = nuncio_proto::google::protobuf::Duration { seconds, nanos: 0 };
            let source = core::ApiConfigSource {
                api_type: ApiType::Rest.into(),
                cluster_names: names.iter().map(|name| (*name).to_owned()).collect(),
                refresh_delay: Some(delay),
                ..Default::default()
            };
            Plane::lower(source, &mut cx).map_err(|Refused| cx.finish().remove(0).to_string())
        };
        let Ok(Plane::Rest(server)) = lower(&["xds"], 3) else { panic!("it is polled") };
        assert_eq!((server.refresh_delay.as_secs(), server.request_timeout), (3, DEFAULT_REQUEST_TIMEOUT));
        for (names, seconds, path) in
            [(&[][..], 3, "cluster_names: "), (&["a"], 3, "cluster_names: "), (&["xds"], 0, "refresh_delay: ")]
        {
            let refused = lower(names, seconds).unwrap_err();
            assert!(refused.starts_with(path), "{refused}");
        }
    }
}
