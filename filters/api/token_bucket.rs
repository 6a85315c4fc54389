use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Tokens that come back with time, for all workers. It keeps one number: the time at which it would have been empty.
#[derive(Debug)]
pub struct TokenBucket {
    /// The point in time that all others are counted from.
    origin: Instant,
    /// Nanoseconds for one token.
    cost: u64,
    /// Nanoseconds for a full bucket.
    capacity: u64,
    /// See above: nanoseconds since `origin`, which lies so far back that a new bucket is full.
    empty_at: AtomicU64,
}

impl TokenBucket {
    /// A full bucket of `max` tokens, to which `per_fill` come back in each `interval`, little by little.
    pub fn new(max: u32, per_fill: u32, interval: Duration, now: Instant) -> Self {
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        let cost = (interval / u64::from(per_fill.max(1))).max(1);
        let capacity = cost.saturating_mul(max.into());
        Self { origin: now, cost, capacity, empty_at: AtomicU64::new(0) }
    }

    /// Takes a token, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        let since = u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX);
        // So that a full bucket at the origin is no negative time.
        let now = since.saturating_add(self.capacity);
        let take = |empty_at: u64| {
            let next = empty_at.max(now - self.capacity).checked_add(self.cost)?;
            (next <= now).then_some(next)
        };
        self.empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_one_by_one_up_to_the_most() {
        let start = Instant::now();
        let bucket = TokenBucket::new(3, 2, Duration::from_secs(1), start);
        let taken = |at: u64| (0..10).filter(|_| bucket.take(start + Duration::from_millis(at))).count();
        assert_eq!([taken(0), taken(400), taken(500), taken(1700), taken(60_000)], [3, 0, 1, 2, 3]);
    }

    #[test]
    fn an_empty_bucket_gives_nothing() {
        let start = Instant::now();
        assert!(!TokenBucket::new(0, 1, Duration::from_secs(1), start).take(start));
    }
}
