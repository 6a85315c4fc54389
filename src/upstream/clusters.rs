use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use nuncio_config::bootstrap::{ClusterManagerConfig, LocalCluster};
use nuncio_config::cluster::{ClusterConfig, Discovery, ForwardHosts};
use nuncio_config::socket::BindConfig;
use nuncio_filter_api::Runtime;
use nuncio_telemetry::access_log::LogFile;
use nuncio_telemetry::stats::Store;
use nuncio_telemetry::stats::catalogue::ClusterManagerStats;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use crate::cluster::{Cluster, Merges, Surroundings};
use crate::dns::Resolvers;
use crate::dns_cache::DnsCaches;
use crate::lb::forward_proxy::ForwardProxyShare;
use crate::runtime::RuntimeRules;
use crate::timer::until;

/// All clusters of the process.
pub struct Clusters {
    /// By number of the name.
    snapshot: ArcSwap<Snapshot>,
    /// Grows with each snapshot; workers compare it before they look at the snapshot.
    generation: AtomicU64,
    /// Taken by those who change the clusters, never on the data path.
    writer: Mutex<()>,
    /// Those that no snapshot has any more, and workers may have: to free one takes longer than a request.
    retired: Mutex<Vec<Arc<Cluster>>>,
    /// Tells discovery of a new snapshot.
    changed: watch::Sender<()>,
    /// Whether there are clusters that wait beside the others, once the first of all are known.
    warming: watch::Sender<bool>,
    /// The first of all are known.
    are_known: AtomicBool,
    /// Told when clusters are gone for good, and what they held with them.
    freed: Notify,
    /// A cluster that waits beside the others may be ready.
    on_warm: Arc<Notify>,
    store: Store,
    /// What the runtime says of clusters.
    rules: Arc<RuntimeRules>,
    /// How the sockets of clusters that say nothing of it are bound.
    bind: Option<Arc<BindConfig>>,
    local: Option<Arc<LocalCluster>>,
    /// Where ejections are logged.
    outlier_log: Option<Arc<LogFile>>,
    dns_caches: Arc<DnsCaches>,
    /// The clusters that hold back changes of health.
    merges: Arc<Merges>,
    stats: ClusterManagerStats,
    connections: AtomicU64,
    sessions: AtomicU64,
    resolvers: Resolvers,
}

/// The clusters at one time.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// By number of the name; pages that stay as they are belong to many snapshots.
    pages: Vec<Arc<Page>>,
    /// Of those that were made so far.
    generation: u64,
    /// How many are in use.
    in_use: usize,
    /// How many more that nobody is told of.
    own: usize,
    /// Those that are to be used, or to replace others, once they are ready; by number of the name.
    warming: BTreeMap<u32, Arc<Cluster>>,
}

/// How long clusters that nobody uses any more are kept at least.
const REST: Duration = Duration::from_secs(1);
/// Clusters that get ready are put to use together once in so much time for each that waits: as long as there are many,
/// another snapshot for each of them would take its time from all.
const REST_PER_WAITING: Duration = Duration::from_micros(1);
/// How many clusters are copied where one of them changes.
const PAGE: usize = 64;

#[derive(Clone)]
struct Page {
    /// Of the snapshot in which it became what it is.
    generation: u64,
    clusters: [Option<Arc<Cluster>>; PAGE],
}

// === impl Clusters ===

impl Clusters {
    /// No clusters yet. `bind` is for those that will not say how their sockets are bound.
    pub fn new(store: &Store, bind: Option<BindConfig>) -> Arc<Self> {
        let config = ClusterManagerConfig { upstream_bind_config: bind, ..ClusterManagerConfig::default() };
        Self::managed(store, &Arc::default(), config)
    }

    /// No clusters yet, with what all will share.
    pub fn managed(store: &Store, runtime: &Arc<Runtime>, config: ClusterManagerConfig) -> Arc<Self> {
        Self::counted(store, store, runtime, config)
    }

