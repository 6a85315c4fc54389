//! A listener as all workers share it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nuncio_config::address::Sends;
use nuncio_config::listener::{ConnectionBalance, FilterChainConfig, ListenSocket, ListenerConfig};
use nuncio_filter_api::{DrainState, RuntimeKey};
use nuncio_telemetry::Address;
use nuncio_telemetry::stats::catalogue::{ListenerStats, UdpListenerStats};
use socket2::Socket;
use tokio::sync::watch;

use crate::balance::Balancer;
use crate::bind::{BindError, BoundSocket};

/// Numbers connections (`%CONNECTION_ID%`) and counts those that are open, over all listeners of the process.
#[derive(Clone, Debug, Default)]
pub struct ConnectionIds(Arc<Numbers>);

#[derive(Debug)]
struct Numbers {
    next: AtomicU64,
    open: AtomicU64,
}

impl Default for Numbers {
    /// From 1, since messages cannot tell 0 from no number; Envoy gives the first ones to those who look at `/ready`.
    fn default() -> Self {
        Self { next: AtomicU64::new(1), open: AtomicU64::new(0) }
    }
}

impl ConnectionIds {
    pub(crate) fn next(&self) -> u64 {
        self.0.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// Counts the connections of a listener that were accepted and are not closed yet, and with them those of all. A
/// listener that takes the place of another goes on with its count.
#[derive(Clone, Debug)]
pub(crate) struct OpenConnections {
    own: Arc<AtomicU64>,
    all: ConnectionIds,
}

impl OpenConnections {
    fn new(all: ConnectionIds) -> Self {
        Self { own: Arc::default(), all }
    }

    /// A connection is one of these from now on, whatever the limits.
    pub(crate) fn note_opened(&self) {
        self.all.0.open.fetch_add(1, Ordering::Relaxed);
        self.own.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that was admitted is closed.
    pub(crate) fn note_closed(&self) {
        self.all.0.open.fetch_sub(1, Ordering::Relaxed);
        self.own.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection is closed as soon as it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// The listener has as many as it may have.
    Listener,
    /// All listeners have as many as they may have.
    Global,
}

/// A listener with its sockets bound. Each worker runs an [`ActiveListener`](crate::ActiveListener) of it.
pub struct Listener {
    /// What it was made from.
    pub config: Arc<ListenerConfig>,
    pub(crate) ids: ConnectionIds,
    pub(crate) stats: ListenerStats,
    /// Where it takes datagrams.
    pub(crate) udp_stats: Option<UdpListenerStats>,
    pub(crate) balancer: Option<Arc<Balancer>>,
    pub(crate) chains: Box<[Arc<FilterChain>]>,
    drain: Mutex<DrainState>,
    pub(crate) open: OpenConnections,
    addresses: Vec<Address>,
    /// Emptied when the listener stops for good: the kernel then refuses connections.
    sockets: Mutex<Vec<BoundSocket>>,
}

/// A filter chain, which outlives its listener where the next one has the same.
pub(crate) struct FilterChain {
    pub(crate) config: Arc<FilterChainConfig>,
    pub(crate) drain: watch::Sender<DrainState>,
}

// === impl Listener ===

impl Listener {
    /// Binds all addresses of `config` for `concurrency` workers; nobody can connect before [`Listener::listen`].
    pub fn bind(config: Arc<ListenerConfig>, concurrency: usize, ids: ConnectionIds) -> Result<Self, BindError> {
        Self::succeed(config, concurrency, ids, None, &[])
    }

    /// As [`Listener::bind`]; sockets that are the same are taken over from the listener `before`, which is replaced,
    /// or from those that `left`, so that no connection is lost that waits in one. Where nothing but filter chains is
    /// another than in `before`, chains that `config` [inherits](ListenerConfig::inheriting) are shared with it.
    pub fn succeed(
        config: Arc<ListenerConfig>,
        concurrency: usize,
        ids: ConnectionIds,
        before: Option<&Self>,
        left: &[Arc<Self>],
    ) -> Result<Self, BindError> {
        let count = if config.reuse_port { concurrency } else { 1 };
        let bind = |socket: &ListenSocket| {
            // Port 0 is another port for each listener.
            let left = left.iter().map(|l| &**l).filter(|_| socket.address.address.port() != Some(0));
            for donor in before.into_iter().chain(left) {
                if let Some(bound) = donor.lock().iter().find(|bound| bound.is_of(socket, count)) {
                    return bound.share();
                }
            }
            match config.reuse_port {
                true => BoundSocket::bind_shared(socket, count),
                false => BoundSocket::bind(socket),
            }
        };
        let sockets = config.sockets.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let exact = config.balance == ConnectionBalance::Exact;
        let in_place = before.filter(|before| before.config.shape == config.shape);
        let drain = in_place.map_or(DrainState::Serving, |before| *before.drain());
        let balancer =
            in_place.map_or_else(|| exact.then(|| Balancer::new(concurrency).into()), |b| b.balancer.clone());
        let open = in_place.map_or_else(|| OpenConnections::new(ids.clone()), |before| before.open.clone());
        Ok(Self {
            ids,
            stats: ListenerStats::new(&config.scope),
            udp_stats: config.udp.as_ref().map(|_| UdpListenerStats::new(&config.scope.scope("udp"))),
            balancer,
            chains: chains(&config, in_place, drain),
            drain: Mutex::new(drain),
            open,
            addresses: match config.internal {
                Some(_) => vec![Address::internal(config.name.clone(), "")],
                None => sockets.iter().map(|s| s.local().clone()).collect(),
            },
            sockets: Mutex::new(sockets),
            config,
        })
    }

    /// Counts a connection that was accepted, if there may be another.
    pub(crate) fn admit(&self) -> Result<(), Overflow> {
        let limits = &self.config.limits;
        let is_reached = |key: &RuntimeKey, open: &AtomicU64| {
            key.set_integer().is_some_and(|limit| open.load(Ordering::Relaxed) >= limit)
        };
        if is_reached(&limits.global, &self.ids.0.open) {
            self.stats.downstream_global_cx_overflow().inc();
            return Err(Overflow::Global);
        }
        if is_reached(&limits.own, &self.open.own) {
            self.stats.downstream_cx_overflow().inc();
            return Err(Overflow::Listener);
        }
        self.open.note_opened();
        Ok(())
    }

    /// Begins to listen on all addresses.
    pub fn listen(&self) -> Result<(), BindError> {
        self.lock().iter().try_for_each(BoundSocket::listen)
    }

    /// The addresses bound, in the order of the configuration.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The addresses by which it is known: those bound, and those that it is for without binding them.
    pub fn shown_addresses(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter().chain(&self.config.unbound)
    }

    /// The IP addresses whose connections it is for, whether it has bound them or not.
    pub(crate) fn ip_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let bound = self.addresses.iter().zip(&self.config.sockets);
        let bound = bound.filter(|(_, socket)| socket.address.sends == Sends::Streams).map(|(address, _)| address);
        bound.chain(&self.config.unbound).filter_map(|address| match address {
            Address::Ip(address) => Some(*address),
            Address::Pipe(_) | Address::Internal(_) => None,
        })
    }

    /// Connections of all workers that are open.
    pub fn connections(&self) -> u64 {
        self.stats.downstream_cx_active().value()
    }

    /// Tells the connections whether the listener drains.
    pub fn set_drain(&self, state: DrainState) {
        *self.drain() = state;
        for chain in &self.chains {
            chain.drain.send_replace(state);
        }
    }

    /// Has the connections of those filter chains close that `next` does not have, and counts these.
    pub fn drain_chains_gone_in(&self, next: &Self) -> usize {
        let kept: HashSet<_> = next.chains.iter().map(Arc::as_ptr).collect();
        let mut count = 0;
        for chain in self.chains.iter().filter(|chain| !kept.contains(&Arc::as_ptr(chain))) {
            // At once, whatever the strategy.
            chain.drain.send_replace(DrainState::Immediate);
            count += 1;
        }
        count
    }

    /// Closes the listener's own descriptors. The kernel refuses connections once all workers stopped accepting too.
    pub fn close(&self) {
        self.lock().clear();
    }

    /// The sockets that `worker` accepts from, each with its index among the addresses.
    pub(crate) fn sockets_of(&self, worker: usize) -> std::io::Result<Vec<Socket>> {
        self.lock().iter().map(|bound| bound.socket_of(worker)).collect()
    }

    /// Taken when a drain begins, never for a connection.
    fn drain(&self) -> MutexGuard<'_, DrainState> {
        self.drain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken when listeners start and stop, never for a connection.
    fn lock(&self) -> MutexGuard<'_, Vec<BoundSocket>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The chains of `config`: those that it has inherited go on as they are.
fn chains(config: &ListenerConfig, before: Option<&Listener>, drain: DrainState) -> Box<[Arc<FilterChain>]> {
    let before = before.into_iter().flat_map(|before| &before.chains);
    let known: HashMap<_, _> = before.map(|chain| (Arc::as_ptr(&chain.config), chain)).collect();
    let chain = |config: &Arc<FilterChainConfig>| match known.get(&Arc::as_ptr(config)) {
        Some(chain) => Arc::clone(chain),
        None => Arc::new(FilterChain { config: config.clone(), drain: watch::Sender::new(drain) }),
    };
    config.filter_chains.all().iter().map(chain).collect()
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("name", &self.config.name).field("addresses", &self.addresses).finish()
    }
}
