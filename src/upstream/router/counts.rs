//! Where a request is counted besides its cluster.

use std::sync::Arc;

use nuncio_config::route::{RouteEntry, RouteStats};
use nuncio_filter_api::RequestHead;
use nuncio_telemetry::StreamInfo;

/// The stats of its virtual cluster and of its route, of those that have any.
#[derive(Clone, Default)]
pub(super) struct Counts {
    virtual_cluster: Option<Arc<RouteStats>>,
    route: Option<Arc<RouteStats>>,
}

impl Counts {
    /// Those of a request as it was received. Notes its virtual cluster for the logs.
    pub(super) fn of(entry: &RouteEntry, head: &RequestHead, info: &StreamInfo) -> Self {
        let virtual_cluster = entry.virtual_host().virtual_cluster(head).map(|(stats, name)| {
            *info.virtual_cluster.borrow_mut() = name.cloned();
            stats.clone()
        });
        Self { virtual_cluster, route: entry.stats().cloned() }
    }

    /// Calls `count` with each.
    pub(super) fn each(&self, count: impl Fn(&RouteStats)) {
        self.virtual_cluster.iter().chain(&self.route).for_each(|stats| count(stats));
    }
}
