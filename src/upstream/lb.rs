//! Load balancing: which of the hosts that may be chosen gets a request. State belongs to one worker.

mod edf;

use std::cell::{Cell, RefCell};

use nuncio_config::cluster::LbPolicy;
use nuncio_filter_api::Rng;

use crate::host::HostSet;
use edf::Edf;

/// A load balancer over one [`HostSet`]; a new set gets a new one.
#[derive(Debug)]
pub(crate) enum LoadBalancer {
    RoundRobin(RoundRobin),
    LeastRequest { choices: u32, weighted: Option<RefCell<Edf>> },
    Random,
}

/// Hosts in turn.
#[derive(Debug)]
pub(crate) enum RoundRobin {
    /// All weights are equal: the place of the next.
    Equal(Cell<usize>),
    /// By earliest deadline.
    Weighted(RefCell<Edf>),
}

// === impl LoadBalancer ===

impl LoadBalancer {
    pub(crate) fn new(policy: LbPolicy, set: &HostSet, rng: &Rng) -> Self {
        match policy {
            LbPolicy::RoundRobin => Self::RoundRobin(RoundRobin::new(set, rng)),
            LbPolicy::LeastRequest { choices } => {
                Self::LeastRequest { choices, weighted: has_weights(set).then(|| RefCell::new(schedule(set, rng))) }
            }
            LbPolicy::Random => Self::Random,
        }
    }

    /// The place in `set.hosts` of the host for the next request; `None` if there is none to choose from.
    pub(crate) fn pick(&self, set: &HostSet, rng: &Rng) -> Option<usize> {
        let eligible = set.eligible.as_slice();
        let chosen = match (eligible, self) {
            ([], _) => return None,
            ([only], _) => *only,
            (_, Self::RoundRobin(RoundRobin::Equal(next))) => {
                let at = next.get();
                next.set(if at + 1 >= eligible.len() { 0 } else { at + 1 });
                eligible[at]
            }
            (_, Self::RoundRobin(RoundRobin::Weighted(edf))) => {
                edf.borrow_mut().next(|host| f64::from(set.hosts[host as usize].weight))
            }
            (_, Self::LeastRequest { weighted: Some(edf), .. }) => {
                edf.borrow_mut().next(|host| least_request_weight(set, host))
            }
            (_, Self::LeastRequest { choices, weighted: None }) => least_active(set, *choices, rng),
            (_, Self::Random) => random(eligible, rng),
        };
        Some(chosen as usize)
    }
}

fn random(eligible: &[u32], rng: &Rng) -> u32 {
    eligible[rng.below(eligible.len() as u64) as usize]
}

/// The least busy of `choices` hosts drawn with replacement; of equally busy ones the first drawn.
fn least_active(set: &HostSet, choices: u32, rng: &Rng) -> u32 {
    let active = |host: u32| set.hosts[host as usize].stats.rq_active.get();
    let mut best = random(&set.eligible, rng);
    for _ in 1..choices {
        let other = random(&set.eligible, rng);
        if active(other) < active(best) {
            best = other;
        }
    }
    best
}

/// Envoy: where weights differ, a host's weight is divided by its load at the time it was last chosen.
fn least_request_weight(set: &HostSet, host: u32) -> f64 {
    let host = &set.hosts[host as usize];
    f64::from(host.weight) / (host.stats.rq_active.get() + 1) as f64
}

fn has_weights(set: &HostSet) -> bool {
    let mut weights = set.eligible.iter().map(|&host| set.hosts[host as usize].weight);
    let first = weights.next();
    weights.any(|weight| Some(weight) != first)
}

/// A schedule that begins at a random place, so that the workers do not all begin with the same host.
fn schedule(set: &HostSet, rng: &Rng) -> Edf {
    let weight = |host: u32| f64::from(set.hosts[host as usize].weight);
    let mut edf = Edf::new(&set.eligible, weight);
    for _ in 0..rng.below(set.eligible.len().max(1) as u64) {
        edf.next(weight);
    }
    edf
}

// === impl RoundRobin ===

impl RoundRobin {
    fn new(set: &HostSet, rng: &Rng) -> Self {
        if has_weights(set) {
            Self::Weighted(RefCell::new(schedule(set, rng)))
        } else {
            Self::Equal(Cell::new(rng.below(set.eligible.len().max(1) as u64) as usize))
        }
    }
}

#[cfg(test)]
mod tests;
