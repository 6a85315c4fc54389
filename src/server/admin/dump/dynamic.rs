//! What discovery has given.

use std::collections::HashSet;

use nuncio_config::route::ScopeSlot;
use nuncio_proto::envoy::admin::v3 as proto;
use proto::clusters_config_dump::DynamicCluster;
use proto::listeners_config_dump::{DynamicListener, DynamicListenerState};
use proto::routes_config_dump::DynamicRouteConfig;
use proto::scoped_routes_config_dump::DynamicScopedRouteConfigs;

use super::timestamp;
use crate::admin::Admin;
use crate::update::{Accepted, Kind, lock};

pub(super) fn clusters(admin: &Admin) -> proto::ClustersConfigDump {
    let snapshot = admin.shared.clusters.snapshot();
    let warming: HashSet<&str> = snapshot.warming().map(|cluster| &*cluster.config.name.name).collect();
    let active: HashSet<&str> = snapshot.iter().map(|cluster| &*cluster.config.name.name).collect();
    let records = lock(&admin.shared.records);
    let mut dump = proto::ClustersConfigDump {
        version_info: records.version(Kind::Cluster).to_owned(),
        ..proto::ClustersConfigDump::default()
    };
    for (id, record) in records.all(Kind::Cluster) {
        let Some(accepted) = &record.accepted else { continue };
        if warming.contains(&*id.name) {
            dump.dynamic_warming_clusters.push(cluster(accepted));
            if let (true, Some(before)) = (active.contains(&*id.name), &record.before) {
                dump.dynamic_active_clusters.push(cluster(before));
            }
        } else {
            dump.dynamic_active_clusters.push(cluster(accepted));
        }
    }
    dump
}

fn cluster(accepted: &Accepted) -> DynamicCluster {
    DynamicCluster {
        version_info: accepted.resource.version.clone(),
        cluster: Some(accepted.resource.any.clone()),
        last_updated: Some(timestamp(accepted.updated)),
        ..DynamicCluster::default()
    }
}

pub(super) fn listeners(admin: &Admin) -> proto::ListenersConfigDump {
    let snapshot = admin.shared.snapshot.load();
    let records = lock(&admin.shared.records);
    let mut dump = proto::ListenersConfigDump {
        version_info: records.version(Kind::Listener).to_owned(),
        ..proto::ListenersConfigDump::default()
    };
    for (id, record) in records.all(Kind::Listener) {
        let is_in = |list: &[std::sync::Arc<nuncio_net::Listener>]| list.iter().any(|l| l.config.name == id.name);
        let is_warming = is_in(&snapshot.warming);
        let (latest, before) = (record.accepted.as_ref().map(listener), record.before.as_ref().map(listener));
        let (active_state, warming_state) = match is_warming {
            true => (before.clone().filter(|_| is_in(&snapshot.listeners)), latest),
            false => (latest, None),
        };
        let error_state = record.failed.as_ref().map(|failed| proto::UpdateFailureState {
            failed_configuration: Some(failed.any.clone()),
            last_update_attempt: Some(timestamp(failed.at)),
            details: failed.details.clone(),
            version_info: failed.version.clone(),
        });
        dump.dynamic_listeners.push(DynamicListener {
            name: id.name.to_string(),
            active_state,
            warming_state,
            draining_state: before.filter(|_| !is_warming && is_in(&snapshot.draining)),
            error_state,
            ..DynamicListener::default()
        });
    }
    dump
}

fn listener(accepted: &Accepted) -> DynamicListenerState {
    DynamicListenerState {
        version_info: accepted.resource.version.clone(),
        listener: Some(accepted.resource.any.clone()),
        last_updated: Some(timestamp(accepted.updated)),
    }
}

/// Of each connection manager that asks for any, the scopes that it was given.
pub(super) fn scopes(admin: &Admin) -> Vec<DynamicScopedRouteConfigs> {
    let mut slots = admin.env.slots.all::<ScopeSlot>();
    slots.sort_by(|a, b| a.name.cmp(&b.name));
    let records = lock(&admin.shared.records);
    let of_slot = |slot: &std::sync::Arc<ScopeSlot>| {
        let of_source = records.all(Kind::Scope).filter(|(id, _)| id.origin == slot.source.origin);
        let accepted: Vec<&Accepted> = of_source.filter_map(|(_, record)| record.accepted.as_ref()).collect();
        let last = accepted.iter().max_by_key(|accepted| accepted.updated)?;
        Some(DynamicScopedRouteConfigs {
            name: slot.name.to_string(),
            version_info: records.version(Kind::Scope).to_owned(),
            scoped_route_configs: accepted.iter().map(|accepted| accepted.resource.any.clone()).collect(),
            last_updated: Some(timestamp(last.updated)),
            ..DynamicScopedRouteConfigs::default()
        })
    };
    slots.iter().filter_map(of_slot).collect()
}

pub(super) fn routes(admin: &Admin) -> proto::RoutesConfigDump {
    let records = lock(&admin.shared.records);
    let accepted = records.all(Kind::Routes).filter_map(|(_, record)| record.accepted.as_ref());
    let dynamic_route_configs = accepted.map(|accepted| DynamicRouteConfig {
        version_info: accepted.resource.version.clone(),
        route_config: Some(accepted.resource.any.clone()),
        last_updated: Some(timestamp(accepted.updated)),
        ..DynamicRouteConfig::default()
    });
    proto::RoutesConfigDump { dynamic_route_configs: dynamic_route_configs.collect(), ..Default::default() }
}
