//! Policies that send equal hashes to the same host: tables made off the workers, which all workers share.

mod bounded;
mod kept;
mod maglev;
mod mersenne;
mod murmur;
mod ring;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use nuncio_config::cluster::{HashTable, HashingLb, LocalityLb};
use nuncio_config::route::HashPolicies;
use nuncio_telemetry::Address;
use nuncio_telemetry::stats::Scope;

use super::load_aware::Kind;
use super::{LbEnv, PickContext};
use crate::host::Host;
use crate::host_set::{Before, Candidates, Facts, Hashing, PriorityHosts};
use kept::{Kept, Listed};
use maglev::Maglev;
use ring::{Ring, RingSize};

/// The tables of a host set.
#[derive(Debug)]
pub(crate) struct HashTables {
    /// By priority.
    priorities: Box<[PriorityTable]>,
    /// By priority and locality, where a locality is chosen first by what its hosts can take.
    localities: Box<[Box<[PriorityTable]>]>,
    balance_factor: u32,
    /// What of a request is hashed, where it is not what its route says.
    policies: Option<Arc<HashPolicies>>,
    /// Shown as long as there are tables.
    _stats: TableStats,
}

/// The table of one priority.
#[derive(Debug)]
struct PriorityTable {
    hosts: Box<[Weighted]>,
    table: Table,
}

/// A host of a table.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Weighted {
    /// In the host set.
    place: u32,
    /// Its share of all.
    weight: f64,
}

/// From hashes to places in `PriorityTable::hosts`.
#[derive(Debug)]
enum Table {
    /// There is no host.
    Empty,
    Ring(Ring),
    Maglev(Maglev),
}

nuncio_telemetry::stats! {
    /// `cluster.<name>.ring_hash_lb`
    struct RingStats {
        size: Gauge,
        min_hashes_per_host: Gauge,
        max_hashes_per_host: Gauge,
    }

    /// `cluster.<name>.maglev_lb`
    struct MaglevStats {
        min_entries_per_host: Gauge,
        max_entries_per_host: Gauge,
    }
}

enum TableStats {
    Ring(RingStats),
    Maglev(MaglevStats),
}

// === impl HashTables ===

impl HashTables {
    /// The tables of `hosts`, made of those of the set `before` where few hosts are others.
    pub(crate) fn new(
        hashing: Hashing<'_>,
        hosts: &[Arc<Host>],
        facts: &Facts,
        priorities: &[PriorityHosts],
        before: Option<Before<'_>>,
    ) -> Self {
        let Hashing { config, locality, scope } = hashing;
        let stats = TableStats::new(config.table, scope);
        let localities = match locality {
            LocalityLb::LoadAware(_) => priorities.iter().map(|p| of_localities(p, hashing, hosts, facts)).collect(),
            LocalityLb::Weighted | LocalityLb::ZoneAware(_) => Box::default(),
        };
        let priorities = priorities.iter().enumerate().map(|(number, priority)| {
            let weighted = match locality {
                LocalityLb::Weighted => by_locality(priority, facts),
                LocalityLb::ZoneAware(_) | LocalityLb::LoadAware(_) => {
                    let mut weighted = Vec::new();
                    let candidates = if priority.in_panic { &priority.all } else { &priority.healthy };
                    normalize(candidates, 1.0, facts, &mut weighted);
                    weighted
                }
            };
            let before = before.and_then(|set| Some((set.groups.tables.as_ref()?.priorities.get(number)?, set.hosts)));
            let table = Table::new(Listed { config, hosts: &weighted, set: hosts }, before);
            stats.tell(&table);
            PriorityTable { hosts: weighted.into(), table }
        });
        let priorities = priorities.collect();
        let policies = config.policies.clone();
        Self { priorities, localities, balance_factor: config.balance_factor, policies, _stats: stats }
    }

    /// The place in the host set of the host for the next request.
    pub(super) fn pick(&self, cx: &PickContext<'_>, env: LbEnv<'_>) -> Option<usize> {
        let hash = match (&self.policies, cx.head, cx.info) {
            (Some(policies), Some(head), Some(info)) => match cx.cookies {
                Some(cookies) => policies.hash(head, info, Some(&mut cookies.borrow_mut())),
                None => policies.hash(head, info, None),
            },
            (Some(_), ..) => None,
            (None, ..) => cx.hash,
        };
        // Without hash any host is as good as another.
        let hash = hash.unwrap_or_else(|| env.rng.u64());
        let (priority, _) = env.groups.load.choose(hash);
        let in_panic = env.groups.priorities[priority].in_panic;
        if in_panic {
            env.stats.lb_healthy_panic().inc();
        }
        let table = self.of_locality(priority, in_panic, env).unwrap_or(&self.priorities[priority]);
        let selections = cx.avoid.map_or(0, |avoid| avoid.selections);
        let mut chosen = None;
        for attempt in 0..=selections {
            let host = table.find(hash, attempt)?;
            let host = if self.balance_factor == 0 { host } else { self.bounded(table, host, hash, env) };
            let place = table.hosts[host].place as usize;
            chosen = Some(place);
            if !cx.avoid.is_some_and(|avoid| (avoid.is_avoided)(&env.set.hosts[place])) {
                break;
            }
        }
        chosen
    }

