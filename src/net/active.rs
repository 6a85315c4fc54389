//! A listener as one worker runs it: its connections, and the network filters they pass through.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::mem::take;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use nuncio_filter_api::{Admission, Connection, Drain, Flow, Io, NetworkCx, NetworkFilter, Worker};
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::stats::catalogue::ListenerWorkerStats;
use nuncio_telemetry::{Address, CloseType, ConnectionInfo, ResponseFlag, ResponseFlags, StreamInfo};
use slab::Slab;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinHandle, spawn_local};
use tokio::time::Instant;
use tracing::debug;

use crate::accept::{Acceptor, accept_forever, receive_loop};
use crate::inspect::Ends;
use crate::tls;
use crate::tls_stats::TlsStats;
use crate::{Listener, TcpTransport, UnixTransport};

/// A running listener of one worker. Dropping it stops accepting and closes its connections.
pub struct ActiveListener {
    shared: Rc<Shared>,
    acceptors: Vec<JoinHandle<()>>,
}

/// What the accept loops and the connections of one listener share on one worker.
pub(crate) struct Shared {
    pub(crate) listener: Arc<Listener>,
    pub(crate) worker: Rc<Worker>,
    stats: ListenerWorkerStats,
    drain: Rc<Drain>,
    chains: Box<[Chain]>,
    tls_stats: TlsStats,
    /// A copy of this worker alone, so that connections of different workers do not count on the same cache line.
    listener_name: Arc<str>,
    no_name: Arc<str>,
    connections: RefCell<Slab<AbortHandle>>,
}

/// What connections of a filter chain hold of it: copies of this worker alone, as `listener_name`.
struct Chain {
    name: Arc<str>,
    filters: Arc<[Arc<dyn NetworkFilter>]>,
    /// Others stand in for some of them, each time those of the moment.
    has_stand_ins: bool,
}

// === impl ActiveListener ===

impl ActiveListener {
    /// Begins to accept on `worker`, in the current `LocalSet`.
    pub fn start(listener: Arc<Listener>, worker: Rc<Worker>) -> io::Result<Self> {
        let index = worker.index;
        let chains = listener.config.filter_chains.all().iter();
        let chains = chains.map(|c| Chain {
            name: (*c.name).into(),
            filters: c.filters.iter().cloned().collect(),
            has_stand_ins: c.filters.iter().any(|filter| filter.stand_in().is_some()),
        });
        let shared = Rc::new(Shared {
            stats: ListenerWorkerStats::new(&listener.config.scope.scope(&format!("worker_{index}"))),
            drain: Rc::new(Drain::new(listener.drain.subscribe(), worker.clone())),
            chains: chains.collect(),
            tls_stats: TlsStats::new(&listener.config.scope),
            listener_name: (*listener.config.name).into(),
            no_name: "".into(),
            connections: RefCell::default(),
            listener,
            worker,
        });
        let mut acceptors = Vec::new();
        for (address, socket) in shared.listener.sockets_of(index)?.into_iter().enumerate() {
            let acceptor = match shared.listener.addresses()[address] {
                Address::Ip(_) => Acceptor::Tcp(TcpListener::from_std(socket.into())?),
                Address::Pipe(_) => Acceptor::Unix(UnixListener::from_std(socket.into())?),
            };
            acceptors.push(spawn_local(accept_forever(shared.clone(), acceptor, address)));
        }
        if shared.listener.balancer.is_some() {
            acceptors.push(spawn_local(receive_loop(shared.clone())));
        }
        Ok(Self { shared, acceptors })
    }

    /// The listener it runs.
    pub fn listener(&self) -> &Arc<Listener> {
        &self.shared.listener
    }

    /// Accepts no more connections, and returns when this worker's descriptors are closed; connections go on.
    pub async fn stop_accepting(&mut self) {
        for acceptor in self.acceptors.drain(..) {
            acceptor.abort();
            // Nothing but the abort ends it.
            let _ = acceptor.await;
        }
    }

    /// Closes every connection.
    pub fn close_connections(&self) {
        self.shared.connections.borrow().iter().for_each(|(_, connection)| connection.abort());
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.connections.borrow().len()
    }
}

impl Drop for ActiveListener {
    fn drop(&mut self) {
        self.acceptors.iter().for_each(JoinHandle::abort);
        self.close_connections();
    }
}

// === impl Shared ===

