//! The record of one stream, filled by whoever handles it and read by access logs, headers and filters.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use tokio::time::Instant;

use crate::access_log::ConnectionLog;
use crate::stats::catalogue::{ClusterStats, HttpStats};
use crate::{Address, FilterState, ResponseFlag, ResponseFlags, Timeline, TlsInfo};

/// The HTTP version spoken on one side of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
    /// HTTP/3
    Http3,
}

impl Protocol {
    /// The form of `%PROTOCOL%`, such as `HTTP/1.1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Http3 => "HTTP/3",
        }
    }
}

/// How the end of a connection was seen (`%DOWNSTREAM_DETECTED_CLOSE_TYPE%`, `%UPSTREAM_DETECTED_CLOSE_TYPE%`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CloseType {
    /// An orderly end, or none yet.
    #[default]
    Normal,
    /// nuncio reset the connection.
    LocalReset,
    /// The peer reset the connection.
    RemoteReset,
}

impl CloseType {
    /// The form in which the operators print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::LocalReset => "LocalReset",
            Self::RemoteReset => "RemoteReset",
        }
    }
}

/// What is known of one downstream connection; shared by its streams. Made by [`ConnectionInfo::new`].
#[derive(Debug)]
pub struct ConnectionInfo {
    /// `%CONNECTION_ID%`, unique in the process.
    pub id: u64,
    /// The peer of the socket, or of the PROXY header where a listener filter restored it.
    pub remote: Address,
    /// The socket's peer itself (`%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%`).
    pub direct_remote: Address,
    /// The address the peer connected to, restored where a listener filter did so.
    pub local: Address,
    /// Whether one did.
    pub is_local_restored: bool,
    /// The socket's own address (`%DOWNSTREAM_DIRECT_LOCAL_ADDRESS%`).
    pub direct_local: Address,
    /// SNI, once a TLS inspector or handshake has seen it.
    pub server_name: RefCell<Option<Arc<str>>>,
    /// The handshake of the connection, where it has one and it has ended.
    pub tls: RefCell<Option<Arc<TlsInfo>>>,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Name of the filter chain; empty if it has none.
    pub filter_chain: Arc<str>,
    /// When it was accepted.
    pub start: Instant,
    /// `%DOWNSTREAM_CX_RTT%`: the round trip that the kernel had measured when it was accepted; `None` where it is not
    /// over TCP. Envoy never asks again.
    pub round_trip: Option<Duration>,
    /// `%RESPONSE_CODE_DETAILS%` of the connection itself.
    pub details: Cell<Option<&'static str>>,
    /// `%CONNECTION_TERMINATION_DETAILS%`.
    pub termination_details: RefCell<Option<Cow<'static, str>>>,
    /// `%DOWNSTREAM_LOCAL_CLOSE_REASON%`.
    pub local_close_reason: Cell<Option<&'static str>>,
    /// Flags of the connection itself; a stream of HTTP has its own.
    pub flags: Cell<ResponseFlags>,
    /// `%DOWNSTREAM_DETECTED_CLOSE_TYPE%`.
    pub close_type: Cell<CloseType>,
    /// `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure: RefCell<Option<Arc<str>>>,
    /// Where it came in; `None` where it was not accepted by a listener.
    pub origin: Option<Arc<Origin>>,
    /// Metadata of the listener (`%METADATA(LISTENER:...)%`).
    pub listener_metadata: Option<Arc<Metadata>>,
    /// Metadata of the filter chain (`%METADATA(LISTENER_FILTER_CHAIN:...)%`).
    pub filter_chain_metadata: Option<Arc<Metadata>>,
    /// Dynamic metadata that listener and network filters set; boxed because most connections have none.
    pub metadata: RefCell<Option<Box<Metadata>>>,
    /// What listener and network filters leave: each of its streams begins with it.
    pub filter_state: RefCell<FilterState>,
    /// What listener filters found out, where there are some that found anything.
    pub inspected: Option<Box<Inspected>>,
    /// What its connection manager counts, where it has one.
    pub http: OnceCell<HttpStats>,
    /// `%PROTOCOL%` of the connection itself.
    pub protocol: Cell<Option<Protocol>>,
    /// What its listener logs of it, where that has access logs.
    pub log: Option<Box<ConnectionLog>>,
    /// Bytes that a network filter has taken from the client and given to nobody.
    pub withheld: Cell<u64>,
}

/// What is the same for all connections of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The number of its `traffic_direction`.
    pub direction: i64,
    /// This proxy.
    pub node: Arc<NodeInfo>,
}

