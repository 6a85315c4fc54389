//! Finds hosts by their address, as text.

use std::collections::HashMap;
use std::sync::Arc;

use nuncio_telemetry::Address;
use twox_hash::XxHash64;

use super::ByAddress;
use super::change::Change;
use crate::host::Host;

/// Places of hosts by the hash of their address; the last of several at one address.
///
/// Only numbers: those of 100,000 hosts are copied at once for the set that follows.
#[derive(Clone, Debug)]
pub(super) struct Addresses(HashMap<usize, u32, ByAddress>);

// === impl Addresses ===

impl Addresses {
    pub(super) fn of(hosts: &[Arc<Host>]) -> Self {
        Self((0..).zip(hosts).map(|(place, host)| (hash(&host.address()), place)).collect())
    }

    /// Those after `change`, where the hosts that come are at addresses that no other has, or had.
    pub(super) fn after(&self, change: &Change, old: &[Arc<Host>], new: &[Arc<Host>]) -> Option<Self> {
        // Of two at one address another may be found now.
        let is_unique = self.0.len() == old.len();
        if !is_unique {
            return None;
        }
        let mut next = self.0.clone();
        for &gone in &change.gone {
            next.remove(&hash(&old[gone as usize].address()));
        }
        if change.moves_hosts() {
            next.values_mut().for_each(|place| *place = change.place_now(*place).unwrap_or(*place));
        }
        for &come in &change.come {
            next.insert(hash(&new[come as usize].address()), come);
        }
        (next.len() == new.len()).then_some(Self(next))
    }

    pub(super) fn find(&self, address: &str, hosts: &[Arc<Host>]) -> Option<usize> {
        let place = *self.0.get(&hash_of(address))? as usize;
        // Two texts may have one hash.
        (Address::to_string(&hosts[place].address()) == address).then_some(place)
    }
}

fn hash(address: &Address) -> usize {
    hash_of(&address.to_string())
}

fn hash_of(address: &str) -> usize {
    XxHash64::oneshot(0, address.as_bytes()) as usize
}
