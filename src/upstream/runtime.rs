//! What the runtime says of clusters: of all of them by keys, of single ones by the names in their keys.
//!
//! The keys with names are looked for when the runtime changes and when a cluster is made: a place for each of them
//! would cost every idle cluster more memory than all of its limits.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use nuncio_config::cluster::{Priority, RetryBudget};
use nuncio_filter_api::{Runtime, RuntimeKey, RuntimeValue};

/// The keys that hold for all clusters, and what is said of single ones.
#[derive(Default)]
pub(crate) struct RuntimeRules {
    runtime: Arc<Runtime>,
    /// `upstream.use_retry`: how many percent of the retries are made.
    pub(crate) use_retry: RuntimeKey,
    /// `upstream.base_retry_backoff_ms`, for policies that say nothing of it.
    pub(crate) base_retry_back_off: RuntimeKey,
    /// `upstream.healthy_panic_threshold`
    pub(crate) panic_threshold: RuntimeKey,
    /// `upstream.zone_routing.enabled`
    pub(crate) zone_routing: RuntimeKey,
    /// `upstream.zone_routing.min_cluster_size`
    pub(crate) min_cluster_size: RuntimeKey,
    /// `upstream.zone_routing.force_local_zone.min_size`
    pub(crate) force_local_zone: RuntimeKey,
    /// `upstream.use_http2`: how many percent of the pools of HTTP/2 clusters speak it.
    pub(crate) use_http2: RuntimeKey,
    named: ArcSwap<HashMap<Box<str>, ClusterOverrides>>,
}

/// What the runtime says of one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ClusterOverrides {
    /// `upstream.maintenance_mode.<cluster>`: so many percent of the requests are answered at once.
    pub(crate) maintenance: u8,
    limits: [LimitOverrides; 2],
}

/// `circuit_breakers.<cluster>.<priority>`
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LimitOverrides {
    /// As `Thresholds::all`.
    pub(crate) max: [Option<u32>; 5],
    /// Envoy: a value that is no number makes a budget of what is configured, or of its default.
    budget_percent: Option<Option<f64>>,
    min_retry_concurrency: Option<Option<u32>>,
}

/// As `Thresholds::all`.
const MAXIMA: [&str; 5] =
    ["max_connections", "max_pending_requests", "max_requests", "max_retries", "max_connection_pools"];
const BUDGET_PERCENT: &str = "retry_budget.budget_percent";
const MIN_RETRY_CONCURRENCY: &str = "retry_budget.min_retry_concurrency";

// === impl RuntimeRules ===

impl RuntimeRules {
    pub(crate) fn new(runtime: Arc<Runtime>) -> Self {
        let rules = Self {
            use_retry: runtime.key("upstream.use_retry"),
            base_retry_back_off: runtime.key("upstream.base_retry_backoff_ms"),
            panic_threshold: runtime.key("upstream.healthy_panic_threshold"),
            zone_routing: runtime.key("upstream.zone_routing.enabled"),
            min_cluster_size: runtime.key("upstream.zone_routing.min_cluster_size"),
            force_local_zone: runtime.key("upstream.zone_routing.force_local_zone.min_size"),
            use_http2: runtime.key("upstream.use_http2"),
            named: ArcSwap::default(),
            runtime,
        };
        rules.read();
        rules
    }

    /// Looks for what is said of single clusters. Whether there was or is anything.
    pub(crate) fn read(&self) -> bool {
        let mut named = HashMap::<Box<str>, ClusterOverrides>::new();
        for (cluster, value) in self.runtime.below("upstream.maintenance_mode.") {
            let percent = value.integer.unwrap_or(0).min(100);
            named.entry(cluster.into()).or_default().maintenance = u8::try_from(percent).unwrap_or(100);
        }
        for (rest, value) in self.runtime.below("circuit_breakers.") {
            for (priority, label) in [(Priority::Default, ".default."), (Priority::High, ".high.")] {
                // The name of a cluster may have dots, and such parts of its own.
                if let Some((cluster, what)) = rest.rsplit_once(label)
                    && is_limit(what)
                {
                    named.entry(cluster.into()).or_default().limits[priority as usize].set(what, &value);
                }
            }
        }
        let any = !named.is_empty();
        !self.named.swap(Arc::new(named)).is_empty() || any
    }

