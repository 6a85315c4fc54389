//! From what a stream brought to what is in force.

use std::collections::{BTreeSet, HashSet};

use nuncio_config::discovery::Origin;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::client::{Delivery, StreamState};
use super::protocol::{self, Expiry, Update, Verdict};
use super::sources::type_url;
use crate::deadline::reached;
use crate::update::{Kind, Push, Removed, Resource, Target, Updates};

/// Applies the updates of one stream.
pub(super) struct Deliverer {
    updates: Updates,
    origin: Origin,
    /// What is wanted of the stream.
    targets: watch::Receiver<BTreeSet<Target>>,
    deliveries: mpsc::Receiver<Delivery>,
    states: watch::Receiver<StreamState>,
    expiry: Expiry<(Kind, String)>,
}

impl Deliverer {
    pub(super) fn new(
        updates: Updates,
        origin: Origin,
        targets: watch::Receiver<BTreeSet<Target>>,
        deliveries: mpsc::Receiver<Delivery>,
        states: watch::Receiver<StreamState>,
    ) -> Self {
        Self { updates, origin, targets, deliveries, states, expiry: Expiry::default() }
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
                    Ok(()) => self.note_failures().await,
                    Err(_) => return,
                },
                () = reached(next_death) => self.bury().await,
            }
        }
    }

    async fn apply(&mut self, update: Update) -> Verdict {
        let Some(kind) = Kind::ALL.into_iter().find(|kind| type_url(*kind) == update.type_url) else {
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
            self.give_up(kind, name).await;
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
        let accepted = versions.into_iter().filter(|(name, _)| !rejected.contains(name.as_str())).collect();
        Verdict { accepted, error }
    }

    /// The server has no such resource: whoever waits for it waits no longer.
    async fn give_up(&self, kind: Kind, name: &str) {
        let wanted = Target { kind, origin: self.origin.clone(), name: Some(name.into()) };
        let is_wanted = self.targets.borrow().contains(&wanted);
        if is_wanted {
            self.updates.missing(&wanted).await;
        }
    }

    /// A stream broke off: for all that is wanted of it.
    async fn note_failures(&mut self) {
        if *self.states.borrow_and_update() != StreamState::BrokenOff {
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
    Some(Named::Whole(match name {
        // What a virtual host calls itself is unique within its route configuration alone.
        Some(name) if kind == Kind::VirtualHost => Resource { name, ..found },
        // What the resource says of itself counts: the name around it is how it was asked for.
        Some(name) if found.name.is_empty() => Resource { name, ..found },
        _ => found,
    }))
}
