use std::sync::Arc;

use nuncio_config::cluster::{Endpoint, EndpointAddress, Health};
use nuncio_telemetry::Address;

use super::*;
use crate::host::Host;

fn set(weights: &[u32]) -> HostSet {
    let host = |weight: &u32| {
        let address: Address = "127.0.0.1:80".parse::<std::net::SocketAddr>().unwrap().into();
        let endpoint = Endpoint {
            address: EndpointAddress::Fixed(address.clone()),
            hostname: "".into(),
            weight: *weight,
            health: Health::Healthy,
            locality: None,
            metadata: None,
        };
        Arc::new(Host::new(&endpoint, address))
    };
    HostSet::new(weights.iter().map(host).collect(), 50)
}

fn shares(policy: LbPolicy, set: &HostSet, picks: usize) -> Vec<usize> {
    let rng = Rng::seeded(7);
    let lb = LoadBalancer::new(policy, set, &rng);
    let mut shares = vec![0; set.hosts.len()];
    for _ in 0..picks {
        shares[lb.pick(set, &rng).unwrap()] += 1;
    }
    shares
}

/// Whether `shares` are what chance gives at equal odds: chi-square below its value for p = 0.001 at 9 degrees.
fn is_uniform(shares: &[usize]) -> bool {
    assert_eq!(shares.len(), 10);
    let expected = shares.iter().sum::<usize>() as f64 / 10.0;
    shares.iter().map(|&s| (s as f64 - expected).powi(2) / expected).sum::<f64>() < 27.88
}

#[test]
fn round_robin_gives_each_host_the_same() {
    assert_eq!(shares(LbPolicy::RoundRobin, &set(&[1, 1, 1]), 300), [100, 100, 100]);
    assert_eq!(shares(LbPolicy::RoundRobin, &set(&[4, 4]), 300), [150, 150]);
}

#[test]
fn round_robin_follows_weights_and_spreads_them() {
    let set = set(&[1, 2, 7]);
    assert_eq!(shares(LbPolicy::RoundRobin, &set, 1000), [100, 200, 700]);
    let rng = Rng::seeded(1);
    let lb = LoadBalancer::new(LbPolicy::RoundRobin, &set, &rng);
    let picks: Vec<usize> = (0..100).map(|_| lb.pick(&set, &rng).unwrap()).collect();
    let longest = picks.chunk_by(|a, b| a == b).map(<[usize]>::len).max().unwrap();
    assert!(longest <= 5, "the heavy host's turns are spread: {picks:?}");
}

#[test]
fn workers_begin_at_different_hosts() {
    let set = set(&[1; 10]);
    let first = |seed| {
        let rng = Rng::seeded(seed);
        LoadBalancer::new(LbPolicy::RoundRobin, &set, &rng).pick(&set, &rng).unwrap()
    };
    let firsts: std::collections::BTreeSet<usize> = (0..50).map(first).collect();
    assert!(firsts.len() > 5, "{firsts:?}");
}

#[test]
fn random_is_uniform() {
    let shares = shares(LbPolicy::Random, &set(&[1; 10]), 10_000);
    assert!(is_uniform(&shares), "{shares:?}");
}

#[test]
fn least_request_is_uniform_among_idle_hosts() {
    let shares = shares(LbPolicy::LeastRequest { choices: 2 }, &set(&[1; 10]), 10_000);
    assert!(is_uniform(&shares), "{shares:?}");
}

#[test]
fn least_request_shuns_a_busy_host() {
    let set = set(&[1; 10]);
    set.hosts[3].stats.rq_active.inc();
    let shares = shares(LbPolicy::LeastRequest { choices: 2 }, &set, 10_000);
    // It is chosen only if it is drawn twice: 1 in 100.
    assert!((50..150).contains(&shares[3]), "{shares:?}");
}

#[test]
fn weighted_least_request_divides_by_the_load() {
    let set = set(&[1, 3]);
    assert_eq!(shares(LbPolicy::LeastRequest { choices: 2 }, &set, 400), [100, 300]);
    for _ in 0..2 {
        set.hosts[1].stats.rq_active.inc();
    }
    let shares = shares(LbPolicy::LeastRequest { choices: 2 }, &set, 400);
    assert!((195..=205).contains(&shares[0]), "{shares:?}");
}

#[test]
fn an_empty_set_has_nothing_to_pick() {
    let rng = Rng::seeded(1);
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest { choices: 2 }, LbPolicy::Random] {
        let set = set(&[]);
        assert_eq!(LoadBalancer::new(policy, &set, &rng).pick(&set, &rng), None);
    }
}
