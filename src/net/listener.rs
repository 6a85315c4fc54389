//! A listener as all workers share it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nuncio_config::listener::{ConnectionBalance, ListenSocket, ListenerConfig};
use nuncio_filter_api::DrainState;
use nuncio_telemetry::Address;
use nuncio_telemetry::stats::catalogue::ListenerStats;
use socket2::Socket;
use tokio::sync::watch;

use crate::balance::Balancer;
use crate::bind::{BindError, BoundSocket};

/// Numbers connections (`%CONNECTION_ID%`), over all listeners of the process.
#[derive(Clone, Debug, Default)]
pub struct ConnectionIds(Arc<AtomicU64>);

impl ConnectionIds {
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// A listener with its sockets bound. Each worker runs an [`ActiveListener`](crate::ActiveListener) of it.
pub struct Listener {
    /// What it was made from.
    pub config: Arc<ListenerConfig>,
    pub(crate) ids: ConnectionIds,
    pub(crate) stats: ListenerStats,
    pub(crate) balancer: Option<Balancer>,
    pub(crate) drain: watch::Sender<DrainState>,
    addresses: Vec<Address>,
    /// Emptied when the listener stops for good: the kernel then refuses connections.
    sockets: Mutex<Vec<BoundSocket>>,
}

impl Listener {
    /// Binds all addresses of `config` for `concurrency` workers; nobody can connect before [`Listener::listen`].
    pub fn bind(config: Arc<ListenerConfig>, concurrency: usize, ids: ConnectionIds) -> Result<Self, BindError> {
        Self::succeed(config, concurrency, ids, None, &[])
    }

    /// As [`Listener::bind`]; sockets that are the same are taken over from the listener `before`, which is replaced,
    /// or from those that `left`, so that no connection is lost that waits in one.
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
            BoundSocket::bind(socket, count)
        };
        let sockets = config.sockets.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let exact = config.balance == ConnectionBalance::Exact;
        Ok(Self {
            ids,
            stats: ListenerStats::new(&config.scope),
            balancer: exact.then(|| Balancer::new(concurrency)),
            drain: watch::Sender::new(DrainState::Serving),
            addresses: sockets.iter().map(|s| s.local().clone()).collect(),
            sockets: Mutex::new(sockets),
            config,
        })
    }

    /// Begins to listen on all addresses.
    pub fn listen(&self) -> Result<(), BindError> {
        self.lock().iter().try_for_each(BoundSocket::listen)
    }

    /// The addresses bound, in the order of the configuration.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Connections of all workers that are open.
    pub fn connections(&self) -> u64 {
        self.stats.downstream_cx_active().value()
    }

    /// Tells the connections whether the listener drains.
    pub fn set_drain(&self, state: DrainState) {
        self.drain.send_replace(state);
    }

    /// Closes the listener's own descriptors. The kernel refuses connections once all workers stopped accepting too.
    pub fn close(&self) {
        self.lock().clear();
    }

    /// The sockets that `worker` accepts from, each with its index among the addresses.
    pub(crate) fn sockets_of(&self, worker: usize) -> std::io::Result<Vec<Socket>> {
        self.lock().iter().map(|bound| bound.socket_of(worker)).collect()
    }

    /// Taken when listeners start and stop, never for a connection.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<BoundSocket>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("name", &self.config.name).field("addresses", &self.addresses).finish()
    }
}