/// What this proxy calls itself (`envoy.config.core.v3.Node`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the message")]
pub struct NodeInfo {
    pub id: Box<str>,
    pub cluster: Box<str>,
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// Region, zone and sub-zone.
    pub locality: Option<[Box<str>; 3]>,
    pub user_agent: &'static str,
    pub client_features: Box<[Box<str>]>,
}

/// What a host is asked when an expression wants to know.
pub trait HostFacts {
    /// Region, zone and sub-zone.
    fn locality(&self) -> [&str; 3];
    /// Metadata of its locality.
    fn locality_metadata(&self) -> Option<&Metadata>;
    /// How many hosts its cluster has.
    fn endpoints(&self) -> u64;
    /// What its cluster counts.
    fn cluster_stats(&self) -> &ClusterStats;
}

/// A host that was chosen, shared by the streams of a worker.
#[derive(Clone)]
pub struct ChosenHost(Rc<dyn HostFacts>);

impl ChosenHost {
    /// This one.
    pub fn new(host: Rc<dyn HostFacts>) -> Self {
        Self(host)
    }

    /// What is to be known of it.
    pub fn facts(&self) -> &dyn HostFacts {
        &*self.0
    }
}

impl fmt::Debug for ChosenHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a chosen host")
    }
}

/// The names in a table of routes.
pub trait RouteNames {
    /// The virtual host of the route numbered so.
    fn virtual_host(&self, route: usize) -> &str;
}

/// The route of a stream, as far as it is known here.
#[derive(Clone)]
pub struct RoutePlace {
    table: Rc<dyn RouteNames>,
    number: usize,
}

impl RoutePlace {
    /// The route numbered so.
    pub fn new(table: Rc<dyn RouteNames>, number: usize) -> Self {
        Self { table, number }
    }

    /// The name of its virtual host.
    pub fn virtual_host(&self) -> &str {
        self.table.virtual_host(self.number)
    }
}

impl fmt::Debug for RoutePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} of {:?}", self.number, self.virtual_host())
    }
}

/// What listener filters found out of a connection, beside its addresses and its server name.
#[derive(Clone, Debug, Default)]
pub struct Inspected {
    /// `tls` or `raw_buffer`; empty where no filter looked.
    pub transport_protocol: &'static str,
    /// The protocols that the client offers (ALPN), or the version of HTTP that it speaks.
    pub application_protocols: Vec<Box<str>>,
    /// `%TLS_JA3_FINGERPRINT%`.
    pub ja3: Option<Box<str>>,
    /// `%TLS_JA4_FINGERPRINT%`.
    pub ja4: Option<Box<str>>,
    /// Why it does not begin with TLS, where it might: `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%` of the connection.
    pub transport_failure: Option<Arc<str>>,
    /// What goes to the dynamic metadata of the connection, once there is one.
    pub metadata: Metadata,
    /// Messages among that metadata, per namespace.
    pub typed_metadata: BTreeMap<Arc<str>, TypedMessage>,
    /// What goes to its filter state.
    pub filter_state: FilterState,
    /// From where hosts are connected to for it, where a filter asks for that.
    pub source: Option<OriginalSource>,
}

/// A message among metadata, for who knows it by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedMessage {
    /// Its full name.
    pub name: &'static str,
    /// It, encoded.
    pub bytes: Box<[u8]>,
}

/// The address of a client, in whose name hosts are connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalSource {
    /// The address.
    pub ip: IpAddr,
    /// `SO_MARK` of the sockets; 0 is none.
    pub mark: u32,
}

impl ConnectionInfo {
    /// A record for a connection accepted at `start` on a socket with these two ends; the other fields are unset.
    pub fn new(id: u64, remote: Address, local: Address, start: Instant) -> Self {
        Self {
            id,
            direct_remote: remote.clone(),
            remote,
            direct_local: local.clone(),
            local,
            is_local_restored: false,
            server_name: RefCell::new(None),
            tls: RefCell::new(None),
            listener: Arc::from(""),
            filter_chain: Arc::from(""),
            start,
            round_trip: None,
            details: Cell::new(None),
            termination_details: RefCell::new(None),
            local_close_reason: Cell::new(None),
            flags: Cell::new(ResponseFlags::NONE),
            close_type: Cell::new(CloseType::Normal),
            transport_failure: RefCell::new(None),
            origin: None,
            listener_metadata: None,
            filter_chain_metadata: None,
            metadata: RefCell::new(None),
            filter_state: RefCell::default(),
            inspected: None,
            http: OnceCell::new(),
            protocol: Cell::new(None),
            log: None,
            withheld: Cell::new(0),
        }
    }

