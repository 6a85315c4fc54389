//! A filter chain as one worker runs it, with the connections that have got it.

use std::any::Any;
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use nuncio_config::listener::{FilterChainConfig, ListenerConfig};
use nuncio_config::tap::TappedConnection;
use nuncio_filter_api::{Admission, Connection, Drain, Flow, Io, NetworkCx, NetworkFilter, TurnedAway, Worker};
use nuncio_telemetry::access_log::ListenerLogs;
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::stats::Scope;
use nuncio_telemetry::stats::catalogue::{ListenerStats, ListenerWorkerStats};
use nuncio_telemetry::{ConnectionInfo, StreamInfo};
use slab::Slab;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;
use tracing::debug;

use crate::balance::Balancer;
use crate::listener::{FilterChain, OpenConnections};
use crate::tls::{self, Deferred, TlsError};
use crate::tls_stats::TlsStats;
use crate::{CountedTcp, Listener, Logged, Tapped};

/// What connections hold of their listener. It goes on where nothing but filter chains changes.
pub(super) struct Frame {
    worker: Rc<Worker>,
    scope: Scope,
    stats: ListenerStats,
    worker_stats: ListenerWorkerStats,
    /// Where a chain has TLS.
    tls_stats: OnceCell<Rc<TlsStats>>,
    pub(super) logs: Option<Rc<ListenerLogs>>,
    buffer_limit: u32,
    balancer: Option<Arc<Balancer>>,
    open: OpenConnections,
    /// A copy of this worker alone, so that connections of different workers do not count on the same cache line.
    pub(super) name: Arc<str>,
}

/// A filter chain with its connections: copies of this worker alone, as `name` of the frame.
pub(super) struct Chain {
    pub(super) chain: Arc<FilterChain>,
    pub(super) name: Arc<str>,
    filters: Arc<[Arc<dyn NetworkFilter>]>,
    /// Others stand in for some of them, each time those of the moment.
    has_stand_ins: bool,
    drain: Rc<Drain>,
    pub(super) connections: RefCell<Slab<AbortHandle>>,
}

/// Counts a connection while it lives, and forgets it when its task ends, panics or is aborted.
struct ActiveConnection {
    frame: Rc<Frame>,
    chain: Rc<Chain>,
    key: usize,
    start: Instant,
    /// Where the listener has access logs.
    logged: Option<Rc<ConnectionInfo>>,
}

// === impl Frame ===

impl Frame {
    pub(super) fn new(listener: &Listener, worker: &Rc<Worker>) -> Self {
        let ListenerConfig { scope, name, access_logs, buffer_limit, .. } = &*listener.config;
        Self {
            worker: worker.clone(),
            scope: scope.clone(),
            stats: listener.stats.clone(),
            worker_stats: ListenerWorkerStats::new(&scope.scope(&format!("worker_{}", worker.index))),
            tls_stats: OnceCell::new(),
            logs: ListenerLogs::new(access_logs.clone()),
            buffer_limit: *buffer_limit,
            balancer: listener.balancer.clone(),
            open: listener.open.clone(),
            name: (**name).into(),
        }
    }

    /// What counts handshakes. Envoy: a listener without TLS has no such stats.
    pub(super) fn tls_stats(&self) -> &Rc<TlsStats> {
        self.tls_stats.get_or_init(|| TlsStats::new(&self.scope).into())
    }

    /// A connection of this worker ended, or never began.
    pub(super) fn release(&self) {
        self.open.note_closed();
        if let Some(balancer) = &self.balancer {
            balancer.release(self.worker.index);
        }
    }

    /// Nobody is there to serve a connection.
    fn refuse_without_filters(&self, info: &ConnectionInfo) {
        self.stats.network_extension_config_missing().inc();
        info.local_close_reason.set(Some("no_filters"));
    }

