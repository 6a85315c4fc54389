//! What clusters do later, each at its time: changes of health that are told to the workers together
//! (`update_merge_window`), and assignments that are not to be used any longer (`endpoint_stale_after`).
//!
//! The first one after a quiet time is told at once. Those within a window of the last are held back until one window
//! after the first of them, or until hosts come or go.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nuncio_config::cluster::AssignmentPolicy;
use nuncio_telemetry::stats::Store;
use nuncio_telemetry::stats::catalogue::ClusterManagerStats;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Anew, Cluster};
use crate::timer::until;

/// When which clusters are to do what. One for all, so that a cluster needs no timer of its own.
pub(crate) struct Merges {
    stats: ClusterManagerStats,
    /// Numbers of clusters. Taken by those who change hosts, never on the data path.
    due: Mutex<Vec<(Instant, Due)>>,
    wake: Notify,
}

/// What a cluster, of this number, is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// To tell what it holds back.
    Tell(u32),
    /// To see whether its assignment is stale.
    Look(u32),
}

/// What one cluster holds back.
#[derive(Default)]
pub(super) struct Held {
    last: Option<Instant>,
    is_pending: bool,
    /// From when on its assignment is not to be used.
    stale_at: Option<Instant>,
    /// Whether somebody looks then, or before.
    is_watched: bool,
}

// === impl Merges ===

impl Merges {
    pub(crate) fn new(store: &Store) -> Self {
        let stats = ClusterManagerStats::new(&store.scope("cluster_manager"));
        Self { stats, due: Mutex::default(), wake: Notify::new() }
    }

    fn add(&self, at: Instant, due: Due) {
        lock(&self.due).push((at, due));
        self.wake.notify_one();
    }

