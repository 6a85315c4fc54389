//! What the bootstrap itself configures.

use std::collections::HashSet;
use std::time::SystemTime;

use nuncio_config::bootstrap::BootstrapConfig;
use nuncio_config::load::StaticClusters;

/// Names of clusters and listeners of the bootstrap.
#[derive(Debug, Default)]
pub(crate) struct Statics {
    pub(crate) clusters: HashSet<String>,
    pub(crate) listeners: HashSet<String>,
}

/// The bootstrap in force.
#[derive(Debug)]
pub(crate) struct InForce {
    /// As it was merged.
    pub(crate) loaded: StaticClusters,
    pub(crate) since: SystemTime,
}

// === impl Statics ===

impl Statics {
    pub(crate) fn of(config: &BootstrapConfig) -> Self {
        Self {
            clusters: config.clusters.iter().map(|cluster| cluster.name.name.to_string()).collect(),
            listeners: config.listeners.iter().map(|listener| listener.name.to_string()).collect(),
        }
    }

    pub(crate) fn has_cluster(&self, name: &str) -> bool {
        self.clusters.contains(name)
    }

    pub(crate) fn has_listener(&self, name: &str) -> bool {
        self.listeners.contains(name)
    }
}

// === impl InForce ===

impl InForce {
    pub(crate) fn new(loaded: StaticClusters) -> Self {
        Self { loaded, since: SystemTime::now() }
    }
}

impl Default for InForce {
    fn default() -> Self {
        Self::new(StaticClusters::default())
    }
}
