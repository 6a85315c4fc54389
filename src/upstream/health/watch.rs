use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use nuncio_config::cluster::HealthCheck;
use nuncio_telemetry::stats::Gauge;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::HealthShare;
use super::event::EventLog;
use super::probe::Target;
use super::session::Session;
use super::state::{CheckResult, Failure, FailureKind, Step, Votes};
use crate::cluster::Cluster;
use crate::host::{HealthFlag, HealthFlags, Host};
use crate::outlier::{Detector, OutlierLog, OutlierShare, Record};
use crate::timer::until;

/// The sets of hosts are made anew no more often than in so much time for each host: a burst of results costs a
/// fraction of the thread, however many hosts there are.
const REST_PER_HOST: Duration = Duration::from_micros(5);

nuncio_telemetry::stats! {
    /// `cluster.<name>.health_check`
    pub(super) struct HealthCheckStats {
        attempt: Counter,
        success: Counter,
        failure: Counter,
        passive_failure: Counter,
        network_failure: Counter,
        verify_cluster: Counter,
        /// Hosts that are checked and do not fail.
        healthy: Gauge,
        /// Hosts that call themselves degraded.
        degraded: Gauge,
    }
}

nuncio_telemetry::stats! {
    /// `cluster.<name>.health_check`, where there are several checks.
    pub(super) struct TotalStats {
        /// Hosts that fail by no check.
        healthy: Gauge,
        /// Hosts that are degraded by any.
        degraded: Gauge,
    }
}

/// The watch over the hosts of one cluster.
pub(super) struct ClusterWatch {
    pub(super) cluster: Arc<Cluster>,
    checks: Option<Checks>,
    detector: Option<RefCell<Detector>>,
    outlier_log: Option<Rc<OutlierLog>>,
    /// Flags have changed, and the cluster has not taken notice yet.
    is_stale: Cell<bool>,
    stale: Notify,
}

/// The health checks of one cluster.
pub(super) struct Checks {
    all: Box<[Rc<Check>]>,
    totals: Option<TotalStats>,
    /// Checks that must end before the cluster is ready; `None` until its hosts are known.
    pending: Cell<Option<usize>>,
    is_warm: Cell<bool>,
}

/// One kind of checks.
pub(super) struct Check {
    pub(super) config: Arc<HealthCheck>,
    pub(super) stats: HealthCheckStats,
    log: EventLog,
}

/// The sessions of a watch, each with its task. They end with it.
struct Sessions {
    watch: Rc<ClusterWatch>,
    tasks: JoinSet<()>,
    by_host: HashMap<*const Host, HostSessions>,
}

/// One for each kind of checks.
struct HostSessions {
    host: Arc<Host>,
    all: Vec<(Rc<Session>, tokio::task::AbortHandle)>,
}

// === impl Checks ===

impl Checks {
    /// `None` where there are none.
    fn new(cluster: &Cluster) -> Option<Self> {
        let first = cluster.config.health_check.iter();
        let all: Box<[_]> =
            first.chain(&cluster.config.further_checks).map(|check| Check::new(check, cluster)).collect();
        let totals = (all.len() > 1).then(|| TotalStats::new(&cluster.scope().scope("health_check")));
        (!all.is_empty()).then(|| Self { all, totals, pending: Cell::new(None), is_warm: Cell::new(false) })
    }

    /// A host has these flags, and had those before; none before it comes, and after it goes.
    pub(super) fn note_flags(&self, before: Option<HealthFlags>, now: Option<HealthFlags>) {
        let Some(totals) = &self.totals else { return };
        let is_healthy = |flags: HealthFlags| !flags.has(HealthFlag::FailedActiveHc);
        let is_degraded = |flags: HealthFlags| flags.has(HealthFlag::DegradedActiveHc);
        recount(totals.healthy(), before.is_some_and(is_healthy), now.is_some_and(is_healthy));
        recount(totals.degraded(), before.is_some_and(is_degraded), now.is_some_and(is_degraded));
    }
}

// === impl Check ===

impl Check {
    fn new(config: &Arc<HealthCheck>, cluster: &Cluster) -> Rc<Self> {
        let scope = cluster.scope().scope("health_check");
        let scope = if config.name.is_empty() { scope } else { scope.scope("name").scope(&config.name) };
        let log = EventLog::new(config, &cluster.config.name.name);
        Rc::new(Self { config: config.clone(), stats: HealthCheckStats::new(&scope), log })
    }

