//! What one worker keeps of the clusters: load balancers and connection pools, made at first use.

mod known;
mod predict;

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use nuncio_config::cluster::{ClusterConfig, UpstreamProtocol};
use nuncio_config::metadata::MetadataMatch;
use nuncio_config::protocol::{HeaderCase, Http1Options};
use nuncio_config::route::MirrorPolicy;
use nuncio_filter_api::{Clock, ClusterName, Rng, Worker};
use nuncio_http::h1::{ClientSettings, HeaderFormat, OwnHeaderCase};
use nuncio_net::TlsStats;
use nuncio_telemetry::stats::catalogue::{ClusterStats, Http1Stats, Http2Stats};
use nuncio_telemetry::{HostFacts, Metadata};

use crate::blocks::Blocks;
use crate::cluster::Cluster;
use crate::clusters::Clusters;
use crate::codes::Codes;
use crate::failure::Failure;
use crate::host::Host;
use crate::host_set::{Ability, HostSet, PriorityHosts};
use crate::lb::{Balancer, ClusterBalancer, LbEnv, NoHost, PickContext, provided, wanted};
use crate::pipes::Pipes;
use crate::pool::HostPools;
use crate::router::LastNumber;
use crate::timer::Timers;
use known::KnownHosts;

/// The clusters as one worker sees them.
pub struct WorkerClusters {
    shared: Arc<Clusters>,
    env: Rc<WorkerEnv>,
    generation: Cell<u64>,
    /// What of the snapshot was looked at.
    seen: RefCell<Vec<u64>>,
    /// By number of the cluster's name.
    clusters: RefCell<Vec<Option<Kept>>>,
    /// Numbers of those that are outdated.
    outdated: RefCell<Vec<u32>>,
}

/// One that was used before.
#[derive(Clone)]
struct Kept {
    cluster: Rc<WorkerCluster>,
    /// Another has taken its place, which is to have its connections.
    is_outdated: bool,
}

/// What all clusters of a worker use.
pub(crate) struct WorkerEnv {
    pub(crate) clusters: Arc<Clusters>,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) timers: Rc<Timers>,
    pub(crate) pipes: Pipes,
    /// What bytes are copied through that are read and written within one poll.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// The last value of x-envoy-expected-rq-timeout-ms.
    pub(crate) timeout_value: LastNumber,
    /// The worker, which holds all of this.
    worker: RefCell<Weak<Worker>>,
}

/// One cluster as one worker sees it.
pub(crate) struct WorkerCluster {
    pub(crate) shared: Rc<ClusterShare>,
    balanced: RefCell<Rc<Balanced>>,
    known: KnownHosts,
    /// Where the type of the cluster has a way of its own.
    provided: Option<Box<dyn ClusterBalancer>>,
}

/// The part of a worker's cluster that pools and streams hold on to; it does not hold them.
pub(crate) struct ClusterShare {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) env: Rc<WorkerEnv>,
    pub(crate) codes: Codes,
    http1_settings: OnceCell<Arc<ClientSettings>>,
    http1_stats: OnceCell<Http1Stats>,
    http2_stats: OnceCell<Http2Stats>,
    tls_stats: OnceCell<TlsStats>,
}

/// A set of hosts with the balancer over it.
struct Balanced {
    version: u64,
    set: Arc<HostSet>,
    /// Where zones count.
    local: Option<LocalHosts>,
    balancer: Balancer,
    /// As `set.hosts`; each is made when it is first chosen.
    hosts: Blocks<Rc<WorkerHost>>,
    /// Places of the hosts that will be chosen next, where they are known already.
    predicted: RefCell<VecDeque<usize>>,
}

/// The hosts of the cluster that this proxy is one of.
struct LocalHosts {
    /// Of the clusters.
    generation: u64,
    /// `None` where it is gone.
    cluster: Option<Arc<Cluster>>,
    /// Of its hosts.
    version: u64,
    set: Option<Arc<HostSet>>,
}

