//! The hosts of a cluster at one time, by priority and locality, with the share of the load that each priority gets.

mod load;
mod lost;
mod priority;
mod subset;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use nuncio_config::cluster::{AssignmentPolicy, HashingLb, Locality, LocalityLb, SubsetLb};
use nuncio_telemetry::stats::Scope;

use crate::host::Host;
use crate::lb::HashTables;

pub use load::PriorityLoad;
pub(crate) use load::{Ability, Availability};
pub(crate) use lost::{ByAddress, Lost, only_in};
pub use priority::{Candidates, LocalityHosts, PriorityHosts};
pub(crate) use subset::Subsets;

/// The hosts of a cluster at one time.
#[derive(Debug)]
pub struct HostSet {
    /// All of them by priority, and within a priority in order of configuration or of resolution.
    pub hosts: Arc<[Arc<Host>]>,
    /// By priority, at least one; a priority without hosts among those that have some is empty.
    pub priorities: Box<[PriorityHosts]>,
    /// How much of the load goes to each priority.
    pub load: PriorityLoad,
    /// Whether the healthy hosts of the first priority get it all.
    pub(crate) is_plain: bool,
    /// For policies that hash.
    pub(crate) tables: Option<HashTables>,
    /// Where hosts are chosen by metadata.
    pub(crate) subsets: Option<Box<Subsets>>,
    /// Places in `hosts`, made when a host is first looked for by its address.
    by_address: OnceLock<HashMap<Box<str>, u32>>,
    /// What its cluster has lost until it.
    pub(crate) lost: Arc<Lost>,
}

/// How hosts become a set.
#[derive(Clone, Copy)]
pub(crate) struct Layout<'a> {
    /// What their assignment says.
    pub(crate) policy: &'a AssignmentPolicy,
    /// Below this percentage of healthy hosts all are used; 0 never.
    pub(crate) panic_threshold: u8,
    pub(crate) localities: Localities<'a>,
    /// For policies that hash.
    pub(crate) hashing: Option<Hashing<'a>>,
    pub(crate) subset: Option<&'a SubsetLb>,
    /// The set before, of which what is the same is taken over.
    pub(crate) before: Option<&'a HostSet>,
}

/// How the tables of policies that hash are made.
#[derive(Clone, Copy)]
pub(crate) struct Hashing<'a> {
    pub(crate) config: &'a HashingLb,
    pub(crate) locality: &'a LocalityLb,
    /// Of the cluster.
    pub(crate) scope: &'a Scope,
}

/// Whether hosts are told apart by locality, which costs memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Localities<'a> {
    Ignored,
    /// By locality, the local one, if there is one, before all others.
    Grouped {
        local: Option<&'a Locality>,
    },
}

// === impl HostSet ===

impl HostSet {
    /// The set of `hosts`, which are in any order.
    pub(crate) fn new(mut hosts: Vec<Arc<Host>>, layout: Layout<'_>) -> Self {
        // Stable: within a priority the order remains.
        hosts.sort_by_key(|host| host.priority);
        Self::of_sorted(hosts.into(), layout)
    }

    /// The set of the same hosts with the health that they have now.
    pub(crate) fn refreshed(&self, layout: Layout<'_>) -> Self {
        Self::of_sorted(self.hosts.clone(), layout)
    }

    fn of_sorted(hosts: Arc<[Arc<Host>]>, layout: Layout<'_>) -> Self {
        let all: Vec<u32> = (0..hosts.len() as u32).collect();
        let subsets = layout.subset.map(|config| Box::new(Subsets::new(config, &hosts, layout)));
        // Where there are subsets, nothing is looked up in the table of all.
        let hashing = layout.hashing.filter(|_| subsets.is_none());
        Self { subsets, ..Self::of_places(hosts, &all, Layout { hashing, ..layout }) }
    }

