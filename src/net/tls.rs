//! Handshakes of TLS, and connections that have made one.

mod alert;
mod buffer;
mod deferred;
mod hello;
pub(crate) mod reason;
mod server;

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nuncio_config::tls::{
    DownstreamTls, FlawAt, Hello, Made, ServerSide, Staple, UpstreamTls, Validated, Wishes, Witness, certificate_info,
    for_workload,
};
use nuncio_filter_api::{Io, Transport, filter_state, forward_write};
use nuncio_telemetry::{CertificateInfo, ConnectionInfo, FilterValue, TlsInfo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ClientHello;
use rustls::{AlertDescription, CipherSuite, CommonState, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, client};

use self::buffer::Buffer;
pub(crate) use self::deferred::Deferred;
use self::server::ServerStream;
use crate::tls_stats::TlsStats;

/// A connection to a host that has made its handshake.
struct TlsTransport {
    stream: client::TlsStream<Io>,
    stats: TlsStats,
    /// It ends with a reset.
    is_reset: bool,
}

/// As with clients, whoever drops a connection has closed it.
impl Drop for TlsTransport {
    fn drop(&mut self) {
        if !self.is_reset {
            self.stream.get_mut().1.send_close_notify();
            let _ = Pin::new(&mut self.stream).poll_flush(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl Transport for TlsTransport {
    fn reset_on_drop(&mut self) {
        self.is_reset = true;
        self.stream.get_mut().0.reset_on_drop();
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.get_mut().0.poll_closed(cx)
    }
}

impl AsyncRead for TlsTransport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            // Peers that close without close_notify are many; whatever is framed shows whether bytes lack.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => {
                // What the kernel says is no error of TLS. Who reads no more after an error counts it once.
                if error.kind() == io::ErrorKind::InvalidData {
                    self.stats.broke_off(reason::rustls_error(&error));
                }
                Poll::Ready(Err(error))
            }
            other => other,
        }
    }
}

forward_write!(TlsTransport, stream);

/// Why there is no connection. The text is that of `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%` and its like.
#[derive(Debug)]
pub enum TlsError {
    /// The handshake took longer than it may.
    TimedOut,
    /// The secrets that it takes have not come.
    NoSecret,
    /// The client named no server, which it has to.
    NoServerName,
    /// There is no certificate to show the server: the secret that it is does not exist.
    NoSuchSecret,
    /// There is no certificate that could be shown with the OCSP response that it has to come with.
    NoCertificate,
    /// The handshake failed.
    Failed {
        /// Why, as rustls or the kernel has it.
        source: io::Error,
        /// What is wrong with the peer's chain, where it is that.
        flaw: Option<FlawAt>,
    },
}

impl From<io::Error> for TlsError {
    fn from(source: io::Error) -> Self {
        Self::Failed { source, flaw: None }
    }
}

impl TlsError {
    /// Whether the connection ended, of which Envoy says nothing.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof)
    }

    /// The same, with what was seen of the peer.
    fn because_of(mut self, witness: &Witness) -> Self {
        if let Self::Failed { flaw, .. } = &mut self {
            *flaw = witness.flaw;
        }
        self
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("transport socket timeout was reached"),
            Self::NoSecret => f.write_str("TLS error: Secret is not supplied by SDS"),
            Self::NoServerName => f.write_str("TLS_error:|no_sni:TLS_error_end"),
            Self::NoSuchSecret => {
                f.write_str("TLS_error:|268435582:SSL routines:OPENSSL_internal:CERT_CB_ERROR:TLS_error_end")
            }
            Self::NoCertificate => {
                f.write_str("TLS_error:|268435589:SSL routines:OPENSSL_internal:CONNECTION_REJECTED:TLS_error_end")
            }
            Self::Failed { source, flaw } => write!(f, "TLS_error:|{}:TLS_error_end", reason::of(source, *flaw)),
        }
    }
}

impl std::error::Error for TlsError {}

