//! Puts into force what was lowered. Runs on the control thread.

mod clusters;
mod extensions;
mod fallback;
mod listeners;
mod on_demand;
mod runtime;
mod scopes;
mod secrets;
mod statics;
mod virtual_hosts;

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use nuncio_config::bootstrap::DynamicResources;
use nuncio_config::discovery::Origin;
use nuncio_config::load::UnknownFields;
use nuncio_filter_api::{Invalid, InvalidKind, LowerEnv, Readiness};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{info, warn};

use self::extensions::give_extension;
use self::fallback::Fallback;
use self::on_demand::answer_cluster;
use self::scopes::{check_scopes, give_scopes};
use self::secrets::{SecretFiles, give_secret};
use self::virtual_hosts::{end_waiting, give_hosts, put_routes};
use super::lowering::{Entry, Lowered, Prepared, prepare};
use super::records::{Accepted, Failed, Id, Kept, Records};
use super::stats::Event;
use super::wanted::{Targets, users};
use super::{
    Answer, Cache, Kind, MESSAGES, Message, Outcome, Phase, Push, Rejected, Resource, Subscriptions, Target, Updates,
};
use crate::deadline::reached;
use crate::listeners::ListenerManager;
use crate::statics::Statics;
use crate::worker::Shared;

/// What an [`Updater`] works with.
pub(crate) struct Parts {
    pub(crate) env: Arc<LowerEnv>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) listeners: Rc<ListenerManager>,
    pub(crate) dynamic: DynamicResources,
    pub(crate) statics: Statics,
    pub(crate) unknown: UnknownFields,
    pub(crate) cache: Option<Cache>,
}

/// Takes what sources deliver.
pub(crate) struct Updater {
    parts: Parts,
    phase: Phase,
    messages: mpsc::Receiver<Message>,
    wanted: watch::Sender<Arc<Subscriptions>>,
    targets: Targets,
    initial: Initial,
    secret_files: SecretFiles,
    fallback: Fallback,
}

/// What the server waits for before it serves.
#[derive(Clone)]
pub(crate) struct Initial {
    /// The layers of RTDS are known, or known not to come.
    pub(crate) runtime: Arc<Readiness>,
    /// The clusters of CDS are known, or known not to come.
    pub(crate) clusters: Arc<Readiness>,
    /// The listeners of LDS are known, or known not to come.
    pub(crate) listeners: Arc<Readiness>,
}

/// What was done with the resources of a push.
struct Applied {
    outcome: Outcome,
    /// Whether anything is not as it was.
    is_change: bool,
    /// Targets of single resources, and whether each changed.
    single: Vec<(Target, Option<bool>)>,
}

// === impl Updater ===

impl Updater {
    pub(crate) fn new(mut parts: Parts) -> (Self, Updates, Initial) {
        let (sender, messages) = mpsc::channel(MESSAGES);
        let (wanted, receiver) = watch::channel(Arc::default());
        let initial = Initial {
            runtime: Readiness::new("RTDS".to_owned()),
            clusters: Readiness::new("CDS".to_owned()),
            listeners: Readiness::new("LDS".to_owned()),
        };
        if parts.shared.runtime.wanted().is_empty() {
            initial.runtime.set();
        }
        if parts.dynamic.cds.is_none() {
            initial.clusters.set();
        }
        if parts.dynamic.lds.is_none() {
            initial.listeners.set();
        }
        let updates = Updates { messages: sender, wanted: receiver };
        let targets = Targets::default();
        let secret_files = SecretFiles::new();
        let phase = Phase::Runtime;
        let fallback = Fallback::new(parts.cache.take());
        let updater =
            Self { parts, phase, messages, wanted, targets, initial: initial.clone(), secret_files, fallback };
        (updater, updates, initial)
    }

    /// Runs until nobody can send anything any more.
    pub(crate) async fn run(mut self) {
        loop {
            // What a panic leaves half done is one push, whose source is told nothing.
            match AssertUnwindSafe(self.turn()).catch_unwind().await {
                Ok(true) | Err(_) => {}
                Ok(false) => return,
            }
        }
    }

    async fn turn(&mut self) -> bool {
        let env = self.parts.env.clone();
        tokio::select! {
            message = self.messages.recv() => match message {
                Some(message) => self.handle(message).await,
                None => return false,
            },
            () = self.parts.listeners.gone() => self.take_stock(),
            () = env.slots.told() => self.take_stock(),
            folder = self.secret_files.moved() => self.rotate(&folder).await,
            () = reached(self.targets.next_deadline()) => self.expire().await,
            due = self.fallback.due() => self.tend_cache(due).await,
        }
        self.fall_back().await;
        true
    }

