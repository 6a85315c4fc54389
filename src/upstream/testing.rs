//! What the tests of this crate share: clusters made without protobuf, and a DNS server.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nuncio_config::cluster::{
    AssignmentPolicy, Checker, CircuitBreakers, ClusterConfig, CommonLb, Discovery, DnsConfig, DnsFamily,
    DnsResolverConfig, Endpoint, EndpointAddress, HappyEyeballs, Health, HealthCheck, HealthCheckLog, Intervals,
    LbPolicy, LoadAware, Locality, LocalityLb, Payloads, Priority, TcpHealthCheck, Tracking, UpstreamHttp,
    UpstreamPool,
};
use nuncio_filter_api::{ClusterNames, Rng, RuntimeKey};
use nuncio_telemetry::Address;
use nuncio_telemetry::stats::Store;
use nuncio_telemetry::stats::catalogue::ClusterStats;
use tokio::net::UdpSocket;

use crate::Clusters;
use crate::lb::PickContext;
use crate::pool::http1::Http1Pool;
use crate::worker::{WorkerClusters, WorkerHost};

pub(crate) fn endpoint(address: EndpointAddress) -> Endpoint {
    Endpoint {
        address,
        hostname: "".into(),
        weight: 1,
        health: Health::Healthy,
        locality: None,
        priority: 0,
        metadata: None,
        tlvs: Arc::default(),
        locality_metadata: None,
        check: None,
        addresses: None,
        proxy: None,
        observability_name: None,
    }
}

pub(crate) fn fixed(address: SocketAddr) -> Endpoint {
    endpoint(EndpointAddress::Fixed(Address::from(address)))
}

pub(crate) fn named(name: &str, port: u16) -> Endpoint {
    endpoint(EndpointAddress::Named { name: name.into(), port })
}

pub(crate) fn cluster_config(name: &str, endpoints: Vec<Endpoint>) -> ClusterConfig {
    ClusterConfig {
        tracking: Tracking::default(),
        name: ClusterNames::default().intern(name),
        observable_name: name.into(),
        discovery: Discovery::Static,
        endpoints: endpoints.into(),
        assignment: AssignmentPolicy::default(),
        lb: LbPolicy::RoundRobin,
        locality_lb: LocalityLb::default(),
        subset: None,
        slow_start: None,
        override_host: None,
        is_made_for_host: false,
        is_own: false,
        client_weights: None,
        load_metrics: None,
        common_lb: CommonLb::default(),
        circuit_breakers: CircuitBreakers::default(),
        health_check: None,
        further_checks: Box::default(),
        outlier: None,
        ignore_health_on_host_removal: false,
        http: Arc::<UpstreamHttp>::default(),
        connect_timeout: Duration::from_secs(5),
        buffer_limit: 1 << 20,
        waits_for: Box::default(),
        bind: None,
        tcp_keepalive: None,
        happy_eyeballs: HappyEyeballs::default(),
        wait_for_warm: true,
        metadata: None,
        connections: 0,
        pooling: None,
        transport: None,
        upstream_pool: UpstreamPool::default(),
        close_connections_on_host_health_failure: false,
    }
}

/// A check of the connection alone, with short times.
pub(crate) fn tcp_check() -> Arc<HealthCheck> {
    let (seconds, none) = (Duration::from_secs, Duration::ZERO);
    Arc::new(HealthCheck {
        name: "".into(),
        checker: Checker::Tcp(TcpHealthCheck {
            send: bytes::Bytes::new(),
            proxy_header: None,
            receive: Payloads::default(),
        }),
        timeout: seconds(1),
        intervals: Intervals {
            healthy: seconds(1),
            unhealthy: seconds(2),
            unhealthy_edge: seconds(3),
            healthy_edge: seconds(4),
            no_traffic: seconds(5),
            no_traffic_healthy: seconds(6),
            initial_jitter: none,
            jitter: none,
            jitter_percent: 0,
            least: RuntimeKey::NONE,
            most: RuntimeKey::NONE,
        },
        unhealthy_threshold: 2,
        healthy_threshold: 2,
        reuse_connection: true,
        alpn: Box::default(),
        transport_criteria: None,
        log: HealthCheckLog::default(),
    })
}

