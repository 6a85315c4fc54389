//! The configuration in force.

use std::collections::HashSet;
use std::sync::Arc;

use nuncio_net::Listener;

/// What the workers serve by. Replaced as a whole when configuration changes.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Listeners that accept.
    pub(crate) listeners: Vec<Arc<Listener>>,
    /// Those that wait for what they need.
    pub(crate) warming: Vec<Arc<Listener>>,
    /// Those that accept no more, while their connections end.
    pub(crate) draining: Vec<Arc<Listener>>,
}

/// How these are called. Of one name there may be several.
pub(crate) fn names_of(listeners: &[Arc<Listener>]) -> HashSet<&str> {
    listeners.iter().map(|listener| &*listener.config.name).collect()
}