    async fn handle(&mut self, message: Message) {
        match message {
            Message::Push(push, done) => {
                self.fallback.note_push(&push);
                self.records().set_cached(push.kind, &push.origin, false);
                let outcome = self.push(push).await;
                // A source that is gone needs no answer.
                let _ = done.send(outcome);
            }
            Message::Attempt(target) => {
                self.targets.note(&target, Event::Attempt);
                self.records().status_mut(target.kind, &target.origin).requested = Some(SystemTime::now());
            }
            Message::Failed(target) => {
                self.note_failure(&target, Event::Failed);
                self.settle(&target);
            }
            Message::Missing(target) => self.settle(&target),
            Message::Unreachable(target) => {
                self.note_failure(&target, Event::Failed);
                self.fallback.note_away(&target.origin);
            }
            Message::Rejected(target) => {
                self.note_failure(&target, Event::Rejected);
                self.settle(&target);
            }
            Message::Begin(phase, done) => {
                self.phase = phase;
                self.take_stock();
                let _ = done.send(());
            }
            Message::Static(change, done) => {
                let failures = self.change(change).await;
                self.take_stock();
                let _ = done.send(failures);
            }
        }
    }

    fn note_failure(&mut self, target: &Target, event: Event<'_>) {
        self.targets.note(target, event);
        self.records().status_mut(target.kind, &target.origin).failed = Some(SystemTime::now());
    }

    async fn push(&mut self, push: Push) -> Outcome {
        let started = Instant::now();
        let Parts { env, shared, unknown, .. } = &self.parts;
        let (env, records, unknown) = (env.clone(), shared.records.clone(), *unknown);
        let whole = Target { kind: push.kind, origin: push.origin.clone(), name: None };
        let version = push.version.clone();
        let Ok(prepared) = spawn_blocking(move || prepare(push, &env, &records, unknown)).await else {
            // The process's hook has logged the panic.
            let reasons = vec![invalid("", "lowering panicked".to_owned())];
            return Outcome {
                rejected: vec![Rejected { name: String::new(), index: 0, reasons }],
                ..Outcome::default()
            };
        };
        self.parts.shared.stats.dynamic_unknown_fields().add(prepared.unknown_fields);
        let Applied { outcome, is_change, single } = match prepared.kind {
            Kind::Runtime => self.apply_runtime(prepared).await,
            Kind::Cluster => self.apply_clusters(prepared).await,
            Kind::Endpoints | Kind::Routes => self.apply_single(prepared),
            Kind::Secret => self.apply_secrets(prepared).await,
            Kind::Extension => self.apply_extensions(prepared).await,
            Kind::Scope => self.apply_scopes(prepared),
            Kind::VirtualHost => self.apply_virtual_hosts(prepared).await,
            Kind::Listener => self.apply_listeners(prepared).await,
        };
        if is_change || outcome.rejected.is_empty() {
            self.records().set_version(whole.kind, &version);
        }
        if is_change {
            self.fallback.note_change(whole.kind, &whole.origin);
        }
        self.take_stock();
        let took = started.elapsed();
        self.note_answer(&whole, &version, &outcome, took);
        let event = |is_change: Option<bool>| match is_change {
            Some(is_change) => Event::Accepted { version: &version, took, is_change },
            None => Event::Rejected,
        };
        let of_list = (whole, outcome.rejected.is_empty().then_some(is_change));
        for (target, is_change) in std::iter::once(of_list).chain(single) {
            self.targets.note(&target, event(is_change));
            self.settle(&target);
        }
        outcome
    }

    fn note_answer(&self, whole: &Target, version: &str, outcome: &Outcome, took: Duration) {
        let mut records = self.records();
        let status = records.status_mut(whole.kind, &whole.origin);
        status.latency.record(took);
        let reason = outcome.error_detail(whole.kind);
        let answers = if reason.is_none() { &mut status.acked } else { &mut status.nacked };
        *answers =
            Some(Answer { at: SystemTime::now(), version: version.to_owned(), reason: reason.unwrap_or_default() });
    }

