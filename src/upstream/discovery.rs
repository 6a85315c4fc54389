//! Finds the hosts of DNS clusters and keeps them up to date. Runs on the control thread.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nuncio_config::cluster::{Discovery, DnsConfig, Endpoint, EndpointAddress, ForwardHosts, RefreshRate};
use nuncio_telemetry::Address;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{interval, sleep};

use crate::cluster::Cluster;
use crate::clusters::{Clusters, Snapshot};
use crate::dns::{Answer, Resolver};
use crate::host::{CoarseHealth, HealthFlag, Host};
use crate::sub_clusters::{SubClusterTable, follow_sub_clusters};

impl Clusters {
    /// Follows the DNS clusters of every snapshot. Runs until it is dropped, on a tokio runtime of any kind.
    pub async fn run_discovery(self: Arc<Self>) {
        let mut changes = self.changes();
        let mut followers = Followers::default();
        self.resolvers().run_here();
        let mut caching = std::pin::pin!(self.dns_caches().run(self.resolvers()));
        loop {
            followers.reconcile(&self);
            // The sender is in `self`, so that waiting cannot fail.
            tokio::select! {
                _ = changes.changed() => {}
                () = &mut caching => {}
            }
        }
    }
}

/// The tasks that follow clusters. Dropping them ends them.
#[derive(Default)]
struct Followers {
    tasks: JoinSet<()>,
    /// By address of the cluster, which its task keeps from being used again.
    running: HashMap<usize, AbortHandle>,
    /// Those of them that have clusters of their own.
    parents: HashMap<usize, Arc<Cluster>>,
    /// What was looked at last.
    seen: Arc<Snapshot>,
}

impl Followers {
    fn reconcile(&mut self, clusters: &Arc<Clusters>) {
        let (snapshot, resolvers) = (clusters.snapshot(), clusters.resolvers());
        let before = std::mem::replace(&mut self.seen, snapshot.clone());
        let mut orphans = Vec::new();
        for gone in before.only_here(&snapshot) {
            let at = Arc::as_ptr(gone).addr();
            if let Some(task) = self.running.remove(&at) {
                task.abort();
                orphans.extend(self.parents.remove(&at).and_then(|parent| parent.sub_clusters.get().cloned()));
            }
        }
        for cluster in snapshot.only_here(&before) {
            let at = Arc::as_ptr(cluster).addr();
            if let Discovery::ForwardProxy(proxy) = &cluster.config.discovery {
                let task = match &proxy.hosts {
                    ForwardHosts::Cache(_) => self.tasks.spawn(follow_cache(cluster.clone())),
                    ForwardHosts::Clusters(_) => {
                        self.parents.insert(at, cluster.clone());
                        self.tasks.spawn(follow_sub_clusters(cluster.clone(), clusters.clone()))
                    }
                };
                self.running.insert(at, task);
                continue;
            }
            if let Discovery::OriginalDst(config) = &cluster.config.discovery {
                let task = self.tasks.spawn(follow_requests(cluster.clone(), config.cleanup_interval));
                self.running.insert(at, task);
                continue;
            }
            let Some(dns) = cluster.config.discovery.dns() else { continue };
            let resolver = resolvers.resolver(dns.resolver.as_ref());
            let task = self.tasks.spawn(follow(cluster.clone(), resolver));
            self.running.insert(at, task);
        }
        while self.tasks.try_join_next().is_some() {}
        // Those of a cluster that another has taken the place of are the other's.
        let is_adopted = |orphans: &Arc<SubClusterTable>| {
            self.parents.values().any(|parent| parent.sub_clusters.get().is_some_and(|own| Arc::ptr_eq(own, orphans)))
        };
        orphans.iter().filter(|orphans| !is_adopted(orphans)).for_each(|orphans| orphans.clear(clusters));
    }
}

/// Makes the names of a cache the hosts of the cluster, until it is dropped.
async fn follow_cache(cluster: Arc<Cluster>) {
    if let Some(proxy) = cluster.forward_proxy.get() {
        proxy.follow(&cluster).await;
    }
}

/// Makes what requests ask for the hosts of the cluster, for as long as they use it, until it is dropped.
async fn follow_requests(cluster: Arc<Cluster>, cleanup_interval: Duration) {
    let Some(hosts) = &cluster.by_address else { return };
    let mut cleanup = interval(cleanup_interval);
    loop {
        tokio::select! {
            () = hosts.added.notified() => hosts.publish(&cluster),
            // Envoy: a host stays for another turn once nobody asked for it.
            _ = cleanup.tick() => if hosts.retain(|_, host| host.take_used() || host.is_busy()) {
                hosts.publish(&cluster);
            }
        }
    }
}

