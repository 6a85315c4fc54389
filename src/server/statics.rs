//! What the bootstrap itself configures.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use nuncio_config::bootstrap::BootstrapConfig;
use nuncio_config::load::StaticClusters;
use nuncio_config::secret::StaticSecrets;

/// Names of clusters and listeners of the bootstrap.
#[derive(Default)]
pub(crate) struct Statics {
    pub(crate) clusters: HashSet<String>,
    pub(crate) listeners: HashSet<String>,
    /// Held for as long as the process runs.
    _secrets: Arc<StaticSecrets>,
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
            _secrets: config.secrets.clone(),
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
