//! CDS.

use std::collections::HashSet;

use nuncio_config::control_plane::Plane;
use nuncio_config::discovery::{FoundCluster, Origin};
use tokio::task::spawn_blocking;
use tracing::info;

use super::{Applied, Updater};
use crate::update::lowering::{Entry, Lowered, Prepared};
use crate::update::records::{Id, Kept, Record};
use crate::update::{Kind, Removed, Target};

impl Updater {
    /// Whether the clusters of the source would be fewer than they may be (`config_validators`).
    pub(super) fn leaves_too_few(&self, prepared: &Prepared) -> bool {
        let min = match &prepared.origin {
            Origin::Ads => self.parts.dynamic.ads.as_ref().map(|plane| plane.min_clusters),
            Origin::Server(server) => match &server.plane {
                Plane::Grpc(plane) => Some(plane.min_clusters),
                Plane::Rest(_) => None,
            },
            Origin::Path { .. } => None,
        };
        let Some(min) = min.filter(|min| *min > 0) else { return false };
        let mut names: HashSet<String> = prepared.entries.iter().map(|entry| entry.resource.name.clone()).collect();
        let records = self.records();
        let is_in_force = |(id, record): &(&Id, &Record)| id.origin == prepared.origin && record.accepted.is_some();
        let before = records.all(Kind::Cluster).filter(is_in_force);
        let kept = before.filter(|(id, _)| !prepared.removed.takes(&id.name, &names));
        let kept: Vec<String> = kept.map(|(id, _)| id.name.to_string()).collect();
        names.extend(kept);
        names.len() < min as usize
    }

    pub(super) async fn apply_clusters(&mut self, prepared: Prepared) -> Applied {
        let Prepared { kind, origin, version, entries, removed, unknown_fields: _ } = prepared;
        let mut applied = Applied::nothing();
        let mut present = HashSet::new();
        let mut configs = Vec::new();
        for (index, Entry { resource, hash, lowered, is_malformed: _ }) in entries.into_iter().enumerate() {
            present.insert(resource.name.clone());
            match lowered {
                Lowered::Refused(reasons) => {
                    applied.outcome.rejected.push(self.refuse(kind, &origin, &version, index, &resource, reasons));
                    continue;
                }
                // Envoy: what the bootstrap has, discovery does not change.
                Lowered::Cluster(_) if self.parts.statics.has_cluster(&resource.name) => {}
                Lowered::Cluster(config) => {
                    self.parts.env.clusters.declare(&config.name);
                    self.accept(kind, &origin, resource.clone(), hash, Kept::Nothing);
                    configs.push(*config);
                }
                _ => self.confirm(kind, &origin, &resource),
            }
            let target = Target::named(kind, &origin, resource.name.as_str().into());
            if self.targets.find(&target).is_some() {
                applied.single.push((target, Some(true)));
            }
            applied.outcome.accepted.push(resource.name);
        }
        let changed = configs.len();
        let clusters = self.parts.shared.clusters.clone();
        let update = move || clusters.warm_up(configs);
        if changed > 0 {
            // Making many takes a while. A panic in it was logged, and has changed nothing.
            let _ = spawn_blocking(update).await;
        }
        if let Removed::Named(names) = &removed {
            let target = |name: &String| Target::named(kind, &origin, name.as_str().into());
            applied.gone = names.iter().map(target).filter(|target| self.targets.find(target).is_some()).collect();
        }
        let gone = self.records().take_out(Kind::Cluster, &origin, &removed, &present);
        for name in &gone {
            // Whoever wants one again asks again.
            let target = Target::named(kind, &origin, name.clone());
            let asked = self.targets.users(&target).into_iter().flat_map(|users| users.on_demand.iter());
            asked.for_each(|slot| slot.answer(name, FoundCluster::Nowhere));
        }
        let names = &self.parts.env.clusters;
        gone.iter().for_each(|name| names.withdraw(name));
        let ids = gone.iter().filter_map(|name| names.find(name)).map(|name| name.id);
        let removed = self.parts.shared.clusters.remove_all(ids);
        applied.is_change = changed + removed > 0;
        // Envoy: what goes alone is no reload.
        applied.reloads = Some(changed > 0);
        if applied.is_change {
            info!(target: "upstream", "cds: added or updated {changed} cluster(s), removed {removed} cluster(s)");
        }
        applied
    }
}
