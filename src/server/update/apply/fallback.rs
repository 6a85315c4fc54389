//! The cache in the place of sources that are away.
//!
//! A source is away from when it could not be reached, or did not answer within `initial_fetch_timeout`, until it
//! delivers something. Meanwhile those who still wait for their first delivery are given what was kept. When the source
//! is back it tells what there is; a cluster or listener that was kept and that it does not mention is taken out after a
//! while, for a source that tells changes alone may need several messages until it has told all.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use nuncio_config::discovery::Origin;
use nuncio_config::xdstp::collection_of;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Updater;
use crate::deadline::reached;
use crate::update::cache::{Cache, messages};
use crate::update::{Kind, Outcome, Push, Removed, Target, lock};

/// How long changes gather before they are written: a push is seldom alone.
const WRITE_DELAY: Duration = Duration::from_millis(500);
/// How long a source that is back may take to tell of what was kept; Envoy's default of `initial_fetch_timeout`.
const CONFIRMATION: Duration = Duration::from_secs(15);

/// A kind, and a source of it.
type Pair = (Kind, Origin);

pub(super) struct Fallback {
    cache: Option<Cache>,
    away: BTreeSet<Origin>,
    /// Targets of sources that are away for which the cache was asked.
    asked: BTreeSet<Target>,
    unconfirmed: BTreeMap<Pair, Unconfirmed>,
    /// What is to be written, and when.
    due: BTreeSet<Pair>,
    write_at: Option<Instant>,
}

/// Clusters or listeners that were kept, and of which their source has not told yet.
#[derive(Default)]
struct Unconfirmed {
    names: HashSet<String>,
    /// Set as soon as the source is back.
    until: Option<Instant>,
}

/// What the cache is there for next.
pub(super) enum Due {
    Write,
    TakeOut(Pair),
}

// === impl Fallback ===

impl Fallback {
    pub(super) fn new(cache: Option<Cache>) -> Self {
        Self {
            cache,
            away: BTreeSet::new(),
            asked: BTreeSet::new(),
            unconfirmed: BTreeMap::new(),
            due: BTreeSet::new(),
            write_at: None,
        }
    }

    pub(super) fn note_away(&mut self, origin: &Origin) {
        if self.cache.is_some() {
            self.away.insert(origin.clone());
        }
    }

    /// The source delivers.
    pub(super) fn note_push(&mut self, push: &Push) {
        if self.cache.is_none() {
            return;
        }
        if self.away.remove(&push.origin) {
            self.asked.retain(|target| target.origin != push.origin);
        }
        let pair = (push.kind, push.origin.clone());
        let Some(unconfirmed) = self.unconfirmed.get_mut(&pair) else { return };
        unconfirmed.until.get_or_insert_with(|| Instant::now() + CONFIRMATION);
        for resource in &push.resources {
            unconfirmed.names.remove(&resource.name);
        }
        if let Removed::Named(names) = &push.removed {
            unconfirmed.names.retain(|name| !names.contains(name));
        }
        // A whole response takes out itself what it does not name.
        if unconfirmed.names.is_empty() || matches!(push.removed, Removed::AllBut(_)) {
            self.unconfirmed.remove(&pair);
        }
    }

    /// Something has changed that is to be kept.
    pub(super) fn note_change(&mut self, kind: Kind, origin: &Origin) {
        if self.cache.as_ref().is_some_and(|cache| cache.keeps(kind, origin)) {
            self.due.insert((kind, origin.clone()));
            self.write_at.get_or_insert_with(|| Instant::now() + WRITE_DELAY);
        }
    }

    /// Waits until there is something to do.
    pub(super) async fn due(&self) -> Due {
        let untils = self.unconfirmed.iter().filter_map(|(pair, one)| Some((one.until?, pair.clone())));
        let next = untils.min();
        tokio::select! {
            () = reached(self.write_at) => Due::Write,
            () = reached(next.as_ref().map(|(at, _)| *at)) => match next {
                Some((_, pair)) => Due::TakeOut(pair),
                None => std::future::pending().await,
            },
        }
    }
}

// === impl Updater ===

impl Updater {
    pub(super) async fn tend_cache(&mut self, due: Due) {
        match due {
            Due::Write => self.write_cache().await,
            Due::TakeOut(pair) => {
                let Some(Unconfirmed { names, until: _ }) = self.fallback.unconfirmed.remove(&pair) else { return };
                let ((kind, origin), removed) = (pair, Removed::Named(names.into_iter().collect()));
                info!(target: "config", "{} from {origin}: out goes what was cached and never told of", kind.short());
                self.push(Push { kind, origin, version: String::new(), resources: Vec::new(), removed }).await;
            }
        }
    }

    async fn write_cache(&mut self) {
        self.fallback.write_at = None;
        let due = std::mem::take(&mut self.fallback.due);
        let (Some(cache), records) = (self.fallback.cache.clone(), self.parts.shared.records.clone()) else { return };
        // A panic was logged, and costs the cache alone.
        let _ = spawn_blocking(move || {
            let messages = messages(&lock(&records), &due);
            cache.store(messages);
        })
        .await;
    }

    /// Gives those who wait for sources that are away what was kept; they may want more within it.
    pub(super) async fn fall_back(&mut self) {
        loop {
            let Fallback { cache: Some(cache), away, asked, .. } = &mut self.fallback else { return };
            // So it is nearly always; there may be very many targets.
            if away.is_empty() {
                return;
            }
            let waits = |target: &Target| {
                away.contains(&target.origin) && cache.keeps(target.kind, &target.origin) && !asked.contains(target)
            };
            // Targets are sorted so that clusters come before what needs them.
            let waiting = self.targets.iter().filter(|(target, watched)| !watched.is_settled && waits(target));
            let waiting: Vec<Target> = waiting.map(|(target, _)| target.clone()).collect();
            let Some(Target { kind, origin, name: _ }) = waiting.first().cloned() else { return };
            let of_pair = waiting.into_iter().filter(|target| target.kind == kind && target.origin == origin);
            let of_pair: BTreeSet<Target> = of_pair.collect();
            asked.extend(of_pair.iter().cloned());
            let (cache, from) = (cache.clone(), origin.clone());
            let loaded = spawn_blocking(move || cache.load(kind, &from)).await;
            // A panic was logged.
            let Some(cached) = loaded.ok().flatten() else { continue };
            let is_whole = of_pair.iter().any(|target| target.name.is_none());
            let wanted: HashSet<&str> = of_pair.iter().filter_map(|target| target.name.as_deref()).collect();
            let mut resources = cached.resources;
            let is_member = |name: &str| collection_of(name).is_some_and(|collection| wanted.contains(&*collection));
            resources.retain(|one| is_whole || wanted.contains(&*one.name) || is_member(&one.name));
            if resources.is_empty() && !is_whole {
                continue;
            }
            if is_whole {
                let names = resources.iter().map(|resource| resource.name.clone()).collect();
                self.fallback.unconfirmed.insert((kind, origin.clone()), Unconfirmed { names, until: None });
            }
            let count = resources.len();
            warn!(target: "config", "{} from {origin}: the server is away, {count} resource(s) taken from the cache",
                kind.short());
            let (version, removed) = (cached.version, Removed::Named(Vec::new()));
            let push = Push { kind, origin: origin.clone(), version, resources, removed };
            self.records().set_cached(kind, &origin, true);
            let outcome: Outcome = self.push(push).await;
            if let Some(detail) = outcome.error_detail(kind) {
                warn!(target: "config", "cached resources refused: {detail}");
            }
        }
    }
}
