//! The control thread: starts everything in order, then obeys signals and admin until it is told to stop.

use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use nuncio_config::listener::{DrainType, ListenerConfig};
use nuncio_config::load::UnknownFields;
use nuncio_filter_api::{DrainState, LowerEnv, ServerState};
use nuncio_net::BoundSocket;
use nuncio_telemetry::stats::Store;
use nuncio_upstream::Clusters;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::admin::{Admin, AdminThread};
use crate::cli::{Mode, Options};
use crate::clients::{Clients, Servers};
use crate::deadline::reached;
use crate::files;
use crate::listeners::{ListenerManager, takes_part};
use crate::logs::Logs;
use crate::node::identify;
use crate::own_services;
use crate::reload::{self, Reloader};
use crate::runtime::{self, Layers};
use crate::startup::{Start, StartError};
use crate::statics::{InForce, Statics};
use crate::stats;
use crate::update::{Cache, Initial, Parts, Phase, Updater, Updates};
use crate::watchdog::Watchdog;
use crate::worker::Shared;
use crate::xds::collections;

/// `server.state` while listeners serve.
const LIVE: u8 = 0;
/// `server.state` before all clusters are ready.
const PRE_INITIALIZING: u8 = 2;
/// `server.state` from then on until listeners serve.
const INITIALIZING: u8 = 3;
/// How long workers and admin may take to end before the process ends without them.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Pause before discovery is started again after a panic, so that one that panics at once does not spin.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Requests of admin that may wait for the control thread.
const REQUESTS: usize = 16;

/// What admin asks of the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// `/quitquitquit`
    Quit,
    /// `/healthcheck/fail` and `/healthcheck/ok`
    HealthFailed(bool),
    /// `/drain_listeners`
    Drain(DrainRequest),
    /// `/reopen_logs`, and SIGUSR1
    ReopenLogs,
}

/// Parameters of `/drain_listeners`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DrainRequest {
    /// Tell connections to close, and stop accepting after the drain time; else stop accepting at once.
    pub(crate) graceful: bool,
    /// Go on accepting even then.
    pub(crate) skip_exit: bool,
    /// Only listeners whose traffic direction is inbound.
    pub(crate) inbound_only: bool,
}

/// Runs the proxy until it is told to stop.
pub(crate) fn run(start: Start, logs: Logs) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::System { what: "start the control thread", source })?;
    LocalSet::new().block_on(&runtime, async {
        let mode = start.options.mode;
        let mut control = Control::start(start, logs).await?;
        let clusters = &control.shared.clusters;
        let tasks = [
            spawn_local(discover_forever(clusters.clone())),
            spawn_local(clusters.clone().run_health()),
            spawn_local(clusters.clone().run_warming()),
            spawn_local(clusters.clone().run_weights()),
            spawn_local(runtime::follow(control.shared.runtime.clone())),
            spawn_local(files::follow(control.updates.clone(), unknown_dynamic(&control.options))),
            spawn_local(files::follow_contents(control.env.clone())),
        ];
        let clients = control.clients.take().expect("they are made with the start").spawn();
        if control.options.watch_config {
            // Before all else is there: what is written meanwhile is not to be missed.
            spawn_local(reload::watch(control.options.clone(), control.reload.clone()));
        }
        if control.initialise().await {
            control.go_live().await?;
            if mode != Mode::InitOnly {
                let reloading = control.follow_bootstrap();
                control.obey().await;
                reloading.abort();
            }
        }
        tasks.iter().chain(&clients).for_each(tokio::task::JoinHandle::abort);
        control.stop().await;
        Ok(())
    })
}

