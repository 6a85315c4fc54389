//! The listeners of the process: which of them accept, which wait to, and which drain.
//!
//! ```text
//! put -> warming -> active -> draining -> gone
//!    \____________/   (at once where there is nothing to wait for)
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nuncio_config::listener::{DrainType, ListenerConfig, TrafficDirection};
use nuncio_filter_api::{DrainState, Readiness};
use nuncio_net::{BindError, ConnectionIds, Listener};
use nuncio_telemetry::stats::catalogue::ListenerManagerStats;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::Instant;
use tracing::{error, info};

use crate::cli::{DrainStrategy, Options};
use crate::snapshot::Snapshot;
use crate::worker::{Command, Shared, WorkerHandle};

/// How long workers may take to stop accepting before nobody waits for them.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PutError {
    #[error("{0}")]
    Bind(#[from] BindError),
    #[error("error adding listener: '{name}' has duplicate address '{address}' as existing listener '{other}'")]
    Duplicate { name: Arc<str>, address: String, other: Arc<str> },
    #[error("Listener {0}: reuse port cannot be changed during an update")]
    ReusePort(Arc<str>),
}

/// The listeners, and the workers that run them. Lives on the control thread.
pub(crate) struct ListenerManager {
    shared: Arc<Shared>,
    ids: ConnectionIds,
    concurrency: usize,
    drain_time: Duration,
    drain_strategy: DrainStrategy,
    stats: ListenerManagerStats,
    workers: RefCell<Vec<WorkerHandle>>,
    lists: RefCell<Lists>,
    is_live: Cell<bool>,
    /// Which listeners were stopped, and are neither added nor updated any more.
    stopped: Cell<Option<Stopped>>,
    /// Told when a listener is gone for good, and what it held with it.
    gone: Notify,
    /// Told when the lists have changed.
    changes: watch::Sender<()>,
}

/// Listeners that accept no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    Inbound,
    All,
}

#[derive(Default)]
struct Lists {
    /// Those that were stopped are among them: they serve the connections that they have.
    active: Vec<Arc<Listener>>,
    /// The names of these.
    stopped: BTreeSet<Arc<str>>,
    warming: Vec<Arc<Listener>>,
    draining: Vec<Arc<Listener>>,
}

// === impl ListenerManager ===

impl ListenerManager {
    pub(crate) fn new(shared: Arc<Shared>, options: &Options, concurrency: usize) -> Rc<Self> {
        Rc::new(Self {
            stats: ListenerManagerStats::new(&shared.store.scope("listener_manager")),
            shared,
            ids: ConnectionIds::default(),
            concurrency,
            drain_time: options.drain_time(),
            drain_strategy: options.drain_strategy,
            workers: RefCell::default(),
            lists: RefCell::default(),
            is_live: Cell::new(false),
            stopped: Cell::new(None),
            gone: Notify::new(),
            changes: watch::Sender::new(()),
        })
    }

    /// Adds a listener, or replaces the one of its name once it is ready. The sockets of those that have `left` are
    /// there to be taken over.
    pub(crate) async fn put(
        self: &Rc<Self>,
        config: Arc<ListenerConfig>,
        left: &[Arc<Listener>],
    ) -> Result<(), PutError> {
        if self.stopped.get().is_some_and(|stopped| takes_part(&config, stopped == Stopped::Inbound)) {
            // Envoy: nobody is told.
            info!(target: "config", listener = %config.name, "not added, its direction was stopped");
            return Ok(());
        }
        self.check_addresses(&config)?;
        let before = self.lists.borrow().find(&config.name);
        if before.as_ref().is_some_and(|before| before.config.reuse_port != config.reuse_port) {
            return Err(PutError::ReusePort(config.name.clone()));
        }
        let in_place =
            self.lists.borrow().active(&config.name).filter(|b| self.is_live.get() && b.config.shape == config.shape);
        let config = match &in_place {
            Some(before) => {
                self.stats.listener_in_place_updated().inc();
                Arc::new(config.inheriting(&before.config))
            }
            None => config,
        };
        let listener = Listener::succeed(config, self.concurrency, self.ids.clone(), before.as_deref(), left)?;
        let listener = Arc::new(listener);
        match before {
            Some(_) => self.stats.listener_modified().inc(),
            None => self.stats.listener_added().inc(),
        }
        if self.shared.state.is_health_check_failed() && listener.config.drain_type == DrainType::Default {
            listener.set_drain(DrainState::Immediate);
        }
        if !self.is_live.get() || is_ready(&listener) {
            return Ok(self.activate(listener).await?);
        }
        let mut lists = self.lists.borrow_mut();
        lists.warming.retain(|other| other.config.name != listener.config.name);
        lists.warming.push(listener.clone());
        self.publish(&lists);
        let readiness = listener.config.waits().cloned().collect();
        spawn_local(self.clone().warm(Arc::downgrade(&listener), readiness));
        Ok(())
    }

