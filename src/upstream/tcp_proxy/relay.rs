//! The bytes of a session, both ways: copied through a buffer of the worker where they are few, by the kernel alone
//! (splice) where they come in bulk from socket to socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use nuncio_filter_api::Io;
use nuncio_net::Pipe;
use nuncio_telemetry::{CloseType, ResponseFlag};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::{Deadlines, Early, Expired, Session};
use crate::attempt::ActiveRequest;
use crate::pool::connection::ClosedBy;

/// Both directions of a session.
pub(super) struct Relay<'a> {
    session: &'a Session,
    downstream: Io,
    upstream: Io,
    active: ActiveRequest,
    /// From the client to the host.
    to_host: Direction,
    to_client: Direction,
    /// The host has sent its last before the client did.
    host_ended_first: bool,
    /// Nothing is read of the client: its host has not taken what was there.
    is_paused: bool,
    /// Bytes in the gauge of what the client has not taken.
    waiting: u64,
}

/// How the relaying ended.
pub(super) enum Ended {
    /// Both sides have sent all they had.
    Done,
    /// The connection to this side failed.
    Failed(Side, io::ErrorKind),
    /// The host failed its health checks, and takes its connections with it.
    HostGone,
    /// Bytes have passed while the listener drains.
    Drained,
    Expired(Expired),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Host,
}

/// One direction: a source is read only when all that it gave before is with its sink.
#[derive(Default)]
struct Direction {
    /// Bytes that the sink has not taken yet, from `at` on.
    held: Vec<u8>,
    at: usize,
    /// What carries bulk, while it does.
    pipe: Option<Pipe>,
    /// Something was written that may not have been sent.
    is_dirty: bool,
    state: State,
    /// Bytes passed.
    read: u64,
    written: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The source has sent all it has; the sink is to be told.
    Ending,
    Done,
}

/// An error, and whose.
struct Broken(Side, io::Error);

/// Reads of one direction in a row, before others get their turn.
const TURNS: u32 = 16;

// === impl Relay ===

impl<'a> Relay<'a> {
    pub(super) fn new(session: &'a Session, downstream: Io, early: Early, upstream: Io, active: ActiveRequest) -> Self {
        let Early { bytes, has_ended } = early;
        let state = if has_ended { State::Ending } else { State::Open };
        let to_host = Direction { read: bytes.len() as u64, held: bytes, state, ..Direction::default() };
        let to_client = Direction::default();
        Self {
            session,
            downstream,
            upstream,
            active,
            to_host,
            to_client,
            host_ended_first: false,
            is_paused: false,
            waiting: 0,
        }
    }

    /// Passes on what there is; ready at the end.
    pub(super) fn poll(&mut self, deadlines: &mut Deadlines, cx: &mut Context<'_>) -> Poll<Ended> {
        let before = (self.to_host.read + self.to_host.written, self.to_client.read + self.to_client.written);
        let passed = self.poll_both(cx);
        let after = (self.to_host.read + self.to_host.written, self.to_client.read + self.to_client.written);
        self.host_ended_first |= self.to_host.state == State::Open && self.to_client.state != State::Open;
        self.note_held();
        if before != after {
            self.count();
            deadlines.touch(self.session.worker.clock.now());
        }
        match passed {
            Err(Broken(side, error)) => return Poll::Ready(Ended::Failed(side, error.kind())),
            Ok(()) if self.to_host.is_done() && self.to_client.is_done() => return Poll::Ready(Ended::Done),
            Ok(()) => {}
        }
        if before != after && self.session.config.checks_drain && self.session.drain.is_draining() {
            return Poll::Ready(Ended::Drained);
        }
        if self.active.share.cluster.config.close_connections_on_host_health_failure {
            self.active.host.signal().register(cx.waker());
            if self.active.record.is_given_up() {
                return Poll::Ready(Ended::HostGone);
            }
        }
        deadlines.poll_expired(self.session, cx).map(Ended::Expired)
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        let Self { session, downstream, upstream, to_host, to_client, .. } = self;
        // `Pending` is all that there is for now.
        let (down, up) = (&mut *downstream, &mut *upstream);
        let to_host = to_host.poll(down, up, session, cx).map_err(|e| e.between(Side::Client, Side::Host));
        let to_client = to_client.poll(up, down, session, cx).map_err(|e| e.between(Side::Host, Side::Client));
        // What the host said last still went to the client.
        to_host.and(to_client)
    }

