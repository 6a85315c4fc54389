use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::probe::Probe;
use super::state::{CheckResult, Failure, FailureKind, HostState, Step, Traffic, Votes, next_interval};
use super::watch::{Check, ClusterWatch, recount};
use crate::host::Host;

/// Of so many hosts the first checks begin at once; those of more are spread, each so much after the one before, so
/// that they do not all fall together for ever after.
const AT_ONCE: usize = 100;
const STAGGER: Duration = Duration::from_micros(50);

/// The checks of one kind of one host.
pub(super) struct Session {
    check: Rc<Check>,
    host: Arc<Host>,
    state: RefCell<HostState>,
    /// Its place among the hosts of the cluster.
    number: usize,
}

/// What a host counts as by one kind of checks: as nothing before they begin, and after their end.
#[derive(Clone, Copy, Default)]
struct Standing {
    is_healthy: bool,
    is_degraded: bool,
}

// === impl Session ===

impl Session {
    pub(super) fn begin(check: Rc<Check>, host: Arc<Host>, votes: Rc<Votes>, number: usize) -> Rc<Self> {
        let state = RefCell::new(HostState::new(&host, votes));
        let session = Self { check, host, state, number };
        session.count(Standing::default(), session.standing());
        Rc::new(session)
    }

    /// The host is gone.
    pub(super) fn end(&self) {
        self.count(self.standing(), Standing::default());
    }

    /// Checks the host until it is dropped.
    pub(super) async fn run(self: Rc<Self>, watch: Rc<ClusterWatch>) {
        let check = &self.check;
        let intervals = &check.config.intervals;
        let stagger = STAGGER * u32::try_from(self.number.saturating_sub(AT_ONCE)).unwrap_or(u32::MAX);
        let first = stagger + random_below(intervals.initial_jitter);
        if !first.is_zero() {
            sleep(first).await;
        }
        let mut probe = Probe::new(check.target(&watch.cluster, self.host.clone()));
        loop {
            check.stats.attempt().inc();
            let result = match timeout(check.config.timeout, probe.run(&check.stats)).await {
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
        let (before, was) = (self.host.flags(), self.standing());
        let step = self.state.borrow_mut().take(result, &self.host, &self.check.config);
        let (after, is) = (self.host.flags(), self.standing());
        let stats = &self.check.stats;
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
        self.count(was, is);
        watch.checks().note_flags(Some(before), Some(after));
        watch.note_check(&self.check, &self.host, result, &step);
        step
    }

    fn standing(&self) -> Standing {
        let state = self.state.borrow();
        Standing { is_healthy: !state.is_failed, is_degraded: state.is_degraded }
    }

    fn count(&self, before: Standing, now: Standing) {
        let stats = &self.check.stats;
        recount(stats.healthy(), before.is_healthy, now.is_healthy);
        recount(stats.degraded(), before.is_degraded, now.is_degraded);
    }
}

fn random_below(bound: Duration) -> Duration {
    match u64::try_from(bound.as_nanos()) {
        Ok(0) | Err(_) => Duration::ZERO,
        Ok(nanos) => Duration::from_nanos(fastrand::u64(..nanos)),
    }
}
