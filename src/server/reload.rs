//! The bootstrap is read again while the process runs: on SIGHUP, and with `--watch-config` when its file changes.
//!
//! All of it is validated first; an invalid one changes nothing. Then the difference is applied, make before break:
//! clusters that are new or changed, and when they are ready listeners, and in the end clusters that are gone.

mod outline;
mod tool;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nuncio_config::bootstrap::BootstrapConfig;
use nuncio_config::load::StaticClusters;
use nuncio_filter_api::LowerEnv;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use crate::cli::Options;
use crate::files::Watch;
use crate::own_services;
use crate::startup::load_again;
use crate::statics::InForce;
use crate::update::{Id, Kind, Record, StaticChange, Updates, lock};
use crate::worker::Shared;
use outline::{Changes, Outline};

pub(crate) use tool::diff;

/// How long listeners wait for clusters that are new.
const WARM_DEADLINE: Duration = Duration::from_secs(15);

/// Reads the bootstrap again.
pub(crate) struct Reloader {
    pub(crate) options: Options,
    pub(crate) env: Arc<LowerEnv>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) updates: Updates,
}

impl Reloader {
    /// Does so whenever it is `asked`, until it is dropped.
    pub(crate) async fn run(self, asked: Rc<Notify>) {
        loop {
            asked.notified().await;
            match self.reload().await {
                Ok(()) => self.shared.stats.config_reload_success().inc(),
                Err(reason) => {
                    // Told before it is counted: who sees the count finds the reason.
                    error!(target: "config", "the bootstrap is not taken over: {reason}");
                    self.shared.stats.config_reload_failure().inc();
                }
            }
        }
    }

    async fn reload(&self) -> Result<(), String> {
        let (options, env) = (self.options.clone(), self.env.clone());
        let before = self.shared.bootstrap.load_full();
        let read = move || {
            let (config, loaded) = load_again(&options, &env).map_err(|error| error.to_string())?;
            let changes = Changes::between(&Outline::of(&before.loaded), &Outline::of(&loaded));
            Ok::<_, String>((config, loaded, changes))
        };
        // The process's hook has logged a panic.
        let read = spawn_blocking(read).await.unwrap_or_else(|_| Err("reading it panicked".to_owned()));
        let read = read.and_then(|(config, loaded, changes)| {
            self.check_places(&changes)?;
            Ok((config, loaded, changes))
        });
        let (config, loaded, changes) = read.inspect_err(|_| self.withdraw_what_is_not_there())?;
        for field in &changes.others {
            warn!(target: "config", "{field} has changed, which takes a restart to come into force");
        }
        if changes.is_empty() {
            info!(target: "config", "the bootstrap was read again: nothing has changed");
        }
        self.apply(config, loaded, changes).await
    }

    /// Refuses what would take the place of something that discovery gave: that would be gone for good with it, as its
    /// server does not know that it is to be given once more.
    fn check_places(&self, changes: &Changes) -> Result<(), String> {
        let records = lock(&self.shared.records);
        let added = [(Kind::Cluster, &changes.clusters.added), (Kind::Listener, &changes.listeners.added)];
        for (kind, names) in added.into_iter().filter(|(_, names)| !names.is_empty()) {
            let names: HashSet<&str> = names.iter().map(String::as_str).collect();
            let is_taken = |(id, record): &(&Id, &Record)| record.accepted.is_some() && names.contains(&*id.name);
            if let Some((id, _)) = records.all(kind).find(is_taken) {
                let what = if kind == Kind::Cluster { "cluster" } else { "listener" };
                return Err(format!("{what} '{}' has come by discovery, which must withdraw it before", id.name));
            }
        }
        Ok(())
    }

    /// Lowering has declared the clusters of a bootstrap that was refused.
    fn withdraw_what_is_not_there(&self) {
        let snapshot = self.shared.clusters.snapshot();
        let there: HashSet<&str> = snapshot.all().map(|cluster| &*cluster.config.name.name).collect();
        self.env.clusters.withdraw_all_but(|name| there.contains(name));
    }

    async fn apply(&self, config: BootstrapConfig, loaded: StaticClusters, changes: Changes) -> Result<(), String> {
        let Changes { clusters, listeners, secrets: _, others: _, runtime: _ } = &changes;
        own_services::reconcile(&self.env, &self.shared.clusters);
        // Listeners and clusters that are new may refer to them.
        let mut failures = self.updates.change(StaticChange::Secrets(config.changed_secrets)).await;
        let put: Vec<_> = config.clusters.into_iter().filter(|c| clusters.are_put(&c.name.name)).collect();
        let ids: Vec<u32> = put.iter().map(|cluster| cluster.name.id).collect();
        self.updates.change(StaticChange::PutClusters(put)).await;
        if tokio::time::timeout(WARM_DEADLINE, self.shared.clusters.in_use(&ids)).await.is_err() {
            warn!(target: "config", "listeners no longer wait for clusters that are not ready");
        }
        let put = config.listeners.into_iter().filter(|listener| listeners.are_put(&listener.name)).collect();
        let removed = listeners.removed.clone();
        failures.extend(self.updates.change(StaticChange::Listeners { put, removed }).await);
        self.updates.change(StaticChange::RemoveClusters(clusters.removed.clone())).await;
        self.updates.change(StaticChange::Runtime(config.runtime)).await;
        self.shared.bootstrap.store(Arc::new(InForce::new(loaded)));
        for line in changes.lines() {
            info!(target: "config", "reload: {line}");
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }
}

/// Asks for a reload whenever the file of the bootstrap has another content.
pub(crate) async fn watch(options: Options, ask: Rc<Notify>) {
    let Some(path) = options.config_path else { return };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let watch = Watch::new().map(|mut watch| {
        watch.reconcile(std::iter::once(&*folder));
        watch
    });
    let mut watch = match watch {
        Ok(watch) => watch,
        Err(error) => return error!(target: "config", %error, "the bootstrap cannot be watched"),
    };
    // At once: what is written from now on is another content.
    let mut content = std::fs::read(&path).ok();
    loop {
        // Whatever moves in the folder may be what a symbolic link leads through.
        watch.next().await;
        let now = read(path.clone()).await;
        if now.is_some() && now != content {
            content = now;
            ask.notify_one();
        }
    }
}

/// `None` where there is no file now, as between two steps of an editor.
async fn read(path: PathBuf) -> Option<Vec<u8>> {
    spawn_blocking(move || std::fs::read(path).ok()).await.ok().flatten()
}
