//! Who wants what: those who come late are given what there is, and none waits longer than it may.

use std::collections::BTreeSet;
use std::sync::Arc;

use nuncio_config::discovery::Origin;
use nuncio_config::tls::subscribe_on_demand;
use tokio::time::Instant;
use tracing::warn;

use super::extensions::give_extension;
use super::on_demand::answer_cluster;
use super::scopes::{check_scopes, give_scopes};
use super::secrets::give_secret;
use super::virtual_hosts::{end_waiting, give_hosts, put_routes};
use super::{Parts, Updater};
use crate::snapshot::names_of;
use crate::update::records::{Id, Kept, Records};
use crate::update::stats::Event;
use crate::update::wanted::{Users, users};
use crate::update::{Kind, Phase, Target, lock};

impl Updater {
    /// Looks who wants what now. Those who come late are given what there is.
    pub(super) fn take_stock(&mut self) {
        let Parts { env, shared, dynamic, .. } = &self.parts;
        subscribe_on_demand(env);
        let users = users(self.phase, dynamic, &env.slots, &shared.runtime);
        self.targets.replace(users, &shared.store);
        let mut records = self.records();
        self.forget_unwanted(&mut records);
        let mut clusters_go_on = false;
        for (target, watched) in self.targets.but_endpoints().filter(|(_, watched)| watched.is_settled) {
            clusters_go_on |= self.give_to_late(target, &watched.users, &records);
        }
        drop(records);
        self.forget_left();
        let Parts { env, shared, .. } = &self.parts;
        check_scopes(env);
        if clusters_go_on {
            shared.clusters.note_secrets();
        }
        self.secret_files.reconcile(&lock(&self.parts.shared.records));
        self.follow_clusters();
    }

    /// Forgets listeners that were removed and do not drain any more.
    pub(super) fn forget_left(&self) {
        let snapshot = self.parts.shared.snapshot.load();
        let draining = names_of(&snapshot.draining);
        self.records().retain_left(|name| draining.contains(name));
    }

    /// Looks which clusters have come and gone, and tells what is wanted now.
    pub(super) fn follow_clusters(&mut self) {
        let shared = self.parts.shared.clone();
        if self.phase >= Phase::Clusters {
            let dynamic = &self.parts.dynamic;
            let touched = self.targets.follow_clusters(shared.clusters.snapshot(), dynamic, &shared.store);
            let mut records = lock(&shared.records);
            for target in &touched {
                match (self.targets.find(target), &target.name) {
                    (Some(watched), _) if watched.is_settled => {
                        self.give_to_late(target, &watched.users, &records);
                    }
                    (None, Some(name)) => {
                        let id = Id { name: name.clone(), origin: target.origin.clone() };
                        records.forget(Kind::Endpoints, &id);
                    }
                    _ => {}
                }
            }
            drop(records);
            self.follow_collections();
        }
        if let Some(wanted) = self.targets.news() {
            self.wanted.send_replace(Arc::new(wanted));
        }
    }

    /// Forgets what was delivered for targets that nobody wants any more.
    fn forget_unwanted(&self, records: &mut Records) {
        let users = |kind: Kind, origin: &Origin, name: Option<&Arc<str>>| {
            self.targets.users(&Target { kind, origin: origin.clone(), name: name.cloned() })
        };
        for kind in [Kind::Runtime, Kind::Secret, Kind::Extension, Kind::Routes] {
            records.retain(kind, |id| users(kind, &id.origin, Some(&id.name)).is_some());
        }
        records.retain(Kind::Scope, |id| users(Kind::Scope, &id.origin, None).is_some());
        records.retain(Kind::VirtualHost, |id| {
            let wanting = users(Kind::VirtualHost, &id.origin, None);
            wanting.is_some_and(|users| users.hosts.iter().any(|slot| slot.is_of(&id.name)))
        });
        records.retain_statuses(|kind, origin| self.targets.asks(kind, origin));
    }

