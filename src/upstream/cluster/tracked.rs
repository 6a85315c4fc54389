//! What is counted of a cluster where its configuration asks for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use nuncio_config::cluster::Tracking;
use nuncio_telemetry::stats::Scope;

use crate::host::{CoarseHealth, Host};

nuncio_telemetry::stats! {
    /// `cluster.<name>`
    pub(crate) struct BudgetStats {
        /// In percent.
        upstream_rq_timeout_budget_percent_used: Histogram(Unspecified),
        upstream_rq_timeout_budget_per_try_percent_used: Histogram(Unspecified),
    }
}

nuncio_telemetry::stats! {
    /// `cluster.<name>`
    pub(crate) struct SizeStats {
        upstream_rq_headers_size: Histogram(Bytes),
        upstream_rq_headers_count: Histogram(Unspecified),
        upstream_rq_body_size: Histogram(Bytes),
        upstream_rs_headers_size: Histogram(Bytes),
        upstream_rs_headers_count: Histogram(Unspecified),
        upstream_rs_body_size: Histogram(Bytes),
    }
}

nuncio_telemetry::stats! {
    /// `cluster.<name>.endpoint.<address>`, or by the `observability_name` of the endpoint.
    struct EndpointStats {
        cx_connect_fail: Counter,
        cx_total: Counter,
        rq_error: Counter,
        rq_success: Counter,
        rq_timeout: Counter,
        rq_total: Counter,
        cx_active: Gauge,
        rq_active: Gauge,
        rq_pending_active: Gauge,
        healthy: Gauge,
    }
}

/// The stats of a cluster that has any of them.
pub(crate) struct Tracked {
    pub(crate) budgets: Option<BudgetStats>,
    pub(crate) sizes: Option<SizeStats>,
    endpoints: Option<Endpoints>,
}

/// The stats of each host. Hosts count for themselves, all workers in the same place: what they have counted is carried
/// over when somebody looks.
struct Endpoints {
    scope: Scope,
    /// Taken by who looks, and never on the data path.
    hosts: Mutex<HashMap<String, Carried>>,
}

/// The stats of a host, as they were when somebody last looked.
struct Carried {
    host: Arc<Host>,
    stats: EndpointStats,
}

// === impl Tracked ===

impl Tracked {
    /// `None` where nothing is asked for.
    pub(crate) fn new(tracking: Tracking, scope: &Scope) -> Option<Box<Self>> {
        let Tracking { timeout_budgets, sizes, endpoints } = tracking;
        (tracking != Tracking::default()).then(|| {
            Box::new(Self {
                budgets: timeout_budgets.then(|| BudgetStats::new(scope)),
                sizes: sizes.then(|| SizeStats::new(scope)),
                endpoints: endpoints.then(|| Endpoints { scope: scope.scope("endpoint"), hosts: Mutex::default() }),
            })
        })
    }

    /// Whether attempts are watched for it: hosts count for themselves.
    pub(crate) fn is_of_attempts(&self) -> bool {
        self.budgets.is_some() || self.sizes.is_some()
    }

    /// Carries over what `hosts` have counted.
    pub(crate) fn carry_over(&self, hosts: &[Arc<Host>]) {
        let Some(endpoints) = &self.endpoints else { return };
        let mut carried = endpoints.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *carried);
        for host in hosts {
            let name = host.observability_name.as_deref().map_or_else(|| host.address().to_string(), str::to_owned);
            // A host that took the place of another counts from zero, and so do its stats.
            let known = before.remove(&name).filter(|known| Arc::ptr_eq(&known.host, host));
            let known = known.unwrap_or_else(|| Carried::new(host, &endpoints.scope.scope(&name)));
            known.carry_over();
            carried.insert(name, known);
        }
    }
}

// === impl Carried ===

impl Carried {
    fn new(host: &Arc<Host>, scope: &Scope) -> Self {
        Self { host: host.clone(), stats: EndpointStats::new(scope) }
    }

    fn carry_over(&self) {
        let (from, to) = (&self.host.stats, &self.stats);
        let counters = [
            (&from.cx_connect_fail, to.cx_connect_fail()),
            (&from.cx_total, to.cx_total()),
            (&from.rq_error, to.rq_error()),
            (&from.rq_success, to.rq_success()),
            (&from.rq_timeout, to.rq_timeout()),
            (&from.rq_total, to.rq_total()),
        ];
        for (counted, counter) in counters {
            counter.add(counted.get().saturating_sub(counter.value()));
        }
        to.cx_active().set(from.cx_active.get());
        to.rq_active().set(from.rq_active.get());
        to.rq_pending_active().set(from.rq_pending_active.get());
        to.healthy().set((self.host.health() == CoarseHealth::Healthy).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixed;
    use nuncio_telemetry::stats::Store;

    #[test]
    fn hosts_that_are_gone_take_their_stats_with_them() {
        let store = Store::default();
        let tracking = Tracking { endpoints: true, ..Tracking::default() };
        let tracked = Tracked::new(tracking, &store.scope("cluster.c")).expect("it is asked for");
        let at = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let host = |port| Arc::new(Host::new(&fixed(at(port)), at(port).into()));
        let (one, other) = (host(1), host(2));
        let known = |port: u16| {
            let hosts = tracked.endpoints.as_ref()?.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            let carried = hosts.get(&at(port).to_string())?;
            Some(carried.stats.cx_total().value())
        };
        one.stats.cx_total.inc();
        tracked.carry_over(&[one.clone(), other.clone()]);
        one.stats.cx_total.inc();
        tracked.carry_over(std::slice::from_ref(&one));
        assert_eq!((known(1), known(2)), (Some(2), None));
    }

    #[test]
    fn hosts_may_be_counted_by_names_of_their_own() {
        let store = Store::default();
        let tracking = Tracking { endpoints: true, ..Tracking::default() };
        let tracked = Tracked::new(tracking, &store.scope("cluster.c")).expect("it is asked for");
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let host = |name: &str| {
            let endpoint = nuncio_config::cluster::Endpoint { observability_name: Some(name.into()), ..fixed(address) };
            Arc::new(Host::new(&endpoint, address.into()))
        };
        let hosts = ["one", "two"].map(host);
        hosts[1].stats.cx_total.inc();
        tracked.carry_over(&hosts);
        let scope = store.scope("cluster.c.endpoint");
        let total = |name| EndpointStats::new(&scope.scope(name)).cx_total().value();
        assert_eq!((total("one"), total("two")), (0, 1), "though both are at one address");
    }
}