    /// Clusters beside those of the configuration, that nobody sends requests to. What each does is counted in `store`,
    /// and what they are as a whole nowhere.
    pub fn beside(store: &Store, runtime: &Arc<Runtime>) -> Arc<Self> {
        Self::counted(store, &Store::new(), runtime, ClusterManagerConfig::default())
    }

    /// `manager`: where all that is not of one cluster is counted.
    fn counted(store: &Store, manager: &Store, runtime: &Arc<Runtime>, config: ClusterManagerConfig) -> Arc<Self> {
        let ClusterManagerConfig { upstream_bind_config: bind, local_cluster, outlier_log, dns } = config;
        let clusters = Arc::new(Self {
            rules: Arc::new(RuntimeRules::new(runtime.clone())),
            snapshot: ArcSwap::default(),
            generation: AtomicU64::new(0),
            writer: Mutex::new(()),
            retired: Mutex::default(),
            changed: watch::Sender::new(()),
            warming: watch::Sender::new(false),
            are_known: AtomicBool::new(false),
            freed: Notify::new(),
            on_warm: Arc::default(),
            store: store.clone(),
            bind: bind.map(Arc::new),
            local: local_cluster.map(Arc::new),
            outlier_log,
            dns_caches: DnsCaches::new(manager),
            merges: Arc::new(Merges::new(manager)),
            stats: ClusterManagerStats::new(&manager.scope("cluster_manager")),
            connections: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            resolvers: Resolvers::new(dns, manager),
        });
        let watched = Arc::downgrade(&clusters);
        runtime.watch(move || {
            if let Some(clusters) = watched.upgrade() {
                clusters.obey_runtime();
            }
        });
        clusters
    }

    /// The runtime has changed.
    fn obey_runtime(&self) {
        // So that no cluster is made meanwhile by what was said before.
        let _writer = self.lock();
        if self.rules.read() {
            self.snapshot.load().all().for_each(|cluster| cluster.obey_runtime());
        }
    }

    /// Adds clusters, or replaces those of the same names. All appear at once, ready or not.
    pub fn update(&self, configs: impl IntoIterator<Item = ClusterConfig>) {
        self.change(configs, |next, at, cluster| {
            next.warming.remove(&at);
            next.put(at, cluster);
        });
    }

    /// Adds clusters, or replaces those of the same names, each as soon as it is ready, which
    /// [`Clusters::run_warming`] sees to.
    pub fn warm_up(&self, configs: impl IntoIterator<Item = ClusterConfig>) {
        self.change(configs, |next, at, cluster| {
            if cluster.is_usable() {
                // One of the same name may have waited.
                if next.warming.remove(&at).is_some() {
                    cluster.stats.warming_state().set(0);
                }
                next.put(at, cluster);
            } else {
                cluster.stats.warming_state().set(1);
                next.warming.insert(at, cluster);
            }
        });
        self.on_warm.notify_one();
    }

    pub(crate) fn merges(&self) -> &Merges {
        &self.merges
    }

    fn change(
        &self,
        configs: impl IntoIterator<Item = ClusterConfig>,
        mut place: impl FnMut(&mut Snapshot, u32, Arc<Cluster>),
    ) {
        let _writer = self.lock();
        let mut next = self.snapshot.load().next();
        for mut config in configs {
            config.bind = config.bind.or_else(|| self.bind.clone());
            let at = config.name.id;
            let before = next.get(at).cloned();
            match before.is_some() || next.warming.contains_key(&at) {
                _ if config.is_own => {}
                true => self.stats.cluster_modified().inc(),
                false => self.stats.cluster_added().inc(),
            }
            let surroundings = Surroundings {
                // Envoy counts nothing of what is no cluster there.
                store: if config.is_own { Store::new() } else { self.store.clone() },
                rules: self.rules.clone(),
                local: self.local.clone(),
                on_warm: Some(self.on_warm.clone()),
                before: before.clone(),
                merges: Some(self.merges.clone()),
            };
            let cluster = Cluster::within(config, surroundings);
            self.attach_cache(&cluster, before.as_deref());
            place(&mut next, at, Arc::new(cluster));
        }
        self.publish(next);
    }

