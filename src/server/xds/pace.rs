//! How often a server is asked.

use std::time::Duration;

use nuncio_filter_api::Rng;
use tokio::time::Instant;

/// Pauses between attempts to reach a server: random, below a bound that doubles (Envoy: `retry_back_off`).
#[derive(Debug)]
pub(crate) struct Backoff {
    base: Duration,
    max: Duration,
    bound: Duration,
}

impl Backoff {
    /// Envoy's defaults are 500 ms and 30 s.
    pub(crate) fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, bound: base }
    }

    /// The server answers: the next failure is the first one again.
    pub(crate) fn reset(&mut self) {
        self.bound = self.base;
    }

    pub(crate) fn next(&mut self, rng: &Rng) -> Duration {
        let bound = u64::try_from(self.bound.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.bound = (self.bound * 2).min(self.max);
        Duration::from_nanos(rng.below(bound))
    }
}

/// A bucket of tokens, one for each request (`rate_limit_settings`).
#[derive(Debug)]
pub(crate) struct RateLimit {
    max: f64,
    /// Tokens a second.
    rate: f64,
    tokens: f64,
    filled: Option<Instant>,
}

impl RateLimit {
    /// Envoy's defaults are 100 tokens and 10 a second.
    pub(crate) fn new(max_tokens: u32, rate: f64) -> Self {
        let max = f64::from(max_tokens.max(1));
        Self { max, rate: rate.max(f64::MIN_POSITIVE), tokens: max, filled: None }
    }

    /// Takes a token, or tells how long to wait for one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let elapsed = self.filled.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.filled = Some(now);
        self.tokens = (self.tokens + elapsed.as_secs_f64() * self.rate).min(self.max);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let wait = (1.0 - self.tokens) / self.rate;
        Err(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_below_bounds_that_double_up_to_the_last() {
        let (rng, second) = (Rng::seeded(7), Duration::from_secs(1));
        let mut backoff = Backoff::new(second, second * 5);
        for bound in [1, 2, 4, 5, 5] {
            assert_eq!(backoff.bound, second * bound);
            assert!(backoff.next(&rng) < second * bound);
        }
        backoff.reset();
        assert_eq!(backoff.bound, second);
    }

    #[test]
    fn tokens_are_spent_at_once_and_come_back_at_their_rate() {
        let now = Instant::now();
        let mut limit = RateLimit::new(2, 10.0);
        assert_eq!((limit.take(now), limit.take(now)), (Ok(()), Ok(())));
        assert_eq!(limit.take(now), Err(Duration::from_millis(100)));
        assert_eq!(limit.take(now + Duration::from_millis(101)), Ok(()));
    }
}
