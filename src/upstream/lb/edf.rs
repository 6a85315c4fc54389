use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use nuncio_filter_api::Rng;

/// Chooses by earliest deadline first: a host of weight w comes round every 1/w of a turn, which spreads the turns of
/// a heavy host evenly. O(log n) for each choice.
#[derive(Debug)]
pub(crate) struct Edf {
    now: f64,
    /// Order among equal deadlines: the one that waits longest goes first.
    order: u64,
    heap: BinaryHeap<Entry>,
    /// The turns of hosts that are not in the heap yet: shared, so that a worker need not schedule 100,000 hosts itself.
    first: Arc<[Turn]>,
    /// The next of them.
    next: usize,
}

/// When a host is due for the first time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Turn {
    deadline: f32,
    host: u32,
}

/// Turns by which the workers that share them begin apart.
const HEAD_START: u64 = 1024;

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
        let mut edf = Self::of(Arc::default(), hosts.len());
        for &host in hosts {
            edf.push(host, weight(host));
        }
        edf
    }

    fn of(first: Arc<[Turn]>, capacity: usize) -> Self {
        Self { now: 0.0, order: 0, heap: BinaryHeap::with_capacity(capacity), first, next: 0 }
    }

    /// A schedule that begins with [`first_turns`], a little later on each worker.
    pub(crate) fn sharing(first: Arc<[Turn]>, weight: impl Fn(u32) -> f64, rng: &Rng) -> Self {
        let mut edf = Self::of(first, 0);
        for _ in 0..rng.below(HEAD_START) {
            edf.next(&weight);
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
        let host = match (self.first.get(self.next), self.heap.peek()) {
            (Some(turn), top) if top.is_none_or(|top| f64::from(turn.deadline) <= top.deadline) => {
                self.next += 1;
                self.now = turn.deadline.into();
                turn.host
            }
            _ => {
                let entry = self.heap.pop().expect("a schedule has hosts, and each that is taken out is put back");
                self.now = entry.deadline;
                entry.host
            }
        };
        self.push(host, weight(host));
        host
    }

    fn push(&mut self, host: u32, weight: f64) {
        self.heap.push(Entry { deadline: self.now + 1.0 / weight, order: self.order, host });
        self.order += 1;
    }
}

/// When each of `hosts` is due first, in order: somewhere within its first round, so that each is as likely the next as
/// its weight says, wherever the schedule begins.
pub(crate) fn first_turns(hosts: &[u32], weight: impl Fn(u32) -> u32) -> Arc<[Turn]> {
    let mut rng = fastrand::Rng::new();
    let turn = |&host: &u32| {
        let deadline = (1.0 - rng.f32()) / weight(host) as f32;
        // Positive numbers are in the order of their bits.
        u64::from(deadline.to_bits()) << 32 | u64::from(host)
    };
    let mut turns: Vec<u64> = hosts.iter().map(turn).collect();
    sort_by_upper_half(&mut turns);
    turns.into_iter().map(|turn| Turn { deadline: f32::from_bits((turn >> 32) as u32), host: turn as u32 }).collect()
}

/// A radix sort: for 100,000 several times as fast as one that compares.
fn sort_by_upper_half(numbers: &mut Vec<u64>) {
    const BITS: u32 = 11;
    let mut other = vec![0; numbers.len()];
    for shift in [32, 32 + BITS, 32 + 2 * BITS] {
        let digit = |number: u64| (number >> shift) as usize & ((1 << BITS) - 1);
        let mut places = [0_usize; 1 << BITS];
        numbers.iter().for_each(|&number| places[digit(number)] += 1);
        let mut start = 0;
        for place in &mut places {
            start += std::mem::replace(place, start);
        }
        for &number in &*numbers {
            let place = &mut places[digit(number)];
            other[*place] = number;
            *place += 1;
        }
        std::mem::swap(numbers, &mut other);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_half_decides_the_order() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut numbers: Vec<u64> = (0..5000).map(|_| rng.u64(..)).collect();
        let mut expected = numbers.clone();
        expected.sort_by_key(|number| number >> 32);
        sort_by_upper_half(&mut numbers);
        assert_eq!(numbers, expected);
    }

    #[test]
    fn a_schedule_that_is_shared_gives_each_host_its_share_from_wherever_it_begins() {
        let weight = |host: u32| host % 3 + 1;
        let hosts: Vec<u32> = (0..3000).collect();
        let first = first_turns(&hosts, weight);
        for seed in 0..3 {
            let mut edf = Edf::sharing(first.clone(), |host| weight(host).into(), &Rng::seeded(seed));
            let mut turns = vec![0_u32; hosts.len()];
            // Five rounds of 6000: deadlines are rounded, so that a turn may fall into the round beside.
            (0..30_000).for_each(|_| turns[edf.next(|host| weight(host).into()) as usize] += 1);
            for host in hosts.iter().copied() {
                assert!(turns[host as usize].abs_diff(5 * weight(host)) <= 1, "{host}: {}", turns[host as usize]);
            }
        }
    }
}
