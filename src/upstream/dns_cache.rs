//! The addresses of the names that requests go to, one cache for all that give its name. Names are asked for on the
//! control thread; workers look up and wait.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use nuncio_config::cluster::{DnsCacheConfig, RefreshRate};
use nuncio_telemetry::stats::Store;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::dns::{ResolveError, Resolver, Resolvers};

nuncio_telemetry::stats! {
    /// `dns_cache.<name>`
    pub(crate) struct DnsCacheStats {
        cache_load: Counter,
        dns_address_filter_out: Counter,
        dns_query_attempt: Counter,
        dns_query_failure: Counter,
        dns_query_success: Counter,
        dns_query_timeout: Counter,
        dns_rq_pending_overflow: Counter,
        host_added: Counter,
        host_address_changed: Counter,
        host_overflow: Counter,
        host_removed: Counter,
        num_hosts: Gauge,
    }

    /// `dns_cache.<name>.circuit_breakers`
    struct BreakerStats {
        rq_pending_open: Gauge,
        rq_pending_remaining: Gauge,
    }
}

/// All caches of the process.
pub(crate) struct DnsCaches {
    store: Store,
    /// Taken by those who begin to use a cache, never for a request.
    known: Mutex<HashMap<Arc<str>, Arc<DnsCache>>>,
    /// Names that nobody asks for yet.
    new: Mutex<Vec<(Arc<DnsCache>, Arc<CachedName>)>>,
    wake: Notify,
}

/// One cache.
pub(crate) struct DnsCache {
    config: Arc<DnsCacheConfig>,
    pub(crate) stats: DnsCacheStats,
    breaker: BreakerStats,
    /// By `host:port`. Requests only read it; who writes does so for a name that is new, or gone.
    names: RwLock<HashMap<Box<str>, Arc<CachedName>>>,
    /// Requests that wait.
    pending: AtomicU64,
    /// Signals that a name has other addresses, or is gone.
    changed: watch::Sender<()>,
    caches: std::sync::Weak<DnsCaches>,
    begun: Instant,
}

/// One name of a cache.
pub(crate) struct CachedName {
    /// `host:port`
    pub(crate) key: Box<str>,
    host: Box<str>,
    port: u16,
    /// `None` before the first answer.
    found: watch::Sender<Option<Found>>,
    /// In milliseconds since the cache began.
    last_used: AtomicU64,
}

/// What is known of a name.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Empty if there are none.
    pub(crate) addresses: Arc<[SocketAddr]>,
    /// Why there are none, in Envoy's words.
    pub(crate) details: Arc<str>,
}

/// What comes of looking a name up.
pub(crate) enum Lookup {
    Known(Found),
    /// Its first answer is still to come.
    Pending(Arc<CachedName>),
    /// There are too many names.
    Overflow,
}

/// A request that waits. Dropping it gives back its place.
pub(crate) struct PendingRequest(Arc<DnsCache>);

// === impl DnsCaches ===

impl DnsCaches {
    pub(crate) fn new(store: &Store) -> Arc<Self> {
        let (known, new) = (Mutex::default(), Mutex::default());
        Arc::new(Self { store: store.clone(), known, new, wake: Notify::new() })
    }

