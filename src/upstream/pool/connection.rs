//! The life of one upstream connection: dialling it, and what is counted of it.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use nuncio_config::cluster::Priority;
use nuncio_config::tls::Alpn;
use nuncio_config::transport_socket::TransportSocket;
use nuncio_filter_api::{Io, Passed};
use nuncio_net::{ConnectError, ConnectOptions, Connected, connect, connect_first, connect_internal, connect_udp};
use nuncio_telemetry::{
    Address, ConnectionInfo, FilterState, InternalAddress, Protocol, StreamInfo, Timeline, TlsInfo,
};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

use super::http1::Http1Pool;
use super::metered::Metered;
use super::transport::{self, Beginning, Begun, TransportOptions};
use crate::host::Host;
use crate::limits::Resource;
use crate::worker::ClusterShare;

/// Why there is no connection for a request. Cheap to clone: one failure goes to all who wait for it.
#[derive(Clone, Debug)]
pub(crate) enum PoolFailure {
    /// A circuit breaker is open.
    Overflow,
    /// The connection could not be made, by a fault on this side.
    Local(Arc<str>),
    /// The host refused, or could not be reached.
    Remote(Arc<str>),
    /// The connection took longer than `connect_timeout`.
    Timeout,
}

/// A pool, as its connections see it.
pub(crate) trait OnClose {
    /// One of its connections is closed.
    fn on_close(self: Rc<Self>);
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// No HTTP.
    Bytes,
    Http1,
    Http2,
    /// HTTP of the version that the host chooses by ALPN.
    AsHostChooses,
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClosedBy {
    Us,
    Host,
}

/// What is known and counted of one connection. The counting ends when the last holder lets go of it, which is when
/// the connection is closed and its last stream has ended.
pub(crate) struct ConnectionRecord {
    pub(crate) share: Rc<ClusterShare>,
    pub(crate) host: Arc<Host>,
    on_close: RefCell<Weak<dyn OnClose>>,
    priority: Priority,
    /// Unique in the process.
    pub(crate) id: u64,
    carries: Carries,
    /// `None`: it carries no HTTP, or it is not known yet which.
    protocol: Cell<Option<Protocol>>,
    /// The address that is connected to; before that, the first to be tried.
    remote: RefCell<Address>,
    pub(crate) local: Cell<Option<Address>>,
    tls: Cell<Option<Arc<TlsInfo>>>,
    opened: Instant,
    /// Takes no new requests from then on.
    pub(crate) expires: Option<Instant>,
    /// When it was made.
    connected: Cell<Option<Instant>>,
    /// Requests begun.
    requests: Cell<u64>,
    /// Whether a response has come on it.
    has_answered: Cell<bool>,
    /// How often the host had failed when it was made.
    failures: u32,
    /// Whether it ended under a request.
    broke_off: Cell<bool>,
    /// A CONNECT was sent on it: the host's end is that of its half.
    half_closes: Cell<bool>,
    pub(crate) closed_by: Cell<ClosedBy>,
    /// What its requests mean for its transport socket.
    transport: Option<Rc<TransportOptions>>,
    /// It is a connection; datagrams have none.
    pub(crate) is_counted: bool,
}

// === impl PoolFailure ===

impl PoolFailure {
    /// The words after `reset reason: ` in the body of the reply.
    pub(crate) fn reset_reason(&self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Local(_) => "local connection failure",
            Self::Remote(_) => "remote connection failure",
            Self::Timeout => "connection timeout",
        }
    }

    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`, if there is any.
    pub(crate) fn transport_failure(&self) -> Option<&Arc<str>> {
        match self {
            Self::Local(reason) | Self::Remote(reason) => Some(reason).filter(|reason| !reason.is_empty()),
            Self::Overflow | Self::Timeout => None,
        }
    }
}

impl From<&ConnectError> for PoolFailure {
    fn from(error: &ConnectError) -> Self {
        let reason = match error {
            ConnectError::Tls(error) if error.is_end() => "".into(),
            _ => error.to_string().into(),
        };
        match error {
            ConnectError::Bind { .. } => Self::Local(reason),
            ConnectError::Immediate { .. } | ConnectError::Delayed(_) | ConnectError::Tls(_) => Self::Remote(reason),
        }
    }
}

// === impl Carries ===

impl Carries {
    fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Bytes | Self::AsHostChooses => None,
            Self::Http1 => Some(Protocol::Http11),
            Self::Http2 => Some(Protocol::Http2),
        }
    }
}

fn count_protocol(share: &ClusterShare, protocol: Option<Protocol>) {
    let stats = &share.cluster.stats;
    match protocol {
        Some(Protocol::Http2) => {
            stats.upstream_cx_http2_total().inc();
            share.http2_stats();
        }
        Some(_) => {
            stats.upstream_cx_http1_total().inc();
            share.http1_stats();
        }
        None => {}
    }
}

// === impl ConnectionRecord ===

impl ConnectionRecord {
    /// Counts a connection that is about to be made, for the pool behind `on_close`. `None` where the cluster may have
    /// no more connections; a pool that has none gets one all the same, as in Envoy.
    pub(crate) fn open(
        share: &Rc<ClusterShare>,
        host: &Arc<Host>,
        priority: Priority,
        carries: Carries,
        on_close: Weak<dyn OnClose>,
        pool_has_none: bool,
        options: Option<Rc<TransportOptions>>,
    ) -> Option<Self> {
        let stats = &share.cluster.stats;
        let limits = share.cluster.limits(priority);
        let per_host = share.cluster.config.circuit_breakers.thresholds(priority).max_connections_per_host;
        let is_allowed = host.stats.cx_active.get() < per_host.into();
        if !is_allowed || !limits.try_take(Resource::Connections, stats) {
            stats.upstream_cx_overflow().inc();
            if !pool_has_none {
                return None;
            }
            limits.take(Resource::Connections, stats);
        }
        stats.upstream_cx_total().inc();
        stats.upstream_cx_active().inc();
        let protocol = carries.protocol();
        count_protocol(share, protocol);
        host.stats.cx_total.inc();
        host.stats.cx_active.inc();
        let opened = share.env.clock.now();
        let expires = share.cluster.config.http.common.max_connection_duration.map(|d| opened + d);
        Some(Self {
            remote: RefCell::new(host.address()),
            id: share.env.clusters.next_connection_id(),
            share: share.clone(),
            host: host.clone(),
            on_close: RefCell::new(on_close),
            priority,
            carries,
            protocol: Cell::new(protocol),
            local: Cell::new(None),
            tls: Cell::new(None),
            opened,
            expires,
            connected: Cell::new(None),
            requests: Cell::new(0),
            has_answered: Cell::new(false),
            failures: host.failures(),
            broke_off: Cell::new(false),
            half_closes: Cell::new(false),
            closed_by: Cell::new(ClosedBy::Us),
            transport: options,
            is_counted: true,
        })
    }

    /// The record of datagrams to a host, which are no connection.
    pub(crate) fn uncounted(share: &Rc<ClusterShare>, host: &Arc<Host>, priority: Priority) -> Self {
        Self {
            remote: RefCell::new(host.address()),
            id: share.env.clusters.next_connection_id(),
            share: share.clone(),
            host: host.clone(),
            on_close: RefCell::new(Weak::<Http1Pool>::new()),
            priority,
            carries: Carries::Bytes,
            protocol: Cell::new(None),
            local: Cell::new(None),
            tls: Cell::new(None),
            opened: share.env.clock.now(),
            expires: None,
            connected: Cell::new(None),
            requests: Cell::new(0),
            has_answered: Cell::new(false),
            failures: host.failures(),
            broke_off: Cell::new(false),
            half_closes: Cell::new(false),
            closed_by: Cell::new(ClosedBy::Us),
            transport: None,
            is_counted: false,
        }
    }

    /// Makes a socket for datagrams to the host.
    pub(crate) fn dial_udp(&self) -> Result<UdpSocket, PoolFailure> {
        let options = ConnectOptions { bind: self.share.cluster.config.bind.as_deref(), keepalive: None, source: None };
        connect_udp(&self.host.address(), options).map_err(|error| PoolFailure::Local(error.to_string().into()))
    }

    /// Connects. What went wrong is counted; the caller only passes it on.
    pub(crate) async fn dial(self: &Rc<Self>) -> Result<Io, PoolFailure> {
        let config = &self.share.cluster.config;
        let source = self.transport.as_deref().and_then(|options| options.source);
        let options = ConnectOptions { bind: config.bind.as_deref(), keepalive: config.tcp_keepalive, source };
        let stats = &self.share.cluster.stats;
        let failure = match timeout(config.connect_timeout, self.connect(options)).await {
            Ok(Ok(connected)) => {
                self.connected.set(Some(self.share.env.clock.now()));
                self.local.set(connected.local);
                stats.upstream_cx_connect_ms().record(millis(self.age()));
                return Ok(Metered::wrap(connected.io, self.clone()));
            }
            Ok(Err(error)) => {
                tracing::debug!(cluster = %config.name.name, host = %self.host.address(), %error, "upstream connect failed");
                if matches!(error, ConnectError::Bind { .. }) {
                    stats.bind_errors().inc();
                } else {
                    self.closed_by.set(ClosedBy::Host);
                }
                PoolFailure::from(&error)
            }
            Err(_) => {
                stats.upstream_cx_connect_timeout().inc();
                PoolFailure::Timeout
            }
        };
        stats.upstream_cx_connect_fail().inc();
        self.host.stats.cx_connect_fail.inc();
        Err(failure)
    }

    /// Connects to the host, and has its transport socket carry the bytes.
    async fn connect(&self, options: ConnectOptions<'_>) -> Result<Connected, ConnectError> {
        let connected = self.connect_raw(options).await?;
        let Some(socket) = self.host.transport() else { return Ok(connected) };
        // Boxed: connections that are raw do not carry its future about.
        let Begun { connected, sent, tls } = Box::pin(self.begin_transport(socket, connected)).await?;
        self.share.cluster.stats.upstream_cx_tx_bytes_total().add(sent);
        self.tls.set(tls);
        Ok(connected)
    }

    async fn begin_transport(&self, socket: &TransportSocket, connected: Connected) -> Result<Begun, ConnectError> {
        let host = self.host.address();
        let tlvs = self.host.description().tlvs.clone();
        let beginning = Beginning {
            remote: &self.remote(),
            proxied: self.host.proxy().map(|_| &host),
            has_own_proxy: self.host.proxy.is_some(),
            host_name: &self.host.hostname,
            tlvs: &tlvs,
            options: self.transport.as_deref(),
            record: Some((self, self.share.env.rng.u64())),
            alpn: Alpn::Default(match self.carries {
                Carries::Bytes => &[],
                Carries::Http1 => &[b"http/1.1"],
                Carries::Http2 => &[b"h2"],
                Carries::AsHostChooses => &[b"h2", b"http/1.1"],
            }),
            stats: &|| self.share.tls_stats().clone(),
        };
        transport::begin(socket, connected, beginning).await
    }

    /// Connects to the host, at whichever of its addresses answers.
    async fn connect_raw(&self, options: ConnectOptions<'_>) -> Result<Connected, ConnectError> {
        if let Some(proxy) = self.host.proxy() {
            let connected = connect(proxy, options).await?;
            self.remote.replace(proxy.clone());
            return Ok(connected);
        }
        let addresses = self.host.description().addresses.clone();
        let Some(addresses) = addresses.as_deref() else {
            return match self.host.address() {
                Address::Internal(listener) => self.connect_internal(&listener).await,
                address => connect(&address, options).await,
            };
        };
        let again = || {
            // Envoy counts the attempts after the first as they begin, and nothing of how they end.
            self.share.cluster.stats.upstream_cx_total().inc();
            self.host.stats.cx_total.inc();
        };
        let (to, connected) = connect_first(addresses, options, again).await?;
        self.remote.replace(to.into());
        Ok(connected)
    }

    /// Connects to a listener of this process.
    async fn connect_internal(&self, listener: &Arc<InternalAddress>) -> Result<Connected, ConnectError> {
        let passed = self.host.transport().and_then(|socket| socket.internal()).map(|socket| Passed {
            metadata: socket.passed(self.host.metadata().as_deref(), self.share.cluster.config.metadata.as_deref()),
            filter_state: self.shared(),
        });
        let passed = passed.unwrap_or_default();
        match self.share.env.worker() {
            Some(worker) => connect_internal(&worker.internal, listener, passed).await,
            None => connect(&Address::Internal(listener.clone()), ConnectOptions::default()).await,
        }
    }

    /// What it speaks, once that is known; `None` where that is no HTTP.
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        self.protocol.get()
    }

    /// Takes the protocol that the host has chosen in the handshake. Envoy: without a choice it is HTTP/1.
    pub(super) fn settle(&self) -> Protocol {
        let is_http2 = self.tls().is_some_and(|tls| tls.alpn.as_deref() == Some("h2"));
        let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http11 };
        self.protocol.set(Some(protocol));
        // Envoy makes two of it: the one whose handshake tells, and the one that speaks.
        self.share.cluster.stats.upstream_cx_total().inc();
        self.host.stats.cx_total.inc();
        count_protocol(&self.share, Some(protocol));
        protocol
    }

    /// It is another pool's from now on.
    pub(super) fn belong_to(&self, pool: Weak<dyn OnClose>) {
        self.on_close.replace(pool);
    }

    /// The address that it is connected to; before that, the host's first.
    pub(crate) fn remote(&self) -> Address {
        self.remote.borrow().clone()
    }

    /// What its handshake told, if it made one.
    pub(crate) fn tls(&self) -> Option<Arc<TlsInfo>> {
        let tls = self.tls.take();
        self.tls.set(tls.clone());
        tls
    }

    /// Filter state that goes with it.
    pub(crate) fn shared(&self) -> FilterState {
        self.transport.as_deref().map(|options| options.shared.0.clone()).unwrap_or_default()
    }

    /// What formats see that speak of the connection itself. Envoy: its host is its peer, as a client is elsewhere.
    pub(super) fn as_stream(&self, local: Option<&Address>) -> StreamInfo {
        // There is none where the kernel does not tell.
        let none = || Address::Pipe("".into());
        let local = local.cloned().unwrap_or_else(none);
        let clock = &self.share.env.clock;
        // Envoy: a connection that was not accepted has no end of its own to be accepted on.
        let connection =
            ConnectionInfo { direct_local: none(), ..ConnectionInfo::new(self.id, self.remote(), local, self.opened) };
        let info = StreamInfo::of_connection(connection.into(), clock.wall(self.opened));
        *info.filter_state.borrow_mut() = self.shared();
        self.host.note_in(&mut info.upstream.borrow_mut());
        info
    }

    /// Its own address, once connected.
    pub(crate) fn local(&self) -> Option<Address> {
        let local = self.local.take();
        self.local.set(local.clone());
        local
    }

    /// Notes in `times` when it was made.
    pub(crate) fn note_times(&self, times: &Timeline) {
        times.upstream_connect_start.set(Some(self.opened));
        times.upstream_connect_end.set(self.connected.get());
    }

    /// A request begins on it.
    pub(crate) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// It ends while a request is on it.
    pub(crate) fn break_off(&self) {
        self.broke_off.set(true);
    }

    /// The bytes of a tunnel follow. Envoy: then it is closed from here, even by an end that the host begins with.
    pub(crate) fn half_close(&self) {
        self.half_closes.set(true);
    }

    /// The host has sent its last.
    pub(super) fn host_ends(&self) {
        if !self.half_closes.get() {
            self.closed_by.set(ClosedBy::Host);
        }
    }

    /// Whether it may carry another request; counts the reason if not.
    pub(crate) fn is_reusable(&self, now: Instant) -> bool {
        let stats = &self.share.cluster.stats;
        let max_requests = self.share.cluster.config.http.common.max_requests_per_connection;
        if max_requests.is_some_and(|max| self.requests.get() >= max) {
            stats.upstream_cx_max_requests().inc();
            return false;
        }
        if self.expires.is_some_and(|at| now >= at) {
            stats.upstream_cx_max_duration_reached().inc();
            return false;
        }
        !self.is_given_up()
    }

    /// Whether the host has failed since it was made.
    pub(crate) fn is_given_up(&self) -> bool {
        self.failures != self.host.failures()
    }

    /// It is idle, and the host has closed it or sent what nobody asked for: it can only be dropped.
    pub(crate) fn spoilt_while_idle(&self) {
        if self.closed_by.get() == ClosedBy::Us {
            self.share.cluster.stats.upstream_cx_protocol_error().inc();
        }
    }

    /// A response begins on it.
    pub(crate) fn answer(&self) {
        self.has_answered.set(true);
    }

    /// Whether a response has come on it.
    pub(crate) fn has_answered(&self) -> bool {
        self.has_answered.get()
    }

    fn age(&self) -> Duration {
        self.share.env.clock.now().saturating_duration_since(self.opened)
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        if !self.is_counted {
            return;
        }
        let stats = &self.share.cluster.stats;
        stats.upstream_cx_active().dec();
        stats.upstream_cx_destroy().inc();
        match self.closed_by.get() {
            ClosedBy::Us => stats.upstream_cx_destroy_local().inc(),
            ClosedBy::Host => stats.upstream_cx_destroy_remote().inc(),
        }
        if self.broke_off.get() {
            stats.upstream_cx_destroy_with_active_rq().inc();
            match self.closed_by.get() {
                ClosedBy::Us => stats.upstream_cx_destroy_local_with_active_rq().inc(),
                ClosedBy::Host => stats.upstream_cx_destroy_remote_with_active_rq().inc(),
            }
        }
        stats.upstream_cx_length_ms().record(millis(self.age()));
        if self.connected.get().is_some() {
            stats.upstream_rq_per_cx().record(self.requests.get());
        }
        self.host.stats.cx_active.dec();
        self.share.cluster.limits(self.priority).give_back(Resource::Connections, stats);
        let pool = self.on_close.borrow().upgrade();
        if let Some(pool) = pool {
            pool.on_close();
        }
    }
}

/// Whole milliseconds, for histograms.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
