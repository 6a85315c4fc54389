//! Consistent hashing with bounded loads: a host that has more than its share of the active requests is passed over.

use std::collections::HashMap;

use super::mersenne::Mersenne;
use super::{HashTables, PriorityTable};
use crate::host_set::ByAddress;
use crate::lb::LbEnv;

impl HashTables {
    /// `host`, or where it is overloaded one that is not, or else the least overloaded one.
    pub(super) fn bounded(&self, table: &PriorityTable, host: usize, hash: u64, env: LbEnv<'_>) -> usize {
        let overall = env.stats.upstream_rq_active().value();
        let slots = ((overall + 1) * u64::from(self.balance_factor)).div_ceil(100);
        let overload = |host: usize| {
            let weighted = &table.hosts[host];
            let slots = (slots as f64 * weighted.weight).ceil().max(1.0);
            env.set.hosts[weighted.place as usize].stats.rq_active.get() as f64 / slots
        };
        let mut least = (overload(host), host);
        if least.0 <= 1.0 {
            return host;
        }
        // The order of the others is random, but the same for the same hash.
        let mut random = Mersenne::new(hash as u32);
        let count = table.hosts.len();
        // Where the order is not that of the table any more: mostly the second or third host is taken already.
        let mut moved: HashMap<usize, usize, ByAddress> = HashMap::default();
        for i in 0..count {
            let j = i + random.below((count - i) as u32) as usize;
            let first = moved.get(&i).copied().unwrap_or(i);
            let other = moved.insert(j, first).unwrap_or(j);
            if other == host {
                continue;
            }
            let factor = overload(other);
            if factor <= 1.0 {
                return other;
            }
            if factor < least.0 {
                least = (factor, other);
            }
        }
        least.1
    }
}
