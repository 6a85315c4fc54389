//! Hosts that a cluster gets as requests ask for them, and loses when nobody does any more.

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::cluster::Cluster;
use crate::host::Host;
use crate::worker::{ClusterShare, WorkerHost};

/// The hosts of a cluster by what requests ask for, shared by all workers.
pub(crate) struct DynamicHosts<K> {
    /// The lock is taken when a worker first needs a host, and by the control thread; never for a host that the worker
    /// knows.
    table: Mutex<Table<K>>,
    /// There are hosts that are new.
    pub(crate) added: Notify,
}

struct Table<K> {
    hosts: HashMap<K, Arc<DynamicHost>>,
    /// Number of the next.
    next: u64,
}

/// One of them.
pub(crate) struct DynamicHost {
    pub(crate) host: Arc<Host>,
    /// In which order it came.
    order: u64,
    /// A request was given it since this was last looked at.
    is_used: AtomicBool,
    /// It is no host of the cluster any more.
    is_gone: AtomicBool,
}

/// Those that one worker knows.
pub(crate) struct KnownHosts<K> {
    hosts: RefCell<HashMap<K, Known>>,
    /// Of the cluster's hosts, when those that are gone were last dropped.
    version: Cell<u64>,
}

struct Known {
    shared: Arc<DynamicHost>,
    own: Rc<WorkerHost>,
}

// === impl DynamicHosts ===

impl<K> Default for DynamicHosts<K> {
    fn default() -> Self {
        Self { table: Mutex::new(Table { hosts: HashMap::new(), next: 0 }), added: Notify::new() }
    }
}

impl<K: Hash + Eq + Clone> DynamicHosts<K> {
    /// The host for `key`; `make` makes it where there is none.
    fn get_or_add(&self, key: &K, make: impl FnOnce() -> Host) -> Arc<DynamicHost> {
        let mut table = self.lock();
        if let Some(known) = table.hosts.get(key) {
            known.is_used.store(true, Ordering::Relaxed);
            return known.clone();
        }
        let order = table.next;
        table.next += 1;
        let host = Arc::new(DynamicHost {
            host: Arc::new(make()),
            order,
            is_used: AtomicBool::new(true),
            is_gone: AtomicBool::new(false),
        });
        table.hosts.insert(key.clone(), host.clone());
        self.added.notify_one();
        host
    }

    /// Adds the host for `key` unless it is there. True if it was added.
    pub(crate) fn ensure(&self, key: &K, make: impl FnOnce() -> Host) -> bool {
        let mut is_new = false;
        self.get_or_add(key, || {
            is_new = true;
            make()
        });
        is_new
    }

    /// Drops those that `is_kept` does not hold of. True if there were any.
    pub(crate) fn retain(&self, mut is_kept: impl FnMut(&K, &DynamicHost) -> bool) -> bool {
        let mut table = self.lock();
        let before = table.hosts.len();
        table.hosts.retain(|key, host| {
            let is_kept = is_kept(key, host);
            if !is_kept {
                host.is_gone.store(true, Ordering::Relaxed);
            }
            is_kept
        });
        table.hosts.len() != before
    }

    /// Makes them the hosts of the cluster.
    pub(crate) fn publish(&self, cluster: &Cluster) {
        let mut hosts: Vec<_> = self.lock().hosts.values().cloned().collect();
        hosts.sort_unstable_by_key(|host| host.order);
        cluster.set_hosts(hosts.iter().map(|host| host.host.clone()).collect());
    }

    fn lock(&self) -> MutexGuard<'_, Table<K>> {
        // A poisoned lock means that a look-up panicked: the table is whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl DynamicHost ===

impl DynamicHost {
    /// Whether it was given to a request since this was last asked.
    pub(crate) fn take_used(&self) -> bool {
        self.is_used.swap(false, Ordering::Relaxed)
    }

    /// Whether there are connections to it, or requests that wait for one.
    pub(crate) fn is_busy(&self) -> bool {
        self.host.stats.cx_active.get() > 0 || self.host.stats.rq_pending_active.get() > 0
    }
}

// === impl KnownHosts ===

impl<K> Default for KnownHosts<K> {
    fn default() -> Self {
        Self { hosts: RefCell::default(), version: Cell::new(0) }
    }
}

impl<K: Hash + Eq + Clone> KnownHosts<K> {
    /// The host for `key`, which `make` makes where no worker has asked for it yet.
    pub(crate) fn get<Q>(
        &self,
        key: &Q,
        all: &DynamicHosts<K>,
        share: &Rc<ClusterShare>,
        make: impl FnOnce(&K) -> Host,
    ) -> Rc<WorkerHost>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.forget_gone(share);
        if let Some(known) = self.hosts.borrow().get(key)
            && !known.shared.is_gone.load(Ordering::Relaxed)
        {
            // Looked at first: what all workers write is not to be written for each request.
            if !known.shared.is_used.load(Ordering::Relaxed) {
                known.shared.is_used.store(true, Ordering::Relaxed);
            }
            return known.own.clone();
        }
        let key = key.to_owned();
        let shared = all.get_or_add(&key, || make(&key));
        let own = Rc::new(WorkerHost::new(shared.host.clone(), share.clone()));
        self.hosts.borrow_mut().insert(key, Known { shared, own: own.clone() });
        own
    }

    /// Lets go of the pools of hosts that are gone.
    fn forget_gone(&self, share: &ClusterShare) {
        let version = share.cluster.version();
        if self.version.replace(version) != version {
            self.hosts.borrow_mut().retain(|_, known| !known.shared.is_gone.load(Ordering::Relaxed));
        }
    }
}
