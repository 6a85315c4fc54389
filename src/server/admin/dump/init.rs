//! `/init_dump`: what is waited for.

use std::collections::BTreeSet;

use nuncio_config::load::{Defaults, to_json};
use nuncio_net::Listener;
use nuncio_proto::envoy::admin::v3 as proto;

use super::is_initialising;
use crate::admin::{Admin, Params, Reply};

/// `/init_dump`. As Envoy: before the workers run all listeners are told, later those that warm.
pub(in crate::admin) fn init_dump(admin: &Admin, params: &Params) -> Reply {
    let snapshot = admin.shared.snapshot.load();
    let listeners = if is_initialising(admin) { &snapshot.listeners } else { &snapshot.warming };
    // There is no other component.
    let is_meant = params.value("mask").is_none_or(|mask| mask == "listener");
    let listeners = listeners.iter().filter(|_| is_meant);
    let unready_targets_dumps = listeners.map(|listener| unready(listener)).collect();
    Reply::json(to_json(&proto::UnreadyTargetsDumps { unready_targets_dumps }, Defaults::Omit))
}

fn unready(listener: &Listener) -> proto::unready_targets_dumps::UnreadyTargetsDump {
    // Parts of it may wait for the same.
    let waits: BTreeSet<&str> =
        listener.config.waits().filter(|readiness| !readiness.is_set()).map(|readiness| readiness.name()).collect();
    proto::unready_targets_dumps::UnreadyTargetsDump {
        // Envoy has a hash of the message there.
        name: format!("init manager Listener-local-init-manager {} {}", listener.config.name, listener.config.shape),
        target_names: waits.into_iter().map(str::to_owned).collect(),
    }
}