/// Makes the handshake of a connection that was accepted, and tells `info` what it learnt.
pub(crate) async fn accept(
    tls: &DownstreamTls,
    until: Option<Instant>,
    io: Io,
    info: &Rc<ConnectionInfo>,
    stats: &Rc<TlsStats>,
) -> Result<Io, TlsError> {
    let Some(side) = tls.current() else {
        tls.note_not_ready();
        *info.transport_failure.borrow_mut() = Some(TlsError::NoSecret.to_string().into());
        return Err(TlsError::NoSecret);
    };
    let workload = match info.filter_state.borrow().get(filter_state::WORKLOAD_TRUST_DOMAIN) {
        Some(FilterValue::Text(domain)) => Some((**domain).into()),
        _ => None,
    };
    let mut seen = Seen { workload, ..Seen::default() };
    let handshake = handshake(tls, &side, io, info, stats, &mut seen);
    let done = match until {
        Some(until) => tokio::time::timeout_at(until, handshake).await.unwrap_or(Err(TlsError::TimedOut)),
        None => handshake.await,
    };
    let (mut stream, session_id) = match done {
        Ok(done) => done,
        Err(error) => {
            let error = error.because_of(&seen.witness);
            note_failure(&error, info, stats);
            note_refused(&side, seen, info);
            return Err(error);
        }
    };
    let session = stream.session();
    let chain = session.peer_certificates().unwrap_or_default();
    let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let validated = for_workload(seen.workload.as_deref(), || side.validate(chain, is_resumed));
    // What it found is known.
    drop(Witness::take());
    if let Validated::Failed(error) = &validated {
        if !side.accepts_untrusted() {
            let error = TlsError::from(io::Error::new(io::ErrorKind::InvalidData, error.clone()));
            note_failure(&error, info, stats);
            return Err(error);
        }
        // Envoy holds no client against anything again whose session is resumed.
        if !is_resumed {
            stats.unbelieved(error);
        }
    }
    let is_validated = matches!(validated, Validated::Passed);
    let Witness { made: Made { scheme, .. }, recalled, .. } = seen.witness;
    let how = Made { group: session.negotiated_key_exchange_group().map(|group| group.name()), scheme };
    let how = if is_resumed { how.or(recalled) } else { how };
    let made = of_session(session, chain);
    let issuer = chain.first().and_then(|leaf| side.issuer_of(leaf, &chain[1..]));
    let completed = Some(Instant::now());
    let Seen { local, server_name, .. } = seen;
    let group = how.group.map_or("", group_name);
    let made = TlsInfo { is_validated, local, server_name, session_id, issuer, completed, group, ..made };
    stats.made(&made, how.scheme);
    *info.tls.borrow_mut() = Some(Arc::new(made));
    stream.client = Some(info.clone());
    Ok(Io::new(stream))
}

fn note_failure(error: &TlsError, info: &ConnectionInfo, stats: &TlsStats) {
    stats.failed(error);
    match error {
        // Envoy: it is no failure of TLS, nor is it one that a client leaves.
        TlsError::TimedOut => {
            *info.termination_details.borrow_mut() = Some(error.to_string().into());
            info.local_close_reason.set(Some("transport_socket_timeout"));
        }
        _ if error.is_end() => {}
        _ => *info.transport_failure.borrow_mut() = Some(error.to_string().into()),
    }
}

/// Tells logs who has not believed whom.
fn note_refused(side: &ServerSide, seen: Seen, info: &ConnectionInfo) {
    let Seen { local, server_name: _, witness, workload: _, begun } = seen;
    let leaf = witness.refused.first();
    if local.is_none() && leaf.is_none() {
        return;
    }
    let others = witness.refused.get(1..).unwrap_or_default();
    *info.tls.borrow_mut() = Some(Arc::new(TlsInfo {
        local,
        peer: leaf.and_then(certificate_info).map(Arc::new),
        intermediates: others.iter().filter_map(certificate_info).map(Arc::new).collect(),
        issuer: leaf.and_then(|leaf| side.issuer_of(leaf, others)),
        ..begun.unwrap_or_default()
    }));
}

