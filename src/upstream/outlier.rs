//! Outlier detection: hosts that fail more than others are left out for a while.
//!
//! ```text
//! workers: Monitor::put_*  -- counts, and at a limit raises an alarm -->  control thread: Detector
//!                                                                         ejects, looks at all each interval
//! ```

mod degraded;
mod detector;
mod event;
mod statistics;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use nuncio_config::cluster::{ErrorMatcher, OutlierDetection};
use nuncio_filter_api::ResponseHead;
use tokio::sync::Notify;

use crate::host::{HealthFlag, Host};

pub(crate) use detector::{Detector, Record};
pub(crate) use event::{OutlierLog, timestamp};

/// What the workers of all clusters with outlier detection write of one host. Relaxed: the numbers order nothing.
#[derive(Debug)]
pub(crate) struct Monitor {
    consecutive_5xx: AtomicU32,
    consecutive_gateway_failure: AtomicU32,
    consecutive_local_origin_failure: AtomicU32,
    external: Bucket,
    local: Bucket,
    /// [`Alarm`]s that the control thread has not seen yet.
    alarms: AtomicU8,
    /// Success rates of the last interval for admin, as bits of an `f64`.
    success_rate: AtomicU64,
    local_origin_success_rate: AtomicU64,
}

/// Requests of an interval: those that succeeded in the lower half, all in the upper, so that one addition does both.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

/// A number of failures in a row that has reached its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Alarm {
    Consecutive5xx = 1,
    ConsecutiveGatewayFailure = 2,
    ConsecutiveLocalOriginFailure = 4,
    /// Not a number: it has called itself degraded.
    Degraded = 8,
}

/// How an attempt went that got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalOrigin {
    /// There is a connection.
    Connected,
    /// There is none, or it broke.
    Failed,
    /// It took too long.
    TimedOut,
}

/// Outlier detection of one cluster, as its workers see it.
#[derive(Debug)]
pub(crate) struct OutlierShare {
    pub(crate) config: Arc<OutlierDetection>,
    /// Which responses are errors, where it is not for their status.
    errors: Option<Arc<ErrorMatcher>>,
    /// Wakes the control thread for an alarm, or for other hosts.
    pub(crate) wake: Notify,
    pub(crate) rates: Rates,
}

/// Means and limits of the last interval for admin: external, then local origin; -1 where there are none.
#[derive(Debug)]
pub(crate) struct Rates([AtomicU64; 4]);

/// Requests of a host in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) total: u32,
    pub(crate) good: u32,
}

/// Envoy's value of what is not known.
const UNKNOWN: f64 = -1.0;

// === impl OutlierShare ===

impl OutlierShare {
    pub(crate) fn new(config: Arc<OutlierDetection>, errors: Option<Arc<ErrorMatcher>>) -> Self {
        Self { config, errors, wake: Notify::new(), rates: Rates::default() }
    }

    /// A host has answered with this status.
    #[inline]
    pub(crate) fn put_status(&self, host: &Host, status: u16) {
        if let Some(monitor) = host.monitor() {
            self.put_code(monitor, status);
        }
    }

    /// A host has answered with this head; what it stands for is `status`, where that is not another.
    #[inline]
    pub(crate) fn put_response(&self, host: &Host, head: &ResponseHead, status: impl FnOnce() -> u16) {
        let status = match &self.errors {
            None => status(),
            // Envoy: an error is one whatever its status, and the rest is none.
            Some(errors) if errors.is_error(head) => 500,
            Some(_) => 200,
        };
        self.put_status(host, status);
    }

    /// A host has called itself degraded.
    pub(crate) fn put_degraded(&self, host: &Host) {
        if let Some(monitor) = host.monitor()
            && !host.flags().has(HealthFlag::DegradedOutlierDetection)
        {
            self.raise(monitor, Alarm::Degraded);
        }
    }

    /// Something happened on the way to a host.
    pub(crate) fn put_local_origin(&self, host: &Host, what: LocalOrigin) {
        let Some(monitor) = host.monitor() else { return };
        match (self.config.split_errors, what) {
            (true, what) => self.put_local(monitor, what == LocalOrigin::Connected),
            // Without a response it is not known yet whether all is well.
            (false, LocalOrigin::Connected) => {}
            (false, LocalOrigin::Failed) => self.put_code(monitor, 503),
            (false, LocalOrigin::TimedOut) => self.put_code(monitor, 504),
        }
    }

    fn put_code(&self, monitor: &Monitor, code: u16) {
        let is_good = code < 500;
        monitor.external.put(is_good);
        if is_good {
            clear(&monitor.consecutive_5xx);
            clear(&monitor.consecutive_gateway_failure);
            return;
        }
        if matches!(code, 502..=504) {
            let limit = self.config.limit_of_gateway_failures();
            self.count(monitor, &monitor.consecutive_gateway_failure, limit, Alarm::ConsecutiveGatewayFailure);
        } else {
            clear(&monitor.consecutive_gateway_failure);
        }
        let limit = self.config.limit_of_5xx();
        self.count(monitor, &monitor.consecutive_5xx, limit, Alarm::Consecutive5xx);
    }

