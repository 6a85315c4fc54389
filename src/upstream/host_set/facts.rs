//! What groups of hosts go by, read once from each host: of 100,000 each stands somewhere else in memory.

use std::collections::HashMap;
use std::sync::Arc;

use nuncio_config::cluster::Locality;

use super::ByAddress;
use crate::host::{CoarseHealth, Host};

/// As hosts are in a set.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    hosts: Box<[Fact]>,
    /// By [`Fact::locality`]; empty where localities do not count.
    localities: Box<[Option<Arc<Locality>>]>,
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
    /// Those of `hosts`, which are put in order of priority; within a priority their order remains.
    pub(super) fn of(hosts: &mut [Arc<Host>], has_localities: bool) -> Self {
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
        Self { hosts: facts.into(), localities: numbers.found.into() }
    }

    /// Those of hosts that are in order, as they are now.
    pub(super) fn of_sorted(hosts: &[Arc<Host>], before: &Self) -> Self {
        let now = |(host, before): (&Arc<Host>, &Fact)| Fact { locality: before.locality, ..Fact::of(host) };
        Self { hosts: hosts.iter().zip(&before.hosts).map(now).collect(), localities: before.localities.clone() }
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
