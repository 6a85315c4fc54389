//! SRDS.

use std::collections::HashSet;
use std::sync::Arc;

use nuncio_config::discovery::Origin;
use nuncio_config::route::{ScopeConfig, ScopeSlot};
use nuncio_filter_api::LowerEnv;
use tracing::info;

use super::{Applied, Updater};
use crate::update::lowering::{Entry, Lowered, Prepared};
use crate::update::records::{Id, Kept, Records};
use crate::update::{Kind, Rejected, Target, invalid, lock};

/// The scopes of a source, by name.
fn scopes<'a>(records: &'a Records, origin: &'a Origin) -> impl Iterator<Item = (&'a Id, &'a Arc<ScopeConfig>)> {
    let of_source = records.all(Kind::Scope).filter(move |(id, _)| id.origin == *origin);
    of_source.filter_map(|(id, record)| match &record.accepted.as_ref()?.kept {
        Kept::Scope(scope) => Some((id, scope)),
        _ => None,
    })
}

/// Gives scopes that came before to one who comes late.
pub(super) fn give_scopes(slot: &ScopeSlot, records: &Records, env: &Arc<LowerEnv>) {
    slot.publish(scopes(records, &slot.source.origin).map(|(_, scope)| scope), env);
}

/// Looks whether scopes still wait for their routes.
pub(super) fn check_scopes(env: &LowerEnv) {
    env.slots.all::<ScopeSlot>().iter().for_each(|slot| slot.check());
}

impl Updater {
    /// All of a push, or nothing of it: which scope a key stands for must be clear at any time.
    pub(super) fn apply_scopes(&mut self, prepared: Prepared) -> Applied {
        let mut applied = Applied::nothing();
        applied.outcome.rejected = self.refused_scopes(&prepared);
        let Prepared { kind, origin, version, entries, removed, unknown_fields: _ } = prepared;
        if !applied.outcome.rejected.is_empty() {
            for Rejected { name, index, reasons } in &applied.outcome.rejected {
                info!(target: "config", "srds: scope {name} rejected");
                if let Some(entry) = entries.get(*index) {
                    self.refuse(kind, &origin, &version, *index, &entry.resource, reasons.clone());
                }
            }
            return applied;
        }
        let present: HashSet<_> = entries.iter().map(|entry| entry.resource.name.clone()).collect();
        let gone = self.records().take_out(kind, &origin, &removed, &present);
        applied.is_change = !gone.is_empty();
        for Entry { resource, hash, lowered, is_malformed: _ } in entries {
            applied.outcome.accepted.push(resource.name.clone());
            match lowered {
                Lowered::Scope(scope) => {
                    applied.is_change = true;
                    self.accept(kind, &origin, resource, hash, Kept::Scope(scope));
                }
                _ => self.confirm(kind, &origin, &resource),
            }
        }
        let target = Target { kind, origin: origin.clone(), name: None };
        let slots = self.targets.users(&target).into_iter().flat_map(|users| users.scopes.iter());
        let records = lock(&self.parts.shared.records);
        for slot in slots.filter(|slot| applied.is_change || !slot.has_come()) {
            give_scopes(&slot, &records, &self.parts.env);
        }
        drop(records);
        applied
    }

    /// What is wrong with the resources of a push, each by itself and beside those that are to stay.
    fn refused_scopes(&self, prepared: &Prepared) -> Vec<Rejected> {
        let Prepared { origin, entries, removed, .. } = prepared;
        let mut rejected = Vec::new();
        for (index, Entry { resource, lowered, .. }) in entries.iter().enumerate() {
            if let Lowered::Refused(reasons) = lowered {
                rejected.push(Rejected { name: resource.name.clone(), index, reasons: reasons.clone() });
            }
        }
        if !rejected.is_empty() {
            return rejected;
        }
        let changed = |entry: &Entry| !matches!(entry.lowered, Lowered::Unchanged);
        let present: HashSet<_> = entries.iter().map(|entry| entry.resource.name.clone()).collect();
        let replaced: HashSet<&str> = entries.iter().filter(|e| changed(e)).map(|e| &*e.resource.name).collect();
        let records = self.records();
        let stays = |id: &Id| !replaced.contains(&*id.name) && !removed.takes(&id.name, &present);
        let kept = scopes(&records, origin).filter(|(id, _)| stays(id)).map(|(_, scope)| scope);
        let new = entries.iter().filter_map(|entry| match &entry.lowered {
            Lowered::Scope(scope) => Some(scope),
            _ => None,
        });
        if let Some((first, second)) = ScopeConfig::conflict(kept.chain(new)) {
            let index = entries.iter().position(|entry| entry.resource.name == second).unwrap_or_default();
            let reason = format!("scope key conflict found, first scope is '{first}', second scope is '{second}'");
            rejected.push(Rejected { name: second.to_owned(), index, reasons: vec![invalid("key", reason)] });
        }
        rejected
    }
}