    /// The table of the locality for the next request, where one is chosen by what its hosts can take.
    fn of_locality(&self, priority: usize, in_panic: bool, env: LbEnv<'_>) -> Option<&PriorityTable> {
        let tables = self.localities.get(priority)?;
        let kind = if in_panic { Kind::All } else { Kind::Healthy };
        tables.get(env.set.shares.load().as_ref()?.choose(priority, kind, env.rng)?)
    }
}

/// A table for each locality.
fn of_localities(
    priority: &PriorityHosts,
    hashing: Hashing<'_>,
    hosts: &[Arc<Host>],
    facts: &Facts,
) -> Box<[PriorityTable]> {
    let tables = priority.localities.iter().map(|locality| {
        let mut weighted = Vec::new();
        let candidates = if priority.in_panic { &locality.all } else { &locality.healthy };
        normalize(candidates, 1.0, facts, &mut weighted);
        let table = Table::new(Listed { config: hashing.config, hosts: &weighted, set: hosts }, None);
        PriorityTable { hosts: weighted.into(), table }
    });
    tables.collect()
}

/// A host is hashed by `hash_key` of its metadata, or else by its name or address.
fn key(host: &Host, config: &HashingLb) -> Box<str> {
    let description = host.description();
    let metadata = description.metadata.as_ref().and_then(|m| m.get("envoy.lb"));
    let own = metadata.and_then(|m| m.get("hash_key")).and_then(|key| key.as_str());
    match own.filter(|key| !key.is_empty()) {
        Some(key) => key.into(),
        None if config.use_hostname => (&*host.hostname).into(),
        None => Address::to_string(&host.address()).into(),
    }
}

/// The hosts of all localities that have a weight.
fn by_locality(priority: &PriorityHosts, facts: &Facts) -> Vec<Weighted> {
    let mut weighted = Vec::new();
    let total: u64 = priority.localities.iter().map(|l| u64::from(l.weight)).sum();
    for locality in priority.localities.iter().filter(|l| l.weight > 0) {
        let candidates = if priority.in_panic { &locality.all } else { &locality.healthy };
        normalize(candidates, f64::from(locality.weight) / total as f64, facts, &mut weighted);
    }
    weighted
}

/// Gives `candidates` their parts of `share`.
fn normalize(candidates: &Candidates, share: f64, facts: &Facts, weighted: &mut Vec<Weighted>) {
    let weight = |place: u32| facts.at(place).weight;
    let total: u64 = candidates.places().iter().map(|place| u64::from(weight(*place))).sum();
    weighted.extend(candidates.places().iter().map(|&place| Weighted {
        place,
        // In this order, for the same rounding as Envoy's.
        weight: f64::from(weight(place)) * share / total as f64,
    }));
}

// === impl Table ===

impl Table {
    fn new(listed: Listed<'_>, before: Option<(&PriorityTable, &[Arc<Host>])>) -> Self {
        if listed.hosts.is_empty() {
            return Self::Empty;
        }
        let kept =
            before.map(|(table, set)| (&table.table, Kept::new(Listed { hosts: &table.hosts, set, ..listed }, listed)));
        match listed.config.table {
            HashTable::Ring { function, min_size: min, max_size: max } => {
                let before = match &kept {
                    Some((Self::Ring(ring), kept)) => Some((ring, kept)),
                    _ => None,
                };
                Self::Ring(Ring::new(RingSize { function, min, max }, listed, before))
            }
            HashTable::Maglev { size } => {
                let before = match &kept {
                    Some((Self::Maglev(maglev), kept)) => Some((maglev, kept)),
                    _ => None,
                };
                Self::Maglev(Maglev::new(size, listed, before))
            }
        }
    }
}

// === impl TableStats ===

impl TableStats {
    fn new(config: HashTable, scope: &Scope) -> Self {
        // Adding nothing shows them even where there is no host.
        match config {
            HashTable::Ring { .. } => {
                let stats = RingStats::new(&scope.scope("ring_hash_lb"));
                let gauges = [stats.size(), stats.min_hashes_per_host(), stats.max_hashes_per_host()];
                gauges.into_iter().for_each(|gauge| gauge.add(0));
                Self::Ring(stats)
            }
            HashTable::Maglev { .. } => {
                let stats = MaglevStats::new(&scope.scope("maglev_lb"));
                let gauges = [stats.min_entries_per_host(), stats.max_entries_per_host()];
                gauges.into_iter().for_each(|gauge| gauge.add(0));
                Self::Maglev(stats)
            }
        }
    }

    /// Envoy: the last priority that has hosts is shown.
    fn tell(&self, table: &Table) {
        match (self, table) {
            (Self::Ring(stats), Table::Ring(ring)) => {
                let Counts { size, least, most } = ring.counts;
                stats.size().set(size);
                stats.min_hashes_per_host().set(least);
                stats.max_hashes_per_host().set(most);
            }
            (Self::Maglev(stats), Table::Maglev(maglev)) => {
                let Counts { size: _, least, most } = maglev.counts;
                stats.min_entries_per_host().set(least);
                stats.max_entries_per_host().set(most);
            }
            _ => {}
        }
    }
}

impl fmt::Debug for TableStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TableStats")
    }
}

/// How large a table is, and how many places its hosts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    size: u64,
    least: u64,
    most: u64,
}

// === impl PriorityTable ===

impl PriorityTable {
    /// The place in `hosts` of the host for a hash; at a further attempt likely another.
    fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        match &self.table {
            Table::Empty => None,
            Table::Ring(ring) => Some(ring.find(hash, attempt)),
            Table::Maglev(maglev) => Some(maglev.find(hash, attempt)),
        }
    }
}