    /// Envoy binds an address for one listener alone.
    fn check_addresses(&self, config: &ListenerConfig) -> Result<(), PutError> {
        let lists = self.lists.borrow();
        let others = lists.active.iter().chain(&lists.warming).filter(|other| other.config.name != config.name);
        let taken = others.flat_map(|other| other.config.sockets.iter().map(move |s| (other, &s.address)));
        for (other, taken) in taken.filter(|(_, taken)| taken.place().is_some()) {
            if config.sockets.iter().any(|socket| socket.address.place() == taken.place()) {
                let (name, address) = (config.name.clone(), taken.address.to_string());
                return Err(PutError::Duplicate { name, address, other: other.config.name.clone() });
            }
        }
        Ok(())
    }

    /// Has a listener accept once all that it waits for is there, unless it is taken back before. Until then the lists
    /// alone hold it: with it go its sockets and what it asks for.
    async fn warm(self: Rc<Self>, listener: Weak<Listener>, readiness: Vec<Arc<Readiness>>) {
        let mut changes = self.changes.subscribe();
        let mut ready = std::pin::pin!(async {
            for readiness in readiness {
                readiness.wait().await;
            }
        });
        loop {
            let is_ready = tokio::select! {
                () = &mut ready => true,
                // The sender is in `self`, so that waiting cannot fail.
                _ = changes.changed() => false,
            };
            let find =
                |lists: &Lists| lists.warming.iter().find(|other| Arc::as_ptr(other) == listener.as_ptr()).cloned();
            let Some(found) = find(&self.lists.borrow()) else { return };
            if is_ready {
                let name = found.config.name.clone();
                if let Err(error) = self.activate(found).await {
                    self.stats.listener_create_failure().inc();
                    error!(target: "config", listener = %name, %error, "listener cannot begin to listen");
                }
                return;
            }
        }
    }

    /// Has a listener accept, in place of the one before.
    async fn activate(self: &Rc<Self>, listener: Arc<Listener>) -> Result<(), BindError> {
        if self.is_live.get() {
            self.listen(&listener)?;
        }
        let before = {
            let mut lists = self.lists.borrow_mut();
            let before = lists.activate(listener.clone());
            // First of all the snapshot: a worker that is started again serves what is in it.
            self.publish(&lists);
            before
        };
        if !self.is_live.get() {
            return Ok(());
        }
        let in_place = before.clone().filter(|before| before.config.shape == listener.config.shape);
        self.tell_workers(|| Command::Start(listener.clone(), in_place.clone())).await;
        self.stats.listener_create_success().add(self.concurrency as u64);
        match (before, in_place) {
            (_, Some(before)) => self.drain_chains(before, &listener).await,
            (Some(before), None) => self.drain(before).await,
            (None, None) => {}
        }
        Ok(())
    }

    fn listen(&self, listener: &Listener) -> Result<(), BindError> {
        listener.listen()?;
        let addresses = listener.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        info!(target: "config", listener = %listener.config.name, addresses, "listening");
        Ok(())
    }

