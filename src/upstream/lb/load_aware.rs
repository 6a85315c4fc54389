//! The share of the load that each locality gets where it is what its hosts report that they can take
//! (`load_aware_locality`).
//!
//! ```text
//! reports -> Host                                               on a worker
//! Host -> LocalityLoad::update -> LocalityShares of the HostSet  on the control thread, once in a while
//! LocalityShares::choose                                        on a worker
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use nuncio_config::cluster::{LoadAware, Locality};
use nuncio_filter_api::Rng;
use nuncio_telemetry::stats::Scope;
use tokio::time::Instant;

use crate::host_set::{Availability, Candidates, HostSet, LocalityHosts, PriorityHosts};

/// What is known of the load of the localities of a cluster.
pub(crate) struct LocalityLoad {
    config: LoadAware,
    stats: LoadAwareStats,
    /// How busy the hosts of each are, smoothed; none of those that never reported. The lock is taken by those who
    /// change the hosts or their shares, never on the data path.
    smoothed: Mutex<Option<BTreeMap<Key, f64>>>,
}

nuncio_telemetry::stats! {
    /// `cluster.<name>.load_aware_locality`
    struct LoadAwareStats {
        all_overloaded_total: Counter,
        local_preferred_total: Counter,
        probe_active_total: Counter,
        recompute_total: Counter,
        spill_active_total: Counter,
        stale_locality_total: Counter,
    }
}

/// Which hosts of a priority are chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Healthy,
    Degraded,
    /// In panic.
    All,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    priority: usize,
    kind: Kind,
    locality: Option<Arc<Locality>>,
}

/// How much of the load of each priority goes to each of its localities.
#[derive(Debug, Default)]
pub(crate) struct LocalityShares {
    /// By priority, then as [`KINDS`].
    priorities: Box<[[Shares; KINDS.len()]]>,
}

/// By locality, what it and those before it get together.
#[derive(Debug, Default, PartialEq)]
struct Shares(Box<[f64]>);

/// One locality at one time.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// How many hosts it has.
    hosts: f64,
    /// How busy they are, of 1.
    utilization: f64,
    /// Whether that is what they said too long ago.
    is_stale: bool,
}

/// What has become of the localities at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outcome {
    all_overloaded: bool,
    local_preferred: bool,
    probe_active: bool,
    spill_active: bool,
}

const KINDS: [Kind; 3] = [Kind::Healthy, Kind::Degraded, Kind::All];

// === impl LocalityLoad ===

impl LocalityLoad {
    pub(crate) fn new(config: LoadAware, scope: &Scope) -> Self {
        let stats = LoadAwareStats::new(&scope.scope("load_aware_locality"));
        // Adding nothing shows them before there is anything to count.
        let counters = [
            stats.all_overloaded_total(),
            stats.local_preferred_total(),
            stats.probe_active_total(),
            stats.recompute_total(),
            stats.spill_active_total(),
            stats.stale_locality_total(),
        ];
        counters.into_iter().for_each(|counter| counter.add(0));
        Self { config, stats, smoothed: Mutex::default() }
    }

    /// Works out the shares of a set that is new: what is known stays as it is.
    pub(crate) fn begin(&self, set: &HostSet) {
        // As in `update`.
        let smoothed = self.smoothed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = &*smoothed else {
            drop(smoothed);
            return self.update(set);
        };
        let now = Instant::now();
        let load = |key: &Key, candidates: &Candidates| {
            let utilization = known.get(key).copied();
            let is_stale = self.reported(set, candidates, now).is_none() && utilization.is_some();
            Load { hosts: candidates.len() as f64, utilization: utilization.unwrap_or(0.0), is_stale }
        };
        set.shares.store(Some(Arc::new(self.shares(set, load).0)));
    }

    /// Works out the shares of `set` anew.
    pub(crate) fn update(&self, set: &HostSet) {
        // A poisoned lock means that a number is missing, or is one of before.
        let mut smoothed = self.smoothed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = smoothed.take().unwrap_or_default();
        let (mut after, mut stale) = (BTreeMap::new(), BTreeSet::new());
        let now = Instant::now();
        let (shares, outcome) = self.shares(set, |key, candidates| {
            let prior = before.get(key).copied();
            let reported = self.reported(set, candidates, now);
            let utilization = match (reported, prior) {
                (Some(now), Some(before)) => Some(self.config.blend * now + (1.0 - self.config.blend) * before),
                (now, before) => now.or(before),
            };
            if let Some(utilization) = utilization {
                after.insert(key.clone(), utilization);
            }
            let is_stale = reported.is_none() && prior.is_some();
            if is_stale {
                stale.insert((key.priority, key.locality.clone()));
            }
            Load { hosts: candidates.len() as f64, utilization: utilization.unwrap_or(0.0), is_stale }
        });
        *smoothed = Some(after);
        drop(smoothed);
        self.tell(outcome, stale.len());
        set.shares.store(Some(Arc::new(shares)));
    }

    fn tell(&self, outcome: Outcome, stale: usize) {
        let Outcome { all_overloaded, local_preferred, probe_active, spill_active } = outcome;
        self.stats.recompute_total().inc();
        self.stats.all_overloaded_total().add(all_overloaded.into());
        self.stats.local_preferred_total().add(local_preferred.into());
        self.stats.probe_active_total().add(probe_active.into());
        self.stats.spill_active_total().add(spill_active.into());
        self.stats.stale_locality_total().add(stale as u64);
    }

