mod balance;
mod description;
mod flags;
mod metrics;
mod signal;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use nuncio_config::cluster::{
    ClientWeights, Endpoint, EndpointAddress, EndpointCheck, HappyEyeballs, Health, Locality,
};
use nuncio_config::transport_socket::TransportSocket;
use nuncio_telemetry::{Address, Metadata};
use tokio::time::Instant;

use crate::outlier::Monitor;
use balance::Balance;
pub(crate) use description::Description;

pub use flags::{HealthFlag, HealthFlags};
pub use metrics::{HostMetrics, MetricSum};
pub(crate) use signal::Signal;

/// One host of a cluster, shared by all workers.
///
/// What is read of every host when one of 100,000 changes comes first, beside the count of those who hold it.
#[derive(Debug)]
#[repr(C)]
pub struct Host {
    /// Share of the load, at least 1.
    weight: AtomicU32,
    /// [`HealthFlags`] now.
    flags: AtomicU32,
    /// `priority` of its locality: 0 is used first.
    pub priority: u32,
    /// As its endpoint has it.
    assigned_weight: AtomicU32,
    /// Where it stands.
    pub locality: Option<Arc<Locality>>,
    address: Address,
    /// The proxy that is connected to in its place.
    pub(crate) proxy: Option<Arc<Address>>,
    /// Name of the host: as configured, or the name that DNS resolved; empty if it has none.
    pub hostname: Arc<str>,
    /// What it is counted by in place of its address.
    pub(crate) observability_name: Option<Arc<str>>,
    /// What discovery says of its health: the place among [`HEALTHS`].
    discovered: AtomicU8,
    /// Whether its metadata calls it a canary.
    is_canary: AtomicBool,
    /// Metadata of its locality.
    pub(crate) locality_metadata: Option<Arc<Metadata>>,
    /// What discovery may say otherwise while it stays.
    description: ArcSwap<Description>,
    /// What carries the bytes of connections to it, where they are not sent as they are.
    transport: OnceLock<Arc<TransportSocket>>,
    /// How it is checked otherwise than its cluster says.
    check: Option<Arc<EndpointCheck>>,
    /// What outlier detection counts of it, where there is any.
    monitor: OnceLock<Box<Monitor>>,
    /// What load balancing notes of it, where its policy looks at it.
    balance: OnceLock<Box<Balance>>,
    /// How often it failed: connections made before are given up.
    failures: AtomicU32,
    /// Of those who look after connections to it. The lock is taken when they begin to, and when the host fails; never
    /// for a request.
    signals: Mutex<Vec<Weak<Signal>>>,
    /// What it reported of its load, for load reports.
    pub metrics: HostMetrics,
    /// What was counted for it.
    pub stats: HostStats,
}

/// What load balancing makes of a host's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoarseHealth {
    /// Chosen in panic alone.
    Unhealthy,
    /// Chosen where there are too few healthy ones.
    Degraded,
    /// Chosen.
    Healthy,
}

/// Counts of one host, for `/clusters` and least-request. All workers write them with relaxed atomics: they order
/// nothing, and a worker's share alone would not do for choosing the least loaded host.
#[derive(Debug, Default)]
pub struct HostStats {
    /// Connections now.
    pub cx_active: HostGauge,
    /// Connections ever.
    pub cx_total: HostCounter,
    /// Connections that failed to be established.
    pub cx_connect_fail: HostCounter,
    /// Requests now.
    pub rq_active: HostGauge,
    /// Requests that wait for a connection now.
    pub rq_pending_active: HostGauge,
    /// Requests ever.
    pub rq_total: HostCounter,
    /// Requests answered with a status below 500.
    pub rq_success: HostCounter,
    /// Requests that failed, or were answered with 500 and above.
    pub rq_error: HostCounter,
    /// Requests that timed out.
    pub rq_timeout: HostCounter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct HostCounter(AtomicU64);

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct HostGauge(AtomicU64);

/// How often the flags or the weight of any host have changed: as long as it is the same, so is what was read of all, and
/// a change of one in 100,000 needs no look at the others. One for the process, since a host does not know the sets that
/// it is in. Nothing else depends on it.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// In the order of their numbers.
const HEALTHS: [Health; 6] =
    [Health::Unknown, Health::Healthy, Health::Unhealthy, Health::Draining, Health::Timeout, Health::Degraded];

// === impl Host ===

impl Host {
    /// The host of `endpoint` at `address`.
    pub fn new(endpoint: &Endpoint, address: Address) -> Self {
        Self::with_address(endpoint, address, endpoint.addresses.clone(), endpoint.hostname.clone())
    }