    /// Waits until clusters are to do something.
    pub(crate) async fn due(&self) -> Vec<Due> {
        loop {
            let next = lock(&self.due).iter().map(|(at, _)| *at).min();
            tokio::select! {
                () = self.wake.notified() => {}
                () = until(next) => {
                    let now = Instant::now();
                    let due = lock(&self.due).extract_if(.., |(at, _)| *at <= now).map(|(_, due)| due).collect();
                    return due;
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock means that a push panicked: what it holds is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// Taken by those who change the hosts, never on the data path.
    fn held(&self) -> MutexGuard<'_, Held> {
        lock(self.held.get_or_init(Box::default))
    }

    /// Whether a change of health alone is to wait for others. Envoy tells each priority by itself.
    pub(super) fn holds_back(&self, priorities: usize) -> bool {
        // Envoy: a cluster is no news before it is ready.
        let Some(merges) = self.merges.as_ref().filter(|_| self.is_warm()) else { return false };
        let (window, now) = (self.config.common_lb.update_merge_window, Instant::now());
        let mut held = self.held();
        if window.is_zero() {
            merges.stats.cluster_updated().add(priorities as u64);
            return false;
        }
        if held.last.is_none_or(|last| now.saturating_duration_since(last) > window) {
            merges.stats.update_out_of_merge_window().add(priorities as u64);
            held.tell(&merges.stats, priorities, now);
            return false;
        }
        if !std::mem::replace(&mut held.is_pending, true) {
            merges.add(now + window, Due::Tell(self.config.name.id));
        }
        true
    }

    /// Hosts have come or gone, which is told at once, in so many priorities.
    pub(super) fn note_members(&self, priorities: usize) {
        if let Some(merges) = self.merges.as_ref().filter(|_| self.is_warm()) {
            self.held().tell(&merges.stats, priorities, Instant::now());
        }
    }

    /// The assignment has come that holds for so long, unless another comes.
    pub(super) fn expect_another(&self, stale_after: Option<Duration>) {
        let Some(merges) = &self.merges else { return };
        let Some(stale_after) = stale_after else {
            if self.held.get().is_some() {
                self.held().stale_at = None;
            }
            return;
        };
        self.stats.assignment_timeout_received().inc();
        let stale_at = Instant::now() + stale_after;
        let mut held = self.held();
        held.stale_at = Some(stale_at);
        if !std::mem::replace(&mut held.is_watched, true) {
            merges.add(stale_at, Due::Look(self.config.name.id));
        }
    }

    /// Gives up its assignment, where that is stale.
    pub(crate) fn look_for_staleness(&self) {
        let Some(merges) = &self.merges else { return };
        let is_stale = {
            let mut held = self.held();
            let Some(stale_at) = held.stale_at else {
                held.is_watched = false;
                return;
            };
            let is_stale = stale_at <= Instant::now();
            held.is_watched = !is_stale;
            match is_stale {
                true => held.stale_at = None,
                false => merges.add(stale_at, Due::Look(self.config.name.id)),
            }
            is_stale
        };
        if is_stale {
            self.stats.assignment_stale().inc();
            self.take_endpoints(&[], Some(&AssignmentPolicy::default()));
        }
    }

    /// Tells what was held back.
    pub(crate) fn tell_merged(&self) {
        let _writer = self.lock();
        let is_pending = {
            let mut held = self.held();
            held.last = Some(Instant::now());
            std::mem::take(&mut held.is_pending)
        };
        if let Some(merges) = self.merges.as_ref().filter(|_| is_pending) {
            let before = self.hosts.load();
            merges.stats.cluster_updated_via_merge().add(before.groups.priorities.len() as u64);
            self.publish(self.with_layout(Anew::No, |layout| before.refreshed(layout)));
        }
    }
}

// === impl Held ===

impl Held {
    /// All is told now, what was held back too.
    fn tell(&mut self, stats: &ClusterManagerStats, priorities: usize, now: Instant) {
        if std::mem::take(&mut self.is_pending) {
            stats.update_merge_cancelled().inc();
        }
        stats.cluster_updated().add(priorities as u64);
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nuncio_config::cluster::ClusterAssignment;

    use super::*;
    use crate::Clusters;
    use crate::host::HealthFlag;
    use crate::testing::{cluster_config, fixed};

    #[tokio::test(start_paused = true)]
    async fn changes_of_health_within_a_window_are_told_together() {
        let store = Store::new();
        let clusters = Clusters::new(&store, None);
        let hosts = (1..=3).map(|n| fixed(([127, 0, 0, n], 80).into())).collect();
        clusters.update([cluster_config("c", hosts)]);
        let cluster = clusters.snapshot().get(0).expect("it was added").clone();
        let merges = cluster.merges.clone().expect("it is managed");
        let fail = |at: usize| {
            let set = cluster.hosts();
            set.hosts[at].set_flag(HealthFlag::FailedActiveHc);
            cluster.update_health();
            cluster.hosts().healthy()
        };
        assert_eq!(fail(0), 2, "told at once");
        assert_eq!(fail(1), 2, "held back");
        assert_eq!(cluster.stats.membership_healthy().value(), 1, "but shown");
        let due = tokio::time::timeout(Duration::from_millis(999), merges.due()).await;
        assert!(due.is_err(), "a window is not over");
        assert_eq!(merges.due().await, [Due::Tell(0)]);
        cluster.tell_merged();
        assert_eq!(cluster.hosts().healthy(), 1);
        let stats = &merges.stats;
        assert_eq!((stats.cluster_updated_via_merge().value(), stats.update_out_of_merge_window().value()), (1, 1));
        // Hosts that come take with them what is held back.
        assert_eq!(fail(2), 1);
        let mut hosts = cluster.hosts().hosts.to_vec();
        hosts.pop();
        cluster.set_hosts(hosts);
        assert_eq!((stats.update_merge_cancelled().value(), stats.cluster_updated().value()), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn an_assignment_that_no_other_follows_in_time_is_given_up() {
        let clusters = Clusters::new(&Store::new(), None);
        clusters.update([cluster_config("c", Vec::new())]);
        let cluster = clusters.snapshot().get(0).expect("it was added").clone();
        let merges = cluster.merges.clone().expect("it is managed");
        let stale_after = Some(Duration::from_secs(10));
        let policy = AssignmentPolicy { stale_after, ..AssignmentPolicy::default() };
        let endpoints = [fixed(([127, 0, 0, 1], 80).into())].into();
        cluster.assign(&ClusterAssignment { endpoints, leds: Box::default(), policy });
        tokio::time::advance(Duration::from_secs(6)).await;
        cluster.confirm_assignment();
        assert_eq!(merges.due().await, [Due::Look(0)], "when it would have been stale");
        cluster.look_for_staleness();
        assert_eq!(cluster.hosts().hosts.len(), 1);
        assert_eq!(merges.due().await, [Due::Look(0)]);
        cluster.look_for_staleness();
        assert!(cluster.hosts().hosts.is_empty());
        let stats = &cluster.stats;
        assert_eq!((stats.assignment_timeout_received().value(), stats.assignment_stale().value()), (2, 1));
    }
}