    /// Writes the access logs of a connection that is over.
    pub(super) fn log(&self, info: Rc<ConnectionInfo>, tell: impl FnOnce(&StreamInfo)) {
        if info.log.is_none() {
            return;
        }
        let (start, now) = (info.start, self.worker.clock.now());
        let stream = StreamInfo::of_connection(info, self.worker.clock.wall(now) - now.duration_since(start));
        stream.times.complete.set(Some(now));
        tell(&stream);
        let cx = FormatCx::new(&stream, now, self.worker.clock.wall(now));
        if let Some(log) = &stream.connection.log {
            log.write(&cx);
        }
    }
}

// === impl Chain ===

impl Chain {
    pub(super) fn new(chain: Arc<FilterChain>, worker: &Rc<Worker>) -> Self {
        Self {
            name: (*chain.config.name).into(),
            filters: chain.config.filters.iter().cloned().collect(),
            has_stand_ins: chain.config.filters.iter().any(|filter| filter.stand_in().is_some()),
            drain: Rc::new(Drain::new(chain.drain.subscribe(), worker.clone())),
            connections: RefCell::default(),
            chain,
        }
    }

    /// Serves a connection in a task of its own: a panic in it is caught there, drops the connection, and touches no
    /// other.
    pub(super) fn serve(self: &Rc<Self>, frame: &Rc<Frame>, connection: Connection) {
        let mut connections = self.connections.borrow_mut();
        let entry = connections.vacant_entry();
        let guard = ActiveConnection::new(frame.clone(), self.clone(), entry.key(), &connection.info);
        let task = spawn_local(async move {
            guard.chain.run_filters(&guard.frame, connection).await;
        });
        entry.insert(task.abort_handle());
    }

    /// The filter-chain runner: one filter after the other, until one has served the connection.
    async fn run_filters(&self, frame: &Rc<Frame>, mut connection: Connection) {
        let mut filters = &self.filters;
        let stand_ins;
        if self.has_stand_ins {
            let current = |filter: &Arc<dyn NetworkFilter>| filter.stand_in().unwrap_or_else(|| Some(filter.clone()));
            match filters.iter().map(current).collect() {
                Some(all) => stand_ins = all,
                None => return frame.refuse_without_filters(&connection.info),
            }
            filters = &stand_ins;
        }
        if filters.is_empty() {
            return frame.refuse_without_filters(&connection.info);
        }
        let cx =
            || NetworkCx { worker: frame.worker.clone(), drain: self.drain.clone(), buffer_limit: frame.buffer_limit };
        // Held until the connection ends.
        let _held = match filters.len() > 1 {
            // In boxes of their own, this and the handshake take no room while the connection is served.
            true => match Box::pin(admit(filters, &connection, cx())).await {
                Ok(held) => held,
                Err(Refused) => return,
            },
            false => Vec::new(),
        };
        let FilterChainConfig { tls, tcp_stats, .. } = &*self.chain.config;
        if let Some(stats) = tcp_stats {
            connection.io = CountedTcp::wrap(connection.io, stats);
        }
        if tls.is_some() {
            let Connection { io, info } = connection;
            let handshake = accept_tls(self.chain.clone(), frame.clone(), io, info.clone());
            let io = match filters.iter().all(|filter| filter.precedes_handshake()) {
                true => Some(Io::new(Deferred::new(handshake))),
                false => Box::pin(wait_for_handshake(handshake, filters, &info, cx)).await,
            };
            let Some(io) = io else { return };
            connection = Connection { io, info };
        }
        connection = self.observed(connection, frame);
        for filter in &**filters {
            match filter.clone().run(connection, cx()).await {
                Flow::Next(next) => connection = next,
                Flow::Refused(Connection { io, info }) => {
                    drop(io);
                    if let Some(terminal) = filters.last() {
                        terminal.turned_away(info, TurnedAway::Refused, &cx());
                    }
                    return;
                }
                Flow::Done => return,
            }
        }
    }

    /// The connection whose plain bytes are tapped and counted, where they are to be.
    fn observed(&self, connection: Connection, frame: &Frame) -> Connection {
        let Connection { mut io, info } = connection;
        if let Some(tap) = &self.chain.config.tap {
            let (id, random) = (Some(info.id), frame.worker.rng.u64());
            io = Tapped::wrap(io, tap, TappedConnection { id, local: Some(&info.local), remote: &info.remote, random });
        }
        if info.log.is_some() {
            io = Logged::wrap(io, info.clone());
        }
        Connection { io, info }
    }
}