    /// A host found under the DNS name `name`, which it carries unless its endpoint has a hostname of its own.
    pub fn resolved(endpoint: &Endpoint, address: Address, name: &Arc<str>) -> Self {
        Self::with_address(endpoint, address, None, named(endpoint, name))
    }

    /// One host for all `addresses` of the DNS name `name`, of which the first is the one that is told.
    pub fn logical(
        endpoint: &Endpoint,
        addresses: &[SocketAddr],
        name: &Arc<str>,
        order: HappyEyeballs,
    ) -> Option<Self> {
        let address = Address::from(*addresses.first()?);
        let several = (addresses.len() > 1).then(|| order.sort(addresses).into());
        Some(Self::with_address(endpoint, address, several, named(endpoint, name)))
    }

    fn with_address(
        endpoint: &Endpoint,
        address: Address,
        addresses: Option<Arc<[SocketAddr]>>,
        hostname: Arc<str>,
    ) -> Self {
        let Endpoint {
            address: _,
            hostname: _,
            weight,
            health,
            locality,
            priority,
            metadata,
            tlvs,
            locality_metadata,
            check,
            addresses: _,
            proxy,
            observability_name,
        } = endpoint;
        let description = Description { metadata: metadata.clone(), tlvs: tlvs.clone(), addresses };
        Self {
            proxy: proxy.clone(),
            observability_name: observability_name.clone(),
            address,
            hostname,
            weight: AtomicU32::new(*weight),
            assigned_weight: AtomicU32::new(*weight),
            priority: *priority,
            discovered: AtomicU8::new(*health as u8),
            flags: AtomicU32::new(HealthFlags::configured(*health).bits()),
            check: check.clone(),
            is_canary: AtomicBool::new(description.is_canary()),
            monitor: OnceLock::new(),
            balance: OnceLock::new(),
            failures: AtomicU32::new(0),
            signals: Mutex::default(),
            locality: locality.clone(),
            locality_metadata: locality_metadata.clone(),
            description: ArcSwap::new(description.shared()),
            transport: OnceLock::new(),
            metrics: HostMetrics::default(),
            stats: HostStats::default(),
        }
    }

    /// The host of `endpoint` in place of `before`, of which health checks know what they know.
    pub(crate) fn succeeding(endpoint: &Endpoint, address: Address, before: &Self) -> Self {
        let host = Self::new(endpoint, address);
        host.flags.store(before.flags().checked().bits() | host.flags().bits(), Ordering::Release);
        if let Some(balance) = before.balance.get() {
            host.balance.get_or_init(|| Box::new(balance.copy()));
        }
        host
    }

    /// Whether it is what `endpoint` says, but for health, weight and description, which may change under it.
    pub(crate) fn is_of(&self, endpoint: &Endpoint) -> bool {
        let Endpoint {
            address,
            hostname,
            weight: _,
            health: _,
            locality,
            priority,
            metadata: _,
            tlvs: _,
            locality_metadata,
            check,
            addresses: _,
            proxy,
            observability_name,
        } = endpoint;
        matches!(address, EndpointAddress::Fixed(address) if *address == self.address)
            && *hostname == self.hostname
            && *priority == self.priority
            && *locality == self.locality
            && *locality_metadata == self.locality_metadata
            && *check == self.check
            && *proxy == self.proxy
            && *observability_name == self.observability_name
    }

    /// Whether it is checked where and if `endpoint` says so.
    pub(crate) fn is_checked_as(&self, endpoint: &Endpoint) -> bool {
        let checked = |check: Option<&EndpointCheck>| {
            check.map_or((false, None, None), |check| (check.is_disabled, check.address.clone(), check.port))
        };
        checked(self.check()) == checked(endpoint.check.as_deref())
    }

    fn discovered(&self) -> Health {
        HEALTHS.get(usize::from(self.discovered.load(Ordering::Acquire))).copied().unwrap_or_default()
    }

