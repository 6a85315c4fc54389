//! Circuit breakers: how much of a resource a cluster may use.
//!
//! The limits hold for all workers together, as in Envoy. The counts are relaxed atomics, one locked instruction to
//! take and one to give back. They order nothing: a limit is a number, not a lock.

mod recent;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use arc_swap::ArcSwapOption;
use nuncio_config::cluster::{Priority, RetryBudget, Thresholds};
use nuncio_telemetry::stats::catalogue::ClusterStats;
use nuncio_telemetry::stats::{Gauge, Scope};
use tokio::time::Instant;

use crate::runtime::LimitOverrides;
use recent::Recent;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Connections,
    Pending,
    Requests,
    Retries,
    Pools,
}

/// In the order of [`Thresholds::all`].
const RESOURCES: [Resource; 5] =
    [Resource::Connections, Resource::Pending, Resource::Requests, Resource::Retries, Resource::Pools];

/// What one priority of a cluster uses of each resource.
#[derive(Debug)]
pub(crate) struct Limits {
    priority: Priority,
    used: [AtomicU32; 5],
    max: [AtomicU32; 5],
    retry_budget: ArcSwapOption<RetryBudget>,
    /// The requests that count for the budget, where it goes by the time at which they began.
    recent: Option<Box<Recent>>,
    remaining: Option<RemainingStats>,
    /// The cluster's name.
    cluster: Arc<str>,
    /// A bit for each resource of which was told that its limit, which nobody has set, was reached.
    told: AtomicU8,
}

nuncio_telemetry::stats! {
    /// `cluster.<name>.circuit_breakers.<priority>`, kept where `track_remaining` asks for it.
    struct RemainingStats {
        remaining_cx: Gauge,
        remaining_pending: Gauge,
        remaining_rq: Gauge,
        remaining_retries: Gauge,
        remaining_cx_pools: Gauge,
    }
}

// === impl Limits ===

impl Limits {
    /// Nothing used of the cluster named so, whose scope is `scope`.
    pub(crate) fn new(priority: Priority, thresholds: &Thresholds, scope: &Scope, cluster: &Arc<str>) -> Self {
        let Thresholds {
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            // Counted by the hosts themselves.
            max_connections_per_host: _,
            max_connection_pools,
        } = *thresholds;
        let remaining = track_remaining.then(|| {
            let name = match priority {
                Priority::Default => "circuit_breakers.default",
                Priority::High => "circuit_breakers.high",
            };
            let stats = RemainingStats::new(&scope.scope(name));
            stats.remaining_cx().set(max_connections.into());
            stats.remaining_pending().set(max_pending_requests.into());
            stats.remaining_rq().set(max_requests.into());
            // Envoy: with a budget nothing is said of what remains.
            stats.remaining_retries().set(if retry_budget.is_some() { 0 } else { max_retries.into() });
            stats.remaining_cx_pools().set(max_connection_pools.into());
            stats
        });
        Self {
            priority,
            used: Default::default(),
            max: thresholds.all().map(AtomicU32::new),
            recent: retry_budget.and_then(|budget| budget.interval).map(|interval| Box::new(Recent::new(interval))),
            retry_budget: retry_budget.map(Arc::new).into(),
            remaining,
            cluster: cluster.clone(),
            told: AtomicU8::new(0),
        }
    }

    /// Lets what the runtime says take the place of what is configured.
    pub(crate) fn obey(&self, configured: &Thresholds, overrides: Option<&LimitOverrides>, stats: &ClusterStats) {
        let maxima = overrides.map(|o| o.max).unwrap_or_default();
        for (resource, (configured, max)) in RESOURCES.into_iter().zip(configured.all().into_iter().zip(maxima)) {
            let max = max.unwrap_or(configured);
            self.max[resource as usize].store(max, Ordering::Relaxed);
            // Envoy: whether it opens shows with the next that is taken or given back.
            if self.used[resource as usize].load(Ordering::Relaxed) < max {
                self.open_gauge(resource, stats).set(0);
            }
        }
        let budget = overrides.map_or(configured.retry_budget, |o| o.budget(configured.retry_budget));
        self.retry_budget.store(budget.map(Arc::new));
    }

