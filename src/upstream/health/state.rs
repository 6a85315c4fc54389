//! What the results of a host's checks make of its health.
//!
//! ```text
//!             unhealthy_threshold failures, or one that the host itself told
//!   healthy  ---------------------------------------------------------------->  failed (the state to begin with)
//!            <----------------------------------------------------------------
//!             healthy_threshold successes, or one if it is the first check of all
//! ```

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use nuncio_config::cluster::{HealthCheck, Intervals};
use smallvec::SmallVec;

use crate::host::{HealthFlag, Host};

/// How far the checks of one kind of one host have come.
#[derive(Debug)]
pub(crate) struct HostState {
    /// What the other kinds say of the host.
    votes: Rc<Votes>,
    /// The host fails by this kind.
    pub(crate) is_failed: bool,
    /// It calls itself degraded.
    pub(crate) is_degraded: bool,
    /// No check has ended yet.
    is_first: bool,
    /// Successes in a row.
    successes: u32,
    /// Failures in a row that count.
    failures: u32,
}

/// By how many kinds of checks a host fails, and by how many it is degraded.
#[derive(Debug, Default)]
pub(crate) struct Votes {
    failed: Cell<u32>,
    degraded: Cell<u32>,
}

/// What a check has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckResult {
    /// The host is well, or says that it is degraded.
    Passed { degraded: bool },
    /// It is not.
    Failed(Failure),
}

/// Why a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// Whether it counts towards the threshold rather than being the host's own word.
    pub(crate) retriable: bool,
    /// Status of the answer, if it was HTTP.
    pub(crate) status: u16,
}

/// Kinds of failures, by Envoy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The answer is not the expected one.
    Active,
    /// A response to a request of the data path said so.
    Passive,
    /// There is no connection, or it broke.
    Network,
    /// The answer took too long.
    NetworkTimeout,
}

/// What became of the host's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    Unchanged,
    /// It will change if this goes on.
    Pending,
    Changed,
}

/// Something to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    EjectUnhealthy(Failure),
    AddHealthy { first_check: bool },
    Success,
    Failure { failure: Failure, first_check: bool },
    Degraded,
    NoLongerDegraded,
}

/// What a result led to.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) transition: Transition,
    pub(crate) events: SmallVec<[Event; 3]>,
}

// === impl Step ===

impl Step {
    /// Whether the host's place among the others has changed.
    pub(crate) fn is_change(&self) -> bool {
        self.transition == Transition::Changed
    }
}

// === impl Failure ===

impl Failure {
    /// Of the network: it counts towards the threshold.
    pub(crate) fn network(kind: FailureKind) -> Self {
        Self { kind, retriable: true, status: 0 }
    }

    fn counts(self) -> bool {
        self.retriable || matches!(self.kind, FailureKind::Network | FailureKind::NetworkTimeout)
    }
}

// === impl HostState ===

impl HostState {
    /// No check has been made.
    pub(crate) fn new(host: &Host, votes: Rc<Votes>) -> Self {
        let flags = host.flags();
        let (is_failed, is_degraded) = (flags.has(HealthFlag::FailedActiveHc), flags.has(HealthFlag::DegradedActiveHc));
        votes.failed.set(votes.failed.get() + u32::from(is_failed));
        votes.degraded.set(votes.degraded.get() + u32::from(is_degraded));
        Self { votes, is_failed, is_degraded, is_first: true, successes: 0, failures: 0 }
    }

    /// The host fails by this kind of checks, or no longer does: it fails where it does by any.
    fn vote(&mut self, is_failed: bool, host: &Host) {
        self.is_failed = is_failed;
        let failed = &self.votes.failed;
        failed.set(if is_failed { failed.get() + 1 } else { failed.get().saturating_sub(1) });
        if failed.get() > 0 {
            host.set_flag(HealthFlag::FailedActiveHc);
        } else {
            host.clear_flag(HealthFlag::ExcludedViaImmediateHcFail);
            host.clear_flag(HealthFlag::FailedActiveHc);
        }
    }