    /// Takes over what discovery says of its health. False if that is nothing new.
    pub(crate) fn set_configured(&self, health: Health) -> bool {
        self.discovered.store(health as u8, Ordering::Release);
        let configured = HealthFlags::configured(health);
        let next = |bits| Some(HealthFlags::from_bits(bits).with_configured(configured).bits());
        let before = self.flags.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        noted(before.is_ok_and(|bits| next(bits) != Some(bits)))
    }

    /// Its address, or the first of them.
    pub fn address(&self) -> Address {
        self.address.clone()
    }

    /// What discovery says of it now.
    #[inline]
    pub(crate) fn description(&self) -> Guard<Arc<Description>> {
        self.description.load()
    }

    /// Metadata of the endpoint.
    pub fn metadata(&self) -> Option<Arc<Metadata>> {
        self.description().metadata.clone()
    }

    /// Takes over another description of it.
    pub(crate) fn describe(&self, description: Description) {
        self.is_canary.store(description.is_canary(), Ordering::Release);
        self.description.store(description.shared());
    }

    /// Its share of the load, at least 1.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Sets its share of the load; it counts once the set of hosts is made anew. False if it was the same.
    pub(crate) fn set_weight(&self, weight: u32) -> bool {
        let weight = weight.max(1);
        noted(self.weight.swap(weight, Ordering::Relaxed) != weight)
    }

    /// Takes over the weight that discovery gives it. False if that is nothing new.
    pub(crate) fn set_assigned_weight(&self, weight: u32) -> bool {
        self.assigned_weight.swap(weight, Ordering::Relaxed) != weight && self.set_weight(weight)
    }

    /// Where it has several: all of its addresses, the first of which is [`Self::address`].
    pub fn addresses(&self) -> Option<Arc<[SocketAddr]>> {
        self.description().addresses.clone()
    }

    /// Whether these are its addresses, of which the first is the one that is told.
    pub(crate) fn is_at(&self, addresses: &[SocketAddr]) -> bool {
        let is_first = addresses.first().is_some_and(|first| self.address == Address::Ip(*first));
        is_first
            && match &self.description().addresses {
                None => addresses.len() == 1,
                Some(own) => own.len() == addresses.len() && own.iter().all(|address| addresses.contains(address)),
            }
    }

    /// What is known of its health now. It counts for load balancing once
    /// [`Cluster::update_health`](crate::Cluster::update_health) has been called.
    pub fn flags(&self) -> HealthFlags {
        HealthFlags::from_bits(self.flags.load(Ordering::Acquire))
    }

