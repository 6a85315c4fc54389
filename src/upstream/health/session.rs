use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::probe::Probe;
use super::state::{CheckResult, Failure, FailureKind, HostState, Step, Traffic, next_interval};
use super::watch::ClusterWatch;
use crate::host::{HealthFlag, Host};

/// Of so many hosts the first checks begin at once; those of more are spread, each so much after the one before, so
/// that they do not all fall together for ever after.
const AT_ONCE: usize = 100;
const STAGGER: Duration = Duration::from_micros(50);

/// The checks of one host.
pub(super) struct Session {
    host: Arc<Host>,
    state: RefCell<HostState>,
    /// Its place among the hosts of the cluster.
    number: usize,
}

// === impl Session ===

impl Session {
    pub(super) fn begin(watch: &ClusterWatch, host: Arc<Host>, number: usize) -> Rc<Self> {
        let (stats, flags) = (&watch.checks().stats, host.flags());
        if !flags.has(HealthFlag::FailedActiveHc) {
            stats.healthy().inc();
        }
        if flags.has(HealthFlag::DegradedActiveHc) {
            stats.degraded().inc();
        }
        Rc::new(Self { host, state: RefCell::new(HostState::new()), number })
    }

    /// The host is gone.
    pub(super) fn end(&self, watch: &ClusterWatch) {
        let (stats, flags) = (&watch.checks().stats, self.host.flags());
        if !flags.has(HealthFlag::FailedActiveHc) {
            stats.healthy().dec();
        }
        if flags.has(HealthFlag::DegradedActiveHc) {
            stats.degraded().dec();
        }
    }

    /// Checks the host until it is dropped.
    pub(super) async fn run(self: Rc<Self>, watch: Rc<ClusterWatch>) {
        let checks = watch.checks();
        let intervals = &checks.config.intervals;
        let stagger = STAGGER * u32::try_from(self.number.saturating_sub(AT_ONCE)).unwrap_or(u32::MAX);
        let first = stagger + random_below(intervals.initial_jitter);
        if !first.is_zero() {
            sleep(first).await;
        }
        let mut probe = Probe::new(checks.target(&watch.cluster, self.host.clone()));
        loop {
            checks.stats.attempt().inc();
            let result = match timeout(checks.config.timeout, probe.run(&checks.stats)).await {
                Ok(result) => result,
                Err(_) => {
                    probe.give_up();
                    CheckResult::Failed(Failure::network(FailureKind::NetworkTimeout))
                }
            };
            let step = self.take(&watch, result);
            let traffic = match watch.cluster.stats.upstream_cx_total().value() {
                0 => Traffic::None,
                _ => Traffic::Some,
            };
            let passed = matches!(result, CheckResult::Passed { .. });
            sleep(next_interval(intervals, passed, step.transition, traffic, random_below)).await;
        }
    }

    /// Takes in a result, and tells everybody.
    pub(super) fn take(&self, watch: &ClusterWatch, result: CheckResult) -> Step {
        let checks = watch.checks();
        let before = self.host.flags();
        let step = self.state.borrow_mut().take(result, &self.host, &checks.config);
        let after = self.host.flags();
        let stats = &checks.stats;
        match result {
            CheckResult::Passed { .. } => stats.success().inc(),
            CheckResult::Failed(failure) => {
                stats.failure().inc();
                match failure.kind {
                    FailureKind::Network | FailureKind::NetworkTimeout => stats.network_failure().inc(),
                    FailureKind::Passive => stats.passive_failure().inc(),
                    FailureKind::Active => {}
                }
            }
        }
        match (before.has(HealthFlag::FailedActiveHc), after.has(HealthFlag::FailedActiveHc)) {
            (true, false) => stats.healthy().inc(),
            (false, true) => stats.healthy().dec(),
            _ => {}
        }
        match (before.has(HealthFlag::DegradedActiveHc), after.has(HealthFlag::DegradedActiveHc)) {
            (false, true) => stats.degraded().inc(),
            (true, false) => stats.degraded().dec(),
            _ => {}
        }
        watch.note_check(&self.host, result, &step);
        step
    }
}

fn random_below(bound: Duration) -> Duration {
    match u64::try_from(bound.as_nanos()) {
        Ok(0) | Err(_) => Duration::ZERO,
        Ok(nanos) => Duration::from_nanos(fastrand::u64(..nanos)),
    }
}
