use std::sync::{Arc, LazyLock};
use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::{CircuitBreakers as Proto, circuit_breakers as pb};
use nuncio_proto::envoy::config::core::v3::RoutingPriority;

use crate::protocol::{duration, non_zero};

/// Which set of limits and pools a request uses; a route chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// DEFAULT
    #[default]
    Default,
    /// HIGH
    High,
}

/// The limits of a cluster for each priority. Clusters that set none share those of Envoy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitBreakers(Arc<[Thresholds; 2]>);

impl Default for CircuitBreakers {
    fn default() -> Self {
        static DEFAULT: LazyLock<Arc<[Thresholds; 2]>> = LazyLock::new(Arc::default);
        Self(DEFAULT.clone())
    }
}

/// The limits of one priority, for all workers together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections; beyond, requests wait for one to become free.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending_requests: u32,
    /// Requests in flight.
    pub max_requests: u32,
    /// Retries in flight, where there is no budget.
    pub max_retries: u32,
    /// `retry_budget`, which takes the place of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
    /// Whether the `remaining_*` gauges are kept.
    pub track_remaining: bool,
    /// Connections to one host; beyond, requests to it wait for one to become free.
    pub max_connections_per_host: u32,
    /// Pools of connections; beyond, there is none for a request that needs another.
    pub max_connection_pools: u32,
}

/// A share of the requests in flight and waiting that may be retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// `budget_percent` in millionths.
    millionths: u32,
    /// `min_retry_concurrency`: so many are always allowed.
    min: u32,
    /// `budget_interval`: requests count for so long after they began, and no longer.
    pub interval: Option<Duration>,
}

/// Envoy's default of `budget_percent`.
const BUDGET_PERCENT: f64 = 20.0;
/// Envoy's default of `min_retry_concurrency`.
const MIN_RETRIES: u32 = 3;

// === impl RetryBudget ===

impl RetryBudget {
    /// How many retries are allowed where so many requests count.
    pub fn max(self, requests: u32) -> u32 {
        let share = u64::from(requests) * u64::from(self.millionths) / 1_000_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(self.min)
    }

    /// This budget, or Envoy's where there is none, with what is given here in place of its own.
    pub fn with(budget: Option<Self>, percent: Option<f64>, min: Option<u32>) -> Self {
        let own = budget.unwrap_or(Self { millionths: millionths(BUDGET_PERCENT), min: MIN_RETRIES, interval: None });
        Self { millionths: percent.map_or(own.millionths, millionths), min: min.unwrap_or(own.min), ..own }
    }

    fn lower(message: pb::thresholds::RetryBudget, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::thresholds::RetryBudget { budget_percent, min_retry_concurrency, budget_interval } = message;
        let interval = cx.opt("budget_interval", budget_interval, duration)?.and_then(non_zero);
        let percent = budget_percent.map_or(BUDGET_PERCENT, |p| p.value);
        Ok(Self {
            millionths: millionths(percent),
            min: min_retry_concurrency.map_or(MIN_RETRIES, |n| n.value),
            interval,
        })
    }
}

/// The rules of the field hold it between 0 and 100; the runtime may say anything.
fn millionths(percent: f64) -> u32 {
    (percent * 10_000.0).round() as u32
}

// === impl CircuitBreakers ===

impl CircuitBreakers {
    /// These limits.
    pub fn new(default: Thresholds, high: Thresholds) -> Self {
        Self(Arc::new([default, high]))
    }

    /// The limits of `priority`.
    pub fn thresholds(&self, priority: Priority) -> &Thresholds {
        &self.0[priority as usize]
    }

    pub(super) fn lower(proto: Proto, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Proto { thresholds, per_host_thresholds } = proto;
        let lowered = cx.each("thresholds", thresholds, |t, cx| Thresholds::lower(t, cx));
        let per_host = cx.each("per_host_thresholds", per_host_thresholds, lower_per_host)?;
        let lowered = lowered?;
        // Envoy: the first entry of a priority counts.
        let find = |priority| {
            let found = lowered.iter().find(|(p, _)| *p == priority).map(|(_, t)| t.clone()).unwrap_or_default();
            let per_host = per_host.iter().find(|(p, _)| *p == priority).and_then(|(_, max)| *max);
            Thresholds { max_connections_per_host: per_host.unwrap_or(u32::MAX), ..found }
        };
        Ok(Self::new(find(Priority::Default), find(Priority::High)))
    }
}

