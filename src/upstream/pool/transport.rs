//! Transport sockets: what carries the bytes of connections to hosts.

mod proxy_header;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_config::cluster::{ServerName, UpstreamHttp};
use nuncio_config::tap::{SocketTap, TappedConnection};
use nuncio_config::tls::{Alpn, Wishes};
use nuncio_config::transport_socket::{HttpProxySocket, TransportSocket};
use nuncio_filter_api::filter_state::{self, ProxyTlv, ProxyTlvs};
use nuncio_filter_api::{Io, RequestHead};
use nuncio_net::{ConnectError, Connected, CountedTcp, HttpTunnel, Tapped, TlsStats, connect_tls};
use nuncio_telemetry::{Address, ConnectionInfo, FilterState, FilterValue, OriginalSource, StreamInfo, TlsInfo};

use super::connection::ConnectionRecord;
use crate::host::Host;

/// What the requests of a connection mean for its transport socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransportOptions {
    /// Of whom the host is told by a PROXY header.
    pub(crate) client: Option<Client>,
    /// What the host is asked for in TLS. Envoy: sockets without TLS are kept apart by it as well.
    pub(crate) server_name: Option<Box<str>>,
    /// What its certificate must be of, where there are any.
    pub(crate) certified_names: Box<[Box<str>]>,
    /// Protocols that TLS offers, where there are any, in place of others.
    pub(crate) alpn: Box<[Box<[u8]>]>,
    /// The secret that the certificate shown to it is, where that is chosen by each connection.
    pub(crate) secret: Option<Box<str>>,
    /// In whose name the host is connected to.
    pub(crate) source: Option<OriginalSource>,
    /// Filter state that goes with the connection.
    pub(crate) shared: Shared,
}

/// Filter state that goes with a connection: two are equal if requests with either may go on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(pub(crate) FilterState);

/// The ends of a connection that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    source: Address,
    destination: Address,
    /// What else may be told of it.
    tlvs: Option<Rc<ProxyTlvs>>,
}

/// What transport sockets may need to know of a connection.
pub(crate) struct Beginning<'a> {
    /// Whom it is to.
    pub(crate) remote: &'a Address,
    /// The host, where `remote` is a proxy on the way to it.
    pub(crate) proxied: Option<&'a Address>,
    /// Whether the proxy is that of the host, rather than that of its transport socket.
    pub(crate) has_own_proxy: bool,
    /// What that is called.
    pub(crate) host_name: &'a str,
    /// What it is told besides, in place of what others are.
    pub(crate) tlvs: &'a [ProxyTlv],
    /// What its requests mean. Without options the connection is for no request that came in.
    pub(crate) options: Option<&'a TransportOptions>,
    /// Its record, where it has one, and random bits: what taps ask for.
    pub(crate) record: Option<(&'a ConnectionRecord, u64)>,
    /// Protocols that TLS offers.
    pub(crate) alpn: Alpn<'a>,
    /// What counts handshakes.
    pub(crate) stats: &'a dyn Fn() -> TlsStats,
}

/// A connection whose transport socket is ready.
pub(crate) struct Begun {
    pub(crate) connected: Connected,
    /// Bytes that the transport socket has sent as if they were those of requests.
    pub(crate) sent: u64,
    /// What a handshake told.
    pub(crate) tls: Option<Arc<TlsInfo>>,
}

// === impl TransportOptions ===

impl TransportOptions {
    /// Those of `host` for a request with this head that came on `connection`. `None`: there is nothing to say.
    pub(crate) fn of(host: &Host, http: &UpstreamHttp, head: &RequestHead, info: &StreamInfo) -> Option<Rc<Self>> {
        let state = info.connection.filter_state.borrow();
        let mut options = Self::of_connection(host, &info.connection, &state);
        options.take_overrides(&state);
        options.take_overrides(&info.filter_state.borrow());
        if let Some(ServerName { is_sent, is_checked, header }) = &http.server_name {
            let named = header.as_ref().and_then(|name| head.headers.get(name)?.to_str().ok());
            let (name, is_ip) = host_of(named.filter(|name| !name.is_empty()).unwrap_or(&head.authority));
            // RFC 6066 §3: an address is no name.
            if *is_sent && !is_ip && options.server_name.is_none() {
                options.server_name = Some(name.into());
            }
            if *is_checked && options.certified_names.is_empty() {
                options.certified_names = [name.into()].into();
            }
        }
        (!options.is_empty()).then(|| Rc::new(options))
    }

