mod drops;
mod heritage;
mod merge;
mod tracked;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use nuncio_config::bootstrap::LocalCluster;
use nuncio_config::cluster::{
    AssignmentPolicy, ClientWeights, ClusterAssignment, ClusterConfig, Discovery, LbPolicy, LocalityLb, Priority,
    TransportSockets,
};
use nuncio_config::transport_socket::TransportSocket;
use nuncio_net::TlsStats;
use nuncio_telemetry::stats::catalogue::ClusterStats;
use nuncio_telemetry::stats::{Scope, Store};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::dynamic::DynamicHosts;
use crate::health::HealthShare;
use crate::host::{CoarseHealth, Description, Host};
use crate::host_set::{Hashing, HostSet, Layout, Localities, only_in};
use crate::lb::LocalityLoad;
use crate::lb::forward_proxy::ForwardProxyShare;
use crate::limits::{Limits, Resource};
use crate::orca;
use crate::runtime::RuntimeRules;
use crate::sub_clusters::SubClusterTable;
pub use drops::Drops;
use merge::Held;
pub(crate) use merge::{Due, Merges};
use tracked::Tracked;

/// A cluster, shared by all workers.
pub struct Cluster {
    /// As configured.
    pub config: ClusterConfig,
    /// What is counted under `cluster.<name>`.
    pub stats: ClusterStats,
    /// Shared with the cluster before, where connections go on.
    pub(crate) limits: Arc<[Limits; 2]>,
    store: Store,
    /// What the runtime says of clusters.
    pub(crate) rules: Arc<RuntimeRules>,
    /// See [`Self::maintenance`].
    maintenance: AtomicU8,
    /// For zone-aware routing.
    pub(crate) local: Option<Arc<LocalCluster>>,
    hosts: ArcSwap<HostSet>,
    /// What endpoint discovery said beside the hosts; `None`: the configuration's.
    policy: ArcSwapOption<AssignmentPolicy>,
    /// Sets of many hosts that workers may have still. The lock is taken by those who change `hosts`.
    retired: Mutex<Vec<Arc<HostSet>>>,
    /// Taken by those who change `hosts`, never on the data path.
    writer: Mutex<Writer>,
    /// Changes whenever `hosts` does: workers compare it before they look at the hosts.
    version: AtomicU64,
    /// Requests that no host was to see.
    pub drops: Drops,
    /// See [`Self::dropped`]; of the policy that holds now.
    dropped: AtomicU32,
    /// True once the hosts are known, or known not to be found, and were checked where they are.
    warm: watch::Sender<bool>,
    /// The hosts are known, and all else that is waited for is not there yet.
    waits_for_secrets: AtomicBool,
    /// Woken when it is warm.
    on_warm: Option<Arc<Notify>>,
    /// The hosts that requests found, where they are to.
    pub(crate) by_address: Option<Box<DynamicHosts<SocketAddr>>>,
    /// The hosts that requests name, and the cache that knows their addresses.
    pub(crate) forward_proxy: OnceLock<Box<ForwardProxyShare>>,
    /// The clusters of the hosts that requests name, where each has one.
    pub(crate) sub_clusters: OnceLock<Arc<SubClusterTable>>,
    /// What the watch over the hosts shares; `None` where nobody watches.
    health: Option<Box<HealthShare>>,
    /// As `transport_socket_matches`.
    transport_stats: Box<[MatchStats]>,
    /// Kept so that what workers count is there before the first handshake.
    _tls_stats: Option<TlsStats>,
    /// What is counted besides what always is.
    pub(crate) tracked: Option<Box<Tracked>>,
    /// Who sees to it that what is held back is told; `None`: nothing is.
    merges: Option<Arc<Merges>>,
    /// Where localities are chosen by their load.
    locality_load: Option<Box<LocalityLoad>>,
    /// Made when there is news of the hosts.
    held: OnceLock<Box<Mutex<Held>>>,
}

/// What those who change the hosts know.
#[derive(Default)]
struct Writer {
    /// The hosts of the cluster that this one replaces, until its own are known.
    inherited: Option<Arc<HostSet>>,
}

/// What a cluster is made with.
pub(crate) struct Surroundings {
    pub(crate) store: Store,
    pub(crate) rules: Arc<RuntimeRules>,
    pub(crate) local: Option<Arc<LocalCluster>>,
    /// Woken when the cluster is warm.
    pub(crate) on_warm: Option<Arc<Notify>>,
    /// The cluster that is replaced.
    pub(crate) before: Option<Arc<Cluster>>,
    /// Who sees to changes of health that are held back.
    pub(crate) merges: Option<Arc<Merges>>,
}

