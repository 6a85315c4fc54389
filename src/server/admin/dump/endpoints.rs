//! The hosts of all clusters as load assignments.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use nuncio_config::address::to_proto;
use nuncio_config::cluster::{DropOverload, Locality};
use nuncio_config::metadata;
use nuncio_proto::envoy::admin::v3 as proto;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::endpoint::v3 as pb;
use nuncio_proto::envoy::r#type::v3::FractionalPercent;
use nuncio_proto::envoy::r#type::v3::fractional_percent::DenominatorType;
use nuncio_proto::google::protobuf::UInt32Value;
use nuncio_telemetry::Address;
use nuncio_upstream::{Cluster, CoarseHealth, Host};
use proto::endpoints_config_dump::{DynamicEndpointConfig, StaticEndpointConfig};

use super::any;
use super::names::Names;
use crate::admin::Admin;
use crate::update::{Kind, lock};

pub(super) fn endpoints(admin: &Admin, names: &Names) -> proto::EndpointsConfigDump {
    let snapshot = admin.shared.clusters.snapshot();
    let records = lock(&admin.shared.records);
    let discovered: std::collections::HashSet<&str> = records.all(Kind::Cluster).map(|(id, _)| &*id.name).collect();
    let mut dump = proto::EndpointsConfigDump::default();
    for (name, cluster) in snapshot.by_name() {
        let assignment = assignment(cluster);
        if !names.have(&assignment.cluster_name) {
            continue;
        }
        let endpoint_config = Some(any(&assignment));
        match discovered.contains(name) {
            true => {
                let config = DynamicEndpointConfig { endpoint_config, ..DynamicEndpointConfig::default() };
                dump.dynamic_endpoint_configs.push(config);
            }
            false => {
                let config = StaticEndpointConfig { endpoint_config, ..StaticEndpointConfig::default() };
                dump.static_endpoint_configs.push(config);
            }
        }
    }
    dump
}

fn assignment(cluster: &Cluster) -> pb::ClusterLoadAssignment {
    let policy = cluster.assignment_policy();
    // Envoy: hosts whose names were resolved have metadata, with nothing in it.
    let empty = cluster.config.discovery.dns().map(|_| core::Metadata::default());
    let set = cluster.hosts();
    let mut groups: BTreeMap<(u32, Option<Arc<Locality>>), Vec<&Arc<Host>>> = BTreeMap::new();
    for host in &*set.hosts {
        groups.entry((host.priority, host.locality.clone())).or_default().push(host);
    }
    let endpoints = groups.into_iter().map(|((priority, locality), hosts)| {
        let is_meant = |w: &&nuncio_config::cluster::LocalityWeight| w.priority == priority && w.locality == locality;
        let weight = policy.locality_weights.iter().find(is_meant).map_or(0, |found| found.weight);
        pb::LocalityLbEndpoints {
            locality: Some(locality.as_deref().map(Locality::to_proto).unwrap_or_default()),
            lb_endpoints: hosts.into_iter().map(|host| endpoint(host, empty.clone())).collect(),
            load_balancing_weight: Some(UInt32Value { value: weight }),
            priority,
            ..pb::LocalityLbEndpoints::default()
        }
    });
    let service = cluster.config.discovery.eds().map(|eds| &eds.service_name);
    let cluster_name = service.unwrap_or(&cluster.config.name.name).to_string();
    pb::ClusterLoadAssignment {
        cluster_name,
        endpoints: endpoints.collect(),
        policy: Some(pb::cluster_load_assignment::Policy {
            overprovisioning_factor: Some(UInt32Value { value: policy.overprovisioning_factor }),
            drop_overloads: policy.drop_overload.as_deref().map(drop_overload).into_iter().collect(),
            ..Default::default()
        }),
        ..pb::ClusterLoadAssignment::default()
    }
}

/// Envoy tells every share in millionths.
fn drop_overload(drop: &DropOverload) -> pb::cluster_load_assignment::policy::DropOverload {
    let DropOverload { category, millionths } = drop;
    pb::cluster_load_assignment::policy::DropOverload {
        category: category.to_string(),
        drop_percentage: Some(FractionalPercent {
            numerator: *millionths,
            denominator: DenominatorType::Million as i32,
        }),
    }
}

/// `empty` stands for no metadata.
fn endpoint(host: &Host, empty: Option<core::Metadata>) -> pb::LbEndpoint {
    // Envoy: what load balancing makes of it, by whatever it was found.
    let health = match host.health() {
        CoarseHealth::Healthy => core::HealthStatus::Healthy,
        CoarseHealth::Unhealthy => core::HealthStatus::Unhealthy,
        CoarseHealth::Degraded => core::HealthStatus::Degraded,
    };
    let additional =
        |address: &SocketAddr| pb::endpoint::AdditionalAddress { address: Some(to_proto(&Address::from(*address))) };
    let endpoint = pb::Endpoint {
        address: Some(to_proto(&host.address())),
        health_check_config: Some(pb::endpoint::HealthCheckConfig::default()),
        hostname: host.hostname.to_string(),
        additional_addresses: host.addresses().iter().flat_map(|all| all.iter().skip(1)).map(additional).collect(),
        ..pb::Endpoint::default()
    };
    pb::LbEndpoint {
        health_status: health as i32,
        metadata: host.metadata().map(|metadata| metadata::to_proto(&metadata)).or(empty),
        load_balancing_weight: Some(UInt32Value { value: host.weight() }),
        host_identifier: Some(pb::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
    }
}
