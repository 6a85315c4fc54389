//! Watching over the hosts of clusters: active health checks, and what outlier detection finds. Runs on the control
//! thread; workers only see the flags of hosts and the sets made of them.
//!
//! ```text
//! run_health -> one ClusterWatch for each cluster -> one session for each host that is checked
//! ```

mod event;
mod feed;
mod grpc;
mod http;
mod probe;
mod redis;
mod session;
pub(crate) mod state;
mod tcp;
mod thrift;
mod watch;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nuncio_config::cluster::ClusterConfig;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use crate::cluster::{Cluster, Due};
use crate::clusters::{Clusters, Snapshot};
use crate::host::{HealthFlag, Host};
use crate::outlier::{OutlierLog, OutlierShare};
use watch::ClusterWatch;

/// Pause before a watch that panicked is started again, so that one that panics at once does not spin.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What the watch over a cluster and the workers tell each other.
#[derive(Debug)]
pub(crate) struct HealthShare {
    pub(crate) outlier: Option<OutlierShare>,
    /// Whether there are health checks.
    is_checking: bool,
    /// Wakes the watch: there are other hosts, or hosts that failed.
    wake: Notify,
    /// Hosts that asked in a response to be left alone. The lock is taken for the first such response of a host alone.
    failed: Mutex<Vec<Arc<Host>>>,
    /// Discovery has found the hosts, or found that there are none.
    hosts_known: AtomicBool,
}

// === impl HealthShare ===

impl HealthShare {
    /// `None` for a cluster whose hosts are not watched.
    pub(crate) fn new(config: &ClusterConfig) -> Option<Box<Self>> {
        if config.health_check.is_none() && config.outlier.is_none() {
            return None;
        }
        Some(Box::new(Self {
            outlier: config.outlier.clone().map(|o| OutlierShare::new(o, config.http.error_matcher.clone())),
            is_checking: config.health_check.is_some(),
            wake: Notify::new(),
            failed: Mutex::default(),
            hosts_known: AtomicBool::new(false),
        }))
    }

    /// Prepares a host whose flags are right.
    pub(crate) fn monitor(&self, host: &Host) {
        if self.outlier.is_some() {
            host.monitor_outliers();
        }
    }

    /// Prepares a host that is new to its cluster.
    pub(crate) fn adopt(&self, host: &Host, config: &ClusterConfig) {
        self.monitor(host);
        if config.health_check.is_some() && !host.is_never_checked() {
            host.set_flag(HealthFlag::FailedActiveHc);
            if config.common_lb.ignore_new_hosts_until_first_hc {
                host.set_flag(HealthFlag::PendingActiveHc);
            }
        }
    }

    /// The hosts have changed.
    pub(crate) fn hosts_changed(&self) {
        self.wake.notify_one();
    }

    /// The hosts are known for the first time.
    pub(crate) fn hosts_are_known(&self) {
        self.hosts_known.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// A response of `host` said that it is to be left alone (`x-envoy-immediate-health-check-fail`).
    pub(crate) fn fail_at_once(&self, host: &Arc<Host>) {
        if host.set_flag(HealthFlag::ExcludedViaImmediateHcFail) {
            // A poisoned lock means that a push panicked: the list is whole.
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(host.clone());
            self.wake.notify_one();
        }
    }

    fn take_failed(&self) -> Vec<Arc<Host>> {
        std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Clusters {
    /// Watches over the hosts of every snapshot. Runs until it is dropped, within a `LocalSet`.
    pub async fn run_health(self: Arc<Self>) {
        tokio::join!(self.watch_hosts(), self.do_what_is_due());
    }

    /// Has clusters do what they do later.
    async fn do_what_is_due(&self) {
        loop {
            let due = self.merges().due().await;
            let snapshot = self.snapshot();
            for due in due {
                let (Due::Tell(id) | Due::Look(id)) = due;
                match (snapshot.get(id), due) {
                    (Some(cluster), Due::Tell(_)) => cluster.tell_merged(),
                    (Some(cluster), Due::Look(_)) => cluster.look_for_staleness(),
                    (None, _) => {}
                }
            }
        }
    }

    async fn watch_hosts(&self) {
        let log = self.outlier_log().map(|file| Rc::new(OutlierLog::new(file.clone())));
        let mut changes = self.changes();
        let mut watches = Watches::default();
        loop {
            watches.reconcile(&self.snapshot(), log.as_ref());
            tokio::select! {
                // The sender is in `self`, so that waiting cannot fail.
                _ = changes.changed() => {}
                Some(ended) = watches.tasks.join_next() => if ended.is_err_and(|e| e.is_panic()) {
                    // The process's hook has logged it.
                    sleep(RESTART_PAUSE).await;
                }
            }
        }
    }
}

/// The tasks that watch. Dropping them ends them.
#[derive(Default)]
struct Watches {
    tasks: JoinSet<()>,
    /// By address of the cluster, which is kept here from being used again.
    running: HashMap<usize, (Arc<Cluster>, AbortHandle)>,
    /// What was looked at last.
    seen: Arc<Snapshot>,
}

impl Watches {
    fn reconcile(&mut self, snapshot: &Arc<Snapshot>, log: Option<&Rc<OutlierLog>>) {
        let before = std::mem::replace(&mut self.seen, snapshot.clone());
        for gone in before.only_here(snapshot) {
            if let Some((_, task)) = self.running.remove(&Arc::as_ptr(gone).addr()) {
                task.abort();
            }
        }
        let ended = self.running.values().filter(|(_, task)| task.is_finished());
        let ended: Vec<_> = ended.map(|(cluster, _)| cluster.clone()).collect();
        let come = snapshot.only_here(&before).filter(|cluster| cluster.health().is_some());
        for cluster in come.chain(&ended) {
            let watch = ClusterWatch::new(cluster.clone(), log.cloned());
            let task = self.tasks.spawn_local(watch.run());
            self.running.insert(Arc::as_ptr(cluster).addr(), (cluster.clone(), task));
        }
    }
}
