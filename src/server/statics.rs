//! What the bootstrap itself configures.

use std::collections::HashSet;

use nuncio_config::bootstrap::BootstrapConfig;

/// Names of clusters and listeners of the bootstrap.
#[derive(Debug, Default)]
pub(crate) struct Statics {
    clusters: HashSet<String>,
    listeners: HashSet<String>,
}

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
