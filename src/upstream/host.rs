use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use nuncio_config::cluster::{Endpoint, Health, Locality};
use nuncio_telemetry::{Address, Metadata};

/// One host of a cluster, shared by all workers.
#[derive(Debug)]
pub struct Host {
    address: HostAddress,
    /// Name of the host: as configured, or the name that DNS resolved; empty if it has none.
    pub hostname: Arc<str>,
    /// Share of the load, at least 1.
    pub weight: u32,
    /// Health as configured.
    pub health: Health,
    /// Where it stands.
    pub locality: Option<Arc<Locality>>,
    /// Metadata of the endpoint.
    pub metadata: Option<Arc<Metadata>>,
    /// What was counted for it.
    pub stats: HostStats,
}

/// A logical host keeps its identity while DNS moves it.
#[derive(Debug)]
enum HostAddress {
    Fixed(Address),
    Logical(ArcSwap<Address>),
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

/// The hosts of a cluster at one time.
#[derive(Debug)]
pub struct HostSet {
    /// All of them, in order of configuration or of resolution.
    pub hosts: Vec<Arc<Host>>,
    /// Places in `hosts` of those that a load balancer may choose.
    pub eligible: Vec<u32>,
    /// Number of healthy ones.
    pub healthy: usize,
    /// Number of draining ones, which count for nothing.
    pub excluded: usize,
    /// Whether too few are healthy, so that all are eligible.
    pub in_panic: bool,
}

// === impl Host ===

impl Host {
    /// The host of `endpoint` at `address`.
    pub fn new(endpoint: &Endpoint, address: Address) -> Self {
        Self::with_address(endpoint, HostAddress::Fixed(address), endpoint.hostname.clone())
    }

    /// A host found under the DNS name `name`, which it carries unless its endpoint has a hostname of its own.
    pub fn resolved(endpoint: &Endpoint, address: Address, name: &Arc<str>) -> Self {
        Self::with_address(endpoint, HostAddress::Fixed(address), named(endpoint, name))
    }

    /// A host that stays the same while DNS moves it.
    pub fn logical(endpoint: &Endpoint, address: Address, name: &Arc<str>) -> Self {
        Self::with_address(endpoint, HostAddress::Logical(ArcSwap::from_pointee(address)), named(endpoint, name))
    }

    fn with_address(endpoint: &Endpoint, address: HostAddress, hostname: Arc<str>) -> Self {
        let Endpoint { address: _, hostname: _, weight, health, locality, metadata } = endpoint;
        Self {
            address,
            hostname,
            weight: *weight,
            health: *health,
            locality: locality.clone(),
            metadata: metadata.clone(),
            stats: HostStats::default(),
        }
    }

    /// Where new connections go.
    pub fn address(&self) -> Address {
        match &self.address {
            HostAddress::Fixed(address) => address.clone(),
            HostAddress::Logical(address) => Address::clone(&address.load()),
        }
    }

    /// Moves a logical host; any other stays.
    pub fn move_to(&self, to: Address) {
        if let HostAddress::Logical(address) = &self.address {
            address.store(Arc::new(to));
        }
    }

    /// What `/clusters` says of its health.
    pub fn health_flags(&self) -> &'static str {
        match self.health {
            Health::Healthy => "healthy",
            Health::Unhealthy => "/failed_eds_health",
            Health::Draining => "/eds_status_draining",
        }
    }
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

// === impl HostSet ===

impl HostSet {
    /// A set with the hosts that may be chosen worked out. `panic_threshold` is in percent.
    pub fn new(hosts: Vec<Arc<Host>>, panic_threshold: u8) -> Self {
        /// Envoy's overprovisioning factor, in percent: so much more than all is taken to be enough.
        const OVERPROVISIONING: usize = 140;
        let healthy: Vec<u32> =
            (0..).zip(&hosts).filter(|(_, h)| h.health == Health::Healthy).map(|(i, _)| i).collect();
        let excluded = hosts.iter().filter(|h| h.health == Health::Draining).count();
        let counted = (hosts.len() - excluded).max(1);
        let available = healthy.len() * OVERPROVISIONING / counted;
        let in_panic = available < 100 && healthy.len() * 100 < usize::from(panic_threshold) * counted;
        let count = healthy.len();
        let eligible = if in_panic { (0..).zip(&hosts).map(|(i, _)| i).collect() } else { healthy };
        Self { hosts, eligible, healthy: count, excluded, in_panic }
    }

    /// The greatest weight of a host, for the gauge `max_host_weight`.
    pub fn max_weight(&self) -> u32 {
        self.hosts.iter().map(|h| h.weight).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use nuncio_config::cluster::EndpointAddress;

    use super::*;

    fn set(health: &[Health], panic_threshold: u8) -> HostSet {
        let host = |health: &Health| {
            let address: Address = "127.0.0.1:80".parse::<std::net::SocketAddr>().unwrap().into();
            let endpoint = Endpoint {
                address: EndpointAddress::Fixed(address.clone()),
                hostname: "".into(),
                weight: 1,
                health: *health,
                locality: None,
                metadata: None,
            };
            Arc::new(Host::new(&endpoint, address))
        };
        HostSet::new(health.iter().map(host).collect(), panic_threshold)
    }

    #[test]
    fn unhealthy_hosts_are_chosen_in_panic_alone() {
        use Health::{Draining, Healthy, Unhealthy};
        assert_eq!(set(&[Healthy, Unhealthy], 50).eligible, [0]);
        assert_eq!(set(&[Unhealthy, Healthy, Unhealthy], 50).eligible, [0, 1, 2]);
        assert_eq!(set(&[Unhealthy, Draining], 0).eligible, [] as [u32; 0]);
        // As Envoy 1.40 does: who drains is neither missed nor, unless there is nobody else, used.
        assert_eq!(set(&[Draining, Draining, Healthy], 50).eligible, [2]);
        assert_eq!(set(&[Draining], 50).eligible, [0]);
        assert!(set(&[], 50).in_panic, "Envoy counts lb_healthy_panic for an empty cluster");
    }

    #[test]
    fn panic_needs_more_than_a_high_threshold_to_be_missed() {
        use Health::{Healthy, Unhealthy};
        // Three of four are 105 % of what is needed.
        assert!(!set(&[Healthy, Healthy, Healthy, Unhealthy], 90).in_panic);
        assert!(set(&[Healthy, Healthy, Unhealthy, Unhealthy], 90).in_panic);
    }
}
