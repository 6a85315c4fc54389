//! From what a stream brought to what is in force.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use nuncio_config::discovery::Origin;
use nuncio_config::xdstp::{canonical, collection_of};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::client::Delivery;
use super::protocol::{self, Expiry, Update, Verdict};
use super::sources::type_url;
use crate::deadline::reached;
use crate::update::{Kind, PlaneState, Push, Removed, Resource, Target, Updates, says_its_name};

/// Applies the updates of one stream.
pub(super) struct Deliverer {
    updates: Updates,
    origin: Origin,
    /// What is asked for in the place of all that there is.
    collections: Arc<BTreeMap<Kind, String>>,
    /// What is wanted of the stream.
    targets: watch::Receiver<BTreeSet<Target>>,
    deliveries: mpsc::Receiver<Delivery>,
    states: watch::Receiver<PlaneState>,
    /// Streams that broke off, as far as the targets know.
    failures: u64,
    /// The one kind that the stream is for, if it is.
    kind: Option<Kind>,
    expiry: Expiry<(Kind, String)>,
}

impl Deliverer {
    pub(super) fn new(
        updates: Updates,
        (origin, kind): (Origin, Option<Kind>),
        collections: Arc<BTreeMap<Kind, String>>,
        targets: watch::Receiver<BTreeSet<Target>>,
        deliveries: mpsc::Receiver<Delivery>,
        states: watch::Receiver<PlaneState>,
    ) -> Self {
        Self { updates, origin, collections, targets, deliveries, states, failures: 0, kind, expiry: Expiry::default() }
    }

    /// Runs until the stream is gone for good.
    pub(super) async fn run(mut self) {
        loop {
            let next_death = self.expiry.next();
            tokio::select! {
                delivery = self.deliveries.recv() => match delivery {
                    Some(Delivery { update, verdict }) => {
                        // A stream that broke off meanwhile needs no answer.
                        let _ = verdict.send(self.apply(update).await);
                    }
                    None => return,
                },
                changed = self.states.changed() => match changed {
                    Ok(()) => self.note_state().await,
                    Err(_) => return,
                },
                () = reached(next_death) => self.bury().await,
            }
        }
    }

    async fn apply(&mut self, update: Update) -> Verdict {
        let Some(kind) = Kind::of(&update.type_url) else {
            return Verdict { error: Some(format!("{} is not followed", update.type_url)), ..Verdict::default() };
        };
        let Update { type_url: _, version, resources, removed, is_whole, errors, control_plane: _ } = update;
        for (name, reason) in errors {
            info!(target: "config", %name, %reason, "the control plane cannot serve a resource");
            self.give_up(kind, &name).await;
        }
        let now = Instant::now();
        let (mut living, mut beating) = (Vec::with_capacity(resources.len()), HashSet::new());
        for resource in resources {
            let ttl = resource.ttl;
            if kind == Kind::VirtualHost && resource.body.is_none() {
                // That there is no such virtual host is told so.
                for name in resource.name.iter().chain(&resource.aliases) {
                    self.give_up(kind, name).await;
                }
                continue;
            }
            let Some(resource) = named(kind, resource) else { continue };
            match resource {
                // Envoy: it is passed over.
                Named::Whole(resource) if !self.is_asked_for(kind, &resource.name) => {}
                Named::Whole(resource) => {
                    self.expiry.refresh(&(kind, resource.name.clone()), ttl, now);
                    living.push(resource);
                }
                Named::Heartbeat(name) => {
                    self.expiry.refresh(&(kind, name.clone()), ttl, now);
                    beating.insert(name);
                }
            }
        }
        let versions: Vec<(String, String)> = living.iter().map(|r| (r.name.clone(), r.version.clone())).collect();
        for name in &removed {
            self.expiry.forget(&(kind, name.clone()));
            // Envoy passes over it for these: a server may say so before it has heard of them.
            if !matches!(kind, Kind::Routes | Kind::Extension) {
                self.give_up(kind, name).await;
            }
        }
        let removed = if is_whole { Removed::AllBut(beating) } else { Removed::Named(removed) };
        let push = Push { kind, origin: self.origin.clone(), version, resources: living, removed };
        let outcome = self.updates.apply(push).await;
        let error = outcome.error_detail(kind);
        match &error {
            Some(error) => warn!(target: "config", "gRPC config for {} rejected: {error}", type_url(kind)),
            None => debug!(target: "config", accepted = outcome.accepted.len(), "{} taken over", type_url(kind)),
        }
        let rejected: BTreeSet<&str> = outcome.rejected.iter().map(|r| r.name.as_str()).collect();
        let is_in_force = |name: &str| outcome.refused.is_none() && !rejected.contains(name);
        let accepted = versions.into_iter().filter(|(name, _)| is_in_force(name)).collect();
        Verdict { accepted, error }
    }

