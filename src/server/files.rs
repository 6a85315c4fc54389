//! Discovery from files: each is read when it is wanted, and again whenever another takes its place.
//!
//! As in Envoy only moves count, and no write unless it is asked for (`watch_modify`): a file that is being written is not
//! read half. Where a folder is watched (`watched_directory`), any move in it does, as Kubernetes moves the symbolic link
//! `..data` of a ConfigMap.

mod follow;
mod load;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nuncio_config::discovery::Origin;
use nuncio_config::followed::{Change, Trigger};
use nuncio_config::load::UnknownFields;
use nuncio_filter_api::Invalid;
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use crate::update::{Kind, Outcome, Push, Rejected, Removed, Subscriptions, Target, Updates};
use load::load;

pub(crate) use follow::follow_contents;
pub(crate) use load::Delivery;
pub(crate) use watch::Watch;

/// Follows the files that are wanted, until it is dropped.
pub(crate) async fn follow(updates: Updates, unknown: UnknownFields) {
    let mut wanted = updates.subscriptions();
    let mut files = Files { updates, unknown, watch: Watch::new(), known: BTreeMap::new(), due: BTreeSet::new() };
    if let Err(error) = &files.watch {
        error!(target: "config", %error, "files cannot be watched: they are read once");
    }
    loop {
        files.reconcile(&wanted.borrow_and_update().clone());
        if let Some(target) = files.due.pop_first() {
            files.read(&target).await;
            continue;
        }
        let moved = async {
            match &mut files.watch {
                Ok(watch) => watch.next().await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                // The process ends.
                return;
            },
            change = moved => files.note(&change),
        }
    }
}

struct Files {
    updates: Updates,
    unknown: UnknownFields,
    watch: std::io::Result<Watch>,
    /// What is wanted of files, and what announces another content of each.
    known: BTreeMap<Target, Trigger>,
    /// To be read.
    due: BTreeSet<Target>,
}

// === impl Files ===

impl Files {
    fn reconcile(&mut self, wanted: &Arc<Subscriptions>) {
        let gone = |target: &Target| !wanted.contains(target);
        self.known.retain(|target, _| !gone(target));
        self.due.retain(|target| !gone(target));
        for target in wanted.iter() {
            if self.known.contains_key(target) {
                continue;
            }
            let Origin::Path { path, watched_directory } = &target.origin else { continue };
            let trigger = watched_directory.clone().unwrap_or_else(|| Trigger::of_file(path));
            self.known.insert(target.clone(), trigger);
            self.due.insert(target.clone());
        }
        if let Ok(watch) = &mut self.watch {
            // Watched before they are read: a move meanwhile is not missed.
            watch.reconcile(self.known.values().map(|trigger| &*trigger.folder));
        }
    }

    fn note(&mut self, change: &Change) {
        let due = self.known.iter().filter(|(_, trigger)| trigger.is_met_by(change)).map(|(target, _)| target.clone());
        self.due.extend(due);
    }

    async fn read(&mut self, target: &Target) {
        let Origin::Path { path, .. } = &target.origin else { return };
        self.updates.attempt(target).await;
        let (file, unknown) = (path.clone(), self.unknown);
        let loaded = spawn_blocking(move || load(&file, unknown)).await;
        // A panic was logged by the process's hook.
        let loaded = loaded.unwrap_or_else(|_| Err("reading it panicked".to_owned()));
        let delivery = match loaded {
            Ok(delivery) => delivery,
            Err(reason) => {
                warn!(target: "config", "Filesystem config update failure: {target}: {reason}");
                return self.updates.failed(target).await;
            }
        };
        if is_empty(target, &delivery) {
            return self.updates.empty(target, delivery.version).await;
        }
        if let Some(reason) = unexpected(target, &delivery) {
            warn!(target: "config", "Filesystem config update rejected: {path}: {reason}");
            return self.updates.rejected(target).await;
        }
        let Delivery { version, resources, sources } = delivery;
        let removed = Removed::all_others();
        let (kind, origin) = (target.kind, target.origin.clone());
        let outcome = self.updates.apply(Push { kind, origin, version, resources, removed }).await;
        match outcome.error_detail(kind) {
            None => info!(target: "config", accepted = outcome.accepted.len(), "{target} taken over from {path}"),
            Some(detail) => {
                warn!(target: "config", "Filesystem config update rejected: {path}: {detail}");
                tell(&outcome, &sources);
            }
        }
    }
}

/// Tells file, line and column of all that was rejected.
fn tell(outcome: &Outcome, sources: &nuncio_config::load::Sources) {
    for Rejected { name, index, reasons } in &outcome.rejected {
        for Invalid { path, reason, kind } in reasons {
            let dot = if path.is_empty() { "" } else { "." };
            let invalid =
                Invalid { path: format!("resources[{index}]{dot}{path}"), reason: reason.clone(), kind: *kind };
            let problem = sources.explain(invalid);
            warn!(target: "config", "{name}: {problem}");
        }
    }
}

/// Whether a file or response tells that there are no endpoints, or no routes: others must be there.
pub(crate) fn is_empty(target: &Target, delivery: &Delivery) -> bool {
    delivery.resources.is_empty() && matches!(target.kind, Kind::Endpoints | Kind::Routes)
}

/// Envoy: a file or response of endpoints, routes or secrets holds the one resource that was asked for.
pub(crate) fn unexpected(target: &Target, delivery: &Delivery) -> Option<String> {
    let name = target.name.as_deref()?;
    let (noun, short) = match target.kind {
        Kind::Runtime => ("RTDS runtime", "RTDS"),
        Kind::Endpoints => ("ClusterLoadAssignment", "EDS"),
        Kind::Extension => ("resource", "ExtensionConfigDS"),
        Kind::Secret => ("SDS resources", "SDS"),
        _ => ("RouteConfiguration", "RDS"),
    };
    match &*delivery.resources {
        [] => Some(format!("Missing {noun} for {name} in onConfigUpdate()")),
        [only] if only.name == name => None,
        [only] => Some(target.kind.misnamed(name, &only.name)),
        several => Some(format!("Unexpected {short} resource length: {}", several.len())),
    }
}
