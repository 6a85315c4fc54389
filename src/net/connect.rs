//! Connections to upstream hosts.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nuncio_config::socket::{BindConfig, SocketOption, SocketPhase, SocketValue, TcpKeepalive};
use nuncio_filter_api::Io;
use nuncio_telemetry::{Address, OriginalSource};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpSocket, UnixStream};

use crate::internal::nobody;
use crate::option::{set_option, tcp_keepalive};
use crate::tls::TlsError;
use crate::transport::{TcpTransport, UnixTransport};

/// How a socket towards a host is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectOptions<'a> {
    /// Local address and socket options.
    pub bind: Option<&'a BindConfig>,
    /// TCP keep-alive.
    pub keepalive: Option<TcpKeepalive>,
    /// In whose name it is made: in place of the local address.
    pub source: Option<OriginalSource>,
}

/// A connection just made.
pub struct Connected {
    /// Its bytes.
    pub io: Io,
    /// Its own end.
    pub local: Option<Address>,
}

/// Why a connection could not be made. The text is that of `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
#[derive(Debug)]
pub enum ConnectError {
    /// The socket could not be made or bound here.
    Bind {
        /// The address to bind to, where one was.
        address: Option<SocketAddr>,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel refused at once.
    Immediate {
        /// Where to.
        address: Address,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The host refused, or could not be reached.
    Delayed(io::Error),
    /// The handshake of TLS failed.
    Tls(TlsError),
}

impl From<TlsError> for ConnectError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

// === impl ConnectError ===

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { address: Some(address), source } => {
                write!(f, "failed to bind to {address}: {}", reason(source))
            }
            Self::Bind { address: None, source } => write!(f, "failed to make a socket: {}", reason(source)),
            Self::Immediate { address, source } => {
                write!(f, "immediate connect error: {}|remote address:{address}", reason(source))
            }
            Self::Tls(error) => error.fmt(f),
            Self::Delayed(source) => write!(f, "delayed connect error: {}", reason(source)),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tls(source) => Some(source),
            Self::Bind { source, .. } | Self::Immediate { source, .. } | Self::Delayed(source) => Some(source),
        }
    }
}

/// The kernel's words alone, as Envoy prints them; std adds the number of the error.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Connects to `address`. The caller sets the time-out: dropping the future gives up.
pub async fn connect(address: &Address, options: ConnectOptions<'_>) -> Result<Connected, ConnectError> {
    match address {
        Address::Ip(to) => connect_tcp(*to, options).await,
        Address::Pipe(path) => connect_unix(path, address).await,
        // The listeners of workers are theirs alone: see `connect_internal`.
        Address::Internal(address) => Err(nobody(address)),
    }
}

/// Between two attempts at the addresses of one host, where the first does not answer: RFC 8305 §5, with Envoy's time.
const NEXT_ATTEMPT: Duration = Duration::from_millis(300);

/// Connects to whichever of `addresses` is reached first, trying them in order. `again` is called for each attempt
/// after the first. The error is that of the attempt that failed last.
pub async fn connect_first(
    addresses: &[SocketAddr],
    options: ConnectOptions<'_>,
    mut again: impl FnMut(),
) -> Result<(SocketAddr, Connected), ConnectError> {
    let attempt = |to: SocketAddr| async move { (to, connect_tcp(to, options).await) };
    let mut left = addresses.iter().copied();
    let mut attempts = FuturesUnordered::new();
    attempts.extend(left.next().map(attempt));
    loop {
        tokio::select! {
            biased;
            ended = attempts.next() => match ended {
                Some((to, Ok(connected))) => return Ok((to, connected)),
                Some((_, Err(error))) if attempts.is_empty() && left.len() == 0 => return Err(error),
                Some(_) => {}
                // There was no address at all.
                None => return Err(ConnectError::Delayed(io::ErrorKind::AddrNotAvailable.into())),
            },
            () = tokio::time::sleep(NEXT_ATTEMPT), if left.len() > 0 => {}
        }
        if let Some(to) = left.next() {
            again();
            attempts.push(attempt(to));
        }
    }
}

async fn connect_tcp(to: SocketAddr, options: ConnectOptions<'_>) -> Result<Connected, ConnectError> {
    let socket = tcp_socket(to, options)?;
    let stream = match TcpSocket::from_std_stream(socket.into()).connect(to).await {
        Ok(stream) => stream,
        // The kernel answers these without asking the host.
        Err(source) if is_immediate(&source) => {
            return Err(ConnectError::Immediate { address: to.into(), source });
        }
        Err(source) => return Err(ConnectError::Delayed(source)),
    };
    let local = stream.local_addr().ok().map(Address::from);
    Ok(Connected { io: Io::new(TcpTransport::new(stream)), local })
}

fn is_immediate(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable | io::ErrorKind::PermissionDenied
    )
}

async fn connect_unix(path: &str, address: &Address) -> Result<Connected, ConnectError> {
    // A unix-domain connect never waits for the peer, so that each of its errors is immediate.
    let connected = match path.strip_prefix('@') {
        Some(name) => connect_abstract(name),
        None => UnixStream::connect(path).await,
    };
    let stream = connected.map_err(|source| ConnectError::Immediate { address: address.clone(), source })?;
    Ok(Connected { io: Io::new(UnixTransport::new(stream)), local: None })
}

fn connect_abstract(name: &str) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(&SockAddr::unix(format!("\0{name}"))?)?;
    UnixStream::from_std(socket.into())
}

