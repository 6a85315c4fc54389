use twox_hash::XxHash64;

use super::Counts;
use super::Weighted;
use super::kept::{Kept, Listed};

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

/// A table that is being filled.
struct FreeTable {
    places: Vec<u32>,
    /// A bit for each place that is taken: most of the work is to look for one that is free.
    taken: Vec<u64>,
}

/// A host that takes places.
struct Taker {
    host: u32,
    count: u32,
    /// From the place that it asks for next.
    walk: Walk,
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
        let new_walk = |host: usize| Walk::new(&listed.key(host), size);
        let walks: Box<[Walk]> = match before {
            Some((before, kept)) => kept.carry_over(&before.walks, new_walk).into(),
            None => (0..hosts.len()).map(new_walk).collect(),
        };
        let mut table = FreeTable::new(size as usize);
        let (least, most) = table.fill(&order, &walks, hosts);
        let counts = Counts { size, least, most };
        Self { places: Places::new(table.places, hosts.len()), order: order.into(), walks, counts }
    }

    /// The order of the hosts after this one's. `None` where that is better made anew.
    fn order_after(&self, kept: &Kept<'_>, listed: Listed<'_>) -> Option<Vec<u32>> {
        let new: Vec<u32> = kept.come().collect();
        // Equal keys are in the order of their hosts.
        if new.len() * MOST > listed.hosts.len() || !kept.is_in_order() {
            return None;
        }
        let number_now = kept.numbers_now();
        let mut order = Vec::with_capacity(self.order.len() + new.len());
        order.extend(self.order.iter().filter_map(|old| number_now.of(*old)));
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

// === impl FreeTable ===

impl FreeTable {
    fn new(size: usize) -> Self {
        Self { places: vec![FREE; size], taken: vec![0; size.div_ceil(64)] }
    }

    /// Has the hosts take all places, in this order. Tells the least that one has, and the most.
    fn fill(&mut self, order: &[u32], walks: &[Walk], hosts: &[Weighted]) -> (u64, u64) {
        let size = self.places.len();
        // In the first round each takes one, whatever its weight.
        if order.len() >= size {
            order[..size].iter().for_each(|&host| _ = self.take(host, walks[host as usize]));
            return (u64::from(order.len() == size), 1);
        }
        // The heaviest takes a place in every round.
        let heaviest = hosts.iter().map(|host| host.weight).fold(0.0, f64::max);
        let mut takers: Vec<Taker> = Vec::with_capacity(order.len());
        for &host in order {
            let walk = self.take(host, walks[host as usize]);
            takers.push(Taker { host, count: 1, walk, weight: hosts[host as usize].weight, target: heaviest });
        }
        let mut left = size - order.len();
        for round in 2_u32.. {
            for taker in &mut takers {
                if left == 0 {
                    let counts = || takers.iter().map(|taker| u64::from(taker.count));
                    return (counts().fold(u64::MAX, u64::min), counts().fold(0, u64::max));
                }
                if f64::from(round) * taker.weight < taker.target {
                    continue;
                }
                taker.target += heaviest;
                taker.walk = self.take(taker.host, taker.walk);
                taker.count += 1;
                left -= 1;
            }
        }
        unreachable!("the heaviest takes a place in every round")
    }

    /// Gives a host the next free place of its walk; returns what is left of that.
    fn take(&mut self, host: u32, mut walk: Walk) -> Walk {
        let size = self.places.len();
        while self.taken[walk.first as usize / 64] >> (walk.first % 64) & 1 == 1 {
            walk.step(size);
        }
        self.taken[walk.first as usize / 64] |= 1 << (walk.first % 64);
        self.places[walk.first as usize] = host;
        walk.step(size);
        walk
    }
}

// === impl Walk ===

impl Walk {
    fn new(key: &str, size: u64) -> Self {
        let first = XxHash64::oneshot(0, key.as_bytes()) % size;
        let skip = XxHash64::oneshot(1, key.as_bytes()) % (size - 1) + 1;
        // Lowering allows no table of more places than a u32 counts.
        Self { first: first as u32, skip: skip as u32 }
    }

    fn step(&mut self, size: usize) {
        let next = self.first as usize + self.skip as usize;
        self.first = if next < size { next } else { next - size } as u32;
    }
}