/// One worker with one cluster, `c`.
pub(crate) struct OneCluster {
    pub(crate) clusters: Arc<Clusters>,
    pub(crate) worker: WorkerClusters,
}

impl OneCluster {
    pub(crate) fn new(config: ClusterConfig) -> Self {
        let clusters = Clusters::new(&Store::new(), None);
        clusters.update([config]);
        let worker = WorkerClusters::new(clusters.clone(), Rng::seeded(1));
        Self { clusters, worker }
    }

    pub(crate) fn stats(&self) -> ClusterStats {
        self.clusters.snapshot().get(0).unwrap().stats.clone()
    }

    pub(crate) fn host(&self) -> Rc<WorkerHost> {
        self.worker.get(0).unwrap().pick(&PickContext::default()).unwrap()
    }

    /// The HTTP/1 pool of the host that is picked.
    pub(crate) fn http1(&self) -> Rc<Http1Pool> {
        let cluster = self.worker.get(0).unwrap();
        let host = cluster.pick(&PickContext::default()).unwrap();
        host.pools.http1(&cluster.shared, &host.host, Priority::Default, None).unwrap()
    }
}

/// Runs `test` as one worker runs its tasks.
pub(crate) fn on_worker<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

/// Lets other tasks run until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What a name server says of a name.
#[derive(Clone, Debug)]
pub(crate) enum Zone {
    Addresses(Vec<IpAddr>),
    NoSuchName,
    ServerFailure,
}

/// A name server on loopback that answers from a table, which tests change.
#[derive(Clone, Default)]
pub(crate) struct NameServer(Arc<Mutex<HashMap<String, Zone>>>);

impl NameServer {
    pub(crate) fn set(&self, name: &str, zone: Zone) {
        self.0.lock().unwrap().insert(name.to_owned(), zone);
    }

    /// Starts to answer; gives the settings of a cluster that asks it.
    pub(crate) async fn start(&self, family: DnsFamily) -> DnsConfig {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = DnsResolverConfig {
            servers: vec![socket.local_addr().unwrap()],
            no_search: true,
            tries: 1,
            ..DnsResolverConfig::default()
        };
        let zones = self.clone();
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut query).await {
                let _ = socket.send_to(&zones.answer(&query[..len]), from).await;
            }
        });
        let refresh = Duration::from_millis(10);
        DnsConfig {
            refresh,
            jitter: Duration::ZERO,
            respect_ttl: false,
            min_refresh: Duration::ZERO,
            failure: None,
            family,
            resolver: Some(Arc::new(resolver)),
        }
    }

    fn answer(&self, query: &[u8]) -> Vec<u8> {
        let mut at = 12;
        let mut labels = Vec::new();
        while query[at] != 0 {
            let end = at + 1 + usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
            at = end;
        }
        let question = &query[12..at + 5];
        let wants_v6 = query[at + 2] == 28;
        let zone = self.0.lock().unwrap().get(&labels.join(".")).cloned().unwrap_or(Zone::NoSuchName);
        let (code, addresses) = match zone {
            Zone::Addresses(addresses) => (0, addresses),
            Zone::NoSuchName => (3, Vec::new()),
            Zone::ServerFailure => (2, Vec::new()),
        };
        let records: Vec<Vec<u8>> = addresses.iter().filter(|a| a.is_ipv6() == wants_v6).map(record).collect();
        let mut answer = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
        answer.extend_from_slice(question);
        answer.extend(records.concat());
        answer
    }
}

fn record(address: &IpAddr) -> Vec<u8> {
    let (kind, data) = match address {
        IpAddr::V4(a) => (1, a.octets().to_vec()),
        IpAddr::V6(a) => (28, a.octets().to_vec()),
    };
    // A pointer to the question's name, type, class IN, 60 seconds to live, length.
    let mut record = vec![0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8];
    record.extend(data);
    record
}

/// Localities are chosen by what their hosts report, at once and without a bias to the `local` one.
pub(crate) fn load_aware(local: Option<Locality>) -> LocalityLb {
    LocalityLb::LoadAware(Box::new(LoadAware {
        local,
        update_period: Duration::from_secs(1),
        metrics: Box::default(),
        variance_threshold: 0.1,
        blend: 1.0,
        probe_fraction: 0.0,
        expiration: Some(Duration::from_secs(10)),
        own_reports: None,
    }))
}