/// Resolves the names of one cluster, each on its own schedule, until it is dropped.
async fn follow(cluster: Arc<Cluster>, resolver: Arc<Resolver>) {
    let (answers, mut received) = tokio::sync::mpsc::channel(1);
    let mut tasks = JoinSet::new();
    let mut targets = Vec::new();
    for endpoint in &cluster.config.endpoints {
        let (name, port) = match &endpoint.address {
            EndpointAddress::Fixed(address) => {
                targets.push(Target::fixed(endpoint, address.clone()));
                continue;
            }
            EndpointAddress::Named { name, port } => (name.clone(), *port),
        };
        let at = targets.len();
        targets.push(Target::named(endpoint, name.clone(), port));
        tasks.spawn(resolve_forever(cluster.clone(), resolver.clone(), name, at, answers.clone()));
    }
    drop(answers);
    // Hosts that need no name.
    if targets.iter().any(|target| !target.hosts.is_empty()) {
        apply(&cluster, &targets);
    }
    if tasks.is_empty() {
        cluster.set_warm();
    }
    while let Some((at, answer)) = received.recv().await {
        let target = &mut targets[at];
        match answer {
            Some(answer) if target.update(&cluster, &answer) => apply(&cluster, &targets),
            Some(_) => cluster.stats.update_no_rebuild().inc(),
            // What was known before stays.
            None => {}
        }
        // Envoy: the first name that is known, or known not to be found, is enough to begin with.
        cluster.set_warm();
    }
    // Only a cluster without names gets here. It is held until it is gone, as all others are.
    std::future::pending().await
}

/// Makes the hosts of all targets those of the cluster. As in Envoy, what two names share is a host of each.
fn apply(cluster: &Cluster, targets: &[Target]) {
    cluster.set_hosts(targets.iter().flat_map(|target| &target.hosts).cloned().collect());
}

/// Asks for one name again and again. `None` stands for a failure.
async fn resolve_forever(
    cluster: Arc<Cluster>,
    resolver: Arc<Resolver>,
    name: Arc<str>,
    at: usize,
    answers: tokio::sync::mpsc::Sender<(usize, Option<Answer>)>,
) {
    let dns = cluster.config.discovery.dns().expect("only the names of DNS clusters are resolved");
    let is_logical = matches!(cluster.config.discovery, Discovery::LogicalDns(_));
    let mut schedule = Schedule::new(dns);
    loop {
        cluster.stats.update_attempt().inc();
        let wait = match resolver.resolve(&name, dns.family).await {
            // Envoy: a logical host keeps what it has rather than lose its last address.
            Ok(answer) if is_logical && answer.addresses.is_empty() => {
                cluster.stats.update_failure().inc();
                if answers.send((at, None)).await.is_err() {
                    return;
                }
                schedule.after_failure()
            }
            Ok(answer) => {
                cluster.stats.update_success().inc();
                let wait = schedule.after_answer(answer.ttl);
                if answers.send((at, Some(answer))).await.is_err() {
                    return;
                }
                wait
            }
            Err(error) => {
                tracing::debug!(cluster = %cluster.config.name.name, %name, %error, "DNS resolution failed");
                cluster.stats.update_failure().inc();
                if answers.send((at, None)).await.is_err() {
                    return;
                }
                schedule.after_failure()
            }
        };
        sleep(wait).await;
    }
}

// === impl Target ===

/// One endpoint of a cluster and the hosts found for it.
struct Target {
    endpoint: Endpoint,
    name: Arc<str>,
    port: u16,
    hosts: Vec<Arc<Host>>,
    /// Those of a logical host, in the order of the answer.
    addresses: Vec<SocketAddr>,
}

impl Target {
    fn fixed(endpoint: &Endpoint, address: Address) -> Self {
        let hosts = vec![Arc::new(Host::new(endpoint, address))];
        Self { endpoint: endpoint.clone(), name: "".into(), port: 0, hosts, addresses: Vec::new() }
    }

    fn named(endpoint: &Endpoint, name: Arc<str>, port: u16) -> Self {
        Self { endpoint: endpoint.clone(), name, port, hosts: Vec::new(), addresses: Vec::new() }
    }

