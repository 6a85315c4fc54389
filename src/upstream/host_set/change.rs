//! What became of the hosts of one set in the next, so that what is made of them need not all be made anew.

use std::collections::HashMap;
use std::sync::Arc;

use super::ends::Ends;
use super::{ByAddress, Facts};
use crate::host::Host;

/// Between two sets of hosts. Mostly few are others, all within a short run of places.
#[derive(Debug)]
pub(super) struct Change {
    /// Those before are the same, at the same places.
    start: u32,
    /// Those from here on, in the first set, are the same as those from `new_end` on in the second.
    old_end: u32,
    new_end: u32,
    /// Of those between: where in the second set they are that are in both.
    kept: HashMap<u32, u32>,
    /// Places in the first set of those that are not in the second.
    pub(super) gone: Vec<u32>,
    /// Places in the second set of those that are not in the first.
    pub(super) come: Vec<u32>,
    /// Places in the second set of those that are in both, and of whom something else is known now.
    pub(super) other: Vec<u32>,
}

/// Hosts with what is known of them.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) hosts: &'a [Arc<Host>],
    pub(super) facts: &'a Facts,
}

// === impl Change ===

impl Change {
    pub(super) fn between(old: Known<'_>, new: Known<'_>) -> Self {
        let Ends { start, old_end, new_end } = Ends::between(old.hosts, new.hosts);
        let address = |host: &Arc<Host>| Arc::as_ptr(host).addr();
        let middle = (start as u32..).zip(&old.hosts[start..old_end]);
        let mut before: HashMap<usize, u32, ByAddress> = middle.map(|(place, host)| (address(host), place)).collect();
        let (mut kept, mut come) = (HashMap::new(), Vec::new());
        for (place, host) in (start as u32..).zip(&new.hosts[start..new_end]) {
            match before.remove(&address(host)) {
                Some(old) => _ = kept.insert(old, place),
                None => come.push(place),
            }
        }
        let mut gone: Vec<u32> = before.into_values().collect();
        gone.sort_unstable();
        let [start, old_end, new_end] = [start, old_end, new_end].map(|place| place as u32);
        let mut change = Self { start, old_end, new_end, kept, gone, come, other: Vec::new() };
        change.other = change.others(old.facts, new.facts);
        change
    }

    fn others(&self, old: &Facts, new: &Facts) -> Vec<u32> {
        let (start, end) = (self.start as usize, self.new_end as usize);
        let differs = |(_, (old, new)): &(u32, (&super::facts::Fact, &super::facts::Fact))| !old.says_the_same(new);
        let head = (0..).zip(old.hosts()[..start].iter().zip(&new.hosts()[..start]));
        let tail = (self.new_end..).zip(old.hosts()[self.old_end as usize..].iter().zip(&new.hosts()[end..]));
        let outside = head.chain(tail).filter(differs).map(|(place, _)| place);
        let inside = self.kept.iter().filter(|(before, now)| !old.at(**before).says_the_same(new.at(**now)));
        outside.chain(inside.map(|(_, now)| *now)).collect()
    }

    /// How many hosts are not what they were.
    pub(super) fn size(&self) -> usize {
        self.gone.len() + self.come.len() + self.other.len()
    }

    /// Where the host is now that was at `place`.
    #[inline]
    pub(super) fn place_now(&self, place: u32) -> Option<u32> {
        if place < self.start {
            Some(place)
        } else if place >= self.old_end {
            Some(place - self.old_end + self.new_end)
        } else {
            self.kept.get(&place).copied()
        }
    }

    /// Whether hosts that are in both are at other places now.
    pub(super) fn moves_hosts(&self) -> bool {
        self.old_end != self.new_end || self.kept.iter().any(|(before, now)| before != now)
    }

    /// Whether a host at `place`, or one before it, may be at another place now.
    pub(super) fn reaches(&self, place: u32) -> bool {
        place >= self.start
    }
}
