//! Connections of one worker to one host, kept for the next request.

pub(crate) mod connection;
pub(crate) mod http1;
pub(crate) mod http2;
mod metered;
pub(crate) mod mixed;
mod preconnect;
mod queue;
pub(crate) mod tcp;
pub(crate) mod transport;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use nuncio_config::cluster::Priority;

use crate::host::Host;
use crate::limits::Resource;
use crate::worker::ClusterShare;
use http1::Http1Pool;
use http2::Http2Pool;
use mixed::MixedPool;
pub(crate) use preconnect::Load;
use transport::TransportOptions;

/// The pools of one host. Each is made when it is first needed, and goes when it has no connection and nobody waits.
#[derive(Default)]
pub(crate) struct HostPools {
    /// Those for everybody, by priority.
    http1: [RefCell<Option<Rc<Http1Pool>>>; 2],
    http2: [RefCell<Option<Rc<Http2Pool>>>; 2],
    /// Those for some.
    keyed: RefCell<Vec<Keyed>>,
}

/// Whose connections a pool holds, where it may not be for everybody.
#[derive(Clone, Debug, Default)]
pub(crate) struct PoolKey {
    /// The connection that the requests come on, where no other may share theirs.
    pub(crate) downstream: Option<u64>,
    /// What they mean for the transport socket.
    pub(crate) options: Option<Rc<TransportOptions>>,
}

struct Keyed {
    key: PoolKey,
    priority: Priority,
    pool: Pool,
}

enum Pool {
    Http1(Rc<Http1Pool>),
    Http2(Rc<Http2Pool>),
    Mixed(Rc<MixedPool>),
}

/// The cluster may have no more pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolOverflow;

/// A place in the count of pools, and who holds the pool.
pub(crate) struct PoolPlace {
    share: Rc<ClusterShare>,
    priority: Priority,
    options: Option<Rc<TransportOptions>>,
    holder: Weak<HostPools>,
    is_taken: Cell<bool>,
}

// === impl PoolKey ===

impl PartialEq for PoolKey {
    fn eq(&self, other: &Self) -> bool {
        let is_same = match (&self.options, &other.options) {
            (Some(one), Some(other)) => one == other,
            // What is said to the transport socket need not part pools.
            (Some(one), None) | (None, Some(one)) => **one == TransportOptions::default(),
            (None, None) => true,
        };
        self.downstream == other.downstream && is_same
    }
}

impl Eq for PoolKey {}

// === impl HostPools ===

impl HostPools {
    /// The HTTP/1 pool of these.
    pub(crate) fn http1(
        self: &Rc<Self>,
        share: &Rc<ClusterShare>,
        host: &Arc<Host>,
        priority: Priority,
        key: Option<PoolKey>,
    ) -> Result<Rc<Http1Pool>, PoolOverflow> {
        let key = key.unwrap_or_default();
        if key != PoolKey::default() {
            let make = |place| Pool::Http1(Http1Pool::new(host.clone(), place));
            return self.keyed(share, priority, key, make, |pool| match pool {
                Pool::Http1(pool) => Some(pool.clone()),
                Pool::Http2(_) | Pool::Mixed(_) => None,
            });
        }
        let slot = &self.http1[priority as usize];
        if let Some(pool) = &*slot.borrow() {
            return Ok(pool.clone());
        }
        let pool = Http1Pool::new(host.clone(), self.place(share, priority, key.options)?);
        *slot.borrow_mut() = Some(pool.clone());
        Ok(pool)
    }

    /// The HTTP/2 pool of these.
    pub(crate) fn http2(
        self: &Rc<Self>,
        share: &Rc<ClusterShare>,
        host: &Arc<Host>,
        priority: Priority,
        key: Option<PoolKey>,
    ) -> Result<Rc<Http2Pool>, PoolOverflow> {
        let key = key.unwrap_or_default();
        if key != PoolKey::default() {
            let make = |place| Pool::Http2(Http2Pool::new(host.clone(), place));
            return self.keyed(share, priority, key, make, |pool| match pool {
                Pool::Http1(_) | Pool::Mixed(_) => None,
                Pool::Http2(pool) => Some(pool.clone()),
            });
        }
        let slot = &self.http2[priority as usize];
        if let Some(pool) = &*slot.borrow() {
            return Ok(pool.clone());
        }
        let pool = Http2Pool::new(host.clone(), self.place(share, priority, key.options)?);
        *slot.borrow_mut() = Some(pool.clone());
        Ok(pool)
    }

    /// The pool for whatever the host chooses to speak with these.
    pub(crate) fn mixed(
        self: &Rc<Self>,
        share: &Rc<ClusterShare>,
        host: &Arc<Host>,
        priority: Priority,
        key: Option<PoolKey>,
    ) -> Result<Rc<MixedPool>, PoolOverflow> {
        let make = |place| Pool::Mixed(MixedPool::new(host.clone(), place));
        self.keyed(share, priority, key.unwrap_or_default(), make, |pool| match pool {
            Pool::Http1(_) | Pool::Http2(_) => None,
            Pool::Mixed(pool) => Some(pool.clone()),
        })
    }

    fn keyed<P>(
        self: &Rc<Self>,
        share: &Rc<ClusterShare>,
        priority: Priority,
        key: PoolKey,
        make: impl FnOnce(PoolPlace) -> Pool,
        as_wanted: impl Fn(&Pool) -> Option<P>,
    ) -> Result<P, PoolOverflow> {
        let known = self.keyed.borrow();
        let mut of_key = known.iter().filter(|keyed| keyed.priority == priority && keyed.key == key);
        if let Some(pool) = of_key.find_map(|keyed| as_wanted(&keyed.pool)) {
            return Ok(pool);
        }
        drop(known);
        let pool = make(self.place(share, priority, key.options.clone())?);
        let wanted = as_wanted(&pool).expect("a pool of the wanted kind was made");
        self.keyed.borrow_mut().push(Keyed { key, priority, pool });
        Ok(wanted)
    }

