//! LEDS: assignments of which some endpoints are resources of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nuncio_config::cluster::{ClusterAssignment, Endpoint};
use nuncio_config::discovery::Origin;
use nuncio_upstream::Cluster;
use tracing::debug;

use super::{Applied, Updater};
use crate::update::lowering::{Entry, Lowered, Prepared};
use crate::update::records::{Id, Kept, Records};
use crate::update::wanted::{Targets, Users};
use crate::update::{Kind, Removed, Target, invalid};

/// Those that are wanted, by the targets of the assignments.
#[derive(Default)]
pub(in crate::update) struct Composites {
    by_target: BTreeMap<Target, Composite>,
    /// Those of which something is new.
    due: BTreeSet<Target>,
}

struct Composite {
    assignment: Arc<ClusterAssignment>,
    /// What each of its localities is made of.
    collections: Vec<Target>,
}

/// Endpoints by the names of their resources.
type Members = BTreeMap<Arc<str>, Arc<Endpoint>>;

// === impl Composites ===

impl Composites {
    /// Who wants what collection.
    fn users(&self, targets: &Targets) -> BTreeMap<Target, Users> {
        let mut all: BTreeMap<Target, Users> = BTreeMap::new();
        for (target, Composite { assignment, collections }) in &self.by_target {
            let clusters = targets.clusters_of(target);
            for (collection, leds) in collections.iter().zip(&assignment.leds) {
                let users = all.entry(collection.clone()).or_default();
                users.initial_fetch_timeout = users.initial_fetch_timeout.max(leds.source.initial_fetch_timeout);
                let is_known = |cluster: &Arc<Cluster>| users.clusters.iter().any(|known| Arc::ptr_eq(known, cluster));
                let new: Vec<_> = clusters.iter().filter(|cluster| !is_known(cluster)).cloned().collect();
                users.clusters.extend(new);
            }
        }
        all
    }

    /// An assignment has come.
    pub(super) fn note(
        &mut self,
        target: &Target,
        assignment: &Arc<ClusterAssignment>,
        context: &BTreeMap<String, String>,
    ) {
        if assignment.leds.is_empty() {
            self.by_target.remove(target);
            return;
        }
        self.by_target.insert(target.clone(), Composite::new(assignment, context));
        self.due.insert(target.clone());
    }

    /// Something is new in a collection.
    pub(super) fn note_change(&mut self, collection: &Target) {
        let concerned = self.by_target.iter().filter(|(_, composite)| composite.collections.contains(collection));
        self.due.extend(concerned.map(|(target, _)| target.clone()));
    }

    /// Whether the assignment of this target is one of them.
    pub(super) fn holds(&self, target: &Target) -> bool {
        self.by_target.contains_key(target)
    }
}

// === impl Composite ===

impl Composite {
    fn new(assignment: &Arc<ClusterAssignment>, context: &BTreeMap<String, String>) -> Self {
        let collections = assignment.leds.iter().map(|leds| {
            let name = leds.collection.within(context).to_string();
            Target::named(Kind::LocalityEndpoints, &leds.source.origin, name.into())
        });
        Self { assignment: assignment.clone(), collections: collections.collect() }
    }

    /// All of its endpoints, those of each collection as they are found.
    fn put_together(&self, find: impl Fn(&Target) -> Members) -> ClusterAssignment {
        let ClusterAssignment { endpoints, leds, policy } = &*self.assignment;
        let mut endpoints = endpoints.to_vec();
        for (locality, collection) in leds.iter().zip(&self.collections) {
            endpoints.extend(find(collection).values().map(|endpoint| locality.place(endpoint)));
        }
        ClusterAssignment { endpoints: endpoints.into(), leds: Box::default(), policy: policy.clone() }
    }
}

/// The endpoints of a collection that are in force.
fn members(records: &Records, collection: &Target) -> Members {
    // Its name is theirs up to its asterisk.
    let prefix = collection.name.as_deref().and_then(|name| name.split('*').next()).unwrap_or_default();
    let nearby = records.beginning(Kind::LocalityEndpoints, &collection.origin, prefix);
    let of_collection = nearby.filter(|(id, _)| collection.covers(&id.name));
    let kept = of_collection.filter_map(|(id, record)| match &record.accepted.as_ref()?.kept {
        Kept::LocalityEndpoint(endpoint) => Some((id.name.clone(), endpoint.clone())),
        _ => None,
    });
    kept.collect()
}