    /// The set of the hosts at `places`, which are in order.
    fn of_places(hosts: Arc<[Arc<Host>]>, places: &[u32], layout: Layout<'_>) -> Self {
        let mut priorities = Vec::with_capacity(1);
        let mut rest = places;
        // Envoy: a subset has as many priorities as the whole.
        let count = hosts.last().map_or(1, |last| last.priority + 1);
        for priority in 0..count {
            let (here, later) = rest.split_at(rest.partition_point(|at| hosts[*at as usize].priority <= priority));
            rest = later;
            priorities.push(PriorityHosts::new(priority, &hosts, here, layout));
        }
        let abilities: Vec<_> = priorities.iter().map(PriorityHosts::ability).collect();
        let (load, in_panic) = PriorityLoad::distribute(&abilities, layout.panic_threshold);
        priorities.iter_mut().zip(in_panic).for_each(|(priority, in_panic)| priority.in_panic = in_panic);
        let is_plain = load.healthy[0] == 100 && !priorities[0].in_panic;
        let tables = layout.hashing.map(|hashing| HashTables::new(hashing, &hosts, &priorities, layout.before));
        let (by_address, lost) = Default::default();
        Self { hosts, priorities: priorities.into(), load, is_plain, tables, subsets: None, by_address, lost }
    }

    /// The place in `hosts` of the one at `address`, such as `127.0.0.1:80`, whatever its health.
    pub(crate) fn find(&self, address: &str) -> Option<usize> {
        let by_address = self.by_address.get_or_init(|| {
            let all = (0..).zip(&*self.hosts);
            all.map(|(at, host)| (host.address().to_string().into_boxed_str(), at)).collect()
        });
        by_address.get(address).map(|at| *at as usize)
    }

    /// Makes it the next of its cluster after `before`. What workers would make of it for themselves is made here, where
    /// it takes time.
    pub(crate) fn follow(&mut self, before: &Self) {
        self.lost = before.lost.with_change(&before.hosts, &self.hosts);
        for priority in &self.priorities {
            priority.healthy.first_turns(&self.hosts);
        }
    }

    /// Number of healthy hosts.
    pub fn healthy(&self) -> usize {
        self.priorities.iter().map(|p| p.healthy.len()).sum()
    }

    /// Number of degraded hosts.
    pub fn degraded(&self) -> usize {
        self.priorities.iter().map(|p| p.degraded.len()).sum()
    }

    /// Number of hosts that count neither as healthy nor as missing.
    pub fn excluded(&self) -> usize {
        self.priorities.iter().map(|p| p.excluded).sum()
    }

    /// In how many priorities the hosts are others than those `before`: Envoy takes each for a change of its own.
    pub(crate) fn changed_priorities(&self, before: &Self) -> u64 {
        let differs = |priority: usize| {
            let (now, then) = (self.hosts_of(priority), before.hosts_of(priority));
            now.len() != then.len() || now.iter().zip(then).any(|(a, b)| !Arc::ptr_eq(a, b))
        };
        (0..self.priorities.len().max(before.priorities.len())).filter(|priority| differs(*priority)).count() as u64
    }

    fn hosts_of(&self, priority: usize) -> &[Arc<Host>] {
        let places = self.priorities.get(priority).map_or(&[][..], |p| p.all.places());
        let first = places.first().map_or(0, |first| *first as usize);
        &self.hosts[first..first + places.len()]
    }

    /// The greatest weight of a host, for the gauge `max_host_weight`.
    pub(crate) fn max_weight(&self) -> u32 {
        self.hosts.iter().map(|h| h.weight()).max().unwrap_or(0)
    }

    /// Whether a load balancer may choose the host at `place` now.
    pub fn is_candidate(&self, place: usize) -> bool {
        let Some(host) = self.hosts.get(place) else { return false };
        let priority = &self.priorities[host.priority as usize];
        let at = u32::try_from(place).unwrap_or(u32::MAX);
        let share = |load: &[u32]| load[host.priority as usize] > 0;
        if priority.in_panic {
            return share(&self.load.healthy) || share(&self.load.degraded);
        }
        (share(&self.load.healthy) && priority.healthy.has(at))
            || (share(&self.load.degraded) && priority.degraded.has(at))
    }
}