    /// Endpoints and routes: each for those who asked for it.
    fn apply_single(&mut self, prepared: Prepared) -> Applied {
        let Prepared { kind, origin, version, entries, removed: _, unknown_fields: _ } = prepared;
        let mut applied = Applied::nothing();
        for (index, Entry { resource, hash, lowered }) in entries.into_iter().enumerate() {
            let target = Target { kind, origin: origin.clone(), name: Some(resource.name.as_str().into()) };
            let Some(watched) = self.targets.find(&target) else {
                // Nobody asked for it, or does so no longer.
                applied.outcome.accepted.push(resource.name);
                continue;
            };
            let kept = match lowered {
                Lowered::Refused(reasons) => {
                    applied.outcome.rejected.push(self.refuse(kind, &origin, &version, index, &resource, reasons));
                    applied.single.push((target, None));
                    continue;
                }
                Lowered::Endpoints(assignment) => {
                    watched.users.clusters.iter().for_each(|cluster| cluster.assign(&assignment));
                    Kept::Endpoints(assignment)
                }
                Lowered::Routes(table) => {
                    for slot in watched.users.slots() {
                        put_routes(&slot, &table);
                    }
                    Kept::Routes(table)
                }
                _ => {
                    self.confirm(kind, &origin, &resource);
                    watched.users.clusters.iter().for_each(|cluster| cluster.confirm_assignment());
                    applied.outcome.accepted.push(resource.name);
                    applied.single.push((target, Some(false)));
                    continue;
                }
            };
            applied.is_change = true;
            applied.single.push((target, Some(true)));
            applied.outcome.accepted.push(resource.name.clone());
            self.accept(kind, &origin, resource, hash, kept);
        }
        applied
    }

    /// Looks who wants what now. Those who come late are given what there is.
    fn take_stock(&mut self) {
        let Parts { env, shared, dynamic, .. } = &self.parts;
        let users = users(self.phase, dynamic, &shared.clusters, &env.slots, &shared.runtime);
        self.targets.replace(users, &shared.store);
        let mut gave_secrets = false;
        let mut records = self.records();
        for kind in [Kind::Runtime, Kind::Endpoints, Kind::Secret, Kind::Extension, Kind::Routes] {
            records.retain(kind, |Id { name, origin }| {
                let target = Target { kind, origin: origin.clone(), name: Some(name.clone()) };
                self.targets.find(&target).is_some()
            });
        }
        let wants_scopes = |origin: &Origin| {
            self.targets.find(&Target { kind: Kind::Scope, origin: origin.clone(), name: None }).is_some()
        };
        records.retain(Kind::Scope, |id| wants_scopes(&id.origin));
        let wants_hosts = |id: &Id| {
            let target = Target { kind: Kind::VirtualHost, origin: id.origin.clone(), name: None };
            self.targets.find(&target).is_some_and(|watched| watched.users.hosts().any(|slot| slot.is_of(&id.name)))
        };
        records.retain(Kind::VirtualHost, wants_hosts);
        for (target, watched) in self.targets.iter().filter(|(_, watched)| watched.is_settled) {
            for slot in watched.users.scopes().filter(|slot| !slot.has_come() && !slot.ready.is_set()) {
                give_scopes(&slot, &records, env);
            }
            for slot in watched.users.hosts() {
                match &target.name {
                    None if !slot.ready.is_set() => give_hosts(&slot, &records, env),
                    None => {}
                    Some(name) => slot.miss(name),
                }
            }
            let Some(name) = target.name.clone() else { continue };
            for slot in watched.users.on_demand().filter(|slot| slot.is_awaited(&name)) {
                answer_cluster(&slot, &name, &self.parts);
            }
            let id = Id { name, origin: target.origin.clone() };
            let record = records.find(target.kind, &id).and_then(|record| record.accepted.as_ref());
            let kept = record.map(|accepted| accepted.kept.clone());
            for cluster in watched.users.clusters.iter().filter(|cluster| !cluster.is_assigned()) {
                match &kept {
                    Some(Kept::Endpoints(assignment)) => cluster.assign(assignment),
                    _ => cluster.give_up_waiting(),
                }
            }
            for slot in watched.users.secrets().filter(|slot| !slot.ready.is_set()) {
                give_secret(&slot, kept.as_ref(), env);
                gave_secrets = true;
            }
            for slot in watched.users.extensions().filter(|slot| !slot.ready.is_set()) {
                give_extension(&slot, kept.as_ref(), env);
            }
            for slot in watched.users.slots().filter(|slot| !slot.ready.is_set()) {
                if let Some(Kept::Routes(table)) = &kept {
                    put_routes(&slot, table);
                }
                end_waiting(&slot);
            }
        }
        records.retain_statuses(|kind, origin| self.targets.asks(kind, origin));
        drop(records);
        check_scopes(env);
        if gave_secrets {
            shared.clusters.note_secrets();
        }
        self.secret_files.reconcile(&lock(&self.parts.shared.records));
        let wanted = self.targets.subscriptions();
        self.wanted.send_if_modified(|before| {
            let is_new = **before != wanted;
            if is_new {
                *before = Arc::new(wanted);
            }
            is_new
        });
    }

