use std::sync::Arc;

use super::change::Known;
use super::{Facts, Layout, PriorityHosts, PriorityLoad};
use crate::host::Host;
use crate::lb::HashTables;

/// Hosts of a set, or of a part of it, by priority, with the share of the load that each priority gets.
#[derive(Debug)]
pub struct HostGroups {
    /// By priority, at least one; a priority without hosts among those that have some is empty.
    pub priorities: Box<[PriorityHosts]>,
    /// How much of the load goes to each priority.
    pub load: PriorityLoad,
    /// Whether the healthy hosts of the first priority get it all.
    pub(crate) is_plain: bool,
    /// For policies that hash.
    pub(crate) tables: Option<HashTables>,
}

/// The groups of the same hosts in the set before, and all hosts of that set.
#[derive(Clone, Copy)]
pub(crate) struct Before<'a> {
    pub(crate) groups: &'a HostGroups,
    pub(crate) hosts: &'a [Arc<Host>],
}

// === impl HostGroups ===

impl HostGroups {
    /// The groups of those of all hosts that are at `places`, which are in order.
    pub(super) fn new(all: Known<'_>, places: &[u32], layout: Layout<'_>, before: Option<Before<'_>>) -> Self {
        let mut priorities = Vec::with_capacity(1);
        let mut rest = places;
        // Envoy: a subset has as many priorities as the whole.
        let count = all.facts.hosts().last().map_or(1, |last| last.priority + 1);
        for priority in 0..count {
            let (here, later) = rest.split_at(rest.partition_point(|at| all.facts.at(*at).priority <= priority));
            rest = later;
            priorities.push(PriorityHosts::new(priority, all.facts, here, layout));
        }
        let abilities: Vec<_> = priorities.iter().map(PriorityHosts::ability).collect();
        let (load, in_panic) = PriorityLoad::distribute(&abilities, layout.panic_threshold);
        priorities.iter_mut().zip(in_panic).for_each(|(priority, in_panic)| priority.in_panic = in_panic);
        let is_plain = load.healthy[0] == 100 && !priorities[0].in_panic;
        let tables = layout.hashing.map(|hashing| HashTables::new(hashing, all.hosts, all.facts, &priorities, before));
        Self { priorities: priorities.into(), load, is_plain, tables }
    }

    /// Makes what workers would make for themselves, where it takes time.
    pub(super) fn prepare(&self, facts: &Facts) {
        if self.tables.is_some() {
            // Nobody takes turns.
            return;
        }
        for priority in &self.priorities {
            priority.healthy.first_turns(facts);
        }
    }

    /// Whether they can be those of another set, though workers begin anew there.
    pub(super) fn can_be_shared(&self) -> bool {
        self.priorities.iter().all(PriorityHosts::has_no_turns)
    }
}
