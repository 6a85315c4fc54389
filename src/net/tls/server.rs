//! A session with a client.
//!
//! Why not tokio-rustls: a session of rustls that has buffers of its own keeps 4 KiB for what it may receive while it
//! waits, a quarter of what an idle connection costs. One without has them borrowed from the worker.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use nuncio_config::tls::{Witness, for_workload};
use nuncio_filter_api::{Io, Transport};
use nuncio_telemetry::ConnectionInfo;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{AlertDescription, CommonState, Error, HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::alert;
use super::buffer::{Buffer, MOST, RECORD};
use super::hello::{self, SessionId};
use super::reason;
use crate::tls_stats::TlsStats;

/// Room for what is written without content: alerts, and what a session may have queued.
const FEW: usize = 512;
/// More than a record costs beside its content.
const OVERHEAD: usize = 64;

/// A connection to a client that speaks TLS. Polled by one task.
pub(super) struct ServerStream {
    io: Io,
    session: UnbufferedServerConnection,
    config: Arc<ServerConfig>,
    stats: Rc<TlsStats>,
    incoming: Buffer,
    /// Decrypted, and not read yet.
    plain: Buffer,
    outgoing: Buffer,
    /// Nothing more comes: the client has said so, or the socket has ended.
    is_ended: bool,
    /// Nothing more goes out.
    is_shut: bool,
    /// It ends with a reset.
    is_reset: bool,
    /// Why the session is over; it must not be asked again.
    failure: Option<Box<Error>>,
    /// Where it is told that the session broke after its handshake.
    pub(super) client: Option<Rc<ConnectionInfo>>,
}

/// What a session is asked for.
enum Want<'a, 'b> {
    Handshake,
    /// What it decrypts goes here.
    Plain(&'a mut ReadBuf<'b>),
    /// To encrypt this.
    Data(&'a [u8]),
    CloseNotify,
}

/// How far a session has got.
enum Step {
    /// Bytes to be read were decrypted; there may be more.
    Decrypted,
    /// All that came is used, and what was to be encrypted is.
    Done,
    /// It cannot go on without bytes of the client.
    Blocked,
}

impl ServerStream {
    /// A session that begins with what `incoming` holds.
    pub(super) fn new(io: Io, config: Arc<ServerConfig>, incoming: Buffer, stats: Rc<TlsStats>) -> io::Result<Self> {
        let session = UnbufferedServerConnection::new(config.clone()).map_err(io::Error::other)?;
        let (plain, outgoing) = (Buffer::default(), Buffer::default());
        let (is_ended, is_shut, is_reset, failure, client) = (false, false, false, None, None);
        Ok(Self { io, session, config, stats, incoming, plain, outgoing, is_ended, is_shut, is_reset, failure, client })
    }

    /// What the handshake brought.
    pub(super) fn session(&self) -> &CommonState {
        &self.session
    }

    /// Makes the handshake; tells the name of the session, where it has one.
    pub(super) async fn handshake(
        &mut self,
        witness: &mut Witness,
        workload: Option<&str>,
    ) -> io::Result<Option<Box<str>>> {
        let mut given = None;
        poll_fn(|cx| self.poll_handshake(&mut given, witness, workload, cx)).await?;
        // Envoy: a session that will be asked for by its ticket has no name before.
        let is_resumed = self.session.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok(given.filter(|given| is_resumed || !given.has_ticket).map(|given| given.id))
    }

    fn poll_handshake(
        &mut self,
        given: &mut Option<SessionId>,
        witness: &mut Witness,
        workload: Option<&str>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let group = self.session.negotiated_key_exchange_group().map(|group| group.name());
            witness.made.group = group.or(witness.made.group);
            std::mem::take(witness).give();
            let advanced = for_workload(workload, || self.advance(&mut Want::Handshake));
            *witness = Witness::take();
            if let Err(error) = advanced {
                // The client is told by an alert if it takes it at once.
                let _ = self.poll_send(cx);
                return Poll::Ready(Err(error));
            }
            // TLS 1.3 only repeats what the client has made up (RFC 8446 §4.1.3).
            if given.is_none() && self.session.protocol_version() == Some(ProtocolVersion::TLSv1_2) {
                *given = hello::session_id(self.outgoing.filled());
            }
            self.incoming.settle();
            ready!(self.poll_send(cx))?;
            if !self.session.is_handshaking() {
                return Pin::new(&mut self.io).poll_flush(cx);
            }
            if ready!(self.incoming.poll_fill(&mut self.io, cx))? == 0 {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof")));
            }
        }
    }

    /// Lets the session work on what has come, until it has decrypted something or encrypted what is wanted.
    fn advance(&mut self, want: &mut Want<'_, '_>) -> io::Result<Step> {
        if let Some(error) = &self.failure {
            return Err(io::Error::new(io::ErrorKind::InvalidData, Error::clone(error)));
        }
        loop {
            let UnbufferedStatus { mut discard, state } = self.session.process_tls_records(self.incoming.filled_mut());
            let step = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        self.plain.extend(want.take(record.payload));
                    }
                    Ok(Some(Step::Decrypted))
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing).map(|()| None),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // It stands in the buffer before all that follows.
                    data.done();
                    Ok(None)
                }
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    want.encrypt(traffic, &mut self.outgoing).map(|()| Some(Step::Done))
                }
                Ok(ConnectionState::BlockedHandshake) => Ok(Some(Step::Blocked)),
                Ok(ConnectionState::PeerClosed) => {
                    self.is_ended = true;
                    Ok(None)
                }
                Ok(ConnectionState::Closed) => Ok(Some(Step::Done)),
                Ok(_) => Err(io::Error::other("a state of TLS that was not asked for")),
                Err(error) => return Err(self.fail(error)),
            };
            self.incoming.consume(discard);
            if let Some(step) = step? {
                return Ok(step);
            }
        }
    }

    /// The session is over; what it has to say of that goes to the buffer.
    fn fail(&mut self, error: Error) -> io::Error {
        let before = self.outgoing.filled().len();
        while self.session.wants_write() {
            let state = self.session.process_tls_records(self.incoming.filled_mut()).state;
            let Ok(ConnectionState::EncodeTlsData(data)) = state else { break };
            if encode(data, &mut self.outgoing).is_err() {
                break;
            }
        }
        if let (Error::NoCertificatesPresented, Some(ProtocolVersion::TLSv1_2)) =
            (&error, self.session.protocol_version())
            && let Some(alert) = self.outgoing.filled_mut()[before..].last_mut()
        {
            // certificate_required, which rustls sends, is of TLS 1.3 (RFC 8446 §6.2). Nothing is encrypted yet.
            *alert = AlertDescription::HandshakeFailure.into();
        }
        if !self.session.is_handshaking() {
            self.stats.broke_off(Some(&error));
        }
        self.failure = Some(Box::new(error.clone()));
        self.incoming.clear();
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        if let Some(client) = self.client.take() {
            *client.transport_failure.borrow_mut() = Some(reason::of_broken(&error).into());
        }
        error
    }

    /// Writes what is encrypted.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = Poll::Ready(Ok(()));
        while !self.outgoing.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, self.outgoing.filled()) {
                Poll::Ready(Ok(0)) => sent = Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.outgoing.consume(count);
                    continue;
                }
                Poll::Ready(Err(error)) => sent = Poll::Ready(Err(error)),
                Poll::Pending => sent = Poll::Pending,
            }
            break;
        }
        self.outgoing.settle();
        sent
    }

    /// Fills `buf` with what is decrypted; waits only where there is nothing.
    fn poll_plain(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let count = self.plain.filled().len().min(buf.remaining());
        buf.put_slice(&self.plain.filled()[..count]);
        self.plain.consume(count);
        while buf.remaining() > 0 {
            let had = self.outgoing.filled().len();
            let step = self.advance(&mut Want::Plain(buf));
            if self.outgoing.filled().len() > had {
                // What cannot be written now goes with what is written next.
                let _ = self.poll_send(cx);
            }
            let has_read = buf.filled().len() > before;
            match step {
                Ok(Step::Decrypted) => continue,
                Ok(Step::Done | Step::Blocked) if has_read || self.is_ended => break,
                Ok(Step::Done | Step::Blocked) => {}
                // The next read tells of it.
                Err(_) if has_read => break,
                Err(error) => return Poll::Ready(Err(error)),
            }
            // Peers that close without close_notify are many; whatever is framed shows whether bytes lack.
            self.is_ended = ready!(self.incoming.poll_fill(&mut self.io, cx))? == 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts the first bytes of these, as many as are written at once. Small ones share a record.
    fn encrypt(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let (mut taken, mut gathered) = (0, Buffer::default());
        for buf in bufs {
            let mut rest = &buf[..buf.len().min(MOST - taken)];
            taken += rest.len();
            if bufs.len() > 1 && (!gathered.is_empty() || rest.len() < RECORD) {
                let first;
                (first, rest) = rest.split_at(rest.len().min(RECORD - gathered.filled().len()));
                gathered.extend(first);
            }
            if gathered.filled().len() == RECORD {
                self.encrypt_all(gathered.filled())?;
                gathered.clear();
            }
            self.encrypt_all(rest)?;
        }
        self.encrypt_all(gathered.filled())?;
        gathered.clear();
        gathered.settle();
        Ok(taken)
    }

    fn encrypt_all(&mut self, data: &[u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if self.is_shut {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            match self.advance(&mut Want::Data(data))? {
                // It waits for whoever reads.
                Step::Decrypted => {}
                Step::Done => return Ok(()),
                Step::Blocked => return Err(io::ErrorKind::NotConnected.into()),
            }
        }
    }

    /// Has the session do what is wanted of it, and take in what has come.
    fn finish(&mut self, mut want: Want<'_, '_>) {
        loop {
            match self.advance(&mut want) {
                Ok(Step::Decrypted) => {}
                // A session that is over has said so in its own way.
                Ok(Step::Done | Step::Blocked) | Err(_) => return,
            }
        }
    }

    /// Ends the session with an alert.
    fn end_with(&mut self, alert: AlertDescription) {
        // What it has queued goes before.
        self.finish(Want::Handshake);
        if self.failure.is_some() || self.is_shut {
            return;
        }
        let Ok(fresh) = UnbufferedServerConnection::new(self.config.clone()) else { return };
        let session = std::mem::replace(&mut self.session, fresh);
        match alert::fatal(session, alert) {
            Ok(record) => self.outgoing.extend(&record),
            Err(error) => tracing::debug!(%error, "no alert can be made"),
        }
        // The one that stands in its place has nothing to say.
        self.failure = Some(Box::new(Error::General("the session was ended".into())));
        // Envoy counts the end that it has brought about itself.
        self.stats.broke();
    }
}

impl Want<'_, '_> {
    /// Takes what it can of bytes that were decrypted, and gives back the rest.
    fn take<'r>(&mut self, bytes: &'r [u8]) -> &'r [u8] {
        let Self::Plain(buf) = self else { return bytes };
        let (first, rest) = bytes.split_at(bytes.len().min(buf.remaining()));
        buf.put_slice(first);
        rest
    }

    fn encrypt<D>(&self, mut traffic: WriteTraffic<'_, D>, outgoing: &mut Buffer) -> io::Result<()> {
        let mut room = match self {
            Self::Handshake | Self::Plain(_) => return Ok(()),
            Self::Data(data) => data.len() + (data.len() / RECORD + 1) * OVERHEAD + FEW,
            Self::CloseNotify => FEW,
        };
        loop {
            let out = outgoing.room(room);
            let done = match self {
                Self::Data(data) => traffic.encrypt(data, out),
                _ => traffic.queue_close_notify(out),
            };
            match done {
                Ok(count) => {
                    outgoing.fill(count);
                    return Ok(());
                }
                Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size }))
                    if required_size > room =>
                {
                    room = required_size;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Buffer) -> io::Result<()> {
    let mut room = FEW;
    loop {
        match data.encode(outgoing.room(room)) {
            Ok(count) => {
                outgoing.fill(count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) if required_size > room => {
                room = required_size;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

impl Transport for ServerStream {
    fn reset_on_drop(&mut self) {
        self.is_reset = true;
        self.io.reset_on_drop();
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_closed(cx)
    }

    fn deny(&mut self, cx: &mut Context<'_>) {
        self.end_with(AlertDescription::AccessDenied);
        // Who does not take it at once learns by the end of the connection.
        let _ = self.poll_send(cx);
    }
}

/// Whoever drops a connection has closed it, as Envoy's filters do: the client is told that nothing was cut off, if it
/// takes that at once.
impl Drop for ServerStream {
    fn drop(&mut self) {
        if self.is_shut || self.is_reset || self.session.is_handshaking() {
            return;
        }
        self.finish(Want::CloseNotify);
        let _ = self.poll_send(&mut Context::from_waker(Waker::noop()));
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = this.poll_plain(cx, buf);
        if this.is_ended {
            this.incoming.clear();
        }
        this.incoming.settle();
        this.plain.settle();
        read
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    /// What was encrypted is taken, whether or not the socket has room; nothing more is until that is written.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        let taken = this.encrypt(bufs)?;
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut {
            this.finish(Want::CloseNotify);
            this.is_shut = true;
        }
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.io).poll_shutdown(cx)) {
            // Who is gone need not be told.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

#[cfg(test)]
mod tests;