nuncio_telemetry::stats! {
    /// `cluster.<name>.<name of the match>`
    struct MatchStats {
        total_match_count: Counter,
    }
}

// === impl Cluster ===

impl Cluster {
    /// The cluster with the hosts that its configuration names; those behind DNS names come with discovery.
    pub fn new(config: ClusterConfig, store: &Store, local: Option<Arc<LocalCluster>>) -> Self {
        let (store, rules) = (store.clone(), Arc::default());
        Self::within(config, Surroundings { store, rules, local, on_warm: None, before: None, merges: None })
    }

    /// As [`Cluster::new`]; of a cluster that is replaced, hosts that are the same go on.
    pub(crate) fn within(config: ClusterConfig, surroundings: Surroundings) -> Self {
        let Surroundings { store, rules, local, on_warm, before, merges } = surroundings;
        let scope = scope(&store, &config);
        let stats = ClusterStats::new(&scope);
        let matches = config.transport.iter().flat_map(|transport| &transport.matches);
        let transport_stats: Box<[_]> = matches.map(|socket| MatchStats::new(&scope.scope(&socket.name))).collect();
        transport_stats.iter().for_each(|stats| stats.total_match_count().add(0));
        let limits = before.as_ref().filter(|before| before.config.connections == config.connections);
        let limits = limits.map_or_else(
            || {
                Arc::new(
                    [Priority::Default, Priority::High]
                        .map(|p| Limits::new(p, config.circuit_breakers.thresholds(p), &scope, &config.name.name)),
                )
            },
            |before| before.limits.clone(),
        );
        let inherited = before.filter(|before| heritage::is_inherited(&before.config, &config));
        let health = HealthShare::new(&config);
        let tracked = Tracked::new(config.tracking, &scope);
        let load_aware = config.locality_lb.load_aware();
        let locality_load = load_aware.map(|config| Box::new(LocalityLoad::new(config.clone(), &scope)));
        let has_tls = config.transport.as_deref().is_some_and(TransportSockets::have_tls);
        let tls_stats = has_tls.then(|| TlsStats::new(&scope));
        let by_address = matches!(config.discovery, Discovery::OriginalDst(_)).then(Box::default);
        let empty = HostSet::new(Vec::new(), layout(&config, &config.assignment, local.as_deref(), &scope, &rules));
        let cluster = Self {
            hosts: ArcSwap::from_pointee(empty),
            rules,
            maintenance: AtomicU8::new(0),
            local,
            policy: ArcSwapOption::empty(),
            retired: Mutex::default(),
            writer: Mutex::new(Writer { inherited: inherited.map(|before| before.hosts()) }),
            config,
            stats,
            limits,
            store,
            version: AtomicU64::new(0),
            drops: Drops::default(),
            dropped: AtomicU32::new(0),
            warm: watch::Sender::new(false),
            waits_for_secrets: AtomicBool::new(false),
            on_warm,
            by_address,
            forward_proxy: OnceLock::new(),
            sub_clusters: OnceLock::new(),
            health,
            transport_stats,
            _tls_stats: tls_stats,
            tracked,
            merges,
            locality_load,
            held: OnceLock::new(),
        };
        cluster.obey_runtime();
        match &cluster.config.discovery {
            Discovery::Static => {
                cluster.take_endpoints(&cluster.config.endpoints, None);
                cluster.set_warm();
            }
            // They have no hosts before there is a request.
            Discovery::Aggregate(_) | Discovery::OriginalDst(_) | Discovery::ForwardProxy(_) => cluster.set_warm(),
            Discovery::StrictDns(_) | Discovery::LogicalDns(_) | Discovery::Eds(_) => {}
        }
        cluster
    }

    /// Has the stats of hosts, where there are any, tell what is counted by now.
    pub fn refresh_stats(&self) {
        if let Some(tracked) = &self.tracked {
            tracked.carry_over(&self.hosts().hosts);
        }
    }

    /// Its hosts now.
    pub fn hosts(&self) -> Arc<HostSet> {
        self.hosts.load_full()
    }

    /// How many of a million requests no host is to see (`drop_overloads`).
    #[inline]
    pub(crate) fn dropped(&self) -> u32 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many percent of the requests are answered without a host (`upstream.maintenance_mode`).
    #[inline]
    pub(crate) fn maintenance(&self) -> u8 {
        self.maintenance.load(Ordering::Relaxed)
    }

