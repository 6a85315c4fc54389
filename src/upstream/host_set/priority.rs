use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use nuncio_config::cluster::{AssignmentPolicy, Locality};

use super::facts::{Fact, Facts};
use super::{Ability, Availability, Layout, Localities};
use crate::host::CoarseHealth;
use crate::lb::{Turn, first_turns};

/// The hosts of one priority.
#[derive(Debug)]
pub struct PriorityHosts {
    /// All of them.
    pub all: Candidates,
    /// The healthy ones.
    pub healthy: Candidates,
    /// The degraded ones.
    pub degraded: Candidates,
    /// Number of those that count neither as healthy nor as missing.
    pub excluded: usize,
    /// By locality: the local one, then by region, zone and sub-zone; empty where localities do not count.
    pub localities: Box<[LocalityHosts]>,
    /// Whether the first of `localities` is the local one.
    pub(crate) has_local: bool,
    /// How much of what is asked of it the priority can do with its healthy hosts, in percent, at most 100.
    pub health: u32,
    /// The same for its degraded hosts.
    pub degraded_health: u32,
    /// Whether too few are healthy, so that all are used.
    pub in_panic: bool,
}

/// The hosts of one locality at one priority.
#[derive(Debug)]
pub struct LocalityHosts {
    /// Where it is.
    pub locality: Option<Arc<Locality>>,
    /// Its weight; 0 where it has none.
    pub weight: u32,
    /// All hosts.
    pub all: Candidates,
    /// The healthy ones.
    pub healthy: Candidates,
    /// The degraded ones.
    pub degraded: Candidates,
    /// Number of those that count neither as healthy nor as missing.
    pub excluded: usize,
    overprovisioning_factor: u32,
}

/// Hosts among which one is chosen.
#[derive(Debug, Default)]
pub struct Candidates {
    /// Places in `HostSet::hosts`.
    places: Box<[u32]>,
    /// Whether their weights differ.
    pub(crate) is_weighted: bool,
    /// Of many whose weights differ: made at first use.
    first_turns: OnceLock<Arc<[Turn]>>,
}

/// So many hosts that no worker should schedule them all by itself.
const MANY: usize = 1024;

/// Hosts of one group by health.
#[derive(Default)]
struct Sorted {
    all: Vec<u32>,
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    excluded: usize,
    /// Sums of weights, as they are counted for `weighted_priority_health`.
    weights: Weights,
}

#[derive(Default)]
struct Weights {
    healthy: u64,
    degraded: u64,
    counted: u64,
}

// === impl PriorityHosts ===

impl PriorityHosts {
    /// The hosts at `places`, which are of `priority`.
    pub(super) fn new(priority: u32, facts: &Facts, places: &[u32], layout: Layout<'_>) -> Self {
        let mut sorted = Sorted::default();
        sorted.all.reserve_exact(places.len());
        sorted.healthy.reserve_exact(places.len());
        for &place in places {
            sorted.add(place, facts.at(place));
        }
        let (health, degraded_health) = sorted.health(layout.policy);
        let (localities, has_local) = match layout.localities {
            Localities::Ignored => (Box::default(), false),
            Localities::Grouped { local } => by_locality(priority, facts, places, layout.policy, local),
        };
        let Sorted { all, healthy, degraded, excluded, weights: _ } = sorted;
        Self {
            all: Candidates::new(all, facts),
            healthy: Candidates::new(healthy, facts),
            degraded: Candidates::new(degraded, facts),
            excluded,
            localities,
            has_local,
            health,
            degraded_health,
            in_panic: false,
        }
    }

    /// Its hosts of this kind.
    pub(crate) fn of(&self, availability: Availability) -> &Candidates {
        match availability {
            Availability::Healthy => &self.healthy,
            Availability::Degraded => &self.degraded,
        }
    }

    /// Whether no schedule was begun that workers share.
    pub(super) fn has_no_turns(&self) -> bool {
        let of = |all: &Candidates, healthy: &Candidates, degraded: &Candidates| {
            [all, healthy, degraded].into_iter().all(|candidates| candidates.first_turns.get().is_none())
        };
        of(&self.all, &self.healthy, &self.degraded)
            && self.localities.iter().all(|locality| of(&locality.all, &locality.healthy, &locality.degraded))
    }

    /// What its hosts can do.
    pub(crate) fn ability(&self) -> Ability {
        Ability {
            health: self.health,
            degraded_health: self.degraded_health,
            hosts: self.all.len(),
            available_percent: self.available_percent(),
        }
    }

    /// The percentage of hosts that are healthy or degraded; 0 where there are none.
    pub(crate) fn available_percent(&self) -> f64 {
        let counted = self.all.len() - self.excluded;
        if counted == 0 { 0.0 } else { 100.0 * (self.healthy.len() + self.degraded.len()) as f64 / counted as f64 }
    }
}

