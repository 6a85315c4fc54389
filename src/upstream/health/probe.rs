use std::sync::Arc;

use nuncio_config::cluster::{Checker, HealthCheck};
use nuncio_config::tls::Alpn;
use nuncio_config::transport_socket::TransportSocket;
use nuncio_filter_api::{ByteStr, Io};
use nuncio_net::{ConnectError, ConnectOptions, Connected, TlsStats, connect};
use nuncio_telemetry::Address;

use super::grpc::GrpcProbe;
use super::http::HttpProbe;
use super::redis::RedisProbe;
use super::state::{CheckResult, Failure, FailureKind};
use super::tcp::TcpProbe;
use super::thrift::ThriftProbe;
use super::watch::HealthCheckStats;
use crate::cluster::Cluster;
use crate::host::Host;
use crate::pool::transport::{self, Beginning};

/// Asks one host whether it is well, again and again.
pub(super) struct Probe {
    target: Target,
    kind: Kind,
}

enum Kind {
    Http(HttpProbe),
    Tcp(TcpProbe),
    Grpc(GrpcProbe),
    Redis(RedisProbe),
    Thrift(ThriftProbe),
}

/// Who is asked.
pub(super) struct Target {
    pub(super) cluster: Arc<Cluster>,
    pub(super) config: Arc<HealthCheck>,
    pub(super) host: Arc<Host>,
}

/// The failure to get an answer.
pub(super) const NO_ANSWER: CheckResult =
    CheckResult::Failed(Failure { kind: FailureKind::Network, retriable: true, status: 0 });

// === impl Probe ===

impl Probe {
    pub(super) fn new(target: Target) -> Self {
        let kind = match &target.config.checker {
            Checker::Http(_) => Kind::Http(HttpProbe::default()),
            Checker::Tcp(_) => Kind::Tcp(TcpProbe::default()),
            Checker::Grpc(_) => Kind::Grpc(GrpcProbe::default()),
            Checker::Redis(_) => Kind::Redis(RedisProbe::default()),
            Checker::Thrift(_) => Kind::Thrift(ThriftProbe::default()),
        };
        Self { target, kind }
    }

    /// Asks once. The caller limits the time.
    pub(super) async fn run(&mut self, stats: &HealthCheckStats) -> CheckResult {
        let target = &self.target;
        match (&mut self.kind, &target.config.checker) {
            (Kind::Http(probe), Checker::Http(config)) => probe.run(target, config, stats).await,
            (Kind::Tcp(probe), Checker::Tcp(config)) => probe.run(target, config).await,
            (Kind::Grpc(probe), Checker::Grpc(config)) => probe.run(target, config).await,
            (Kind::Redis(probe), Checker::Redis(config)) => probe.run(target, config).await,
            (Kind::Thrift(probe), Checker::Thrift(config)) => probe.run(target, config).await,
            _ => unreachable!("the probe is of the checker's kind"),
        }
    }

    /// Lets go of the connection of a check that was given up.
    pub(super) fn give_up(&mut self) {
        match &mut self.kind {
            Kind::Http(probe) => probe.close(),
            Kind::Tcp(probe) => probe.close(),
            // Envoy: its stream is reset, and the connection kept.
            Kind::Grpc(_) if self.target.config.reuse_connection => {}
            Kind::Grpc(probe) => probe.close(),
            Kind::Redis(probe) => probe.close(),
            Kind::Thrift(probe) => probe.close(),
        }
    }
}

// === impl Target ===

impl Target {
    /// Where the host is checked.
    pub(super) fn address(&self) -> Address {
        let serving = self.host.address();
        self.host.check().map_or(serving.clone(), |check| check.address_of(&serving))
    }

    /// Connects, as a pool of the cluster would. `None` if that fails.
    pub(super) async fn connect(&self) -> Option<Io> {
        self.dial().await.map(|connected| connected.io)
    }

    /// The same, with its own end.
    pub(super) async fn dial(&self) -> Option<Connected> {
        let config = &self.cluster.config;
        let options = ConnectOptions { bind: config.bind.as_deref(), keepalive: config.tcp_keepalive, source: None };
        let address = self.host.proxy().cloned().unwrap_or_else(|| self.address());
        // Envoy: a listener of a worker is nobody's else, and so cannot be checked.
        let connected = match connect(&address, options).await {
            Ok(connected) => self.begin_transport(&address, connected).await,
            Err(error) => Err(error),
        };
        let log = |error: &_| {
            tracing::debug!(cluster = %config.name.name, host = %address, %error, "health check cannot connect");
        };
        connected.inspect_err(log).ok()
    }

    /// Has the transport socket carry the bytes that is the host's, or the one that the checks of the cluster ask for.
    async fn begin_transport(&self, address: &Address, connected: Connected) -> Result<Connected, ConnectError> {
        let Some(socket) = self.transport() else { return Ok(connected) };
        let host = self.address();
        let tlvs = self.host.description().tlvs.clone();
        let beginning = Beginning {
            remote: address,
            proxied: self.host.proxy().map(|_| &host),
            has_own_proxy: self.host.proxy.is_some(),
            host_name: &self.host.hostname,
            tlvs: &tlvs,
            options: None,
            record: None,
            alpn: if self.config.alpn.is_empty() { Alpn::AsConfigured } else { Alpn::Only(&self.config.alpn) },
            stats: &|| TlsStats::new(&self.cluster.scope()),
        };
        Ok(transport::begin(&socket, connected, beginning).await?.connected)
    }

    fn transport(&self) -> Option<Arc<TransportSocket>> {
        match &self.config.transport_criteria {
            None => self.host.transport().cloned(),
            Some(criteria) => self.cluster.choose_transport(&self.host, criteria),
        }
    }

    /// The host that a request names: that of the endpoint, or else of the check, or else the cluster's name.
    pub(super) fn authority(&self, of_check: &str) -> ByteStr {
        let of_endpoint = self.host.check().map_or("", |check| &check.hostname);
        [of_endpoint, of_check]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or(&self.cluster.config.name.name)
            .into()
    }
}
