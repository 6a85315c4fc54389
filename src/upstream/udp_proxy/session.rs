//! A session: the datagrams of one client to one host, and back.

use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use nuncio_config::cluster::Priority;
use nuncio_filter_api::UdpSent;
use nuncio_net::{DatagramSocket, Readiness, Receiver};
use nuncio_telemetry::Address;
use nuncio_telemetry::format::AccessLogType;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;
use tracing::debug;

use super::config::Source;
use super::log::{SessionCounts, SessionLog};
use super::sessions::{Key, Sessions, Target, is_of};
use crate::host::Signal;
use crate::limits::Resource;
use crate::worker::WorkerHost;

/// One session.
pub(super) struct Session {
    sessions: Rc<Sessions>,
    pub(super) key: Key,
    pub(super) target: Rc<Target>,
    pub(super) host: Rc<WorkerHost>,
    socket: DatagramSocket,
    /// How often the host had failed when it was last seen to be of its cluster.
    failures: Cell<u32>,
    /// When the last datagram passed, either way.
    active_at: Cell<Instant>,
    counts: SessionCounts,
    log: Option<SessionLog>,
    task: OnceCell<AbortHandle>,
    has_ended: Cell<bool>,
}

/// Why a session ends by itself.
enum Over {
    Idle,
    HostLost,
    /// Its socket is of no use any more.
    Broken,
}

// === impl Session ===

impl Session {
    /// A session with `host`; `None` where there is no socket for it.
    pub(super) fn open(
        sessions: Rc<Sessions>,
        key: Key,
        target: Rc<Target>,
        host: Rc<WorkerHost>,
        now: Instant,
    ) -> Option<Rc<Self>> {
        let socket = match socket(&sessions, key, &host) {
            Ok(socket) => socket,
            Err(error) => {
                debug!(peer = %key.peer, host = %host.host.address(), %error, "no socket for a session");
                target.stats.sess_tx_errors().inc();
                return None;
            }
        };
        let config = &sessions.config;
        let cluster = &target.share.cluster;
        cluster.limits(Priority::Default).take(Resource::Connections, &cluster.stats);
        config.stats.downstream_sess_total().inc();
        config.stats.downstream_sess_active().inc();
        let id = sessions.clusters.env().clusters.next_session_id();
        let log = (!config.logs.is_empty()).then(|| SessionLog::new(id, &sessions, key, &host, now));
        let session = Rc::new(Self {
            failures: Cell::new(host.host.failures()),
            active_at: Cell::new(now),
            counts: SessionCounts::default(),
            log,
            task: OnceCell::new(),
            has_ended: Cell::new(false),
            sessions,
            key,
            target,
            host,
            socket,
        });
        let task = spawn_local(session.clone().run());
        // It is new: nobody has set it.
        let _ = session.task.set(task.abort_handle());
        Some(session)
    }

    /// Sends datagrams of the client to the host.
    pub(super) fn forward(&self, payloads: &[&[u8]], at: Instant) {
        let stats = &self.sessions.config.stats;
        let bytes = payloads.iter().map(|payload| payload.len() as u64).sum();
        stats.downstream_sess_rx_datagrams().add(payloads.len() as u64);
        stats.downstream_sess_rx_bytes().add(bytes);
        self.counts.received(payloads.len() as u64, bytes);
        self.active_at.set(at);
        let UdpSent { datagrams, bytes, errors } = self.socket.send(&mut self.sessions.sender.borrow_mut(), payloads);
        if datagrams > 0 {
            self.target.stats.sess_tx_datagrams().add(datagrams);
            self.target.share.cluster.stats.upstream_cx_tx_bytes_total().add(bytes);
        }
        if errors > 0 {
            self.target.stats.sess_tx_errors().add(errors);
        }
    }

    /// Whether it is still with a host of a cluster that there is.
    pub(super) fn is_current(&self) -> bool {
        let cluster = self.sessions.clusters.get(self.target.id);
        // An aggregate gives away hosts of others, whose going raises their signal.
        let is_there = cluster.is_some_and(|now| {
            Rc::ptr_eq(&now.shared, &self.target.share) || self.target.share.cluster.config.name.id != self.target.id
        });
        is_there && !self.is_host_lost()
    }

    fn is_host_lost(&self) -> bool {
        let failures = self.host.host.failures();
        if failures == self.failures.get() {
            return false;
        }
        self.failures.set(failures);
        !is_of(&self.host.host, &self.target.share)
    }

    /// Sends datagrams of the host to the client, until the session is over.
    async fn run(self: Rc<Self>) {
        let over = self.pass_back().await;
        if matches!(over, Over::Idle) {
            self.sessions.config.stats.idle_timeout().inc();
        }
        self.sessions.remove(&self);
    }