    /// Gives the cache that it names to a cluster whose hosts are those that requests name.
    fn attach_cache(&self, cluster: &Cluster, before: Option<&Cluster>) {
        let Discovery::ForwardProxy(proxy) = &cluster.config.discovery else { return };
        match &proxy.hosts {
            ForwardHosts::Cache(cache) => {
                let share = || Box::new(ForwardProxyShare::new(self.dns_caches.cache(cache)));
                cluster.forward_proxy.get_or_init(share);
            }
            // Those of the cluster that is replaced go on, until somebody asks for them, or nobody does.
            ForwardHosts::Clusters(_) => {
                let before = before.and_then(|before| before.sub_clusters.get()).cloned();
                cluster.sub_clusters.get_or_init(|| before.unwrap_or_default());
            }
        }
    }

    /// Puts clusters to use as they get ready, and frees those that nobody uses any more. Runs until it is dropped.
    pub async fn run_warming(self: Arc<Self>) {
        let mut free_at = None;
        let mut rested = Instant::now();
        loop {
            if free_at.is_none() && !self.retired().is_empty() {
                free_at = Some(Instant::now() + REST);
            }
            tokio::select! {
                () = self.on_warm.notified() => {
                    if rested > Instant::now() {
                        sleep_until(rested).await;
                    }
                    self.promote();
                    let waiting = u32::try_from(self.snapshot.load().warming.len()).unwrap_or(u32::MAX);
                    rested = Instant::now() + REST_PER_WAITING * waiting;
                }
                () = until(free_at) => {
                    free_at = None;
                    let free: Vec<_> = self.retired().extract_if(.., |one| Arc::strong_count(one) == 1).collect();
                    if !free.is_empty() {
                        // A panic was logged.
                        let _ = spawn_blocking(|| drop(free)).await;
                        self.freed.notify_one();
                    }
                }
            }
        }
    }

    /// Waits until clusters are gone for good, and what they held with them.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Arc<Cluster>>> {
        // As in `lock`.
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Secrets have come, or are known not to: clusters that wait for nothing else go on.
    pub fn note_secrets(&self) {
        self.snapshot().all().for_each(|cluster| cluster.go_on_with_secrets());
    }

    fn promote(&self) {
        let _writer = self.lock();
        let snapshot = self.snapshot.load();
        if !snapshot.warming.values().any(|cluster| cluster.is_usable()) {
            return;
        }
        let mut next = snapshot.next();
        for (at, cluster) in snapshot.warming.iter().filter(|(_, cluster)| cluster.is_usable()) {
            cluster.stats.warming_state().set(0);
            next.warming.remove(at);
            next.put(*at, cluster.clone());
        }
        self.publish(next);
    }

    /// Removes the cluster of this name. False if there was none.
    pub fn remove(&self, name: &str) -> bool {
        let snapshot = self.snapshot();
        let id =
            snapshot.all().find(|cluster| *cluster.config.name.name == *name).map(|cluster| cluster.config.name.id);
        self.remove_all(id) == 1
    }

