use twox_hash::XxHash64;

use super::Counts;
use super::kept::{Kept, Listed, NEW};

/// Hosts take the places of a table in turn, each in an order of its own, until all are taken.
#[derive(Debug)]
pub(super) struct Maglev {
    places: Places,
    /// Numbers of hosts by key, which is how they take their turns.
    order: Box<[u32]>,
    /// By number of the host.
    walks: Box<[Walk]>,
    pub(super) counts: Counts,
}

/// Numbers of hosts, in as few bytes as they need.
#[derive(Debug)]
enum Places {
    /// Up to 256 hosts.
    Small(Box<[u8]>),
    Medium(Box<[u16]>),
    Large(Box<[u32]>),
}

/// The order in which a host asks for places: each so many after the one before.
#[derive(Clone, Copy, Debug)]
struct Walk {
    first: u32,
    skip: u32,
}

/// A host that takes places.
struct Taker {
    host: u32,
    count: u32,
    /// The place that it asks for next, and how far away the one after is.
    next: u32,
    skip: u32,
    weight: f64,
    /// It takes a place in the round in which its weight has grown to this.
    target: f64,
}

const FREE: u32 = u32::MAX;
/// Where more than one of so many hosts are others, the order is made anew.
const MOST: usize = 8;

// === impl Maglev ===

impl Maglev {
    /// A table of `size` places for hosts, which are not none; of those that were in the one `before`, it is known
    /// where they begin and when it is their turn.
    pub(super) fn new(size: u64, listed: Listed<'_>, before: Option<(&Self, &Kept<'_>)>) -> Self {
        let hosts = listed.hosts;
        let known = before.and_then(|(before, kept)| before.order_after(kept, listed));
        let order = known.unwrap_or_else(|| {
            let keys: Vec<Box<str>> = (0..hosts.len()).map(|host| listed.key(host)).collect();
            let mut order: Vec<u32> = (0..hosts.len() as u32).collect();
            // By key, so that the order in which hosts become known does not matter.
            order.sort_by(|&a, &b| keys[a as usize].cmp(&keys[b as usize]));
            order
        });
        let walk = |host: usize| match before.map(|(before, kept)| (before, kept.before()[host])) {
            Some((before, old)) if old != NEW => before.walks[old as usize],
            _ => Walk::new(&listed.key(host), size),
        };
        let walks: Box<[Walk]> = (0..hosts.len()).map(walk).collect();
        let heaviest = hosts.iter().map(|host| host.weight).fold(0.0, f64::max);
        let taker = |&host: &u32| {
            let Walk { first, skip } = walks[host as usize];
            Taker { host, count: 0, next: first, skip, weight: hosts[host as usize].weight, target: 0.0 }
        };
        let mut takers: Vec<Taker> = order.iter().map(taker).collect();
        let table = fill(size as usize, heaviest, &mut takers);
        let counts = Counts {
            size,
            least: takers.iter().map(|taker| taker.count.into()).fold(size, u64::min),
            most: takers.iter().map(|taker| taker.count.into()).fold(0, u64::max),
        };
        Self { places: Places::new(table, hosts.len()), order: order.into(), walks, counts }
    }

    /// The order of the hosts after this one's. `None` where that is better made anew.
    fn order_after(&self, kept: &Kept<'_>, listed: Listed<'_>) -> Option<Vec<u32>> {
        let numbers = (0..).zip(kept.before());
        let new: Vec<u32> = numbers.clone().filter(|(_, old)| **old == NEW).map(|(number, _)| number).collect();
        // Equal keys are in the order of their hosts.
        if new.len() * MOST > kept.before().len() || !kept.is_in_order() {
            return None;
        }
        let mut number_of = vec![FREE; self.order.len()];
        for (number, &old) in numbers.filter(|(_, old)| **old != NEW) {
            number_of[old as usize] = number;
        }
        let mut order: Vec<u32> =
            self.order.iter().map(|old| number_of[*old as usize]).filter(|number| *number != FREE).collect();
        order.reserve_exact(new.len());
        for number in new {
            let own = (listed.key(number as usize), number);
            let at = order.partition_point(|other| (listed.key(*other as usize), *other) < own);
            order.insert(at, number);
        }
        Some(order)
    }

    pub(super) fn find(&self, hash: u64, attempt: u32) -> usize {
        // Another attempt turns most bits of the hash.
        let hash = if attempt == 0 { hash } else { hash ^ u64::from(attempt).wrapping_neg() };
        let at = |size: usize| (hash % size as u64) as usize;
        match &self.places {
            Places::Small(table) => table[at(table.len())].into(),
            Places::Medium(table) => table[at(table.len())].into(),
            Places::Large(table) => table[at(table.len())] as usize,
        }
    }
}

// === impl Places ===

impl Places {
    fn new(table: Vec<u32>, hosts: usize) -> Self {
        match hosts {
            0..=0x100 => Self::Small(table.into_iter().map(|host| host as u8).collect()),
            0x101..=0x1_0000 => Self::Medium(table.into_iter().map(|host| host as u16).collect()),
            _ => Self::Large(table.into()),
        }
    }
}

fn fill(size: usize, heaviest: f64, takers: &mut [Taker]) -> Vec<u32> {
    let mut table = vec![FREE; size];
    // A bit for each place that is taken: most of the work is to look for one that is free.
    let mut taken = vec![0_u64; size.div_ceil(64)];
    let mut left = size;
    for round in 1_u32.. {
        for taker in takers.iter_mut() {
            if left == 0 {
                return table;
            }
            // The heaviest takes a place in every round.
            if f64::from(round) * taker.weight < taker.target {
                continue;
            }
            taker.target += heaviest;
            while taken[taker.next as usize / 64] >> (taker.next % 64) & 1 == 1 {
                taker.step(size);
            }
            taken[taker.next as usize / 64] |= 1 << (taker.next % 64);
            table[taker.next as usize] = taker.host;
            taker.step(size);
            taker.count += 1;
            left -= 1;
        }
    }
    table
}

// === impl Walk ===

impl Walk {
    fn new(key: &str, size: u64) -> Self {
        let first = XxHash64::oneshot(0, key.as_bytes()) % size;
        let skip = XxHash64::oneshot(1, key.as_bytes()) % (size - 1) + 1;
        // Lowering allows no table of more places than a u32 counts.
        Self { first: first as u32, skip: skip as u32 }
    }
}

// === impl Taker ===

impl Taker {
    fn step(&mut self, size: usize) {
        let next = self.next as usize + self.skip as usize;
        self.next = if next < size { next } else { next - size } as u32;
    }
}
