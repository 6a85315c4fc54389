//! What is counted of a cluster where its configuration asks for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use nuncio_config::cluster::Tracking;
use nuncio_telemetry::stats::Scope;

use crate::host::{CoarseHealth, Host, HostStats};

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

/// The stats of the hosts of one name, as they were when somebody last looked.
struct Carried {
    /// Envoy shows each by itself, under the same name; here they are added up.
    hosts: Vec<Arc<Host>>,
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
        let mut by_name: HashMap<String, Vec<Arc<Host>>> = HashMap::with_capacity(hosts.len());
        for host in hosts {
            let name = host.observability_name.as_deref().map_or_else(|| host.address().to_string(), str::to_owned);
            by_name.entry(name).or_default().push(host.clone());
        }
        for (name, hosts) in by_name {
            // A host that took the place of another counts from zero, and so do its stats.
            let known = before.remove(&name).filter(|known| known.is_of(&hosts));
            let known =
                known.unwrap_or_else(|| Carried { hosts, stats: EndpointStats::new(&endpoints.scope.scope(&name)) });
            known.carry_over();
            carried.insert(name, known);
        }
    }
}

// === impl Carried ===

impl Carried {
    fn is_of(&self, hosts: &[Arc<Host>]) -> bool {
        self.hosts.len() == hosts.len() && self.hosts.iter().zip(hosts).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    fn carry_over(&self) {
        let to = &self.stats;
        let sum = |counted: fn(&HostStats) -> u64| self.hosts.iter().map(|host| counted(&host.stats)).sum::<u64>();
        let counters = [
            (sum(|from| from.cx_connect_fail.get()), to.cx_connect_fail()),
            (sum(|from| from.cx_total.get()), to.cx_total()),
            (sum(|from| from.rq_error.get()), to.rq_error()),
            (sum(|from| from.rq_success.get()), to.rq_success()),
            (sum(|from| from.rq_timeout.get()), to.rq_timeout()),
            (sum(|from| from.rq_total.get()), to.rq_total()),
        ];
        for (counted, counter) in counters {
            counter.add(counted.saturating_sub(counter.value()));
        }
        to.cx_active().set(sum(|from| from.cx_active.get()));
        to.rq_active().set(sum(|from| from.rq_active.get()));
        to.rq_pending_active().set(sum(|from| from.rq_pending_active.get()));
        let healthy = self.hosts.iter().filter(|host| host.health() == CoarseHealth::Healthy);
        to.healthy().set(healthy.count() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixed;
    use nuncio_telemetry::stats::Store;

    fn of_endpoints(store: &Store) -> Box<Tracked> {
        let tracking = Tracking { endpoints: true, ..Tracking::default() };
        Tracked::new(tracking, &store.scope("cluster.c")).expect("it is asked for")
    }

    #[test]
    fn hosts_that_are_gone_take_their_stats_with_them() {
        let store = Store::default();
        let tracked = of_endpoints(&store);
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
        let tracked = of_endpoints(&store);
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

    #[test]
    fn hosts_at_one_address_are_counted_together() {
        let store = Store::default();
        let tracked = of_endpoints(&store);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let hosts = [0, 1].map(|_| Arc::new(Host::new(&fixed(address), address.into())));
        let stats = EndpointStats::new(&store.scope("cluster.c.endpoint").scope("127.0.0.1:1"));
        hosts[0].stats.cx_total.inc();
        hosts[1].stats.cx_total.inc();
        tracked.carry_over(&hosts);
        hosts[1].stats.cx_total.inc();
        tracked.carry_over(&hosts);
        assert_eq!((stats.cx_total().value(), stats.healthy().value()), (3, 2));
    }
}
