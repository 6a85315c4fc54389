//! Who is ejected, and for how long. Pure: time, chance and hosts are given.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nuncio_config::cluster::OutlierDetection;
use nuncio_telemetry::stats::Scope;
use tokio::time::Instant;

use super::degraded::Degradations;
use super::statistics::{Findings, analyse};
use super::{Alarm, Rates, Volume};
use crate::host::{HealthFlag, Host};

nuncio_telemetry::stats! {
    /// `cluster.<name>.outlier_detection`
    pub(super) struct OutlierStats {
        ejections_active: Gauge,
        ejections_consecutive_5xx: Counter,
        ejections_detected_consecutive_5xx: Counter,
        ejections_detected_consecutive_gateway_failure: Counter,
        ejections_detected_consecutive_local_origin_failure: Counter,
        ejections_detected_degradation: Counter,
        ejections_detected_failure_percentage: Counter,
        ejections_detected_local_origin_failure_percentage: Counter,
        ejections_detected_local_origin_success_rate: Counter,
        ejections_detected_success_rate: Counter,
        ejections_enforced_consecutive_5xx: Counter,
        ejections_enforced_consecutive_gateway_failure: Counter,
        ejections_enforced_consecutive_local_origin_failure: Counter,
        ejections_enforced_failure_percentage: Counter,
        ejections_enforced_local_origin_failure_percentage: Counter,
        ejections_enforced_local_origin_success_rate: Counter,
        ejections_enforced_success_rate: Counter,
        ejections_enforced_total: Counter,
        ejections_overflow: Counter,
        ejections_success_rate: Counter,
        ejections_total: Counter,
    }
}

/// What made a host an outlier, by Envoy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    SuccessRate,
    ConsecutiveLocalOriginFailure,
    SuccessRateLocalOrigin,
    FailurePercentage,
    FailurePercentageLocalOrigin,
}

/// An ejection, or its end.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) host: Arc<Host>,
    pub(super) what: What,
    /// Ejections of the host so far.
    pub(super) ejections: u32,
    /// Since the last record of the host.
    pub(super) since_last: Option<Duration>,
}

/// What a [`Record`] tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum What {
    /// Ejected, or only found to be an outlier.
    Eject { cause: Cause, is_enforced: bool, evidence: Evidence },
    /// Back again.
    Uneject,
}

/// What an outlier was found by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Evidence {
    Consecutive,
    SuccessRate { host: f64, mean: f64, limit: f64 },
    FailurePercentage { host: f64 },
}

/// The ejections of one cluster.
pub(crate) struct Detector {
    configured: Arc<OutlierDetection>,
    /// With what the runtime says now.
    config: OutlierDetection,
    stats: OutlierStats,
    ejections: HashMap<*const Host, Ejections>,
    /// Hosts that called themselves degraded.
    degradations: Degradations,
    /// Whether flags have changed of which no record tells.
    is_stale: bool,
    hosts: Vec<Arc<Host>>,
    /// Hosts that are ejected now.
    active: usize,
    /// A number below the one given.
    random: Box<dyn Fn(u64) -> u64>,
}

/// What is remembered of one host.
#[derive(Debug, Default)]
struct Ejections {
    /// So many in all.
    count: u32,
    /// So many times the base time lasts the next one.
    backoff: u32,
    jitter: Duration,
    ejected: Option<Instant>,
    unejected: Option<Instant>,
}

// === impl Record ===

impl Record {
    /// Whether the host was ejected now.
    pub(crate) fn is_ejection(&self) -> bool {
        matches!(self.what, What::Eject { is_enforced: true, .. })
    }
}

// === impl Detector ===

impl Detector {
    /// Nobody is ejected. `scope` is where it counts; `random` draws below a number.
    pub(crate) fn new(configured: Arc<OutlierDetection>, scope: &Scope, random: impl Fn(u64) -> u64 + 'static) -> Self {
        Self {
            config: configured.now(),
            configured,
            stats: OutlierStats::new(scope),
            ejections: HashMap::new(),
            degradations: Degradations::default(),
            is_stale: false,
            hosts: Vec::new(),
            active: 0,
            random: Box::new(random),
        }
    }

    /// Takes over the hosts as they are now.
    pub(crate) fn set_hosts(&mut self, hosts: &[Arc<Host>]) {
        if self.hosts.len() == hosts.len() && self.hosts.iter().zip(hosts).all(|(a, b)| Arc::ptr_eq(a, b)) {
            return;
        }
        let present: std::collections::HashSet<_> = hosts.iter().map(Arc::as_ptr).collect();
        self.ejections.retain(|host, _| present.contains(host));
        self.degradations.retain(&present);
        self.active = hosts.iter().filter(|h| is_ejected(h)).count();
        self.stats.ejections_active().set(self.active as u64);
        self.hosts = hosts.to_vec();
    }

