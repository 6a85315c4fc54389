//! What discovery has given.

use std::collections::{BTreeMap, HashSet};

use nuncio_config::route::ScopeSlot;
use nuncio_proto::envoy::admin::v3 as proto;
use nuncio_proto::envoy::config::listener::v3::Listener;
use prost::Message;
use proto::clusters_config_dump::DynamicCluster;
use proto::listeners_config_dump::{DynamicListener, DynamicListenerState};
use proto::routes_config_dump::DynamicRouteConfig;
use proto::scoped_routes_config_dump::DynamicScopedRouteConfigs;

use super::names::Names;
use super::{is_initialising, statics, timestamp};
use crate::admin::Admin;
use crate::snapshot::names_of;
use crate::update::{Accepted, Kind, Record, lock};

pub(super) fn clusters(admin: &Admin, names: &Names) -> proto::ClustersConfigDump {
    let snapshot = admin.shared.clusters.snapshot();
    let warming: HashSet<&str> = snapshot.warming().map(|cluster| &*cluster.config.name.name).collect();
    let active: HashSet<&str> = snapshot.iter().map(|cluster| &*cluster.config.name.name).collect();
    let records = lock(&admin.shared.records);
    let mut dump = proto::ClustersConfigDump {
        version_info: records.version(Kind::Cluster).to_owned(),
        ..proto::ClustersConfigDump::default()
    };
    for (id, record) in records.all(Kind::Cluster).filter(|(id, _)| names.have(&id.name)) {
        let error_state = error_state(record);
        let Some(accepted) = &record.accepted else {
            // It is not in force, and never was.
            dump.dynamic_warming_clusters.push(DynamicCluster { error_state, ..DynamicCluster::default() });
            continue;
        };
        let latest = DynamicCluster { error_state, ..cluster(accepted) };
        if warming.contains(&*id.name) {
            dump.dynamic_warming_clusters.push(latest);
            if let (true, Some(before)) = (active.contains(&*id.name), &record.before) {
                dump.dynamic_active_clusters.push(cluster(before));
            }
        } else {
            dump.dynamic_active_clusters.push(latest);
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

/// What is wrong with what was delivered last.
pub(in crate::admin) fn error_state(record: &Record) -> Option<proto::UpdateFailureState> {
    record.failed.as_ref().map(|failed| proto::UpdateFailureState {
        failed_configuration: Some(failed.any.clone()),
        last_update_attempt: Some(timestamp(failed.at)),
        details: failed.details.clone(),
        version_info: failed.version.clone(),
    })
}

pub(super) fn listeners(admin: &Admin, names: &Names) -> proto::ListenersConfigDump {
    let snapshot = admin.shared.snapshot.load();
    let (serving, warming, draining) =
        (names_of(&snapshot.listeners), names_of(&snapshot.warming), names_of(&snapshot.draining));
    let records = lock(&admin.shared.records);
    let mut dump = proto::ListenersConfigDump {
        version_info: records.version(Kind::Listener).to_owned(),
        ..proto::ListenersConfigDump::default()
    };
    let is_initialising = is_initialising(admin);
    let mut left: BTreeMap<&str, &Accepted> = records.left().map(|(id, accepted)| (&*id.name, accepted)).collect();
    left.retain(|name, _| draining.contains(name));
    for (id, record) in records.all(Kind::Listener) {
        let error_state = error_state(record);
        // Envoy: what was refused is told whatever its name.
        if !names.have(&id.name) && error_state.is_none() {
            continue;
        }
        let is_warming = is_initialising || warming.contains(&*id.name);
        let (latest, before) = (record.accepted.as_ref().map(listener), record.before.as_ref().map(listener));
        let (active_state, warming_state) = match is_warming {
            true => (before.clone().filter(|_| serving.contains(&*id.name)), latest),
            false => (latest, None),
        };
        dump.dynamic_listeners.push(DynamicListener {
            name: id.name.to_string(),
            active_state,
            warming_state,
            draining_state: left
                .remove(&*id.name)
                .map(listener)
                .or_else(|| before.filter(|_| !is_warming && draining.contains(&*id.name))),
            error_state,
            ..DynamicListener::default()
        });
    }
    for (name, accepted) in left.into_iter().filter(|(name, _)| names.have(name)) {
        let draining_state = Some(listener(accepted));
        dump.dynamic_listeners.push(DynamicListener {
            name: name.to_owned(),
            draining_state,
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
pub(super) fn scopes(admin: &Admin, names: &Names) -> Vec<DynamicScopedRouteConfigs> {
    let mut slots = admin.env.slots.all::<ScopeSlot>();
    slots.retain(|slot| names.have(&slot.name));
    slots.sort_by(|a, b| a.name.cmp(&b.name));
    let records = lock(&admin.shared.records);
    let of_slot = |slot: &std::sync::Arc<ScopeSlot>| {
        let of_source = records.all(Kind::Scope).filter(|(id, _)| id.origin == slot.source.origin);
        let accepted: Vec<&Accepted> = of_source.filter_map(|(_, record)| record.accepted.as_ref()).collect();
        let last = accepted.iter().map(|accepted| accepted.updated).max();
        slot.has_come().then(|| DynamicScopedRouteConfigs {
            name: slot.name.to_string(),
            version_info: records.version(Kind::Scope).to_owned(),
            scoped_route_configs: accepted.iter().map(|accepted| accepted.resource.any.clone()).collect(),
            last_updated: last.map(timestamp),
            ..DynamicScopedRouteConfigs::default()
        })
    };
    slots.iter().filter_map(of_slot).collect()
}

pub(super) fn routes(admin: &Admin, names: &Names) -> proto::RoutesConfigDump {
    let records = lock(&admin.shared.records);
    let records = records.all(Kind::Routes).filter(|(id, _)| names.have(&id.name));
    let dynamic_route_configs = records.map(|(_, record)| {
        let accepted = record.accepted.as_ref();
        DynamicRouteConfig {
            version_info: accepted.map(|accepted| accepted.resource.version.clone()).unwrap_or_default(),
            route_config: accepted.map(|accepted| accepted.resource.any.clone()),
            last_updated: accepted.map(|accepted| timestamp(accepted.updated)),
            error_state: error_state(record),
            ..DynamicRouteConfig::default()
        }
    });
    proto::RoutesConfigDump { dynamic_route_configs: dynamic_route_configs.collect(), ..Default::default() }
}

/// The routes that stand in listeners themselves.
pub(super) fn inline_routes(
    admin: &Admin,
    names: &Names,
    routes: &mut proto::RoutesConfigDump,
    scopes: &mut proto::ScopedRoutesConfigDump,
) {
    let records = lock(&admin.shared.records);
    for accepted in records.all(Kind::Listener).filter_map(|(_, record)| record.accepted.as_ref()) {
        // What is in force was decoded before.
        let listener = Listener::decode(&*accepted.resource.any.value).unwrap_or_default();
        statics::inline_routes(&listener, names, Some(timestamp(accepted.updated)), routes, scopes);
    }
}