impl Updater {
    /// Endpoints of collections, each for those who want it.
    pub(super) fn apply_locality_endpoints(&mut self, prepared: Prepared) -> Applied {
        let Prepared { kind, origin, version, entries, removed, unknown_fields: _ } = prepared;
        let mut applied = Applied::nothing();
        // Of each collection: whether it changed; nothing where a part of it was refused.
        let mut collections: BTreeMap<Target, Option<bool>> = BTreeMap::new();
        if let Removed::Named(names) = &removed {
            for name in names {
                let was_there = self.records().forget(kind, &Id { name: name.as_str().into(), origin: origin.clone() });
                if let Some(target) = self.targets.covering(kind, &origin, name) {
                    let is_changed = collections.entry(target).or_insert(Some(false));
                    *is_changed = is_changed.map(|is_changed| is_changed || was_there);
                }
            }
        }
        if entries.is_empty() && collections.is_empty() {
            // The server has answered: there is nothing.
            collections.extend(self.collections_of(&origin).into_iter().map(|target| (target, Some(false))));
        }
        let too_much = self.too_much(&origin, &entries);
        for (index, Entry { resource, hash, lowered, is_malformed: _ }) in entries.into_iter().enumerate() {
            let Some(target) = self.targets.covering(kind, &origin, &resource.name) else {
                match lowered {
                    Lowered::Refused(reasons) if resource.name.is_empty() => {
                        applied.outcome.rejected.push(self.refuse(kind, &origin, &version, index, &resource, reasons));
                    }
                    _ => applied.outcome.accepted.push(resource.name),
                }
                continue;
            };
            let reason = too_much.get(&target).filter(|_| matches!(lowered, Lowered::LocalityEndpoint(_)));
            let lowered = reason.map_or(lowered, |reason| Lowered::Refused(vec![invalid("", reason.clone())]));
            let is_changed = collections.entry(target).or_insert(Some(false));
            match lowered {
                Lowered::Refused(reasons) => {
                    *is_changed = None;
                    applied.outcome.rejected.push(self.refuse(kind, &origin, &version, index, &resource, reasons));
                    continue;
                }
                Lowered::LocalityEndpoint(endpoint) => {
                    *is_changed = is_changed.map(|_| true);
                    debug!(target: "config", name = %resource.name, "leds: endpoint added or updated");
                    self.accept(kind, &origin, resource.clone(), hash, Kept::LocalityEndpoint(endpoint));
                }
                _ => self.confirm(kind, &origin, &resource),
            }
            applied.outcome.accepted.push(resource.name);
        }
        for (target, is_changed) in collections {
            if is_changed != Some(false) {
                self.composites.note_change(&target);
                applied.is_change = true;
            }
            applied.single.push((target, is_changed));
        }
        applied
    }

    /// The collections that would be more than a cluster can take, and why. Envoy does not survive them.
    fn too_much(&self, origin: &Origin, entries: &[Entry]) -> BTreeMap<Target, String> {
        let mut refused = BTreeMap::new();
        let new = |collection: &Target| -> Members {
            let of_collection =
                entries.iter().filter(|entry| collection.origin == *origin && collection.covers(&entry.resource.name));
            let lowered = of_collection.filter_map(|entry| match &entry.lowered {
                Lowered::LocalityEndpoint(endpoint) => Some((entry.resource.name.as_str().into(), endpoint.clone())),
                _ => None,
            });
            lowered.collect()
        };
        let records = self.records();
        for (target, composite) in &self.composites.by_target {
            let clusters = self.targets.clusters_of(target);
            // Nobody else minds, and to look takes a while.
            if !clusters.iter().any(|cluster| cluster.config.lb.is_by_hash()) {
                continue;
            }
            let touched = || composite.collections.iter().filter(|collection| !new(collection).is_empty());
            let next = |collection: &Target| members(&records, collection).into_iter().chain(new(collection)).collect();
            let reason = touched().next().and_then(|_| {
                let assignment = composite.put_together(next);
                clusters.iter().find_map(|cluster| assignment.refusal(&cluster.config))
            });
            if let Some(reason) = reason {
                refused.extend(touched().map(|collection| (collection.clone(), reason.clone())));
            }
        }
        refused
    }

    /// Why clusters cannot take an assignment with what has come of its collections.
    pub(super) fn refusal_of_composite(
        &self,
        assignment: &Arc<ClusterAssignment>,
        clusters: &[Arc<Cluster>],
    ) -> Option<String> {
        let composite = Composite::new(assignment, &self.parts.dynamic.context);
        let records = self.records();
        let whole = composite.put_together(|collection| members(&records, collection));
        clusters.iter().find_map(|cluster| whole.refusal(&cluster.config))
    }

    fn collections_of(&self, origin: &Origin) -> Vec<Target> {
        self.targets.of(Kind::LocalityEndpoints, origin).cloned().collect()
    }

    /// Looks which collections are wanted now.
    pub(super) fn follow_collections(&mut self) {
        if self.composites.by_target.is_empty() && !self.targets.wants(Kind::LocalityEndpoints) {
            return;
        }
        self.composites.by_target.retain(|target, _| self.targets.find(target).is_some());
        let users = self.composites.users(&self.targets);
        // There may be very many endpoints to look at.
        if self.targets.replace_collections(users, &self.parts.shared.store) {
            self.records().retain(Kind::LocalityEndpoints, |id| {
                self.targets.covering(Kind::LocalityEndpoints, &id.origin, &id.name).is_some()
            });
        }
        self.compose();
    }

    /// Gives clusters their endpoints whose collections have all come, or will not.
    pub(super) fn compose(&mut self) {
        let Composites { by_target, due } = &mut self.composites;
        if by_target.is_empty() {
            return;
        }
        due.retain(|target| by_target.contains_key(target));
        let is_settled = |target: &Target| self.targets.find(target).is_some_and(|watched| watched.is_settled);
        for (target, composite) in by_target {
            let Some(users) = self.targets.users(target) else { continue };
            let is_due = due.contains(target);
            let mut waiting = users.clusters.iter().filter(|cluster| is_due || !cluster.is_assigned()).peekable();
            if waiting.peek().is_none() || !composite.collections.iter().all(is_settled) {
                continue;
            }
            let records = super::lock(&self.parts.shared.records);
            let assignment = composite.put_together(|collection| members(&records, collection));
            drop(records);
            waiting.for_each(|cluster| cluster.assign(&assignment));
            due.remove(target);
        }
    }
}
