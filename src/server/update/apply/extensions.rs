//! ECDS.

use std::sync::Arc;

use nuncio_config::discovery::Origin;
use nuncio_config::extension::ExtensionSlot;
use nuncio_filter_api::{Invalid, LowerEnv};
use nuncio_proto::google::protobuf::Any;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::{Applied, Updater};
use crate::update::records::{Id, Kept};
use crate::update::{Kind, Target, invalid};

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
    /// Puts a configuration in force for all who refer to it, or for none.
    pub(super) async fn put_extension(&self, target: &Target, config: &Arc<Any>) -> Result<(), Vec<Invalid>> {
        let slots: Vec<_> = self.targets.users(target).into_iter().flat_map(|users| users.extensions.iter()).collect();
        let (config, env) = (config.clone(), self.parts.env.clone());
        // Thousands of filters may be made of it.
        let put = spawn_blocking(move || slots.iter().try_for_each(|slot| slot.update(&config, &env))).await;
        // The process's hook has logged a panic.
        put.unwrap_or_else(|_| Err(vec![invalid("", "taking it over panicked".to_owned())]))
    }

    /// Filters do with their defaults.
    pub(super) fn forget_extensions(&mut self, origin: &Origin, names: Vec<String>, applied: &mut Applied) {
        for name in names {
            let name: Arc<str> = name.into();
            let target = Target::named(Kind::Extension, origin, name.clone());
            let Some(users) = self.targets.users(&target) else { continue };
            info!(target: "config", "{target} is gone");
            users.extensions.iter().for_each(|slot| slot.remove());
            applied.is_change |= self.records().forget(Kind::Extension, &Id { name, origin: origin.clone() });
        }
    }
}