impl Shared {
    /// Serves a TCP connection that came in on the address numbered `address`.
    pub(crate) fn serve_tcp(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, address: usize) {
        let bound = &self.listener.addresses()[address];
        // A socket bound to one address need not be asked for it. Transparent ones are bound to a wildcard in practice,
        // and where they are not, nothing else than that address arrives.
        let local = match bound {
            Address::Ip(a) if !a.ip().is_unspecified() => *a,
            _ => match stream.local_addr() {
                Ok(local) => local,
                // The peer is gone already.
                Err(_) => return self.release(),
            },
        };
        let (remote, local) = (canonical(peer).into(), canonical(local).into());
        match self.listener.config.listener_filters.filters.is_empty() {
            true => self.serve(Io::new(TcpTransport::new(stream)), Ends::new(remote, local)),
            false => self.inspect_tcp(stream, remote, local),
        }
    }

    /// Serves a connection of a unix-domain socket.
    pub(crate) fn serve_unix(self: &Rc<Self>, stream: UnixStream, address: usize) {
        let local = self.listener.addresses()[address].clone();
        let remote = Address::Pipe("".into());
        match self.listener.config.listener_filters.filters.is_empty() {
            true => self.serve(Io::new(UnixTransport::new(stream)), Ends::new(remote, local)),
            false => self.inspect_unix(stream, remote, local),
        }
    }

    /// A connection of this worker ended, or never began.
    pub(crate) fn release(&self) {
        if let Some(balancer) = &self.listener.balancer {
            balancer.release(self.worker.index);
        }
    }

    /// Runs the network filters of a connection, those of the filter chain that it gets.
    pub(crate) fn serve(self: &Rc<Self>, io: Io, ends: Ends) {
        let mut info = self.describe(ends);
        let Some(number) = self.listener.config.filter_chains.find(&info) else { return self.turn_away(info) };
        info.filter_chain = self.chains[number].name.clone();
        info.filter_chain_metadata = self.listener.config.filter_chains.all()[number].metadata.clone();
        let info = Rc::new(info);
        let mut connections = self.connections.borrow_mut();
        let entry = connections.vacant_entry();
        let logged = (!self.listener.config.access_logs.is_empty()).then(|| info.clone());
        let guard = ActiveConnection::new(self.clone(), entry.key(), info.start, logged);
        let connection = Connection { io, info };
        // A task of its own: a panic in it is caught there, drops the connection, and touches no other.
        let task = spawn_local(async move {
            guard.shared.run_filters(number, connection).await;
        });
        entry.insert(task.abort_handle());
    }

    /// What is known of a connection before it has a filter chain.
    pub(crate) fn describe(&self, ends: Ends) -> ConnectionInfo {
        let Ends { remote, local, is_local_restored, server_name, mut inspected, direct_remote, direct_local } = ends;
        let found = inspected.as_mut().map(|inspected| take(&mut inspected.metadata));
        ConnectionInfo {
            id: self.listener.ids.next(),
            direct_remote,
            remote,
            direct_local,
            local,
            is_local_restored,
            server_name: RefCell::new(server_name),
            tls: RefCell::new(None),
            listener: self.listener_name.clone(),
            filter_chain: self.no_name.clone(),
            start: self.worker.clock.now(),
            details: Cell::new(None),
            termination_details: RefCell::new(None),
            local_close_reason: Cell::new(None),
            flags: Cell::new(ResponseFlags::NONE),
            close_type: Cell::new(CloseType::Normal),
            transport_failure: RefCell::new(None),
            listener_metadata: self.listener.config.metadata.clone(),
            filter_chain_metadata: None,
            metadata: RefCell::new(found.filter(|found| !found.is_empty()).map(Box::new)),
            filter_state: RefCell::default(),
            inspected,
        }
    }

    /// No filter chain is for this connection: it is closed.
    fn turn_away(&self, info: ConnectionInfo) {
        self.listener.stats.no_filter_chain_match().inc();
        debug!(listener = %self.listener_name, id = info.id, "no filter chain matches");
        self.release();
        self.log(Rc::new(info), |stream| {
            stream.flag(ResponseFlag::NoRouteFound);
            stream.set_details("filter_chain_not_found");
        });
    }

    /// Writes the access logs of a connection that is over.
    pub(crate) fn log(&self, info: Rc<ConnectionInfo>, tell: impl FnOnce(&StreamInfo)) {
        let logs = &self.listener.config.access_logs;
        if logs.is_empty() {
            return;
        }
        let (start, now) = (info.start, self.worker.clock.now());
        let stream = StreamInfo::of_connection(info, self.worker.clock.wall(now) - now.duration_since(start));
        stream.times.complete.set(Some(now));
        tell(&stream);
        let cx = FormatCx::new(&stream, now, self.worker.clock.wall(now));
        logs.iter().for_each(|log| log.log(&cx));
    }

