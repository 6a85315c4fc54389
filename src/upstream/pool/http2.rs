//! HTTP/2 connections to one host: each carries many requests at once.
//!
//! ```text
//! dialling -> open (takes requests) -> retired (GOAWAY, age, number of requests) -> closed with its last request
//! ```

mod driver;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nuncio_config::cluster::Priority;
use nuncio_filter_api::Io;
use nuncio_http::h1::ExchangeFailure;
use nuncio_http::h2::Faults;
use nuncio_http::h2::client::H2Client;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connection::{Carries, ClosedBy, ConnectionRecord, OnClose, PoolFailure};
use super::http1::Http1Pool;
use super::mixed::AnyLease;
use super::queue::Queue;
use super::{Load, PoolPlace, preconnect};
use crate::host::Host;
use crate::worker::ClusterShare;

/// The HTTP/2 connections of one worker to one host at one priority.
pub(crate) struct Http2Pool {
    share: Rc<ClusterShare>,
    host: Arc<Host>,
    priority: Priority,
    place: PoolPlace,
    queue: Rc<Queue<AnyLease>>,
    /// Those that take requests.
    connections: RefCell<Vec<Rc<Http2Connection>>>,
    /// Connections of this pool, those being dialled and those that are retired included.
    open: Cell<usize>,
    dialling: Cell<usize>,
    /// Who makes its connections, if hosts may choose what they speak.
    other: OnceCell<Weak<Http1Pool>>,
}

/// A connection. Its driver is a task of its own.
struct Http2Connection {
    pool: Weak<Http2Pool>,
    /// Gone once the connection is retired: the h2 crate closes it when no handle and no stream is left.
    client: RefCell<Option<H2Client>>,
    faults: Rc<Faults>,
    record: Rc<ConnectionRecord>,
    streams: Cell<u32>,
    /// Since when there has been no stream.
    idle_since: Cell<Instant>,
    /// `None` until it ends: whose doing that was.
    ended_by: Cell<Option<ClosedBy>>,
    /// The host has said that it takes no more requests.
    is_notified: Cell<bool>,
    /// A request was sent on it.
    has_carried: Cell<bool>,
    /// Wakes the driver to send a PING.
    ping: Notify,
}

/// Leave for one stream, given back when dropped.
pub(crate) struct Http2Lease {
    connection: Rc<Http2Connection>,
}

// === impl Http2Pool ===

impl Http2Pool {
    pub(crate) fn new(host: Arc<Host>, place: PoolPlace) -> Rc<Self> {
        Self::sharing(host, place, Queue::new())
    }

    /// One that serves those who wait in this queue.
    pub(super) fn sharing(host: Arc<Host>, place: PoolPlace, queue: Rc<Queue<AnyLease>>) -> Rc<Self> {
        Rc::new(Self {
            share: place.share().clone(),
            host,
            priority: place.priority(),
            place,
            queue,
            connections: RefCell::default(),
            open: Cell::new(0),
            dialling: Cell::new(0),
            other: OnceCell::new(),
        })
    }

    pub(super) fn place(&self) -> &PoolPlace {
        &self.place
    }

    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    /// From now on it makes no connections, but gets those that turn out to be for it.
    pub(super) fn is_fed_by(&self, other: &Rc<Http1Pool>) {
        self.other.get_or_init(|| Rc::downgrade(other));
    }

    /// Takes over a connection.
    pub(super) async fn adopt(self: Rc<Self>, io: Io, record: Rc<ConnectionRecord>) {
        self.open.set(self.open.get() + 1);
        let closing: Rc<dyn OnClose> = self.clone();
        record.belong_to(Rc::downgrade(&closing));
        drop(closing);
        self.begin(io, record).await;
    }

    /// What it does now.
    pub(super) fn load(&self) -> Load {
        let max = self.share.cluster.config.http.http2.max_concurrent_streams as usize;
        let connections = self.connections.borrow();
        Load {
            pending: self.queue.len(),
            active: connections.iter().map(|connection| connection.streams.get() as usize).sum(),
            connecting: self.dialling.get().saturating_mul(max),
            room: connections.iter().map(|connection| connection.room()).fold(0, usize::saturating_add),
        }
    }

