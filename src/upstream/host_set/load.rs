/// How much of the load goes to each priority, in percent; together 100.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriorityLoad {
    /// To the healthy hosts of each.
    pub healthy: Box<[u32]>,
    /// To the degraded hosts of each.
    pub degraded: Box<[u32]>,
}

/// What the hosts of one priority can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ability {
    /// How much of what is asked of them the healthy ones can do, in percent, at most 100.
    pub(crate) health: u32,
    /// The same for the degraded ones.
    pub(crate) degraded_health: u32,
    /// Number of all.
    pub(crate) hosts: usize,
    /// The percentage of those that are healthy or degraded.
    pub(crate) available_percent: f64,
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
    pub(crate) fn distribute(abilities: &[Ability], panic_threshold: u8) -> (Self, Box<[bool]>) {
        let available = available(abilities);
        let mut load = Self { healthy: vec![0; abilities.len()].into(), degraded: vec![0; abilities.len()].into() };
        let mut in_panic: Box<[bool]> = vec![false; abilities.len()].into();
        if available > 0 {
            load.spread(abilities, available);
        }
        if available == 0 && panic_threshold == 0 {
            // Nobody can be chosen, but a load adds up to 100.
            load.healthy[0] = 100;
        } else if available < 100 {
            // Where the priorities together can do it all, none panics.
            for (in_panic, ability) in in_panic.iter_mut().zip(abilities) {
                *in_panic = ability.available_percent < f64::from(panic_threshold);
            }
            if in_panic.iter().all(|in_panic| *in_panic) {
                load.spread_by_size(abilities);
            }
        }
        (load, in_panic)
    }

    /// All of it to hosts of this kind of one of `count` priorities.
    pub(crate) fn all_to(priority: usize, availability: Availability, count: usize) -> Self {
        let mut load = Self { healthy: vec![0; count].into(), degraded: vec![0; count].into() };
        match availability {
            Availability::Healthy => load.healthy[priority] = 100,
            Availability::Degraded => load.degraded[priority] = 100,
        }
        load
    }

    fn spread(&mut self, abilities: &[Ability], available: u32) {
        let mut left = 100;
        let mut take = |load: &mut [u32], health: &dyn Fn(&Ability) -> u32| {
            for (load, ability) in load.iter_mut().zip(abilities) {
                *load = (health(ability) * 100 / available).min(left);
                left -= *load;
            }
        };
        take(&mut self.healthy, &|a| a.health);
        take(&mut self.degraded, &|a| a.degraded_health);
        // What rounding left over goes to the first that can take something.
        match abilities.iter().position(|a| a.health > 0) {
            Some(first) => self.healthy[first] += left,
            None => {
                if let Some(first) = abilities.iter().position(|a| a.degraded_health > 0) {
                    self.degraded[first] += left;
                }
            }
        }
    }

    /// All priorities are in panic: each gets what its number of hosts is of the number of all.
    fn spread_by_size(&mut self, abilities: &[Ability]) {
        self.degraded.fill(0);
        let total: usize = abilities.iter().map(|a| a.hosts).sum();
        if total == 0 {
            self.healthy[0] = 100;
            return;
        }
        let mut left = 100;
        for (load, ability) in self.healthy.iter_mut().zip(abilities) {
            *load = (100 * ability.hosts / total) as u32;
            left -= *load;
        }
        if let Some(first) = abilities.iter().position(|a| a.hosts > 0) {
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
fn available(abilities: &[Ability]) -> u32 {
    abilities.iter().map(|a| a.health + a.degraded_health).sum::<u32>().min(100)
}
