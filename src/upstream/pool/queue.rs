//! Requests that wait for a connection.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nuncio_config::cluster::Priority;

use super::connection::PoolFailure;
use crate::host::Host;
use crate::limits::Resource;
use crate::worker::ClusterShare;

/// The queue of one pool, first come first served, bounded by `max_pending_requests` of the cluster.
pub(crate) struct Queue<T> {
    waiters: RefCell<VecDeque<Rc<Waiter<T>>>>,
    /// Waiters in the queue that have not given up.
    live: Cell<usize>,
}

struct Waiter<T> {
    state: RefCell<State<T>>,
    place: Place,
}

enum State<T> {
    Waiting(Option<Waker>),
    Served(Result<T, PoolFailure>),
    /// The request took what it got, or gave up.
    Gone,
}

/// A place in the count of pending requests.
struct Place {
    share: Rc<ClusterShare>,
    host: Arc<Host>,
    priority: Priority,
}

/// Waits to be served. Dropping it gives up.
pub(crate) struct Waiting<T> {
    queue: Rc<Queue<T>>,
    waiter: Rc<Waiter<T>>,
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { waiters: RefCell::default(), live: Cell::new(0) })
    }

    /// Joins the queue, unless it is full.
    pub(crate) fn join(
        self: &Rc<Self>,
        share: &Rc<ClusterShare>,
        host: &Arc<Host>,
        priority: Priority,
    ) -> Result<Waiting<T>, PoolFailure> {
        let place = Place::take(share, host, priority)?;
        let waiter = Rc::new(Waiter { state: RefCell::new(State::Waiting(None)), place });
        self.waiters.borrow_mut().push_back(waiter.clone());
        self.live.set(self.live.get() + 1);
        Ok(Waiting { queue: self.clone(), waiter })
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.live.get()
    }

    /// Gives the first in the queue what `make` makes; nothing is made if nobody waits.
    pub(crate) fn serve(&self, make: impl FnOnce() -> T) -> bool {
        match self.next() {
            Some(waiter) => {
                waiter.serve(Ok(make()));
                true
            }
            None => false,
        }
    }

    /// Fails all who wait now; those who join meanwhile are not touched.
    pub(crate) fn fail(&self, failure: &PoolFailure) {
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        self.live.set(0);
        for waiter in waiters.iter().filter(|w| w.is_live()) {
            waiter.place.share.cluster.stats.upstream_rq_pending_failure_eject().inc();
            waiter.serve(Err(failure.clone()));
        }
    }

    /// Lets go of those who gave up, once they are most of the queue.
    fn sweep(&self) {
        const SLACK: usize = 16;
        let mut waiters = self.waiters.borrow_mut();
        if waiters.len() > 2 * self.live.get() + SLACK {
            waiters.retain(|w| w.is_live());
        }
    }

    fn next(&self) -> Option<Rc<Waiter<T>>> {
        let mut waiters = self.waiters.borrow_mut();
        loop {
            let waiter = waiters.pop_front()?;
            if waiter.is_live() {
                self.live.set(self.live.get() - 1);
                return Some(waiter);
            }
        }
    }
}

// === impl Waiter ===

impl<T> Waiter<T> {
    fn is_live(&self) -> bool {
        matches!(*self.state.borrow(), State::Waiting(_))
    }

    fn serve(&self, result: Result<T, PoolFailure>) {
        let before = self.state.replace(State::Served(result));
        self.place.give_back();
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

// === impl Place ===

impl Place {
    fn take(share: &Rc<ClusterShare>, host: &Arc<Host>, priority: Priority) -> Result<Self, PoolFailure> {
        let stats = &share.cluster.stats;
        if !share.cluster.limits(priority).try_take(Resource::Pending, stats) {
            stats.upstream_rq_pending_overflow().inc();
            return Err(PoolFailure::Overflow);
        }
        stats.upstream_rq_pending_total().inc();
        stats.upstream_rq_pending_active().inc();
        host.stats.rq_pending_active.inc();
        Ok(Self { share: share.clone(), host: host.clone(), priority })
    }

    fn give_back(&self) {
        let stats = &self.share.cluster.stats;
        stats.upstream_rq_pending_active().dec();
        self.host.stats.rq_pending_active.dec();
        self.share.cluster.limits(self.priority).give_back(Resource::Pending, stats);
    }
}

// === impl Waiting ===

impl<T> Future for Waiting<T> {
    type Output = Result<T, PoolFailure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.waiter.state.borrow_mut();
        match &mut *state {
            State::Waiting(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            served => match std::mem::replace(served, State::Gone) {
                State::Served(result) => Poll::Ready(result),
                _ => panic!("polled after it was served"),
            },
        }
    }
}

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        // What was served but not taken is dropped after the borrow has ended: it may serve another.
        let before = self.waiter.state.replace(State::Gone);
        if let State::Waiting(_) = before {
            self.waiter.place.give_back();
            self.waiter.place.share.cluster.stats.upstream_rq_cancelled().inc();
            self.queue.live.set(self.queue.live.get() - 1);
            self.queue.sweep();
        }
    }
}