    /// Removes clusters by the numbers of their names; those who use them do so to the end. Returns how many there were.
    pub fn remove_all(&self, ids: impl IntoIterator<Item = u32>) -> usize {
        let _writer = self.lock();
        let mut next = self.snapshot.load().next();
        let (mut removed, mut told) = (0, 0);
        for id in ids {
            let warming = next.warming.remove(&id);
            let active = next.take(id);
            let Some(cluster) = active.or(warming) else { continue };
            removed += 1;
            told += u64::from(!cluster.config.is_own);
        }
        if removed > 0 {
            self.stats.cluster_removed().add(told);
            self.publish(next);
        }
        removed
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // A poisoned lock means that an update panicked before it published: the snapshot is whole.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, next: Snapshot) {
        self.stats.active_clusters().set(next.in_use as u64);
        self.stats.warming_clusters().set(next.warming.len() as u64);
        let will_warm = !next.warming.is_empty() && self.are_known.load(Ordering::Acquire);
        let next = Arc::new(next);
        let before = self.snapshot.swap(next.clone());
        let gone = before.only_here(&next).cloned();
        self.retired().extend(gone);
        self.on_warm.notify_one();
        self.generation.fetch_add(1, Ordering::Release);
        self.changed.send_replace(());
        self.warming.send_if_modified(|is_warming| std::mem::replace(is_warming, will_warm) != will_warm);
    }

    /// Whether there are clusters that wait until they can be used, beside those of the start.
    pub fn warming(&self) -> watch::Receiver<bool> {
        self.warming.subscribe()
    }

    /// The clusters now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Who asks name servers, for discovery and whoever else wants to know an address.
    pub(crate) fn resolvers(&self) -> &Resolvers {
        &self.resolvers
    }

    pub(crate) fn dns_caches(&self) -> &Arc<DnsCaches> {
        &self.dns_caches
    }

    pub(crate) fn outlier_log(&self) -> Option<&Arc<LogFile>> {
        self.outlier_log.as_ref()
    }

    /// Signals each change of the snapshot.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits until every cluster that asks for it knows its hosts, or knows that they cannot be found, and is used. From
    /// then on it is told where others wait.
    pub async fn warmed(&self) {
        let mut changes = self.changes();
        loop {
            let snapshot = self.snapshot();
            let waiting = || snapshot.warming().chain(snapshot.iter()).filter(|cluster| !cluster.is_usable());
            for cluster in waiting() {
                self.ready_or_gone(cluster).await;
            }
            changes.borrow_and_update();
            if waiting().next().is_none() && self.snapshot.load().warming.is_empty() {
                self.are_known.store(true, Ordering::Release);
                return;
            }
            if Arc::ptr_eq(&snapshot, &self.snapshot.load()) {
                // The sender is in `self`, so that waiting cannot fail.
                let _ = changes.changed().await;
            }
        }
    }

    /// Waits until a cluster can be used, or is none of those that there are.
    async fn ready_or_gone(&self, cluster: &Arc<Cluster>) {
        let mut changes = self.changes();
        let id = cluster.config.name.id;
        let is_there = |snapshot: &Snapshot| {
            let found = snapshot.warming.get(&id).into_iter().chain(snapshot.get(id));
            found.into_iter().any(|found| Arc::ptr_eq(found, cluster))
        };
        while is_there(&self.snapshot.load()) {
            tokio::select! {
                () = cluster.warmed() => return,
                // The sender is in `self`, so that waiting cannot fail.
                _ = changes.changed() => {}
            }
        }
    }

    /// Waits until none of the clusters numbered `ids` waits to be used.
    pub async fn in_use(&self, ids: &[u32]) {
        let mut changes = self.changes();
        while ids.iter().any(|id| self.snapshot.load().warming.contains_key(id)) {
            // The sender is in `self`, so that waiting cannot fail.
            let _ = changes.changed().await;
        }
    }

