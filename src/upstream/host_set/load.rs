use super::PriorityHosts;

/// How much of the load goes to each priority, in percent; together 100.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriorityLoad {
    /// To the healthy hosts of each.
    pub healthy: Box<[u32]>,
    /// To the degraded hosts of each.
    pub degraded: Box<[u32]>,
}

/// Which hosts of a priority a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Healthy,
    Degraded,
}

// === impl PriorityLoad ===

impl PriorityLoad {
    /// Works out the load, and which of the priorities are in panic. The healthy hosts of each priority take as much as
    /// they can, in order, then the degraded ones; what they can is scaled up where it is less than all.
    pub(super) fn distribute(priorities: &mut [PriorityHosts], panic_threshold: u8) -> Self {
        let available = available(priorities);
        let mut load = Self { healthy: vec![0; priorities.len()].into(), degraded: vec![0; priorities.len()].into() };
        if available > 0 {
            load.spread(priorities, available);
        }
        if available == 0 && panic_threshold == 0 {
            // Nobody can be chosen, but a load adds up to 100.
            load.healthy[0] = 100;
        } else if available < 100 {
            // Where the priorities together can do it all, none panics.
            for priority in priorities.iter_mut() {
                priority.in_panic = priority.available_percent() < f64::from(panic_threshold);
            }
            if priorities.iter().all(|p| p.in_panic) {
                load.spread_by_size(priorities);
            }
        }
        load
    }

    fn spread(&mut self, priorities: &[PriorityHosts], available: u32) {
        let mut left = 100;
        let mut take = |load: &mut [u32], health: &dyn Fn(&PriorityHosts) -> u32| {
            for (load, priority) in load.iter_mut().zip(priorities) {
                *load = (health(priority) * 100 / available).min(left);
                left -= *load;
            }
        };
        take(&mut self.healthy, &|p| p.health);
        take(&mut self.degraded, &|p| p.degraded_health);
        // What rounding left over goes to the first that can take something.
        match priorities.iter().position(|p| p.health > 0) {
            Some(first) => self.healthy[first] += left,
            None => {
                if let Some(first) = priorities.iter().position(|p| p.degraded_health > 0) {
                    self.degraded[first] += left;
                }
            }
        }
    }

    /// All priorities are in panic: each gets what its number of hosts is of the number of all.
    fn spread_by_size(&mut self, priorities: &[PriorityHosts]) {
        self.degraded.fill(0);
        let total: usize = priorities.iter().map(|p| p.all.len()).sum();
        if total == 0 {
            self.healthy[0] = 100;
            return;
        }
        let mut left = 100;
        for (load, priority) in self.healthy.iter_mut().zip(priorities) {
            *load = (100 * priority.all.len() / total) as u32;
            left -= *load;
        }
        if let Some(first) = priorities.iter().position(|p| !p.all.is_empty()) {
            self.healthy[first] += left;
        }
    }

    /// The priority and kind of hosts for a request. `hash` is random or that of the request.
    pub(crate) fn choose(&self, hash: u64) -> (usize, Availability) {
        let wanted = (hash % 100) as u32 + 1;
        let mut reached = 0;
        for (load, availability) in [(&self.healthy, Availability::Healthy), (&self.degraded, Availability::Degraded)] {
            for (priority, share) in load.iter().enumerate() {
                reached += share;
                if wanted <= reached {
                    return (priority, availability);
                }
            }
        }
        // A load that does not add up was none of ours.
        (0, Availability::Healthy)
    }
}

/// How much the priorities can do together, in percent, at most 100.
fn available(priorities: &[PriorityHosts]) -> u32 {
    priorities.iter().map(|p| p.health + p.degraded_health).sum::<u32>().min(100)
}