    /// Gives those what there is who began to want a target after its first delivery. Says whether clusters may have
    /// waited for that.
    fn give_to_late(&self, target: &Target, users: &Users, records: &Records) -> bool {
        let env = &self.parts.env;
        for slot in users.scopes.iter().filter(|slot| !slot.has_come() && !slot.ready.is_set()) {
            give_scopes(&slot, records, env);
        }
        for slot in users.hosts.iter() {
            match &target.name {
                None if !slot.ready.is_set() => give_hosts(&slot, records, env),
                None => {}
                Some(name) => slot.miss(name),
            }
        }
        let Some(name) = &target.name else { return false };
        for slot in users.on_demand.iter().filter(|slot| slot.is_awaited(name)) {
            answer_cluster(&slot, name, &self.parts);
        }
        let id = Id { name: name.clone(), origin: target.origin.clone() };
        let record = records.find(target.kind, &id).and_then(|record| record.accepted.as_ref());
        let kept = record.map(|accepted| &accepted.kept);
        let waiting = users.clusters.iter().filter(|cluster| target.kind == Kind::Endpoints && !cluster.is_assigned());
        for cluster in waiting {
            match kept {
                Some(Kept::Endpoints(assignment)) if assignment.leds.is_empty() => cluster.assign(assignment),
                // As soon as the others of its endpoints are there.
                Some(Kept::Endpoints(_)) => {}
                _ => cluster.give_up_waiting(),
            }
        }
        let mut clusters_go_on = false;
        for slot in users.secrets.iter().filter(|slot| !slot.ready.is_set()) {
            give_secret(&slot, kept, env);
            clusters_go_on = true;
        }
        for slot in users.extensions.iter().filter(|slot| !slot.ready.is_set()) {
            give_extension(&slot, kept, env);
            clusters_go_on = true;
        }
        for slot in users.routes.iter().filter(|slot| !slot.ready.is_set()) {
            if let Some(Kept::Routes(table)) = kept {
                put_routes(&slot, table, env);
            }
            end_waiting(&slot);
        }
        clusters_go_on
    }

    /// Those who have waited for as long as they may wait no longer.
    pub(super) async fn expire(&mut self) {
        let expired = self.targets.take_expired(Instant::now());
        for target in &expired {
            warn!(target: "config", "initial fetch timed out for {target}");
            self.targets.note(target, Event::TimedOut);
            self.fallback.note_away(&target.origin);
        }
        self.fall_back().await;
        self.settle(&expired);
    }

    /// Those who wait for the first delivery of these targets wait no longer.
    pub(super) fn settle(&mut self, targets: &[Target]) {
        let mut kinds = BTreeSet::new();
        for target in targets {
            if self.targets.settle(target) {
                self.end_wait(target);
                kinds.insert(target.kind);
            }
        }
        // What looks at all that there is does so once, however many have come.
        for kind in kinds {
            match kind {
                // Clusters wait for some extensions as they do for secrets.
                Kind::Secret | Kind::Extension => self.parts.shared.clusters.note_secrets(),
                Kind::LocalityEndpoints => self.compose(),
                Kind::Routes => check_scopes(&self.parts.env),
                _ => {}
            }
        }
    }

    fn end_wait(&mut self, target: &Target) {
        let Some(users) = self.targets.users(target) else { return };
        match target.kind {
            Kind::Runtime if self.targets.are_settled(Kind::Runtime) => self.initial.runtime.set(),
            Kind::Runtime => {}
            Kind::Cluster => match &target.name {
                None => self.initial.clusters.set(),
                Some(name) => users.on_demand.iter().for_each(|slot| answer_cluster(&slot, name, &self.parts)),
            },
            Kind::Listener => self.initial.listeners.set(),
            Kind::LocalityEndpoints => self.composites.note_change(target),
            Kind::Endpoints if self.composites.holds(target) => {}
            Kind::Endpoints => {
                let waiting = users.clusters.iter().filter(|cluster| !cluster.is_assigned());
                waiting.for_each(|cluster| cluster.give_up_waiting());
            }
            Kind::Extension => {
                users.extensions.iter().filter(|slot| !slot.ready.is_set()).for_each(|slot| slot.give_up());
            }
            Kind::Secret => users.secrets.iter().for_each(|slot| slot.ready.set()),
            Kind::VirtualHost => match &target.name {
                None => users.hosts.iter().for_each(|slot| slot.settle()),
                Some(name) => users.hosts.iter().for_each(|slot| slot.miss(name)),
            },
            Kind::Scope => users.scopes.iter().filter(|slot| !slot.has_come()).for_each(|slot| slot.ready.set()),
            Kind::Routes => users.routes.iter().for_each(|slot| end_waiting(&slot)),
        }
    }
}
