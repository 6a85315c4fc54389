//! Puts into force what was lowered. Runs on the control thread.

mod clusters;
mod extensions;
mod fallback;
mod leds;
mod listeners;
mod on_demand;
mod runtime;
mod scopes;
mod secrets;
mod single;
mod statics;
mod stock;
mod virtual_hosts;

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use nuncio_config::bootstrap::DynamicResources;
use nuncio_config::discovery::Origin;
use nuncio_config::load::UnknownFields;
use nuncio_config::route::RouteTable;
use nuncio_filter_api::{Invalid, LowerEnv, Readiness};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::info;

use self::fallback::Fallback;
pub(super) use self::leds::Composites;
use self::secrets::SecretFiles;
use super::lowering::{Entry, Lowered, Prepared, prepare};
use super::records::{Accepted, Failed, Id, Kept, Records};
use super::stats::Event;
use super::wanted::Targets;
use super::{
    Answer, Cache, Kind, MESSAGES, Message, Outcome, Phase, Push, Rejected, Removed, Resource, Subscriptions, Target,
    Updates, details, invalid, lock,
};
use crate::deadline::reached;
use crate::listeners::ListenerManager;
use crate::own_services;
use crate::statics::Statics;
use crate::worker::Shared;

/// How long tables that nobody has any more are kept at least.
const REST: Duration = Duration::from_secs(1);
/// Envoy's text.
const TOO_FEW_CLUSTERS: &str = "CDS update attempts to reduce clusters below configured minimum.";

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
    /// Tables that others have taken the place of, and requests may have: to free one may take longer than a request.
    old_tables: RefCell<Vec<Arc<RouteTable>>>,
    /// When those are freed that nobody has any more.
    free_at: Option<Instant>,
    composites: Composites,
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
    /// Whether that counts as `config_reload`, where it is not the same.
    reloads: Option<bool>,
    /// Targets of single resources, and whether each changed.
    single: Vec<(Target, Option<bool>)>,
    /// Targets of single resources that the server no longer has.
    gone: Vec<Target>,
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
        let updater = Self {
            parts,
            phase,
            messages,
            wanted,
            targets,
            initial: initial.clone(),
            secret_files,
            fallback,
            old_tables: RefCell::default(),
            free_at: None,
            composites: Composites::default(),
        };
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
        let (env, clusters) = (self.parts.env.clone(), self.parts.shared.clusters.clone());
        tokio::select! {
            message = self.messages.recv() => match message {
                Some(message) => self.handle(message).await,
                None => return false,
            },
            () = self.parts.listeners.gone() => self.take_stock(),
            () = clusters.freed() => self.take_stock(),
            () = env.slots.told() => self.take_stock(),
            change = self.secret_files.changed() => self.rotate(&change).await,
            () = reached(self.targets.next_deadline()) => self.expire().await,
            due = self.fallback.due() => self.tend_cache(due).await,
            () = reached(self.free_at) => self.free_tables().await,
        }
        if self.free_at.is_none() && !self.old_tables.get_mut().is_empty() {
            self.free_at = Some(Instant::now() + REST);
        }
        self.fall_back().await;
        true
    }

    async fn free_tables(&mut self) {
        self.free_at = None;
        let old = self.old_tables.get_mut();
        let free: Vec<_> = old.extract_if(.., |table| Arc::strong_count(table) == 1).collect();
        // A panic was logged.
        let _ = spawn_blocking(|| drop(free)).await;
    }

    async fn handle(&mut self, message: Message) {
        match message {
            Message::Plane(kind, origin, state) => self.targets.note_plane(kind, origin, state),
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
                self.settle(&[target]);
            }
            Message::Missing(target) => self.settle(&[target]),
            Message::Empty(target, version) => {
                self.targets.note(&target, Event::Empty { version: &version, took: Duration::ZERO });
                self.settle(&[target]);
            }
            Message::Unreachable(target) => {
                self.note_failure(&target, Event::Unreachable);
                self.fallback.note_away(&target.origin);
            }
            Message::Rejected(target) => {
                self.note_failure(&target, Event::Rejected);
                self.settle(&[target]);
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
        own_services::reconcile(&self.parts.env, &self.parts.shared.clusters);
        let Applied { outcome, is_change, reloads, single, gone } = self.apply(prepared).await;
        if is_change || outcome.is_accepted() {
            self.records().set_version(whole.kind, &version);
        }
        if is_change {
            self.fallback.note_change(whole.kind, &whole.origin);
        }
        match whole.kind {
            // Hosts change nothing of what is wanted, and to look at all takes longer than to give one cluster its own.
            Kind::Endpoints | Kind::LocalityEndpoints => self.follow_clusters(),
            _ => self.take_stock(),
        }
        let took = started.elapsed();
        self.note_answer(&whole, &version, &outcome, took);
        let event = |is_change: Option<bool>| match is_change {
            Some(is_change) => Event::Accepted { version: &version, took, is_change },
            None => Event::Rejected,
        };
        for target in &gone {
            let event = match target.kind {
                Kind::Endpoints => Event::Empty { version: &version, took },
                kind => Event::Accepted { version: &version, took, is_change: kind == Kind::Extension },
            };
            self.targets.note(target, event);
        }
        let of_list = (whole, outcome.is_accepted().then_some(reloads.unwrap_or(is_change)));
        let mut told = Vec::with_capacity(1 + single.len());
        for (target, is_change) in std::iter::once(of_list).chain(single) {
            self.targets.note(&target, event(is_change));
            told.push(target);
        }
        self.settle(&told);
        outcome
    }

    async fn apply(&mut self, prepared: Prepared) -> Applied {
        if let Some(refused) = self.refuse_malformed(&prepared) {
            return refused;
        }
        match prepared.kind {
            Kind::Cluster if self.leaves_too_few(&prepared) => Applied::refused(TOO_FEW_CLUSTERS),
            Kind::Runtime | Kind::Endpoints | Kind::Secret | Kind::Extension | Kind::Routes => {
                self.apply_single(prepared).await
            }
            Kind::Cluster => self.apply_clusters(prepared).await,
            Kind::LocalityEndpoints => self.apply_locality_endpoints(prepared),
            Kind::Scope => self.apply_scopes(prepared),
            Kind::VirtualHost => self.apply_virtual_hosts(prepared).await,
            Kind::Listener => self.apply_listeners(prepared).await,
        }
    }

    /// Envoy: a push is decoded as a whole, so that nothing of it is looked at where a part of it is malformed. What a
    /// server tells by changes, and nobody asked for, is not decoded.
    fn refuse_malformed(&self, prepared: &Prepared) -> Option<Applied> {
        let Prepared { kind, origin, version, entries, removed, unknown_fields: _ } = prepared;
        let kind = *kind;
        let is_decoded = |entry: &&Entry| {
            let name = Some(entry.resource.name.as_str().into());
            let is_by_name = !matches!(kind, Kind::Cluster | Kind::Listener | Kind::Scope);
            let target = || Target { kind, origin: origin.clone(), name };
            let is_named = is_by_name && matches!(removed, Removed::Named(_)) && !entry.resource.name.is_empty();
            !is_named || self.targets.find(&target()).is_some()
        };
        let mut rejected = Vec::new();
        let numbered = entries.iter().enumerate();
        for (index, entry) in numbered.filter(|(_, entry)| entry.is_malformed && is_decoded(entry)) {
            let Lowered::Refused(reasons) = &entry.lowered else { continue };
            rejected.push(self.refuse(kind, origin, version, index, &entry.resource, reasons.clone()));
        }
        if rejected.is_empty() {
            return None;
        }
        let of_single = self.targets.of(kind, origin).filter(|target| target.name.is_some());
        let single = of_single.map(|target| (target.clone(), None)).collect();
        let mut outcome = Outcome { rejected, ..Outcome::default() };
        outcome.refused = outcome.error_detail(kind);
        Some(Applied { outcome, single, ..Applied::nothing() })
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
        let details = details(&reasons);
        info!(target: "config", name = %resource.name, "{} config rejected: {details}", kind.noun());
        let (any, version, at) = (resource.any.clone(), version.to_owned(), SystemTime::now());
        let id = Id { name: resource.name.as_str().into(), origin: origin.clone() };
        self.records().fail(kind, id, Failed { any, version, at, details });
        Rejected { name: resource.name.clone(), index, reasons }
    }
}

impl Applied {
    fn nothing() -> Self {
        Self { outcome: Outcome::default(), is_change: false, reloads: None, single: Vec::new(), gone: Vec::new() }
    }

    fn refused(reason: &str) -> Self {
        Self { outcome: Outcome { refused: Some(reason.to_owned()), ..Outcome::default() }, ..Self::nothing() }
    }
}