/// Makes the handshake of a connection to a host, and tells what it learnt.
pub async fn connect(
    tls: &UpstreamTls,
    io: Io,
    wishes: Wishes<'_>,
    stats: &TlsStats,
) -> Result<(Io, Arc<TlsInfo>), TlsError> {
    let Some(side) = tls.current() else {
        tls.note_not_ready();
        return Err(TlsError::NoSecret);
    };
    let side = match tls.is_on_demand() {
        true => tls.on_demand(&wishes).await.ok_or(TlsError::NoSuchSecret).inspect_err(|error| stats.failed(error))?,
        false => side,
    };
    let (client, name) = side.handshake(&wishes);
    let connector = TlsConnector::from(client);
    let told = match &name {
        ServerName::DnsName(name) => Some(name.as_ref().into()),
        _ => None,
    };
    let (mut connecting, mut witness) = (connector.connect(name.clone(), io), Witness::default());
    let connected = poll_fn(|cx| {
        let polled = for_workload(wishes.workload, || Pin::new(&mut connecting).poll(cx));
        witness.add(Witness::take());
        polled
    });
    let stream = connected.await.map_err(|error| {
        let error = if witness.has_certificate { error } else { reason::at_hello(error) };
        TlsError::from(error).because_of(&witness)
    });
    let stream = stream.inspect_err(|error| stats.failed(error))?;
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    if session.handshake_kind() == Some(HandshakeKind::Resumed) {
        let checked = for_workload(wishes.workload, || side.check_again(chain, &name));
        let checked = checked.map_err(|e| TlsError::from(io::Error::new(io::ErrorKind::InvalidData, e)));
        witness.add(Witness::take());
        checked.map_err(|error| error.because_of(&witness)).inspect_err(|error| stats.failed(error))?;
    }
    if let Some(error) = &witness.unbelieved {
        stats.unbelieved(error);
    }
    // Nobody asks for the rest of a host's chain.
    let leaf = &chain[..chain.len().min(1)];
    let group = session.negotiated_key_exchange_group().map(|group| group.name());
    let how = Made { group, ..witness.made };
    let how = match session.handshake_kind() {
        Some(HandshakeKind::Resumed) => how.or(side.made_before(&name)),
        _ => {
            side.note_made(&name, how);
            how
        }
    };
    let group = how.group.map_or("", group_name);
    let made = TlsInfo { server_name: told, local: side.own.clone(), group, ..of_session(session, leaf) };
    stats.made(&made, how.scheme);
    Ok((Io::new(TlsTransport { stream, stats: stats.clone(), is_reset: false }), Arc::new(made)))
}

/// What a handshake has brought, also one that failed.
#[derive(Default)]
struct Seen {
    /// What the client was shown.
    local: Option<Arc<CertificateInfo>>,
    /// What it asked for.
    server_name: Option<Arc<str>>,
    witness: Witness,
    /// The trust domain of the workload that it is for, where filters say which.
    workload: Option<Box<str>>,
    /// What had been agreed upon when it failed.
    begun: Option<TlsInfo>,
}

