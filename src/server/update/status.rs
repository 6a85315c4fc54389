//! How it stands with each source and kind: what admin tells at `/xds`.

use std::time::{Duration, SystemTime};

/// Upper bounds of the buckets of latencies, in milliseconds; the last bucket has none.
pub(crate) const BOUNDS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];

/// What happened between a source and those who want resources of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    /// It was asked last.
    pub(crate) requested: Option<SystemTime>,
    /// It delivered last what was accepted as a whole.
    pub(crate) acked: Option<Answer>,
    /// It delivered last something of which not all was accepted.
    pub(crate) nacked: Option<Answer>,
    /// It was last not to be reached, or answered rubbish.
    pub(crate) failed: Option<SystemTime>,
    /// Times from each delivery until it was in force.
    pub(crate) latency: Latency,
}

/// What was answered to a delivery.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) at: SystemTime,
    /// Version of the delivery.
    pub(crate) version: String,
    /// Why it was refused; empty where it was not.
    pub(crate) reason: String,
}

/// A histogram.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latency {
    /// Values up to each of [`BOUNDS`] and above the one before; the last are those above all.
    pub(crate) buckets: [u64; BOUNDS.len() + 1],
    pub(crate) sum: Duration,
    pub(crate) max: Duration,
}

/// How it stands with the stream to a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlaneState {
    pub(crate) is_connected: bool,
    /// Streams that broke off, or never were.
    pub(crate) failures: u64,
    /// Requests that wait for a token of the rate limit.
    pub(crate) pending_requests: u64,
    /// Requests that the rate limit held back.
    pub(crate) rate_limit_enforced: u64,
    /// What the server calls itself.
    pub(crate) identifier: String,
}

// === impl Status ===

impl Status {
    /// Nothing has happened.
    pub(crate) const NONE: Self =
        Self { requested: None, acked: None, nacked: None, failed: None, latency: Latency::NONE };

    /// When it delivered last.
    pub(crate) fn updated(&self) -> Option<SystemTime> {
        let times = [&self.acked, &self.nacked].map(|answer| answer.as_ref().map(|answer| answer.at));
        times.into_iter().max().flatten()
    }
}

// === impl Latency ===

impl Latency {
    const NONE: Self = Self { buckets: [0; BOUNDS.len() + 1], sum: Duration::ZERO, max: Duration::ZERO };

    pub(super) fn record(&mut self, took: Duration) {
        let bucket = BOUNDS.partition_point(|bound| Duration::from_millis(*bound) < took);
        self.buckets[bucket] += 1;
        self.sum = self.sum.saturating_add(took);
        self.max = self.max.max(took);
    }

    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub(crate) fn mean(&self) -> Duration {
        let count = u32::try_from(self.count()).unwrap_or(u32::MAX);
        self.sum.checked_div(count).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_the_bucket_of_the_next_bound() {
        let mut latency = Latency::default();
        for millis in [0, 1, 2, 3, 5_000, 5_001] {
            latency.record(Duration::from_millis(millis));
        }
        assert_eq!(latency.buckets, [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((latency.count(), latency.max), (6, Duration::from_millis(5_001)));
        assert_eq!(Latency::default().mean(), Duration::ZERO);
    }
}