    /// The cache that is configured so, made now if it is new.
    pub(crate) fn cache(self: &Arc<Self>, config: &Arc<DnsCacheConfig>) -> Arc<DnsCache> {
        // A poisoned lock means that an insertion panicked: the table is whole.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = known.get(&config.name) {
            return cache.clone();
        }
        let cache = Arc::new(DnsCache::new(config.clone(), self));
        known.insert(config.name.clone(), cache.clone());
        drop(known);
        for (host, port) in &config.preresolved {
            cache.look_up(&key(host, *port));
        }
        cache
    }

    /// Asks for the names of all caches. Runs until it is dropped, on the control thread.
    pub(crate) async fn run(&self, resolvers: &Resolvers) {
        let mut tasks = JoinSet::new();
        let all: Vec<_> = self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        self.take_new();
        for cache in all {
            for name in cache.names() {
                tasks.spawn(cache.clone().follow(name, resolvers.resolver(cache.config.resolver.as_ref())));
            }
        }
        loop {
            for (cache, name) in self.take_new() {
                let resolver = resolvers.resolver(cache.config.resolver.as_ref());
                tasks.spawn(cache.follow(name, resolver));
            }
            while tasks.try_join_next().is_some() {}
            self.wake.notified().await;
        }
    }

    fn take_new(&self) -> Vec<(Arc<DnsCache>, Arc<CachedName>)> {
        std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl DnsCache ===

impl DnsCache {
    fn new(config: Arc<DnsCacheConfig>, caches: &Arc<DnsCaches>) -> Self {
        let scope = caches.store.scope(&format!("dns_cache.{}", config.name));
        let breaker = BreakerStats::new(&scope.scope("circuit_breakers"));
        breaker.rq_pending_remaining().set(config.max_pending);
        Self {
            stats: DnsCacheStats::new(&scope),
            breaker,
            config,
            names: RwLock::default(),
            pending: AtomicU64::new(0),
            changed: watch::Sender::new(()),
            caches: Arc::downgrade(caches),
            begun: Instant::now(),
        }
    }

    /// What is known of `key`, which is `host:port`. A name that nobody asked for before is asked for now.
    pub(crate) fn look_up(self: &Arc<Self>, key: &str) -> Lookup {
        let (known, is_full) = {
            let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            (names.get(key).cloned(), names.len() >= self.config.max_hosts)
        };
        let mut stale = None;
        if let Some(name) = known {
            self.touch(&name);
            let found = name.found.borrow().clone();
            match found {
                // Envoy: a name that failed and is not asked for again is as good as unknown.
                Some(found) if found.addresses.is_empty() && !self.config.refreshes_failures => stale = Some(name),
                Some(found) => return Lookup::Known(found),
                // Envoy: who comes while the cache is full does not wait.
                None if is_full => {}
                None => return Lookup::Pending(name),
            }
        }
        match stale {
            Some(stale) => self.remove(&stale),
            None if is_full => {
                self.stats.host_overflow().inc();
                return Lookup::Overflow;
            }
            None => {}
        }
        Lookup::Pending(self.add(key))
    }

    /// The addresses of `key` now, if there are any.
    pub(crate) fn addresses(&self, key: &str) -> Option<Arc<[SocketAddr]>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let name = names.get(key)?;
        let found = name.found.borrow();
        found.as_ref().map(|found| found.addresses.clone()).filter(|addresses| !addresses.is_empty())
    }

    /// Notes that requests go to `key`.
    pub(crate) fn note_use(&self, key: &str) {
        if let Some(name) = self.names.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            self.touch(name);
        }
    }

    /// All of them, in no order.
    pub(crate) fn names(&self) -> Vec<Arc<CachedName>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Signals each change of addresses.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// A place for a request that waits; `None` where all are taken.
    pub(crate) fn wait(self: &Arc<Self>) -> Option<PendingRequest> {
        let max = self.config.max_pending;
        let take = |pending: u64| (pending < max).then_some(pending + 1);
        match self.pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(before) => {
                self.tell_pending(before + 1);
                Some(PendingRequest(self.clone()))
            }
            Err(_) => {
                self.stats.dns_rq_pending_overflow().inc();
                None
            }
        }
    }

    /// Whether another request may wait; counts one that may not.
    pub(crate) fn may_wait(&self) -> bool {
        let may = self.pending.load(Ordering::Relaxed) < self.config.max_pending;
        if !may {
            self.stats.dns_rq_pending_overflow().inc();
        }
        may
    }

    fn tell_pending(&self, pending: u64) {
        self.breaker.rq_pending_remaining().set(self.config.max_pending.saturating_sub(pending));
        self.breaker.rq_pending_open().set(u64::from(pending >= self.config.max_pending));
    }

    fn touch(&self, name: &CachedName) {
        name.last_used.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn add(self: &Arc<Self>, key: &str) -> Arc<CachedName> {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names.get(key) {
            return name.clone();
        }
        let (host, port) = split(key);
        let name = Arc::new(CachedName {
            key: key.into(),
            host: host.into(),
            port,
            found: watch::Sender::new(None),
            last_used: AtomicU64::new(self.now()),
        });
        names.insert(key.into(), name.clone());
        self.stats.host_added().inc();
        self.stats.num_hosts().set(names.len() as u64);
        drop(names);
        if let Some(caches) = self.caches.upgrade() {
            caches.new.lock().unwrap_or_else(PoisonError::into_inner).push((self.clone(), name.clone()));
            caches.wake.notify_one();
        }
        name
    }

    fn remove(&self, name: &Arc<CachedName>) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        // Another may have taken its place.
        if names.get(&*name.key).is_some_and(|known| Arc::ptr_eq(known, name)) {
            names.remove(&*name.key);
            self.stats.host_removed().inc();
            self.stats.num_hosts().set(names.len() as u64);
            drop(names);
            self.changed.send_replace(());
        }
    }

    /// Asks for one name again and again, until no request names it any more.
    async fn follow(self: Arc<Self>, name: Arc<CachedName>, resolver: Arc<Resolver>) {
        let mut backoff = None;
        loop {
            let wait = match self.ask(&name, &resolver).await {
                Ok(wait) => {
                    backoff = None;
                    wait
                }
                Err(()) if !self.config.refreshes_failures => return,
                Err(()) => self.after_failure(&mut backoff),
            };
            sleep(wait).await;
            let unused = self.now().saturating_sub(name.last_used.load(Ordering::Relaxed));
            if Duration::from_millis(unused) > self.config.host_ttl {
                return self.remove(&name);
            }
            let is_gone = {
                let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
                !names.get(&*name.key).is_some_and(|known| Arc::ptr_eq(known, &name))
            };
            if is_gone {
                return;
            }
        }
    }

    /// Asks once. Gives the time after which to ask again.
    async fn ask(&self, name: &Arc<CachedName>, resolver: &Resolver) -> Result<Duration, ()> {
        let stats = &self.stats;
        stats.dns_query_attempt().inc();
        let asking = resolver.resolve(&name.host, self.config.family);
        let answer = match self.config.query_timeout {
            None => Some(asking.await),
            Some(limit) => timeout(limit, asking).await.ok(),
        };
        let (addresses, ttl) = match answer {
            Some(Ok(answer)) => (answer.addresses, answer.ttl),
            Some(Err(error)) => {
                stats.dns_query_failure().inc();
                self.note(name, Vec::new(), &format!("cares_failure:{}", words(&error)));
                return Err(());
            }
            None => {
                stats.dns_query_failure().inc();
                stats.dns_query_timeout().inc();
                self.note(name, Vec::new(), "resolve_timeout");
                return Err(());
            }
        };
        stats.dns_query_success().inc();
        let found = addresses.len();
        let kept: Vec<_> = match &self.config.filter {
            None => addresses,
            Some(filter) => addresses.into_iter().filter(|ip| !filter.filters(*ip)).collect(),
        };
        stats.dns_address_filter_out().add((found - kept.len()) as u64);
        let details = match found {
            0 => "cares_norecords:Domain_name_not_found",
            _ => "cares_success:Success",
        };
        let addresses: Vec<_> = kept.iter().map(|ip| SocketAddr::new(*ip, name.port)).collect();
        self.note(name, addresses, details);
        Ok(match ttl {
            Some(ttl) if !kept.is_empty() => ttl.max(self.config.min_refresh),
            _ => self.config.refresh,
        })
    }

    /// Takes in an answer. A name that is gone keeps its last addresses.
    fn note(&self, name: &CachedName, addresses: Vec<SocketAddr>, details: &str) {
        let mut has_changed = false;
        name.found.send_if_modified(|found| {
            let is_first = found.is_none();
            let before = found.as_ref().map_or(&[][..], |found| &found.addresses);
            has_changed = !addresses.is_empty() && *addresses != *before;
            if is_first || has_changed || before.is_empty() {
                *found = Some(Found { addresses: addresses.into(), details: details.into() });
                return true;
            }
            false
        });
        if has_changed {
            self.stats.host_address_changed().inc();
            self.changed.send_replace(());
        }
    }

    fn after_failure(&self, backoff: &mut Option<Duration>) -> Duration {
        let Some(RefreshRate { base, max }) = self.config.failure else { return self.config.refresh };
        let wait = backoff.unwrap_or(base);
        *backoff = Some((wait * 2).min(max));
        // Jitter over the upper half, so that a failing server is not asked at once.
        let half = u64::try_from((wait / 2).as_nanos()).unwrap_or(u64::MAX).max(1);
        wait / 2 + Duration::from_nanos(fastrand::u64(..half))
    }
}

