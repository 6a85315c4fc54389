//! Zone-aware routing: requests stay in the local zone as far as that gives no host more than its share.

use nuncio_config::cluster::{LocalityBasis, ZoneAware};

use super::LbEnv;
use crate::host_set::{HostGroups, HostSet, LocalityHosts};

/// Where the requests of the first priority go.
#[derive(Debug)]
pub(super) struct ZoneRouting {
    /// Percentage of requests that are routed so.
    enabled: u8,
    direction: Direction,
}

#[derive(Debug)]
enum Direction {
    /// To the local zone.
    Local,
    /// The local zone has too few hosts: some stay there.
    Spread {
        /// Of 10,000 requests.
        local: u64,
        /// For each locality, what it and those before it can take beside what comes from their own zones.
        room: Box<[u64]>,
    },
}

/// Where one request goes.
pub(super) enum ZoneChoice {
    /// To this locality.
    Locality(usize),
    Anywhere,
    /// Anywhere, since the cluster that this proxy is one of is in panic.
    LocalPanic,
}

/// Envoy calculates in hundredths of a percent.
const WHOLE: u64 = 10_000;

// === impl ZoneRouting ===

impl ZoneRouting {
    /// `None` where zones do not count.
    pub(super) fn new(config: &ZoneAware, env: LbEnv<'_>) -> Option<Self> {
        let local = env.local?;
        env.stats.lb_recalculate_zone_structures().inc();
        let (upstream, proxies) = (&env.groups.priorities[0], &local.groups.priorities[0]);
        if upstream.localities.len() < 2 || proxies.localities.len() < 2 {
            return None;
        }
        if !proxies.has_local {
            env.stats.lb_local_cluster_not_ok().inc();
            return None;
        }
        if (upstream.healthy.len() as u64) < env.rules.min_cluster_size.integer(config.min_cluster_size) {
            env.stats.lb_zone_cluster_too_small().inc();
            return None;
        }
        // Envoy: nothing is said with 0.
        let forced = env.rules.force_local_zone.set_integer().filter(|least| *least > 0);
        let forced = forced.or(config.force_local_zone.map(u64::from));
        let direction = Direction::new(config.basis, forced, env, local);
        Some(Self { enabled: config.routing_enabled, direction })
    }

    pub(super) fn choose(&self, env: LbEnv<'_>) -> ZoneChoice {
        if !env.rules.zone_routing.holds_for_percent(self.enabled.into(), || env.rng.u64()) {
            return ZoneChoice::Anywhere;
        }
        let panic_threshold = f64::from(env.rules.panic_threshold(env.panic_threshold));
        let proxies_in_panic =
            env.local.is_some_and(|local| local.groups.priorities[0].available_percent() < panic_threshold);
        if proxies_in_panic {
            env.stats.lb_local_cluster_not_ok().inc();
            return ZoneChoice::LocalPanic;
        }
        ZoneChoice::Locality(self.direction.choose(env))
    }
}

// === impl Direction ===

impl Direction {
    /// `forced`: with so many healthy hosts the local zone takes all.
    fn new(basis: LocalityBasis, forced: Option<u64>, env: LbEnv<'_>, local: &HostSet) -> Self {
        let upstream = &env.groups.priorities[0];
        let shares = Share::of_all(basis, env, local);
        let first = &shares[0];
        let is_forced = forced.is_some_and(|least| upstream.localities[0].healthy.len() as u64 >= least);
        if upstream.has_local && first.hosts > 0 && (is_forced || first.hosts >= first.proxies) {
            return Self::Local;
        }
        let local = match upstream.has_local && first.proxies > 0 {
            true => first.hosts * WHOLE / first.proxies,
            false => 0,
        };
        let mut room = 0;
        let room = shares.iter().enumerate().map(|(at, share)| {
            // The local zone has taken what it can.
            if at > 0 || !upstream.has_local {
                room += share.hosts.saturating_sub(share.proxies);
            }
            room
        });
        Self::Spread { local, room: room.collect() }
    }

    fn choose(&self, env: LbEnv<'_>) -> usize {
        let stats = env.stats;
        let (local, room) = match self {
            Self::Local => {
                stats.lb_zone_routing_all_directly().inc();
                return 0;
            }
            Self::Spread { local, room } => (*local, room),
        };
        if env.rng.below(WHOLE) < local {
            stats.lb_zone_routing_sampled().inc();
            return 0;
        }
        stats.lb_zone_routing_cross_zone().inc();
        match room.last() {
            None | Some(0) => {
                // Shares are rounded down, so that there may be no room left.
                stats.lb_zone_no_capacity_left().inc();
                env.rng.below(room.len().max(1) as u64) as usize
            }
            Some(all) => {
                let wanted = env.rng.below(*all);
                room.partition_point(|room| *room <= wanted)
            }
        }
    }
}

/// What a locality has of all healthy hosts of the cluster, and of all of the local cluster, of 10,000.
#[derive(Debug, PartialEq, Eq)]
struct Share {
    hosts: u64,
    proxies: u64,
}

// === impl Share ===

impl Share {
    fn of_all(basis: LocalityBasis, env: LbEnv<'_>, local: &HostSet) -> Vec<Self> {
        let size = |set: &HostSet, locality: &LocalityHosts| match basis {
            LocalityBasis::HealthyHosts => locality.healthy.len() as u64,
            LocalityBasis::HealthyWeight => {
                locality.healthy.places().iter().map(|place| u64::from(set.facts.at(*place).weight)).sum()
            }
        };
        let total = |set: &HostSet, groups: &HostGroups| -> u64 {
            groups.priorities[0].localities.iter().map(|l| size(set, l)).sum()
        };
        let (all_hosts, all_proxies) = (total(env.set, env.groups), total(local, &local.groups));
        let of = |part: u64, all: u64| (WHOLE * part).checked_div(all).unwrap_or(0);
        let share = |locality: &LocalityHosts| {
            let hosts = size(env.set, locality);
            if locality.healthy.is_empty() {
                return Self { hosts: 0, proxies: 0 };
            }
            let proxies = local.groups.priorities[0].localities.iter().find(|l| l.locality == locality.locality);
            Self { hosts: of(hosts, all_hosts), proxies: of(proxies.map_or(0, |l| size(local, l)), all_proxies) }
        };
        env.groups.priorities[0].localities.iter().map(share).collect()
    }
}
