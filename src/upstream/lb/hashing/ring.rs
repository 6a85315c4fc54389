use std::fmt::Write;
use std::sync::Arc;

use nuncio_config::cluster::RingHashFunction;
use twox_hash::XxHash64;

use super::kept::{Kept, Listed, NEW};
use super::murmur::murmur_hash_2;
use super::{Counts, Weighted};

/// Each host has places on a ring; a hash belongs to the next place.
///
/// The ring is cut into pieces of equally many hashes, which a ring shares with the one before: a host that comes or
/// goes costs the pieces in which it has a place.
#[derive(Debug)]
pub(super) struct Ring {
    pieces: Box<[Arc<[Place]>]>,
    /// How many places lie before each piece.
    starts: Box<[usize]>,
    /// The upper bits of a hash, after so many, are the number of its piece.
    shift: u32,
    /// By number of a host on the ring: its number among the hosts of the table.
    hosts: Box<[u32]>,
    /// As the hosts of the table.
    members: Box<[Member]>,
    /// Whether two hosts have the same place, whose order is that of the hosts.
    has_ties: bool,
    pub(super) counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    hash: u64,
    /// Number on the ring, which a host keeps while others come and go.
    host: u32,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    /// On the ring.
    number: u32,
    /// So many places are its own.
    places: u32,
}

/// How a ring is made.
#[derive(Clone, Copy)]
pub(super) struct RingSize {
    pub(super) function: RingHashFunction,
    pub(super) min: u64,
    pub(super) max: u64,
}

/// Places of a piece, about.
const PIECE: usize = 512;
/// Where more than one of so many places change, all are made anew.
const MOST: usize = 8;
/// The number of no host.
const NONE: u32 = u32::MAX;

// === impl Ring ===

impl Ring {
    /// A ring of hosts, which are not none; made of the one `before`, where few of them are others.
    pub(super) fn new(size: RingSize, hosts: Listed<'_>, before: Option<(&Self, &Kept<'_>)>) -> Self {
        let (places, counts) = count(size, hosts.hosts);
        let changed = before.and_then(|(before, kept)| before.changed(size.function, &places, hosts, counts, kept));
        changed.unwrap_or_else(|| Self::whole(size.function, &places, hosts, counts))
    }

    fn whole(function: RingHashFunction, counted: &[u32], hosts: Listed<'_>, counts: Counts) -> Self {
        let total = counted.iter().map(|places| *places as usize).sum::<usize>();
        let bits = (total / PIECE).next_power_of_two().ilog2();
        let shift = u64::BITS - bits;
        let mut places = Vec::with_capacity(total);
        for (host, &count) in counted.iter().enumerate() {
            let number = host as u32;
            each_hash(function, &hosts.key(host), 0..count, |hash| places.push(Place { hash, host: number }));
        }
        places.sort_unstable();
        let has_ties = places.windows(2).any(|pair| pair[0].hash == pair[1].hash);
        let mut rest = &places[..];
        let pieces = (0..1_usize << bits).map(|piece| {
            let (here, later) = rest.split_at(rest.partition_point(|place| piece_of(place.hash, shift) <= piece));
            rest = later;
            here.into()
        });
        let pieces: Box<[Arc<[Place]>]> = pieces.collect();
        let members = (0..).zip(counted).map(|(number, &places)| Member { number, places }).collect();
        let hosts = (0..counted.len() as u32).collect();
        Self { starts: starts(&pieces), pieces, shift, hosts, members, has_ties, counts }
    }

    /// The ring that follows this one. `None` where that is better made anew.
    fn changed(
        &self,
        function: RingHashFunction,
        counted: &[u32],
        listed: Listed<'_>,
        counts: Counts,
        kept: &Kept<'_>,
    ) -> Option<Self> {
        let total: usize = counted.iter().map(|places| *places as usize).sum();
        let mean = total / self.pieces.len();
        if self.has_ties || mean > 4 * PIECE || (self.pieces.len() > 1 && mean < PIECE / 8) {
            return None;
        }
        let mut change = Change { function, left: total / MOST, gone: Vec::new(), come: Vec::new() };
        let mut free = Vec::new();
        for &old in kept.gone() {
            let Member { number, places } = self.members[old as usize];
            change.take(&kept.key_before(old), number, 0..places)?;
            free.push(number);
        }
        let mut next = self.hosts.len() as u32;
        let mut members = Vec::with_capacity(counted.len());
        for (host, &places) in counted.iter().enumerate() {
            let old = kept.before(host);
            let number = match self.members.get(old as usize).filter(|_| old != NEW) {
                Some(member) => {
                    if member.places > places {
                        change.take(&listed.key(host), member.number, places..member.places)?;
                    } else if member.places < places {
                        change.put(&listed.key(host), member.number, member.places..places)?;
                    }
                    member.number
                }
                None => {
                    let number = free.pop().unwrap_or_else(|| {
                        next += 1;
                        next - 1
                    });
                    change.put(&listed.key(host), number, 0..places)?;
                    number
                }
            };
            members.push(Member { number, places });
        }
        let mut hosts = vec![NONE; next as usize];
        (0..).zip(&members).for_each(|(host, member)| hosts[member.number as usize] = host);
        let pieces = change.apply(&self.pieces, self.shift)?;
        let (starts, shift) = (starts(&pieces), self.shift);
        Some(Self { starts, pieces, shift, hosts: hosts.into(), members: members.into(), has_ties: false, counts })
    }

    pub(super) fn find(&self, hash: u64, attempt: u32) -> usize {
        let piece = piece_of(hash, self.shift);
        let within = self.pieces[piece].partition_point(|place| place.hash < hash);
        if let (0, Some(place)) = (attempt, self.pieces[piece].get(within)) {
            return self.hosts[place.host as usize] as usize;
        }
        let last = self.pieces.len() - 1;
        let total = self.starts[last] + self.pieces[last].len();
        // Beyond the last place comes the first. Another attempt takes what follows.
        let at = ((self.starts[piece] + within) % total).wrapping_add(attempt as usize) % total;
        let piece = self.starts.partition_point(|start| *start <= at) - 1;
        self.hosts[self.pieces[piece][at - self.starts[piece]].host as usize] as usize
    }
}