    /// `tls` or `raw_buffer`, which stands for whatever no listener filter looked at.
    pub fn transport_protocol(&self) -> &'static str {
        let found = self.inspected.as_ref().map_or("", |inspected| inspected.transport_protocol);
        if found.is_empty() { "raw_buffer" } else { found }
    }
}

/// Per namespace a JSON object, as in `envoy.config.core.v3.Metadata`.
pub type Metadata = BTreeMap<Arc<str>, serde_json::Map<String, serde_json::Value>>;

/// What is known of the upstream side of a stream; of the last attempt where there were several.
#[derive(Clone, Debug, Default)]
pub struct UpstreamInfo {
    /// `%UPSTREAM_CLUSTER%` (observable name) of the cluster chosen.
    pub cluster: Option<Arc<str>>,
    /// `%UPSTREAM_CLUSTER_RAW%`.
    pub cluster_raw: Option<Arc<str>>,
    /// `%UPSTREAM_HOST%`: address of the host chosen, even if it could not be connected to.
    pub host: Option<Address>,
    /// `%UPSTREAM_HOST_NAME%`; where it is `None`, the address stands for it.
    pub host_name: Option<Arc<str>>,
    /// `%UPSTREAM_LOCAL_ADDRESS%`.
    pub local: Option<Address>,
    /// `%UPSTREAM_REMOTE_ADDRESS%`: the address connected to, one of the host's.
    pub remote: Option<Address>,
    /// The handshake of the upstream connection, where it has one.
    pub tls: Option<Arc<TlsInfo>>,
    /// `%UPSTREAM_FILTER_STATE%`: what filters share with the upstream connection.
    pub filter_state: FilterState,
    /// `%UPSTREAM_CONNECTION_ID%`.
    pub connection_id: Option<u64>,
    /// Hosts that were tried before and could not be connected to. Envoy: a request is told of the last one alone.
    pub failed: Vec<FailedHost>,
    /// What is connected to is told of before it is, as where bytes are no HTTP.
    pub is_of_bytes: bool,
    /// `%UPSTREAM_PROTOCOL%`.
    pub protocol: Option<Protocol>,
    /// Statuses of the interim responses that are not counted yet, the first few of them.
    pub interim: Vec<u16>,
    /// `%UPSTREAM_REQUEST_ATTEMPT_COUNT%`; 0 if none was made.
    pub attempts: u32,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure: Option<Arc<str>>,
    /// `%UPSTREAM_LOCAL_CLOSE_REASON%`.
    pub local_close_reason: Option<&'static str>,
    /// `%UPSTREAM_DETECTED_CLOSE_TYPE%`.
    pub close_type: CloseType,
    /// `%UPSTREAM_CONNECTION_POOL_READY_DURATION%`: from the attempt's start until it had a connection.
    pub pool_ready: Option<Duration>,
    /// Metadata of the cluster.
    pub cluster_metadata: Option<Arc<Metadata>>,
    /// Metadata of the host.
    pub host_metadata: Option<Arc<Metadata>>,
    /// The host chosen, for what is asked of it rarely.
    pub chosen: Option<ChosenHost>,
    /// Bytes of body and framing on the upstream connection, sent and received.
    pub wire_bytes_sent: u64,
    /// See `wire_bytes_sent`.
    pub wire_bytes_received: u64,
    /// Header bytes as encoded on the upstream connection.
    pub header_bytes_sent: u64,
    /// See `header_bytes_sent`.
    pub header_bytes_received: u64,
    /// The same before compression (HPACK); equal to `header_bytes_sent` on HTTP/1.
    pub decompressed_header_bytes_sent: u64,
    /// See `decompressed_header_bytes_sent`.
    pub decompressed_header_bytes_received: u64,
}

/// A host that could not be connected to.
#[derive(Clone, Debug)]
pub struct FailedHost {
    /// Its address.
    pub host: Address,
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
}

/// Interim responses that are counted of one response: a host may send any number of them.
const MAX_INTERIM: usize = 16;

impl UpstreamInfo {
    /// An interim response has come.
    pub fn note_interim(&mut self, status: u16) {
        if self.interim.len() < MAX_INTERIM {
            self.interim.push(status);
        }
    }
}

