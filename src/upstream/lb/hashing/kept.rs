//! Which hosts of a table were in the one before.

use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;

use nuncio_config::cluster::HashingLb;

use super::{Weighted, key};
use crate::host::Host;
use crate::host_set::ByAddress;

/// The hosts of a table beside those of the one before. Mostly few are others, all within a short run of numbers.
pub(super) struct Kept<'a> {
    /// Those numbered lower have the same number in both.
    start: usize,
    /// Those from here on, in the table before, are those from `new_end` on in the new one.
    old_end: usize,
    new_end: usize,
    /// Of those between in the new table: the number in the one before, or [`NEW`].
    between: Vec<u32>,
    /// Numbers in the table before of those that are in it no longer, in order.
    gone: Vec<u32>,
    old: Listed<'a>,
}

/// By number in the table before: the number in the new one.
pub(super) struct NumbersNow {
    start: u32,
    old_end: u32,
    new_end: u32,
    between: Vec<u32>,
}

/// The number of a host that was not there.
pub(super) const NEW: u32 = u32::MAX;

/// Hosts of a table: those of `set` that `hosts` names.
#[derive(Clone, Copy)]
pub(super) struct Listed<'a> {
    pub(super) config: &'a HashingLb,
    pub(super) hosts: &'a [Weighted],
    pub(super) set: &'a [Arc<Host>],
}

// === impl Kept ===

impl<'a> Kept<'a> {
    pub(super) fn new(old: Listed<'a>, new: Listed<'_>) -> Self {
        let (olds, news) = (old.hosts.len(), new.hosts.len());
        let is_same = |a: usize, b: usize| ptr::eq(old.at(a), new.at(b));
        let least = olds.min(news);
        let start = (0..least).take_while(|at| is_same(*at, *at)).count();
        let end = (1..=least - start).take_while(|at| is_same(olds - at, news - at)).count();
        let address = |host: &Host| ptr::from_ref(host).addr();
        let mut middle: HashMap<usize, u32, ByAddress> =
            (start..olds - end).map(|at| (address(old.at(at)), at as u32)).collect();
        let (old_end, new_end) = (olds - end, news - end);
        let between = (start..new_end).map(|at| middle.remove(&address(new.at(at))).unwrap_or(NEW)).collect();
        let mut gone: Vec<u32> = middle.into_values().collect();
        gone.sort_unstable();
        Self { start, old_end, new_end, between, gone, old }
    }

    /// By number in the new table: the number in the one before, or [`NEW`].
    #[inline]
    pub(super) fn before(&self, number: usize) -> u32 {
        match number {
            same if same < self.start => same as u32,
            later if later >= self.new_end => (later - self.new_end + self.old_end) as u32,
            between => self.between[between - self.start],
        }
    }

    /// Numbers in the new table of those that were not in the one before.
    pub(super) fn come(&self) -> impl Iterator<Item = u32> {
        let between = (self.start as u32..).zip(&self.between);
        between.filter(|(_, old)| **old == NEW).map(|(number, _)| number)
    }

    /// Numbers in the table before of those that are in it no longer, in order.
    pub(super) fn gone(&self) -> &[u32] {
        &self.gone
    }

    /// The key of a host of the table before.
    pub(super) fn key_before(&self, number: u32) -> Box<str> {
        self.old.key(number as usize)
    }

    /// Whether those that were there are in the same order.
    pub(super) fn is_in_order(&self) -> bool {
        self.between.iter().filter(|old| **old != NEW).is_sorted()
    }

    /// What is known of the hosts of the table before, for those of the new one; `make` makes it for those that come.
    pub(super) fn carry_over<T: Copy>(&self, known: &[T], make: impl Fn(usize) -> T) -> Vec<T> {
        let (head, tail) = (&known[..self.start], &known[self.old_end..]);
        let mut carried = Vec::with_capacity(head.len() + self.between.len() + tail.len());
        carried.extend_from_slice(head);
        carried.extend((self.start..).zip(&self.between).map(|(number, &old)| match old {
            NEW => make(number),
            old => known[old as usize],
        }));
        carried.extend_from_slice(tail);
        carried
    }

    pub(super) fn numbers_now(&self) -> NumbersNow {
        let mut between = vec![NEW; self.old_end - self.start];
        for (number, &old) in (self.start as u32..).zip(&self.between).filter(|(_, old)| **old != NEW) {
            between[old as usize - self.start] = number;
        }
        let [start, old_end, new_end] = [self.start, self.old_end, self.new_end].map(|number| number as u32);
        NumbersNow { start, old_end, new_end, between }
    }
}

// === impl NumbersNow ===

impl NumbersNow {
    /// `None`: it is there no longer.
    #[inline]
    pub(super) fn of(&self, old: u32) -> Option<u32> {
        match old {
            same if same < self.start => Some(same),
            later if later >= self.old_end => Some(later - self.old_end + self.new_end),
            between => Some(self.between[(between - self.start) as usize]).filter(|number| *number != NEW),
        }
    }
}

// === impl Listed ===

impl<'a> Listed<'a> {
    fn at(self, number: usize) -> &'a Host {
        &self.set[self.hosts[number].place as usize]
    }

    /// What a host is hashed by.
    pub(super) fn key(self, number: usize) -> Box<str> {
        key(self.at(number), self.config)
    }
}