/// Makes the handshake of a connection that has got this chain, in the time that it has from now on.
fn accept_tls(
    chain: Arc<FilterChain>,
    frame: Rc<Frame>,
    io: Io,
    info: Rc<ConnectionInfo>,
) -> impl Future<Output = Result<Io, TlsError>> + 'static {
    let until = chain.config.handshake_timeout.map(|timeout| frame.worker.clock.now() + timeout);
    async move {
        let Some(tls) = &chain.config.tls else { return Ok(io) };
        tls::accept(tls, until, io, &info, frame.tls_stats()).await.inspect_err(|error| {
            if matches!(error, TlsError::TimedOut) {
                frame.stats.downstream_cx_transport_socket_connect_timeout().inc();
            }
            debug!(listener = %frame.name, id = info.id, %error, "handshake failed");
        })
    }
}

/// Waits for a handshake that filters want made, as long as the terminal one has patience.
async fn wait_for_handshake(
    handshake: impl Future<Output = Result<Io, TlsError>>,
    filters: &[Arc<dyn NetworkFilter>],
    info: &Rc<ConnectionInfo>,
    cx: impl Fn() -> NetworkCx,
) -> Option<Io> {
    let terminal = filters.last()?;
    let made = match terminal.patience() {
        Some(patience) => tokio::time::timeout_at(info.start + patience, handshake).await,
        None => Ok(handshake.await),
    };
    let why = match made {
        Ok(Ok(io)) => return Some(io),
        Ok(Err(_)) => TurnedAway::NoHandshake,
        Err(_) => TurnedAway::TooSlow,
    };
    terminal.turned_away(info.clone(), why, &cx());
    None
}

/// Asks the filters before the terminal one what they make of a new connection. What they hold is given back.
async fn admit(
    filters: &[Arc<dyn NetworkFilter>],
    connection: &Connection,
    cx: NetworkCx,
) -> Result<Vec<Box<dyn Any>>, Refused> {
    let mut held = Vec::new();
    let [before @ .., terminal] = filters else { return Ok(held) };
    for filter in before {
        match filter.admit(&connection.info, &cx) {
            Admission::Pass => {}
            Admission::Hold(it) => held.push(it),
            Admission::Refuse => {
                terminal.turned_away(connection.info.clone(), TurnedAway::Refused, &cx);
                return Err(Refused);
            }
            Admission::RefuseAfter(delay) => {
                // What others hold of it they hold no longer than it may live.
                drop(held);
                tokio::time::sleep(delay).await;
                terminal.turned_away(connection.info.clone(), TurnedAway::Refused, &cx);
                return Err(Refused);
            }
        }
    }
    Ok(held)
}

/// A network filter has refused a connection.
struct Refused;

// === impl ActiveConnection ===

impl ActiveConnection {
    fn new(frame: Rc<Frame>, chain: Rc<Chain>, key: usize, info: &Rc<ConnectionInfo>) -> Self {
        frame.stats.downstream_cx_total().inc();
        frame.stats.downstream_cx_active().inc();
        frame.worker_stats.downstream_cx_total().inc();
        frame.worker_stats.downstream_cx_active().inc();
        let logged = info.log.is_some().then(|| info.clone());
        Self { frame, chain, key, start: info.start, logged }
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        let Frame { stats, worker_stats, worker, .. } = &*self.frame;
        let length = worker.clock.now().saturating_duration_since(self.start);
        stats.downstream_cx_active().dec();
        stats.downstream_cx_destroy().inc();
        stats.downstream_cx_length_ms().record(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
        worker_stats.downstream_cx_active().dec();
        self.chain.connections.borrow_mut().try_remove(self.key);
        self.frame.release();
        if let Some(info) = self.logged.take() {
            self.frame.log(info, |_| {});
        }
    }
}
