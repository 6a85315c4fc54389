//! Which hosts of a table were in the one before.

use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;

use nuncio_config::cluster::HashingLb;

use super::{Weighted, key};
use crate::host::Host;
use crate::host_set::ByAddress;

/// The hosts of a table beside those of the one before.
pub(super) struct Kept<'a> {
    /// By number in the new table: the number in the one before, or [`NEW`].
    before: Vec<u32>,
    /// Numbers in the table before of those that are in it no longer, in order.
    gone: Vec<u32>,
    old: Listed<'a>,
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
        // Mostly few are others.
        let start = (0..least).take_while(|at| is_same(*at, *at)).count();
        let end = (1..=least - start).take_while(|at| is_same(olds - at, news - at)).count();
        let address = |host: &Host| ptr::from_ref(host).addr();
        let mut middle: HashMap<usize, u32, ByAddress> =
            (start..olds - end).map(|at| (address(old.at(at)), at as u32)).collect();
        let mut before: Vec<u32> = (0..start as u32).collect();
        before.reserve_exact(news - start);
        before.extend((start..news - end).map(|at| middle.remove(&address(new.at(at))).unwrap_or(NEW)));
        before.extend((olds - end) as u32..olds as u32);
        let mut gone: Vec<u32> = middle.into_values().collect();
        gone.sort_unstable();
        Self { before, gone, old }
    }

    /// By number in the new table: the number in the one before, or [`NEW`].
    pub(super) fn before(&self) -> &[u32] {
        &self.before
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
        self.before.iter().filter(|old| **old != NEW).is_sorted()
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