/// The record of one stream. Cells, because body wrappers and the connection manager write it while filters hold it;
/// all of them live on one worker.
#[derive(Debug)]
pub struct StreamInfo {
    /// The connection the stream came on.
    pub connection: Rc<ConnectionInfo>,
    /// First byte of the request received, by the wall clock (`%START_TIME%`).
    pub start_wall: SystemTime,
    /// The same by the monotonic clock.
    pub start: Instant,
    /// Later points in time.
    pub times: Timeline,
    /// Downstream protocol.
    pub protocol: Cell<Option<Protocol>>,
    /// The client's address, after `use_remote_address` and X-Forwarded-For were applied.
    pub remote: RefCell<Address>,
    /// Status sent downstream; 0 before there is one.
    pub response_code: Cell<u16>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: RefCell<Option<Cow<'static, str>>>,
    /// `%RESPONSE_FLAGS%`.
    pub flags: Cell<ResponseFlags>,
    /// Request body bytes received.
    pub bytes_received: Cell<u64>,
    /// Response body bytes sent.
    pub bytes_sent: Cell<u64>,
    /// Request header bytes as received on the wire.
    pub header_bytes_received: Cell<u64>,
    /// Response header bytes as sent on the wire.
    pub header_bytes_sent: Cell<u64>,
    /// Request header bytes after decompression (HPACK); equal to `header_bytes_received` on HTTP/1.
    pub decompressed_header_bytes_received: Cell<u64>,
    /// Response header bytes before compression.
    pub decompressed_header_bytes_sent: Cell<u64>,
    /// All bytes of the stream received on the wire.
    pub wire_bytes_received: Cell<u64>,
    /// All bytes of the stream sent on the wire.
    pub wire_bytes_sent: Cell<u64>,
    /// `%ROUTE_NAME%`.
    pub route_name: RefCell<Option<Arc<str>>>,
    /// The route.
    pub route: RefCell<Option<RoutePlace>>,
    /// `%VIRTUAL_CLUSTER_NAME%`.
    pub virtual_cluster: RefCell<Option<Arc<str>>>,
    /// The upstream side.
    pub upstream: RefCell<UpstreamInfo>,
    /// `%STREAM_ID%`/x-request-id of the stream.
    pub request_id: RefCell<Option<Arc<str>>>,
    /// Metadata of the route (`%METADATA(ROUTE:...)%`).
    pub route_metadata: RefCell<Option<Arc<Metadata>>>,
    /// Metadata of the virtual host (`%METADATA(VIRTUAL_HOST:...)%`).
    pub virtual_host_metadata: RefCell<Option<Arc<Metadata>>>,
    /// Whether the response was made here, not by an upstream.
    pub local_reply: Cell<bool>,
    /// Whether the request came from inside, as the connection manager's address settings say (x-envoy-internal).
    pub internal: Cell<bool>,
    /// `idle_timeout` of the route, where it has one (the inner `None` switches it off): takes the place of the
    /// connection manager's.
    pub idle_timeout: Cell<Option<Option<Duration>>>,
    /// `flush_timeout` of the route, in the same way.
    pub flush_timeout: Cell<Option<Option<Duration>>>,
    /// `max_stream_duration` of the route, in the same way.
    pub max_duration: Cell<Option<Option<Duration>>>,
    /// Whether a health-check filter answered.
    pub health_check: Cell<bool>,
    /// No more of the response is read for now: its client takes no more.
    pub is_response_paused: Cell<bool>,
    /// An access log will be written: what only logs look at is worth noting.
    pub is_logged: Cell<bool>,
    /// The trailers as sent, or as they would be where the client takes none; boxed because most streams have none.
    pub response_trailers: RefCell<Option<Box<HeaderMap>>>,
    /// Dynamic metadata set by filters; boxed because most streams have none.
    pub metadata: RefCell<Option<Box<Metadata>>>,
    /// What filters leave for each other.
    pub filter_state: RefCell<FilterState>,
    /// The host that a filter wants for the request.
    pub wanted_host: RefCell<Option<Rc<WantedHost>>>,
}

/// A host that a filter wants for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedHost {
    /// Its address, as `%UPSTREAM_HOST%` has it.
    pub address: Box<str>,
    /// Whether no host is better than another.
    pub is_strict: bool,
}

