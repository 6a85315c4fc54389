use std::sync::Arc;

use nuncio_config::bootstrap::LocalCluster;
use nuncio_config::cluster::{ClusterConfig, Endpoint, Health, LeastRequest, Locality, LocalityWeight};
use nuncio_telemetry::stats::Store;

use super::*;

mod distribution;
mod override_host;
mod slow_start;
use crate::cluster::Cluster;
use crate::testing::{cluster_config, fixed};

/// A cluster with one worker's balancer.
struct Fixture {
    cluster: Cluster,
    /// The cluster that the proxy is one of.
    local: Option<Cluster>,
    rng: Rng,
    clock: Clock,
}

impl Fixture {
    fn new(policy: LbPolicy, weights: &[u32]) -> Self {
        let endpoint = |weight: &u32| Endpoint { weight: *weight, ..fixed(([127, 0, 0, 1], 80).into()) };
        Self::of(ClusterConfig { lb: policy, ..cluster_config("c", weights.iter().map(endpoint).collect()) })
    }

    fn of(config: ClusterConfig) -> Self {
        Self {
            cluster: Cluster::new(config, &Store::new(), None),
            local: None,
            rng: Rng::seeded(7),
            clock: Clock::default(),
        }
    }

    fn picks(&self, cx: &PickContext<'_>, count: usize) -> Vec<usize> {
        let set = self.cluster.hosts();
        let local = self.local.as_ref().map(Cluster::hosts);
        let env = LbEnv {
            set: &set,
            groups: &set.groups,
            local: local.as_deref(),
            panic_threshold: self.cluster.config.common_lb.panic_threshold,
            rules: &self.cluster.rules,
            slow_start: self.cluster.config.slow_start.as_deref(),
            clock: &self.clock,
            rng: &self.rng,
            stats: &self.cluster.stats,
        };
        let lb = Balancer::new(&self.cluster.config, env);
        (0..count).filter_map(|_| lb.pick(&self.cluster.config, cx, env)).collect()
    }

    fn shares(&self, count: usize) -> Vec<usize> {
        let mut shares = vec![0; self.cluster.hosts().hosts.len()];
        for place in self.picks(&PickContext::default(), count) {
            shares[place] += 1;
        }
        shares
    }
}

fn shares(policy: LbPolicy, weights: &[u32], picks: usize) -> Vec<usize> {
    Fixture::new(policy, weights).shares(picks)
}

/// Whether `shares` are what chance gives at equal odds: chi-square below its value for p = 0.001 at 9 degrees.
fn is_uniform(shares: &[usize]) -> bool {
    assert_eq!(shares.len(), 10);
    let expected = shares.iter().sum::<usize>() as f64 / 10.0;
    shares.iter().map(|&s| (s as f64 - expected).powi(2) / expected).sum::<f64>() < 27.88
}

#[test]
fn round_robin_gives_each_host_the_same() {
    assert_eq!(shares(LbPolicy::RoundRobin, &[1, 1, 1], 300), [100, 100, 100]);
    assert_eq!(shares(LbPolicy::RoundRobin, &[4, 4], 300), [150, 150]);
}

#[test]
fn round_robin_follows_weights_and_spreads_them() {
    let f = Fixture::new(LbPolicy::RoundRobin, &[1, 2, 7]);
    assert_eq!(f.shares(1000), [100, 200, 700]);
    let picks = f.picks(&PickContext::default(), 100);
    let longest = picks.chunk_by(|a, b| a == b).map(<[usize]>::len).max().unwrap();
    assert!(longest <= 5, "the heavy host's turns are spread: {picks:?}");
}

#[test]
fn workers_begin_at_different_hosts() {
    let f = Fixture::new(LbPolicy::RoundRobin, &[1; 10]);
    let firsts: std::collections::BTreeSet<usize> = (0..50).map(|_| f.picks(&PickContext::default(), 1)[0]).collect();
    assert!(firsts.len() > 5, "{firsts:?}");
}

#[test]
fn random_is_uniform() {
    let shares = shares(LbPolicy::Random, &[1; 10], 10_000);
    assert!(is_uniform(&shares), "{shares:?}");
}

#[test]
fn least_request_is_uniform_among_idle_hosts() {
    let shares = shares(LbPolicy::LeastRequest(LeastRequest::default()), &[1; 10], 10_000);
    assert!(is_uniform(&shares), "{shares:?}");
}

#[test]
fn least_request_shuns_a_busy_host() {
    let f = Fixture::new(LbPolicy::LeastRequest(LeastRequest::default()), &[1; 10]);
    f.cluster.hosts().hosts[3].stats.rq_active.inc();
    let shares = f.shares(10_000);
    // It is chosen only if it is drawn twice: 1 in 100.
    assert!((50..150).contains(&shares[3]), "{shares:?}");
}

#[test]
fn weighted_least_request_divides_by_the_load() {
    let f = Fixture::new(LbPolicy::LeastRequest(LeastRequest::default()), &[1, 3]);
    assert_eq!(f.shares(400), [100, 300]);
    for _ in 0..2 {
        f.cluster.hosts().hosts[1].stats.rq_active.inc();
    }
    let shares = f.shares(400);
    assert!((195..=205).contains(&shares[0]), "{shares:?}");
}