    /// Counts what is held back for want of room.
    fn note_held(&mut self) {
        let stats = &self.session.config.stats;
        let is_paused = self.to_host.held() > 0;
        if is_paused != self.is_paused {
            self.is_paused = is_paused;
            match is_paused {
                true => stats.downstream_flow_control_paused_reading_total().inc(),
                false => stats.downstream_flow_control_resumed_reading_total().inc(),
            }
        }
        let waiting = self.to_client.held();
        if waiting != self.waiting {
            let gauge = stats.downstream_cx_tx_bytes_buffered();
            gauge.add(waiting);
            gauge.sub(std::mem::replace(&mut self.waiting, waiting));
        }
    }

    /// Brings counters and record up to date.
    fn count(&mut self) {
        let (stats, info) = (&self.session.config.stats, &self.session.info);
        let received = self.to_host.read - info.bytes_received.get();
        let sent = self.to_client.written - info.wire_bytes_sent.get();
        if received > 0 {
            stats.downstream_cx_rx_bytes_total().add(received);
        }
        if sent > 0 {
            stats.downstream_cx_tx_bytes_total().add(sent);
        }
        info.bytes_received.set(self.to_host.read);
        info.wire_bytes_received.set(self.to_host.read);
        info.bytes_sent.set(self.to_client.read);
        info.wire_bytes_sent.set(self.to_client.written);
        // Of HTTP, the codec knows.
        if info.is_logged.get() && !self.active.is_http() {
            let mut upstream = info.upstream.borrow_mut();
            upstream.wire_bytes_sent = self.to_host.read;
            upstream.wire_bytes_received = self.to_client.read;
        }
    }

    /// Closes both sides as the end of it asks for.
    pub(super) fn end(&mut self, ended: &Ended) {
        let info = &self.session.info;
        match ended {
            // Envoy: the side that ends last has closed both connections.
            Ended::Done if self.host_ended_first && !self.active.is_http() => {
                self.active.record.closed_by.set(ClosedBy::Us)
            }
            Ended::Done if self.active.is_http() => self.active.end(),
            Ended::Done => {}
            Ended::Failed(Side::Client, kind) => {
                self.active.record.closed_by.set(ClosedBy::Us);
                if *kind == io::ErrorKind::ConnectionReset {
                    info.connection.close_type.set(CloseType::RemoteReset);
                    self.upstream.reset_on_drop();
                }
            }
            Ended::Failed(Side::Host, kind) => {
                if *kind == io::ErrorKind::ConnectionReset {
                    // Envoy: a reset goes on to the other side.
                    info.flag(ResponseFlag::UpstreamRemoteReset);
                    info.upstream.borrow_mut().close_type = CloseType::RemoteReset;
                    info.connection.close_type.set(CloseType::LocalReset);
                    self.downstream.reset_on_drop();
                }
            }
            Ended::Drained => {
                info.connection.local_close_reason.set(Some("drain_close"));
                self.active.record.closed_by.set(ClosedBy::Us);
            }
            Ended::HostGone | Ended::Expired(_) => self.active.record.closed_by.set(ClosedBy::Us),
        }
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        if self.waiting > 0 {
            self.session.config.stats.downstream_cx_tx_bytes_buffered().sub(self.waiting);
        }
    }
}

// === impl Direction ===

/// Whose fault an error is.
enum Fault {
    Source(io::Error),
    Sink(io::Error),
}

impl Fault {
    fn between(self, source: Side, sink: Side) -> Broken {
        match self {
            Self::Source(error) => Broken(source, error),
            Self::Sink(error) => Broken(sink, error),
        }
    }
}

impl Direction {
    fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes that the sink has not taken.
    fn held(&self) -> u64 {
        let piped = self.pipe.as_ref().map_or(0, |pipe| pipe.held());
        (self.held.len() - self.at + piped) as u64
    }

    /// Passes on what there is.
    fn poll(&mut self, from: &mut Io, to: &mut Io, session: &Session, cx: &mut Context<'_>) -> Result<(), Fault> {
        for _ in 0..TURNS {
            match self.poll_once(from, to, session, cx) {
                Poll::Pending => return self.flush(to, cx),
                Poll::Ready(outcome) => outcome?,
            }
            if self.is_done() {
                return Ok(());
            }
        }
        cx.waker().wake_by_ref();
        self.flush(to, cx)
    }

