//! Load balancing: which of the hosts that may be chosen gets a request. State belongs to one worker.

mod aggregate;
mod edf;
pub(crate) mod forward_proxy;
mod hashing;
mod load_aware;
mod original_dst;
mod override_host;
mod picker;
mod provided;
mod slow_start;
mod subset;
mod zone;

use std::cell::{OnceCell, RefCell};

use http::HeaderValue;
use nuncio_config::cluster::{ClusterConfig, LbPolicy, LocalityLb, SlowStart};
use nuncio_config::metadata::MetadataMatch;
use nuncio_filter_api::{Clock, RequestHead, Rng};
use nuncio_telemetry::stats::catalogue::ClusterStats;
use nuncio_telemetry::{StreamInfo, WantedHost};

use crate::host::Host;
use crate::host_set::{Availability, Candidates, HostGroups, HostSet, PriorityHosts, PriorityLoad};
use crate::runtime::RuntimeRules;
use edf::Edf;
pub(crate) use edf::{Turn, first_turns};
pub(crate) use hashing::HashTables;
use load_aware::Kind;
pub(crate) use load_aware::{LocalityLoad, LocalityShares};
pub(crate) use override_host::{NoHost, wanted};
use picker::Picker;
pub(crate) use provided::{ClusterBalancer, provided};
use subset::SubsetBalancer;
use zone::{ZoneChoice, ZoneRouting};

/// How a host of a cluster is chosen: over all of one [`HostSet`], or over its subsets. A new set gets a new one.
#[derive(Debug)]
pub(crate) enum Balancer {
    All(LoadBalancer),
    Subsets(SubsetBalancer),
}

/// A load balancer over one [`HostSet`].
#[derive(Debug)]
pub(crate) struct LoadBalancer {
    policy: LbPolicy,
    fail_traffic_on_panic: bool,
    /// Whether a locality is chosen first, by weight.
    by_locality: bool,
    /// Whether a locality is chosen first, by what its hosts can take.
    by_load: bool,
    /// For the first priority, where the local zone is preferred.
    zone: Option<ZoneRouting>,
    /// Whether the healthy hosts of the first priority get it all, wherever they are.
    is_plain: bool,
    /// As `HostGroups::priorities`.
    priorities: Box<[PriorityPickers]>,
}

/// Those of one priority, each made when it is first used.
#[derive(Debug)]
struct PriorityPickers {
    all: HealthPickers,
    healthy: HealthPickers,
    degraded: HealthPickers,
}

/// Those of the hosts of one priority that are as healthy as each other.
#[derive(Debug)]
struct HealthPickers {
    hosts: OnceCell<Picker>,
    /// By weight, where there are localities that have one.
    schedule: OnceCell<Option<RefCell<Edf>>>,
    /// As `PriorityHosts::localities`.
    localities: Box<[OnceCell<Picker>]>,
}

/// What a request asks of the host that is chosen for it. The default asks for nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct PickContext<'a> {
    /// What the route's hash policies made of the request.
    pub(crate) hash: Option<u64>,
    /// What the route asks of the metadata of the host.
    pub(crate) metadata: Option<&'a MetadataMatch>,
    /// Hosts that are passed over where another comes up.
    pub(crate) avoid: Option<Avoid<'a>>,
    /// The share of the load of each priority, instead of that of the host set.
    pub(crate) load: Option<&'a PriorityLoad>,
    /// The host that a filter wants for the request.
    pub(crate) wanted: Option<&'a WantedHost>,
    /// The request itself.
    pub(crate) head: Option<&'a RequestHead>,
    /// The record of its stream.
    pub(crate) info: Option<&'a StreamInfo>,
    /// Where cookies go that the client is told to bring next time.
    pub(crate) cookies: Option<&'a RefCell<Vec<HeaderValue>>>,
}

/// Hosts that are passed over where another comes up.
#[derive(Clone, Copy)]
pub(crate) struct Avoid<'a> {
    /// Whether a host is one of them.
    pub(crate) is_avoided: &'a dyn Fn(&Host) -> bool,
    /// How often another is looked for.
    pub(crate) selections: u32,
}

