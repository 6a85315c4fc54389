//! The sessions of one worker on one address.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_config::cluster::Priority;
use nuncio_filter_api::{Datagrams, UdpCx};
use nuncio_net::{Receiver, Sender};
use nuncio_telemetry::ResponseFlag;
use nuncio_telemetry::format::AccessLogType;
use tokio::time::Instant;

use super::config::{Balance, Config, UdpClusterStats};
use super::log::{SessionCounts, SessionLog, log_proxy};
use super::session::{Carrier, Session};
use crate::host::CoarseHealth;
use crate::lb::PickContext;
use crate::limits::Resource;
use crate::worker::{ClusterShare, WorkerCluster, WorkerClusters, WorkerHost};

/// The sessions, and what all of them use.
pub(super) struct Sessions {
    pub(super) config: Arc<Config>,
    pub(super) cx: UdpCx,
    pub(super) clusters: Rc<WorkerClusters>,
    started: Instant,
    sessions: RefCell<HashMap<Key, Rc<Session>>>,
    /// Of clusters that sessions are of, or were a moment ago.
    targets: RefCell<Vec<Rc<Target>>>,
    /// What datagrams of hosts are received into; nobody holds it while it waits.
    pub(super) receiver: RefCell<Receiver>,
    pub(super) sender: RefCell<Sender>,
    has_ended: Cell<bool>,
    /// Bytes of all datagrams, where they are logged.
    pub(super) received: Cell<u64>,
}

/// Whose datagrams a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// Where each datagram has a host of its own: which.
    host: usize,
}

/// A cluster that datagrams go to.
pub(super) struct Target {
    pub(super) id: u32,
    pub(super) share: Rc<ClusterShare>,
    pub(super) stats: UdpClusterStats,
}

// === impl Sessions ===

impl Sessions {
    pub(super) fn new(config: Arc<Config>, cx: UdpCx) -> Self {
        let clusters = WorkerClusters::of(&cx.worker);
        for cache in config.filters.caches() {
            clusters.env().clusters.dns_caches().cache(&cache);
        }
        Self {
            clusters,
            started: cx.worker.clock.now(),
            receiver: RefCell::new(Receiver::of_connected(&config.socket)),
            config,
            cx,
            sessions: RefCell::default(),
            targets: RefCell::default(),
            sender: RefCell::default(),
            has_ended: Cell::new(false),
            received: Cell::new(0),
        }
    }

    pub(super) fn receive(self: &Rc<Self>, datagrams: &Datagrams<'_>) {
        if !self.config.proxy_logs.is_empty() {
            let bytes: usize = datagrams.payloads.iter().map(|payload| payload.len()).sum();
            self.received.set(self.received.get() + bytes as u64);
        }
        match self.config.balance {
            Balance::Sessions => {
                if let Some(session) = self.session(datagrams) {
                    session.forward(datagrams.payloads, datagrams.at);
                }
            }
            Balance::Datagrams => datagrams.payloads.iter().for_each(|payload| {
                let one = Datagrams { payloads: std::slice::from_ref(payload), ..*datagrams };
                if let Some(session) = self.session_of_datagram(&one) {
                    session.forward(one.payloads, one.at);
                }
            }),
        }
    }

    /// The session that these datagrams belong to, which is made if there is none.
    fn session(self: &Rc<Self>, datagrams: &Datagrams<'_>) -> Option<Rc<Session>> {
        let key = Key { peer: datagrams.peer, local: datagrams.local, host: 0 };
        let found = self.sessions.borrow().get(&key).cloned();
        let Some(session) = found else { return self.open(key, datagrams, None) };
        if !session.is_current() {
            self.remove(&session);
            return self.open(key, datagrams, None);
        }
        if let Carrier::Direct(direct) = &session.carrier
            && direct.host.host.health() == CoarseHealth::Unhealthy
            && let Some(cluster) = self.clusters.get(session.target.id)
            && let Some(host) = self.pick(&cluster, key.peer)
            && host.host.health() != CoarseHealth::Unhealthy
            && !Arc::ptr_eq(&host.host, &direct.host.host)
        {
            self.remove(&session);
            return self.open(key, datagrams, Some(host));
        }
        Some(session)
    }

    /// As `session`, of a host that is chosen for the one datagram there is.
    fn session_of_datagram(self: &Rc<Self>, datagram: &Datagrams<'_>) -> Option<Rc<Session>> {
        let (cluster, id) = self.cluster(datagram)?;
        let Some(host) = self.pick(&cluster, datagram.peer) else {
            cluster.shared.cluster.stats.upstream_cx_none_healthy().inc();
            return None;
        };
        let key = Key { peer: datagram.peer, local: datagram.local, host: Arc::as_ptr(&host.host).addr() };
        let found = self.sessions.borrow().get(&key).cloned();
        if let Some(session) = found {
            if session.is_current() {
                return Some(session);
            }
            self.remove(&session);
        }
        self.open_to(key, &cluster, id, Some(host), datagram)
    }

    fn open(self: &Rc<Self>, key: Key, datagrams: &Datagrams<'_>, host: Option<Rc<WorkerHost>>) -> Option<Rc<Session>> {
        let (cluster, id) = self.cluster(datagrams)?;
        self.open_to(key, &cluster, id, host, datagrams)
    }

