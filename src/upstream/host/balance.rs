use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nuncio_config::cluster::ClientWeights;
use tokio::time::Instant;

/// What load balancing notes of a host, where its policy looks at it.
#[derive(Debug)]
pub(crate) struct Balance {
    /// Times are counted from here.
    epoch: Instant,
    /// Since when it is healthy.
    healthy_since: Moment,
    /// The weight that followed from its last report.
    reported: AtomicU32,
    /// Since when it reports.
    reports_since: Moment,
    /// When it reported last.
    reported_at: Moment,
    /// The utilization that it reported last, as bits of a number.
    utilization: AtomicU64,
    /// When that was.
    utilization_at: Moment,
}

/// A point in time, or none: microseconds after an epoch, and one more.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

// === impl Balance ===

impl Balance {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            healthy_since: Moment::default(),
            reported: AtomicU32::new(0),
            reports_since: Moment::default(),
            reported_at: Moment::default(),
            utilization: AtomicU64::new(0),
            utilization_at: Moment::default(),
        }
    }

    /// The same, for a host that takes the place of this one.
    pub(super) fn copy(&self) -> Self {
        let Self { epoch, healthy_since, reported, reports_since, reported_at, utilization, utilization_at } = self;
        Self {
            epoch: *epoch,
            healthy_since: healthy_since.copy(),
            reported: AtomicU32::new(reported.load(Ordering::Relaxed)),
            reports_since: reports_since.copy(),
            reported_at: reported_at.copy(),
            utilization: AtomicU64::new(utilization.load(Ordering::Relaxed)),
            utilization_at: utilization_at.copy(),
        }
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

    pub(super) fn note_report(&self, weight: u32, now: Instant) {
        self.reported.store(weight, Ordering::Relaxed);
        self.reported_at.set(self.epoch, now);
        if self.reports_since.get(self.epoch).is_none() {
            self.reports_since.set(self.epoch, now);
        }
    }

    pub(super) fn note_utilization(&self, utilization: f64, now: Instant) {
        self.utilization.store(utilization.to_bits(), Ordering::Relaxed);
        self.utilization_at.set(self.epoch, now);
    }

    /// `None` where it has reported none, or none within `expiration`.
    pub(super) fn utilization(&self, expiration: Option<Duration>, now: Instant) -> Option<f64> {
        let at = self.utilization_at.get(self.epoch)?;
        let is_fresh = expiration.is_none_or(|expiration| now.saturating_duration_since(at) <= expiration);
        is_fresh.then(|| f64::from_bits(self.utilization.load(Ordering::Relaxed)))
    }

    /// `None` until it has reported for a while, and once it has not for too long.
    pub(super) fn reported_weight(&self, config: &ClientWeights, now: Instant) -> Option<u32> {
        let ago = |moment: &Moment| Some(now.saturating_duration_since(moment.get(self.epoch)?));
        if ago(&self.reports_since)? < config.blackout {
            return None;
        }
        if ago(&self.reported_at)? > config.expiration {
            self.reports_since.clear();
            return None;
        }
        Some(self.reported.load(Ordering::Relaxed))
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

    fn copy(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