    /// Looks for hosts that raised an alarm.
    pub(crate) fn answer_alarms(&mut self, now: Instant) -> Vec<Record> {
        let mut records = Vec::new();
        self.config = self.configured.now();
        for host in self.hosts.clone() {
            let Some(monitor) = host.monitor() else { continue };
            for alarm in monitor.take_alarms() {
                if is_ejected(&host) {
                    continue;
                }
                let Some(cause) = Cause::of(alarm) else {
                    self.degrade(&host, now);
                    continue;
                };
                self.count_detected(cause);
                records.extend(self.eject(&host, cause, Evidence::Consecutive, now));
                if alarm == Alarm::Consecutive5xx {
                    self.stats.ejections_consecutive_5xx().inc();
                }
                monitor.reset(alarm);
            }
        }
        records
    }

    fn degrade(&mut self, host: &Arc<Host>, now: Instant) {
        if host.set_flag(HealthFlag::DegradedOutlierDetection) {
            self.stats.ejections_detected_degradation().inc();
            self.degradations.begin(host, now);
            self.is_stale = true;
        }
    }

    /// Whether flags have changed since the last time of which no record tells.
    pub(crate) fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.is_stale)
    }

    /// The end of an interval: hosts come back, and the requests since the last one are looked at.
    pub(crate) fn end_interval(&mut self, rates: &Rates, now: Instant) -> Vec<Record> {
        let mut records = Vec::new();
        let mut volumes: [Vec<Option<Volume>>; 2] = Default::default();
        self.config = self.configured.now();
        self.is_stale |= self.degradations.end(&self.hosts, &self.config, now);
        for host in self.hosts.clone() {
            if !is_ejected(&host) {
                self.forgive(&host);
            } else if self.is_over(&host, now) {
                records.extend(self.uneject(&host, now));
            }
            let taken = host.monitor().map(super::Monitor::take_volumes);
            let counts = !is_ejected(&host);
            for (origin, all) in volumes.iter_mut().enumerate() {
                all.push(taken.filter(|_| counts).map(|taken| taken[origin]));
            }
        }
        let findings = volumes.map(|v| analyse(&v, &self.config.success_rate, &self.config.failure_percentage));
        for (at, host) in self.hosts.iter().enumerate() {
            if let Some(monitor) = host.monitor() {
                monitor.set_rates([findings[0].rates[at], findings[1].rates[at]]);
            }
        }
        for (origin, found) in findings.iter().enumerate() {
            rates.set(origin, found.mean, found.limit);
            self.act_on(found, origin, now, &mut records);
        }
        records
    }

    fn act_on(&mut self, found: &Findings, origin: usize, now: Instant, records: &mut Vec<Record>) {
        let [by_rate, by_percentage] = match origin {
            0 => [Cause::SuccessRate, Cause::FailurePercentage],
            _ => [Cause::SuccessRateLocalOrigin, Cause::FailurePercentageLocalOrigin],
        };
        for &at in &found.below_limit {
            let evidence = Evidence::SuccessRate { host: found.rates[at], mean: found.mean, limit: found.limit };
            self.stats.ejections_success_rate().inc();
            self.count_detected(by_rate);
            records.extend(self.eject(&self.hosts[at].clone(), by_rate, evidence, now));
        }
        for &at in &found.too_many_failures {
            let host = self.hosts[at].clone();
            self.count_detected(by_percentage);
            let evidence = Evidence::FailurePercentage { host: found.rates[at] };
            records.extend(self.eject(&host, by_percentage, evidence, now));
        }
    }

    /// A host that was not ejected since the last interval is forgiven one ejection.
    fn forgive(&mut self, host: &Arc<Host>) {
        if let Some(ejections) = self.ejections.get_mut(&Arc::as_ptr(host)) {
            ejections.backoff = ejections.backoff.saturating_sub(1);
        }
    }

    fn is_over(&self, host: &Arc<Host>, now: Instant) -> bool {
        let Some(Ejections { backoff, jitter, ejected: Some(since), .. }) = self.ejections.get(&Arc::as_ptr(host))
        else {
            // Ejected by a detector that is gone.
            return true;
        };
        let OutlierDetection { base_ejection_time, max_ejection_time, .. } = self.config;
        let lasts = base_ejection_time.saturating_mul(*backoff).min(max_ejection_time) + *jitter;
        now.saturating_duration_since(*since) >= lasts
    }

    fn eject(&mut self, host: &Arc<Host>, cause: Cause, evidence: Evidence, now: Instant) -> Option<Record> {
        // One that was just ejected for another reason is not ejected again.
        if is_ejected(host) {
            return None;
        }
        let share = 100.0 * (self.active + 1) as f64 / self.hosts.len().max(1) as f64;
        let is_allowed = share <= f64::from(self.config.max_ejection_percent)
            || (self.config.always_eject_one_host && self.active == 0);
        if !is_allowed {
            self.stats.ejections_overflow().inc();
            return None;
        }
        if matches!(cause, Cause::Consecutive5xx | Cause::SuccessRate) {
            self.stats.ejections_total().inc();
        }
        let is_enforced = (self.random)(100) < u64::from(self.enforcing(cause));
        let jitter = if is_enforced { self.jitter() } else { Duration::ZERO };
        let entry = self.ejections.entry(Arc::as_ptr(host)).or_default();
        let since_last = entry.unejected.map(|at| now.saturating_duration_since(at));
        if is_enforced {
            host.set_flag(HealthFlag::FailedOutlierCheck);
            *entry = Ejections { count: entry.count + 1, jitter, ejected: Some(now), ..*entry };
            let OutlierDetection { base_ejection_time, max_ejection_time, .. } = self.config;
            if base_ejection_time.saturating_mul(entry.backoff) < max_ejection_time + base_ejection_time {
                entry.backoff += 1;
            }
        }
        let ejections = entry.count;
        if is_enforced {
            self.active += 1;
            self.stats.ejections_active().inc();
            self.stats.ejections_enforced_total().inc();
            self.count_enforced(cause);
        }
        let what = What::Eject { cause, is_enforced, evidence };
        Some(Record { host: host.clone(), what, ejections, since_last })
    }

    fn jitter(&self) -> Duration {
        let nanos = u64::try_from(self.config.max_ejection_time_jitter.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 { Duration::ZERO } else { Duration::from_nanos((self.random)(nanos)) }
    }

    /// Takes a host back; nothing if it was not ejected.
    pub(crate) fn uneject(&mut self, host: &Arc<Host>, now: Instant) -> Option<Record> {
        if !host.clear_flag(HealthFlag::FailedOutlierCheck) {
            return None;
        }
        self.active = self.active.saturating_sub(1);
        self.stats.ejections_active().set(self.active as u64);
        if let Some(monitor) = host.monitor() {
            monitor.reset_all();
        }
        let entry = self.ejections.get_mut(&Arc::as_ptr(host))?;
        entry.unejected = Some(now);
        let since_last = entry.ejected.map(|at| now.saturating_duration_since(at));
        Some(Record { host: host.clone(), what: What::Uneject, ejections: entry.count, since_last })
    }

    fn enforcing(&self, cause: Cause) -> u32 {
        let config = &self.config;
        match cause {
            Cause::Consecutive5xx => config.consecutive_5xx.enforcing,
            Cause::ConsecutiveGatewayFailure => config.consecutive_gateway_failure.enforcing,
            Cause::ConsecutiveLocalOriginFailure => config.consecutive_local_origin_failure.enforcing,
            Cause::SuccessRate => config.success_rate.enforcing,
            Cause::SuccessRateLocalOrigin => config.success_rate.enforcing_local_origin,
            Cause::FailurePercentage => config.failure_percentage.enforcing,
            Cause::FailurePercentageLocalOrigin => config.failure_percentage.enforcing_local_origin,
        }
    }

    fn count_detected(&self, cause: Cause) {
        let stats = &self.stats;
        match cause {
            Cause::Consecutive5xx => stats.ejections_detected_consecutive_5xx(),
            Cause::ConsecutiveGatewayFailure => stats.ejections_detected_consecutive_gateway_failure(),
            Cause::ConsecutiveLocalOriginFailure => stats.ejections_detected_consecutive_local_origin_failure(),
            Cause::SuccessRate => stats.ejections_detected_success_rate(),
            Cause::SuccessRateLocalOrigin => stats.ejections_detected_local_origin_success_rate(),
            Cause::FailurePercentage => stats.ejections_detected_failure_percentage(),
            Cause::FailurePercentageLocalOrigin => stats.ejections_detected_local_origin_failure_percentage(),
        }
        .inc();
    }

    fn count_enforced(&self, cause: Cause) {
        let stats = &self.stats;
        match cause {
            Cause::Consecutive5xx => stats.ejections_enforced_consecutive_5xx(),
            Cause::ConsecutiveGatewayFailure => stats.ejections_enforced_consecutive_gateway_failure(),
            Cause::ConsecutiveLocalOriginFailure => stats.ejections_enforced_consecutive_local_origin_failure(),
            Cause::SuccessRate => stats.ejections_enforced_success_rate(),
            Cause::SuccessRateLocalOrigin => stats.ejections_enforced_local_origin_success_rate(),
            Cause::FailurePercentage => stats.ejections_enforced_failure_percentage(),
            Cause::FailurePercentageLocalOrigin => stats.ejections_enforced_local_origin_failure_percentage(),
        }
        .inc();
    }
}

fn is_ejected(host: &Host) -> bool {
    host.flags().has(HealthFlag::FailedOutlierCheck)
}

// === impl Cause ===

impl Cause {
    /// `None` for what ejects nobody.
    fn of(alarm: Alarm) -> Option<Self> {
        match alarm {
            Alarm::Consecutive5xx => Some(Self::Consecutive5xx),
            Alarm::ConsecutiveGatewayFailure => Some(Self::ConsecutiveGatewayFailure),
            Alarm::ConsecutiveLocalOriginFailure => Some(Self::ConsecutiveLocalOriginFailure),
            Alarm::Degraded => None,
        }
    }
}

#[cfg(test)]
mod tests;
