//! HTTP/1 connections to one host: each carries one request at a time.
//!
//! ```text
//!            +------------------------- lend -------------------------+
//!            |                                                        v
//! dialling -> idle (newest lent first) <------- take back -------- lent -> closed
//!            |                                                        ^
//!            +-- lent at once to the first request that waits --------+
//! ```

mod watch;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};

use nuncio_config::cluster::Priority;
use nuncio_http::h1::{ClientConnection, OnIdle};
use nuncio_telemetry::Protocol;
use tokio::time::Instant;

use super::connection::{Carries, ConnectionRecord, OnClose, PoolFailure};
use super::http2::Http2Pool;
use super::mixed::AnyLease;
use super::queue::Queue;
use super::{Load, PoolPlace, preconnect};
use crate::host::Host;
use crate::worker::ClusterShare;
use watch::Watch;

/// The HTTP/1 connections of one worker to one host at one priority.
pub(crate) struct Http1Pool {
    share: Rc<ClusterShare>,
    host: Arc<Host>,
    priority: Priority,
    place: PoolPlace,
    queue: Rc<Queue<AnyLease>>,
    /// The one used last is at the end, and lent first: the others then reach their idle time-out.
    idle: RefCell<Vec<Idle>>,
    /// Connections of this pool, those being dialled included.
    open: Cell<usize>,
    dialling: Cell<usize>,
    watch: Watch,
    /// Where connections go that turn out to speak HTTP/2, if hosts may choose.
    other: OnceCell<Weak<Http2Pool>>,
}

struct Idle {
    connection: ClientConnection,
    member: Rc<Member>,
    since: Instant,
}

/// A connection's record with its pool. It does not keep the pool: a cluster that is gone takes no connection back.
struct Member {
    pool: Weak<Http1Pool>,
    record: Rc<ConnectionRecord>,
}

/// A connection lent to one request. Dropped before it is used, it goes back to its pool.
pub(crate) struct Lease {
    connection: Option<ClientConnection>,
    member: Rc<Member>,
}

// === impl Http1Pool ===

impl Http1Pool {
    pub(crate) fn new(host: Arc<Host>, place: PoolPlace) -> Rc<Self> {
        Rc::new(Self {
            share: place.share().clone(),
            priority: place.priority(),
            place,
            queue: Queue::new(),
            idle: RefCell::default(),
            open: Cell::new(0),
            dialling: Cell::new(0),
            watch: Watch::new(&host),
            other: OnceCell::new(),
            host,
        })
    }

    pub(super) fn place(&self) -> &PoolPlace {
        &self.place
    }

    pub(super) fn queue(&self) -> &Rc<Queue<AnyLease>> {
        &self.queue
    }

    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    /// From now on its hosts choose what they speak.
    pub(super) fn hand_over_to(&self, other: &Rc<Http2Pool>) {
        self.other.get_or_init(|| Rc::downgrade(other));
    }

    /// What it does now.
    pub(super) fn load(&self) -> Load {
        let (room, connecting) = (self.idle.borrow().len(), self.dialling.get());
        let active = self.open.get().saturating_sub(room + connecting);
        Load { pending: self.queue.len(), active, connecting, room }
    }

    /// Makes a connection for a request that is expected to be the next; false where it does not.
    pub(crate) fn expect(self: &Rc<Self>) -> bool {
        preconnect::expects_another(&self.share, &self.host, self.load()) && self.dial_another()
    }

    /// Lends a connection: an idle one, or else the first that becomes free or is made.
    pub(crate) async fn acquire(self: &Rc<Self>) -> Result<Lease, PoolFailure> {
        match self.lend_idle() {
            Some(lease) => {
                if self.share.cluster.config.pooling.is_some() {
                    self.dial_if_needed();
                }
                Ok(lease)
            }
            None => self.acquire_busy_or_new().await,
        }
    }

    /// Lends a connection that is not idle now: after one that was turned out to be dead.
    pub(crate) async fn acquire_busy_or_new(self: &Rc<Self>) -> Result<Lease, PoolFailure> {
        self.acquire_any().await.map(AnyLease::http1)
    }

    /// Whatever becomes free or is made first.
    pub(super) async fn acquire_any(self: &Rc<Self>) -> Result<AnyLease, PoolFailure> {
        let waiting = self.queue.join(&self.share, &self.host, self.priority)?;
        self.dial_if_needed();
        waiting.await
    }

