use twox_hash::XxHash64;

use super::{Counts, Weighted};

/// Hosts take the places of a table in turn, each in an order of its own, until all are taken.
#[derive(Debug)]
pub(super) struct Maglev {
    places: Places,
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

/// A host that takes places.
struct Taker {
    host: u32,
    weight: f64,
    /// It takes a place in the round in which its weight has grown to this.
    target: f64,
    /// Its order.
    offset: u64,
    skip: u64,
    next: u64,
    count: u64,
}

const FREE: u32 = u32::MAX;

// === impl Maglev ===

impl Maglev {
    /// A table of `size` places for hosts, which are not none.
    pub(super) fn new(size: u64, hosts: &[Weighted], keys: &[Box<str>]) -> Self {
        let heaviest = hosts.iter().map(|host| host.weight).fold(0.0, f64::max);
        let mut order: Vec<u32> = (0..hosts.len() as u32).collect();
        // By key, so that the order in which hosts become known does not matter.
        order.sort_by(|&a, &b| keys[a as usize].cmp(&keys[b as usize]));
        let mut takers: Vec<Taker> = order
            .iter()
            .map(|&host| Taker::new(host, hosts[host as usize].weight, &keys[host as usize], size))
            .collect();
        let table = fill(size, heaviest, &mut takers);
        let counts = Counts {
            size,
            least: takers.iter().map(|taker| taker.count).fold(size, u64::min),
            most: takers.iter().map(|taker| taker.count).fold(0, u64::max),
        };
        Self { places: Places::new(table, hosts.len()), counts }
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

fn fill(size: u64, heaviest: f64, takers: &mut [Taker]) -> Vec<u32> {
    let mut table = vec![FREE; size as usize];
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
            while table[taker.place(size)] != FREE {
                taker.next += 1;
            }
            table[taker.place(size)] = taker.host;
            taker.next += 1;
            taker.count += 1;
            left -= 1;
        }
    }
    table
}

// === impl Taker ===

impl Taker {
    fn new(host: u32, weight: f64, key: &str, size: u64) -> Self {
        let offset = XxHash64::oneshot(0, key.as_bytes()) % size;
        let skip = XxHash64::oneshot(1, key.as_bytes()) % (size - 1) + 1;
        Self { host, weight, target: 0.0, offset, skip, next: 0, count: 0 }
    }

    fn place(&self, size: u64) -> usize {
        ((self.offset + self.skip * self.next) % size) as usize
    }
}