// === impl CachedName ===

impl CachedName {
    /// Waits for its first answer.
    pub(crate) async fn found(&self) -> Found {
        let mut found = self.found.subscribe();
        match found.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(found)) => found.clone(),
            // The sender is in `self`, and what was waited for is there.
            _ => Found { addresses: [].into(), details: "".into() },
        }
    }
}

// === impl PendingRequest ===

impl Drop for PendingRequest {
    fn drop(&mut self) {
        let before = self.0.pending.fetch_sub(1, Ordering::Relaxed);
        self.0.tell_pending(before.saturating_sub(1));
    }
}

/// `host:port` as requests name it; without a port of its own, with `default_port`.
pub(crate) fn normalize(authority: &str, default_port: u16) -> Cow<'_, str> {
    match port_of(authority) {
        Some(_) => Cow::Borrowed(authority),
        None => Cow::Owned(format!("{authority}:{default_port}")),
    }
}

fn key(host: &str, port: u16) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

fn port_of(authority: &str) -> Option<u16> {
    let (host, port) = authority.rsplit_once(':')?;
    // The last colon of a bare IPv6 address is none before a port.
    if host.contains(':') && !host.ends_with(']') {
        return None;
    }
    port.parse().ok()
}

/// The host of a key, an IPv6 address without its brackets, and the port.
fn split(key: &str) -> (&str, u16) {
    let port = port_of(key).unwrap_or_default();
    let host = key.rsplit_once(':').map_or(key, |(host, _)| host);
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
}

/// What c-ares calls it.
fn words(error: &ResolveError) -> String {
    if *error == ResolveError::Timeout {
        return "Timeout_while_contacting_DNS_servers".to_owned();
    }
    let text = error.to_string();
    let known = [
        ("Server Failure", "DNS_server_returned_general_failure"),
        ("Query Refused", "DNS_server_refused_query"),
        ("Form Error", "DNS_server_claims_query_was_misformatted"),
        ("Not Implemented", "DNS_server_does_not_implement_requested_operation"),
    ];
    let word = known.iter().find(|(code, _)| text.contains(code)).map(|(_, words)| *words);
    word.map_or_else(|| text.replace(' ', "_"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_port() {
        let cases =
            [("a", "a:80"), ("a:81", "a:81"), ("[::1]", "[::1]:80"), ("[::1]:9", "[::1]:9"), ("1.2.3.4", "1.2.3.4:80")];
        for (authority, expected) in cases {
            assert_eq!(normalize(authority, 80), expected);
        }
        assert_eq!((split("a:81"), split("[::1]:9")), (("a", 81), ("::1", 9)));
        assert_eq!(key("::1", 9), "[::1]:9");
    }
}