/// One host as one worker sees it.
pub(crate) struct WorkerHost {
    pub(crate) host: Arc<Host>,
    /// Of the cluster that it is a host of: an aggregate gives away those of others.
    pub(crate) share: Rc<ClusterShare>,
    pub(crate) pools: Rc<HostPools>,
}

/// Bytes that are copied at once.
const SCRATCH: usize = 64 << 10;

// === impl WorkerClusters ===

impl WorkerClusters {
    /// The view of one worker.
    pub fn new(clusters: Arc<Clusters>, rng: Rng) -> Self {
        let env = Rc::new(WorkerEnv {
            clusters: clusters.clone(),
            clock: Clock::default(),
            rng,
            timers: Rc::default(),
            pipes: Pipes::default(),
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            timeout_value: LastNumber::default(),
            worker: RefCell::default(),
        });
        let (seen, outdated) = (RefCell::default(), RefCell::default());
        Self { shared: clusters, env, generation: Cell::new(0), seen, clusters: RefCell::default(), outdated }
    }

    /// Makes the view of `worker`, and gives it to it.
    pub fn serve(clusters: Arc<Clusters>, rng: Rng, worker: &Rc<Worker>) {
        let view = Rc::new(Self::new(clusters, rng));
        *view.env.worker.borrow_mut() = Rc::downgrade(worker);
        worker.set_upstreams(view);
    }

    /// Lets go of clusters as they change, for as long as the worker runs: one that nobody asks for any more would
    /// keep its connections until the next request.
    pub async fn follow(clusters: Arc<Clusters>, worker: Weak<Worker>) {
        let mut changes = clusters.changes();
        while changes.changed().await.is_ok() {
            let Some(worker) = worker.upgrade() else { return };
            let view = Self::of(&worker);
            if view.generation.get() != clusters.generation() {
                view.refresh();
            }
            while !view.outdated.borrow().is_empty() {
                view.renew_some();
                tokio::task::yield_now().await;
            }
        }
    }

    /// Those of `worker`, which the server gave it.
    pub(crate) fn of(worker: &Worker) -> Rc<Self> {
        let upstreams: Rc<dyn Any> = worker.upstreams().clone();
        upstreams.downcast().expect("the server gives each worker the clusters of this crate")
    }

    pub(crate) fn env(&self) -> &WorkerEnv {
        &self.env
    }

    /// The host that a request to the cluster numbered `id` would go to now: one with this hash, which asks for a host
    /// with this metadata.
    pub fn choose(&self, id: u32, hash: Option<u64>, metadata: Option<&MetadataMatch>) -> Option<Arc<Host>> {
        let host = self.get(id)?.pick(&PickContext { hash, metadata, ..PickContext::default() })?;
        Some(host.host.clone())
    }

    /// The cluster numbered `id`, if there is one now.
    pub(crate) fn get(&self, id: u32) -> Option<Rc<WorkerCluster>> {
        if self.generation.get() != self.shared.generation() {
            self.refresh();
        }
        if !self.outdated.borrow().is_empty() {
            self.renew_some();
        }
        if let Some(Some(Kept { cluster, is_outdated: false })) = self.clusters.borrow().get(id as usize) {
            return Some(cluster.clone());
        }
        self.make(id)
    }

    #[cold]
    fn make(&self, id: u32) -> Option<Rc<WorkerCluster>> {
        let cluster = self.shared.snapshot().get(id)?.clone();
        let before = self.clusters.borrow().get(id as usize).cloned().flatten();
        // The snapshot may be another than the one that was looked at.
        let same = |before: &&Kept| before.cluster.shared.cluster.config.connections == cluster.config.connections;
        let of_same = before.as_ref().filter(same).map(|before| &*before.cluster);
        let made = Rc::new(WorkerCluster::new(cluster, &self.env, of_same));
        let mut clusters = self.clusters.borrow_mut();
        if clusters.len() <= id as usize {
            clusters.resize(id as usize + 1, None);
        }
        clusters[id as usize] = Some(Kept { cluster: made.clone(), is_outdated: false });
        Some(made)
    }