/// What balancing draws on.
#[derive(Clone, Copy)]
pub(crate) struct LbEnv<'a> {
    pub(crate) set: &'a HostSet,
    /// Those of its hosts that are chosen from: of all, or of a subset.
    pub(crate) groups: &'a HostGroups,
    /// The hosts of the cluster that this proxy is one of, where there is one.
    pub(crate) local: Option<&'a HostSet>,
    pub(crate) panic_threshold: u8,
    pub(crate) rules: &'a RuntimeRules,
    pub(crate) slow_start: Option<&'a SlowStart>,
    pub(crate) clock: &'a Clock,
    pub(crate) rng: &'a Rng,
    pub(crate) stats: &'a ClusterStats,
}

// === impl Balancer ===

impl Balancer {
    /// For hosts as they are now.
    pub(crate) fn new(config: &ClusterConfig, env: LbEnv<'_>) -> Self {
        match &env.set.subsets {
            Some(subsets) => Self::Subsets(SubsetBalancer::new(subsets)),
            None => Self::All(LoadBalancer::new(config, env)),
        }
    }

    /// The place in `set.hosts` of the host for the next request; `None` if there is none to choose from.
    pub(crate) fn pick(&self, config: &ClusterConfig, cx: &PickContext<'_>, env: LbEnv<'_>) -> Option<usize> {
        let Some(named) = config.override_host.as_deref() else { return self.pick_any(config, cx, env) };
        let place = override_host::named(named, cx, env.set).or_else(|| self.pick_any(config, cx, env))?;
        override_host::tell(named, cx, env.set, place);
        Some(place)
    }

    fn pick_any(&self, config: &ClusterConfig, cx: &PickContext<'_>, env: LbEnv<'_>) -> Option<usize> {
        match (self, &config.subset, &env.set.subsets) {
            (Self::Subsets(balancer), Some(subset), Some(subsets)) => balancer.pick(config, subset, subsets, cx, env),
            (Self::All(balancer), ..) => balancer.pick(cx, env),
            // A set has subsets where the configuration asks for them, and the balancer is made for it.
            (Self::Subsets(_), ..) => None,
        }
    }
}

// === impl LoadBalancer ===

impl LoadBalancer {
    /// For hosts as they are now.
    pub(crate) fn new(config: &ClusterConfig, env: LbEnv<'_>) -> Self {
        let (zone, fail_traffic_on_panic) = match &config.locality_lb {
            LocalityLb::ZoneAware(zone) => (ZoneRouting::new(zone, env), zone.fail_traffic_on_panic),
            LocalityLb::Weighted | LocalityLb::LoadAware(_) => (None, false),
        };
        let by_locality = config.locality_lb == LocalityLb::Weighted;
        let by_load = config.locality_lb.load_aware().is_some();
        Self {
            policy: config.lb.clone(),
            fail_traffic_on_panic,
            by_locality,
            by_load,
            is_plain: env.groups.is_plain && !by_locality && !by_load && zone.is_none(),
            zone,
            priorities: env.groups.priorities.iter().map(PriorityPickers::new).collect(),
        }
    }

    /// The place in `set.hosts` of the host for the next request; `None` if there is none to choose from.
    pub(crate) fn pick(&self, cx: &PickContext<'_>, env: LbEnv<'_>) -> Option<usize> {
        if let Some(tables) = &env.groups.tables {
            return tables.pick(cx, env);
        }
        let mut place = self.pick_once(cx, env)?;
        if let Some(Avoid { is_avoided, selections }) = cx.avoid {
            for _ in 0..selections {
                if !is_avoided(&env.set.hosts[place]) {
                    break;
                }
                place = self.pick_once(cx, env)?;
            }
        }
        Some(place)
    }

