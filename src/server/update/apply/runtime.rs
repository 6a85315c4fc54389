//! RTDS.

use std::sync::Arc;

use nuncio_config::bootstrap::RuntimeValues;
use nuncio_config::discovery::Origin;
use tokio::task::spawn_blocking;
use tracing::info;

use super::{Applied, Updater};
use crate::update::lowering::{Entry, Lowered, Prepared};
use crate::update::records::{Id, Kept};
use crate::update::{Kind, Removed, Target};

impl Updater {
    pub(super) async fn apply_runtime(&mut self, prepared: Prepared) -> Applied {
        let Prepared { kind, origin, version, entries, removed, unknown_fields: _ } = prepared;
        let mut applied = Applied::nothing();
        for (index, Entry { resource, hash, lowered }) in entries.into_iter().enumerate() {
            let name: Arc<str> = resource.name.as_str().into();
            let target = Target { kind, origin: origin.clone(), name: Some(name.clone()) };
            if self.targets.find(&target).is_none() {
                // Nobody asked for it, or does so no longer.
                applied.outcome.accepted.push(resource.name);
                continue;
            }
            let is_change = match lowered {
                Lowered::Refused(reasons) => {
                    applied.outcome.rejected.push(self.refuse(kind, &origin, &version, index, &resource, reasons));
                    applied.single.push((target, None));
                    continue;
                }
                Lowered::Runtime(values) => {
                    info!(target: "runtime", %name, "rtds: layer updated");
                    self.take_runtime(name, &origin, values).await;
                    self.accept(kind, &origin, resource.clone(), hash, Kept::Nothing);
                    true
                }
                _ => {
                    self.confirm(kind, &origin, &resource);
                    false
                }
            };
            applied.is_change |= is_change;
            applied.single.push((target, Some(is_change)));
            applied.outcome.accepted.push(resource.name);
        }
        if let Removed::Named(names) = removed {
            self.forget_runtime(&origin, names, &mut applied).await;
        }
        applied
    }

    /// Layers whose resources are gone have no values any longer.
    async fn forget_runtime(&mut self, origin: &Origin, names: Vec<String>, applied: &mut Applied) {
        for name in names {
            let name: Arc<str> = name.into();
            let target = Target { kind: Kind::Runtime, origin: origin.clone(), name: Some(name.clone()) };
            if self.targets.find(&target).is_none() {
                continue;
            }
            info!(target: "runtime", %name, "rtds: layer removed");
            self.records().retain(Kind::Runtime, |id: &Id| id.origin != *origin || id.name != name);
            self.take_runtime(name, origin, RuntimeValues::new()).await;
            applied.is_change = true;
            applied.single.push((target, Some(true)));
        }
    }

    async fn take_runtime(&self, name: Arc<str>, origin: &Origin, values: RuntimeValues) {
        let (runtime, origin) = (self.parts.shared.runtime.clone(), origin.clone());
        // Other layers are read from their folders. A panic was logged.
        let _ = spawn_blocking(move || runtime.take(name, origin, values)).await;
    }
}
