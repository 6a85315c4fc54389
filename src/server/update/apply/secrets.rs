//! SDS.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nuncio_config::secret::{Secret, SecretSlot};
use nuncio_filter_api::{Invalid, LowerEnv};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::{Applied, Updater, invalid};
use crate::files::Watch;
use crate::update::lowering::{Entry, Lowered, Prepared, read_again};
use crate::update::records::{Id, Kept, Records};
use crate::update::stats::Event;
use crate::update::{Kind, Target};

/// The files that secrets name.
pub(super) struct SecretFiles {
    watch: Option<Watch>,
    folders: BTreeSet<PathBuf>,
}

// === impl SecretFiles ===

impl SecretFiles {
    pub(super) fn new() -> Self {
        Self { watch: None, folders: BTreeSet::new() }
    }

    /// Watches for those of the secrets that are in force.
    pub(super) fn reconcile(&mut self, records: &Records) {
        let folders: BTreeSet<PathBuf> =
            secrets(records).flat_map(|(_, secret)| secret.watched.iter().cloned()).collect();
        if folders == self.folders {
            return;
        }
        if self.watch.is_none() {
            let watch = Watch::new();
            let log = |error: &_| warn!(target: "config", %error, "files of secrets cannot be watched");
            self.watch = watch.inspect_err(log).ok();
        }
        if let Some(watch) = &mut self.watch {
            watch.reconcile(folders.iter().map(|folder| &**folder));
        }
        self.folders = folders;
    }

    /// The folder of the next move.
    pub(super) async fn moved(&mut self) -> PathBuf {
        match &mut self.watch {
            Some(watch) => watch.next().await.0,
            None => std::future::pending().await,
        }
    }
}

fn secrets(records: &Records) -> impl Iterator<Item = (&Id, &Arc<Secret>)> {
    records.all(Kind::Secret).filter_map(|(id, record)| match &record.accepted.as_ref()?.kept {
        Kept::Secret(secret) => Some((id, secret)),
        _ => None,
    })
}

/// Gives a secret that came before to one who comes late.
pub(super) fn give_secret(slot: &SecretSlot, kept: Option<&Kept>, env: &LowerEnv) {
    if let Some(Kept::Secret(secret)) = kept
        && let Err(reasons) = slot.update(secret, env)
    {
        warn!(target: "config", name = %slot.name, "secret cannot be used: {}", details(&reasons));
    }
    slot.ready.set();
}

fn details(reasons: &[Invalid]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

// === impl Updater ===

impl Updater {
    pub(super) async fn apply_secrets(&mut self, prepared: Prepared) -> Applied {
        let Prepared { kind, origin, version, entries, removed: _, unknown_fields: _ } = prepared;
        let mut applied = Applied::nothing();
        for (index, Entry { resource, hash, lowered }) in entries.into_iter().enumerate() {
            let target = Target { kind, origin: origin.clone(), name: Some(resource.name.as_str().into()) };
            if self.targets.find(&target).is_none() {
                // Nobody asked for it, or does so no longer.
                applied.outcome.accepted.push(resource.name);
                continue;
            }
            let refused = match lowered {
                Lowered::Refused(reasons) => Some(reasons),
                Lowered::Secret(secret) => self.put_secret(&target, &secret).await.err().or_else(|| {
                    info!(target: "config", name = %resource.name, "secret updated");
                    applied.is_change = true;
                    self.accept(kind, &origin, resource.clone(), hash, Kept::Secret(secret));
                    None
                }),
                _ => {
                    self.confirm(kind, &origin, &resource);
                    None
                }
            };
            applied.single.push((target, refused.is_none().then_some(true)));
            match refused {
                Some(reasons) => {
                    applied.outcome.rejected.push(self.refuse(kind, &origin, &version, index, &resource, reasons));
                }
                None => applied.outcome.accepted.push(resource.name),
            }
        }
        applied
    }

    /// Puts a secret in force for all who refer to it, or for none.
    async fn put_secret(&self, target: &Target, secret: &Arc<Secret>) -> Result<(), Vec<Invalid>> {
        let slots: Vec<_> = self.targets.find(target).into_iter().flat_map(|w| w.users.secrets()).collect();
        let (secret, env) = (secret.clone(), self.parts.env.clone());
        // Thousands of contexts may be made of it.
        let put = move || slots.iter().try_for_each(|slot| slot.update(&secret, &env));
        let put = spawn_blocking(put).await;
        // The process's hook has logged a panic.
        put.unwrap_or_else(|_| Err(vec![invalid("", "taking it over panicked".to_owned())]))
    }

    /// Something was moved into a folder where files of secrets are.
    pub(super) async fn rotate(&mut self, folder: &Path) {
        let concerned: Vec<_> = {
            let records = self.records();
            let concerned = secrets(&records).filter(|(_, secret)| secret.watched.iter().any(|w| w == folder));
            let any = |id: &Id| records.find(Kind::Secret, id)?.accepted.as_ref().map(|a| a.resource.any.clone());
            concerned.filter_map(|(id, secret)| Some((id.clone(), secret.clone(), any(id)?))).collect()
        };
        for (id, before, any) in concerned {
            let (env, unknown) = (self.parts.env.clone(), self.parts.unknown);
            let read = spawn_blocking(move || read_again(&any, &env, unknown)).await;
            let read = read.unwrap_or_else(|_| Err(vec![invalid("", "reading it panicked".to_owned())]));
            let target = Target { kind: Kind::Secret, origin: id.origin.clone(), name: Some(id.name.clone()) };
            let rotated = match read {
                Ok(secret) if secret.is_same(&before) => continue,
                Ok(secret) => self.put_secret(&target, &secret).await.map(|()| secret),
                Err(reasons) => Err(reasons),
            };
            match rotated {
                Ok(secret) => {
                    info!(target: "config", name = %id.name, "secret updated from its files");
                    self.records().keep(Kind::Secret, &id, Kept::Secret(secret));
                }
                Err(reasons) => {
                    warn!(target: "config", name = %id.name, "Failed to reload certificates: {}", details(&reasons));
                    self.targets.note(&target, Event::RotationFailed);
                }
            }
        }
        let records = self.parts.shared.records.clone();
        self.secret_files.reconcile(&super::lock(&records));
    }
}