    /// A place for another pool. Envoy: where there is none, one of the same host goes that nobody uses.
    fn place(
        self: &Rc<Self>,
        share: &Rc<ClusterShare>,
        priority: Priority,
        options: Option<Rc<TransportOptions>>,
    ) -> Result<PoolPlace, PoolOverflow> {
        let (limits, stats) = (share.cluster.limits(priority), &share.cluster.stats);
        let is_taken = limits.try_take(Resource::Pools, stats)
            || (self.free_one(priority) && limits.try_take(Resource::Pools, stats));
        if !is_taken {
            stats.upstream_cx_pool_overflow().inc();
            return Err(PoolOverflow);
        }
        let (share, holder) = (share.clone(), Rc::downgrade(self));
        Ok(PoolPlace { share, priority, options, holder, is_taken: Cell::new(true) })
    }

    /// Lets go of a pool that has nothing but idle connections.
    fn free_one(&self, priority: Priority) -> bool {
        let http1 = self.http1[priority as usize].take_if_idle(|pool| pool.load().is_idle());
        let http2 = http1 || self.http2[priority as usize].take_if_idle(|pool| pool.load().is_idle());
        if http2 {
            return true;
        }
        let mut keyed = self.keyed.borrow_mut();
        let idle = keyed.iter().position(|keyed| keyed.priority == priority && keyed.pool.load().is_idle());
        let idle = idle.map(|at| keyed.swap_remove(at));
        drop(keyed);
        idle.is_some()
    }

    /// What its pools do together.
    pub(crate) fn load(&self) -> Load {
        let http1 = self.http1.iter().filter_map(|slot| slot.borrow().as_ref().map(|pool| pool.load()));
        let http2 = self.http2.iter().filter_map(|slot| slot.borrow().as_ref().map(|pool| pool.load()));
        let load = http1.chain(http2).fold(Load::default(), Load::and);
        self.keyed.borrow().iter().map(|keyed| keyed.pool.load()).fold(load, Load::and)
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        let http1 = self.http1.iter().filter(|slot| slot.borrow().is_some()).count();
        let http2 = self.http2.iter().filter(|slot| slot.borrow().is_some()).count();
        http1 + http2 + self.keyed.borrow().len()
    }
}

/// Takes a pool out of its slot.
trait TakeIfIdle<P> {
    /// If it is idle. The pool is dropped when the slot is whole again: that may come back to it.
    fn take_if_idle(&self, is_idle: impl FnOnce(&P) -> bool) -> bool;
}

impl<P> TakeIfIdle<P> for RefCell<Option<Rc<P>>> {
    fn take_if_idle(&self, is_idle: impl FnOnce(&P) -> bool) -> bool {
        let taken = self.borrow_mut().take_if(|pool| is_idle(pool));
        taken.is_some()
    }
}

// === impl Pool ===

impl Pool {
    fn load(&self) -> Load {
        match self {
            Self::Http1(pool) => pool.load(),
            Self::Http2(pool) => pool.load(),
            Self::Mixed(pool) => pool.load(),
        }
    }

    fn is(&self, place: &PoolPlace) -> bool {
        match self {
            Self::Http1(pool) => std::ptr::eq(pool.place(), place),
            Self::Http2(pool) => std::ptr::eq(pool.place(), place),
            Self::Mixed(pool) => pool.is(place),
        }
    }
}

// === impl PoolPlace ===

impl PoolPlace {
    pub(crate) fn share(&self) -> &Rc<ClusterShare> {
        &self.share
    }

    pub(crate) fn priority(&self) -> Priority {
        self.priority
    }

    /// What its requests mean for its connections.
    pub(crate) fn options(&self) -> Option<Rc<TransportOptions>> {
        self.options.clone()
    }

    /// One for the other pool of a pair, which counts as one.
    fn companion(&self) -> Self {
        let (share, options, holder) = (self.share.clone(), self.options.clone(), self.holder.clone());
        Self { share, priority: self.priority, options, holder, is_taken: Cell::new(false) }
    }

    /// The pool of this place has no connection, and nobody waits: it goes, unless the other one of a pair has some.
    pub(crate) fn leave(&self) {
        let is_kept = |keyed: &Keyed| matches!(&keyed.pool, Pool::Mixed(pool) if pool.is(self) && pool.is_open());
        if self.holder.upgrade().is_some_and(|holder| holder.keyed.borrow().iter().any(is_kept)) {
            return;
        }
        self.give_back();
        let Some(holder) = self.holder.upgrade() else { return };
        let at = self.priority as usize;
        let http1 = holder.http1[at].borrow_mut().take_if(|pool| std::ptr::eq(pool.place(), self));
        let http2 = holder.http2[at].borrow_mut().take_if(|pool| std::ptr::eq(pool.place(), self));
        let keyed = {
            let mut keyed = holder.keyed.borrow_mut();
            let at = keyed.iter().position(|keyed| keyed.pool.is(self));
            at.map(|at| keyed.swap_remove(at))
        };
        // Dropped when the pools are whole again.
        drop((http1, http2, keyed));
    }

    fn give_back(&self) {
        if self.is_taken.replace(false) {
            self.share.cluster.limits(self.priority).give_back(Resource::Pools, &self.share.cluster.stats);
        }
    }
}

impl Drop for PoolPlace {
    fn drop(&mut self) {
        self.give_back();
    }
}
