//! What the bootstrap itself configures, when it is read again.

use nuncio_config::secret::StaticSecrets;
use tokio::task::spawn_blocking;

use super::Updater;
use crate::update::StaticChange;

impl Updater {
    /// Makes the change, and tells what could not be done.
    pub(super) async fn change(&mut self, change: StaticChange) -> Vec<String> {
        let names = &self.parts.env.clusters;
        match change {
            StaticChange::PutClusters(configs) => {
                for config in &configs {
                    names.declare(&config.name);
                    self.parts.statics.clusters.insert(config.name.name.to_string());
                }
                let clusters = self.parts.shared.clusters.clone();
                // Making many takes a while. A panic in it was logged, and has changed nothing.
                let _ = spawn_blocking(move || clusters.warm_up(configs)).await;
                Vec::new()
            }
            StaticChange::RemoveClusters(gone) => {
                gone.iter().for_each(|name| names.withdraw(name));
                let ids: Vec<_> = gone.iter().filter_map(|name| names.find(name)).map(|name| name.id).collect();
                self.parts.statics.clusters.retain(|name| !gone.contains(name));
                self.parts.shared.clusters.remove_all(ids);
                Vec::new()
            }
            StaticChange::Runtime(config) => {
                let runtime = self.parts.shared.runtime.clone();
                // It may read folders. A panic was logged, and has changed nothing.
                let _ = spawn_blocking(move || runtime.configure(config)).await;
                Vec::new()
            }
            StaticChange::Secrets(secrets) => {
                let (known, env) = (StaticSecrets::of(&self.parts.env), self.parts.env.clone());
                let put = move || {
                    let mut failures = Vec::new();
                    for secret in secrets {
                        let put = known.find(&secret).map_or(Ok(()), |slot| slot.update(&secret, &env));
                        let failure = |reason| format!("secret '{}': {reason}", secret.name);
                        failures.extend(put.err().into_iter().flatten().map(failure));
                    }
                    failures
                };
                // A panic was logged.
                spawn_blocking(put).await.unwrap_or_else(|_| vec!["putting secrets in force panicked".to_owned()])
            }
            StaticChange::Listeners { put, removed } => {
                let listeners = self.parts.listeners.clone();
                let left = listeners.remove(|name| removed.iter().any(|gone| gone == name));
                self.parts.statics.listeners.retain(|name| !removed.contains(name));
                let mut failures = Vec::new();
                for config in put {
                    let name = config.name.clone();
                    match listeners.put(config, &left).await {
                        Ok(()) => drop(self.parts.statics.listeners.insert(name.to_string())),
                        Err(error) => failures.push(format!("listener '{name}': {error}")),
                    }
                }
                listeners.retire(left).await;
                failures
            }
        }
    }
}