    /// Makes a connection for a request that is expected to be the next; false where it does not.
    pub(crate) fn expect(self: &Rc<Self>) -> bool {
        preconnect::expects_another(&self.share, &self.host, self.load()) && self.dial_another()
    }

    /// Leave for a stream: on the first connection that has room, or else when one has.
    pub(crate) async fn acquire(self: &Rc<Self>) -> Result<Http2Lease, PoolFailure> {
        if let Some(lease) = self.lend() {
            if self.share.cluster.config.pooling.is_some() {
                self.dial_if_needed();
            }
            return Ok(lease);
        }
        let waiting = self.queue.join(&self.share, &self.host, self.priority)?;
        self.dial_if_needed();
        waiting.await.map(AnyLease::http2)
    }

    pub(super) fn lend(&self) -> Option<Http2Lease> {
        loop {
            let connections = self.connections.borrow();
            let with_room = connections.iter().find(|c| c.has_room())?.clone();
            drop(connections);
            if let Some(lease) = with_room.lend() {
                return Some(lease);
            }
            with_room.retire();
        }
    }

    /// Serves those who wait, as far as there is room.
    fn serve(&self) {
        while self.queue.len() > 0 {
            let Some(lease) = self.lend() else { return };
            self.queue.serve(|| AnyLease::Http2(lease));
        }
    }

    fn dial_if_needed(self: &Rc<Self>) {
        for _ in 0..preconnect::AT_ONCE {
            if !preconnect::wants_another(&self.share, &self.host, self.load()) || !self.dial_another() {
                return;
            }
        }
    }

    /// False where there may be no other connection.
    fn dial_another(self: &Rc<Self>) -> bool {
        let closing: Rc<dyn OnClose> = self.clone();
        let has_none = self.open.get() == 0;
        let record = ConnectionRecord::open(
            &self.share,
            &self.host,
            self.priority,
            Carries::Http2,
            Rc::downgrade(&closing),
            has_none,
            self.place.options(),
        );
        let Some(record) = record else { return false };
        self.open.set(self.open.get() + 1);
        self.dialling.set(self.dialling.get() + 1);
        tokio::task::spawn_local(self.clone().dial(Rc::new(record)));
        true
    }

    async fn dial(self: Rc<Self>, record: Rc<ConnectionRecord>) {
        let dialled = record.dial().await;
        self.dialling.set(self.dialling.get() - 1);
        match dialled {
            Ok(io) => self.begin(io, record).await,
            Err(failure) => {
                // Those who wait would only wait for the same failure; Envoy fails them all.
                self.queue.fail(&failure);
                drop(record);
            }
        }
    }

    /// Opens the connection for requests, and drives it to its end.
    async fn begin(self: Rc<Self>, io: Io, record: Rc<ConnectionRecord>) {
        let http = &self.share.cluster.config.http;
        let limit = self.share.cluster.config.buffer_limit as usize;
        let stats = Some(self.share.http2_stats().clone());
        let (client, driver) = match H2Client::handshake(io, &http.http2, (&http.common).into(), limit, stats).await {
            Ok(begun) => begun,
            Err(error) => {
                self.queue.fail(&PoolFailure::Remote(error.to_string().into()));
                return;
            }
        };
        let connection = Rc::new(Http2Connection {
            pool: Rc::downgrade(&self),
            faults: client.faults().clone(),
            client: RefCell::new(Some(client)),
            record,
            streams: Cell::new(0),
            idle_since: Cell::new(self.share.env.clock.now()),
            ended_by: Cell::new(None),
            is_notified: Cell::new(false),
            has_carried: Cell::new(false),
            ping: Notify::new(),
        });
        self.connections.borrow_mut().push(connection.clone());
        self.serve();
        let share = self.share.clone();
        // The pool may go while the connection ends its requests.
        drop(self);
        connection.drive(&share, driver).await;
    }
}

impl OnClose for Http2Pool {
    fn on_close(self: Rc<Self>) {
        self.open.set(self.open.get() - 1);
        if self.queue.len() > 0 {
            match self.other.get().and_then(Weak::upgrade) {
                Some(other) => other.dial_if_needed(),
                None => self.dial_if_needed(),
            }
        } else if self.open.get() == 0 {
            self.place.leave();
        }
    }
}

