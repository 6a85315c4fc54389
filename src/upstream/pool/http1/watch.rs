//! Looks after idle connections: closes those that their host has closed, and those that were idle for too long.
//!
//! One task does it for all idle connections of a pool. A connection that becomes idle leaves that task's waker with
//! the kernel's readiness, and nothing is done until the host sends something or the first time-out passes: a request
//! arms no timer and wakes no task.

use std::cell::Cell;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::time::{Instant, sleep_until};

use super::{Http1Pool, Idle};
use crate::host::{Host, Signal};

/// A pool's hold on the task that looks after its idle connections.
pub(super) struct Watch {
    signal: Arc<Signal>,
    waker: Waker,
    is_started: Cell<bool>,
    /// Whether the task wakes by itself at the first time-out.
    is_armed: Rc<Cell<bool>>,
}

// === impl Watch ===

impl Watch {
    pub(super) fn new(host: &Host) -> Self {
        let signal = host.signal();
        let waker = Waker::from(signal.clone());
        Self { signal, waker, is_started: Cell::new(false), is_armed: Rc::default() }
    }

    /// To be woken when an idle connection is readable.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Whether something happened on an idle connection that was not looked at yet.
    pub(super) fn is_raised(&self) -> bool {
        self.signal.is_raised()
    }

    /// A connection of `pool` has become idle.
    pub(super) fn look_after(&self, pool: &Rc<Http1Pool>) {
        if !self.is_started.replace(true) {
            tokio::task::spawn_local(run(Rc::downgrade(pool), self.signal.clone(), self.is_armed.clone()));
        } else if !self.is_armed.get() {
            self.signal.wake_task();
        }
    }

    /// The pool is gone.
    pub(super) fn end(&self) {
        self.signal.wake_task();
    }
}

async fn run(pool: Weak<Http1Pool>, signal: Arc<Signal>, is_armed: Rc<Cell<bool>>) {
    let mut timer = pin!(None);
    std::future::poll_fn(|cx| {
        signal.register(cx.waker());
        loop {
            let Some(pool) = pool.upgrade() else { return Poll::Ready(()) };
            let next = pool.sweep();
            is_armed.set(next.is_some());
            drop(pool);
            let Some(at) = next else {
                timer.set(None);
                return Poll::Pending;
            };
            timer.set(Some(sleep_until(at)));
            if timer.as_mut().as_pin_mut().is_none_or(|timer| timer.poll(cx).is_pending()) {
                return Poll::Pending;
            }
        }
    })
    .await;
}

impl Http1Pool {
    /// Closes idle connections whose time is over. Gives the time at which the next one's is.
    fn sweep(&self) -> Option<Instant> {
        let now = self.share.env.clock.now();
        self.watch.signal.lower();
        let mut cx = Context::from_waker(self.watch.waker());
        let mut next: Option<Instant> = None;
        let stats = &self.share.cluster.stats;
        let mut connections = self.idle.borrow_mut();
        let closed = connections.extract_if(.., |idle| {
            if idle.member.record.is_given_up() {
                return true;
            }
            if idle.connection.poll_idle_closed(&mut cx).is_ready() {
                idle.member.record.spoilt_while_idle();
                return true;
            }
            let end = self.end_of(idle);
            let is_over = end.is_some_and(|end| end <= now);
            match idle.member.record.expires {
                _ if !is_over => next = next.into_iter().chain(end).min(),
                Some(expires) if expires <= now => stats.upstream_cx_max_duration_reached().inc(),
                _ => stats.upstream_cx_idle_timeout().inc(),
            }
            is_over
        });
        // They are dropped when the list is whole again: that may dial for who waits.
        let closed: Vec<Idle> = closed.collect();
        drop(connections);
        drop(closed);
        next
    }

    /// When an idle connection is closed: after `idle_timeout`, or at `max_connection_duration`.
    fn end_of(&self, idle: &Idle) -> Option<Instant> {
        let idle_timeout = self.share.cluster.config.http.common.idle_timeout;
        idle_timeout.map(|timeout| idle.since + timeout).into_iter().chain(idle.member.record.expires).min()
    }
}