    fn put_local(&self, monitor: &Monitor, is_good: bool) {
        monitor.local.put(is_good);
        if is_good {
            return clear(&monitor.consecutive_local_origin_failure);
        }
        let limit = self.config.limit_of_local_origin_failures();
        let counter = &monitor.consecutive_local_origin_failure;
        self.count(monitor, counter, limit, Alarm::ConsecutiveLocalOriginFailure);
    }

    fn count(&self, monitor: &Monitor, counter: &AtomicU32, limit: u32, alarm: Alarm) {
        if counter.fetch_add(1, Ordering::Relaxed).wrapping_add(1) == limit {
            self.raise(monitor, alarm);
        }
    }

    fn raise(&self, monitor: &Monitor, alarm: Alarm) {
        // Release, so that who sees the alarm also sees what led to it.
        monitor.alarms.fetch_or(alarm as u8, Ordering::Release);
        self.wake.notify_one();
    }
}

/// Writes only where there is something to clear: the line stays shared by the workers of a healthy host.
#[inline]
fn clear(counter: &AtomicU32) {
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
}

// === impl Monitor ===

impl Monitor {
    /// Takes the alarms raised since the last time.
    pub(crate) fn take_alarms(&self) -> impl Iterator<Item = Alarm> + use<> {
        let bits = match self.alarms.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.alarms.swap(0, Ordering::Acquire),
        };
        [Alarm::ConsecutiveGatewayFailure, Alarm::Consecutive5xx, Alarm::ConsecutiveLocalOriginFailure, Alarm::Degraded]
            .into_iter()
            .filter(move |alarm| bits & *alarm as u8 != 0)
    }

    /// Counts failures of this kind from zero again.
    pub(crate) fn reset(&self, alarm: Alarm) {
        let counter = match alarm {
            Alarm::Consecutive5xx => &self.consecutive_5xx,
            Alarm::ConsecutiveGatewayFailure => &self.consecutive_gateway_failure,
            Alarm::ConsecutiveLocalOriginFailure => &self.consecutive_local_origin_failure,
            // None is counted.
            Alarm::Degraded => return,
        };
        counter.store(0, Ordering::Relaxed);
    }

    /// Counts all failures from zero again.
    pub(crate) fn reset_all(&self) {
        for alarm in [Alarm::Consecutive5xx, Alarm::ConsecutiveGatewayFailure, Alarm::ConsecutiveLocalOriginFailure] {
            self.reset(alarm);
        }
    }

    /// The requests since the last time: as responses, and as connections.
    pub(crate) fn take_volumes(&self) -> [Volume; 2] {
        [self.external.take(), self.local.take()]
    }

    /// Notes the success rates of the interval.
    pub(crate) fn set_rates(&self, [external, local]: [f64; 2]) {
        self.success_rate.store(external.to_bits(), Ordering::Relaxed);
        self.local_origin_success_rate.store(local.to_bits(), Ordering::Relaxed);
    }

    /// The success rates of the last interval: of responses, and of connections.
    pub(crate) fn rates(&self) -> [f64; 2] {
        [&self.success_rate, &self.local_origin_success_rate].map(|rate| f64::from_bits(rate.load(Ordering::Relaxed)))
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            consecutive_5xx: AtomicU32::new(0),
            consecutive_gateway_failure: AtomicU32::new(0),
            consecutive_local_origin_failure: AtomicU32::new(0),
            external: Bucket::default(),
            local: Bucket::default(),
            alarms: AtomicU8::new(0),
            success_rate: AtomicU64::new(UNKNOWN.to_bits()),
            local_origin_success_rate: AtomicU64::new(UNKNOWN.to_bits()),
        }
    }
}

// === impl Bucket ===

impl Bucket {
    #[inline]
    fn put(&self, is_good: bool) {
        self.0.fetch_add(1 << 32 | u64::from(is_good), Ordering::Relaxed);
    }

    fn take(&self) -> Volume {
        let both = self.0.swap(0, Ordering::Relaxed);
        Volume { total: (both >> 32) as u32, good: both as u32 }
    }
}

// === impl Rates ===

impl Rates {
    /// Notes mean and limit of external (0) or local (1) origin.
    pub(crate) fn set(&self, origin: usize, mean: f64, limit: f64) {
        self.0[origin * 2].store(mean.to_bits(), Ordering::Relaxed);
        self.0[origin * 2 + 1].store(limit.to_bits(), Ordering::Relaxed);
    }

    /// Mean and limit of external origin, then those of local origin.
    pub(crate) fn all(&self) -> [f64; 4] {
        std::array::from_fn(|at| f64::from_bits(self.0[at].load(Ordering::Relaxed)))
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(UNKNOWN.to_bits())))
    }
}

#[cfg(test)]
mod tests;