    async fn expire(&mut self) {
        let expired = self.targets.take_expired(Instant::now());
        for target in &expired {
            warn!(target: "config", "initial fetch timed out for {target}");
            self.targets.note(target, Event::TimedOut);
            self.fallback.note_away(&target.origin);
        }
        self.fall_back().await;
        for target in expired {
            self.settle(&target);
        }
    }

    /// Those who wait for the first delivery of `target` wait no longer.
    fn settle(&mut self, target: &Target) {
        if !self.targets.settle(target) {
            return;
        }
        match target.kind {
            Kind::Runtime if self.targets.are_settled(Kind::Runtime) => self.initial.runtime.set(),
            Kind::Runtime => {}
            Kind::Cluster => match &target.name {
                None => self.initial.clusters.set(),
                Some(name) => {
                    let users = self.targets.find(target).map(|watched| &watched.users);
                    let asking = users.into_iter().flat_map(|users| users.on_demand());
                    asking.for_each(|slot| answer_cluster(&slot, name, &self.parts));
                }
            },
            Kind::Listener => self.initial.listeners.set(),
            Kind::Endpoints => {
                let users = self.targets.find(target).map(|watched| &watched.users);
                let waiting = users.into_iter().flat_map(|users| &users.clusters).filter(|c| !c.is_assigned());
                waiting.for_each(|cluster| cluster.give_up_waiting());
            }
            Kind::Extension => {
                let users = self.targets.find(target).map(|watched| &watched.users);
                let waiting = users.into_iter().flat_map(|users| users.extensions());
                waiting.filter(|slot| !slot.ready.is_set()).for_each(|slot| slot.give_up());
                // Clusters wait for some of them as they do for secrets.
                self.parts.shared.clusters.note_secrets();
            }
            Kind::Secret => {
                let users = self.targets.find(target).map(|watched| &watched.users);
                users.into_iter().flat_map(|users| users.secrets()).for_each(|slot| slot.ready.set());
                self.parts.shared.clusters.note_secrets();
            }
            Kind::VirtualHost => {
                let users = self.targets.find(target).map(|watched| &watched.users);
                for slot in users.into_iter().flat_map(|users| users.hosts()) {
                    match &target.name {
                        None => slot.settle(),
                        Some(name) => slot.miss(name),
                    }
                }
            }
            Kind::Scope => {
                let users = self.targets.find(target).map(|watched| &watched.users);
                let waiting = users.into_iter().flat_map(|users| users.scopes());
                waiting.filter(|slot| !slot.has_come()).for_each(|slot| slot.ready.set());
            }
            Kind::Routes => {
                let users = self.targets.find(target).map(|watched| &watched.users);
                users.into_iter().flat_map(|users| users.slots()).for_each(|slot| end_waiting(&slot));
                check_scopes(&self.parts.env);
            }
        }
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        lock(&self.parts.shared.records)
    }

    fn accept(&self, kind: Kind, origin: &Origin, resource: Resource, hash: u64, kept: Kept) {
        let id = Id { name: resource.name.as_str().into(), origin: origin.clone() };
        self.records().accept(kind, id, Accepted { resource, hash, updated: SystemTime::now(), kept });
    }

    fn confirm(&self, kind: Kind, origin: &Origin, resource: &Resource) {
        self.records().confirm(kind, &Id { name: resource.name.as_str().into(), origin: origin.clone() });
    }

    fn refuse(
        &self,
        kind: Kind,
        origin: &Origin,
        version: &str,
        index: usize,
        resource: &Resource,
        reasons: Vec<Invalid>,
    ) -> Rejected {
        let details = reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        info!(target: "config", name = %resource.name, "{} config rejected: {details}", kind.noun());
        let (any, version, at) = (resource.any.clone(), version.to_owned(), SystemTime::now());
        let id = Id { name: resource.name.as_str().into(), origin: origin.clone() };
        self.records().fail(kind, id, Failed { any, version, at, details });
        Rejected { name: resource.name.clone(), index, reasons }
    }
}

impl Applied {
    fn nothing() -> Self {
        Self { outcome: Outcome::default(), is_change: false, single: Vec::new() }
    }
}

pub(crate) fn lock(records: &Mutex<Records>) -> MutexGuard<'_, Records> {
    // A poisoned lock means that a change panicked between two records: each is whole.
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

fn invalid(path: &str, reason: String) -> Invalid {
    Invalid { path: path.to_owned(), reason, kind: InvalidKind::Value }
}