/// The hosts at `places` by locality, and whether the first locality is the local one.
fn by_locality(
    priority: u32,
    facts: &Facts,
    places: &[u32],
    policy: &AssignmentPolicy,
    local: Option<&Locality>,
) -> (Box<[LocalityHosts]>, bool) {
    let mut groups: Vec<(u32, Sorted)> = Vec::new();
    let mut by_number: HashMap<u32, usize> = HashMap::new();
    let mut last = 0;
    for &place in places {
        let fact = facts.at(place);
        // Hosts of one locality mostly follow each other.
        if groups.get(last).is_none_or(|(number, _)| *number != fact.locality) {
            last = *by_number.entry(fact.locality).or_insert_with(|| {
                groups.push((fact.locality, Sorted::default()));
                groups.len() - 1
            });
        }
        groups[last].1.add(place, fact);
    }
    let is_local = |locality: Option<&Arc<Locality>>| local.is_some() && locality.map(|l| &**l) == local;
    let mut groups: Vec<_> = groups.into_iter().map(|(number, sorted)| (facts.locality(number), sorted)).collect();
    groups.sort_by_key(|(locality, _)| (!is_local(*locality), *locality));
    let has_local = groups.first().is_some_and(|(locality, _)| is_local(*locality));
    let weight = |locality: Option<&Arc<Locality>>| {
        // The last one that is given counts.
        let mut weights = policy.locality_weights.iter().rev();
        weights.find(|w| w.priority == priority && w.locality.as_ref() == locality).map_or(0, |w| w.weight)
    };
    let localities = groups.into_iter().map(|(locality, sorted)| {
        let Sorted { all, healthy, degraded, excluded, weights: _ } = sorted;
        LocalityHosts {
            locality: locality.cloned(),
            weight: weight(locality),
            all: Candidates::new(all, facts),
            healthy: Candidates::new(healthy, facts),
            degraded: Candidates::new(degraded, facts),
            excluded,
            overprovisioning_factor: policy.overprovisioning_factor,
        }
    });
    (localities.collect(), has_local)
}

// === impl LocalityHosts ===

impl LocalityHosts {
    /// Its hosts of this kind.
    pub(crate) fn of(&self, availability: Availability) -> &Candidates {
        match availability {
            Availability::Healthy => &self.healthy,
            Availability::Degraded => &self.degraded,
        }
    }

    /// Its weight, less where too few of its hosts are among the `eligible` ones: `healthy` or `degraded`.
    pub(crate) fn effective_weight(&self, eligible: &Candidates) -> f64 {
        let counted = self.all.len().saturating_sub(self.excluded);
        if counted == 0 {
            return 0.0;
        }
        let available = eligible.len() as f64 / counted as f64;
        f64::from(self.weight) * (f64::from(self.overprovisioning_factor) / 100.0 * available).min(1.0)
    }
}

// === impl Sorted ===

impl Sorted {
    fn add(&mut self, place: u32, fact: &Fact) {
        let weight = u64::from(fact.weight);
        self.all.push(place);
        match fact.health {
            CoarseHealth::Healthy => {
                self.healthy.push(place);
                self.weights.healthy += weight;
            }
            CoarseHealth::Degraded => {
                self.degraded.push(place);
                self.weights.degraded += weight;
            }
            CoarseHealth::Unhealthy => {}
        }
        match fact.is_excluded {
            true => self.excluded += 1,
            false => self.weights.counted += weight,
        }
    }

    /// Health and degraded health in percent.
    fn health(&self, policy: &AssignmentPolicy) -> (u32, u32) {
        let counted = (self.all.len() - self.excluded) as u64;
        if counted == 0 {
            return (0, 0);
        }
        let (healthy, degraded, counted) = match policy.weighted_priority_health {
            true => (self.weights.healthy, self.weights.degraded, self.weights.counted),
            false => (self.healthy.len() as u64, self.degraded.len() as u64, counted),
        };
        let percent = |available: u64| {
            let percent = u128::from(available) * u128::from(policy.overprovisioning_factor) / u128::from(counted);
            percent.min(100) as u32
        };
        (percent(healthy), percent(degraded))
    }
}

// === impl Candidates ===

impl Candidates {
    fn new(places: Vec<u32>, facts: &Facts) -> Self {
        let mut weights = places.iter().map(|&place| facts.at(place).weight);
        let first = weights.next();
        let is_weighted = weights.any(|weight| Some(weight) != first);
        Self { places: places.into(), is_weighted, first_turns: OnceLock::new() }
    }

    /// Places in `HostSet::hosts`, in rising order.
    pub fn places(&self) -> &[u32] {
        &self.places
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The first turns of many hosts by weight, for all workers; `None` where they are few, or weigh the same.
    pub(crate) fn first_turns(&self, facts: &Facts) -> Option<&Arc<[Turn]>> {
        let weight = |place: u32| facts.at(place).weight;
        let is_heavy = self.is_weighted && self.len() > MANY;
        is_heavy.then(|| self.first_turns.get_or_init(|| first_turns(&self.places, weight)))
    }

    pub(super) fn has(&self, place: u32) -> bool {
        self.places.binary_search(&place).is_ok()
    }
}