    /// Lets go of the clusters that are gone or were replaced: their idle connections are closed, and the others when
    /// their requests end. Where a cluster was replaced by one with the same kind of connections, they go on; it is
    /// made when it is asked for, or a few at a time: there may be very many.
    #[cold]
    fn refresh(&self) {
        // The generation first: a snapshot published meanwhile is then looked at again.
        self.generation.set(self.shared.generation());
        let snapshot = self.shared.snapshot();
        let (mut clusters, mut outdated) = (self.clusters.borrow_mut(), self.outdated.borrow_mut());
        for id in snapshot.news(&mut self.seen.borrow_mut()) {
            let Some(kept) = clusters.get_mut(id as usize) else { break };
            let Some(Kept { cluster: before, is_outdated }) = kept else { continue };
            match snapshot.get(id) {
                Some(now) if Arc::ptr_eq(now, &before.shared.cluster) => {}
                Some(now) if now.config.connections == before.shared.cluster.config.connections => {
                    if !std::mem::replace(is_outdated, true) {
                        outdated.push(id);
                    }
                }
                _ => *kept = None,
            }
        }
    }

    /// Renews some of those that are outdated.
    #[cold]
    fn renew_some(&self) {
        /// So that a request waits for some microseconds.
        const AT_ONCE: usize = 8;
        for _ in 0..AT_ONCE {
            let Some(id) = self.outdated.borrow_mut().pop() else { return };
            let is_outdated = self.clusters.borrow()[id as usize].as_ref().is_some_and(|kept| kept.is_outdated);
            if is_outdated {
                self.make(id);
            }
        }
    }
}

// === impl WorkerEnv ===

impl WorkerEnv {
    /// The worker that uses it, if there is one.
    pub(crate) fn worker(&self) -> Option<Rc<Worker>> {
        self.worker.borrow().upgrade()
    }

    /// The worker's cluster numbered `id`, if there is one now.
    pub(crate) fn cluster(&self, id: u32) -> Option<Rc<WorkerCluster>> {
        let worker = self.worker()?;
        WorkerClusters::of(&worker).get(id)
    }
}

// === impl WorkerCluster ===

impl WorkerCluster {
    /// Hosts that are in `before` keep their pools.
    fn new(cluster: Arc<Cluster>, env: &Rc<WorkerEnv>, before: Option<&Self>) -> Self {
        let codes = Codes::new(&cluster);
        let shared = ClusterShare {
            cluster,
            env: env.clone(),
            codes,
            http1_settings: OnceCell::new(),
            http1_stats: OnceCell::new(),
            http2_stats: OnceCell::new(),
            tls_stats: OnceCell::new(),
        };
        let balanced = Balanced::new(&shared);
        let known = KnownHosts::new(&balanced.set, before.map(|before| &before.known));
        let balanced = RefCell::new(Rc::new(balanced));
        let provided = provided(&shared.cluster.config);
        Self { shared: Rc::new(shared), balanced, known, provided }
    }

    /// Its name and number.
    pub(crate) fn name(&self) -> &ClusterName {
        &self.shared.cluster.config.name
    }

    /// Where copies of its requests go in place of where their routes say.
    pub(crate) fn own_mirrors(&self) -> &[MirrorPolicy] {
        self.shared.cluster.config.http.policies.as_deref().map_or(&[], |policies| &policies.mirrors)
    }

    /// Chooses the host for a request.
    pub(crate) fn pick(&self, cx: &PickContext<'_>) -> Option<Rc<WorkerHost>> {
        if let Some(host) = cx.wanted {
            let balanced = self.balanced();
            match wanted(host, &self.shared.cluster.config, &balanced.set) {
                Ok(Some(at)) => return Some(self.host(&balanced, at)),
                Ok(None) => {}
                Err(NoHost) => return None,
            }
        }
        if let Some(provided) = &self.provided {
            return provided.pick(cx, &self.shared);
        }
        self.pick_own(cx)
    }