    /// The cluster for these datagrams; where there is none, that is counted for each.
    fn cluster(&self, datagrams: &Datagrams<'_>) -> Option<(Rc<WorkerCluster>, u32)> {
        let name = self.config.cluster(datagrams.peer, datagrams.local);
        let found = name.and_then(|name| Some((self.clusters.get(name.id)?, name.id)));
        if found.is_none() {
            self.config.stats.downstream_sess_no_route().add(datagrams.payloads.len() as u64);
        }
        found
    }

    fn pick(&self, cluster: &WorkerCluster, peer: SocketAddr) -> Option<Rc<WorkerHost>> {
        cluster.pick(&PickContext { hash: self.config.hash(peer), ..PickContext::default() })
    }

    /// The host that is asked for the tunnel of a session.
    pub(super) async fn pick_for_tunnel(&self, session: &Session) -> Option<Rc<WorkerHost>> {
        let cluster = self.clusters.get(session.target.id)?;
        let hash = self.config.hash(session.key.peer);
        let info = session.log.as_ref().map(|log| &log.info);
        let asked = || PickContext { hash, info, ..PickContext::default() };
        if let Some(preparing) = cluster.prepare(asked)
            && preparing.await.is_err()
        {
            return None;
        }
        cluster.pick(&asked())
    }

    fn open_to(
        self: &Rc<Self>,
        key: Key,
        cluster: &WorkerCluster,
        id: u32,
        host: Option<Rc<WorkerHost>>,
        datagrams: &Datagrams<'_>,
    ) -> Option<Rc<Session>> {
        let share = &cluster.shared;
        let (limits, stats) = (share.cluster.limits(Priority::Default), &share.cluster.stats);
        // Without a session each of the datagrams asks for one anew.
        let count = datagrams.payloads.len() as u64;
        // The limit first: those who are turned away in masses cost as little as can be. Envoy counts them as sessions.
        if limits.is_exhausted(Resource::Connections) {
            stats.upstream_cx_overflow().add(count);
            self.note_refused(key, Some((id, share)), datagrams, Some(ResponseFlag::UpstreamOverflow));
            return None;
        }
        let Ok(framing) = self.config.filters.framing() else {
            // Envoy: it is a session, which ends as it begins.
            self.config.stats.session_filter_config_missing().add(count);
            self.note_refused(key, None, datagrams, None);
            return None;
        };
        if self.config.tunnel.is_some() {
            // A host is chosen when the tunnel is made.
            let session = Session::open(self.clone(), key, self.target(id, share), None, framing, datagrams.at)?;
            self.sessions.borrow_mut().insert(key, session.clone());
            return Some(session);
        }
        let Some(host) = host.or_else(|| self.pick(cluster, key.peer)) else {
            stats.upstream_cx_none_healthy().add(count);
            if !self.config.filters.is_empty() {
                // Envoy: where there are session filters, it is a session before it has a host.
                self.note_refused(key, Some((id, share)), datagrams, None);
            }
            return None;
        };
        let target = self.target(id, &host.share);
        let session = Session::open(self.clone(), key, target, Some(host), framing, datagrams.at)?;
        self.sessions.borrow_mut().insert(key, session.clone());
        Some(session)
    }

    /// Counts and logs sessions that end as they begin, one for each of the datagrams.
    fn note_refused(
        &self,
        key: Key,
        cluster: Option<(u32, &Rc<ClusterShare>)>,
        datagrams: &Datagrams<'_>,
        flag: Option<ResponseFlag>,
    ) {
        self.config.stats.downstream_sess_total().add(datagrams.payloads.len() as u64);
        if self.config.logs.is_empty() {
            return;
        }
        let target = cluster.map(|(id, share)| self.target(id, share));
        for _ in datagrams.payloads {
            let session = self.clusters.env().clusters.next_session_id();
            let log = SessionLog::new(session, self, key, datagrams.at);
            flag.into_iter().for_each(|flag| log.info.flag(flag));
            log.write(self, target.as_deref(), &SessionCounts::default(), None, AccessLogType::UdpSessionEnd);
        }
    }

    /// What is counted of a cluster.
    fn target(&self, id: u32, share: &Rc<ClusterShare>) -> Rc<Target> {
        let mut targets = self.targets.borrow_mut();
        if let Some(target) = targets.iter().find(|target| Rc::ptr_eq(&target.share, share)) {
            return target.clone();
        }
        // Those that were replaced go with their last session.
        targets.retain(|target| Rc::strong_count(target) > 1);
        let stats = UdpClusterStats::new(&share.cluster.scope().scope("udp"));
        let target = Rc::new(Target { id, share: share.clone(), stats });
        targets.push(target.clone());
        target
    }

    /// Ends a session.
    pub(super) fn remove(&self, session: &Session) {
        let mut sessions = self.sessions.borrow_mut();
        let is_it = sessions.get(&session.key).is_some_and(|found| std::ptr::eq(&**found, session));
        let removed = if is_it { sessions.remove(&session.key) } else { None };
        drop(sessions);
        if let Some(removed) = removed {
            removed.end();
        }
    }

    /// Ends all of them; there will be no more.
    pub(super) fn end(&self) {
        if !self.has_ended.replace(true) {
            log_proxy(self, self.started);
        }
        let sessions = std::mem::take(&mut *self.sessions.borrow_mut());
        sessions.into_values().for_each(|session| session.end());
    }
}
