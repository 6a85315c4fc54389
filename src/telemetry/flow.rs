//! What is counted when one side of a stream has to wait because the other takes no more.

use std::rc::Rc;

use crate::stats::catalogue::ClusterStats;
use crate::{ChosenHost, StreamInfo};

/// A request of which its host takes no more for now, so that no more of it is read. It is counted as begun when this
/// is made, and as over when it is dropped.
#[derive(Debug)]
pub struct BackedUp {
    info: Rc<StreamInfo>,
    /// That of the attempt: another may have been chosen when it ends.
    host: Option<ChosenHost>,
}

// === impl BackedUp ===

impl BackedUp {
    /// The request of `info` is to wait.
    #[cold]
    pub fn new(info: &Rc<StreamInfo>) -> Self {
        let host = info.upstream.borrow().chosen.clone();
        if let Some(host) = &host {
            host.facts().cluster_stats().upstream_flow_control_backed_up_total().inc();
        }
        if let Some(http) = info.connection.http.get() {
            http.downstream_flow_control_paused_reading_total().inc();
        }
        Self { info: info.clone(), host }
    }
}

impl Drop for BackedUp {
    fn drop(&mut self) {
        let Self { info, host } = self;
        if let Some(host) = host {
            host.facts().cluster_stats().upstream_flow_control_drained_total().inc();
        }
        if let Some(http) = info.connection.http.get() {
            http.downstream_flow_control_resumed_reading_total().inc();
        }
    }
}

impl StreamInfo {
    /// Notes and counts that no more of the response is read for now: its client takes no more.
    #[cold]
    pub fn pause_response(&self) {
        self.is_response_paused.set(true);
        self.of_cluster(|stats| stats.upstream_flow_control_paused_reading_total().inc());
    }

    /// Notes and counts that the response goes on. Envoy: one that ends while it waits is not counted here.
    #[cold]
    pub fn resume_response(&self) {
        self.is_response_paused.set(false);
        self.of_cluster(|stats| stats.upstream_flow_control_resumed_reading_total().inc());
    }

    /// A stream that is answered here has no cluster.
    fn of_cluster(&self, count: impl FnOnce(&ClusterStats)) {
        if let Some(host) = &self.upstream.borrow().chosen {
            count(host.facts().cluster_stats());
        }
    }
}
