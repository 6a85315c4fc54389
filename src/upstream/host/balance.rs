use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What load balancing notes of a host, where its policy looks at it.
#[derive(Debug)]
pub(crate) struct Balance {
    /// Times are counted from here.
    epoch: Instant,
    /// Since when it is healthy.
    healthy_since: Moment,
}

/// A point in time, or none: microseconds after an epoch, and one more.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

// === impl Balance ===

impl Balance {
    pub(super) fn new(now: Instant) -> Self {
        Self { epoch: now, healthy_since: Moment::default() }
    }

    /// It is healthy, since now unless it was before.
    pub(super) fn note_healthy(&self, now: Instant) {
        if self.healthy_since.get(self.epoch).is_none() {
            self.healthy_since.set(self.epoch, now);
        }
    }

    /// It passed a check that it failed before.
    pub(super) fn note_return(&self, now: Instant) {
        self.healthy_since.set(self.epoch, now);
    }

    pub(super) fn healthy_for(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.healthy_since.get(self.epoch)?))
    }
}

// === impl Moment ===

impl Moment {
    fn get(&self, epoch: Instant) -> Option<Instant> {
        // The number orders nothing else.
        let micros = self.0.load(Ordering::Relaxed).checked_sub(1)?;
        epoch.checked_add(Duration::from_micros(micros))
    }

    fn set(&self, epoch: Instant, at: Instant) {
        let micros = at.saturating_duration_since(epoch).as_micros();
        self.0.store(u64::try_from(micros).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
    }
}