    fn pick_once(&self, cx: &PickContext<'_>, env: LbEnv<'_>) -> Option<usize> {
        let (candidates, picker) = match self.is_plain && cx.load.is_none() {
            true => (&env.groups.priorities[0].healthy, &self.priorities[0].healthy.hosts),
            false => self.source(cx, env)?,
        };
        let place = match candidates.places() {
            [] => return None,
            [only] => *only,
            _ => picker.get_or_init(|| Picker::new(&self.policy, candidates, env)).pick(candidates, env),
        };
        Some(place as usize)
    }

    /// The hosts among which the next request's is chosen. `None`: no host rather than any.
    fn source<'a>(&'a self, cx: &PickContext<'_>, env: LbEnv<'a>) -> Option<(&'a Candidates, &'a OnceCell<Picker>)> {
        let load = cx.load.unwrap_or(&env.groups.load);
        let (priority, availability) = load.choose(env.rng.u64());
        let (hosts, pickers) = (&env.groups.priorities[priority], &self.priorities[priority]);
        if hosts.in_panic {
            env.stats.lb_healthy_panic().inc();
            if let Some(at) = self.locality_by_load(priority, Kind::All, env) {
                return Some((&hosts.localities[at].all, &pickers.all.localities[at]));
            }
            return (!self.fail_traffic_on_panic).then_some((&hosts.all, &pickers.all.hosts));
        }
        let pickers = pickers.of(availability);
        let locality = match (&self.zone, priority) {
            _ if self.by_locality => pickers.choose_locality(hosts, availability, env.rng),
            _ if self.by_load => self.locality_by_load(priority, availability.into(), env),
            (Some(zone), 0) => match zone.choose(env) {
                ZoneChoice::Locality(at) => Some(at),
                ZoneChoice::Anywhere => None,
                ZoneChoice::LocalPanic if self.fail_traffic_on_panic => return None,
                ZoneChoice::LocalPanic => None,
            },
            _ => None,
        };
        Some(match locality {
            Some(at) => (hosts.localities[at].of(availability), &pickers.localities[at]),
            None => (hosts.of(availability), &pickers.hosts),
        })
    }

    /// The place of a locality that is chosen by what its hosts can take. `None` where none is.
    fn locality_by_load(&self, priority: usize, kind: Kind, env: LbEnv<'_>) -> Option<usize> {
        if !self.by_load {
            return None;
        }
        env.set.shares.load().as_ref()?.choose(priority, kind, env.rng)
    }
}

// === impl PriorityPickers ===

impl PriorityPickers {
    fn new(hosts: &PriorityHosts) -> Self {
        Self { all: HealthPickers::new(hosts), healthy: HealthPickers::new(hosts), degraded: HealthPickers::new(hosts) }
    }

    fn of(&self, availability: Availability) -> &HealthPickers {
        match availability {
            Availability::Healthy => &self.healthy,
            Availability::Degraded => &self.degraded,
        }
    }
}

// === impl HealthPickers ===

impl HealthPickers {
    fn new(hosts: &PriorityHosts) -> Self {
        let localities = hosts.localities.iter().map(|_| OnceCell::new()).collect();
        Self { hosts: OnceCell::new(), schedule: OnceCell::new(), localities }
    }

    /// The place in `hosts.localities` of the next. `None` where none has a weight and a host.
    fn choose_locality(&self, hosts: &PriorityHosts, availability: Availability, rng: &Rng) -> Option<usize> {
        let weight = |at: u32| {
            let locality = &hosts.localities[at as usize];
            locality.effective_weight(locality.of(availability))
        };
        let schedule = self.schedule.get_or_init(|| {
            let weighted: Vec<u32> = (0..hosts.localities.len() as u32).filter(|at| weight(*at) > 0.0).collect();
            (!weighted.is_empty()).then(|| RefCell::new(Edf::starting_anywhere(&weighted, weight, rng)))
        });
        schedule.as_ref().map(|schedule| schedule.borrow_mut().next(weight) as usize)
    }
}

#[cfg(test)]
mod tests;