#[test]
fn an_empty_set_has_nothing_to_pick() {
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest(LeastRequest::default()), LbPolicy::Random] {
        assert_eq!(shares(policy, &[], 10), [] as [usize; 0]);
    }
}

/// Hosts of two priorities: 0 to 9 and 10 to 19, of which so many are healthy.
fn failing_over(healthy: [usize; 2], threshold: u8) -> Fixture {
    let endpoint = |n: u16| {
        let (priority, at) = (u32::from(n / 10), usize::from(n % 10));
        let health = if at < healthy[priority as usize] { Health::Healthy } else { Health::Unhealthy };
        Endpoint { priority, health, ..fixed(([127, 0, 0, 1], n).into()) }
    };
    let mut config = cluster_config("c", (0..20).map(endpoint).collect());
    config.common_lb.panic_threshold = threshold;
    Fixture::of(config)
}

#[test]
fn requests_follow_the_load_of_the_priorities() {
    // 5 of 10 can do 70 %.
    let shares = failing_over([5, 10], 50).shares(10_000);
    let first: usize = shares[..5].iter().sum();
    assert!((6_800..7_200).contains(&first), "{shares:?}");
    assert_eq!(shares[5..10].iter().sum::<usize>(), 0, "the unhealthy are left alone: {shares:?}");
    assert_eq!(first + shares[10..].iter().sum::<usize>(), 10_000);
}

#[test]
fn a_priority_in_panic_uses_all_its_hosts_and_counts_it() {
    // 28 % and 56 % are 84 % together: the first gets a third of the load, and panics.
    let f = failing_over([2, 4], 30);
    let shares = f.shares(9_000);
    assert!(shares[..10].iter().all(|share| *share > 0), "{shares:?}");
    assert!(shares[14..].iter().all(|share| *share == 0), "{shares:?}");
    let panics = f.cluster.stats.lb_healthy_panic().value() as usize;
    assert_eq!(panics, shares[..10].iter().sum::<usize>());
}

#[test]
fn traffic_may_rather_fail_than_go_anywhere() {
    let mut f = failing_over([0, 0], 50);
    assert_eq!(f.picks(&PickContext::default(), 10).len(), 10);
    f.cluster.config.locality_lb =
        LocalityLb::ZoneAware(nuncio_config::cluster::ZoneAware { fail_traffic_on_panic: true, ..Default::default() });
    assert_eq!(f.picks(&PickContext::default(), 10), [0_usize; 0]);
    assert_eq!(f.cluster.stats.lb_healthy_panic().value(), 20);
}

#[test]
fn a_request_may_have_a_load_of_its_own() {
    let load = PriorityLoad { healthy: [0, 100].into(), degraded: [0, 0].into() };
    let f = failing_over([10, 10], 50);
    let picks = f.picks(&PickContext { load: Some(&load), ..PickContext::default() }, 100);
    assert!(picks.iter().all(|place| *place >= 10), "{picks:?}");
}

#[test]
fn avoided_hosts_are_passed_over_while_selections_last() {
    let f = Fixture::new(LbPolicy::RoundRobin, &[1, 1, 1]);
    let hosts = f.cluster.hosts().hosts.clone();
    let is_avoided = |host: &Host| !std::ptr::eq(host, &*hosts[1]);
    let pick = |selections| {
        let avoid = Some(Avoid { is_avoided: &is_avoided, selections });
        f.picks(&PickContext { avoid, ..PickContext::default() }, 30)
    };
    assert!(pick(2).iter().all(|place| *place == 1));
    assert!(pick(1).iter().any(|place| *place != 1));
}

#[test]
fn a_change_of_health_counts_once_it_is_told() {
    let f = Fixture::new(LbPolicy::RoundRobin, &[1, 1, 1]);
    let host = f.cluster.hosts().hosts[1].clone();
    assert!(host.set_flag(crate::HealthFlag::FailedActiveHc));
    assert_eq!(f.shares(30), [10, 10, 10]);
    f.cluster.update_health();
    assert_eq!(f.shares(30), [15, 0, 15]);
    assert_eq!(f.cluster.stats.membership_healthy().value(), 2);
    assert_eq!(f.cluster.stats.membership_change().value(), 1);
    assert!(host.clear_flag(crate::HealthFlag::FailedActiveHc));
    f.cluster.update_health();
    assert_eq!(f.shares(30), [10, 10, 10]);
}