    /// Those of `host` for what a connection brings that is no HTTP.
    pub(crate) fn of_bytes(host: &Host, info: &StreamInfo) -> Option<Rc<Self>> {
        let state = info.filter_state.borrow();
        let mut options = Self::of_connection(host, &info.connection, &state);
        options.take_overrides(&state);
        (!options.is_empty()).then(|| Rc::new(options))
    }

    /// What follows from the connection, whatever it carries.
    fn of_connection(host: &Host, connection: &ConnectionInfo, state: &FilterState) -> Self {
        let (client, source) = (Client::of(host, connection, state), original_source(connection));
        let shared = state.shared();
        // Envoy: what is not shared with connections to hosts does not say which certificate they are shown.
        let secret = match shared.get(filter_state::UPSTREAM_SECRET) {
            Some(FilterValue::Text(name)) => Some((**name).into()),
            _ => None,
        };
        Self { client, secret, source, shared: Shared(shared), ..Self::default() }
    }

    /// Takes what filters say of TLS in place of the configuration.
    fn take_overrides(&mut self, state: &FilterState) {
        let text = |name| match state.get(name) {
            Some(FilterValue::Text(text)) => Some(text),
            _ => None,
        };
        if let Some(name) = text(filter_state::UPSTREAM_SERVER_NAME) {
            self.server_name = Some((**name).into());
        }
        if let Some(names) = text(filter_state::UPSTREAM_SUBJECT_ALT_NAMES) {
            self.certified_names = names.split(',').map(Box::from).collect();
        }
        if let Some(protocols) = text(filter_state::APPLICATION_PROTOCOLS) {
            self.alpn = protocols.split(',').map(|protocol| protocol.as_bytes().into()).collect();
        }
    }

    /// Whether there is nothing to say.
    fn is_empty(&self) -> bool {
        self.shared.0.is_empty() && *self == Self::default()
    }
}

// === impl Shared ===

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        self.0.may_pool_with(&other.0)
    }
}

impl Eq for Shared {}

// === impl Client ===

impl Client {
    /// The ends of `connection`, where `host` is told of clients.
    fn of(host: &Host, connection: &ConnectionInfo, state: &FilterState) -> Option<Self> {
        let (source, destination) = (&connection.remote, &connection.local);
        let is_told = host.transport().is_some_and(|socket| socket.tells_of_clients());
        let tlvs = || proxy_tlvs(state).filter(|tlvs| !tlvs.0.is_empty());
        is_told.then(|| Self { source: source.clone(), destination: destination.clone(), tlvs: tlvs() })
    }
}

/// Whether filters say anything of TLS in place of the configuration.
#[inline]
pub(crate) fn has_overrides(state: &FilterState) -> bool {
    const NAMES: [&str; 3] = [
        filter_state::UPSTREAM_SERVER_NAME,
        filter_state::UPSTREAM_SUBJECT_ALT_NAMES,
        filter_state::APPLICATION_PROTOCOLS,
    ];
    !state.is_empty() && NAMES.iter().any(|name| state.get(name).is_some())
}

/// In whose name hosts are connected to for a connection, if not in our own.
#[inline]
pub(crate) fn original_source(connection: &ConnectionInfo) -> Option<OriginalSource> {
    connection.inspected.as_ref().and_then(|inspected| inspected.source)
}

/// What hosts may be told of the client of a connection, where a filter has found out, or is to be told besides.
pub(crate) fn proxy_tlvs(state: &FilterState) -> Option<Rc<ProxyTlvs>> {
    match state.get(filter_state::PROXY_TLVS)? {
        FilterValue::Object(tlvs) => tlvs.clone().downcast().ok(),
        _ => None,
    }
}