/// The number of a hash's piece.
fn piece_of(hash: u64, shift: u32) -> usize {
    // All are one piece where nothing is left.
    hash.checked_shr(shift).unwrap_or(0) as usize
}

fn starts(pieces: &[Arc<[Place]>]) -> Box<[usize]> {
    let start = |reached: &mut usize, piece: &Arc<[Place]>| Some(std::mem::replace(reached, *reached + piece.len()));
    pieces.iter().scan(0, start).collect()
}

/// How many places each host has.
fn count(size: RingSize, hosts: &[Weighted]) -> (Vec<u32>, Counts) {
    let lightest = hosts.iter().map(|host| host.weight).fold(1.0, f64::min);
    // So that the lightest host gets a whole number of places.
    let scale = ((lightest * size.min as f64).ceil() / lightest).min(size.max as f64);
    let size = scale.ceil() as u64;
    let mut counts = Counts { size, least: size, most: 0 };
    let (mut reached, mut target) = (0.0_f64, 0.0_f64);
    let count = hosts.iter().map(|host| {
        // Running sums: shares that are no whole numbers even out.
        target += scale * host.weight;
        let next = f64::max(reached, target.ceil());
        let places = (next - reached) as u32;
        reached = next;
        counts.least = counts.least.min(places.into());
        counts.most = counts.most.max(places.into());
        places
    });
    let places = count.collect();
    (places, counts)
}

fn each_hash(function: RingHashFunction, key: &str, numbers: std::ops::Range<u32>, mut take: impl FnMut(u64)) {
    let mut text = format!("{key}_");
    for number in numbers {
        text.truncate(key.len() + 1);
        // Writing to a String cannot fail.
        let _ = write!(text, "{number}");
        take(match function {
            RingHashFunction::Xx => XxHash64::oneshot(0, text.as_bytes()),
            RingHashFunction::Murmur2 => murmur_hash_2(text.as_bytes()),
        });
    }
}

/// The places that go and come.
struct Change {
    function: RingHashFunction,
    /// So many more may be others.
    left: usize,
    gone: Vec<Place>,
    come: Vec<Place>,
}

// === impl Change ===

impl Change {
    fn take(&mut self, key: &str, host: u32, numbers: std::ops::Range<u32>) -> Option<()> {
        self.left = self.left.checked_sub(numbers.len())?;
        each_hash(self.function, key, numbers, |hash| self.gone.push(Place { hash, host }));
        Some(())
    }

    fn put(&mut self, key: &str, host: u32, numbers: std::ops::Range<u32>) -> Option<()> {
        self.left = self.left.checked_sub(numbers.len())?;
        each_hash(self.function, key, numbers, |hash| self.come.push(Place { hash, host }));
        Some(())
    }

    /// The pieces after it. `None` where two hosts then have the same place.
    fn apply(mut self, pieces: &[Arc<[Place]>], shift: u32) -> Option<Box<[Arc<[Place]>]>> {
        self.gone.sort_unstable();
        self.come.sort_unstable();
        let mut next: Box<[Arc<[Place]>]> = pieces.into();
        let (mut gone, mut come) = (&self.gone[..], &self.come[..]);
        while let Some(first) = gone.first().into_iter().chain(come.first()).min() {
            let piece = piece_of(first.hash, shift);
            let is_here = |place: &Place| piece_of(place.hash, shift) == piece;
            let (gone_here, gone_later) = gone.split_at(gone.partition_point(is_here));
            let (come_here, come_later) = come.split_at(come.partition_point(is_here));
            let here = merged(&next[piece], gone_here, come_here);
            if here.windows(2).any(|pair| pair[0].hash == pair[1].hash) {
                return None;
            }
            next[piece] = here.into();
            (gone, come) = (gone_later, come_later);
        }
        Some(next)
    }
}

/// The places of a piece without those that go and with those that come. All are in order.
fn merged(places: &[Place], mut gone: &[Place], come: &[Place]) -> Vec<Place> {
    let mut merged = Vec::with_capacity(places.len() + come.len());
    let mut rest = places;
    let mut push_until = |end: Option<&Place>, merged: &mut Vec<Place>| {
        let (mut here, later) = rest.split_at(end.map_or(rest.len(), |end| rest.partition_point(|place| place < end)));
        rest = later;
        while let Some((first, others)) = gone.split_first() {
            let Ok(at) = here.binary_search(first) else { break };
            merged.extend_from_slice(&here[..at]);
            (here, gone) = (&here[at + 1..], others);
        }
        merged.extend_from_slice(here);
    };
    for place in come {
        push_until(Some(place), &mut merged);
        merged.push(*place);
    }
    push_until(None, &mut merged);
    merged
}