    /// What is said of the cluster of this name.
    pub(crate) fn of(&self, cluster: &str) -> Option<ClusterOverrides> {
        let named = self.named.load();
        if named.is_empty() { None } else { named.get(cluster).copied() }
    }

    /// The panic threshold of a cluster whose own it is, in percent.
    pub(crate) fn panic_threshold(&self, own: u8) -> u8 {
        u8::try_from(self.panic_threshold.integer(own.into()).min(100)).unwrap_or(100)
    }
}

fn is_limit(what: &str) -> bool {
    MAXIMA.contains(&what) || matches!(what, BUDGET_PERCENT | MIN_RETRY_CONCURRENCY)
}

// === impl ClusterOverrides ===

impl ClusterOverrides {
    pub(crate) fn limits(&self, priority: Priority) -> &LimitOverrides {
        &self.limits[priority as usize]
    }
}

// === impl LimitOverrides ===

impl LimitOverrides {
    fn set(&mut self, what: &str, value: &RuntimeValue) {
        let number = value.integer.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        match what {
            BUDGET_PERCENT => self.budget_percent = Some(value.number),
            MIN_RETRY_CONCURRENCY => self.min_retry_concurrency = Some(number),
            _ => {
                if let Some(at) = MAXIMA.iter().position(|known| *known == what) {
                    self.max[at] = number;
                }
            }
        }
    }

    /// The budget in place of what is configured.
    pub(crate) fn budget(&self, configured: Option<RetryBudget>) -> Option<RetryBudget> {
        match (self.budget_percent, self.min_retry_concurrency) {
            (None, None) => configured,
            (percent, min) => Some(RetryBudget::with(configured, percent.flatten(), min.flatten())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(values: &[(&str, f64)]) -> RuntimeRules {
        let runtime = Arc::new(Runtime::default());
        let value = |n: f64| RuntimeValue { number: Some(n), integer: Some(n as u64), ..RuntimeValue::default() };
        runtime.publish(values.iter().map(|(key, n)| ((*key).to_owned(), Arc::new(value(*n)))).collect());
        RuntimeRules::new(runtime)
    }

    #[test]
    fn the_name_of_a_cluster_may_look_like_the_rest_of_its_key() {
        let rules = rules(&[("circuit_breakers.a.default.b.high.max_retries", 7.0)]);
        let overrides = rules.of("a.default.b").unwrap();
        assert_eq!(overrides.limits(Priority::High).max, [None, None, None, Some(7), None]);
        assert_eq!(overrides.limits(Priority::Default), &LimitOverrides::default());
        assert_eq!(rules.of("a"), None);
    }

    #[test]
    fn one_number_of_a_budget_makes_one() {
        let rules = rules(&[("circuit_breakers.a.default.retry_budget.min_retry_concurrency", 1.0)]);
        let overrides = rules.of("a").unwrap();
        let budget = overrides.limits(Priority::Default).budget(None).unwrap();
        assert_eq!((budget.max(4), budget.max(10)), (1, 2), "20 percent, and no fewer than 1");
        assert!(overrides.limits(Priority::High).budget(None).is_none());
    }

    #[test]
    fn a_share_of_the_requests_may_be_kept_from_a_cluster() {
        let rules = rules(&[("upstream.maintenance_mode.a.b", 200.0), ("upstream.healthy_panic_threshold", 150.0)]);
        assert_eq!(rules.of("a.b").unwrap().maintenance, 100);
        assert_eq!(rules.panic_threshold(50), 100);
    }
}