    /// Takes over what the runtime says of this cluster now.
    pub(crate) fn obey_runtime(&self) {
        let overrides = self.rules.of(&self.config.name.name);
        self.maintenance.store(overrides.map_or(0, |o| o.maintenance), Ordering::Relaxed);
        for priority in [Priority::Default, Priority::High] {
            let configured = self.config.circuit_breakers.thresholds(priority);
            let limits = overrides.as_ref().map(|o| o.limits(priority));
            self.limits(priority).obey(configured, limits, &self.stats);
        }
    }

    /// The limits of connections, waiting requests, requests and retries that are in force.
    pub fn limits_in_force(&self, priority: Priority) -> [u32; 4] {
        [Resource::Connections, Resource::Pending, Resource::Requests, Resource::Retries]
            .map(|resource| self.limits(priority).limit(resource))
    }

    /// Grows whenever the hosts change.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Replaces the hosts; workers see them at their next pick.
    pub fn set_hosts(&self, hosts: Vec<Arc<Host>>) {
        let mut writer = self.lock();
        writer.inherited = None;
        self.replace_hosts(hosts, &HashSet::new(), Anew::No);
    }

    /// Takes over what endpoint discovery says. Hosts that stay keep their health, connections and counts.
    pub fn assign(&self, assignment: &ClusterAssignment) {
        self.expect_another(assignment.policy.stale_after);
        self.take_endpoints(&assignment.endpoints, Some(&assignment.policy));
        self.set_warm();
    }

    /// Endpoint discovery says what it said before.
    pub fn confirm_assignment(&self) {
        self.expect_another(self.assignment_policy().stale_after);
        self.stats.update_no_rebuild().inc();
    }

    /// Replaces the hosts; those of `inherited` are not new.
    fn replace_hosts(&self, hosts: Vec<Arc<Host>>, inherited: &HashSet<*const Host>, anew: Anew) {
        let before = self.hosts.load();
        let new = only_in(&hosts, &before.hosts);
        self.choose_transports(new.iter().copied());
        if let Some(health) = &self.health {
            for host in new {
                match inherited.contains(&Arc::as_ptr(host)) {
                    true => health.monitor(host),
                    false => health.adopt(host, &self.config),
                }
            }
        }
        self.note_for_balance(&hosts);
        let set = self.with_layout(anew, |layout| HostSet::new(hosts, layout));
        let changed = set.changed_priorities(&before);
        self.stats.membership_change().add(changed);
        self.note_members(changed as usize);
        self.publish(set);
        if changed > 0 {
            self.drain_connections(&before);
        }
        if let Some(health) = &self.health {
            health.hosts_changed();
        }
    }