    /// The limit of a resource now, but for a budget.
    pub(crate) fn limit(&self, resource: Resource) -> u32 {
        self.max[resource as usize].load(Ordering::Relaxed)
    }

    /// Takes one, unless all are taken. Whoever got it gives it back.
    pub(crate) fn try_take(&self, resource: Resource, stats: &ClusterStats) -> bool {
        self.try_take_of(self.max(resource), resource, stats)
    }

    /// Whether there is none left.
    pub(crate) fn is_exhausted(&self, resource: Resource) -> bool {
        self.used[resource as usize].load(Ordering::Relaxed) >= self.max(resource)
    }

    /// As `try_take`, of the retries that are allowed now.
    pub(crate) fn try_take_retry(&self, now: Instant, stats: &ClusterStats) -> bool {
        let max = match (&*self.retry_budget.load(), &self.recent) {
            (Some(budget), Some(recent)) => budget.max(recent.count(now)),
            _ => self.max(Resource::Retries),
        };
        self.try_take_of(max, Resource::Retries, stats)
    }

    /// A request has begun; `now` is asked for the time where that matters.
    #[inline]
    pub(crate) fn request_begins(&self, now: impl FnOnce() -> Instant) {
        if let Some(recent) = &self.recent {
            recent.add(now());
        }
    }

    fn try_take_of(&self, max: u32, resource: Resource, stats: &ClusterStats) -> bool {
        let used = self.used[resource as usize].fetch_add(1, Ordering::Relaxed);
        if used >= max {
            self.used[resource as usize].fetch_sub(1, Ordering::Relaxed);
            self.tell_of_default(resource);
            return false;
        }
        self.took(resource, used, stats);
        true
    }

    /// Takes one even beyond the limit: Envoy gives each pool its first connection.
    pub(crate) fn take(&self, resource: Resource, stats: &ClusterStats) {
        let used = self.used[resource as usize].fetch_add(1, Ordering::Relaxed);
        self.took(resource, used, stats);
    }

    /// Gives one back.
    pub(crate) fn give_back(&self, resource: Resource, stats: &ClusterStats) {
        let used = self.used[resource as usize].fetch_sub(1, Ordering::Relaxed);
        if used == self.limit(resource) {
            self.open_gauge(resource, stats).set(0);
        }
        self.update_remaining(resource, used - 1);
    }

    /// How many are in use.
    #[cfg(test)]
    pub(crate) fn used(&self, resource: Resource) -> u32 {
        self.used[resource as usize].load(Ordering::Relaxed)
    }

    fn took(&self, resource: Resource, used_before: u32, stats: &ClusterStats) {
        let used = used_before + 1;
        // Envoy: whether the breaker counts as open goes by `max_retries`, even where there is a budget.
        if used >= self.limit(resource) {
            self.open_gauge(resource, stats).set(1);
        }
        self.update_remaining(resource, used);
    }