    /// Takes in an answer. False if it changes nothing.
    fn update(&mut self, cluster: &Cluster, answer: &Answer) -> bool {
        match &cluster.config.discovery {
            Discovery::LogicalDns(_) => self.update_logical(cluster, answer),
            _ => self.update_strict(cluster, answer),
        }
    }

    /// Envoy: the one host is another as soon as any of its addresses, or their order, changes.
    fn update_logical(&mut self, cluster: &Cluster, answer: &Answer) -> bool {
        let addresses: Vec<_> = answer.addresses.iter().map(|ip| SocketAddr::new(*ip, self.port)).collect();
        if addresses == self.addresses {
            return false;
        }
        let order = cluster.config.happy_eyeballs;
        let host = Host::logical(&self.endpoint, &addresses, &self.name, order);
        // A name that is gone keeps its last addresses.
        let Some(host) = host else { return false };
        self.hosts = vec![Arc::new(host)];
        self.addresses = addresses;
        true
    }

    /// Hosts whose address is still there stay the same hosts.
    fn update_strict(&mut self, cluster: &Cluster, answer: &Answer) -> bool {
        let mut before = std::mem::take(&mut self.hosts);
        let known = before.len();
        let mut reused = 0;
        for ip in &answer.addresses {
            let address = Address::from(SocketAddr::new(*ip, self.port));
            if self.hosts.iter().any(|h| h.address() == address) {
                continue;
            }
            let host = match before.iter().position(|h| h.address() == address) {
                Some(at) => {
                    reused += 1;
                    let host = before.swap_remove(at);
                    host.clear_flag(HealthFlag::PendingDynamicRemoval);
                    host
                }
                None => Arc::new(Host::resolved(&self.endpoint, address, &self.name)),
            };
            self.hosts.push(host);
        }
        // Nothing is known of a family whose query failed: its hosts stay.
        let is_unknown = |h: &Host| match h.address().ip() {
            Some(IpAddr::V4(_)) => answer.failed_v4,
            Some(IpAddr::V6(_)) => answer.failed_v6,
            None => false,
        };
        let kept = before.into_iter().filter(|h| is_unknown(h) || outlives_its_name(cluster, h));
        let fresh = self.hosts.len() - reused;
        self.hosts.extend(kept);
        fresh > 0 || self.hosts.len() != known
    }
}

/// Whether a host stays although discovery has it no longer: its health checks, which know it better, pass.
pub(crate) fn outlives_its_name(cluster: &Cluster, host: &Host) -> bool {
    let trusts_checks = cluster.config.health_check.is_some() && !cluster.config.ignore_health_on_host_removal;
    let stays = trusts_checks && !host.is_never_checked() && host.health() != CoarseHealth::Unhealthy;
    if stays {
        host.set_flag(HealthFlag::PendingDynamicRemoval);
    }
    stays
}

// === impl Schedule ===

/// When a name is asked for again.
struct Schedule<'a> {
    dns: &'a DnsConfig,
    /// The next back-off, while queries fail.
    backoff: Option<Duration>,
}

impl<'a> Schedule<'a> {
    fn new(dns: &'a DnsConfig) -> Self {
        Self { dns, backoff: None }
    }

    fn after_answer(&mut self, ttl: Option<Duration>) -> Duration {
        self.backoff = None;
        let refresh = match ttl {
            // A time-to-live of zero would ask without end.
            Some(ttl) if self.dns.respect_ttl && !ttl.is_zero() => ttl.max(self.dns.min_refresh),
            _ => self.dns.refresh,
        };
        refresh + random_below(self.dns.jitter)
    }

    fn after_failure(&mut self) -> Duration {
        let Some(RefreshRate { base, max }) = self.dns.failure else {
            return self.dns.refresh + random_below(self.dns.jitter);
        };
        let backoff = self.backoff.unwrap_or(base);
        self.backoff = Some((backoff * 2).min(max));
        // Jitter over the upper half, so that a failing server is not asked at once.
        backoff / 2 + random_below(backoff / 2)
    }
}

fn random_below(bound: Duration) -> Duration {
    match u64::try_from(bound.as_nanos()) {
        Ok(0) | Err(_) => Duration::ZERO,
        Ok(nanos) => Duration::from_nanos(fastrand::u64(..nanos)),
    }
}

#[cfg(test)]
mod tests;
