use std::collections::HashMap;
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::time::Instant;

use super::{Family, Found};

/// How many answers are kept, as hickory's `cache_size` is by default.
const MOST: usize = 1024;

/// Answers for as long as they may be given again.
pub(super) struct Cache {
    max_ttl: Duration,
    answers: HashMap<(Name, Family), (Instant, Found)>,
}

// === impl Cache ===

impl Cache {
    pub(super) fn new(max_ttl: Duration) -> Self {
        Self { max_ttl, answers: HashMap::new() }
    }

    /// An answer that is still good, with the time that is left to it.
    pub(super) fn get(&mut self, name: &Name, family: Family) -> Option<Found> {
        let key = (name.clone(), family);
        let (end, found) = self.answers.get(&key)?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.answers.remove(&key);
            return None;
        }
        Some(Found { ttl: found.ttl.map(|_| left), ..found.clone() })
    }

    pub(super) fn put(&mut self, name: Name, family: Family, found: Found, ttl: Duration) {
        let (now, ttl) = (Instant::now(), ttl.min(self.max_ttl));
        if ttl.is_zero() {
            return;
        }
        if self.answers.len() >= MOST {
            self.answers.retain(|_, (end, _)| *end > now);
            // All of them good: whichever goes is asked for again.
            if self.answers.len() >= MOST
                && let Some(any) = self.answers.keys().next().cloned()
            {
                self.answers.remove(&any);
            }
        }
        self.answers.insert((name, family), (now + ttl, found));
    }

    pub(super) fn clear(&mut self) {
        self.answers.clear();
    }
}
