//! `retry_priority`: retries go to priorities that were not tried yet.

use crate::host_set::{Ability, PriorityLoad};

/// `previous_priorities` for one request.
pub(super) struct PreviousPriorities {
    /// Attempts after which the load is worked out anew.
    frequency: usize,
    /// The priority of each attempt.
    attempted: Vec<usize>,
    /// By priority, whether it is passed over.
    excluded: Vec<bool>,
    load: Option<PriorityLoad>,
}

impl PreviousPriorities {
    pub(super) fn new(frequency: u32) -> Self {
        Self { frequency: frequency as usize, attempted: Vec::new(), excluded: Vec::new(), load: None }
    }

    /// An attempt goes to a host of this priority.
    pub(super) fn attempts(&mut self, priority: usize) {
        self.attempted.push(priority);
    }

    /// The load of the next attempt, by what the hosts of each priority can do; `None`: that of the hosts.
    pub(super) fn load(&mut self, abilities: &[Ability]) -> Option<&PriorityLoad> {
        if self.attempted.is_empty() || self.attempted.len() < self.frequency {
            return None;
        }
        if self.attempted.len().is_multiple_of(self.frequency) {
            self.exclude(abilities);
        }
        // Hosts may have changed since.
        self.load.as_ref().filter(|load| load.healthy.len() == abilities.len())
    }

    /// Leaves out all priorities that were tried; none, once nothing would be left.
    fn exclude(&mut self, abilities: &[Ability]) {
        self.excluded.resize(abilities.len(), false);
        for priority in &self.attempted {
            if let Some(excluded) = self.excluded.get_mut(*priority) {
                *excluded = true;
            }
        }
        self.load = distribute(abilities, &self.excluded);
        if self.load.is_none() {
            self.excluded.fill(false);
            self.attempted.clear();
            self.load = distribute(abilities, &self.excluded);
        }
    }
}

/// The load of the priorities that are not excluded, by what each can do of it; `None`: they can do nothing.
fn distribute(abilities: &[Ability], excluded: &[bool]) -> Option<PriorityLoad> {
    let able = |ability: fn(&Ability) -> u32| -> Vec<u32> {
        abilities.iter().zip(excluded).map(|(a, excluded)| if *excluded { 0 } else { ability(a) }).collect()
    };
    let (healthy, degraded) = (able(|a| a.health), able(|a| a.degraded_health));
    let total = healthy.iter().chain(&degraded).sum::<u32>().min(100);
    if total == 0 {
        return None;
    }
    let mut load = PriorityLoad { healthy: vec![0; healthy.len()].into(), degraded: vec![0; degraded.len()].into() };
    // What rounding leaves over goes round again, to the first that can take it.
    let mut left = 100;
    while left > 0 {
        let shares = load.healthy.iter_mut().zip(&healthy).chain(load.degraded.iter_mut().zip(&degraded));
        for (share, ability) in shares {
            let more = (ability * 100 / total).min(left);
            *share += more;
            left -= more;
        }
    }
    Some(load)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nuncio_config::cluster::Health;

    use super::*;
    use crate::testing::{OneCluster, cluster_config, fixed};

    /// Two hosts for each priority, which are healthy to this percentage.
    fn priorities(health: &[u32]) -> Arc<crate::host_set::HostSet> {
        let endpoints = (0..).zip(health).flat_map(|(priority, percent)| {
            [0, 50].map(|from| {
                let mut endpoint = fixed(([127, 0, 0, 1], 1).into());
                endpoint.priority = priority;
                endpoint.health = if *percent > from { Health::Healthy } else { Health::Unhealthy };
                endpoint
            })
        });
        let mut config = cluster_config("c", endpoints.collect());
        config.assignment.overprovisioning_factor = 100;
        OneCluster::new(config).clusters.snapshot().get(0).unwrap().hosts()
    }

    /// The healthy load of each attempt, where each goes to the first priority that has any.
    fn attempts(frequency: u32, health: &[u32], count: usize) -> Vec<Option<Vec<u32>>> {
        let hosts = priorities(health);
        let mut previous = PreviousPriorities::new(frequency);
        let mut loads = Vec::new();
        for _ in 0..count {
            let abilities: Vec<_> = hosts.groups.priorities.iter().map(|p| p.ability()).collect();
            let load = previous.load(&abilities).map(|load| load.healthy.to_vec());
            let first = |load: &[u32]| load.iter().position(|share| *share > 0).unwrap_or(0);
            previous.attempts(load.as_deref().map_or_else(|| first(&hosts.groups.load.healthy), first));
            loads.push(load);
        }
        loads
    }

    #[test]
    fn what_was_tried_is_left_out_until_nothing_is_left() {
        let expected = [None, Some(vec![0, 0, 100]), Some(vec![100, 0, 0]), Some(vec![0, 0, 100])];
        assert_eq!(attempts(1, &[100, 0, 50], 4), expected);
        assert_eq!(attempts(1, &[100, 50, 50], 2), [None, Some(vec![0, 50, 50])]);
    }

    #[test]
    fn the_load_is_worked_out_anew_every_so_often() {
        let expected = [None, None, Some(vec![0, 100]), Some(vec![0, 100])];
        assert_eq!(attempts(2, &[100, 100], 4), expected);
    }

    #[test]
    fn hosts_that_can_do_nothing_keep_their_load() {
        assert_eq!(attempts(1, &[0, 0], 3), [None, None, None]);
    }
}
