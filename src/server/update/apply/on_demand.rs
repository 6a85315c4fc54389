//! What requests have asked for.

use std::sync::Arc;

use nuncio_config::discovery::{FoundCluster, OnDemandClusters};
use tokio::task::spawn_local;

use super::Parts;

/// Tells those who asked for a cluster that it is there, once it can be used, or that it is not.
pub(super) fn answer_cluster(slot: &Arc<OnDemandClusters>, name: &Arc<str>, parts: &Parts) {
    let clusters = &parts.shared.clusters;
    let (slot, name) = (slot.clone(), name.clone());
    let known = parts.env.clusters.find(&name).map(|cluster| cluster.id);
    let snapshot = clusters.snapshot();
    let is_warming = |id: u32| snapshot.warming().any(|cluster| cluster.config.name.id == id);
    let is_there = |id: &u32| snapshot.get(*id).is_some() || is_warming(*id);
    let Some(id) = known.filter(is_there) else { return slot.answer(&name, FoundCluster::Nowhere) };
    let clusters = clusters.clone();
    spawn_local(async move {
        clusters.in_use(&[id]).await;
        slot.answer(&name, FoundCluster::There);
    });
}