    /// The host as the one who is asked.
    pub(super) fn target(&self, cluster: &Arc<Cluster>, host: Arc<Host>) -> Target {
        Target { cluster: cluster.clone(), config: self.config.clone(), host }
    }
}

// === impl ClusterWatch ===

impl ClusterWatch {
    pub(super) fn new(cluster: Arc<Cluster>, outlier_log: Option<Rc<OutlierLog>>) -> Rc<Self> {
        let checks = Checks::new(&cluster);
        let detector = cluster.config.outlier.clone().map(|config| {
            let random = |below| fastrand::u64(..below);
            RefCell::new(Detector::new(config, &cluster.scope().scope("outlier_detection"), random))
        });
        Rc::new(Self { cluster, checks, detector, outlier_log, is_stale: Cell::new(false), stale: Notify::new() })
    }

    pub(super) fn checks(&self) -> &Checks {
        self.checks.as_ref().expect("only clusters with health checks have sessions")
    }

    /// Watches until it is dropped.
    pub(super) async fn run(self: Rc<Self>) {
        let Some(share) = self.cluster.health() else { return };
        let mut sessions = Sessions::new(&self);
        let mut rested = Instant::now();
        let mut interval_end = share.outlier.as_ref().map(|outlier| Instant::now() + interval(outlier));
        loop {
            self.take_hosts(share, &mut sessions);
            self.answer(share, &sessions);
            if self.is_stale.get() && Instant::now() >= rested {
                self.is_stale.set(false);
                self.cluster.update_health();
                rested = Instant::now() + REST_PER_HOST * u32::try_from(sessions.by_host.len()).unwrap_or(u32::MAX);
            }
            self.finish_warming();
            tokio::select! {
                () = share.wake.notified() => {}
                () = alarm(share.outlier.as_ref()) => {}
                () = self.stale.notified(), if !self.is_stale.get() => {}
                () = sleep_until(rested), if self.is_stale.get() => {}
                () = until(interval_end) => {
                    self.end_interval(share);
                    interval_end = share.outlier.as_ref().map(|outlier| Instant::now() + interval(outlier));
                }
            }
        }
    }

    /// Begins to check hosts that are new, and stops with those that are gone.
    fn take_hosts(self: &Rc<Self>, share: &HealthShare, sessions: &mut Sessions) {
        // Known before they are read: those that are known are then among them.
        let are_known = share.hosts_known.load(Ordering::Acquire);
        let set = self.cluster.hosts();
        if let Some(detector) = &self.detector {
            detector.borrow_mut().set_hosts(&set.hosts);
        }
        let Some(checks) = &self.checks else { return };
        sessions.reconcile(&set.hosts);
        if are_known && checks.pending.get().is_none() {
            checks.pending.set(Some(sessions.by_host.len() * checks.all.len()));
        }
        while sessions.tasks.try_join_next().is_some() {}
    }

    /// Acts on what the workers have told.
    fn answer(&self, share: &HealthShare, sessions: &Sessions) {
        for host in share.take_failed() {
            // Envoy: of several checks the last is told.
            let told = sessions.by_host.get(&Arc::as_ptr(&host)).and_then(|of_host| of_host.all.last());
            if let Some((session, _)) = told {
                let failure = Failure { kind: FailureKind::Passive, retriable: false, status: 0 };
                session.take(self, CheckResult::Failed(failure));
            }
            self.note_change();
        }
        if let Some(detector) = &self.detector {
            let records = detector.borrow_mut().answer_alarms(Instant::now());
            self.note_ejections(&records);
            self.note_degradations(detector);
        }
    }

    fn end_interval(&self, share: &HealthShare) {
        if let (Some(detector), Some(outlier)) = (&self.detector, &share.outlier) {
            let records = detector.borrow_mut().end_interval(&outlier.rates, Instant::now());
            self.note_ejections(&records);
            self.note_degradations(detector);
        }
    }

    fn note_ejections(&self, records: &[Record]) {
        if records.is_empty() {
            return;
        }
        self.note_change();
        records.iter().filter(|record| record.is_ejection()).for_each(|record| record.host.give_up_connections());
        if let Some(log) = &self.outlier_log {
            let now = SystemTime::now();
            records.iter().for_each(|record| log.write(&self.cluster.config.name.name, record, now));
        }
    }

