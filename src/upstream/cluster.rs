use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use nuncio_config::bootstrap::LocalCluster;
use nuncio_config::cluster::{ClusterConfig, Discovery, Endpoint, EndpointAddress, LbPolicy, LocalityLb, Priority};
use nuncio_telemetry::stats::catalogue::ClusterStats;
use nuncio_telemetry::stats::{Scope, Store};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::health::HealthShare;
use crate::host::{CoarseHealth, Host};
use crate::host_set::{Hashing, HostSet, Layout, Localities};
use crate::limits::Limits;

/// A cluster, shared by all workers.
pub struct Cluster {
    /// As configured.
    pub config: ClusterConfig,
    /// What is counted under `cluster.<name>`.
    pub stats: ClusterStats,
    pub(crate) limits: [Limits; 2],
    store: Store,
    /// For zone-aware routing.
    pub(crate) local: Option<Arc<LocalCluster>>,
    hosts: ArcSwap<HostSet>,
    /// Taken by those who change `hosts`, never on the data path.
    writer: Mutex<()>,
    /// Changes whenever `hosts` does: workers compare it before they look at the hosts.
    version: AtomicU64,
    /// True once the hosts are known, or known not to be found, and were checked where they are.
    warm: watch::Sender<bool>,
    /// What the watch over the hosts shares; `None` where nobody watches.
    health: Option<Box<HealthShare>>,
}

// === impl Cluster ===

impl Cluster {
    /// The cluster with the hosts that its configuration names; those behind DNS names come with discovery.
    pub fn new(config: ClusterConfig, store: &Store, local: Option<Arc<LocalCluster>>) -> Self {
        let scope = scope(store, &config);
        let stats = ClusterStats::new(&scope);
        let limits = [Priority::Default, Priority::High]
            .map(|p| Limits::new(p, config.circuit_breakers.thresholds(p), &scope, &config.name.name));
        let health = HealthShare::new(&config);
        let cluster = Self {
            hosts: ArcSwap::from_pointee(HostSet::new(Vec::new(), layout(&config, local.as_deref(), &scope))),
            local,
            writer: Mutex::new(()),
            config,
            stats,
            limits,
            store: store.clone(),
            version: AtomicU64::new(0),
            warm: watch::Sender::new(false),
            health,
        };
        match &cluster.config.discovery {
            Discovery::Static => {
                cluster.set_hosts(fixed_hosts(&cluster.config));
                cluster.set_warm();
            }
            // It has no hosts of its own.
            Discovery::Aggregate(_) => cluster.set_warm(),
            Discovery::StrictDns(_) | Discovery::LogicalDns(_) => {}
        }
        cluster
    }

    /// Its hosts now.
    pub fn hosts(&self) -> Arc<HostSet> {
        self.hosts.load_full()
    }

    /// Grows whenever the hosts change.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Replaces the hosts; workers see them at their next pick.
    pub(crate) fn set_hosts(&self, hosts: Vec<Arc<Host>>) {
        // A poisoned lock means that a change panicked before it was published: the hosts are whole.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.hosts.load();
        let known: HashSet<_> = before.hosts.iter().map(Arc::as_ptr).collect();
        let new: Vec<_> = hosts.iter().filter(|host| !known.contains(&Arc::as_ptr(host))).collect();
        self.stats.default_total_match_count().add(new.len() as u64);
        if let Some(health) = &self.health {
            new.iter().for_each(|host| health.adopt(host, &self.config));
        }
        self.begin_slow_start(&hosts);
        let set = HostSet::new(hosts, layout(&self.config, self.local.as_deref(), &self.scope()));
        self.stats.membership_change().add(set.changed_priorities(&before));
        self.publish(set);
        if let Some(health) = &self.health {
            health.hosts_changed();
        }
    }

    /// Takes notice of the health of the hosts, whose flags someone has changed; workers see it at their next pick.
    ///
    /// It looks at every host, so that it is not for workers.
    pub fn update_health(&self) {
        // As in `set_hosts`.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let hosts = self.hosts.load();
        self.begin_slow_start(&hosts.hosts);
        let set = hosts.refreshed(layout(&self.config, self.local.as_deref(), &self.scope()));
        self.publish(set);
    }

