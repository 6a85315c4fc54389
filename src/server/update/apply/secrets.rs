//! SDS.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use nuncio_config::discovery::Origin;
use nuncio_config::followed::Change;
use nuncio_config::secret::{Secret, SecretSlot};
use nuncio_filter_api::{Invalid, LowerEnv};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::Updater;
use crate::files::Watch;
use crate::update::lowering::read_again;
use crate::update::records::{Id, Kept, Records};
use crate::update::stats::Event;
use crate::update::{Kind, Target, details, invalid, lock};

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
        let watched = secrets(records).flat_map(|(_, secret)| &secret.watched);
        let folders: BTreeSet<PathBuf> = watched.map(|trigger| trigger.folder.clone()).collect();
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

    /// The next change in a folder where some are.
    pub(super) async fn changed(&mut self) -> Change {
        match &mut self.watch {
            Some(watch) => watch.next().await,
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
    match kept {
        Some(Kept::Secret(secret)) => {
            if let Err(reasons) = slot.update(secret, env) {
                warn!(target: "config", name = %slot.name, "secret cannot be used: {}", details(&reasons));
            }
        }
        // Nobody asks for it again: who came while it went would wait for ever.
        _ => slot.note_removal(),
    }
    slot.ready.set();
}

// === impl Updater ===

impl Updater {
    /// Puts a secret in force for all who refer to it, or for none.
    pub(super) async fn put_secret(&self, target: &Target, secret: &Arc<Secret>) -> Result<(), Vec<Invalid>> {
        let slots: Vec<_> = self.targets.users(target).into_iter().flat_map(|users| users.secrets.iter()).collect();
        let (secret, env) = (secret.clone(), self.parts.env.clone());
        // Thousands of contexts may be made of it.
        let put = spawn_blocking(move || slots.iter().try_for_each(|slot| slot.update(&secret, &env))).await;
        // The process's hook has logged a panic.
        put.unwrap_or_else(|_| Err(vec![invalid("", "taking it over panicked".to_owned())]))
    }

    /// Tells those who can do without that there are no such secrets.
    pub(super) fn note_missing_secrets(&self, origin: &Origin, names: Vec<String>) {
        for name in names {
            let id = Id { name: name.into(), origin: origin.clone() };
            let target = Target::named(Kind::Secret, origin, id.name.clone());
            let Some(users) = self.targets.users(&target) else { continue };
            users.secrets.iter().for_each(|slot| slot.note_removal());
            if users.secrets.iter().next().is_none() {
                // A handshake may ask for it again before it is known that nobody wants it: what is gone is gone.
                self.records().forget(Kind::Secret, &id);
            }
        }
    }

    /// Something has changed in a folder where files of secrets are.
    pub(super) async fn rotate(&mut self, change: &Change) {
        let concerned: Vec<_> = {
            let records = self.records();
            let concerned = secrets(&records).filter(|(_, secret)| secret.watched.iter().any(|w| w.is_met_by(change)));
            let any = |id: &Id| records.find(Kind::Secret, id)?.accepted.as_ref().map(|a| a.resource.any.clone());
            concerned.filter_map(|(id, secret)| Some((id.clone(), secret.clone(), any(id)?))).collect()
        };
        for (id, before, any) in concerned {
            let (env, unknown) = (self.parts.env.clone(), self.parts.unknown);
            let read = spawn_blocking(move || read_again(&any, &env, unknown)).await;
            let read = read.unwrap_or_else(|_| Err(vec![invalid("", "reading it panicked".to_owned())]));
            let target = Target::named(Kind::Secret, &id.origin, id.name.clone());
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
        self.secret_files.reconcile(&lock(&records));
    }
}
