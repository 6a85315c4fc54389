//! A listener as one worker runs it: what it accepts, and which filter chain that gets.

mod chain;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::io;
use std::mem::take;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_filter_api::{Connection, InternalListener, Io, Passed, Worker};
use nuncio_telemetry::access_log::ConnectionLog;
use nuncio_telemetry::{
    Address, CloseType, ConnectionInfo, Inspected, Origin, ResponseFlag, ResponseFlags, StreamInfo,
};
use slab::Slab;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinHandle, spawn_local};
use tracing::debug;

use chain::{Chain, Frame};

use crate::accept::{Acceptor, accept_forever, receive_loop};
use crate::datagram::canonical;
use crate::inspect::Ends;
use crate::internal::Entrance;
use crate::listener::FilterChain;
use crate::tcp_info::round_trip;
use crate::{Directory, InternalTransport, Listener, TcpTransport, UnixTransport, udp_listener};

/// A running listener of one worker. Dropping it stops accepting and closes its connections.
pub struct ActiveListener {
    shared: Rc<Shared>,
    acceptors: Vec<JoinHandle<()>>,
    /// The chains whose connections end with it: not those that the next listener has taken over.
    chains: Vec<Rc<Chain>>,
    /// Where it is one that connections reach without a socket.
    internal: Option<Rc<dyn InternalListener>>,
}

/// What the accept loops and the listener filters of one listener share on one worker.
pub(crate) struct Shared {
    pub(crate) listener: Arc<Listener>,
    pub(crate) worker: Rc<Worker>,
    frame: Rc<Frame>,
    chains: Box<[Rc<Chain>]>,
    no_name: Arc<str>,
    origin: Arc<Origin>,
    pub(crate) directory: Rc<Directory>,
    /// Those that have no chain yet.
    connections: RefCell<Slab<AbortHandle>>,
}

// === impl ActiveListener ===

impl ActiveListener {
    /// Begins to accept on `worker`, in the current `LocalSet`. Filter chains that `before` has too are taken over from
    /// it, with their connections.
    pub fn start(
        listener: Arc<Listener>,
        worker: Rc<Worker>,
        directory: Rc<Directory>,
        mut before: Option<&mut Self>,
    ) -> io::Result<Self> {
        let index = worker.index;
        let mut known: HashMap<_, _> = before.as_mut().map_or_else(HashMap::new, |before| {
            take(&mut before.chains).into_iter().map(|chain| (Arc::as_ptr(&chain.chain), chain)).collect()
        });
        let chain = |chain: &Arc<FilterChain>| {
            known.remove(&Arc::as_ptr(chain)).unwrap_or_else(|| Rc::new(Chain::new(chain.clone(), &worker)))
        };
        let chains: Box<[_]> = listener.chains.iter().map(chain).collect();
        let frame = match &mut before {
            Some(before) => before.shared.frame.clone(),
            None => Rc::new(Frame::new(&listener, &worker)),
        };
        if let Some(before) = before {
            before.chains = known.into_values().collect();
        }
        if chains.iter().any(|chain| chain.chain.config.tls.is_some()) {
            frame.tls_stats();
        }
        let shared = Rc::new(Shared {
            frame,
            chains: chains.clone(),
            no_name: "".into(),
            origin: Arc::new(listener.config.origin.clone()),
            directory,
            connections: RefCell::default(),
            listener,
            worker,
        });
        let mut acceptors = Vec::new();
        if let Some(udp) = &shared.listener.config.udp {
            for (address, socket) in shared.listener.sockets_of(index)?.into_iter().enumerate() {
                acceptors.push(udp_listener::spawn(&shared, udp, socket, address)?);
            }
            return Ok(Self { shared, acceptors, chains: Vec::new(), internal: None });
        }
        for (address, socket) in shared.listener.sockets_of(index)?.into_iter().enumerate() {
            let acceptor = match shared.listener.addresses()[address] {
                Address::Ip(_) => Acceptor::Tcp(TcpListener::from_std(socket.into())?),
                Address::Pipe(_) => Acceptor::Unix(UnixListener::from_std(socket.into())?),
                Address::Internal(_) => unreachable!("an internal listener has no socket"),
            };
            acceptors.push(spawn_local(accept_forever(shared.clone(), acceptor, address)));
        }
        if shared.listener.balancer.is_some() {
            acceptors.push(spawn_local(receive_loop(shared.clone())));
        }
        shared.directory.enter(&shared);
        let internal =
            shared.listener.config.internal.map(|_| Rc::new(Entrance(shared.clone())) as Rc<dyn InternalListener>);
        if let Some(internal) = &internal {
            shared.worker.internal.put(shared.frame.name.clone(), internal.clone());
        }
        Ok(Self { shared, acceptors, chains: chains.into(), internal })
    }

    /// The listener it runs.
    pub fn listener(&self) -> &Arc<Listener> {
        &self.shared.listener
    }

    /// Accepts no more connections, and returns when this worker's descriptors are closed; connections go on.
    pub async fn stop_accepting(&mut self) {
        self.shared.directory.leave(&self.shared);
        self.leave();
        for acceptor in self.acceptors.drain(..) {
            acceptor.abort();
            // Nothing but the abort ends it.
            let _ = acceptor.await;
        }
    }

