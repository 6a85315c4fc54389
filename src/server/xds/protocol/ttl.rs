//! When resources with a time to live die, unless they are sent again.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

/// The deaths that lie ahead, by type and name.
#[derive(Debug)]
pub(crate) struct Expiry<K> {
    by_name: HashMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
}

impl<K> Default for Expiry<K> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Clone + Eq + Ord + std::hash::Hash> Expiry<K> {
    /// A resource came, or its heartbeat: it lives for `ttl` from `now`, or for ever.
    pub(crate) fn refresh(&mut self, key: &K, ttl: Option<Duration>, now: Instant) {
        self.forget(key);
        // A time that cannot be told is never reached.
        let Some(at) = ttl.and_then(|ttl| now.checked_add(ttl)) else { return };
        self.by_name.insert(key.clone(), at);
        self.by_time.insert((at, key.clone()));
    }

    /// It is gone, whatever its time.
    pub(crate) fn forget(&mut self, key: &K) {
        if let Some((key, at)) = self.by_name.remove_entry(key) {
            self.by_time.remove(&(at, key));
        }
    }

    /// When the next one dies.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out one that is dead by `now`.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<K> {
        let (at, _) = self.by_time.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_name.remove(&key);
        Some(key)
    }
}