    /// One step: gives on what is held, or else reads.
    fn poll_once(
        &mut self,
        from: &mut Io,
        to: &mut Io,
        session: &Session,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        if self.at < self.held.len() {
            return self.poll_held(to, cx);
        }
        if self.pipe.is_some() {
            return self.poll_pipe(from, to, session, cx);
        }
        match self.state {
            State::Done => Poll::Pending,
            State::Ending => {
                if Pin::new(&mut *to).poll_shutdown(cx).map_err(Fault::Sink)?.is_pending() {
                    return Poll::Pending;
                }
                self.state = State::Done;
                Poll::Ready(Ok(()))
            }
            State::Open => self.poll_copy(from, to, session, cx),
        }
    }

    fn poll_held(&mut self, to: &mut Io, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        match Pin::new(to).poll_write(cx, &self.held[self.at..]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(Fault::Sink(error))),
            Poll::Ready(Ok(written)) => {
                self.wrote(written)?;
                self.at += written;
                if self.at == self.held.len() {
                    // Nothing is kept for connections that do nothing.
                    (self.held, self.at) = (Vec::new(), 0);
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_copy(
        &mut self,
        from: &mut Io,
        to: &mut Io,
        session: &Session,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        let env = session.clusters.env();
        let mut scratch = env.scratch.borrow_mut();
        let most = scratch.len().min(session.buffer_limit.max(1));
        let mut buffer = ReadBuf::new(&mut scratch[..most]);
        match Pin::new(&mut *from).poll_read(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Source(error))),
            Poll::Ready(Ok(())) => {}
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            self.state = State::Ending;
            return Poll::Ready(Ok(()));
        }
        self.read += bytes.len() as u64;
        let written = match Pin::new(&mut *to).poll_write(cx, bytes) {
            Poll::Pending => 0,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Sink(error))),
            Poll::Ready(Ok(written)) => {
                self.wrote(written)?;
                written
            }
        };
        if written < bytes.len() {
            self.held.extend_from_slice(&bytes[written..]);
        }
        if bytes.len() == most && from.socket().is_some() && to.socket().is_some() {
            self.pipe = env.pipes.take();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_pipe(
        &mut self,
        from: &mut Io,
        to: &mut Io,
        session: &Session,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
        if pipe.held() > 0 {
            let Some(socket) = to.socket() else {
                return Poll::Ready(Err(Fault::Sink(io::ErrorKind::NotConnected.into())));
            };
            return match pipe.poll_drain(socket, cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(Fault::Sink(error))),
                Poll::Ready(Ok(sent)) => {
                    self.written += sent as u64;
                    to.moved(0, sent as u64);
                    Poll::Ready(Ok(()))
                }
            };
        }
        let filled = match from.socket() {
            Some(socket) => pipe.poll_fill(socket, cx),
            None => Poll::Pending,
        };
        match filled {
            Poll::Pending => {
                // The bulk is over, or pauses: a buffer is cheaper for what comes in drops.
                session.clusters.env().pipes.give_back(self.pipe.take());
                if from.socket().is_none() { Poll::Ready(Ok(())) } else { Poll::Pending }
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(Fault::Source(error))),
            Poll::Ready(Ok(0)) => {
                from.ended();
                session.clusters.env().pipes.give_back(self.pipe.take());
                self.state = State::Ending;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(filled)) => {
                self.read += filled as u64;
                from.moved(filled as u64, 0);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn wrote(&mut self, written: usize) -> Result<(), Fault> {
        if written == 0 {
            return Err(Fault::Sink(io::ErrorKind::WriteZero.into()));
        }
        self.written += written as u64;
        self.is_dirty = true;
        Ok(())
    }

    /// Has the transport send what it was given.
    fn flush(&mut self, to: &mut Io, cx: &mut Context<'_>) -> Result<(), Fault> {
        if !self.is_dirty {
            return Ok(());
        }
        match Pin::new(to).poll_flush(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.is_dirty = false,
            Poll::Ready(Err(error)) => return Err(Fault::Sink(error)),
        }
        Ok(())
    }
}
