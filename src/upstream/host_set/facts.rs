//! What groups of hosts go by, read once from each host: of 100,000 each stands somewhere else in memory.

use std::collections::HashMap;
use std::sync::Arc;

use nuncio_config::cluster::Locality;

use super::ByAddress;
use super::change::Known;
use super::ends::Ends;
use crate::host::{self, CoarseHealth, Host};

/// As hosts are in a set.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    hosts: Box<[Fact]>,
    /// By [`Fact::locality`]; empty where localities do not count. A set that follows another may have some without
    /// hosts.
    localities: Box<[Option<Arc<Locality>>]>,
    /// Of all hosts, before these were looked at.
    changes: u64,
}

/// Of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) weight: u32,
    pub(crate) priority: u32,
    /// The number of its locality within the set.
    pub(super) locality: u32,
    pub(super) health: CoarseHealth,
    /// Whether it counts neither as healthy nor as missing.
    pub(super) is_excluded: bool,
}

/// Numbers localities in the order in which they come up.
#[derive(Default)]
struct Numbers<'a> {
    by_value: HashMap<Option<&'a Arc<Locality>>, u32>,
    /// Hosts of one locality mostly share it.
    by_address: HashMap<usize, u32, ByAddress>,
    /// The last one that was asked for.
    last: Option<(usize, u32)>,
    found: Vec<Option<Arc<Locality>>>,
}

// === impl Facts ===

impl Facts {
    /// Those of `hosts`, which are put in order of priority; within a priority their order remains. Of hosts that were in
    /// the set `before`, what is known is taken over where nothing has changed since.
    pub(super) fn of(hosts: &mut [Arc<Host>], has_localities: bool, before: Option<Known<'_>>) -> Self {
        let changes = host::changes();
        if let Some(before) = before
            && before.facts.changes == changes
            && let Some(facts) = Self::after(before, hosts, has_localities)
        {
            return facts;
        }
        let mut numbers = Numbers::default();
        let mut facts: Vec<Fact> = hosts.iter().map(|host| Fact::of(host)).collect();
        if !facts.is_sorted_by_key(|fact| fact.priority) {
            hosts.sort_by_key(|host| host.priority);
            facts.sort_by_key(|fact| fact.priority);
        }
        if has_localities {
            for (fact, host) in facts.iter_mut().zip(&*hosts) {
                fact.locality = numbers.number(host.locality.as_ref());
            }
        }
        Self { hosts: facts.into(), localities: numbers.found.into(), changes }
    }

    /// Those of hosts after a set of which nothing else is known now. `None` where all are better looked at.
    fn after(before: Known<'_>, hosts: &[Arc<Host>], has_localities: bool) -> Option<Self> {
        let Self { hosts: known, localities, changes } = before.facts;
        if localities.is_empty() == has_localities {
            return None;
        }
        let Ends { start, old_end, new_end } = Ends::between(before.hosts, hosts);
        let mut numbers = Numbers::after(localities);
        let mut facts = Vec::with_capacity(hosts.len());
        facts.extend_from_slice(&known[..start]);
        facts.extend(hosts[start..new_end].iter().map(|host| {
            let locality = if has_localities { numbers.number(host.locality.as_ref()) } else { 0 };
            Fact { locality, ..Fact::of(host) }
        }));
        facts.extend_from_slice(&known[old_end..]);
        let with_neighbours = start.saturating_sub(1)..hosts.len().min(new_end + 1);
        let is_in_order = facts[with_neighbours].is_sorted_by_key(|fact| fact.priority);
        // Localities without hosts are not to become ever more.
        let is_tidy = numbers.found.len() <= hosts.len();
        let localities = numbers.found.into();
        (is_in_order && is_tidy).then(|| Self { hosts: facts.into(), localities, changes: *changes })
    }

    /// Those of hosts that are in order, as they are now.
    pub(super) fn of_sorted(hosts: &[Arc<Host>], before: &Self) -> Self {
        let changes = host::changes();
        let now = |(host, before): (&Arc<Host>, &Fact)| Fact { locality: before.locality, ..Fact::of(host) };
        let localities = before.localities.clone();
        Self { hosts: hosts.iter().zip(&before.hosts).map(now).collect(), localities, changes }
    }

    /// By place.
    pub(crate) fn hosts(&self) -> &[Fact] {
        &self.hosts
    }

    pub(crate) fn at(&self, place: u32) -> &Fact {
        &self.hosts[place as usize]
    }

    pub(super) fn locality(&self, number: u32) -> Option<&Arc<Locality>> {
        self.localities.get(number as usize)?.as_ref()
    }

    /// The number of a locality, if a host is of it.
    pub(super) fn number_of(&self, locality: Option<&Arc<Locality>>) -> Option<u32> {
        (0..).zip(&self.localities).find(|(_, other)| other.as_ref() == locality).map(|(number, _)| number)
    }
}

// === impl Fact ===

impl Fact {
    fn of(host: &Host) -> Self {
        let flags = host.flags();
        Self {
            weight: host.weight(),
            priority: host.priority,
            locality: 0,
            health: flags.coarse(),
            is_excluded: flags.is_excluded(),
        }
    }

    /// Whether it says the same of the same host, whose locality never changes.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let Self { weight, priority: _, locality: _, health, is_excluded } = other;
        (self.weight, self.health, self.is_excluded) == (*weight, *health, *is_excluded)
    }
}

// === impl Numbers ===

impl<'a> Numbers<'a> {
    /// After those of localities that have numbers already.
    fn after(localities: &'a [Option<Arc<Locality>>]) -> Self {
        let by_value = localities.iter().map(Option::as_ref).zip(0..).collect();
        Self { by_value, found: localities.to_vec(), ..Self::default() }
    }

    fn number(&mut self, locality: Option<&'a Arc<Locality>>) -> u32 {
        let address = locality.map_or(0, |locality| Arc::as_ptr(locality).addr());
        if let Some((last, number)) = self.last
            && last == address
        {
            return number;
        }
        let Self { by_value, by_address, found, .. } = self;
        let number = *by_address.entry(address).or_insert_with(|| {
            *by_value.entry(locality).or_insert_with(|| {
                found.push(locality.cloned());
                found.len() as u32 - 1
            })
        });
        self.last = Some((address, number));
        number
    }
}