/// The limit of connections to each host, which is the only one that there is.
fn lower_per_host(proto: pb::Thresholds, cx: &mut LowerCx<'_>) -> Result<(Priority, Option<u32>), Refused> {
    let pb::Thresholds {
        priority,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        track_remaining,
        max_connection_pools,
    } = proto;
    let others = [max_pending_requests, max_requests, max_retries, max_connection_pools];
    if track_remaining || retry_budget.is_some() || others.iter().any(Option::is_some) {
        return Err(cx.invalid("only max_connections may be set for each host"));
    }
    Ok((lower_priority(priority), max_connections.map(|v| v.value)))
}

fn lower_priority(proto: i32) -> Priority {
    if proto == RoutingPriority::High as i32 { Priority::High } else { Priority::Default }
}

// === impl Thresholds ===

impl Thresholds {
    /// The limits of connections, waiting requests, requests, retries and pools.
    pub fn all(&self) -> [u32; 5] {
        [
            self.max_connections,
            self.max_pending_requests,
            self.max_requests,
            self.max_retries,
            self.max_connection_pools,
        ]
    }

    fn lower(proto: pb::Thresholds, cx: &mut LowerCx<'_>) -> Result<(Priority, Self), Refused> {
        let pb::Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = proto;
        let retry_budget = cx.opt("retry_budget", retry_budget, RetryBudget::lower)?;
        let priority = lower_priority(priority);
        let default = Self::default();
        let thresholds = Self {
            max_connections: max_connections.map_or(default.max_connections, |v| v.value),
            max_pending_requests: max_pending_requests.map_or(default.max_pending_requests, |v| v.value),
            max_requests: max_requests.map_or(default.max_requests, |v| v.value),
            max_retries: max_retries.map_or(default.max_retries, |v| v.value),
            retry_budget,
            track_remaining,
            max_connections_per_host: default.max_connections_per_host,
            max_connection_pools: max_connection_pools.map_or(default.max_connection_pools, |v| v.value),
        };
        Ok((priority, thresholds))
    }
}

impl Default for Thresholds {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            track_remaining: false,
            max_connections_per_host: u32::MAX,
            max_connection_pools: u32::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use nuncio_proto::envoy::r#type::v3::Percent;
    use nuncio_proto::google::protobuf::UInt32Value;

    use super::*;

    #[test]
    fn connections_to_one_host_are_limited_by_priority() {
        let env = crate::testing::env();
        let lower = |per_host: pb::Thresholds| {
            let proto = Proto { per_host_thresholds: vec![per_host], ..Proto::default() };
            let mut cx = LowerCx::new(&env);
            let lowered = CircuitBreakers::lower(proto, &mut cx);
            lowered.map_err(|_| cx.finish().iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let value = |value| Some(UInt32Value { value });
        let limits = lower(pb::Thresholds { priority: 1, max_connections: value(7), ..Default::default() }).unwrap();
        assert_eq!(limits.thresholds(Priority::High).max_connections_per_host, 7);
        assert_eq!(limits.thresholds(Priority::Default).max_connections_per_host, u32::MAX);
        assert_eq!(
            lower(pb::Thresholds { max_requests: value(7), ..Default::default() }).unwrap_err(),
            ["per_host_thresholds[0]: only max_connections may be set for each host"]
        );
    }

    #[test]
    fn a_budget_is_a_share_of_requests_but_never_less_than_the_minimum() {
        let budget = |percent: Option<f64>, min: Option<u32>| {
            let message = pb::thresholds::RetryBudget {
                budget_percent: percent.map(|value| Percent { value }),
                min_retry_concurrency: min.map(|value| UInt32Value { value }),
                budget_interval: None,
            };
            RetryBudget::lower(message, &mut LowerCx::new(&crate::testing::env())).unwrap()
        };
        assert_eq!([0, 19, 20, 100].map(|n| budget(None, None).max(n)), [3, 3, 4, 20]);
        assert_eq!([0, 9, 1000].map(|n| budget(Some(12.5), Some(0)).max(n)), [0, 1, 125]);
    }
}