async fn handshake(
    tls: &DownstreamTls,
    side: &Arc<ServerSide>,
    mut io: Io,
    info: &ConnectionInfo,
    stats: &Rc<TlsStats>,
    seen: &mut Seen,
) -> Result<(ServerStream, Option<Box<str>>), TlsError> {
    let mut incoming = Buffer::default();
    let accepted = hello::read(&mut io, &mut incoming).await?;
    let speaks_latest = hello::speaks_latest(incoming.filled());
    let hello = Hello { said: accepted.client_hello(), speaks_latest };
    let name = hello.said.server_name();
    // An address is no name to rustls, and a name to Envoy.
    if side.requires_sni && name.is_none() && !hello::names_server(incoming.filled()) {
        return Err(TlsError::NoServerName);
    }
    let on_demand = match tls.is_on_demand() {
        true => {
            // It may be a long time until there is an answer.
            incoming.settle();
            match ask(tls, name, &mut io).await? {
                Some(side) => Some(side),
                None => {
                    refuse(io).await;
                    return Err(TlsError::NoCertificate);
                }
            }
        }
        false => None,
    };
    let side = on_demand.as_ref().unwrap_or(side);
    seen.local = side.certificate_for(&hello);
    seen.server_name = name.map(Into::into);
    if hello::asks_for_status(incoming.filled()) {
        let staple = side.staple_for(&hello);
        stats.asked_for_status(staple);
        if staple == Staple::Failed {
            refuse(io).await;
            return Err(TlsError::NoCertificate);
        }
    }
    if !side.signs_for(&hello) {
        seen.begun = Some(TlsInfo { version: "TLSv1.2", ..TlsInfo::default() });
        refuse(io).await;
        return Err(reason::nothing_shared().into());
    }
    let server = side.server(&hello, info.local.ip(), info.remote.ip());
    let server = without_alpn(&hello.said, server).unwrap_or_else(|| server.clone());
    seen.witness.made.group = older_group(&hello.said, &server);
    // It was read to choose by; the session reads it anew.
    drop(accepted);
    let mut stream = ServerStream::new(io, server, incoming, stats.clone())?;
    match stream.handshake(&mut seen.witness, seen.workload.as_deref()).await {
        Ok(session_id) => Ok((stream, session_id)),
        Err(error) => {
            let session = stream.session();
            seen.begun = Some(of_session(session, &[]));
            Err(reason::in_version(error, session.protocol_version()).into())
        }
    }
}

/// The group in which keys will be exchanged in TLS 1.2: rustls tells of it when the session has been kept already.
fn older_group(hello: &ClientHello<'_>, server: &ServerConfig) -> Option<NamedGroup> {
    let ours = &server.crypto_provider().kx_groups;
    let is_spoken = |name: &&NamedGroup| {
        ours.iter().any(|group| group.name() == **name && group.usable_for_version(ProtocolVersion::TLSv1_2))
    };
    hello.named_groups()?.iter().find(is_spoken).copied()
}

/// Asks for the certificate for this server, unless the client goes away before it comes.
async fn ask(tls: &DownstreamTls, name: Option<&str>, io: &mut Io) -> io::Result<Option<Arc<ServerSide>>> {
    tokio::select! {
        biased;
        side = tls.on_demand(name) => Ok(side),
        () = poll_fn(|cx| io.poll_closed(cx)) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Ends a handshake for which there is no certificate that could be shown.
async fn refuse(mut io: Io) {
    // Whoever does not take it learns by the end of the connection.
    let _ = io.write_all(&hello::fatal_alert(AlertDescription::HandshakeFailure)).await;
}

/// What a client is answered with that speaks none of our protocols. Envoy: nothing is chosen, and it is served.
fn without_alpn(hello: &ClientHello<'_>, server: &Arc<ServerConfig>) -> Option<Arc<ServerConfig>> {
    let is_ours = |name: &[u8]| server.alpn_protocols.iter().any(|own| own == name);
    let has_none = !server.alpn_protocols.is_empty() && hello.alpn().is_some_and(|mut names| !names.any(is_ours));
    has_none.then(|| {
        let mut silent = ServerConfig::clone(server);
        silent.alpn_protocols.clear();
        silent.into()
    })
}

fn of_session(session: &CommonState, chain: &[CertificateDer<'_>]) -> TlsInfo {
    TlsInfo {
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        },
        cipher: session.negotiated_cipher_suite().map_or("", |suite| cipher_name(suite.suite())),
        group: session.negotiated_key_exchange_group().map_or("", |group| group_name(group.name())),
        alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into()),
        server_name: None,
        session_id: None,
        is_resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        local: None,
        peer: chain.first().and_then(certificate_info).map(Arc::new),
        intermediates: chain.iter().skip(1).filter_map(certificate_info).map(Arc::new).collect(),
        issuer: None,
        completed: None,
        is_validated: false,
    }
}

fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}

fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "P-256",
        NamedGroup::secp384r1 => "P-384",
        NamedGroup::secp521r1 => "P-521",
        NamedGroup::MLKEM1024 => "MLKEM1024",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => "",
    }
}
