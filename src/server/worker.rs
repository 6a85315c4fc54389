//! A worker: an OS thread that accepts and serves connections.

use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use nuncio_filter_api::{Rng, ServerState, Worker};
use nuncio_net::{ActiveListener, Directory, Listener};
use nuncio_telemetry::stats::Store;
use nuncio_telemetry::stats::catalogue::ServerStats;
use nuncio_upstream::{Clusters, WorkerClusters};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tracing::{error, info};

use crate::runtime::Layers;
use crate::snapshot::Snapshot;
use crate::statics::InForce;
use crate::update::Records;
use crate::watchdog::Watchdog;

/// Commands that may wait for a worker. They come with configuration updates and admin requests, not with traffic.
const COMMANDS: usize = 64;
/// Pause before a worker that died is started again, so that one that dies at once does not spin.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// What the control and admin threads ask of a worker.
pub(crate) enum Command {
    /// Accept connections of this listener. It takes over the filter chains that the other has too.
    Start(Arc<Listener>, Option<Arc<Listener>>),
    /// Close the connections of this listener, which accepts no more.
    Remove(Arc<Listener>),
    /// Accept no more connections of this listener, and drop the sender; connections that are open go on.
    StopAccepting(Arc<Listener>, mpsc::Sender<()>),
    /// Close every connection and end.
    Stop,
    /// Have the worker do this between two turns of its event loop; a panic in it is the worker's.
    #[cfg(test)]
    Run(Box<dyn FnOnce() + Send>),
}

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) state: Arc<ServerState>,
    pub(crate) clusters: Arc<Clusters>,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) stats: ServerStats,
    pub(crate) watchdog: Arc<Watchdog>,
    /// What discovery has given: changed by the control thread, read by admin.
    pub(crate) records: Arc<Mutex<Records>>,
    pub(crate) bootstrap: ArcSwap<InForce>,
    pub(crate) runtime: Arc<Layers>,
}

/// The control thread's end of a worker.
pub(crate) struct WorkerHandle {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
}

impl WorkerHandle {
    /// Starts the worker numbered `index`; it serves the listeners of the snapshot.
    pub(crate) fn spawn(index: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let (commands, queue) = mpsc::channel(COMMANDS);
        let thread = std::thread::Builder::new()
            .name(format!("wrk:worker_{index}"))
            .spawn(move || run(index, &shared, queue))?;
        Ok(Self { commands, thread })
    }

    /// Where the worker takes commands; nobody does once it has ended.
    pub(crate) fn sender(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }

    /// Whether the thread has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// The thread: serves until it is told to stop, and starts again after a panic that no connection's task caught.
fn run(index: usize, shared: &Shared, mut commands: mpsc::Receiver<Command>) {
    let _shard = shared.store.register_worker(u32::try_from(index).unwrap_or(u32::MAX));
    loop {
        // What a panic leaves half done is the worker's own state, which is dropped as a whole.
        let served = std::panic::catch_unwind(AssertUnwindSafe(|| serve(index, shared, &mut commands)));
        match served {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error!(worker = index, %error, "worker cannot start"),
            Err(_) => error!(worker = index, "worker died and is started again"),
        }
        shared.stats.worker_restarts().inc();
        // The snapshot already has what other commands asked for.
        while let Ok(command) = commands.try_recv() {
            if matches!(command, Command::Stop) {
                return;
            }
        }
        std::thread::sleep(RESTART_PAUSE);
    }
}

fn serve(index: usize, shared: &Shared, commands: &mut mpsc::Receiver<Command>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = LocalSet::new();
    let served = tasks.block_on(&runtime, async {
        spawn_local(shared.watchdog.watch(&format!("worker_{index}"), "workers").run());
        let mut active = Active::start(index, shared)?;
        active.obey(commands).await;
        Ok(())
    });
    // Connections are dropped here, while there still is a runtime to deregister their sockets from.
    let _entered = runtime.enter();
    drop(tasks);
    served
}

/// What one worker runs.
struct Active {
    worker: Rc<Worker>,
    listeners: Vec<ActiveListener>,
    directory: Rc<Directory>,
}

impl Active {
    fn start(index: usize, shared: &Shared) -> io::Result<Self> {
        let worker = Rc::new(Worker::new(index, Rng::from_entropy(), shared.state.clone()));
        WorkerClusters::serve(shared.clusters.clone(), Rng::from_entropy(), &worker);
        spawn_local(WorkerClusters::follow(shared.clusters.clone(), Rc::downgrade(&worker)));
        let mut active = Self { worker, listeners: Vec::new(), directory: Rc::default() };
        for listener in &shared.snapshot.load().listeners {
            active.run(listener, None)?;
        }
        Ok(active)
    }

    async fn obey(&mut self, commands: &mut mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Start(listener, before) => self.start_listener(&listener, before.as_ref()),
                Command::Remove(listener) => self.listeners.retain(|a| !Arc::ptr_eq(a.listener(), &listener)),
                Command::StopAccepting(listener, _done) => {
                    for active in self.listeners.iter_mut().filter(|a| Arc::ptr_eq(a.listener(), &listener)) {
                        active.stop_accepting().await;
                    }
                }
                Command::Stop => break,
                #[cfg(test)]
                Command::Run(work) => work(),
            }
        }
        let open: usize = self.listeners.iter().map(ActiveListener::connections).sum();
        info!(worker = self.worker.index, connections = open, "worker stops");
    }

    fn start_listener(&mut self, listener: &Arc<Listener>, before: Option<&Arc<Listener>>) {
        // A worker that was started again has it from the snapshot.
        if self.listeners.iter().any(|active| Arc::ptr_eq(active.listener(), listener)) {
            return;
        }
        if let Err(error) = self.run(listener, before) {
            error!(worker = self.worker.index, listener = %listener.config.name, %error, "listener cannot be run");
        }
    }

    fn run(&mut self, listener: &Arc<Listener>, before: Option<&Arc<Listener>>) -> io::Result<()> {
        let before = before.and_then(|b| self.listeners.iter_mut().find(|active| Arc::ptr_eq(active.listener(), b)));
        let active = ActiveListener::start(listener.clone(), self.worker.clone(), self.directory.clone(), before)?;
        self.listeners.push(active);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[tokio::test]
    async fn a_worker_that_dies_is_started_again_and_stops_when_told() {
        let store = Store::new();
        let shared = Arc::new(Shared {
            stats: crate::stats::start(&store, 1, None),
            clusters: Clusters::new(&store, None),
            watchdog: Watchdog::spawn(&store).unwrap(),
            runtime: Arc::new(Layers::new(Arc::default(), &store)),
            store,
            state: Arc::default(),
            snapshot: ArcSwap::default(),
            records: Arc::default(),
            bootstrap: ArcSwap::default(),
        });
        let worker = WorkerHandle::spawn(0, shared.clone()).unwrap();
        let commands = worker.sender();
        commands.send(Command::Run(Box::new(|| panic!("injected")))).await.unwrap();
        while shared.stats.worker_restarts().value() == 0 {
            tokio::task::yield_now().await;
        }
        let (sender, receiver) = channel();
        let report = move || sender.send(std::thread::current().name().map(str::to_owned)).unwrap();
        commands.send(Command::Run(Box::new(report))).await.unwrap();
        assert_eq!(receiver.recv().unwrap().as_deref(), Some("wrk:worker_0"));
        assert_eq!(shared.stats.worker_restarts().value(), 1);
        commands.send(Command::Stop).await.unwrap();
        worker.thread.join().unwrap();
    }
}
