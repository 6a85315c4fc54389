//! The configuration in force.

use std::sync::Arc;

use nuncio_net::Listener;

/// What the workers serve by. Replaced as a whole when configuration changes.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Listeners that accept.
    pub(crate) listeners: Vec<Arc<Listener>>,
}
