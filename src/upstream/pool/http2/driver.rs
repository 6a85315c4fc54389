//! The task of one connection: moves its frames, and ends it when it is idle for too long or answers no PING.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use nuncio_http::h2::client::{Driver, DriverError};
use tokio::time::sleep_until;

use super::Http2Connection;
use crate::pings::{self, Pings};
use crate::pool::connection::ClosedBy;
use crate::worker::ClusterShare;

/// Why a connection ended.
enum End {
    /// It was closed by the host, or by us after it was retired.
    Driver(Result<(), DriverError>),
    /// Nothing was asked of it for `idle_timeout`.
    Idle,
    /// A PING was not answered in time.
    Dead,
}

impl Http2Connection {
    /// Drives the connection to its end.
    pub(super) async fn drive(self: Rc<Self>, share: &Rc<ClusterShare>, mut driver: Driver) {
        let stats = &share.cluster.stats;
        let keepalive = share.cluster.config.http.http2.keepalive;
        let pings = Pings::new(keepalive, &mut driver);
        let signal = self.record.host.signal();
        let end = {
            let mut idle = pin!(self.idle_for_too_long(share));
            let mut dead = pin!(pings::unanswered(pings, &self.ping, |most| share.env.rng.below(most)));
            poll_fn(|cx| {
                signal.register(cx.waker());
                if self.record.is_given_up() {
                    self.retire();
                }
                if let Poll::Ready(end) = Pin::new(&mut driver).poll(cx) {
                    return Poll::Ready(End::Driver(end));
                }
                self.serve_waiting();
                if idle.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(End::Idle);
                }
                dead.as_mut().poll(cx).map(|()| End::Dead)
            })
            .await
        };
        // Envoy: a connection of which we found the fault has its streams reset before it is closed.
        let is_ours = matches!(&end, End::Driver(Err(error)) if error.is_fault());
        match end {
            End::Idle => stats.upstream_cx_idle_timeout().inc(),
            End::Dead => share.http2_stats().keepalive_timeout().inc(),
            End::Driver(Err(error)) if error.is_fault() => {
                tracing::debug!(host = %self.record.remote(), %error, "upstream speaks no sound HTTP/2");
                stats.upstream_cx_protocol_error().inc();
            }
            End::Driver(Err(error)) if error.is_goodbye() => self.note_goodbye(),
            End::Driver(_) => {}
        }
        self.ended_by.set(Some(if is_ours { ClosedBy::Us } else { ClosedBy::Host }));
        // It may be the end that the host had announced.
        self.is_gone_away();
        self.retire();
    }

    /// Serves those who wait: the host may have raised its SETTINGS_MAX_CONCURRENT_STREAMS, which nothing else tells.
    fn serve_waiting(&self) {
        if let Some(pool) = self.pool.upgrade()
            && pool.queue.len() > 0
        {
            pool.serve();
        }
    }

    /// Ends once there was no stream for `idle_timeout`, and retires the connection at `max_connection_duration`. The
    /// timer is set anew only when it fires.
    async fn idle_for_too_long(self: &Rc<Self>, share: &ClusterShare) {
        let limit = share.cluster.config.http.common.idle_timeout;
        loop {
            let now = share.env.clock.now();
            let since = if self.streams.get() > 0 { now } else { self.idle_since.get() };
            let idle_end = limit.map(|limit| since + limit);
            if idle_end.is_some_and(|end| now >= end) {
                return;
            }
            let expires = self.record.expires.filter(|_| self.client.borrow().is_some());
            if expires.is_some_and(|end| now >= end) {
                share.cluster.stats.upstream_cx_max_duration_reached().inc();
                self.retire();
            } else {
                match idle_end.into_iter().chain(expires).min() {
                    Some(at) => sleep_until(at).await,
                    None => return std::future::pending().await,
                }
            }
        }
    }
}