    /// How busy those of `candidates` are that say so, on the average.
    fn reported(&self, set: &HostSet, candidates: &Candidates, now: Instant) -> Option<f64> {
        let hosts = candidates.places().iter().map(|place| &set.hosts[*place as usize]);
        let mut count = 0;
        let sum: f64 =
            hosts.filter_map(|host| host.utilization(self.config.expiration, now)).inspect(|_| count += 1).sum();
        (count > 0).then(|| sum / f64::from(count))
    }

    fn shares(&self, set: &HostSet, mut load: impl FnMut(&Key, &Candidates) -> Load) -> (LocalityShares, Outcome) {
        let mut outcome = Outcome::default();
        let priorities = set.groups.priorities.iter().enumerate().map(|(priority, hosts)| {
            KINDS.map(|kind| {
                let loads: Vec<Load> = hosts
                    .localities
                    .iter()
                    .map(|locality| load(&Key::new(priority, kind, locality), kind.of(locality)))
                    .collect();
                let has_local = has_local(hosts, kind);
                Shares::of(&weights(&loads, has_local, &self.config, &mut outcome))
            })
        });
        (LocalityShares { priorities: priorities.collect() }, outcome)
    }
}

/// Envoy: without hosts there is no local locality.
fn has_local(hosts: &PriorityHosts, kind: Kind) -> bool {
    hosts.has_local && hosts.localities.first().is_some_and(|local| !kind.of(local).is_empty())
}

/// What each locality gets, of any whole. The first is the local one if there is one.
fn weights(loads: &[Load], has_local: bool, config: &LoadAware, outcome: &mut Outcome) -> Vec<f64> {
    let mut weights: Vec<f64> = loads.iter().map(Load::headroom).collect();
    let total: f64 = weights.iter().sum();
    let hosts: f64 = loads.iter().map(|load| load.hosts).sum();
    if total <= 0.0 {
        outcome.all_overloaded |= hosts > 0.0;
        return loads.iter().map(|load| load.hosts).collect();
    }
    let (Some((local, others)), true) = (loads.split_first(), has_local) else { return weights };
    let other_hosts: f64 = others.iter().map(|load| load.hosts).sum();
    if other_hosts <= 0.0 {
        return weights;
    }
    let average = others.iter().map(|load| load.utilization * load.hosts).sum::<f64>() / other_hosts;
    if local.utilization <= average + config.variance_threshold {
        weights.fill(0.0);
        weights[0] = total;
        outcome.local_preferred = true;
    } else {
        outcome.spill_active = true;
    }
    let elsewhere: f64 = weights[1..].iter().sum();
    let lacking = (config.probe_fraction * total - elsewhere).min(weights[0]);
    if lacking > 0.0 {
        outcome.probe_active = true;
        weights[0] -= lacking;
        for (weight, load) in weights[1..].iter_mut().zip(others) {
            *weight += lacking * load.hosts / other_hosts;
        }
    }
    weights
}

// === impl Load ===

impl Load {
    /// How many hosts with nothing to do it is worth.
    fn headroom(&self) -> f64 {
        match self.is_stale {
            true => self.hosts,
            false => self.hosts * (1.0 - self.utilization).max(0.0),
        }
    }
}

// === impl LocalityShares ===

impl LocalityShares {
    /// The place in `PriorityHosts::localities` of the locality for the next request; `None` where none has a share.
    pub(crate) fn choose(&self, priority: usize, kind: Kind, rng: &Rng) -> Option<usize> {
        self.priorities.get(priority)?[kind as usize].choose(rng)
    }
}

// === impl Shares ===

impl Shares {
    fn of(weights: &[f64]) -> Self {
        let mut sum = 0.0;
        let sums = weights.iter().map(|weight| {
            sum += weight;
            sum
        });
        Self(sums.collect())
    }

    fn choose(&self, rng: &Rng) -> Option<usize> {
        /// Numbers below this are exact as floats.
        const PARTS: u64 = 1 << 53;
        let total = *self.0.last().filter(|total| **total > 0.0)?;
        let wanted = rng.below(PARTS) as f64 / PARTS as f64 * total;
        let at = self.0.partition_point(|sum| *sum <= wanted);
        // Rounding may lead beyond the last that has a share.
        Some(at.min(self.0.partition_point(|sum| *sum < total)))
    }
}

// === impl Kind ===

impl Kind {
    fn of(self, locality: &LocalityHosts) -> &Candidates {
        match self {
            Self::Healthy => &locality.healthy,
            Self::Degraded => &locality.degraded,
            Self::All => &locality.all,
        }
    }
}

impl From<Availability> for Kind {
    fn from(availability: Availability) -> Self {
        match availability {
            Availability::Healthy => Self::Healthy,
            Availability::Degraded => Self::Degraded,
        }
    }
}

// === impl Key ===

impl Key {
    fn new(priority: usize, kind: Kind, locality: &LocalityHosts) -> Self {
        Self { priority, kind, locality: locality.locality.clone() }
    }
}

#[cfg(test)]
mod tests;