    /// Says once that a limit was reached that nobody has set: who meets it for the first time looks for the reason.
    #[cold]
    fn tell_of_default(&self, resource: Resource) {
        let default = Thresholds::default();
        let (field, default) = match resource {
            Resource::Connections => ("max_connections", default.max_connections),
            Resource::Pending => ("max_pending_requests", default.max_pending_requests),
            Resource::Requests => ("max_requests", default.max_requests),
            Resource::Retries => ("max_retries", default.max_retries),
            // There is none.
            Resource::Pools => return,
        };
        let is_default = self.limit(resource) == default && !(resource == Resource::Retries && self.has_budget());
        let bit = 1 << resource as u8;
        if is_default && self.told.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            let (cluster, priority) = (&self.cluster, self.priority);
            tracing::warn!(target: "upstream", %cluster, ?priority, field, limit = default, "a default limit was reached");
        }
    }

    /// The limit now: a budget of retries goes with the requests.
    fn max(&self, resource: Resource) -> u32 {
        if resource == Resource::Retries
            && let Some(budget) = &*self.retry_budget.load()
        {
            let used = |resource: Resource| self.used[resource as usize].load(Ordering::Relaxed);
            return budget.max(used(Resource::Requests).saturating_add(used(Resource::Pending)));
        }
        self.limit(resource)
    }

    fn has_budget(&self) -> bool {
        self.retry_budget.load().is_some()
    }

    fn open_gauge<'a>(&self, resource: Resource, stats: &'a ClusterStats) -> Gauge<'a> {
        match (self.priority, resource) {
            (Priority::Default, Resource::Connections) => stats.default_cx_open(),
            (Priority::Default, Resource::Pending) => stats.default_rq_pending_open(),
            (Priority::Default, Resource::Requests) => stats.default_rq_open(),
            (Priority::Default, Resource::Retries) => stats.default_rq_retry_open(),
            (Priority::High, Resource::Connections) => stats.high_cx_open(),
            (Priority::High, Resource::Pending) => stats.high_rq_pending_open(),
            (Priority::High, Resource::Requests) => stats.high_rq_open(),
            (Priority::High, Resource::Retries) => stats.high_rq_retry_open(),
            (Priority::Default, Resource::Pools) => stats.default_cx_pool_open(),
            (Priority::High, Resource::Pools) => stats.high_cx_pool_open(),
        }
    }

    fn update_remaining(&self, resource: Resource, used: u32) {
        let Some(stats) = &self.remaining else { return };
        let remaining = match resource {
            Resource::Retries if self.has_budget() => 0,
            _ => self.limit(resource).saturating_sub(used).into(),
        };
        match resource {
            Resource::Connections => stats.remaining_cx().set(remaining),
            Resource::Pending => stats.remaining_pending().set(remaining),
            Resource::Requests => stats.remaining_rq().set(remaining),
            Resource::Retries => stats.remaining_retries().set(remaining),
            Resource::Pools => stats.remaining_cx_pools().set(remaining),
        }
    }
}

#[cfg(test)]
mod tests {
    use nuncio_telemetry::stats::Store;

    use super::*;

    fn limits(max_requests: u32) -> (Limits, ClusterStats) {
        let scope = Store::new().scope("cluster.c");
        let thresholds = Thresholds { max_requests, track_remaining: true, ..Thresholds::default() };
        (Limits::new(Priority::Default, &thresholds, &scope, &"c".into()), ClusterStats::new(&scope))
    }

    #[test]
    fn the_breaker_is_open_while_the_limit_is_reached() {
        let (limits, stats) = limits(2);
        assert!(limits.try_take(Resource::Requests, &stats));
        assert_eq!(stats.default_rq_open().value(), 0);
        assert!(limits.try_take(Resource::Requests, &stats));
        assert_eq!(stats.default_rq_open().value(), 1);
        assert!(!limits.try_take(Resource::Requests, &stats));
        assert_eq!(limits.used(Resource::Requests), 2);
        limits.give_back(Resource::Requests, &stats);
        assert_eq!(stats.default_rq_open().value(), 0);
    }

    #[test]
    fn a_default_limit_is_told_of_once() {
        let scope = Store::new().scope("cluster.c");
        let stats = ClusterStats::new(&scope);
        let told = |thresholds: &Thresholds| {
            let limits = Limits::new(Priority::Default, thresholds, &scope, &"c".into());
            let taken = (0..10).filter(|_| limits.try_take(Resource::Retries, &stats)).count();
            assert_eq!(taken as u32, thresholds.max_retries);
            limits.told.load(Ordering::Relaxed)
        };
        assert_eq!(told(&Thresholds::default()), 1 << Resource::Retries as u8);
        assert_eq!(told(&Thresholds { max_retries: 4, ..Thresholds::default() }), 0);
    }

    #[test]
    fn a_forced_connection_opens_the_breaker_and_closes_it() {
        let thresholds = Thresholds { max_connections: 1, ..Thresholds::default() };
        let scope = Store::new().scope("cluster.c");
        let (limits, stats) =
            (Limits::new(Priority::High, &thresholds, &scope, &"c".into()), ClusterStats::new(&scope));
        limits.take(Resource::Connections, &stats);
        limits.take(Resource::Connections, &stats);
        assert_eq!(stats.high_cx_open().value(), 1);
        limits.give_back(Resource::Connections, &stats);
        assert_eq!(stats.high_cx_open().value(), 1);
        limits.give_back(Resource::Connections, &stats);
        assert_eq!(stats.high_cx_open().value(), 0);
    }
}