    async fn pass_back(&self) -> Over {
        let timers = &self.sessions.clusters.env().timers;
        let (mut idle, mut logged) = (timers.timer(), timers.timer());
        let signal = self.host.host.signal();
        let mut log_at = self.log.as_ref().and_then(|log| Some(log.start + self.sessions.config.log_interval?));
        loop {
            let mut ready = pin!(self.socket.ready());
            let next = poll_fn(|cx| {
                while let Some(at) = log_at
                    && logged.poll_reached(at, cx).is_ready()
                {
                    self.write_log(AccessLogType::UdpPeriodic);
                    log_at = self.sessions.config.log_interval.map(|interval| at + interval);
                }
                if self.poll_host_lost(&signal, cx) {
                    return Poll::Ready(Err(Over::HostLost));
                }
                match ready.as_mut().poll(cx) {
                    Poll::Ready(ready) => return Poll::Ready(ready.map_err(|_| Over::Broken)),
                    Poll::Pending => {}
                }
                // Looked at anew each time: it moves with every datagram.
                idle.poll_reached(self.active_at.get() + self.sessions.config.idle_timeout, cx)
                    .map(|()| Err(Over::Idle))
            })
            .await;
            match next {
                Err(over) => return over,
                Ok(ready) => self.receive(ready),
            }
        }
    }

    fn poll_host_lost(&self, signal: &Arc<Signal>, cx: &mut std::task::Context<'_>) -> bool {
        signal.register(cx.waker());
        self.is_host_lost()
    }

    fn receive(&self, ready: Readiness<'_>) {
        let receiver = &mut *self.sessions.receiver.borrow_mut();
        match ready.receive(receiver) {
            Ok(count) => self.deliver(receiver, count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A host that takes nothing at its port: it may in a moment.
            Err(error) => {
                debug!(peer = %self.key.peer, host = %self.host.host.address(), %error, "receiving failed");
                self.target.stats.sess_rx_errors().inc();
            }
        }
    }

    /// Sends what the first `count` slots hold to the client.
    fn deliver(&self, receiver: &Receiver, count: usize) {
        let longest = self.sessions.config.socket.longest();
        let mut payloads = Vec::with_capacity(count);
        let mut dropped = 0;
        for received in (0..count).map(|slot| receiver.get(slot)) {
            match received.is_truncated || received.longest() > longest {
                true => dropped += 1,
                false => payloads.extend(received.datagrams()),
            }
        }
        self.active_at.set(self.sessions.cx.worker.clock.now());
        if dropped > 0 {
            self.target.stats.sess_rx_datagrams_dropped().add(dropped);
        }
        if payloads.is_empty() {
            return;
        }
        let bytes = payloads.iter().map(|payload| payload.len() as u64).sum();
        self.target.stats.sess_rx_datagrams().add(payloads.len() as u64);
        self.target.share.cluster.stats.upstream_cx_rx_bytes_total().add(bytes);
        self.answer(&payloads);
    }

    /// Sends datagrams to the client.
    fn answer(&self, payloads: &[&[u8]]) {
        let sent = self.sessions.cx.replies.send(self.key.peer, self.key.local, payloads);
        let UdpSent { datagrams, bytes, errors } = sent;
        let stats = &self.sessions.config.stats;
        if datagrams > 0 {
            stats.downstream_sess_tx_datagrams().add(datagrams);
            stats.downstream_sess_tx_bytes().add(bytes);
        }
        if errors > 0 {
            stats.downstream_sess_tx_errors().add(errors);
        }
        self.counts.sent(sent);
    }

    fn write_log(&self, why: AccessLogType) {
        if let Some(log) = &self.log {
            log.write(&self.sessions, &self.target, &self.counts, self.socket.local_addr().map(Address::Ip), why);
        }
    }

    /// It is over: gives back what it took, and is logged.
    pub(super) fn end(&self) {
        if self.has_ended.replace(true) {
            return;
        }
        if let Some(task) = self.task.get() {
            task.abort();
        }
        self.sessions.config.stats.downstream_sess_active().dec();
        let cluster = &self.target.share.cluster;
        cluster.limits(Priority::Default).give_back(Resource::Connections, &cluster.stats);
        self.write_log(AccessLogType::UdpSessionEnd);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

fn socket(sessions: &Sessions, key: Key, host: &WorkerHost) -> io::Result<DatagramSocket> {
    let Address::Ip(to) = host.host.address() else { return Err(io::ErrorKind::Unsupported.into()) };
    let joined = sessions.config.socket.prefers_gro;
    match sessions.config.source {
        Source::Own => DatagramSocket::connected(to, joined),
        Source::Client => DatagramSocket::transparent(to, key.peer.ip(), joined),
    }
}
