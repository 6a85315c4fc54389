//! Resources that are asked for by their names: RTDS, EDS, SDS, ECDS and RDS.

use std::collections::HashSet;

use nuncio_filter_api::Invalid;
use tracing::info;

use super::virtual_hosts::put_routes;
use super::{Applied, Updater};
use crate::update::lowering::{Entry, Lowered, Prepared};
use crate::update::records::Kept;
use crate::update::{Kind, Removed, Target, invalid};

impl Updater {
    /// Each for those who asked for it.
    pub(super) async fn apply_single(&mut self, prepared: Prepared) -> Applied {
        let Prepared { kind, origin, version, entries, removed, unknown_fields: _ } = prepared;
        let mut applied = Applied::nothing();
        for (index, Entry { resource, hash, lowered, is_malformed: _ }) in entries.into_iter().enumerate() {
            let target = Target::named(kind, &origin, resource.name.as_str().into());
            if let (Lowered::Refused(reasons), true) = (&lowered, resource.name.is_empty()) {
                let reasons = reasons.clone();
                applied.outcome.rejected.push(self.refuse(kind, &origin, &version, index, &resource, reasons));
                continue;
            }
            if self.targets.find(&target).is_none() {
                // Nobody asked for it, or does so no longer.
                applied.outcome.accepted.push(resource.name);
                continue;
            }
            let kept = match self.put(&target, lowered).await {
                Ok(kept) => kept,
                Err(reasons) => {
                    applied.outcome.rejected.push(self.refuse(kind, &origin, &version, index, &resource, reasons));
                    applied.single.push((target, None));
                    continue;
                }
            };
            if let Some(Kept::Endpoints(assignment)) = &kept {
                self.composites.note(&target, assignment, &self.parts.dynamic.context);
            }
            applied.is_change |= kept.is_some();
            applied.single.push((target, Some(kept.is_some())));
            applied.outcome.accepted.push(resource.name.clone());
            match kept {
                Some(kept) => self.accept(kind, &origin, resource, hash, kept),
                None => self.confirm(kind, &origin, &resource),
            }
        }
        if applied.outcome.rejected.iter().any(|rejected| rejected.name.is_empty()) {
            // It may be any of those that the push does not name.
            let told: HashSet<Target> = applied.single.iter().map(|(target, _)| target.clone()).collect();
            let others = self.targets.of(kind, &origin);
            applied.single.extend(others.filter(|target| !told.contains(target)).map(|target| (target.clone(), None)));
        }
        // What is gone of the others stays in force, as in Envoy.
        if let Removed::Named(names) = removed {
            let wanted = names.iter().map(|name| Target::named(kind, &origin, name.as_str().into()));
            applied.gone =
                wanted.filter(|wanted| kind != Kind::Runtime && self.targets.find(wanted).is_some()).collect();
            match kind {
                Kind::Runtime => self.forget_runtime(&origin, names, &mut applied).await,
                Kind::Extension => self.forget_extensions(&origin, names, &mut applied),
                Kind::Secret => self.note_missing_secrets(&origin, names),
                _ => {}
            }
        }
        applied
    }

    /// Puts it in force for all who asked for it, or for none. Says what is kept of it, where it is not what it was.
    async fn put(&self, target: &Target, lowered: Lowered) -> Result<Option<Kept>, Vec<Invalid>> {
        let (Some(users), Some(name)) = (self.targets.users(target), &target.name) else { return Ok(None) };
        let kept = match lowered {
            Lowered::Refused(reasons) => return Err(reasons),
            Lowered::Runtime(values) => {
                info!(target: "runtime", %name, "rtds: layer updated");
                self.put_runtime(name.clone(), &target.origin, values).await;
                Kept::Nothing
            }
            Lowered::Endpoints(assignment) => {
                let refusal = match assignment.leds.is_empty() {
                    true => users.clusters.iter().find_map(|cluster| assignment.refusal(&cluster.config)),
                    false => self.refusal_of_composite(&assignment, &users.clusters),
                };
                if let Some(reason) = refusal {
                    return Err(vec![invalid("", reason)]);
                }
                if assignment.leds.is_empty() {
                    users.clusters.iter().for_each(|cluster| cluster.assign(&assignment));
                }
                Kept::Endpoints(assignment)
            }
            Lowered::Secret(secret) => {
                self.put_secret(target, &secret).await?;
                info!(target: "config", %name, "secret updated");
                Kept::Secret(secret)
            }
            Lowered::Extension(config) => {
                self.put_extension(target, &config).await?;
                info!(target: "config", %name, "extension config updated");
                Kept::Extension(config)
            }
            Lowered::Routes(table) => {
                for slot in users.routes.iter() {
                    self.old_tables.borrow_mut().push(slot.table.load_full());
                    put_routes(&slot, &table, &self.parts.env);
                }
                Kept::Routes(table)
            }
            _ => {
                users.clusters.iter().for_each(|cluster| cluster.confirm_assignment());
                return Ok(None);
            }
        };
        Ok(Some(kept))
    }
}
