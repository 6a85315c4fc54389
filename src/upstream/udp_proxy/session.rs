//! A session: the datagrams of one client, and those that come back to it.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use nuncio_config::cluster::Priority;
use nuncio_filter_api::UdpSent;
use nuncio_telemetry::format::AccessLogType;
use nuncio_telemetry::{Address, ResponseFlag};
use smallvec::SmallVec;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;
use tracing::debug;

use super::direct::Direct;
use super::filters::Framing;
use super::log::{SessionCounts, SessionLog};
use super::sessions::{Key, Sessions, Target};
use super::tunnelled::Tunnelled;
use crate::capsule::{CapsuleError, Capsules, datagram};
use crate::limits::Resource;
use crate::timer::Timer;
use crate::worker::WorkerHost;

/// One session.
pub(super) struct Session {
    pub(super) sessions: Rc<Sessions>,
    pub(super) key: Key,
    pub(super) target: Rc<Target>,
    pub(super) carrier: Carrier,
    /// What hosts send in capsules, where that is how they are framed: the outermost first.
    capsules: Box<[RefCell<Capsules>]>,
    /// When the last datagram passed, either way.
    active_at: Cell<Instant>,
    counts: SessionCounts,
    pub(super) log: Option<SessionLog>,
    task: OnceCell<AbortHandle>,
    has_ended: Cell<bool>,
}

/// What carries the datagrams of a session.
pub(super) enum Carrier {
    /// A socket, to a host that is known from the start.
    Direct(Direct),
    /// A request to a host that grants a tunnel.
    Tunnelled(Tunnelled),
}

/// Why a session ends by itself.
pub(super) enum Over {
    Idle,
    /// Its host has left, or what carries it is of no use any more.
    Lost,
}

/// The times at which a session ends, or is logged.
pub(super) struct Deadlines {
    idle: Timer,
    logged: Timer,
    log_at: Option<Instant>,
}

// === impl Session ===

impl Session {
    /// A session with `host`, or with one that is chosen later, for a tunnel. `None` where nothing can carry it.
    pub(super) fn open(
        sessions: Rc<Sessions>,
        key: Key,
        target: Rc<Target>,
        host: Option<Rc<WorkerHost>>,
        framing: Framing,
        now: Instant,
    ) -> Option<Rc<Self>> {
        let carrier = match host {
            None => Carrier::Tunnelled(Tunnelled::default()),
            Some(host) => match Direct::new(&sessions.config, key, host) {
                Ok(direct) => Carrier::Direct(direct),
                Err(error) => {
                    debug!(peer = %key.peer, %error, "no socket for a session");
                    target.stats.sess_tx_errors().inc();
                    return None;
                }
            },
        };
        let config = &sessions.config;
        let cluster = &target.share.cluster;
        cluster.limits(Priority::Default).take(Resource::Connections, &cluster.stats);
        config.stats.downstream_sess_total().inc();
        config.stats.downstream_sess_active().inc();
        let id = sessions.clusters.env().clusters.next_session_id();
        // The formats of a tunnel ask for its record.
        let is_told = !config.logs.is_empty() || config.tunnel.is_some();
        let log = is_told.then(|| SessionLog::new(id, &sessions, key, now));
        if let (Some(log), Carrier::Direct(direct)) = (&log, &carrier) {
            log.note_host(&direct.host.host);
        }
        let session = Rc::new(Self {
            capsules: (0..framing.0).map(|_| RefCell::default()).collect(),
            active_at: Cell::new(now),
            counts: SessionCounts::default(),
            log,
            task: OnceCell::new(),
            has_ended: Cell::new(false),
            carrier,
            sessions,
            key,
            target,
        });
        let task = spawn_local(session.clone().run());
        // It is new: nobody has set it.
        let _ = session.task.set(task.abort_handle());
        Some(session)
    }

    /// Sends datagrams of the client on.
    pub(super) fn forward(&self, payloads: &[&[u8]], at: Instant) {
        let stats = &self.sessions.config.stats;
        let bytes = payloads.iter().map(|payload| payload.len() as u64).sum();
        stats.downstream_sess_rx_datagrams().add(payloads.len() as u64);
        stats.downstream_sess_rx_bytes().add(bytes);
        self.counts.received(payloads.len() as u64, bytes);
        self.active_at.set(at);
        match &self.carrier {
            Carrier::Direct(direct) if self.capsules.is_empty() => direct.send(self, payloads),
            Carrier::Direct(direct) => {
                let framed: Vec<Bytes> = payloads.iter().map(|payload| self.framed(payload)).collect();
                let framed: Vec<&[u8]> = framed.iter().map(|framed| &framed[..]).collect();
                direct.send(self, &framed);
            }
            Carrier::Tunnelled(tunnel) => payloads.iter().for_each(|payload| tunnel.send(self, self.framed(payload))),
        }
    }

