//! Clusters of services that are no clusters of the configuration (`google_grpc`).

use std::collections::HashSet;

use nuncio_config::cluster::ClusterConfig;
use nuncio_filter_api::{LowerEnv, OwnService};
use nuncio_upstream::Clusters;

/// Has `clusters` hold one for each service that somebody may call, and none for those that nobody does any longer.
/// Called whenever something was lowered, before it is put in force.
pub(crate) fn reconcile(env: &LowerEnv, clusters: &Clusters) {
    let services = env.own_services.all::<OwnService>();
    let configs = services.iter().filter_map(|service| service.cluster.downcast_ref::<ClusterConfig>());
    let wanted: HashSet<u32> = configs.clone().map(|config| config.name.id).collect();
    let snapshot = clusters.snapshot();
    let gone: Vec<u32> = snapshot.own().map(|own| own.config.name.id).filter(|id| !wanted.contains(id)).collect();
    let missing: Vec<ClusterConfig> =
        configs.filter(|config| snapshot.get(config.name.id).is_none()).cloned().collect();
    if !missing.is_empty() {
        clusters.update(missing);
    }
    if !gone.is_empty() {
        clusters.remove_all(gone);
    }
}