    /// Gives each of these its transport socket.
    fn choose_transports<'a>(&self, hosts: impl Iterator<Item = &'a Arc<Host>>) {
        let Some(sockets) = &self.config.transport else {
            self.stats.default_total_match_count().add(hosts.count() as u64);
            return;
        };
        for host in hosts {
            self.count_match(choose_transport(sockets, host, &host.description()));
            self.equip(host);
        }
    }

    /// Gives a host its transport socket, where it has none.
    pub(crate) fn equip(&self, host: &Host) {
        if let Some(sockets) = &self.config.transport {
            host.set_transport(|| sockets.get(choose_transport(sockets, host, &host.description())).clone());
        }
    }

    /// The transport socket of a check of `host`, chosen by `criteria` in place of what the host says itself.
    pub(crate) fn choose_transport(&self, host: &Host, criteria: &Map<String, Value>) -> Option<Arc<TransportSocket>> {
        let sockets = self.config.transport.as_ref()?;
        let chosen = sockets.choose(Some(criteria), host.locality_metadata.as_deref());
        self.count_match(chosen);
        Some(sockets.get(chosen).clone())
    }

    fn count_match(&self, chosen: Option<usize>) {
        match chosen {
            Some(at) => self.transport_stats[at].total_match_count().inc(),
            None => self.stats.default_total_match_count().inc(),
        }
    }

    /// Gives up the connections to the hosts that are gone since `before`, or to all that are there now.
    fn drain_connections(&self, before: &HostSet) {
        let hosts = self.hosts();
        if self.config.common_lb.close_connections_on_host_set_change {
            return hosts.hosts.iter().for_each(|host| host.give_up_connections());
        }
        only_in(&before.hosts, &hosts.hosts).into_iter().for_each(|host| host.give_up_connections());
    }

    /// Takes notice of the health of the hosts, whose flags someone has changed; workers see it at their next pick.
    ///
    /// It looks at every host, so that it is not for workers.
    pub fn update_health(&self) {
        let _writer = self.lock();
        if !self.drop_hosts_that_left() {
            self.refresh();
        }
    }

    /// As [`Self::update_health`], by whoever has locked.
    fn refresh(&self) {
        let before = self.hosts.load();
        self.note_for_balance(&before.hosts);
        let set = self.with_layout(Anew::No, |layout| before.refreshed(layout));
        match self.holds_back(set.groups.priorities.len()) {
            true => self.show(&set),
            false => self.publish(set),
        }
        self.drain_connections_of_changed(&before);
    }

    /// An assignment says otherwise what hosts are worth that stay. Envoy merges what checks find out alone.
    fn tell_assigned(&self, anew: Anew) {
        let before = self.hosts.load();
        self.note_for_balance(&before.hosts);
        let set = self.with_layout(anew, |layout| before.refreshed(layout));
        self.note_members(set.groups.priorities.len());
        self.publish(set);
        self.drain_connections_of_changed(&before);
    }

    fn drain_connections_of_changed(&self, before: &HostSet) {
        // Envoy: a host set with other health is another host set.
        if self.config.common_lb.close_connections_on_host_set_change {
            self.drain_connections(before);
        }
    }

    /// Works out the weights that follow from what the hosts report of their load.
    pub(crate) fn weigh(&self, config: &ClientWeights) {
        let _writer = self.lock();
        let before = self.hosts.load();
        if orca::weigh(config, &before.hosts, Instant::now()) {
            self.publish(self.with_layout(Anew::No, |layout| before.refreshed(layout)));
        }
    }

    /// Works out the shares of the localities that follow from what their hosts report of their load.
    pub(crate) fn share_out(&self) {
        let _writer = self.lock();
        if let Some(load) = &self.locality_load {
            load.update(&self.hosts.load());
        }
    }

    /// Notes what load balancing asks of `hosts`: since when they are healthy, and their weights.
    fn note_for_balance(&self, hosts: &[Arc<Host>]) {
        let ClusterConfig { slow_start, client_weights, locality_lb, .. } = &self.config;
        if slow_start.is_none() && client_weights.is_none() && locality_lb.load_aware().is_none() {
            return;
        }
        let now = Instant::now();
        for host in hosts {
            host.note_for_balance(now);
            if host.health() == CoarseHealth::Healthy {
                host.note_healthy(now);
            }
        }
        if let Some(config) = client_weights {
            orca::weigh(config, hosts, now);
        }
    }

    fn with_layout(&self, anew: Anew, make: impl FnOnce(Layout<'_>) -> HostSet) -> HostSet {
        let policy = self.policy.load();
        let policy = policy.as_deref().unwrap_or(&self.config.assignment);
        let dropped = policy.drop_overload.as_ref().map_or(0, |drop| drop.millionths);
        self.dropped.store(dropped, Ordering::Relaxed);
        let (before, scope) = (self.hosts.load(), self.scope());
        let layout = layout(&self.config, policy, self.local.as_deref(), &scope, &self.rules);
        // Only they look at what hosts are described by.
        let is_anew = anew == Anew::Yes && (layout.subset.is_some() || layout.hashing.is_some());
        make(Layout { before: (!is_anew).then_some(&before), ..layout })
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // A poisoned lock means that a change panicked before it was published: the hosts are whole.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, mut set: HostSet) {
        let before = self.hosts.load();
        set.follow(&before);
        self.show(&set);
        if let Some(load) = &self.locality_load {
            load.begin(&set);
        }
        if let Some(subsets) = &set.subsets {
            let (active, created, removed) = subsets.changes(before.subsets.as_deref());
            let counted = self.config.subset.as_ref().map_or(1, |subset| subset.counted);
            self.stats.lb_subsets_active().set(active * counted);
            self.stats.lb_subsets_created().add(created * counted);
            self.stats.lb_subsets_removed().add(removed * counted);
        }
        // Envoy keeps this gauge for these alone, and never below 1.
        if matches!(self.config.discovery, Discovery::StrictDns(_) | Discovery::Eds(_)) {
            self.stats.max_host_weight().set(set.max_weight().max(1).into());
        }
        if self.config.override_host.is_some() {
            // Here rather than on a worker: with many hosts it takes its time.
            set.find("");
        }
        let before = self.hosts.swap(Arc::new(set));
        self.version.fetch_add(1, Ordering::Release);
        self.retire(before);
    }

    fn show(&self, set: &HostSet) {
        self.stats.membership_total().set(set.hosts.len() as u64);
        self.stats.membership_healthy().set(set.healthy() as u64);
        self.stats.membership_degraded().set(set.degraded() as u64);
        self.stats.membership_excluded().set(set.excluded() as u64);
    }

    /// Lets go of a set of hosts once no worker has it, so that freeing a large one falls to none of them.
    fn retire(&self, set: Arc<HostSet>) {
        /// So many hosts that it takes time.
        const MANY: usize = 1024;
        // As in `lock`.
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let free: Vec<_> = retired.extract_if(.., |set| Arc::strong_count(set) == 1).collect();
        if set.hosts.len() > MANY {
            retired.push(set);
        }
        drop(retired);
        // Nor to whoever changes the hosts, where another thread can be had: it would be a third of the time.
        match Handle::try_current() {
            Ok(runtime) if !free.is_empty() => _ = runtime.spawn_blocking(|| drop(free)),
            _ => {}
        }
    }

    /// The hosts are known: the cluster is ready to be used, unless they are to be checked first.
    pub(crate) fn set_warm(&self) {
        // Noted before it is looked at: whoever brings the last secret looks for those who wait.
        self.waits_for_secrets.store(true, Ordering::SeqCst);
        self.go_on_with_secrets();
    }

    /// Goes on where the hosts are known and secrets were waited for, if they are there now.
    pub(crate) fn go_on_with_secrets(&self) {
        let is_ready = || self.config.waits_for.iter().all(|readiness| readiness.is_set());
        if !is_ready() || !self.waits_for_secrets.swap(false, Ordering::SeqCst) {
            return;
        }
        match &self.health {
            Some(health) if self.config.health_check.is_some() => health.hosts_are_known(),
            _ => self.finish_warming(),
        }
    }

    /// Marks the cluster as ready to be used.
    pub(crate) fn finish_warming(&self) {
        let is_news = self.warm.send_if_modified(|warm| !std::mem::replace(warm, true));
        if let (true, Some(on_warm)) = (is_news, &self.on_warm) {
            on_warm.notify_one();
        }
    }

    /// Whether it is ready to be used.
    pub fn is_warm(&self) -> bool {
        *self.warm.borrow()
    }

    /// Whether it can be used: it is ready, or nobody is to wait for that. Envoy: where its hosts come by anything but the
    /// names that it resolves, `wait_for_warm_on_init` says nothing.
    pub(crate) fn is_usable(&self) -> bool {
        self.is_warm() || (self.config.discovery.dns().is_some() && !self.config.wait_for_warm)
    }

    /// How the load is spread over the priorities and localities of its hosts now.
    pub fn assignment_policy(&self) -> AssignmentPolicy {
        self.policy.load().as_deref().unwrap_or(&self.config.assignment).clone()
    }

    /// Whether endpoint discovery has said anything.
    pub fn is_assigned(&self) -> bool {
        self.policy.load().is_some()
    }

    /// Those who wait for its hosts wait no longer: they are not to come soon.
    pub fn give_up_waiting(&self) {
        self.set_warm();
    }

    /// Waits until the hosts are known, or known not to be found.
    pub async fn warmed(&self) {
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

fn layout<'a>(
    config: &'a ClusterConfig,
    policy: &'a AssignmentPolicy,
    local: Option<&'a LocalCluster>,
    scope: &'a Scope,
    rules: &RuntimeRules,
) -> Layout<'a> {
    let localities = match (local, &config.locality_lb) {
        (_, LocalityLb::LoadAware(own)) => Localities::Grouped { local: own.local.as_ref() },
        (None, LocalityLb::ZoneAware(_)) => Localities::Ignored,
        (local, _) => Localities::Grouped { local: local.and_then(|local| local.locality.as_ref()) },
    };
    let subset = config.subset.as_deref();
    let hashing = match &config.lb {
        LbPolicy::Hashing(hashing) => Some(Hashing { config: hashing, locality: &config.locality_lb, scope }),
        _ => None,
    };
    let panic_threshold = rules.panic_threshold(config.common_lb.panic_threshold);
    Layout { policy, panic_threshold, localities, hashing, subset, before: None }
}

fn scope(store: &Store, config: &ClusterConfig) -> Scope {
    store.scope(&format!("cluster.{}", config.observable_name))
}

/// Whether what is made of hosts is made without regard to what was made of them before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anew {
    No,
    Yes,
}

/// The place of the transport socket of a host where it is described so.
fn choose_transport(sockets: &TransportSockets, host: &Host, described: &Description) -> Option<usize> {
    sockets.of_host(described.metadata.as_deref(), host.locality_metadata.as_deref())
}
