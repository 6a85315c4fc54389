use nuncio_config::cluster::HealthStatuses;

use super::*;
use crate::HealthFlag;
use crate::lb::{NoHost, wanted};

fn f() -> Fixture {
    let at = |port| fixed(([127, 0, 0, 1], port).into());
    Fixture::of(cluster_config("c", vec![at(80), at(81), Endpoint { health: Health::Timeout, ..at(82) }]))
}

fn find(f: &Fixture, address: &str, is_strict: bool) -> Result<Option<usize>, NoHost> {
    wanted(&WantedHost { address: address.into(), is_strict }, &f.cluster.config, &f.cluster.hosts())
}

#[test]
fn a_filter_gets_the_host_that_it_wants() {
    let f = f();
    assert_eq!(find(&f, "127.0.0.1:81", false), Ok(Some(1)));
    assert_eq!(find(&f, "127.0.0.1:80", true), Ok(Some(0)));
}

#[test]
fn a_host_that_is_not_there_is_replaced_unless_the_filter_is_strict() {
    let f = f();
    assert_eq!(find(&f, "127.0.0.1:99", false), Ok(None));
    assert_eq!(find(&f, "127.0.0.1:99", true), Err(NoHost));
}

#[test]
fn a_wanted_host_is_of_a_status_that_will_do() {
    let mut f = f();
    assert_eq!(find(&f, "127.0.0.1:82", false), Ok(None));
    f.cluster.hosts().hosts[1].set_flag(HealthFlag::FailedOutlierCheck);
    assert_eq!(find(&f, "127.0.0.1:81", true), Err(NoHost));
    f.cluster.config.common_lb.override_statuses = HealthStatuses::of([Health::Timeout]);
    assert_eq!(find(&f, "127.0.0.1:82", false), Ok(Some(2)));
    assert_eq!(find(&f, "127.0.0.1:80", false), Ok(None));
}

#[test]
fn what_watches_over_a_host_is_worth_more_than_what_discovery_says() {
    let f = f();
    let hosts = f.cluster.hosts().hosts.clone();
    let statuses = || [0, 1, 2].map(|at: usize| hosts[at].status());
    assert_eq!(statuses(), [Health::Healthy, Health::Healthy, Health::Timeout]);
    hosts[0].set_flag(HealthFlag::DegradedActiveHc);
    hosts[1].set_flag(HealthFlag::FailedActiveHc);
    hosts[2].set_flag(HealthFlag::DegradedActiveHc);
    assert_eq!(statuses(), [Health::Degraded, Health::Unhealthy, Health::Timeout]);
}