    /// A datagram in its capsules.
    fn framed(&self, payload: &[u8]) -> Bytes {
        match self.capsules.split_first() {
            None => Bytes::copy_from_slice(payload),
            Some((_, others)) => others.iter().fold(datagram(payload), |inner, _| datagram(&inner)),
        }
    }

    /// Whether it is still with a host of a cluster that there is.
    pub(super) fn is_current(&self) -> bool {
        let cluster = self.sessions.clusters.get(self.target.id);
        // An aggregate gives away hosts of others, whose going raises their signal.
        let is_there = cluster.is_some_and(|now| {
            Rc::ptr_eq(&now.shared, &self.target.share) || self.target.share.cluster.config.name.id != self.target.id
        });
        let is_host_lost = match &self.carrier {
            Carrier::Direct(direct) => direct.is_host_lost(&self.target.share),
            Carrier::Tunnelled(_) => false,
        };
        is_there && !is_host_lost
    }

    /// Sends back what comes, until the session is over.
    async fn run(self: Rc<Self>) {
        let over = match &self.carrier {
            Carrier::Direct(direct) => direct.run(&self).await,
            Carrier::Tunnelled(tunnel) => tunnel.run(&self).await,
        };
        if matches!(over, Over::Idle) {
            self.sessions.config.stats.idle_timeout().inc();
            if matches!(self.carrier, Carrier::Tunnelled(_)) {
                self.flag(ResponseFlag::StreamIdleTimeout);
            }
        }
        self.sessions.remove(&self);
    }

    /// Sends datagrams, framed as hosts frame them, to the client.
    pub(super) fn pass_back(&self, payloads: &[&[u8]]) -> Result<(), CapsuleError> {
        self.active_at.set(self.sessions.cx.worker.clock.now());
        if self.capsules.is_empty() {
            self.answer(payloads);
            return Ok(());
        }
        for payload in payloads {
            let mut datagrams: SmallVec<[Bytes; 8]> = SmallVec::new();
            unframe(&self.capsules, payload, &mut datagrams)?;
            let datagrams: SmallVec<[&[u8]; 8]> = datagrams.iter().map(|datagram| &datagram[..]).collect();
            self.answer(&datagrams);
        }
        Ok(())
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

    /// Adds a flag to what is logged.
    pub(super) fn flag(&self, flag: ResponseFlag) {
        if let Some(log) = &self.log {
            log.info.flag(flag);
        }
    }

    pub(super) fn write_log(&self, why: AccessLogType) {
        let Some(log) = &self.log else { return };
        let local = match &self.carrier {
            Carrier::Direct(direct) => direct.local_addr().map(Address::Ip),
            Carrier::Tunnelled(_) => None,
        };
        log.write(&self.sessions, Some(&self.target), &self.counts, local, why);
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

/// Takes the datagrams out of capsules within capsules.
fn unframe(
    layers: &[RefCell<Capsules>],
    payload: &[u8],
    datagrams: &mut SmallVec<[Bytes; 8]>,
) -> Result<(), CapsuleError> {
    let Some((outer, inner)) = layers.split_first() else {
        datagrams.push(Bytes::copy_from_slice(payload));
        return Ok(());
    };
    let capsules = &mut *outer.borrow_mut();
    capsules.push(payload);
    while let Some(datagram) = capsules.next()? {
        match inner {
            [] => datagrams.push(datagram),
            inner => unframe(inner, &datagram, datagrams)?,
        }
    }
    Ok(())
}

// === impl Deadlines ===

impl Deadlines {
    pub(super) fn new(session: &Session) -> Self {
        let (env, config) = (session.sessions.clusters.env(), &session.sessions.config);
        let log_at = session.log.as_ref().and_then(|log| Some(log.start + config.log_interval?));
        Self { idle: env.timers.timer(), logged: env.timers.timer(), log_at }
    }

    /// Ready when the session is idle, logging it meanwhile.
    pub(super) fn poll(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<Over> {
        let config = &session.sessions.config;
        while let Some(at) = self.log_at
            && self.logged.poll_reached(at, cx).is_ready()
        {
            session.write_log(AccessLogType::UdpPeriodic);
            self.log_at = config.log_interval.map(|interval| at + interval);
        }
        // Looked at anew each time: it moves with every datagram.
        self.idle.poll_reached(session.active_at.get() + config.idle_timeout, cx).map(|()| Over::Idle)
    }
}
