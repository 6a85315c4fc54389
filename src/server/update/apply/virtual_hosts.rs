//! VHDS.

use std::collections::HashSet;
use std::sync::Arc;

use nuncio_config::discovery::{Origin, RouteSlot};
use nuncio_config::route::{DiscoveredHosts, HostSlot, RouteTable};
use nuncio_filter_api::{Invalid, LowerEnv};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::{Applied, Updater};
use crate::update::lowering::{Entry, Lowered, Prepared};
use crate::update::records::{Id, Kept, Records};
use crate::update::{Kind, Target, invalid};

/// Puts a table in force, also when virtual hosts come to it.
pub(super) fn put_routes(slot: &RouteSlot, table: &Arc<RouteTable>, env: &LowerEnv) {
    slot.table.store(table.clone());
    if let Some(hosts) = table.discovered_hosts()
        && let Err(reasons) = hosts.attach_discovered(slot, env)
    {
        warn!(target: "config", name = %slot.name, ?reasons, "virtual hosts cannot be used");
    }
    end_waiting(slot);
}

/// Whoever waits for the routes waits no longer, but for the virtual hosts that are to come to them.
pub(super) fn end_waiting(slot: &RouteSlot) {
    match slot.table.load().discovered_hosts() {
        Some(hosts) => hosts.release(slot.ready.clone()),
        None => slot.ready.set(),
    }
}

/// What a source has given of the virtual hosts of a slot.
fn hosts(records: &Records, slot: &HostSlot) -> DiscoveredHosts {
    let of_source = records.all(Kind::VirtualHost).filter(|(id, _)| id.origin == slot.source.origin);
    let of_slot = of_source.filter(|(id, _)| slot.is_of(&id.name));
    let kept = of_slot.filter_map(|(id, record)| match &record.accepted.as_ref()?.kept {
        Kept::VirtualHost(host) => Some((id.name.clone(), host.clone())),
        _ => None,
    });
    kept.collect()
}

/// Gives virtual hosts that came before to one who comes late.
pub(super) fn give_hosts(slot: &HostSlot, records: &Records, env: &LowerEnv) {
    let hosts = hosts(records, slot);
    if !hosts.is_empty()
        && let Err(reasons) = slot.publish(hosts, env)
    {
        warn!(target: "config", name = %slot.name, ?reasons, "virtual hosts cannot be used");
    }
    slot.settle();
}

impl Updater {
    /// Those of each route configuration as a whole: they share its domains.
    pub(super) async fn apply_virtual_hosts(&mut self, prepared: Prepared) -> Applied {
        let Prepared { kind, origin, version, entries, removed, unknown_fields: _ } = prepared;
        let mut applied = Applied::nothing();
        let present: HashSet<_> = entries.iter().map(|entry| entry.resource.name.clone()).collect();
        let mut entries: Vec<_> = entries.into_iter().enumerate().collect();
        for slot in self.host_slots(&origin) {
            let (own, others) = entries.into_iter().partition(|(_, entry)| slot.is_of(&entry.resource.name));
            entries = others;
            let mut next = hosts(&self.records(), &slot);
            let gone: Vec<_> = next.keys().filter(|name| removed.takes(name, &present)).cloned().collect();
            gone.iter().for_each(|name| drop(next.remove(name)));
            self.put_hosts(&slot, next, own, &version, &mut applied).await;
            applied.is_change |= !gone.is_empty();
            for name in gone {
                slot.remove(&name);
                self.records().forget(kind, &Id { name, origin: origin.clone() });
            }
        }
        // Nobody asks for the others, or does so no longer.
        applied.outcome.accepted.extend(entries.into_iter().map(|(_, entry)| entry.resource.name));
        applied
    }

    fn host_slots(&self, origin: &Origin) -> Vec<Arc<HostSlot>> {
        let target = Target { kind: Kind::VirtualHost, origin: origin.clone(), name: None };
        self.targets.users(&target).into_iter().flat_map(|users| users.hosts.iter()).collect()
    }

    /// Adds what was delivered to the virtual hosts that stay, and puts them in force or refuses what is new.
    async fn put_hosts(
        &self,
        slot: &Arc<HostSlot>,
        mut next: DiscoveredHosts,
        own: Vec<(usize, Entry)>,
        version: &str,
        applied: &mut Applied,
    ) {
        let origin = &slot.source.origin;
        let refused_at_once = own.iter().find_map(|(_, entry)| match &entry.lowered {
            Lowered::Refused(reasons) => Some(reasons.clone()),
            _ => None,
        });
        for (_, entry) in &own {
            if let Lowered::VirtualHost(host) = &entry.lowered {
                next.insert(entry.resource.name.as_str().into(), host.clone());
            }
        }
        let outcome = match refused_at_once {
            Some(reasons) => Err(reasons),
            None if next == hosts(&self.records(), slot) => Ok(()),
            None => self.publish_hosts(slot, next).await,
        };
        for (index, Entry { resource, hash, lowered, is_malformed: _ }) in own {
            match (&outcome, lowered) {
                (Err(reasons), Lowered::VirtualHost(_) | Lowered::Refused(_)) => {
                    let refused = self.refuse(Kind::VirtualHost, origin, version, index, &resource, reasons.clone());
                    applied.outcome.rejected.push(refused);
                    continue;
                }
                (Ok(()), Lowered::VirtualHost(host)) => {
                    info!(target: "config", name = %resource.name, "virtual host updated");
                    applied.is_change = true;
                    self.accept(Kind::VirtualHost, origin, resource.clone(), hash, Kept::VirtualHost(host));
                }
                _ => self.confirm(Kind::VirtualHost, origin, &resource),
            }
            let names = std::iter::once(&*resource.name).chain(resource.aliases.iter().map(String::as_str));
            for name in names.clone() {
                let target = Target::named(Kind::VirtualHost, origin, name.into());
                applied.single.extend(self.targets.find(&target).map(|_| (target, Some(true))));
            }
            slot.answer(&resource.name, names);
            applied.outcome.accepted.push(resource.name);
        }
    }

    async fn publish_hosts(&self, slot: &Arc<HostSlot>, hosts: DiscoveredHosts) -> Result<(), Vec<Invalid>> {
        let (slot, env) = (slot.clone(), self.parts.env.clone());
        // A table may be large. The process's hook has logged a panic.
        let put = spawn_blocking(move || slot.publish(hosts, &env)).await;
        put.unwrap_or_else(|_| Err(vec![invalid("", "taking them over panicked".to_owned())]))
    }
}
