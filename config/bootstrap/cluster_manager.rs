//! `bootstrap.v3.ClusterManager`: what all clusters share.

use std::sync::Arc;

use nuncio_filter_api::{ClusterName, LowerCx, Refused};
use nuncio_proto::envoy::config::bootstrap::v3 as proto;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_telemetry::access_log::{Destination, LogFile};

use crate::cluster::{ClusterConfig, DnsResolverConfig, Locality};
use crate::control_plane::ControlPlane;
use crate::grpc::GrpcServiceConfig;
use crate::socket::BindConfig;

/// What all clusters share.
#[derive(Clone, Debug, Default)]
pub struct ClusterManagerConfig {
    /// How upstream sockets are bound where the cluster does not say.
    pub upstream_bind_config: Option<BindConfig>,
    /// For zone-aware routing.
    pub local_cluster: Option<LocalCluster>,
    /// Where the ejections of outlier detection are logged.
    pub outlier_log: Option<Arc<LogFile>>,
    /// Whom clusters ask for addresses that do not say.
    pub dns: DnsResolverConfig,
}

/// The cluster that this proxy is a host of.
#[derive(Clone, Debug)]
pub struct LocalCluster {
    /// Its name.
    pub name: ClusterName,
    /// Where this proxy stands.
    pub locality: Option<Locality>,
}

impl ClusterManagerConfig {
    pub(super) fn lower(
        manager: proto::ClusterManager,
        node: Option<&core::Node>,
        without_effect: &mut Vec<String>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let proto::ClusterManager {
            local_cluster_name,
            outlier_detection,
            upstream_bind_config,
            // Its server is a static cluster: see `lower_service`.
            load_stats_config: _,
            enable_deferred_cluster_creation,
        } = manager;
        if enable_deferred_cluster_creation {
            // A worker makes its state of a cluster at first use in any case.
            without_effect.push(format!("{}.enable_deferred_cluster_creation", cx.path()));
        }
        let local_cluster = (!local_cluster_name.is_empty()).then(|| LocalCluster {
            name: cx.env.clusters.intern(&local_cluster_name),
            locality: node.and_then(|node| node.locality.clone()).and_then(Locality::lower),
        });
        let bind = cx.opt("upstream_bind_config", upstream_bind_config, BindConfig::lower);
        let outlier_log = cx.opt("outlier_detection", outlier_detection, |v, cx| lower_outlier(v, without_effect, cx));
        Ok(Self {
            upstream_bind_config: bind?,
            local_cluster,
            outlier_log: outlier_log?.flatten(),
            dns: DnsResolverConfig::default(),
        })
    }
}

impl LocalCluster {
    /// Refuses a local cluster that is none of `clusters`, or has hosts at several priorities.
    pub(super) fn check(&self, clusters: &[ClusterConfig], cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        let name = &self.name.name;
        let Some(cluster) = clusters.iter().find(|cluster| cluster.name.name == *name) else {
            return Err(cx.invalid(format!("local cluster '{name}' must be defined")));
        };
        match cluster.endpoints.iter().any(|endpoint| endpoint.priority > 0) {
            true => Err(cx.invalid(format!("unexpected non-zero priority for local cluster '{name}'"))),
            false => Ok(()),
        }
    }
}

/// A service that is no source of configuration though it is told of as one (`load_stats_config`, `hds_config`). Of what
/// else the message says Envoy heeds nothing.
pub(super) fn lower_service(
    proto: core::ApiConfigSource,
    cx: &mut LowerCx<'_>,
) -> Result<Option<GrpcServiceConfig>, Refused> {
    if proto.grpc_services.is_empty() && proto.cluster_names.is_empty() {
        // Envoy goes without it, and says so.
        tracing::warn!(path = cx.path(), "has no effect: neither a gRPC service nor a cluster is named");
        return Ok(None);
    }
    let mut services = ControlPlane::lower_itself(proto, cx)?.services;
    match (services.pop(), services.is_empty()) {
        (Some(service), true) => Ok(Some(service)),
        _ => Err(cx.at("grpc_services", |cx| cx.invalid("must have no more than one"))),
    }
}

fn lower_outlier(
    outlier: proto::cluster_manager::OutlierDetection,
    without_effect: &mut Vec<String>,
    cx: &mut LowerCx<'_>,
) -> Result<Option<Arc<LogFile>>, Refused> {
    let proto::cluster_manager::OutlierDetection { event_log_path, event_service } = outlier;
    if event_service.is_some() {
        // Envoy 1.40 does not use it either.
        without_effect.push(format!("{}.event_service", cx.path()));
    }
    let path = (!event_log_path.is_empty()).then_some(event_log_path);
    cx.opt("event_log_path", path, |path, cx| {
        cx.env.files.open(&Destination::from_path(path)).map_err(|e| cx.invalid(e.to_string()))
    })
}
