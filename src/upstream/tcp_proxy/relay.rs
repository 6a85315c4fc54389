//! The bytes of a session, both ways, until its end, and what is counted of them.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use nuncio_filter_api::Io;
use nuncio_telemetry::{CloseType, Protocol, ResponseFlag};

use super::direction::{Direction, Fault, State};
use super::flow::Flow;
use super::session::{Deadlines, Early, Expired, Session};
use crate::attempt::ActiveRequest;
use crate::host::Signal;
use crate::pool::connection::ClosedBy;

/// Both directions of a session.
pub(super) struct Relay<'a> {
    session: &'a Session,
    downstream: Io,
    upstream: Io,
    active: ActiveRequest,
    /// Raised when the host fails, where its connections go with it.
    host_fails: Option<Arc<Signal>>,
    /// From the client to the host.
    to_host: Direction,
    to_client: Direction,
    /// The host has sent its last before the client did.
    host_ended_first: bool,
    flow: Flow,
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

/// An error, and whose.
struct Broken(Side, io::Error);

// === impl Relay ===

impl<'a> Relay<'a> {
    pub(super) fn new(session: &'a Session, downstream: Io, early: Early, upstream: Io, active: ActiveRequest) -> Self {
        let Early { bytes, has_ended } = early;
        if active.is_http() {
            session.info.upstream.borrow_mut().wire_bytes_sent += bytes.len() as u64;
        }
        let to_host = Direction::beginning_with(bytes, has_ended);
        let to_client = Direction::default();
        let ends_with_host = active.share.cluster.config.close_connections_on_host_health_failure;
        let host_fails = ends_with_host.then(|| active.host.signal());
        Self {
            session,
            downstream,
            upstream,
            active,
            host_fails,
            to_host,
            to_client,
            host_ended_first: false,
            flow: Flow::default(),
        }
    }

    /// Passes on what there is; ready at the end.
    pub(super) fn poll(&mut self, deadlines: &mut Deadlines, cx: &mut Context<'_>) -> Poll<Ended> {
        let before = (self.to_host.passed(), self.to_client.passed());
        let was_open = self.to_host.state == State::Open;
        let passed = self.poll_both(cx);
        let after = (self.to_host.passed(), self.to_client.passed());
        if was_open && self.to_host.state != State::Open && before.0 != after.0 {
            self.note_last_words();
        }
        self.host_ended_first |= self.to_host.state == State::Open && self.to_client.state != State::Open;
        self.note_held();
        if before != after {
            self.count();
            deadlines.touch(self.session.worker.clock.now());
        }
        match passed {
            Err(Broken(side, error)) => return Poll::Ready(Ended::Failed(side, error.kind())),
            // Envoy ends a tunnel over HTTP/1 with its client's last byte, and loses what the host says to that. Here it is
            // waited for: until something is written to it, a client that has gone looks like one that has ended its half.
            Ok(()) if self.to_host.is_done() && self.to_client.is_done() => return Poll::Ready(Ended::Done),
            // Over HTTP/1 a host that has sent its last has closed the connection.
            Ok(()) if self.to_client.is_done() && self.active.record.protocol() == Some(Protocol::Http11) => {
                return Poll::Ready(Ended::Done);
            }
            Ok(()) => {}
        }
        if before != after && self.session.is_draining() {
            return Poll::Ready(Ended::Drained);
        }
        if let Some(host_fails) = &self.host_fails {
            host_fails.register(cx.waker());
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
        let before = to_host.passed();
        let passed = to_host.poll(down, up, session, cx).map_err(|e| e.between(Side::Client, Side::Host));
        if before != to_host.passed() && session.is_draining() {
            // Envoy: these are the last bytes, however soon they are answered.
            return passed;
        }
        // What the host said last still goes to the client, which must not take it for all where the host has failed.
        if matches!(passed, Err(Broken(Side::Host, _))) {
            to_client.sever();
        }
        let to_client = to_client.poll(up, down, session, cx).map_err(|e| e.between(Side::Host, Side::Client));
        passed.and(to_client)
    }

    /// The client has sent its last together with its end. Envoy: where the host has ended already, it has to be flushed
    /// to it without the client; here the kernel has it by now.
    fn note_last_words(&self) {
        if self.host_ended_first && !self.active.is_http() {
            self.session.config.stats.upstream_flush_total().inc();
        }
    }

    /// Counts what is held back for want of room.
    fn note_held(&mut self) {
        let Self { session, active, flow, to_host, to_client, .. } = self;
        flow.note(&session.config.stats, &active.share.cluster.stats, to_host, to_client);
    }

    /// Brings counters and record up to date.
    fn count(&mut self) {
        let (stats, info) = (&self.session.config.stats, &self.session.info);
        let received = self.to_host.read - info.bytes_received.get();
        let answered = self.to_client.read - info.bytes_sent.get();
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
        if info.is_logged.get() {
            let mut upstream = info.upstream.borrow_mut();
            match self.active.is_http() {
                // Envoy: what a tunnel carries is counted beside what the codec counts.
                true => {
                    upstream.wire_bytes_sent += received;
                    upstream.wire_bytes_received += answered;
                }
                false => {
                    upstream.wire_bytes_sent = self.to_host.read;
                    upstream.wire_bytes_received = self.to_client.read;
                }
            }
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
            // Over HTTP/1 a host may end before its request does, which then breaks off.
            Ended::Done if self.active.is_http() && self.to_host.is_done() => self.active.end(),
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
                    if self.active.is_http() {
                        self.active.end_by_reset();
                    }
                    // Envoy: a reset goes on to the other side.
                    info.flag(ResponseFlag::UpstreamRemoteReset);
                    info.upstream.borrow_mut().close_type = CloseType::RemoteReset;
                    info.connection.close_type.set(CloseType::LocalReset);
                    self.downstream.reset_on_drop();
                }
            }
            Ended::Drained => {
                self.session.config.stats.downstream_cx_drain_close().inc();
                info.connection.local_close_reason.set(Some("tcp_proxy_drain_close"));
                self.active.record.closed_by.set(ClosedBy::Us);
            }
            Ended::HostGone | Ended::Expired(_) => self.active.record.closed_by.set(ClosedBy::Us),
        }
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        self.flow.end(&self.session.config.stats, &self.active.share.cluster.stats);
    }
}

// === impl Fault ===

impl Fault {
    fn between(self, source: Side, sink: Side) -> Broken {
        match self {
            Self::Source(error) => Broken(source, error),
            Self::Sink(error) => Broken(sink, error),
        }
    }
}