    /// The same of being degraded. False where that is no news.
    fn vote_degraded(&mut self, is_degraded: bool, host: &Host) -> bool {
        if std::mem::replace(&mut self.is_degraded, is_degraded) == is_degraded {
            return false;
        }
        let degraded = &self.votes.degraded;
        degraded.set(if is_degraded { degraded.get() + 1 } else { degraded.get().saturating_sub(1) });
        match degraded.get() {
            0 => host.clear_flag(HealthFlag::DegradedActiveHc),
            _ => host.set_flag(HealthFlag::DegradedActiveHc),
        };
        true
    }

    /// Takes in a result, and marks the host by it.
    pub(crate) fn take(&mut self, result: CheckResult, host: &Host, config: &HealthCheck) -> Step {
        let mut step = match result {
            CheckResult::Passed { degraded } => self.pass(degraded, host, config),
            CheckResult::Failed(failure) => self.fail(failure, host, config),
        };
        // Envoy: the end of the wait for a first check is a change by itself.
        if host.clear_flag(HealthFlag::PendingActiveHc) {
            step.transition = Transition::Changed;
        }
        self.is_first = false;
        step
    }

    fn pass(&mut self, degraded: bool, host: &Host, config: &HealthCheck) -> Step {
        self.failures = 0;
        host.clear_flag(HealthFlag::ActiveHcTimeout);
        let mut step = Step { transition: Transition::Unchanged, events: SmallVec::new() };
        if self.is_failed {
            self.successes = self.successes.saturating_add(1);
            host.note_return();
            // Envoy: the first check of all is enough, so that start-up is fast.
            if self.is_first || self.successes == config.healthy_threshold {
                self.vote(false, host);
                step.transition = Transition::Changed;
                step.events.push(Event::AddHealthy { first_check: self.is_first });
            } else {
                step.transition = Transition::Pending;
            }
        }
        // The return of a host says it already.
        if config.log.all_successes && step.transition != Transition::Changed {
            step.events.push(Event::Success);
        }
        if self.vote_degraded(degraded, host) {
            step.events.push(if degraded { Event::Degraded } else { Event::NoLongerDegraded });
            // A host that is not back yet is not back by being degraded.
            if step.transition == Transition::Unchanged {
                step.transition = Transition::Changed;
            }
        }
        step
    }

    fn fail(&mut self, failure: Failure, host: &Host, config: &HealthCheck) -> Step {
        self.successes = 0;
        let mut step = Step { transition: Transition::Unchanged, events: SmallVec::new() };
        if !self.is_failed {
            if failure.counts() {
                self.failures = self.failures.saturating_add(1);
            }
            if !failure.counts() || self.failures == config.unhealthy_threshold {
                self.vote(true, host);
                step.transition = Transition::Changed;
                step.events.push(Event::EjectUnhealthy(failure));
            } else {
                step.transition = Transition::Pending;
            }
        }
        match failure.kind {
            FailureKind::NetworkTimeout => host.set_flag(HealthFlag::ActiveHcTimeout),
            _ => host.clear_flag(HealthFlag::ActiveHcTimeout),
        };
        if self.is_first || config.log.all_failures {
            step.events.push(Event::Failure { failure, first_check: self.is_first });
        }
        step
    }
}

/// Whether a cluster is in use: one that is not is checked less often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// It never had a connection.
    None,
    Some,
}

/// Time from the end of a check to the beginning of the next. `random` draws below a bound.
pub(crate) fn next_interval(
    intervals: &Intervals,
    passed: bool,
    transition: Transition,
    traffic: Traffic,
    random: impl Fn(Duration) -> Duration,
) -> Duration {
    let is_pending = transition == Transition::Pending;
    let base = match (traffic, passed) {
        (Traffic::None, true) if !is_pending => intervals.no_traffic_healthy,
        (Traffic::None, _) => intervals.no_traffic,
        (Traffic::Some, false) if is_pending => intervals.unhealthy_edge,
        (Traffic::Some, false) => intervals.unhealthy,
        (Traffic::Some, true) if is_pending => intervals.healthy_edge,
        (Traffic::Some, true) => intervals.healthy,
    };
    let percent = random(base.saturating_mul(intervals.jitter_percent) / 100);
    let chosen = base + percent + random(intervals.jitter);
    let chosen = intervals.most.set_integer().map_or(chosen, |most| chosen.min(Duration::from_millis(most)));
    // Envoy: never none, so that there is time for other things.
    chosen.max(Duration::from_millis(intervals.least.integer(1).max(1)))
}

#[cfg(test)]
mod tests;