    /// Connections without a socket come no more.
    fn leave(&mut self) {
        if let Some(internal) = self.internal.take() {
            self.shared.worker.internal.remove(&self.shared.frame.name, &internal);
        }
    }

    /// Closes every connection.
    pub fn close_connections(&self) {
        self.tables().for_each(|table| table.borrow().iter().for_each(|(_, connection)| connection.abort()));
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.tables().map(|table| table.borrow().len()).sum()
    }

    fn tables(&self) -> impl Iterator<Item = &RefCell<Slab<AbortHandle>>> {
        std::iter::once(&self.shared.connections).chain(self.chains.iter().map(|chain| &chain.connections))
    }
}

impl Drop for ActiveListener {
    fn drop(&mut self) {
        self.shared.directory.leave(&self.shared);
        self.leave();
        self.acceptors.iter().for_each(JoinHandle::abort);
        self.close_connections();
    }
}

// === impl Shared ===

impl Shared {
    /// The name of the listener.
    pub(crate) fn listener_name(&self) -> &Arc<str> {
        &self.frame.name
    }

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
        // Envoy: a client without an address has ours.
        let remote = local.clone();
        match self.listener.config.listener_filters.filters.is_empty() {
            true => self.serve(Io::new(UnixTransport::new(stream)), Ends::new(remote, local)),
            false => self.inspect_unix(stream, remote, local),
        }
    }

    /// A connection that it has not accepted itself is this one's now.
    pub(crate) fn take(&self) {
        self.listener.open.note_opened();
        if let Some(balancer) = &self.listener.balancer {
            balancer.take(self.worker.index);
        }
    }

    /// Serves a connection that came without a socket.
    pub(crate) fn serve_internal(
        self: &Rc<Self>,
        transport: InternalTransport,
        remote: Address,
        local: Address,
        passed: Passed,
    ) {
        let Passed { metadata, filter_state } = passed;
        let inspected = (!metadata.is_empty() || !filter_state.is_empty())
            .then(|| Box::new(Inspected { metadata, filter_state, ..Inspected::default() }));
        match self.listener.config.listener_filters.filters.is_empty() {
            true => self.serve(Io::new(transport), Ends { inspected, ..Ends::new(remote, local) }),
            false => self.inspect_internal(transport, remote, local, inspected),
        }
    }

    /// A connection of this worker ended, or never began.
    pub(crate) fn release(&self) {
        self.frame.release();
    }

    /// Runs the network filters of a connection, those of the filter chain that it gets.
    pub(crate) fn serve(self: &Rc<Self>, io: Io, ends: Ends) {
        let mut info = self.describe(ends);
        info.round_trip = info.round_trip.or_else(|| io.socket().and_then(round_trip));
        let Some(number) = self.listener.config.filter_chains.find(&info) else { return self.turn_away(info) };
        let chain = &self.chains[number];
        info.filter_chain = chain.name.clone();
        info.filter_chain_metadata = chain.chain.config.metadata.clone();
        chain.serve(&self.frame, Connection { io, info: Rc::new(info) });
    }

    /// What is known of a connection before it has a filter chain.
    pub(crate) fn describe(&self, ends: Ends) -> ConnectionInfo {
        let Ends {
            remote,
            local,
            is_local_restored,
            server_name,
            mut inspected,
            direct_remote,
            direct_local,
            round_trip,
        } = ends;
        let found = inspected.as_mut().map(|inspected| take(&mut inspected.metadata));
        let state = inspected.as_mut().map(|inspected| take(&mut inspected.filter_state));
        ConnectionInfo {
            id: self.listener.ids.next(),
            direct_remote,
            remote,
            direct_local,
            local,
            is_local_restored,
            server_name: RefCell::new(server_name),
            tls: RefCell::new(None),
            listener: self.frame.name.clone(),
            filter_chain: self.no_name.clone(),
            start: self.worker.clock.now(),
            round_trip,
            details: Cell::new(None),
            termination_details: RefCell::new(None),
            local_close_reason: Cell::new(None),
            flags: Cell::new(ResponseFlags::NONE),
            close_type: Cell::new(CloseType::Normal),
            transport_failure: RefCell::new(None),
            origin: Some(self.origin.clone()),
            listener_metadata: self.listener.config.metadata.clone(),
            filter_chain_metadata: None,
            metadata: RefCell::new(found.filter(|found| !found.is_empty()).map(Box::new)),
            filter_state: RefCell::new(state.unwrap_or_default()),
            inspected,
            http: OnceCell::new(),
            protocol: Cell::new(None),
            log: self.frame.logs.clone().map(|logs| Box::new(ConnectionLog::new(logs))),
            withheld: Cell::new(0),
        }
    }

    /// No filter chain is for this connection: it is closed.
    fn turn_away(&self, info: ConnectionInfo) {
        self.listener.stats.no_filter_chain_match().inc();
        debug!(listener = %self.frame.name, id = info.id, "no filter chain matches");
        self.release();
        self.log(Rc::new(info), |stream| {
            stream.flag(ResponseFlag::NoRouteFound);
            stream.set_details("filter_chain_not_found");
        });
    }

    /// Writes the access logs of a connection that is over.
    pub(crate) fn log(&self, info: Rc<ConnectionInfo>, tell: impl FnOnce(&StreamInfo)) {
        self.frame.log(info, tell);
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

#[cfg(test)]
mod tests;