impl StreamInfo {
    /// A record for a stream that starts now.
    pub fn new(connection: Rc<ConnectionInfo>, start: Instant, start_wall: SystemTime) -> Self {
        let remote = RefCell::new(connection.remote.clone());
        // Free where it is empty, as it is for most.
        let filter_state = RefCell::new(connection.filter_state.borrow().clone());
        Self {
            connection,
            start_wall,
            start,
            times: Timeline::default(),
            protocol: Cell::new(None),
            remote,
            response_code: Cell::new(0),
            details: RefCell::new(None),
            flags: Cell::new(ResponseFlags::NONE),
            bytes_received: Cell::new(0),
            bytes_sent: Cell::new(0),
            header_bytes_received: Cell::new(0),
            header_bytes_sent: Cell::new(0),
            decompressed_header_bytes_received: Cell::new(0),
            decompressed_header_bytes_sent: Cell::new(0),
            wire_bytes_received: Cell::new(0),
            wire_bytes_sent: Cell::new(0),
            route_name: RefCell::new(None),
            route: RefCell::new(None),
            virtual_cluster: RefCell::new(None),
            upstream: RefCell::new(UpstreamInfo::default()),
            request_id: RefCell::new(None),
            route_metadata: RefCell::new(None),
            virtual_host_metadata: RefCell::new(None),
            local_reply: Cell::new(false),
            internal: Cell::new(false),
            idle_timeout: Cell::new(None),
            flush_timeout: Cell::new(None),
            max_duration: Cell::new(None),
            health_check: Cell::new(false),
            is_response_paused: Cell::new(false),
            is_logged: Cell::new(false),
            response_trailers: RefCell::new(None),
            metadata: RefCell::new(None),
            filter_state,
            wanted_host: RefCell::new(None),
        }
    }

    /// A record of the connection itself.
    pub fn of_connection(connection: Rc<ConnectionInfo>, start_wall: SystemTime) -> Self {
        let start = connection.start;
        let mut info = Self::new(connection, start, start_wall);
        info.flags.set(info.connection.flags.get());
        *info.details.get_mut() = info.connection.details.get().map(Cow::Borrowed);
        *info.metadata.get_mut() = info.connection.metadata.borrow().clone();
        info.protocol.set(info.connection.protocol.get());
        if let Some(log) = &info.connection.log {
            info.bytes_received.set(log.bytes_received.get());
            info.bytes_sent.set(log.bytes_sent.get());
        }
        info.note_inspected();
        info
    }

    /// Tells of the connection what listener filters have found amiss.
    pub fn note_inspected(&self) {
        if let Some(inspected) = &self.connection.inspected {
            let mut failure = self.connection.transport_failure.borrow_mut();
            *failure = failure.take().or_else(|| inspected.transport_failure.clone());
        }
    }

    /// Forgets all but what concerns the client: its request is handled anew from `now` on.
    pub fn begin_again(&self, now: Instant) {
        self.times.begin_again(now);
        self.response_code.set(0);
        *self.details.borrow_mut() = None;
        self.flags.set(ResponseFlags::NONE);
        *self.route_name.borrow_mut() = None;
        *self.route.borrow_mut() = None;
        *self.virtual_cluster.borrow_mut() = None;
        *self.upstream.borrow_mut() = UpstreamInfo::default();
        *self.route_metadata.borrow_mut() = None;
        *self.virtual_host_metadata.borrow_mut() = None;
        self.local_reply.set(false);
        self.idle_timeout.set(None);
        self.flush_timeout.set(None);
        self.max_duration.set(None);
        self.health_check.set(false);
        *self.response_trailers.borrow_mut() = None;
        *self.metadata.borrow_mut() = None;
        self.filter_state.borrow_mut().end_filter_chain();
        *self.wanted_host.borrow_mut() = None;
    }

    /// Takes over what `other` noted of the upstream side: that of the attempt which stands for all.
    pub fn adopt_upstream(&self, other: &Self) {
        self.times.adopt_upstream(&other.times);
        let theirs = other.upstream.take();
        let mut upstream = self.upstream.borrow_mut();
        let mine = std::mem::take(&mut *upstream);
        *upstream = UpstreamInfo {
            cluster: mine.cluster,
            cluster_raw: mine.cluster_raw,
            cluster_metadata: mine.cluster_metadata,
            attempts: mine.attempts,
            ..theirs
        };
    }

    /// Keeps the trailers of the response, if a log will look at them.
    pub fn note_trailers(&self, trailers: &HeaderMap) {
        if self.is_logged.get() {
            *self.response_trailers.borrow_mut() = Some(Box::new(trailers.clone()));
        }
    }

    /// Adds a response flag.
    pub fn flag(&self, flag: ResponseFlag) {
        self.flags.set(self.flags.get().union(flag.into()));
    }

    /// Sets `%RESPONSE_CODE_DETAILS%`.
    pub fn set_details(&self, details: impl Into<Cow<'static, str>>) {
        *self.details.borrow_mut() = Some(details.into());
    }
}
