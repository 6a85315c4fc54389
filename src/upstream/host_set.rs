//! The hosts of a cluster at one time, by priority and locality, with the share of the load that each priority gets.

mod addresses;
mod change;
mod ends;
mod facts;
mod groups;
mod load;
mod lost;
mod priority;
mod subset;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use nuncio_config::cluster::{AssignmentPolicy, HashingLb, Locality, LocalityLb, SubsetLb};
use nuncio_telemetry::stats::Scope;

use crate::host::Host;
use crate::lb::LocalityShares;
use addresses::Addresses;
use change::{Change, Known};
use ends::are_same;

pub(crate) use facts::Facts;
pub(crate) use groups::Before;
pub use groups::HostGroups;
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
    /// Their places by priority, health and locality.
    pub groups: HostGroups,
    /// Where hosts are chosen by metadata.
    pub(crate) subsets: Option<Box<Subsets>>,
    /// What was known of the hosts when it was made.
    pub(crate) facts: Facts,
    /// Places in `hosts`, made when a host is first looked for by its address.
    by_address: OnceLock<Addresses>,
    /// What its cluster has lost until it.
    pub(crate) lost: Arc<Lost>,
    /// How much of the load goes to each locality, where it is what their hosts can take.
    pub(crate) shares: ArcSwapOption<LocalityShares>,
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
        let before = layout.before.map(Self::known);
        let facts = Facts::of(&mut hosts, layout.localities != Localities::Ignored, before);
        Self::of_sorted(hosts.into(), facts, layout)
    }

    /// The set of the same hosts with the health that they have now.
    pub(crate) fn refreshed(&self, layout: Layout<'_>) -> Self {
        Self::of_sorted(self.hosts.clone(), Facts::of_sorted(&self.hosts, &self.facts), layout)
    }

    fn of_sorted(hosts: Arc<[Arc<Host>]>, facts: Facts, layout: Layout<'_>) -> Self {
        let places: Vec<u32> = (0..hosts.len() as u32).collect();
        let all = Known { hosts: &hosts, facts: &facts };
        let subsets = layout.subset.map(|config| Box::new(Subsets::new(config, all, layout)));
        // Where there are subsets, nothing is looked up in the table of all.
        let hashing = layout.hashing.filter(|_| subsets.is_none());
        let before = layout.before.map(|set| Before { groups: &set.groups, hosts: &set.hosts });
        let groups = HostGroups::new(all, &places, Layout { hashing, ..layout }, before);
        let (by_address, lost, shares) = Default::default();
        Self { groups, subsets, hosts, facts, by_address, lost, shares }
    }

    fn known(&self) -> Known<'_> {
        Known { hosts: &self.hosts, facts: &self.facts }
    }

    /// The place in `hosts` of the one at `address`, such as `127.0.0.1:80`, whatever its health.
    pub(crate) fn find(&self, address: &str) -> Option<usize> {
        self.by_address.get_or_init(|| Addresses::of(&self.hosts)).find(address, &self.hosts)
    }

    /// Makes it the next of its cluster after `before`. What workers would make of it for themselves is made here, where
    /// it takes time.
    pub(crate) fn follow(&mut self, before: &Self) {
        self.lost = before.lost.with_change(&before.hosts, &self.hosts);
        self.groups.prepare(&self.facts);
        if let Some(addresses) = before.by_address.get() {
            let change = Change::between(before.known(), self.known());
            if let Some(addresses) = addresses.after(&change, &before.hosts, &self.hosts) {
                self.by_address = addresses.into();
            }
        }
    }

    /// Number of healthy hosts.
    pub fn healthy(&self) -> usize {
        self.groups.priorities.iter().map(|p| p.healthy.len()).sum()
    }

    /// Number of degraded hosts.
    pub fn degraded(&self) -> usize {
        self.groups.priorities.iter().map(|p| p.degraded.len()).sum()
    }

    /// Number of hosts that count neither as healthy nor as missing.
    pub fn excluded(&self) -> usize {
        self.groups.priorities.iter().map(|p| p.excluded).sum()
    }

    /// In how many priorities the hosts are others than those `before`: Envoy takes each for a change of its own.
    pub(crate) fn changed_priorities(&self, before: &Self) -> u64 {
        let differs = |priority: usize| !are_same(self.hosts_of(priority), before.hosts_of(priority));
        (0..self.groups.priorities.len().max(before.groups.priorities.len()))
            .filter(|priority| differs(*priority))
            .count() as u64
    }

    fn hosts_of(&self, priority: usize) -> &[Arc<Host>] {
        let places = self.groups.priorities.get(priority).map_or(&[][..], |p| p.all.places());
        let first = places.first().map_or(0, |first| *first as usize);
        &self.hosts[first..first + places.len()]
    }

    /// The greatest weight of a host, for the gauge `max_host_weight`.
    pub(crate) fn max_weight(&self) -> u32 {
        self.facts.hosts().iter().map(|fact| fact.weight).max().unwrap_or(0)
    }

    /// Whether a load balancer may choose the host at `place` now.
    pub fn is_candidate(&self, place: usize) -> bool {
        let Some(host) = self.hosts.get(place) else { return false };
        let priority = &self.groups.priorities[host.priority as usize];
        let at = u32::try_from(place).unwrap_or(u32::MAX);
        let share = |load: &[u32]| load[host.priority as usize] > 0;
        if priority.in_panic {
            return share(&self.groups.load.healthy) || share(&self.groups.load.degraded);
        }
        (share(&self.groups.load.healthy) && priority.healthy.has(at))
            || (share(&self.groups.load.degraded) && priority.degraded.has(at))
    }
}