    /// What a request waits for before `pick` can have a host for it, if it has to. It is asked for only then: to make a
    /// context may generate cookies.
    #[inline]
    pub(crate) fn prepare<'a>(
        &self,
        cx: impl FnOnce() -> PickContext<'a>,
    ) -> Option<LocalBoxFuture<'static, Result<(), Failure>>> {
        let provided = self.provided.as_ref().filter(|provided| provided.prepares())?;
        provided.prepare(&cx(), &self.shared)
    }

    /// Whether the hash of a request counts for which host it gets.
    pub(crate) fn is_by_hash(&self) -> bool {
        match &self.provided {
            None => self.shared.cluster.config.lb.is_by_hash(),
            Some(provided) => provided.is_by_hash(&self.shared),
        }
    }

    /// What the hosts of each priority can do.
    pub(crate) fn abilities(&self) -> Vec<Ability> {
        match &self.provided {
            None => self.shared.cluster.hosts().groups.priorities.iter().map(PriorityHosts::ability).collect(),
            Some(provided) => provided.abilities(&self.shared),
        }
    }

    /// The priority of a host that was chosen, among those of `abilities`; `None` where it has left them.
    pub(crate) fn priority_of(&self, host: &WorkerHost) -> Option<usize> {
        match &self.provided {
            None => Some(host.host.priority as usize),
            Some(provided) => provided.priority_of(host),
        }
    }

    /// Chooses among the hosts of the cluster by its policy.
    fn pick_own(&self, cx: &PickContext<'_>) -> Option<Rc<WorkerHost>> {
        let balanced = self.balanced();
        if let Some(ratio) = predict::ratio(&self.shared.cluster.config) {
            return self.pick_and_predict(&balanced, ratio, cx);
        }
        let at = balanced.balancer.pick(&self.shared.cluster.config, cx, balanced.env(&self.shared))?;
        Some(self.host(&balanced, at))
    }

    fn host(&self, balanced: &Balanced, at: usize) -> Rc<WorkerHost> {
        balanced.hosts.get_or_init(at, || self.known.get(&balanced.set.hosts[at], &self.shared)).clone()
    }

    fn balanced(&self) -> Rc<Balanced> {
        let current = self.balanced.borrow().clone();
        if current.is_current(&self.shared) {
            return current;
        }
        let next = Rc::new(Balanced::new(&self.shared));
        self.known.update(&next.set);
        *self.balanced.borrow_mut() = next.clone();
        next
    }
}

// === impl ClusterShare ===

impl ClusterShare {
    /// What its connections speak. Envoy: the runtime may have HTTP/1 in place of HTTP/2.
    pub(crate) fn protocol(&self) -> UpstreamProtocol {
        match self.cluster.config.http.protocol {
            UpstreamProtocol::Http2 if !self.cluster.rules.use_http2.holds_for_percent(100, || self.env.rng.u64()) => {
                UpstreamProtocol::Http1
            }
            configured => configured,
        }
    }

    /// Settings of the cluster's HTTP/1 connections.
    pub(crate) fn http1_settings(&self) -> &Arc<ClientSettings> {
        self.http1_settings.get_or_init(|| Arc::new(http1_settings(&self.cluster.config)))
    }

    /// What is counted of HTTP/1 itself.
    pub(crate) fn http1_stats(&self) -> &Http1Stats {
        self.http1_stats.get_or_init(|| Http1Stats::new(&self.cluster.scope().scope("http1")))
    }

    /// What is counted of HTTP/2 itself.
    pub(crate) fn tls_stats(&self) -> &TlsStats {
        self.tls_stats.get_or_init(|| TlsStats::new(&self.cluster.scope()))
    }

    /// What is counted of HTTP/2.
    pub(crate) fn http2_stats(&self) -> &Http2Stats {
        self.http2_stats.get_or_init(|| Http2Stats::new(&self.cluster.scope().scope("http2")))
    }
}

