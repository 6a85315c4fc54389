use std::fmt::Write;

use nuncio_config::cluster::RingHashFunction;
use twox_hash::XxHash64;

use super::murmur::murmur_hash_2;
use super::{Counts, Weighted};

/// Each host has places on a ring; a hash belongs to the next place.
#[derive(Debug)]
pub(super) struct Ring {
    /// By hash.
    places: Box<[Place]>,
    pub(super) counts: Counts,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u64,
    host: u32,
}

// === impl Ring ===

impl Ring {
    /// A ring of hosts, which are not none.
    pub(super) fn new(
        function: RingHashFunction,
        min_size: u64,
        max_size: u64,
        hosts: &[Weighted],
        keys: &[Box<str>],
    ) -> Self {
        let lightest = hosts.iter().map(|host| host.weight).fold(1.0, f64::min);
        // So that the lightest host gets a whole number of places.
        let scale = ((lightest * min_size as f64).ceil() / lightest).min(max_size as f64);
        let size = scale.ceil() as u64;
        let mut places = Vec::with_capacity(size as usize);
        let mut counts = Counts { size, least: size, most: 0 };
        let (mut reached, mut target) = (0.0, 0.0);
        let mut text = String::new();
        for (host, (weighted, key)) in (0..).zip(hosts.iter().zip(keys)) {
            // Running sums: shares that are no whole numbers even out.
            target += scale * weighted.weight;
            let mut number = 0;
            while reached < target {
                text.clear();
                // Writing to a String cannot fail.
                let _ = write!(text, "{key}_{number}");
                places.push(Place { hash: hash(function, text.as_bytes()), host });
                number += 1;
                reached += 1.0;
            }
            counts.least = counts.least.min(number);
            counts.most = counts.most.max(number);
        }
        places.sort_by_key(|place| place.hash);
        Self { places: places.into(), counts }
    }

    pub(super) fn find(&self, hash: u64, attempt: u32) -> usize {
        let next = self.places.partition_point(|place| place.hash < hash);
        // Beyond the last place comes the first. Another attempt takes what follows.
        let at = (next % self.places.len()).wrapping_add(attempt as usize) % self.places.len();
        self.places[at].host as usize
    }
}

fn hash(function: RingHashFunction, text: &[u8]) -> u64 {
    match function {
        RingHashFunction::Xx => XxHash64::oneshot(0, text),
        RingHashFunction::Murmur2 => murmur_hash_2(text),
    }
}
