//! Which hosts a cluster has lost, so that whoever keeps something of its hosts need not look at all of them.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use super::ends::Ends;
use crate::host::Host;

/// The last hosts that a cluster has lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lost {
    /// Of all that it ever lost.
    count: u64,
    /// Addresses. One may be that of a host that came later, but of none that anybody kept since.
    last: Vec<usize>,
}

/// Where more are lost at a time, all that are kept are looked at.
const MAX: usize = 256;

/// Hashes addresses, which nobody chooses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ByAddress;

pub(crate) struct AddressHasher(u64);

/// Those of `these` that are not among `others`.
pub(crate) fn only_in<'a>(these: &'a [Arc<Host>], others: &[Arc<Host>]) -> Vec<&'a Arc<Host>> {
    let Ends { start, old_end, new_end } = Ends::between(these, others);
    let (these, others) = (&these[start..old_end], &others[start..new_end]);
    let address = |host: &Arc<Host>| Arc::as_ptr(host).addr();
    let others: HashSet<usize, ByAddress> = others.iter().map(address).collect();
    these.iter().filter(|host| !others.contains(&address(host))).collect()
}

// === impl Lost ===

impl Lost {
    /// With those of `before` that are not in `after`.
    pub(crate) fn with_change(self: &Arc<Self>, before: &[Arc<Host>], after: &[Arc<Host>]) -> Arc<Self> {
        if std::ptr::eq(before, after) {
            return self.clone();
        }
        let mut next = Self::clone(self);
        for host in only_in(before, after) {
            next.count += 1;
            next.last.push(Arc::as_ptr(host).addr());
        }
        let excess = next.last.len().saturating_sub(MAX);
        next.last.drain(..excess);
        Arc::new(next)
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The addresses of those lost since there were `count`; `None` where there were too many.
    pub(crate) fn since(&self, count: u64) -> Option<&[usize]> {
        let since = usize::try_from(self.count - count).ok()?;
        self.last.len().checked_sub(since).map(|start| &self.last[start..])
    }
}

// === impl ByAddress ===

impl BuildHasher for ByAddress {
    type Hasher = AddressHasher;

    fn build_hasher(&self) -> AddressHasher {
        AddressHasher(0)
    }
}

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        // The upper bits choose within a group, the lower the group: both depend on all.
        let mixed = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = address as u64;
    }
}