    /// Whether it is of the collection that is asked for, where that is not all that there is.
    fn is_asked_for(&self, kind: Kind, name: &str) -> bool {
        let Some(asked) = self.collections.get(&kind) else { return true };
        let is_asked = |form: Option<String>| form.is_some_and(|form| form == *asked);
        let wanted = || Target::named(kind, &self.origin, name.into());
        is_asked(collection_of(name)) || is_asked(canonical(name)) || self.targets.borrow().contains(&wanted())
    }

    /// The server has no such resource: whoever waits for it waits no longer.
    async fn give_up(&self, kind: Kind, name: &str) {
        let wanted = Target::named(kind, &self.origin, name.into());
        let is_wanted = self.targets.borrow().contains(&wanted);
        if is_wanted {
            self.updates.missing(&wanted).await;
        }
    }

    /// Tells those who ask by the stream how it stands with it.
    async fn note_state(&mut self) {
        let state = self.states.borrow_and_update().clone();
        let failures = std::mem::replace(&mut self.failures, state.failures);
        if let Some(kind) = self.kind {
            self.updates.plane(kind, &self.origin, state).await;
        }
        if failures == self.failures {
            return;
        }
        let targets = self.targets.borrow().clone();
        for target in &targets {
            self.updates.unreachable(target).await;
        }
    }

    /// Takes out what has outlived its time.
    async fn bury(&mut self) {
        while let Some((kind, name)) = self.expiry.expired(Instant::now()) {
            info!(target: "config", %name, "time to live of a resource is over");
            let removed = Removed::Named(vec![name]);
            let (origin, version) = (self.origin.clone(), String::new());
            self.updates.apply(Push { kind, origin, version, resources: Vec::new(), removed }).await;
        }
    }
}

enum Named {
    Whole(Resource),
    Heartbeat(String),
}

/// The resource with its name; `None` for a heartbeat of nothing.
fn named(kind: Kind, resource: protocol::Resource) -> Option<Named> {
    let protocol::Resource { name, aliases, version, body, ttl: _ } = resource;
    let Some(any) = body else { return name.map(Named::Heartbeat) };
    let found = Resource { aliases, ..Resource::new(any, &version) };
    let found = match name {
        // What a virtual host calls itself is unique within its route configuration alone.
        Some(name) if kind == Kind::VirtualHost => Resource { name, ..found },
        // It calls itself nothing.
        name if kind == Kind::LocalityEndpoints => Resource { name: name.unwrap_or_default(), ..found },
        // Envoy looks it up by the name around it, and refuses it where it calls itself otherwise.
        Some(name) if says_its_name(kind) && found.aliases.iter().all(|alias| *alias != found.name) => {
            Resource { name, ..found }
        }
        // What the resource says of itself counts: the name around it is how it was asked for.
        Some(name) if found.name.is_empty() => Resource { name, ..found },
        _ => found,
    };
    let is_asked_by_name = !matches!(kind, Kind::Cluster | Kind::Listener);
    Some(Named::Whole(match canonical(&found.name).filter(|_| is_asked_by_name) {
        Some(name) => Resource { name, ..found },
        None => found,
    }))
}