    pub(super) fn lend_idle(self: &Rc<Self>) -> Option<Lease> {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let mut idle = self.idle.borrow_mut().pop()?;
            if idle.member.record.is_given_up() {
                continue;
            }
            // What the host sent while nothing was asked belongs to no request. There is nothing to see where the kernel
            // has announced nothing.
            if !self.watch.is_raised() || idle.connection.poll_idle_closed(&mut cx).is_pending() {
                return Some(Lease { connection: Some(idle.connection), member: idle.member });
            }
            idle.member.record.spoilt_while_idle();
        }
    }

    /// Takes a connection that could carry another request.
    fn take_back(self: &Rc<Self>, mut connection: ClientConnection, member: Rc<Member>) {
        let now = self.share.env.clock.now();
        if !member.record.is_reusable(now) {
            return;
        }
        if self.queue.len() > 0 {
            self.queue.serve(|| AnyLease::Http1(Lease { connection: Some(connection), member }));
        } else if connection.poll_idle_closed(&mut Context::from_waker(self.watch.waker())).is_ready() {
            member.record.spoilt_while_idle();
        } else {
            self.idle.borrow_mut().push(Idle { connection, member, since: now });
            self.watch.look_after(self);
        }
    }

    pub(super) fn dial_if_needed(self: &Rc<Self>) {
        for _ in 0..preconnect::AT_ONCE {
            if !preconnect::wants_another(&self.share, &self.host, self.load()) || !self.dial_another() {
                return;
            }
        }
    }

    /// False where there may be no other connection.
    fn dial_another(self: &Rc<Self>) -> bool {
        let closing: Rc<dyn OnClose> = self.clone();
        let other = self.other.get().and_then(Weak::upgrade);
        let has_none = self.open.get() == 0 && other.as_ref().is_none_or(|other| other.open() == 0);
        let Some(record) = ConnectionRecord::open(
            &self.share,
            &self.host,
            self.priority,
            if other.is_some() { Carries::AsHostChooses } else { Carries::Http1 },
            Rc::downgrade(&closing),
            has_none,
            self.place.options(),
        ) else {
            return false;
        };
        self.open.set(self.open.get() + 1);
        self.dialling.set(self.dialling.get() + 1);
        tokio::task::spawn_local(self.clone().dial(Rc::new(record)));
        true
    }

    async fn dial(self: Rc<Self>, record: Rc<ConnectionRecord>) {
        let dialled = record.dial().await;
        self.dialling.set(self.dialling.get() - 1);
        match dialled {
            Ok(io) => {
                if let Some(other) = self.other.get().and_then(Weak::upgrade)
                    && record.settle() == Protocol::Http2
                {
                    self.open.set(self.open.get() - 1);
                    // The pool may go before the connection does.
                    drop(self);
                    return Box::pin(other.adopt(io, record)).await;
                }
                let connection = ClientConnection::new(io, self.share.http1_settings().clone());
                self.take_back(connection, Rc::new(Member { pool: Rc::downgrade(&self), record }));
            }
            Err(failure) => {
                // Those who wait would only wait for the same failure; Envoy fails them all.
                self.queue.fail(&failure);
                drop(record);
            }
        }
    }
}

impl OnClose for Http1Pool {
    fn on_close(self: Rc<Self>) {
        self.open.set(self.open.get() - 1);
        if self.queue.len() > 0 {
            self.dial_if_needed();
        } else if self.open.get() == 0 {
            self.place.leave();
        }
    }
}

impl Drop for Http1Pool {
    fn drop(&mut self) {
        self.watch.end();
    }
}

// === impl Member ===

impl OnIdle for Member {
    fn on_idle(self: Rc<Self>, connection: ClientConnection) {
        if let Some(pool) = self.pool.upgrade() {
            pool.take_back(connection, self);
        }
    }

    fn on_close_notify(&self) {
        self.record.share.cluster.stats.upstream_cx_close_notify().inc();
    }
}

// === impl Lease ===

impl Lease {
    /// The connection's record.
    pub(crate) fn record(&self) -> &Rc<ConnectionRecord> {
        &self.member.record
    }

    /// The connection, and what takes it back once the request has ended in good order.
    pub(crate) fn begin(mut self) -> (ClientConnection, Rc<dyn OnIdle>) {
        let connection = self.connection.take().expect("a lease holds its connection until it is begun or dropped");
        (connection, self.member.clone())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.member.clone().on_idle(connection);
        }
    }
}

#[cfg(test)]
mod tests;
