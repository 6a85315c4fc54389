//! Sessions whose datagrams go to a host, and come from it, by a socket.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use nuncio_filter_api::UdpSent;
use nuncio_net::{DatagramSocket, Readiness, Receiver};
use nuncio_telemetry::Address;
use smallvec::SmallVec;
use tracing::debug;

use super::config::{Config, Source};
use super::session::{Deadlines, Over, Session};
use super::sessions::Key;
use crate::capsule::CapsuleError;
use crate::host::Host;
use crate::worker::{ClusterShare, WorkerHost};

/// A host, and the socket to it.
pub(super) struct Direct {
    pub(super) host: Rc<WorkerHost>,
    socket: DatagramSocket,
    /// How often the host had failed when it was last seen to be of its cluster.
    failures: Cell<u32>,
}

// === impl Direct ===

impl Direct {
    pub(super) fn new(config: &Config, key: Key, host: Rc<WorkerHost>) -> io::Result<Self> {
        let Address::Ip(to) = host.host.address() else { return Err(io::ErrorKind::Unsupported.into()) };
        let joined = config.socket.prefers_gro;
        let socket = match config.source {
            Source::Own => DatagramSocket::connected(to, joined),
            Source::Client => DatagramSocket::transparent(to, key.peer.ip(), joined),
        };
        Ok(Self { failures: Cell::new(host.host.failures()), host, socket: socket? })
    }

    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn is_host_lost(&self, share: &ClusterShare) -> bool {
        let failures = self.host.host.failures();
        if failures == self.failures.get() {
            return false;
        }
        self.failures.set(failures);
        !is_of(&self.host.host, share)
    }

    /// Sends datagrams to the host.
    pub(super) fn send(&self, session: &Session, payloads: &[&[u8]]) {
        let UdpSent { datagrams, bytes, errors } =
            self.socket.send(&mut session.sessions.sender.borrow_mut(), payloads);
        if datagrams > 0 {
            session.target.stats.sess_tx_datagrams().add(datagrams);
            session.target.share.cluster.stats.upstream_cx_tx_bytes_total().add(bytes);
        }
        if errors > 0 {
            session.target.stats.sess_tx_errors().add(errors);
        }
    }

    /// Sends datagrams of the host to the client, until the session is over.
    pub(super) async fn run(&self, session: &Session) -> Over {
        let mut deadlines = Deadlines::new(session);
        let signal = self.host.host.signal();
        loop {
            let mut ready = pin!(self.socket.ready());
            let next = poll_fn(|cx| {
                signal.register(cx.waker());
                if self.is_host_lost(&session.target.share) {
                    return Poll::Ready(Err(Over::Lost));
                }
                match ready.as_mut().poll(cx) {
                    Poll::Ready(ready) => Poll::Ready(ready.map_err(|_| Over::Lost)),
                    Poll::Pending => deadlines.poll(session, cx).map(Err),
                }
            })
            .await;
            let received = match next {
                Err(over) => return over,
                Ok(ready) => self.receive(session, ready),
            };
            if received.is_err() {
                return Over::Lost;
            }
        }
    }

    fn receive(&self, session: &Session, ready: Readiness<'_>) -> Result<(), CapsuleError> {
        let receiver = &mut *session.sessions.receiver.borrow_mut();
        match ready.receive(receiver) {
            Ok(count) => return self.deliver(session, receiver, count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A host that takes nothing at its port: it may in a moment.
            Err(error) => {
                debug!(peer = %session.key.peer, host = %self.host.host.address(), %error, "receiving failed");
                session.target.stats.sess_rx_errors().inc();
            }
        }
        Ok(())
    }

    /// Sends what the first `count` slots hold to the client.
    fn deliver(&self, session: &Session, receiver: &Receiver, count: usize) -> Result<(), CapsuleError> {
        let longest = session.sessions.config.socket.longest();
        // One datagram at a time allocates nothing.
        let mut payloads: SmallVec<[&[u8]; 16]> = SmallVec::new();
        let mut dropped = 0;
        for received in (0..count).map(|slot| receiver.get(slot)) {
            match received.fits(longest) {
                true => payloads.extend(received.datagrams()),
                false => dropped += 1,
            }
        }
        let stats = &session.target.stats;
        if dropped > 0 {
            stats.sess_rx_datagrams_dropped().add(dropped);
        }
        if !payloads.is_empty() {
            let bytes = payloads.iter().map(|payload| payload.len() as u64).sum();
            stats.sess_rx_datagrams().add(payloads.len() as u64);
            session.target.share.cluster.stats.upstream_cx_rx_bytes_total().add(bytes);
        }
        session.pass_back(&payloads)
    }
}

/// Whether `host` is one of the cluster's now.
fn is_of(host: &Arc<Host>, share: &ClusterShare) -> bool {
    share.cluster.hosts().hosts.iter().any(|other| Arc::ptr_eq(other, host))
}
