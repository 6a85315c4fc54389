//! ECDS.

use std::sync::Arc;

use nuncio_config::extension::ExtensionSlot;
use nuncio_filter_api::{Invalid, LowerEnv};
use nuncio_proto::google::protobuf::Any;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::{Applied, Updater, invalid};
use crate::update::lowering::{Entry, Lowered, Prepared};
use crate::update::records::Kept;
use crate::update::{Kind, Removed, Target};

/// Gives a configuration that came before to one who comes late.
pub(super) fn give_extension(slot: &ExtensionSlot, kept: Option<&Kept>, env: &LowerEnv) {
    if let Some(Kept::Extension(config)) = kept {
        match slot.update(config, env) {
            Ok(()) => return,
            Err(reasons) => warn!(target: "config", name = %slot.name, ?reasons, "extension config cannot be used"),
        }
    }
    slot.give_up();
}

impl Updater {
    pub(super) async fn apply_extensions(&mut self, prepared: Prepared) -> Applied {
        let Prepared { kind, origin, version, entries, removed, unknown_fields: _ } = prepared;
        let mut applied = Applied::nothing();
        for (index, Entry { resource, hash, lowered }) in entries.into_iter().enumerate() {
            let target = Target { kind, origin: origin.clone(), name: Some(resource.name.as_str().into()) };
            if self.targets.find(&target).is_none() {
                // Nobody asked for it, or does so no longer.
                applied.outcome.accepted.push(resource.name);
                continue;
            }
            let done = match lowered {
                Lowered::Refused(reasons) => Err(reasons),
                Lowered::Extension(config) => {
                    let config = Arc::new(*config);
                    self.put_extension(&target, &config).await.map(|()| {
                        info!(target: "config", name = %resource.name, "extension config updated");
                        self.accept(kind, &origin, resource.clone(), hash, Kept::Extension(config));
                        true
                    })
                }
                _ => {
                    self.confirm(kind, &origin, &resource);
                    Ok(false)
                }
            };
            applied.is_change |= done == Ok(true);
            applied.single.push((target, done.as_ref().ok().copied()));
            match done {
                Ok(_) => applied.outcome.accepted.push(resource.name),
                Err(reasons) => {
                    applied.outcome.rejected.push(self.refuse(kind, &origin, &version, index, &resource, reasons));
                }
            }
        }
        if let Removed::Named(names) = removed {
            for name in names {
                let target = Target { kind, origin: origin.clone(), name: Some(name.into()) };
                applied.is_change |= self.forget_extension(&target);
            }
        }
        applied
    }

    /// Puts a configuration in force for all who refer to it, or for none.
    async fn put_extension(&self, target: &Target, config: &Arc<Any>) -> Result<(), Vec<Invalid>> {
        let slots: Vec<_> = self.targets.find(target).into_iter().flat_map(|w| w.users.extensions()).collect();
        let (config, env) = (config.clone(), self.parts.env.clone());
        // Thousands of filters may be made of it.
        let put = spawn_blocking(move || slots.iter().try_for_each(|slot| slot.update(&config, &env)));
        // The process's hook has logged a panic.
        put.await.unwrap_or_else(|_| Err(vec![invalid("", "taking it over panicked".to_owned())]))
    }

    /// Filters do with their defaults. False where nobody had it.
    fn forget_extension(&mut self, target: &Target) -> bool {
        let Some(watched) = self.targets.find(target) else { return false };
        info!(target: "config", "{target} is gone");
        watched.users.extensions().for_each(|slot| slot.remove());
        let gone = self
            .records()
            .retain(Kind::Extension, |id| id.origin != target.origin || Some(&id.name) != target.name.as_ref());
        !gone.is_empty()
    }
}
