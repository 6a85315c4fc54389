use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How many requests have begun during the last `interval`, of all workers, to a part of it.
#[derive(Debug)]
pub(super) struct Recent {
    begin: Instant,
    interval: Duration,
    /// For each part of the interval: its number in the upper half, and the requests that began in it in the lower.
    parts: [AtomicU64; PARTS as usize],
}

/// Parts of an interval: what is forgotten, is forgotten a part at a time.
const PARTS: u32 = 32;

// === impl Recent ===

impl Recent {
    pub(super) fn new(interval: Duration) -> Self {
        Self { begin: Instant::now(), interval, parts: [const { AtomicU64::new(0) }; PARTS as usize] }
    }

    /// A request begins.
    pub(super) fn add(&self, now: Instant) {
        let number = self.number(now);
        let next = |part: u64| {
            let count = if part >> 32 == u64::from(number) { part as u32 } else { 0 };
            Some(u64::from(number) << 32 | u64::from(count.saturating_add(1)))
        };
        // It cannot fail: `next` always has one.
        let _ = self.parts[(number % PARTS) as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// Those that began during the interval that ends now.
    pub(super) fn count(&self, now: Instant) -> u32 {
        let number = self.number(now);
        let is_recent = |part: &u64| number.wrapping_sub((part >> 32) as u32) < PARTS;
        let parts = self.parts.iter().map(|part| part.load(Ordering::Relaxed));
        parts.filter(is_recent).fold(0, |sum, part| sum.saturating_add(part as u32))
    }

    /// The part of time that `now` is in; its number comes again after four thousand million parts.
    fn number(&self, now: Instant) -> u32 {
        let part = (self.interval.as_nanos() / u128::from(PARTS)).max(1);
        (now.saturating_duration_since(self.begin).as_nanos() / part) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_for_the_interval_and_no_longer() {
        let recent = Recent::new(Duration::from_millis(320));
        let at = |millis| recent.begin + Duration::from_millis(millis);
        recent.add(at(5));
        recent.add(at(100));
        recent.add(at(100));
        assert_eq!([100, 319, 330, 500].map(|millis| recent.count(at(millis))), [3, 3, 2, 0]);
        recent.add(at(10_000));
        assert_eq!(recent.count(at(10_001)), 1);
    }
}
