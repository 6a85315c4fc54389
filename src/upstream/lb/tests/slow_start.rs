use std::time::Duration;

use nuncio_config::cluster::{EndpointAddress, SlowStart, SubsetLb, SubsetSelector};
use tokio::time::advance;

use super::*;
use crate::HealthFlag;

const WINDOW: Duration = Duration::from_secs(10);

fn with_slow_start(config: ClusterConfig) -> ClusterConfig {
    let slow_start = SlowStart { window: WINDOW, aggression: 1.0.into(), min_share: 0.1 };
    ClusterConfig { slow_start: Some(Box::new(slow_start)), ..config }
}

/// Three hosts whose slow start is over, and one that has just come.
async fn a_new_host(config: ClusterConfig) -> Fixture {
    let f = Fixture::of(with_slow_start(config));
    f.cluster.set_hosts(f.cluster.hosts().hosts[..3].to_vec());
    advance(2 * WINDOW).await;
    add(&f, &f.cluster.config.endpoints[3]);
    f
}

/// Adds a host to those of the cluster.
fn add(f: &Fixture, endpoint: &Endpoint) -> Arc<Host> {
    let EndpointAddress::Fixed(address) = &endpoint.address else { unreachable!("the addresses of tests are fixed") };
    let host = Arc::new(Host::new(endpoint, address.clone()));
    f.cluster.set_hosts(f.cluster.hosts().hosts.iter().cloned().chain([host.clone()]).collect());
    host
}

fn four() -> ClusterConfig {
    cluster_config("c", vec![fixed(([127, 0, 0, 1], 80).into()); 4])
}

/// Whether `shares` are those of `weights`, but for one pick.
#[track_caller]
fn assert_shares(shares: &[usize], weights: &[f64]) {
    let unit = shares.iter().sum::<usize>() as f64 / weights.iter().sum::<f64>();
    let is_near = |(share, weight): (&usize, &f64)| (*share as f64 - weight * unit).abs() <= 1.5;
    assert!(shares.iter().zip(weights).all(is_near), "{shares:?} for {weights:?}");
}

#[tokio::test(start_paused = true)]
async fn the_share_of_a_new_host_grows() {
    let f = a_new_host(four()).await;
    assert_shares(&f.shares(1000), &[1.0, 1.0, 1.0, 0.1]);
    advance(WINDOW / 4).await;
    assert_shares(&f.shares(1000), &[1.0, 1.0, 1.0, 0.25]);
    advance(WINDOW / 2).await;
    assert_shares(&f.shares(1000), &[1.0, 1.0, 1.0, 0.75]);
    advance(WINDOW).await;
    assert_eq!(f.shares(1000), [250; 4]);
}

#[tokio::test(start_paused = true)]
async fn hosts_that_are_all_new_share_alike() {
    let f = Fixture::of(with_slow_start(four()));
    assert_shares(&f.shares(1000), &[1.0; 4]);
}

#[tokio::test(start_paused = true)]
async fn least_request_spares_a_new_host() {
    let f = a_new_host(ClusterConfig { lb: LbPolicy::LeastRequest(LeastRequest::default()), ..four() }).await;
    assert_shares(&f.shares(1000), &[1.0, 1.0, 1.0, 0.1]);
    f.cluster.hosts().hosts[0].stats.rq_active.inc();
    assert_shares(&f.shares(1000), &[0.5, 1.0, 1.0, 0.1]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_passes_its_checks_again_begins_again() {
    let f = Fixture::of(with_slow_start(four()));
    let host = f.cluster.hosts().hosts[1].clone();
    advance(2 * WINDOW).await;
    host.set_flag(HealthFlag::FailedActiveHc);
    f.cluster.update_health();
    assert_shares(&f.shares(900), &[1.0, 0.0, 1.0, 1.0]);
    host.note_return();
    host.clear_flag(HealthFlag::FailedActiveHc);
    f.cluster.update_health();
    assert_shares(&f.shares(1000), &[1.0, 0.1, 1.0, 1.0]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_was_ejected_does_not_begin_again() {
    let f = Fixture::of(with_slow_start(four()));
    advance(2 * WINDOW).await;
    let host = f.cluster.hosts().hosts[1].clone();
    host.set_flag(HealthFlag::FailedOutlierCheck);
    f.cluster.update_health();
    host.clear_flag(HealthFlag::FailedOutlierCheck);
    f.cluster.update_health();
    assert_eq!(f.shares(1000), [250; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_discovery_calls_healthy_at_last_begins_then() {
    let f = a_new_host(four()).await;
    advance(2 * WINDOW).await;
    let late = Endpoint { health: Health::Unhealthy, ..fixed(([127, 0, 0, 1], 82).into()) };
    let host = add(&f, &late);
    advance(2 * WINDOW).await;
    host.clear_flag(HealthFlag::FailedEdsHealth);
    f.cluster.update_health();
    assert_shares(&f.shares(1000), &[1.0, 1.0, 1.0, 1.0, 0.1]);
}

#[tokio::test(start_paused = true)]
async fn a_new_host_is_spared_within_its_locality() {
    let locality = |zone: &str| Some(Arc::new(Locality { zone: zone.into(), ..Locality::default() }));
    let mut config = four();
    for (endpoint, zone) in config.endpoints.iter_mut().zip(["a", "a", "b", "b"]) {
        endpoint.locality = locality(zone);
    }
    let weight = |zone| LocalityWeight { locality: locality(zone), priority: 0, weight: 1 };
    config.assignment.locality_weights = ["a", "b"].map(weight).into();
    config.locality_lb = LocalityLb::Weighted;
    let f = a_new_host(config).await;
    assert_shares(&f.shares(1100), &[0.25, 0.25, 0.5 / 1.1, 0.05 / 1.1]);
}

#[tokio::test(start_paused = true)]
async fn a_new_host_is_spared_within_its_subset() {
    let mut config = four();
    for (endpoint, version) in config.endpoints.iter_mut().zip(["1", "1", "2", "2"]) {
        let fields = [("version".to_owned(), version.into())].into_iter().collect();
        endpoint.metadata = Some(Arc::new([(Arc::from("envoy.lb"), fields)].into()));
    }
    config.subset = Some(Box::new(SubsetLb {
        selectors: [SubsetSelector { keys: ["version".into()].into(), fallback: None, single_host: false }].into(),
        ..SubsetLb::default()
    }));
    let f = a_new_host(config).await;
    let wanted = MetadataMatch::default().with(&[("version".to_owned(), "2".into())].into_iter().collect());
    let picks = f.picks(&PickContext { metadata: Some(&wanted), ..PickContext::default() }, 1100);
    let new = picks.iter().filter(|place| **place == 3).count();
    assert!((99..=101).contains(&new) && picks.iter().all(|place| *place >= 2), "{new}");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_replaced_under_its_address_does_not_begin_again() {
    let f = Fixture::of(with_slow_start(four()));
    advance(2 * WINDOW).await;
    let hosts = f.cluster.hosts().hosts.clone();
    let changed = Endpoint { weight: 3, ..f.cluster.config.endpoints[0].clone() };
    let again = Arc::new(Host::succeeding(&changed, hosts[0].address(), &hosts[0]));
    f.cluster.set_hosts([again].into_iter().chain(hosts[1..].iter().cloned()).collect());
    assert_shares(&f.shares(600), &[3.0, 1.0, 1.0, 1.0]);
}
