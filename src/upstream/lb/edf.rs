use std::cmp::Ordering;
use std::collections::BinaryHeap;

use nuncio_filter_api::Rng;

/// Chooses by earliest deadline first: a host of weight w comes round every 1/w of a turn, which spreads the turns of
/// a heavy host evenly. O(log n) for each choice.
#[derive(Debug)]
pub(crate) struct Edf {
    now: f64,
    /// Order among equal deadlines: the one that waits longest goes first.
    order: u64,
    heap: BinaryHeap<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    deadline: f64,
    order: u64,
    host: u32,
}

// === impl Edf ===

impl Edf {
    /// A schedule of `hosts`, which are not none.
    fn new(hosts: &[u32], weight: impl Fn(u32) -> f64) -> Self {
        let mut edf = Self { now: 0.0, order: 0, heap: BinaryHeap::with_capacity(hosts.len()) };
        for &host in hosts {
            edf.push(host, weight(host));
        }
        edf
    }

    /// A schedule that begins at a random place, so that the workers do not all begin with the same host.
    pub(crate) fn starting_anywhere(hosts: &[u32], weight: impl Fn(u32) -> f64, rng: &Rng) -> Self {
        let mut edf = Self::new(hosts, &weight);
        for _ in 0..rng.below(hosts.len() as u64) {
            edf.next(&weight);
        }
        edf
    }

    /// The next host, which is scheduled again by the weight it has now.
    pub(crate) fn next(&mut self, weight: impl Fn(u32) -> f64) -> u32 {
        let entry = self.heap.pop().expect("a schedule has hosts, and each that is taken out is put back");
        self.now = entry.deadline;
        self.push(entry.host, weight(entry.host));
        entry.host
    }

    fn push(&mut self, host: u32, weight: f64) {
        self.heap.push(Entry { deadline: self.now + 1.0 / weight, order: self.order, host });
        self.order += 1;
    }
}

// === impl Entry ===

impl Eq for Entry {}

impl Ord for Entry {
    /// The earliest is the greatest, since the heap gives out its greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