    /// Takes listeners out of service. They accept until they are [retired](Self::retire), so that others can take over
    /// their sockets.
    pub(crate) fn remove(&self, mut is_removed: impl FnMut(&str) -> bool) -> Vec<Arc<Listener>> {
        let mut lists = self.lists.borrow_mut();
        let lists = &mut *lists;
        let warming: Vec<_> = lists.warming.extract_if(.., |listener| is_removed(&listener.config.name)).collect();
        let left: Vec<_> = lists.active.extract_if(.., |listener| is_removed(&listener.config.name)).collect();
        let names: BTreeSet<_> = warming.iter().chain(&left).map(|listener| &*listener.config.name).collect();
        if !names.is_empty() {
            self.stats.listener_removed().add(names.len() as u64);
            self.publish(lists);
        }
        left
    }

    /// Drains listeners that were removed.
    pub(crate) async fn retire(self: &Rc<Self>, left: Vec<Arc<Listener>>) {
        for listener in left {
            self.drain(listener).await;
        }
    }

    /// Accepts no more, tells the connections to close, and closes those that remain when the drain time has passed.
    async fn drain(self: &Rc<Self>, listener: Arc<Listener>) {
        listener.set_drain(self.drain_state());
        if self.is_live.get() {
            self.stop_accepting(&listener).await;
        }
        listener.close();
        {
            let mut lists = self.lists.borrow_mut();
            lists.draining.push(listener.clone());
            self.publish(&lists);
        }
        self.stats.total_listeners_draining().inc();
        let manager = self.clone();
        spawn_local(async move {
            tokio::time::sleep(manager.drain_time).await;
            manager.tell_workers(|| Command::Remove(listener.clone())).await;
            {
                let mut lists = manager.lists.borrow_mut();
                lists.draining.retain(|other| !Arc::ptr_eq(other, &listener));
                manager.publish(&lists);
            }
            info!(target: "config", listener = %listener.config.name, "drained");
            drop(listener);
            manager.stats.total_listeners_draining().dec();
            manager.gone.notify_one();
        });
    }

    /// Tells the connections of filter chains that `next` does not have to close, and closes those that remain when the
    /// drain time has passed. `next` accepts by then, and has taken over all others.
    async fn drain_chains(self: &Rc<Self>, before: Arc<Listener>, next: &Listener) {
        let count = before.drain_chains_gone_in(next) as u64;
        self.stop_accepting(&before).await;
        before.close();
        self.stats.total_filter_chains_draining().add(count);
        let manager = self.clone();
        spawn_local(async move {
            tokio::time::sleep(manager.drain_time).await;
            manager.tell_workers(|| Command::Remove(before.clone())).await;
            info!(target: "config", listener = %before.config.name, count, "filter chains drained");
            drop(before);
            manager.stats.total_filter_chains_draining().sub(count);
            manager.gone.notify_one();
        });
    }

    fn drain_state(&self) -> DrainState {
        match self.drain_strategy {
            DrainStrategy::Gradual => DrainState::Gradual { since: Instant::now(), over: self.drain_time },
            DrainStrategy::Immediate => DrainState::Immediate,
        }
    }

    /// Returns when no worker accepts for the listener any more.
    async fn stop_accepting(&self, listener: &Arc<Listener>) {
        let (done, mut wait) = mpsc::channel::<()>(1);
        self.tell_workers(|| Command::StopAccepting(listener.clone(), done.clone())).await;
        drop(done);
        // Ends when every worker has dropped its sender.
        let _ = tokio::time::timeout(STOP_DEADLINE, wait.recv()).await;
    }

    async fn tell_workers(&self, command: impl Fn() -> Command) {
        let workers: Vec<_> = self.workers.borrow().iter().map(WorkerHandle::sender).collect();
        for worker in workers {
            // Nothing happens where it has ended already.
            let _ = worker.send(command()).await;
        }
    }

    /// What the listeners wait for.
    pub(crate) fn waits(&self) -> Vec<Arc<Readiness>> {
        let lists = self.lists.borrow();
        let all = lists.active.iter().chain(&lists.warming);
        all.flat_map(|listener| listener.config.waits().cloned()).collect()
    }

    /// Begins to listen and starts the workers.
    pub(crate) fn go_live(&self) -> Result<(), GoLiveError> {
        let active = self.lists.borrow().active.clone();
        for listener in &active {
            let error = |source| GoLiveError::Listener { listener: listener.config.name.clone(), source };
            self.listen(listener).map_err(error)?;
        }
        for index in 0..self.concurrency {
            let worker = WorkerHandle::spawn(index, self.shared.clone()).map_err(GoLiveError::Worker)?;
            self.workers.borrow_mut().push(worker);
            self.stats.listener_create_success().add(active.len() as u64);
        }
        self.stats.workers_started().set(1);
        self.is_live.set(true);
        Ok(())
    }

