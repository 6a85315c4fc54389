use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3 as pb;
use nuncio_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::endpoint::{Assignment, lower_assignment};
use super::{AssignmentPolicy, ClusterConfig, Discovery, Endpoint, LedsLocality};
use crate::discovery::ConfigSource;
use crate::xdstp::is_xdstp;

/// `eds_cluster_config`
#[derive(Clone, Debug)]
pub struct EdsConfig {
    /// The name by which the endpoints are asked for: `service_name`, or else the cluster's.
    pub service_name: Arc<str>,
    /// `service_name` as configured, which load reports tell.
    pub told_name: Option<Arc<str>>,
    /// Where they come from.
    pub source: ConfigSource,
}

/// Endpoints that were given by discovery.
#[derive(Clone, Debug)]
pub struct ClusterAssignment {
    /// The endpoints, in order.
    pub endpoints: Box<[Endpoint]>,
    /// Localities whose endpoints are discovered one by one.
    pub leds: Box<[LedsLocality]>,
    /// How the load is spread over their priorities and localities.
    pub policy: AssignmentPolicy,
}

// === impl EdsConfig ===

impl EdsConfig {
    pub(super) fn lower(cluster: &pb::Cluster, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Some(config) = &cluster.eds_cluster_config else {
            let missing = |cx: &mut LowerCx<'_>| cx.invalid("cannot create an EDS cluster without an EDS config");
            return Err(cx.at("eds_cluster_config", missing));
        };
        cx.at("eds_cluster_config", |cx| {
            let pb::cluster::EdsClusterConfig { eds_config, service_name } = config;
            let Some(source) = eds_config.clone() else {
                return Err(cx.at("eds_config", |cx| cx.invalid("is required")));
            };
            let source = cx.at("eds_config", |cx| ConfigSource::lower(source, cx))?;
            if service_name.is_empty() && is_xdstp(&cluster.name) {
                let reason = "must be set if Cluster resource has an xdstp name";
                return Err(cx.at("service_name", |cx| cx.invalid(reason)));
            }
            let told_name: Option<Arc<str>> = (!service_name.is_empty()).then(|| (**service_name).into());
            let service_name = told_name.clone().unwrap_or_else(|| (*cluster.name).into());
            Ok(Self { service_name, told_name, source })
        })
    }
}

// === impl ClusterAssignment ===

impl ClusterAssignment {
    /// Lowers what discovery gives for a cluster.
    pub fn lower(proto: ClusterLoadAssignment, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // As in a static cluster, an endpoint is an address: nobody resolves names.
        let Assignment { endpoints, leds, policy } = lower_assignment(proto, Some(&Discovery::Static), cx)?;
        Ok(Self { endpoints: endpoints.into(), leds: leds.into(), policy })
    }

    /// Why a cluster cannot use it.
    pub fn refusal(&self, cluster: &ClusterConfig) -> Option<String> {
        cluster.lb.refuses(&self.endpoints, &self.policy)
    }
}