/// The host of an authority, without its port, and whether it is an address.
fn host_of(authority: &str) -> (&str, bool) {
    if let Some(rest) = authority.strip_prefix('[')
        && let Some((address, _)) = rest.split_once(']')
    {
        return (address, address.parse::<IpAddr>().is_ok());
    }
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    (host, host.parse::<IpAddr>().is_ok())
}

/// Has `socket` carry the bytes of a connection just made.
pub(crate) async fn begin(
    socket: &TransportSocket,
    mut connected: Connected,
    of: Beginning<'_>,
) -> Result<Begun, ConnectError> {
    let (mut socket, mut sent, mut tls) = (socket, 0, None);
    let mut taps = Vec::new();
    loop {
        socket = match socket {
            TransportSocket::RawBuffer => break,
            TransportSocket::Tls(config) => {
                let (io, info) =
                    connect_tls(config, connected.io, of.wishes(connected.local.as_ref()), &(of.stats)()).await?;
                (connected.io, tls) = (io, Some(info));
                break;
            }
            // It is told what goes into the sockets that it wraps, and what comes out of them.
            TransportSocket::Tap(tapping) => {
                taps.push(&tapping.0);
                &tapping.1
            }
            TransportSocket::HttpProxy(proxy) => {
                if let Some(target) = of.proxied.filter(|_| of.asks_proxy(proxy)) {
                    let (tunnel, asked) = HttpTunnel::new(connected.io, target);
                    connected.io = Io::new(tunnel);
                    sent += asked;
                }
                &proxy.inner
            }
            TransportSocket::TcpStats(counted) => {
                let (config, inner) = &**counted;
                connected.io = CountedTcp::wrap(connected.io, config);
                inner
            }
            // What goes with a connection went with it.
            TransportSocket::Internal(internal) => &internal.inner,
            // Envoy: the header goes first whatever carries the rest, TLS too.
            TransportSocket::ProxyProtocol(proxy) => {
                sent += proxy_header::tell(proxy, &mut connected, &of).await.map_err(ConnectError::Delayed)?;
                &proxy.inner
            }
        };
    }
    for tap in taps.into_iter().rev() {
        connected = of.tap(tap, connected);
    }
    Ok(Begun { connected, sent, tls })
}

// === impl Beginning ===

impl<'a> Beginning<'a> {
    /// Whether a proxy is asked to connect. Envoy: that of the transport socket gets plain requests as they are.
    fn asks_proxy(&self, proxy: &HttpProxySocket) -> bool {
        self.has_own_proxy || proxy.inner.knows_alpn()
    }

    fn tap(&self, tap: &SocketTap, connected: Connected) -> Connected {
        let Connected { io, local } = connected;
        let (id, random) = self.record.map(|(record, random)| (record.id, random)).unzip();
        let random = random.unwrap_or_default();
        let tapped = TappedConnection { id, local: local.as_ref(), remote: self.remote, random };
        Connected { io: Tapped::wrap(io, tap, tapped), local }
    }

    fn wishes(&self, local: Option<&Address>) -> Wishes<'a> {
        Wishes {
            local: local.and_then(Address::ip),
            remote: self.remote.ip(),
            workload: self.options.and_then(|options| {
                match options.shared.0.get(filter_state::WORKLOAD_TRUST_DOMAIN) {
                    Some(FilterValue::Text(domain)) => Some(&**domain),
                    _ => None,
                }
            }),
            host_name: self.host_name,
            server_name: self.options.and_then(|options| options.server_name.as_deref()),
            secret: self.options.and_then(|options| options.secret.as_deref()),
            certified_names: self.options.map_or(&[][..], |options| &options.certified_names),
            alpn: match self.options {
                Some(options) if !options.alpn.is_empty() => Alpn::Only(&options.alpn),
                _ => self.alpn,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_comes_before_the_port() {
        let check = |authority, name, is_ip| assert_eq!(host_of(authority), (name, is_ip), "{authority}");
        check("a.test", "a.test", false);
        check("a.test:80", "a.test", false);
        check("1.2.3.4:80", "1.2.3.4", true);
        check("[::1]:80", "::1", true);
        check("::1", "::1", true);
        check("a.test:x", "a.test:x", false);
    }
}