    /// Sets a flag. False if it was set already.
    pub fn set_flag(&self, flag: HealthFlag) -> bool {
        let bit = HealthFlags::from(flag).bits();
        noted(self.flags.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }

    /// Clears a flag. False if it was not set.
    pub fn clear_flag(&self, flag: HealthFlag) -> bool {
        let bit = HealthFlags::from(flag).bits();
        noted(self.flags.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }

    /// What load balancing makes of its flags.
    pub fn health(&self) -> CoarseHealth {
        self.flags().coarse()
    }

    /// Its health as a status: what watches over it finds is worth more than what discovery says.
    pub(crate) fn status(&self) -> Health {
        let flags = self.flags();
        match (flags.health_of_discovery(), self.discovered()) {
            _ if flags.has(HealthFlag::FailedActiveHc) || flags.has(HealthFlag::FailedOutlierCheck) => {
                Health::Unhealthy
            }
            (Health::Unhealthy, Health::Timeout) => Health::Timeout,
            (status @ (Health::Unhealthy | Health::Draining), _) => status,
            _ if flags.has(HealthFlag::DegradedActiveHc) => Health::Degraded,
            (Health::Healthy, Health::Unknown) => Health::Unknown,
            (status, _) => status,
        }
    }

    /// What carries the bytes of connections to it. `None`: they are sent as they are.
    #[inline]
    pub(crate) fn transport(&self) -> Option<&Arc<TransportSocket>> {
        self.transport.get()
    }

    /// Says what carries the bytes of connections to it, once.
    pub(crate) fn set_transport(&self, choose: impl FnOnce() -> Arc<TransportSocket>) {
        self.transport.get_or_init(choose);
    }

    /// The proxy that is connected to in its place: its own, or else that of its transport socket.
    pub(crate) fn proxy(&self) -> Option<&Address> {
        self.proxy.as_deref().or_else(|| self.transport()?.default_proxy())
    }

    /// How it is checked otherwise than its cluster says.
    pub(crate) fn check(&self) -> Option<&EndpointCheck> {
        self.check.as_deref()
    }

    /// How often it failed so far.
    #[inline]
    pub(crate) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// A signal that is raised when the host fails or leaves its cluster, for as long as it is held.
    pub(crate) fn signal(&self) -> Arc<Signal> {
        let signal = Arc::<Signal>::default();
        // A poisoned lock means that a push panicked: the list is whole.
        let mut signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        if signals.len() == signals.capacity() {
            signals.retain(|signal| signal.strong_count() > 0);
        }
        signals.push(Arc::downgrade(&signal));
        signal
    }

    /// It failed its checks, was ejected, or is no longer of its cluster: idle connections are closed, and the others
    /// when their requests end.
    pub(crate) fn give_up_connections(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        signals.iter().filter_map(Weak::upgrade).for_each(|signal| signal.raise());
    }

    /// Whether it takes no part in active health checks.
    pub(crate) fn is_never_checked(&self) -> bool {
        self.check.as_ref().is_some_and(|check| check.is_disabled)
    }

    /// What outlier detection counts of it.
    #[inline]
    pub(crate) fn monitor(&self) -> Option<&Monitor> {
        self.monitor.get().map(|monitor| &**monitor)
    }

    /// Begins to count for outlier detection.
    pub(crate) fn monitor_outliers(&self) {
        self.monitor.get_or_init(Box::default);
    }

    /// Begins to note what load balancing looks at.
    pub(crate) fn note_for_balance(&self, now: Instant) {
        self.balance.get_or_init(|| Box::new(Balance::new(now)));
    }

    /// It is healthy, since now unless it was before.
    pub(crate) fn note_healthy(&self, now: Instant) {
        self.balance.get().inspect(|balance| balance.note_healthy(now));
    }

    /// It passed a check that it failed before.
    pub(crate) fn note_return(&self) {
        self.balance.get().inspect(|balance| balance.note_return(Instant::now()));
    }

    /// How long it has been healthy: since it was found, or passed a check that it failed before. `None` where load
    /// balancing does not look at it, or it never was.
    pub(crate) fn healthy_for(&self, now: Instant) -> Option<Duration> {
        self.balance.get()?.healthy_for(now)
    }

    /// It has reported a load that `weight` follows from.
    pub(crate) fn note_report(&self, weight: u32, now: Instant) {
        self.balance.get().inspect(|balance| balance.note_report(weight, now));
    }

    /// It has reported that it is so busy, of 1.
    pub(crate) fn note_utilization(&self, utilization: f64, now: Instant) {
        self.balance.get().inspect(|balance| balance.note_utilization(utilization, now));
    }

    /// How busy it reported to be, of 1, within `expiration`.
    pub(crate) fn utilization(&self, expiration: Option<Duration>, now: Instant) -> Option<f64> {
        self.balance.get()?.utilization(expiration, now)
    }

    /// The weight that follows from its reports, where they count.
    pub(crate) fn reported_weight(&self, config: &ClientWeights, now: Instant) -> Option<u32> {
        self.balance.get()?.reported_weight(config, now)
    }

    /// The success rates that outlier detection found last: of its responses, and of the connections to it; -1 where
    /// there is none.
    pub fn success_rates(&self) -> [f64; 2] {
        self.monitor().map_or([-1.0; 2], Monitor::rates)
    }

    /// Whether its metadata calls it a canary.
    #[inline]
    pub fn is_canary(&self) -> bool {
        self.is_canary.load(Ordering::Acquire)
    }
}

/// How often the flags or the weight of any host have changed. What is read of hosts after it is asked is theirs until
/// it is another.
pub(crate) fn changes() -> u64 {
    CHANGES.load(Ordering::Acquire)
}

/// Counts a change, if it is one, after it was made.
fn noted(is_change: bool) -> bool {
    if is_change {
        CHANGES.fetch_add(1, Ordering::Release);
    }
    is_change
}

fn named(endpoint: &Endpoint, name: &Arc<str>) -> Arc<str> {
    if endpoint.hostname.is_empty() { name.clone() } else { endpoint.hostname.clone() }
}

// === impl HostCounter ===

impl HostCounter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl HostGauge ===

impl HostGauge {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