    /// A number for a new upstream connection, unique in the process.
    pub(crate) fn next_connection_id(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A number for a new session of datagrams, unique among them in the process.
    pub(crate) fn next_session_id(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// The cluster numbered `id`.
    pub fn get(&self, id: u32) -> Option<&Arc<Cluster>> {
        self.pages.get(id as usize / PAGE)?.clusters[id as usize % PAGE].as_ref()
    }

    /// The one that is made of it.
    fn next(&self) -> Self {
        Self { generation: self.generation + 1, ..self.clone() }
    }

    /// The place numbered `id`, of which others have no part any more.
    fn place(&mut self, id: u32) -> &mut Option<Arc<Cluster>> {
        let (at, generation) = (id as usize, self.generation);
        if self.pages.len() <= at / PAGE {
            let empty = || Arc::new(Page { generation, clusters: [const { None }; PAGE] });
            self.pages.resize_with(at / PAGE + 1, empty);
        }
        let page = Arc::make_mut(&mut self.pages[at / PAGE]);
        page.generation = generation;
        &mut page.clusters[at % PAGE]
    }

    fn put(&mut self, id: u32, cluster: Arc<Cluster>) {
        let is_own = cluster.config.is_own;
        if self.place(id).replace(cluster).is_none() {
            *self.count(is_own) += 1;
        }
    }

    /// How many there are of those that stand for services, or of the others; one of them never becomes the other.
    fn count(&mut self, is_own: bool) -> &mut usize {
        if is_own { &mut self.own } else { &mut self.in_use }
    }

    fn take(&mut self, id: u32) -> Option<Arc<Cluster>> {
        let is_own = self.get(id)?.config.is_own;
        *self.count(is_own) -= 1;
        self.place(id).take()
    }

    /// Numbers among which are all whose clusters in use may be others than those that were `seen`; notes that they are
    /// seen now. So that whoever keeps something of many clusters needs not look at each.
    pub(crate) fn news(&self, seen: &mut Vec<u64>) -> impl Iterator<Item = u32> + use<> {
        seen.resize(self.pages.len(), u64::MAX);
        let mut pages = Vec::new();
        for (at, (seen, page)) in seen.iter_mut().zip(&self.pages).enumerate() {
            if std::mem::replace(seen, page.generation) != page.generation {
                pages.push(at * PAGE);
            }
        }
        pages.into_iter().flat_map(|first| first as u32..(first + PAGE) as u32)
    }

    /// Those that are not in `other`, neither in use nor warming. What both share is not looked at.
    pub fn only_here<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Arc<Cluster>> {
        let is_there = move |cluster: &Arc<Cluster>| {
            let id = cluster.config.name.id;
            let there = other.get(id).into_iter().chain(other.warming.get(&id));
            there.into_iter().any(|there| Arc::ptr_eq(there, cluster))
        };
        let differs =
            move |(at, page): &(usize, &Arc<Page>)| other.pages.get(*at).is_none_or(|o| !Arc::ptr_eq(o, page));
        let in_use = self.pages.iter().enumerate().filter(differs).flat_map(|(_, page)| page.clusters.iter().flatten());
        in_use.chain(self.warming()).filter(move |cluster| !is_there(cluster))
    }

    /// Those that are to be used once they are ready.
    pub fn warming(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.warming.values()
    }

    /// Those in use and those that are to be, whether told of or not.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.every().chain(self.warming())
    }

    /// Those in use that are told of, in the order in which their names were first seen.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.every().filter(|cluster| !cluster.config.is_own)
    }

    /// Those that stand for services at addresses of their own.
    pub fn own(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.every().filter(|cluster| cluster.config.is_own).take(self.own)
    }

    fn every(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.pages.iter().flat_map(|page| page.clusters.iter().flatten())
    }

    /// All of them by name.
    pub fn by_name(&self) -> BTreeMap<&str, &Arc<Cluster>> {
        self.iter().map(|c| (&*c.config.name.name, c)).collect()
    }
}

#[cfg(test)]
mod tests {
    use nuncio_filter_api::ClusterNames;
    use nuncio_telemetry::stats::Store;