    /// Runs `task`, which ends with this listener.
    pub(crate) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let mut connections = self.connections.borrow_mut();
        let entry = connections.vacant_entry();
        let place = Place { shared: self.clone(), key: entry.key() };
        let task = spawn_local(async move {
            let _place = place;
            task.await;
        });
        entry.insert(task.abort_handle());
    }

    /// The filter-chain runner: one filter after the other, until one has served the connection.
    async fn run_filters(&self, number: usize, mut connection: Connection) {
        let mut filters = &self.chains[number].filters;
        let stand_ins;
        if self.chains[number].has_stand_ins {
            let current = |filter: &Arc<dyn NetworkFilter>| filter.stand_in().unwrap_or_else(|| Some(filter.clone()));
            match filters.iter().map(current).collect() {
                Some(all) => stand_ins = all,
                None => return self.listener.stats.network_extension_config_missing().inc(),
            }
            filters = &stand_ins;
        }
        // Held until the connection ends.
        let _held = match filters.len() > 1 {
            // In boxes of their own, this and the handshake take no room while the connection is served.
            true => match Box::pin(self.admit(filters, &connection)).await {
                Ok(held) => held,
                Err(Refused) => return,
            },
            false => Vec::new(),
        };
        let chain = &self.listener.config.filter_chains.all()[number];
        if let Some(tls) = &chain.tls {
            let Connection { io, info } = connection;
            match Box::pin(tls::accept(tls, chain.handshake_timeout, io, &info, &self.tls_stats)).await {
                Ok(io) => connection = Connection { io, info },
                Err(error) => {
                    debug!(listener = %self.listener_name, id = info.id, %error, "handshake failed");
                    return;
                }
            }
        }
        for filter in &**filters {
            match filter.clone().run(connection, self.network_cx()).await {
                Flow::Next(next) => connection = next,
                Flow::Done => return,
            }
        }
    }

    /// Asks the filters before the terminal one what they make of a new connection. What they hold is given back.
    async fn admit(
        &self,
        filters: &[Arc<dyn NetworkFilter>],
        connection: &Connection,
    ) -> Result<Vec<Box<dyn Any>>, Refused> {
        let mut held = Vec::new();
        let [before @ .., terminal] = filters else { return Ok(held) };
        let cx = self.network_cx();
        for filter in before {
            match filter.admit(&connection.info, &cx) {
                Admission::Pass => {}
                Admission::Hold(it) => held.push(it),
                Admission::Refuse => {
                    terminal.turned_away(connection.info.clone(), &cx);
                    return Err(Refused);
                }
                Admission::RefuseAfter(delay) => {
                    // What others hold of it they hold no longer than it may live.
                    drop(held);
                    tokio::time::sleep(delay).await;
                    terminal.turned_away(connection.info.clone(), &cx);
                    return Err(Refused);
                }
            }
        }
        Ok(held)
    }

    fn network_cx(&self) -> NetworkCx {
        NetworkCx {
            worker: self.worker.clone(),
            drain: self.drain.clone(),
            buffer_limit: self.listener.config.buffer_limit,
        }
    }
}

/// A network filter has refused a connection.
struct Refused;

/// An IPv4 address that came in through an IPv6 socket is an IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, |v4| SocketAddr::new(v4.into(), address.port())),
        IpAddr::V4(_) => address,
    }
}

/// Forgets a task when it ends, panics or is aborted.
struct Place {
    shared: Rc<Shared>,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.connections.borrow_mut().try_remove(self.key);
    }
}

/// Counts a connection while it lives, and forgets it when its task ends, panics or is aborted.
struct ActiveConnection {
    shared: Rc<Shared>,
    key: usize,
    start: Instant,
    /// Where the listener has access logs.
    logged: Option<Rc<ConnectionInfo>>,
}

impl ActiveConnection {
    fn new(shared: Rc<Shared>, key: usize, start: Instant, logged: Option<Rc<ConnectionInfo>>) -> Self {
        shared.listener.stats.downstream_cx_total().inc();
        shared.listener.stats.downstream_cx_active().inc();
        shared.stats.downstream_cx_total().inc();
        shared.stats.downstream_cx_active().inc();
        Self { shared, key, start, logged }
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        let Shared { listener, stats, worker, connections, .. } = &*self.shared;
        let length = worker.clock.now().saturating_duration_since(self.start);
        listener.stats.downstream_cx_active().dec();
        listener.stats.downstream_cx_destroy().inc();
        listener.stats.downstream_cx_length_ms().record(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
        stats.downstream_cx_active().dec();
        connections.borrow_mut().try_remove(self.key);
        self.shared.release();
        if let Some(info) = self.logged.take() {
            self.shared.log(info, |_| {});
        }
    }
}

#[cfg(test)]
mod tests;