fn tcp_socket(to: SocketAddr, options: ConnectOptions<'_>) -> Result<Socket, ConnectError> {
    let (bound, own_options) = options.bind.map_or((None, &[][..]), |bind| bind.for_target(to.ip()));
    let source = options.source.map(|source| SocketAddr::new(source.ip, 0)).or(bound);
    let made = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(keepalive) = options.keepalive {
            socket.set_tcp_keepalive(&tcp_keepalive(keepalive))?;
        }
        if let Some(source) = options.source {
            set_original_source(&socket, source)?;
        }
        if let Some(freebind) = options.bind.and_then(|bind| bind.freebind) {
            socket.set_freebind_v4(freebind)?;
        }
        set_options(&socket, to, own_options, SocketPhase::PreBind)?;
        if let Some(source) = source {
            // With the kernel choosing the port, it need not do so before it knows the other end: one local port
            // then serves connections to many hosts.
            if source.port() == 0 {
                set_bind_address_no_port(&socket)?;
            }
            socket.bind(&source.into())?;
        }
        set_options(&socket, to, own_options, SocketPhase::Bound)?;
        Ok(socket)
    };
    made().map_err(|error| ConnectError::Bind { address: source, source: error })
}

/// Lets the socket be bound to an address that is none of ours.
fn set_original_source(socket: &Socket, source: OriginalSource) -> io::Result<()> {
    match source.ip.is_ipv4() {
        true => socket.set_ip_transparent_v4(true)?,
        false => socket.set_ip_transparent_v6(true)?,
    }
    if source.mark != 0 {
        socket.set_mark(source.mark)?;
    }
    Ok(())
}

fn set_bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let option = SocketOption {
        level: libc::IPPROTO_IP,
        name: libc::IP_BIND_ADDRESS_NO_PORT,
        value: SocketValue::Int(1),
        phase: SocketPhase::PreBind,
        stream: true,
        datagram: false,
        ipv4: true,
        ipv6: true,
    };
    set_option(socket, &option)
}

fn set_options(socket: &Socket, to: SocketAddr, options: &[SocketOption], phase: SocketPhase) -> io::Result<()> {
    let applies = |option: &&SocketOption| {
        option.phase == phase && option.stream && if to.is_ipv4() { option.ipv4 } else { option.ipv6 }
    };
    options.iter().filter(applies).try_for_each(|option| set_option(socket, option))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn refusal(address: Address, options: ConnectOptions<'_>) -> String {
        match connect(&address, options).await {
            Ok(_) => panic!("connected"),
            Err(e) => e.to_string(),
        }
    }

    #[tokio::test]
    async fn a_connection_carries_bytes_and_knows_its_own_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let bind =
            BindConfig { source: Some("127.0.0.2:0".parse().unwrap()), extra: None, freebind: None, options: vec![] };
        let options = ConnectOptions {
            bind: Some(&bind),
            keepalive: Some(TcpKeepalive { probes: Some(3), time: Some(5), interval: None }),
            source: None,
        };
        let mut connected = connect(&to.into(), options).await.unwrap();
        let (mut accepted, peer) = listener.accept().await.unwrap();
        assert_eq!(connected.local, Some(peer.into()));
        assert_eq!(peer.ip().to_string(), "127.0.0.2");
        connected.io.write_all(b"hi").await.unwrap();
        let mut got = [0; 2];
        accepted.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hi");
    }

    #[tokio::test]
    async fn failures_read_as_envoys_do() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let options = ConnectOptions::default();
        assert_eq!(refusal(closed.into(), options).await, "delayed connect error: Connection refused");
        assert_eq!(
            refusal(Address::Pipe("/nonexistent/s".into()), options).await,
            "immediate connect error: No such file or directory|remote address:/nonexistent/s"
        );
        let bind =
            BindConfig { source: Some("192.0.2.77:0".parse().unwrap()), extra: None, freebind: None, options: vec![] };
        let options = ConnectOptions { bind: Some(&bind), keepalive: None, source: None };
        assert_eq!(
            refusal(closed.into(), options).await,
            "failed to bind to 192.0.2.77:0: Cannot assign requested address"
        );
    }

    #[tokio::test]
    async fn a_host_is_reached_at_whichever_of_its_addresses_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let attempts = std::cell::Cell::new(1);
        let again = || attempts.set(attempts.get() + 1);
        let (to, connected) = connect_first(&[closed, good, closed], ConnectOptions::default(), again).await.unwrap();
        assert_eq!((to, attempts.get()), (good, 2), "a refusal begins the next attempt at once");
        assert!(connected.local.is_some());
        let error = connect_first(&[closed, closed], ConnectOptions::default(), || {}).await.err().unwrap();
        assert_eq!(error.to_string(), "delayed connect error: Connection refused");
        assert!(connect_first(&[], ConnectOptions::default(), || {}).await.is_err());
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_holds_up_the_next_no_longer_than_it_may() {
        // A queue of accepted connections that is full: the kernel answers no more.
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(100), tokio::net::TcpStream::connect(silent)).await
        {
            held.push(stream);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let (to, _) = connect_first(&[silent, good], ConnectOptions::default(), || {}).await.unwrap();
        assert_eq!(to, good);
    }

    #[tokio::test]
    async fn an_abstract_socket_is_reached() {
        let name = format!("nuncio-connect-{}", std::process::id());
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(format!("\0{name}")).unwrap()).unwrap();
        socket.listen(1).unwrap();
        connect(&Address::Pipe(format!("@{name}").into()), ConnectOptions::default()).await.unwrap();
    }
}