    fn note_degradations(&self, detector: &RefCell<Detector>) {
        if detector.borrow_mut().take_stale() {
            self.note_change();
        }
    }

    /// A check of `host` has ended, which may end more than the check.
    pub(super) fn note_check(&self, check: &Check, host: &Arc<Host>, result: CheckResult, step: &Step) {
        let checks = self.checks();
        check.log.write(host, &step.events);
        if step.is_change() {
            self.note_change();
            if matches!(result, CheckResult::Failed(_)) && host.flags().has(HealthFlag::FailedActiveHc) {
                host.give_up_connections();
            }
        }
        if let Some(pending) = checks.pending.get() {
            checks.pending.set(Some(pending.saturating_sub(1)));
            if pending == 1 {
                self.note_change();
            }
        }
        if let (Some(detector), CheckResult::Passed { .. }) = (&self.detector, result)
            && self.cluster.config.outlier.as_ref().is_some_and(|config| config.health_check_ends_ejection)
            && !host.flags().has(HealthFlag::FailedActiveHc)
        {
            let record = detector.borrow_mut().uneject(host, Instant::now());
            self.note_ejections(record.as_slice());
        }
    }

    /// The cluster is to take notice of the flags.
    fn note_change(&self) {
        self.is_stale.set(true);
        self.stale.notify_one();
    }

    fn finish_warming(&self) {
        if let Some(checks) = &self.checks
            && checks.pending.get() == Some(0)
            && !self.is_stale.get()
            && !checks.is_warm.replace(true)
        {
            self.cluster.finish_warming();
        }
    }
}

/// Counts one that belonged to what is counted, or did not, and does now, or does not.
pub(super) fn recount(gauge: Gauge<'_>, before: bool, now: bool) {
    match (before, now) {
        (false, true) => gauge.inc(),
        (true, false) => gauge.dec(),
        _ => {}
    }
}

/// The time to the next look at all hosts, as the runtime has it now.
fn interval(outlier: &OutlierShare) -> Duration {
    // Envoy's, with a bound: with 0 there would be no time for anything else.
    outlier.config.now().interval.max(Duration::from_millis(1))
}

async fn alarm(outlier: Option<&OutlierShare>) {
    match outlier {
        Some(outlier) => outlier.wake.notified().await,
        None => std::future::pending().await,
    }
}

// === impl Sessions ===

impl Sessions {
    fn new(watch: &Rc<ClusterWatch>) -> Self {
        Self { watch: watch.clone(), tasks: JoinSet::new(), by_host: HashMap::new() }
    }

    fn reconcile(&mut self, hosts: &[Arc<Host>]) {
        let present: std::collections::HashSet<_> = hosts.iter().map(Arc::as_ptr).collect();
        let gone = |host: &*const Host, _: &mut _| !present.contains(host);
        let watch = self.watch.clone();
        let checks = watch.checks();
        self.by_host.extract_if(gone).for_each(|(_, sessions)| sessions.end(checks));
        for host in hosts.iter().filter(|host| !host.is_never_checked()) {
            if self.by_host.contains_key(&Arc::as_ptr(host)) {
                continue;
            }
            let (number, votes) = (self.by_host.len(), Rc::<Votes>::default());
            let begin = |check: &Rc<Check>| Session::begin(check.clone(), host.clone(), votes.clone(), number);
            let sessions: Vec<_> = checks.all.iter().map(begin).collect();
            checks.note_flags(None, Some(host.flags()));
            let spawned = sessions.into_iter().map(|session| {
                let task = self.tasks.spawn_local(session.clone().run(watch.clone()));
                (session, task)
            });
            let all = spawned.collect();
            self.by_host.insert(Arc::as_ptr(host), HostSessions { host: host.clone(), all });
        }
    }
}

/// The gauges go on with the cluster that takes the place of this one.
impl Drop for Sessions {
    fn drop(&mut self) {
        if let Some(checks) = &self.watch.checks {
            self.by_host.drain().for_each(|(_, sessions)| sessions.end(checks));
        }
    }
}

// === impl HostSessions ===

impl HostSessions {
    fn end(self, checks: &Checks) {
        let Self { host, all } = self;
        for (session, task) in all {
            task.abort();
            session.end();
        }
        checks.note_flags(Some(host.flags()), None);
    }
}
