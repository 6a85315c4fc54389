use std::time::Duration;

use nuncio_config::cluster::LocalityLb;
use nuncio_telemetry::stats::Store;
use tokio::time::advance;

use super::*;
use crate::Cluster;
use crate::testing::{cluster_config, fixed, load_aware};

fn zone(name: &str) -> Locality {
    Locality { zone: name.into(), ..Locality::default() }
}

fn config(variance: f64, probe: f64) -> LoadAware {
    let LocalityLb::LoadAware(config) = load_aware(None) else { unreachable!() };
    LoadAware { variance_threshold: variance, probe_fraction: probe, ..*config }
}

fn load(hosts: u32, utilization: f64) -> Load {
    Load { hosts: hosts.into(), utilization, is_stale: false }
}

fn shares(loads: &[Load], has_local: bool, config: &LoadAware) -> (Vec<u32>, Outcome) {
    let mut outcome = Outcome::default();
    let weights = weights(loads, has_local, config, &mut outcome);
    let total: f64 = weights.iter().sum();
    (weights.iter().map(|weight| (weight / total * 1000.0).round() as u32).collect(), outcome)
}

#[test]
fn a_busy_local_locality_spills_by_headroom() {
    let loads = [load(10, 0.7), load(10, 0.3), load(10, 0.4)];
    let spill = Outcome { spill_active: true, ..Outcome::default() };
    assert_eq!(shares(&loads, true, &config(0.1, 0.03)), (vec![188, 438, 375], spill));
    assert_eq!(shares(&loads, false, &config(0.1, 0.03)), (vec![188, 438, 375], Outcome::default()));
}

#[test]
fn a_local_locality_that_is_as_busy_as_the_others_takes_all_but_what_probes_take() {
    let loads = [load(1, 0.4), load(1, 0.3), load(2, 0.4)];
    let local = Outcome { local_preferred: true, ..Outcome::default() };
    assert_eq!(shares(&loads, true, &config(0.1, 0.0)), (vec![1000, 0, 0], local));
    let probed = Outcome { probe_active: true, ..local };
    assert_eq!(shares(&loads, true, &config(0.1, 0.03)), (vec![970, 10, 20], probed));
}

#[test]
fn where_all_are_overloaded_hosts_are_counted() {
    let loads = [load(1, 1.0), load(1, 1.0), load(2, 1.0)];
    let overloaded = Outcome { all_overloaded: true, ..Outcome::default() };
    assert_eq!(shares(&loads, true, &config(0.1, 0.03)), (vec![250, 250, 500], overloaded));
}

#[test]
fn a_stale_locality_counts_by_its_hosts() {
    let loads = [load(1, 0.9), Load { is_stale: true, ..load(1, 0.2) }];
    assert_eq!(shares(&loads, true, &config(0.1, 0.0)).0, [91, 909]);
}

#[test]
fn a_locality_without_a_share_is_never_chosen() {
    let rng = Rng::seeded(7);
    let shares = Shares::of(&[0.0, 1.0, 0.0, 3.0, 0.0]);
    let mut counts = [0; 5];
    (0..4000).for_each(|_| counts[shares.choose(&rng).unwrap()] += 1);
    assert_eq!((counts[0], counts[2], counts[4]), (0, 0, 0));
    assert!((900..1100).contains(&counts[1]), "{counts:?}");
    assert_eq!(Shares::of(&[0.0, 0.0]).choose(&rng), None);
}

/// Two hosts in `a`, one in `b`.
fn cluster(local: Option<Locality>) -> Cluster {
    let endpoints = ["a", "a", "b"].into_iter().zip(1..).map(|(name, port)| {
        let mut endpoint = fixed(([127, 0, 0, 1], port).into());
        endpoint.locality = Some(Arc::new(zone(name)));
        endpoint
    });
    let mut config = cluster_config("c", endpoints.collect());
    config.locality_lb = load_aware(local);
    Cluster::new(config, &Store::new(), None)
}

fn report(cluster: &Cluster, utilizations: &[Option<f64>]) {
    for (host, utilization) in cluster.hosts().hosts.iter().zip(utilizations) {
        utilization.inspect(|utilization| host.note_utilization(*utilization, Instant::now()));
    }
}

fn weights_of(cluster: &Cluster) -> [f64; 2] {
    let set = cluster.hosts();
    let shares = set.shares.load_full().expect("they are there from the start");
    let Shares(sums) = &shares.priorities[0][Kind::Healthy as usize];
    [sums[0], sums[1] - sums[0]]
}

fn check(cluster: &Cluster, expected: [f64; 2]) {
    let weights = weights_of(cluster);
    assert!(weights.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{weights:?}, not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn hosts_that_do_not_report_count_for_nothing_in_the_utilization() {
    let cluster = cluster(None);
    check(&cluster, [2.0, 1.0]);
    report(&cluster, &[Some(0.5), None, Some(0.25)]);
    check(&cluster, [2.0, 1.0]);
    cluster.share_out();
    check(&cluster, [1.0, 0.75]);
}

#[tokio::test(start_paused = true)]
async fn reports_that_are_too_old_leave_the_number_of_hosts() {
    let cluster = cluster(None);
    report(&cluster, &[Some(0.5), Some(0.5), Some(0.25)]);
    cluster.share_out();
    advance(Duration::from_secs(11)).await;
    report(&cluster, &[Some(0.5)]);
    cluster.share_out();
    check(&cluster, [1.0, 1.0]);
}

#[tokio::test(start_paused = true)]
async fn a_new_set_of_hosts_goes_on_with_what_is_known() {
    let cluster = cluster(None);
    report(&cluster, &[Some(0.5), Some(0.5), Some(0.25)]);
    cluster.share_out();
    let hosts = cluster.hosts();
    cluster.set_hosts(hosts.hosts.iter().skip(1).cloned().collect());
    check(&cluster, [0.5, 0.75]);
}

#[tokio::test(start_paused = true)]
async fn the_local_locality_is_preferred_though_no_cluster_is_the_local_one() {
    let cluster = cluster(Some(zone("b")));
    let set = cluster.hosts();
    let Shares(sums) = &set.shares.load_full().unwrap().priorities[0][0];
    assert_eq!(**sums, [3.0, 3.0], "the local one comes first");
}
