//! Shares of many requests held against the exact ones, by chi-square where chance plays a part.

use std::time::Duration;

use nuncio_config::cluster::SlowStart;
use tokio::time::advance;

use super::*;
use crate::testing::load_aware;

/// Six hosts with these weights and healths, two in each of three zones with these weights.
fn six(weights: [u32; 6], health: [Health; 6], zones: Option<[u32; 3]>) -> ClusterConfig {
    let locality = |zone: usize| Some(Arc::new(Locality { zone: zone.to_string().into(), ..Locality::default() }));
    let endpoint = |place: usize| {
        let at = ([127, 0, 0, 1], 80).into();
        Endpoint { weight: weights[place], health: health[place], locality: locality(place / 2), ..fixed(at) }
    };
    let mut config = cluster_config("c", (0..6).map(endpoint).collect());
    if let Some(zones) = zones {
        let weight =
            |(zone, weight): (usize, &u32)| LocalityWeight { locality: locality(zone), priority: 0, weight: *weight };
        config.assignment.locality_weights = zones.iter().enumerate().map(weight).collect();
        config.locality_lb = LocalityLb::Weighted;
    }
    config
}

const HEALTHY: [Health; 6] = [Health::Healthy; 6];

/// Holds the shares of 12,000 requests against those expected, for each policy that ought to give them.
#[track_caller]
fn check(config: &ClusterConfig, policies: &[LbPolicy], expected: [f64; 6]) {
    for policy in policies {
        let shares = Fixture::of(ClusterConfig { lb: policy.clone(), ..config.clone() }).shares(12_000);
        assert!(is_as(&shares, &expected), "{policy:?}: {shares:?} for {expected:?}");
    }
}

fn by_weight() -> [LbPolicy; 2] {
    [LbPolicy::RoundRobin, LbPolicy::LeastRequest(LeastRequest::default())]
}

fn all() -> [LbPolicy; 3] {
    let [a, b] = by_weight();
    [a, b, LbPolicy::Random]
}

#[test]
fn weights_count_where_policies_look_at_them() {
    let config = six([1, 2, 3, 4, 5, 6], HEALTHY, None);
    check(&config, &by_weight(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    check(&config, &[LbPolicy::Random], [1.0; 6]);
}

#[test]
fn localities_share_by_their_weights_whatever_the_policy() {
    check(&six([1; 6], HEALTHY, Some([1, 2, 3])), &all(), [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    check(&six([1, 3, 1, 1, 3, 1], HEALTHY, Some([2, 1, 2])), &by_weight(), [1.0, 3.0, 1.0, 1.0, 3.0, 1.0]);
}

#[test]
fn degraded_hosts_take_what_the_healthy_ones_cannot() {
    let mut health = HEALTHY;
    health[3..].fill(Health::Degraded);
    // Three of six can do 70 %.
    check(&six([1; 6], health, None), &all(), [0.7, 0.7, 0.7, 0.3, 0.3, 0.3]);
}

#[test]
fn in_panic_all_hosts_share_whatever_their_health() {
    let mut health = [Health::Unhealthy; 6];
    health[0] = Health::Healthy;
    check(&six([1; 6], health, None), &all(), [1.0; 6]);
    check(&six([1, 2, 3, 4, 5, 6], health, None), &by_weight(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

#[tokio::test(start_paused = true)]
async fn in_the_middle_of_the_window_a_new_host_has_its_part_of_its_weight() {
    for (aggression, part) in [(1.0, 0.5), (2.0, 0.5_f64.sqrt())] {
        let window = Duration::from_secs(10);
        let slow_start = SlowStart { window, aggression: aggression.into(), min_share: 0.1 };
        for zones in [None, Some([1, 1, 1])] {
            for lb in by_weight() {
                let config = six([1, 1, 1, 1, 1, 4], HEALTHY, zones);
                let f = Fixture::of(ClusterConfig { lb, slow_start: Some(Box::new(slow_start.clone())), ..config });
                let hosts = f.cluster.hosts().hosts.to_vec();
                f.cluster.set_hosts(hosts[..5].to_vec());
                advance(2 * window).await;
                let new = Arc::new(Host::new(&f.cluster.config.endpoints[5], hosts[5].address()));
                f.cluster.set_hosts(hosts[..5].iter().cloned().chain([new]).collect());
                advance(window / 2).await;
                let shares = f.shares(12_000);
                let new = 4.0 * part;
                let expected = match zones {
                    None => [1.0, 1.0, 1.0, 1.0, 1.0, new],
                    Some(_) => [0.5, 0.5, 0.5, 0.5, 1.0 / (1.0 + new), new / (1.0 + new)],
                };
                assert!(is_as(&shares, &expected), "{zones:?}, {aggression}: {shares:?} for {expected:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn localities_share_by_what_their_hosts_can_take() {
    let mut config = six([1; 6], HEALTHY, None);
    config.locality_lb = load_aware(None);
    for lb in all() {
        let f = Fixture::of(ClusterConfig { lb, ..config.clone() });
        for (host, utilization) in f.cluster.hosts().hosts.iter().zip([0.75, 0.75, 0.5, 0.5, 0.25, 0.75]) {
            host.note_utilization(utilization, tokio::time::Instant::now());
        }
        f.cluster.share_out();
        let shares = f.shares(12_000);
        assert!(is_as(&shares, &[1.0, 1.0, 2.0, 2.0, 2.0, 2.0]), "{shares:?}");
    }
}