impl Drop for Http2Pool {
    fn drop(&mut self) {
        for connection in self.connections.get_mut().drain(..) {
            drop(connection.client.take());
        }
    }
}

// === impl Http2Connection ===

impl Http2Connection {
    fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// Streams that it could take as well.
    fn room(&self) -> usize {
        let limit = self.record.share.cluster.config.http.http2.max_concurrent_streams as usize;
        let client = self.client.borrow();
        client.as_ref().map_or(0, |c| limit.min(c.max_streams()).saturating_sub(self.streams.get() as usize))
    }

    /// `None` if it takes no more requests.
    fn lend(self: &Rc<Self>) -> Option<Http2Lease> {
        let now = self.record.share.env.clock.now();
        if !self.record.is_reusable(now) || self.faults.is_broken() || self.is_gone_away() {
            return None;
        }
        let idle_limit = self.record.share.cluster.config.http.http2.keepalive.and_then(|k| k.connection_idle_interval);
        if self.streams.get() == 0 && idle_limit.is_some_and(|limit| now >= self.idle_since.get() + limit) {
            self.ping.notify_one();
        }
        self.streams.set(self.streams.get() + 1);
        self.record.share.http2_stats().streams_active().inc();
        Some(Http2Lease { connection: self.clone() })
    }

    /// The connection takes no more requests; those that it carries go on.
    fn retire(self: &Rc<Self>) {
        if let Some(pool) = self.pool.upgrade() {
            pool.connections.borrow_mut().retain(|c| !Rc::ptr_eq(c, self));
        }
        drop(self.client.take());
    }

    /// Whether the host has said that it takes no more.
    fn is_gone_away(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut client = self.client.borrow_mut();
        let Some(client) = client.as_mut() else { return true };
        match client.poll_ready(&mut cx) {
            Poll::Ready(Err(error)) => {
                if error.is_go_away() && error.is_remote() {
                    self.note_goodbye();
                }
                true
            }
            Poll::Ready(Ok(())) | Poll::Pending => false,
        }
    }

    /// The host has sent a GOAWAY.
    fn note_goodbye(&self) {
        if !self.is_notified.replace(true) {
            self.record.share.cluster.stats.upstream_cx_close_notify().inc();
        }
    }
}

// === impl Http2Lease ===

impl Http2Lease {
    /// The connection's record.
    pub(crate) fn record(&self) -> &Rc<ConnectionRecord> {
        &self.connection.record
    }

    /// Whether the connection has ended under the stream.
    pub(crate) fn is_lost(&self) -> bool {
        self.connection.ended_by.get() == Some(ClosedBy::Host)
    }

    /// Whether we have ended the connection under the stream.
    pub(crate) fn is_given_up(&self) -> bool {
        self.connection.ended_by.get() == Some(ClosedBy::Us) || self.connection.faults.is_broken()
    }

    /// The connection; `None` if it was retired since.
    pub(crate) fn client(&self) -> Option<H2Client> {
        let client = self.connection.client.borrow().clone()?;
        self.connection.has_carried.set(true);
        Some(client)
    }

    /// Why the host has ended a connection before anything was sent on it. Whoever asked for another would be given one
    /// such after the other without a pause; in Envoy a request is on its connection as soon as that is made, and ends
    /// with it.
    pub(crate) fn stillborn(&self) -> Option<ExchangeFailure> {
        let connection = &self.connection;
        match connection.ended_by.get() {
            _ if connection.has_carried.get() => None,
            _ if connection.is_notified.get() => Some(ExchangeFailure::GoneAway),
            Some(ClosedBy::Host) => Some(ExchangeFailure::Closed),
            Some(ClosedBy::Us) => Some(ExchangeFailure::Protocol("the host speaks no sound HTTP/2")),
            None => None,
        }
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.streams.set(connection.streams.get() - 1);
        connection.record.share.http2_stats().streams_active().dec();
        if connection.streams.get() == 0 {
            let now = connection.record.share.env.clock.now();
            connection.idle_since.set(now);
            // One that may carry no more is closed, whether or not another request comes.
            if connection.client.borrow().is_some() && !connection.record.is_reusable(now) {
                connection.retire();
            }
        }
        if let Some(pool) = connection.pool.upgrade() {
            pool.serve();
        }
    }
}

#[cfg(test)]
mod tests;
