//! RTDS.

use std::sync::Arc;

use nuncio_config::bootstrap::RuntimeValues;
use nuncio_config::discovery::Origin;
use tokio::task::spawn_blocking;
use tracing::info;

use super::{Applied, Updater};
use crate::update::records::Id;
use crate::update::{Kind, Target};

impl Updater {
    /// Layers whose resources are gone have no values any longer.
    pub(super) async fn forget_runtime(&mut self, origin: &Origin, names: Vec<String>, applied: &mut Applied) {
        for name in names {
            let name: Arc<str> = name.into();
            let target = Target::named(Kind::Runtime, origin, name.clone());
            if self.targets.find(&target).is_none() {
                continue;
            }
            info!(target: "runtime", %name, "rtds: layer removed");
            self.records().forget(Kind::Runtime, &Id { name: name.clone(), origin: origin.clone() });
            self.put_runtime(name, origin, RuntimeValues::new()).await;
            applied.is_change = true;
            applied.single.push((target, Some(true)));
        }
    }

    pub(super) async fn put_runtime(&self, name: Arc<str>, origin: &Origin, values: RuntimeValues) {
        let (runtime, origin) = (self.parts.shared.runtime.clone(), origin.clone());
        // Other layers are read from their folders. A panic was logged.
        let _ = spawn_blocking(move || runtime.take(name, origin, values)).await;
    }
}
