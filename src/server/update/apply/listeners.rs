//! LDS.

use std::collections::HashSet;

use nuncio_filter_api::Invalid;
use tracing::info;

use super::{Applied, Updater};
use crate::listeners::PutError;
use crate::update::lowering::{Entry, Lowered, Prepared};
use crate::update::records::Kept;
use crate::update::{Kind, invalid};

/// Envoy's text where another listener has the address, so that it names the listener and no field.
fn refusal(error: &PutError) -> Invalid {
    let path = if matches!(error, PutError::Duplicate { .. }) { "" } else { "address" };
    invalid(path, error.to_string())
}

impl Updater {
    pub(super) async fn apply_listeners(&mut self, prepared: Prepared) -> Applied {
        let Prepared { kind, origin, version, entries, removed, unknown_fields: _ } = prepared;
        let mut applied = Applied::nothing();
        let present: HashSet<_> = entries.iter().map(|entry| entry.resource.name.clone()).collect();
        // First those that go, so that others may take over their addresses.
        let gone: HashSet<_> = {
            let gone = self.records().take_out(Kind::Listener, &origin, &removed, &present);
            gone.into_iter().filter(|name| !self.parts.statics.has_listener(name)).collect()
        };
        let left = self.parts.listeners.remove(|name| gone.contains(name));
        for name in &gone {
            info!(target: "config", "lds: remove listener '{name}'");
        }
        applied.is_change = !gone.is_empty();
        for (index, Entry { resource, hash, lowered, is_malformed: _ }) in entries.into_iter().enumerate() {
            let refused = match lowered {
                Lowered::Refused(reasons) => Some(reasons),
                // Envoy: what the bootstrap has, discovery does not change.
                Lowered::Listener(_) if self.parts.statics.has_listener(&resource.name) => None,
                Lowered::Listener(config) => match self.parts.listeners.put(config, &left).await {
                    Ok(()) => {
                        info!(target: "config", "lds: add/update listener '{}'", resource.name);
                        applied.is_change = true;
                        self.accept(kind, &origin, resource.clone(), hash, Kept::Nothing);
                        None
                    }
                    Err(error) => Some(vec![refusal(&error)]),
                },
                _ => {
                    self.confirm(kind, &origin, &resource);
                    None
                }
            };
            match refused {
                Some(reasons) => {
                    applied.outcome.rejected.push(self.refuse(kind, &origin, &version, index, &resource, reasons));
                }
                None => applied.outcome.accepted.push(resource.name),
            }
        }
        self.parts.listeners.retire(left).await;
        self.forget_left();
        applied
    }
}