/// Two hosts in each zone, the first `unhealthy` of all of which are unhealthy.
fn zones(weights: &[(&str, Option<u32>)], unhealthy: usize) -> Fixture {
    let locality = |zone: &str| Some(Arc::new(Locality { zone: zone.into(), ..Locality::default() }));
    let mut endpoints = Vec::new();
    for (zone, _) in weights.iter().flat_map(|zone| [zone; 2]) {
        let health = if endpoints.len() < unhealthy { Health::Unhealthy } else { Health::Healthy };
        let at = ([127, 0, 0, 1], 80).into();
        endpoints.push(Endpoint { locality: locality(zone), health, ..fixed(at) });
    }
    let weighted = weights.iter().filter_map(|(zone, weight)| Some((zone, (*weight)?)));
    let weights = weighted.map(|(zone, weight)| LocalityWeight { locality: locality(zone), priority: 0, weight });
    let mut config = cluster_config("c", endpoints);
    config.assignment.locality_weights = weights.collect();
    config.locality_lb = LocalityLb::Weighted;
    Fixture::of(config)
}

#[test]
fn localities_share_the_load_by_weight() {
    assert_eq!(zones(&[("a", Some(1)), ("b", Some(3))], 0).shares(400), [50, 50, 150, 150]);
    assert_eq!(zones(&[("a", Some(1)), ("b", None)], 0).shares(100), [50, 50, 0, 0], "without weight there is no load");
    assert_eq!(zones(&[("a", None), ("b", None)], 0).shares(100), [25; 4], "without weights localities do not count");
}

#[test]
fn a_locality_with_unhealthy_hosts_gets_less() {
    // One of two is healthy: 70 % of its weight.
    let shares = zones(&[("a", Some(1)), ("b", Some(1))], 1).shares(1_700);
    assert_eq!(shares[0], 0);
    assert!((699..=701).contains(&shares[1]), "{shares:?}");
    assert_eq!(zones(&[("a", Some(1)), ("b", Some(1))], 2).shares(100), [0, 0, 50, 50]);
}

/// Hosts in zones `a`, `b` and so on.
fn zoned(hosts: &[usize]) -> Cluster {
    let mut endpoints = Vec::new();
    for (zone, count) in "abcdef".chars().zip(hosts) {
        let locality = Arc::new(Locality { zone: zone.to_string().into(), ..Locality::default() });
        let endpoint = Endpoint { locality: Some(locality), ..fixed(([127, 0, 0, 1], 80).into()) };
        endpoints.extend(std::iter::repeat_n(endpoint, *count));
    }
    let name = cluster_config("local", Vec::new()).name;
    let locality = Some(Locality { zone: "a".into(), ..Locality::default() });
    Cluster::new(cluster_config("c", endpoints), &Store::new(), Some(Arc::new(LocalCluster { name, locality })))
}

/// How many of 10,000 requests go to each zone.
fn zone_shares(hosts: &[usize], proxies: &[usize]) -> (Fixture, Vec<usize>) {
    let f =
        Fixture { cluster: zoned(hosts), local: Some(zoned(proxies)), rng: Rng::seeded(3), clock: Clock::default() };
    let shares = f.shares(10_000);
    let mut first = 0;
    let zones = hosts.iter().map(|count| {
        first += count;
        shares[first - count..first].iter().sum()
    });
    let zones = zones.collect();
    (f, zones)
}

/// As `is_uniform`, for any shares and up to 5 degrees of freedom.
fn is_as(shares: &[usize], expected: &[f64]) -> bool {
    let total = shares.iter().sum::<usize>() as f64 / expected.iter().sum::<f64>();
    let terms = shares.iter().zip(expected).map(|(&s, e)| match e * total {
        0.0 => {
            if s == 0 {
                0.0
            } else {
                f64::INFINITY
            }
        }
        e => (s as f64 - e).powi(2) / e,
    });
    terms.sum::<f64>() < 20.52
}

#[test]
fn requests_stay_in_the_local_zone_while_it_has_its_share_of_hosts() {
    let (f, zones) = zone_shares(&[4, 2], &[1, 1]);
    assert_eq!(zones, [10_000, 0]);
    assert_eq!(f.cluster.stats.lb_zone_routing_all_directly().value(), 10_000);
}

#[test]
fn a_zone_with_too_few_hosts_sends_the_rest_where_there_is_room() {
    // 40, 40 and 20 % of the proxies stand where 25, 50 and 25 % of the hosts do: 62.5 % stay, and the rest goes to the
    // others as 10 to 5.
    let (f, zones) = zone_shares(&[2, 4, 2], &[2, 2, 1]);
    assert!(is_as(&zones, &[0.625, 0.25, 0.125]), "{zones:?}");
    let stats = &f.cluster.stats;
    assert_eq!(stats.lb_zone_routing_sampled().value() as usize, zones[0]);
    assert_eq!(stats.lb_zone_routing_cross_zone().value() as usize, 10_000 - zones[0]);
}

#[test]
fn a_zone_without_hosts_sends_all_where_there_is_room() {
    let (_, zones) = zone_shares(&[0, 2, 6], &[2, 1, 1]);
    assert!(is_as(&zones, &[0.0, 0.0, 1.0]), "zone b has 25 % of both: {zones:?}");
    let (_, zones) = zone_shares(&[0, 3, 3], &[2, 1, 1]);
    assert!(is_as(&zones, &[0.0, 0.5, 0.5]), "{zones:?}");
}