    /// Tells the connections of listeners whether they drain.
    pub(crate) fn set_drain(&self, state: DrainState, takes_part: impl Fn(&ListenerConfig) -> bool) {
        for listener in self.lists.borrow().active.iter().filter(|listener| takes_part(&listener.config)) {
            listener.set_drain(state);
        }
    }

    /// Begins a drain of listeners that go on accepting.
    pub(crate) fn begin_drain(&self, takes_part: impl Fn(&ListenerConfig) -> bool) {
        self.set_drain(self.drain_state(), takes_part);
    }

    /// Accepts no more connections for all listeners, or those that are inbound; those that are open go on.
    pub(crate) async fn stop(&self, inbound_only: bool) {
        if self.stopped.get() != Some(Stopped::All) {
            self.stopped.set(Some(if inbound_only { Stopped::Inbound } else { Stopped::All }));
        }
        let stopped: Vec<_> = {
            let mut lists = self.lists.borrow_mut();
            let Lists { active, stopped, .. } = &mut *lists;
            let concerned = active.iter().filter(|listener| takes_part(&listener.config, inbound_only));
            concerned.filter(|listener| stopped.insert(listener.config.name.clone())).cloned().collect()
        };
        for listener in stopped {
            listener.close();
            self.stop_accepting(&listener).await;
            self.stats.listener_stopped().inc();
            info!(target: "config", listener = %listener.config.name, "stopped accepting");
        }
    }

    /// Tells the workers to end.
    pub(crate) async fn stop_workers(&self) {
        self.tell_workers(|| Command::Stop).await;
    }

    /// Whether all workers have ended.
    pub(crate) fn have_workers_ended(&self) -> bool {
        self.workers.borrow().iter().all(WorkerHandle::is_finished)
    }

    /// Waits until a listener is gone, and what it held with it.
    pub(crate) async fn gone(&self) {
        self.gone.notified().await;
    }

    fn publish(&self, lists: &Lists) {
        self.stats.total_listeners_active().set(lists.active.len() as u64);
        self.stats.total_listeners_warming().set(lists.warming.len() as u64);
        self.shared.snapshot.store(Arc::new(Snapshot {
            listeners: lists.active.clone(),
            warming: lists.warming.clone(),
            draining: lists.draining.clone(),
        }));
        self.changes.send_replace(());
    }
}

/// Why the process cannot begin to serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GoLiveError {
    #[error("listener '{listener}': {source}")]
    Listener { listener: Arc<str>, source: BindError },
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
}

/// Whether a listener takes part in a drain of those that are inbound, or of all.
pub(crate) fn takes_part(config: &ListenerConfig, inbound_only: bool) -> bool {
    !inbound_only || config.direction == TrafficDirection::Inbound
}

// === impl Lists ===

impl Lists {
    /// The listener of this name that accepts.
    fn active(&self, name: &str) -> Option<Arc<Listener>> {
        self.active.iter().find(|listener| *listener.config.name == *name).cloned()
    }

    /// The listener of this name whose sockets are to be taken over.
    fn find(&self, name: &str) -> Option<Arc<Listener>> {
        self.active.iter().chain(&self.warming).find(|listener| *listener.config.name == *name).cloned()
    }

    /// Puts a listener in the place of the one before, which it returns.
    fn activate(&mut self, listener: Arc<Listener>) -> Option<Arc<Listener>> {
        self.warming.retain(|other| other.config.name != listener.config.name);
        // It accepts, whatever became of the one before.
        self.stopped.remove(&listener.config.name);
        match self.active.iter_mut().find(|other| other.config.name == listener.config.name) {
            Some(place) => Some(std::mem::replace(place, listener)),
            None => {
                self.active.push(listener);
                None
            }
        }
    }
}

fn is_ready(listener: &Listener) -> bool {
    listener.config.waits().all(|readiness| readiness.is_set())
}