/// Follows DNS; a panic there starts it again, and costs what the names meant meanwhile.
async fn discover_forever(clusters: Arc<Clusters>) {
    loop {
        let discovery = AssertUnwindSafe(clusters.clone().run_discovery());
        // Only a panic ends it, which the process's hook has logged.
        let _ = discovery.catch_unwind().await;
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

/// Starts the watchdog, which watches this thread first.
fn watch_main(store: &Store) -> Result<Arc<Watchdog>, StartError> {
    let watchdog = Watchdog::spawn(store);
    let watchdog = watchdog.map_err(|source| StartError::System { what: "start the watchdog", source })?;
    spawn_local(watchdog.watch("main_thread", "main_thread").run());
    Ok(watchdog)
}

/// Binds the listeners of the bootstrap.
async fn put_all(listeners: &Rc<ListenerManager>, configs: &[Arc<ListenerConfig>]) -> Result<(), StartError> {
    for listener in configs {
        let error = |source| StartError::Listener { listener: listener.name.clone(), source };
        listeners.put(listener.clone(), &[]).await.map_err(error)?;
    }
    Ok(())
}

struct Control {
    options: Options,
    logs: Logs,
    shared: Arc<Shared>,
    listeners: Rc<ListenerManager>,
    updates: Updates,
    /// Followed as soon as all else is.
    clients: Option<Clients>,
    initial: Initial,
    env: Arc<LowerEnv>,
    /// Asks for the bootstrap to be read again.
    reload: Rc<Notify>,
    concurrency: usize,
    started: Instant,
    admin: Option<AdminThread>,
    requests: mpsc::Receiver<(Request, oneshot::Sender<()>)>,
    signals: Signals,
    flush: Interval,
    /// End of a graceful drain, and which listeners then stop.
    drain_end: Option<(Instant, DrainRequest)>,
}

impl Control {
    /// Binds everything; nothing is accepted yet.
    async fn start(start: Start, logs: Logs) -> Result<Self, StartError> {
        let started = Instant::now();
        let signals = Signals::new().map_err(|source| StartError::System { what: "handle signals", source })?;
        let Start { options, env, config, loaded, unknown_fields } = start;
        let statics = Statics::of(&config);
        let env = Arc::new(env);
        let store = env.stats.clone();
        let mut rules = config.stats;
        rules.tags.fix_first(options.stats_tag.clone()).expect("the command line gives tags with names");
        store.set_rules(rules);
        let stats = stats::start(&store, env.concurrency, config.server_version);
        stats.static_unknown_fields().add(unknown_fields);
        let runtime = Arc::new(Layers::new(env.runtime.clone(), &store));
        runtime.configure(config.runtime);
        let state = Arc::new(ServerState::default());
        state.set_state(PRE_INITIALIZING);
        let admin = config.admin.as_ref().map(|a| BoundSocket::bind(&a.socket)).transpose();
        let admin = admin.map_err(StartError::Admin)?;
        let clusters = Clusters::managed(&store, &env.runtime, config.cluster_manager);
        clusters.update(config.clusters);
        own_services::reconcile(&env, &clusters);
        let watchdog = watch_main(&store)?;
        let (snapshot, records) = (ArcSwap::default(), Arc::default());
        let bootstrap = ArcSwap::from_pointee(InForce::new(loaded));
        let shared =
            Arc::new(Shared { store, state, clusters, snapshot, stats, watchdog, records, bootstrap, runtime });
        let listeners = ListenerManager::new(shared.clone(), &options, env.concurrency);
        put_all(&listeners, &config.listeners).await?;
        let (node, mut dynamic) = (identify(config.node, &env.registry), config.dynamic_resources);
        dynamic.identify(&node);
        let (ads, collections) = (dynamic.ads.clone(), collections(&dynamic));
        let (updater, updates, initial) = Updater::new(Parts {
            env: env.clone(),
            shared: shared.clone(),
            listeners: listeners.clone(),
            dynamic,
            statics,
            unknown: unknown_dynamic(&options),
            cache: open_cache(&options)?,
        });
        spawn_local(updater.run());
        // Envoy loads it twice: before clusters are known and after, as those may bring a layer.
        shared.runtime.reload();
        let clients = Clients::new(Servers {
            env: &env,
            shared: &shared,
            updates: &updates,
            node,
            ads,
            load_stats: config.load_stats,
            hds: config.hds,
            unknown: unknown_dynamic(&options),
            collections,
        });
        let (sender, requests) = mpsc::channel(REQUESTS);
        let mut flush = interval(config.stats_flush_interval);
        flush.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let concurrency = env.concurrency;
        let admin = admin.map(|socket| {
            let wanted = updates.subscriptions();
            let admin = Admin::new(options.clone(), env.clone(), shared.clone(), logs.app.clone(), sender, wanted);
            AdminThread::spawn(socket, admin)
        });
        Ok(Self {
            options,
            logs,
            shared,
            listeners,
            updates,
            clients: Some(clients),
            initial,
            env,
            reload: Rc::default(),
            concurrency,
            started,
            admin: admin.transpose()?,
            requests,
            signals,
            flush,
            drain_end: None,
        })
    }

    /// Waits until all is there that the listeners need; false if the process was told to stop meanwhile.
    async fn initialise(&mut self) -> bool {
        let (updates, clusters) = (self.updates.clone(), self.shared.clusters.clone());
        let (initial, listeners, state) = (self.initial.clone(), self.listeners.clone(), self.shared.state.clone());
        let mut ready = std::pin::pin!(async move {
            // Clusters are lowered by the values that are in force then.
            updates.begin(Phase::Runtime).await;
            initial.runtime.wait().await;
            updates.begin(Phase::Clusters).await;
            initial.clusters.wait().await;
            clusters.warmed().await;
            info!(target: "upstream", "all clusters initialised");
            state.set_state(INITIALIZING);
            updates.begin(Phase::Listeners).await;
            initial.listeners.wait().await;
            for readiness in listeners.waits() {
                readiness.wait().await;
            }
            info!(target: "config", "all dependencies initialised");
        });
        loop {
            tokio::select! {
                () = &mut ready => return true,
                event = self.next_event() => if !self.handle(event).await {
                    return false;
                }
            }
        }
    }

    /// Begins to listen and starts the workers.
    async fn go_live(&mut self) -> Result<(), StartError> {
        self.listeners.go_live()?;
        self.updates.begin(Phase::Live).await;
        self.shared.state.set_state(LIVE);
        let time = self.started.elapsed().as_millis();
        self.shared.stats.initialization_time_ms().record(u64::try_from(time).unwrap_or(u64::MAX));
        info!(target: "main", workers = self.concurrency, "starting main dispatch loop");
        Ok(())
    }

    /// Reads the bootstrap again whenever that is asked for.
    fn follow_bootstrap(&self) -> tokio::task::JoinHandle<()> {
        let reloader = Reloader {
            options: self.options.clone(),
            env: self.env.clone(),
            shared: self.shared.clone(),
            updates: self.updates.clone(),
        };
        spawn_local(reloader.run(self.reload.clone()))
    }

    /// Until SIGTERM, SIGINT or `/quitquitquit`.
    async fn obey(&mut self) {
        loop {
            let event = self.next_event().await;
            // What a panic leaves half done is one request of admin.
            match AssertUnwindSafe(self.handle(event)).catch_unwind().await {
                Ok(true) | Err(_) => {}
                Ok(false) => return,
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let drain_end = self.drain_end.map(|(at, _)| at);
        tokio::select! {
            // Without admin nobody asks, and the channel is closed.
            Some((request, done)) = self.requests.recv() => Event::Request(request, done),
            event = self.signals.next() => event,
            _ = self.flush.tick() => Event::Flush,
            () = reached(drain_end) => Event::DrainEnd,
        }
    }

    /// False if the process is to end.
    async fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Request(request, done) => {
                self.grant(request).await;
                // A client that is gone needs no answer.
                let _ = done.send(());
                return request != Request::Quit;
            }
            Event::Stop(signal) => {
                warn!(target: "main", "caught {signal}");
                return false;
            }
            Event::ReopenLogs => self.reopen_logs(),
            Event::Reload => self.reload.notify_one(),
            Event::Flush => self.shared.store.flush(),
            Event::DrainEnd => {
                if let Some((_, drain)) = self.drain_end.take() {
                    self.listeners.stop(drain.inbound_only).await;
                }
            }
        }
        true
    }

    async fn grant(&mut self, request: Request) {
        match request {
            Request::Quit => info!(target: "main", "told to quit by admin"),
            Request::HealthFailed(failed) => self.fail_health_check(failed),
            Request::Drain(drain) => self.drain(drain).await,
            Request::ReopenLogs => self.reopen_logs(),
        }
    }

    /// Envoy: while the health check fails, listeners of the default drain type drain.
    fn fail_health_check(&self, failed: bool) {
        self.shared.state.fail_health_check(failed);
        let drain = if failed { DrainState::Immediate } else { DrainState::Serving };
        self.listeners.set_drain(drain, |listener| listener.drain_type == DrainType::Default);
    }

    async fn drain(&mut self, request: DrainRequest) {
        if !request.graceful && !request.skip_exit {
            // Envoy: connections are told to close here too, but none is waited for.
            self.listeners.begin_drain(|listener| takes_part(listener, request.inbound_only));
            return self.listeners.stop(request.inbound_only).await;
        }
        // Envoy ignores a second graceful drain while one goes on.
        if self.drain_end.is_some() {
            return;
        }
        self.listeners.begin_drain(|listener| takes_part(listener, request.inbound_only));
        if !request.skip_exit {
            self.drain_end = Some((Instant::now() + self.options.drain_time(), request));
        }
    }

    fn reopen_logs(&self) {
        self.logs.files.reopen();
    }

    /// As Envoy does on SIGTERM: connections are closed as they are.
    async fn stop(self) {
        info!(target: "main", "shutting down");
        self.listeners.stop_workers().await;
        let deadline = Instant::now() + STOP_DEADLINE;
        let ended = || self.listeners.have_workers_ended();
        while !ended() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if !ended() {
            warn!(target: "main", "a worker does not end: its connections are cut off");
        }
        if let Some(admin) = self.admin {
            admin.stop(deadline).await;
        }
        info!(target: "main", "exiting");
        // The listeners' configuration holds the access logs: they are flushed while it still does.
        self.logs.flush();
    }
}

/// The cache of what discovery gives, where there is to be one.
fn open_cache(options: &Options) -> Result<Option<Cache>, StartError> {
    let open = |folder: &std::path::PathBuf| Cache::open(folder, options.xds_cache_secrets);
    let cache = options.xds_cache_dir.as_ref().map(open).transpose();
    cache.map_err(|source| StartError::System { what: "use --xds-cache-dir", source })
}

/// What becomes of unknown fields in what discovery gives.
fn unknown_dynamic(options: &Options) -> UnknownFields {
    match (options.reject_unknown_dynamic_fields, options.ignore_unknown_dynamic_fields) {
        (true, _) => UnknownFields::Reject,
        (false, true) => UnknownFields::Ignore,
        (false, false) => UnknownFields::Count,
    }
}

/// The signals that nuncio answers. SIGPIPE is ignored by the runtime of every Rust program.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// SIGUSR1: reopen the logs.
    reopen: Signal,
    /// SIGHUP: read the bootstrap again. Envoy ignores it.
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Event::Stop("SIGINT"),
            _ = self.reopen.recv() => Event::ReopenLogs,
            _ = self.hangup.recv() => Event::Reload,
        }
    }
}

/// What the control thread wakes up for.
enum Event {
    Request(Request, oneshot::Sender<()>),
    /// A signal of this name, which ends the process.
    Stop(&'static str),
    ReopenLogs,
    Reload,
    Flush,
    DrainEnd,
}