    /// Notes which of `hosts` are healthy, where slow start asks since when.
    fn begin_slow_start(&self, hosts: &[Arc<Host>]) {
        if self.config.slow_start.is_none() {
            return;
        }
        let now = Instant::now();
        for host in hosts {
            host.note_for_balance(now);
            if host.health() == CoarseHealth::Healthy {
                host.note_healthy(now);
            }
        }
    }

    fn publish(&self, set: HostSet) {
        self.stats.membership_total().set(set.hosts.len() as u64);
        self.stats.membership_healthy().set(set.healthy() as u64);
        self.stats.membership_degraded().set(set.degraded() as u64);
        self.stats.membership_excluded().set(set.excluded() as u64);
        if let Some(subsets) = &set.subsets {
            let (active, created, removed) = subsets.changes(self.hosts.load().subsets.as_deref());
            self.stats.lb_subsets_active().set(active);
            self.stats.lb_subsets_created().add(created);
            self.stats.lb_subsets_removed().add(removed);
        }
        // Envoy keeps this gauge for STRICT_DNS alone, and never below 1.
        if matches!(self.config.discovery, Discovery::StrictDns(_)) {
            self.stats.max_host_weight().set(set.max_weight().max(1).into());
        }
        if self.config.override_host.is_some() {
            // Here rather than on a worker: with many hosts it takes its time.
            set.find("");
        }
        self.hosts.store(Arc::new(set));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The hosts are known: the cluster is ready to be used, unless they are to be checked first.
    pub(crate) fn set_warm(&self) {
        match &self.health {
            Some(health) if self.config.health_check.is_some() => health.hosts_are_known(),
            _ => self.finish_warming(),
        }
    }

    /// Marks the cluster as ready to be used.
    pub(crate) fn finish_warming(&self) {
        self.warm.send_if_modified(|warm| !std::mem::replace(warm, true));
    }

    /// Waits until the hosts are known, or known not to be found.
    pub(crate) async fn warmed(&self) {
        // The sender is in `self`, so that waiting cannot fail.
        let _ = self.warm.subscribe().wait_for(|warm| *warm).await;
    }

    /// What the watch over the hosts shares.
    #[inline]
    pub(crate) fn health(&self) -> Option<&HealthShare> {
        self.health.as_deref()
    }

    /// What outlier detection found last, if there is any: mean and limit of the success rates of responses, then of
    /// connections; -1 where there is none.
    pub fn outlier_rates(&self) -> Option<[f64; 4]> {
        Some(self.health.as_ref()?.outlier.as_ref()?.rates.all())
    }

    pub(crate) fn limits(&self, priority: Priority) -> &Limits {
        &self.limits[priority as usize]
    }

    /// The prefix of its stats.
    pub(crate) fn scope(&self) -> Scope {
        scope(&self.store, &self.config)
    }
}

fn layout<'a>(config: &'a ClusterConfig, local: Option<&'a LocalCluster>, scope: &'a Scope) -> Layout<'a> {
    let localities = match (local, &config.locality_lb) {
        (None, LocalityLb::ZoneAware(_)) => Localities::Ignored,
        (local, _) => Localities::Grouped { local: local.and_then(|local| local.locality.as_ref()) },
    };
    let subset = config.subset.as_deref();
    let hashing = match &config.lb {
        LbPolicy::Hashing(hashing) => Some(Hashing { config: hashing, locality: &config.locality_lb, scope }),
        _ => None,
    };
    Layout {
        policy: &config.assignment,
        panic_threshold: config.common_lb.panic_threshold,
        localities,
        hashing,
        subset,
    }
}

fn scope(store: &Store, config: &ClusterConfig) -> Scope {
    store.scope(&format!("cluster.{}", config.observable_name))
}

fn fixed_hosts(config: &ClusterConfig) -> Vec<Arc<Host>> {
    let fixed = |endpoint: &Endpoint| match &endpoint.address {
        EndpointAddress::Fixed(address) => Some(Arc::new(Host::new(endpoint, address.clone()))),
        // A static cluster has none: lowering refuses them.
        EndpointAddress::Named { .. } => None,
    };
    config.endpoints.iter().filter_map(fixed).collect()
}