    use super::*;
    use crate::testing::{cluster_config, fixed, tcp_check};

    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[test]
    fn a_cluster_without_bind_settings_takes_the_defaults() {
        let bind = |ip: &str| BindConfig { source: Some(ip.parse().unwrap()), ..BindConfig::default() };
        let clusters = Clusters::new(&Store::new(), Some(bind("127.0.0.2:0")));
        let source = |own: Option<BindConfig>| {
            let mut config = cluster_config("c", Vec::new());
            config.bind = own.map(Arc::new);
            clusters.update([config]);
            clusters.snapshot().get(0).unwrap().config.bind.as_ref().unwrap().source.unwrap().to_string()
        };
        assert_eq!(source(None), "127.0.0.2:0");
        assert_eq!(source(Some(bind("127.0.0.3:0"))), "127.0.0.3:0");
    }

    #[tokio::test]
    async fn a_cluster_serves_until_the_one_that_replaces_it_is_ready() {
        let clusters = Clusters::new(&Store::new(), None);
        let checked = || ClusterConfig { health_check: Some(tcp_check()), ..cluster_config("c", Vec::new()) };
        clusters.update([cluster_config("c", Vec::new())]);
        clusters.warmed().await;
        let first = clusters.snapshot().get(0).unwrap().clone();
        clusters.warm_up([checked()]);
        assert!(Arc::ptr_eq(&first, clusters.snapshot().get(0).unwrap()));
        assert_eq!((clusters.stats.warming_clusters().value(), clusters.stats.cluster_modified().value()), (1, 1));
        let second = clusters.snapshot().warming().next().unwrap().clone();
        let warming = tokio::spawn(clusters.clone().run_warming());
        assert!(*clusters.warming().borrow());
        second.finish_warming();
        while clusters.snapshot().warming().next().is_some() {
            tokio::task::yield_now().await;
        }
        assert!(Arc::ptr_eq(&second, clusters.snapshot().get(0).unwrap()) && !*clusters.warming().borrow());
        clusters.warm_up([checked()]);
        assert_eq!(clusters.remove_all([0, 7]), 1);
        assert_eq!(clusters.snapshot().all().count(), 0);
        warming.abort();
    }

    #[test]
    fn a_snapshot_tells_what_another_lacks() {
        let names = ClusterNames::default();
        let named = |name: &str| ClusterConfig { name: names.intern(name), ..cluster_config(name, Vec::new()) };
        let clusters = Clusters::new(&Store::new(), None);
        clusters.update((0..200).map(|i| named(&format!("c{i}"))));
        let before = clusters.snapshot();
        clusters.update([named("c7"), named("new")]);
        clusters.remove_all([150]);
        let after = clusters.snapshot();
        let told = |one: &Snapshot, other: &Snapshot| {
            one.only_here(other).map(|c| c.config.name.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            (told(&before, &after), told(&after, &before)),
            (vec!["c7".into(), "c150".into()], vec!["c7".into(), "new".into()])
        );
        assert!(told(&after, &after).is_empty());
        assert_eq!((after.iter().count(), clusters.stats.active_clusters().value()), (200, 200));
    }

    #[test]
    fn ten_thousand_idle_clusters_take_less_than_four_kilobytes_each() {
        const ALONE: &str = "NUNCIO_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            // In a process of its own: the memory of other tests is not counted.
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "clusters::tests::ten_thousand_idle_clusters_take_less_than_four_kilobytes_each"]);
            assert!(command.env(ALONE, "1").status().unwrap().success());
            return;
        }
        let names = ClusterNames::default();
        let store = Store::new();
        let clusters = Clusters::new(&store, None);
        let configs: Vec<ClusterConfig> = (0..10_000)
            .map(|n: u16| {
                let name = format!("a-cluster-with-a-name-{n}");
                let mut config = cluster_config(&name, vec![fixed(([127, 0, 0, 1], n).into())]);
                config.name = names.intern(&name);
                config
            })
            .collect();
        let before = resident();
        clusters.update(configs);
        let each = resident().saturating_sub(before) / 10_000;
        // The configuration and its endpoint take half a kilobyte, and the names the rest.
        // What is resident varies by some pages from run to run.
        assert!(each < 3550, "{each} bytes beside the configuration");
    }
}