pub(crate) fn http1_settings(config: &ClusterConfig) -> ClientSettings {
    /// Envoy's limit of an HTTP/1 response's headers, unlike that of other versions.
    const DEFAULT_HEADERS_BYTES: usize = 80 * 1024;
    let http = &config.http;
    let Http1Options { header_case, enable_trailers, allow_chunked_length, send_fully_qualified_url, .. } = &http.http1;
    let header_format = match *header_case {
        HeaderCase::Lower => HeaderFormat::Lower,
        HeaderCase::ProperCase => HeaderFormat::ProperCase,
        HeaderCase::Preserve { forward_reason_phrase, proper_case_added } => HeaderFormat::PreserveCase {
            forward_reason_phrase,
            own: if proper_case_added { OwnHeaderCase::ProperCase } else { OwnHeaderCase::Lower },
        },
    };
    ClientSettings {
        max_headers_bytes: http.common.max_response_headers.unwrap_or(DEFAULT_HEADERS_BYTES),
        max_headers_count: http.common.max_headers_count,
        enable_trailers: *enable_trailers,
        allow_chunked_length: *allow_chunked_length,
        send_fully_qualified_url: *send_fully_qualified_url,
        header_format,
        buffer_limit: config.buffer_limit as usize,
    }
}

// === impl WorkerHost ===

impl WorkerHost {
    pub(crate) fn new(host: Arc<Host>, share: Rc<ClusterShare>) -> Self {
        // A host that requests found may come here before the cluster has seen it.
        share.cluster.equip(&host);
        Self { host, share, pools: Rc::default() }
    }
}

impl HostFacts for WorkerHost {
    fn locality(&self) -> [&str; 3] {
        let locality = self.host.locality.as_deref();
        locality.map_or([""; 3], |locality| [&locality.region, &locality.zone, &locality.sub_zone])
    }

    fn locality_metadata(&self) -> Option<&Metadata> {
        self.host.locality_metadata.as_deref()
    }

    fn endpoints(&self) -> u64 {
        self.share.cluster.stats.membership_total().value()
    }

    fn cluster_stats(&self) -> &ClusterStats {
        &self.share.cluster.stats
    }
}

// === impl Balanced ===

impl Balanced {
    /// The hosts as they are now. No host is looked at: there may be many.
    fn new(share: &ClusterShare) -> Self {
        let cluster = &share.cluster;
        // The version first: hosts that change meanwhile are then looked at again.
        let version = cluster.version();
        let set = cluster.hosts();
        let local = LocalHosts::new(cluster, &share.env.clusters);
        let balancer = Balancer::new(&cluster.config, lb_env(share, &set, local.as_ref()));
        let hosts = Blocks::new(set.hosts.len());
        Self { version, set, local, balancer, hosts, predicted: RefCell::default() }
    }

    fn is_current(&self, share: &ClusterShare) -> bool {
        self.version == share.cluster.version()
            && self.local.as_ref().is_none_or(|local| local.is_current(&share.env.clusters))
    }

    fn env<'a>(&'a self, share: &'a ClusterShare) -> LbEnv<'a> {
        lb_env(share, &self.set, self.local.as_ref())
    }
}

fn lb_env<'a>(share: &'a ClusterShare, set: &'a HostSet, local: Option<&'a LocalHosts>) -> LbEnv<'a> {
    LbEnv {
        set,
        groups: &set.groups,
        local: local.and_then(|local| local.set.as_deref()),
        panic_threshold: share.cluster.config.common_lb.panic_threshold,
        rules: &share.cluster.rules,
        slow_start: share.cluster.config.slow_start.as_deref(),
        clock: &share.env.clock,
        rng: &share.env.rng,
        stats: &share.cluster.stats,
    }
}

// === impl LocalHosts ===

impl LocalHosts {
    /// `None` where zones do not count.
    fn new(cluster: &Cluster, clusters: &Clusters) -> Option<Self> {
        let name = &cluster.local.as_ref()?.name;
        // The generation and the version first, as above.
        let generation = clusters.generation();
        let cluster = clusters.snapshot().get(name.id).cloned();
        let version = cluster.as_ref().map_or(0, |cluster| cluster.version());
        let set = cluster.as_ref().map(|cluster| cluster.hosts());
        Some(Self { generation, cluster, version, set })
    }

    fn is_current(&self, clusters: &Clusters) -> bool {
        self.generation == clusters.generation()
            && self.cluster.as_ref().is_none_or(|cluster| cluster.version() == self.version)
    }
}
