use nuncio_config::cluster::{Endpoint, EndpointAddress, Health, Locality, LocalityWeight};
use nuncio_telemetry::Address;

use super::*;
use crate::testing::fixed;

pub(super) mod changes;

use Health::{Degraded, Draining, Healthy, Unhealthy};

fn endpoint(priority: u32, health: Health) -> Endpoint {
    Endpoint { priority, health, ..fixed(([127, 0, 0, 1], 80).into()) }
}

fn hosts(endpoints: impl IntoIterator<Item = Endpoint>) -> Vec<Arc<Host>> {
    let host = |endpoint: Endpoint| match &endpoint.address {
        EndpointAddress::Fixed(address) => Arc::new(Host::new(&endpoint, Address::clone(address))),
        EndpointAddress::Named { .. } => unreachable!("the endpoints of these tests have addresses"),
    };
    endpoints.into_iter().map(host).collect()
}

/// So many healthy, degraded and unhealthy hosts at each priority.
fn mixed(priorities: &[(usize, usize, usize)]) -> Vec<Arc<Host>> {
    let of = |(priority, counts): (u32, &(usize, usize, usize))| {
        let kinds = [(Healthy, counts.0), (Degraded, counts.1), (Unhealthy, counts.2)];
        kinds.into_iter().flat_map(move |(health, count)| (0..count).map(move |_| endpoint(priority, health)))
    };
    hosts((0..).zip(priorities).flat_map(of))
}

fn set_of(hosts: Vec<Arc<Host>>, panic_threshold: u8) -> HostSet {
    HostSet::new(hosts, Layout { panic_threshold, ..layout(&AssignmentPolicy::default()) })
}

fn layout(policy: &AssignmentPolicy) -> Layout<'_> {
    Layout { policy, panic_threshold: 50, localities: Localities::Ignored, hashing: None, subset: None, before: None }
}

fn load(priorities: &[(usize, usize, usize)], panic_threshold: u8) -> (Vec<u32>, Vec<u32>) {
    let set = set_of(mixed(priorities), panic_threshold);
    assert_eq!(set.groups.load.healthy.iter().chain(&set.groups.load.degraded).sum::<u32>(), 100);
    (set.groups.load.healthy.into(), set.groups.load.degraded.into())
}

fn panics(priorities: &[(usize, usize, usize)], panic_threshold: u8) -> Vec<bool> {
    set_of(mixed(priorities), panic_threshold).groups.priorities.iter().map(|p| p.in_panic).collect()
}

/// Whether each host of one priority may be chosen.
fn candidates(health: &[Health], panic_threshold: u8) -> Vec<usize> {
    let set = set_of(hosts(health.iter().map(|health| endpoint(0, *health))), panic_threshold);
    (0..health.len()).filter(|place| set.is_candidate(*place)).collect()
}

#[test]
fn unhealthy_hosts_are_chosen_in_panic_alone() {
    assert_eq!(candidates(&[Healthy, Unhealthy], 50), [0]);
    assert_eq!(candidates(&[Unhealthy, Healthy, Unhealthy], 50), [0, 1, 2]);
    assert_eq!(candidates(&[Unhealthy, Draining], 0), [0_usize; 0]);
    // As Envoy 1.40 does: who drains is neither missed nor, unless there is nobody else, used.
    assert_eq!(candidates(&[Draining, Draining, Healthy], 50), [2]);
    assert_eq!(candidates(&[Draining], 50), [0]);
}

#[test]
fn an_empty_set_is_in_panic() {
    // Envoy counts lb_healthy_panic for an empty cluster.
    let set = set_of(Vec::new(), 50);
    assert!(set.groups.priorities[0].in_panic);
    assert_eq!(set.groups.load.healthy[..], [100]);
}

#[test]
fn panic_needs_more_than_a_high_threshold_to_be_missed() {
    // Three of four are 105 % of what is needed.
    assert_eq!(panics(&[(3, 0, 1)], 90), [false]);
    assert_eq!(panics(&[(2, 0, 2)], 90), [true]);
}

#[test]
fn load_fails_over_by_health() {
    // The tables of Envoy's documentation.
    for (first, expected) in [(100, [100, 0]), (72, [100, 0]), (71, [99, 1]), (50, [70, 30]), (25, [35, 65])] {
        assert_eq!(load(&[(first, 0, 100 - first), (100, 0, 0)], 0).0, expected, "{first}");
    }
    assert_eq!(load(&[(25, 0, 75), (25, 0, 75)], 0).0, [50, 50]);
    assert_eq!(load(&[(0, 0, 100), (20, 0, 80), (20, 0, 80)], 0).0, [0, 50, 50]);
    assert_eq!(load(&[(20, 0, 80), (20, 0, 80), (0, 0, 100)], 0).0, [50, 50, 0]);
}

#[test]
fn degraded_hosts_take_what_healthy_ones_cannot() {
    assert_eq!(load(&[(1, 1, 0)], 50), (vec![70], vec![30]));
    assert_eq!(load(&[(0, 1, 0)], 50), (vec![0], vec![100]));
    assert_eq!(load(&[(5, 5, 0), (2, 8, 0)], 50), (vec![70, 28], vec![2, 0]));
    // Together they can do 42 %.
    assert_eq!(load(&[(1, 0, 9), (0, 2, 8)], 0), (vec![34, 0], vec![0, 66]));
}

#[test]
fn a_total_panic_spreads_by_the_number_of_hosts() {
    assert_eq!(panics(&[(2, 0, 8), (1, 0, 29)], 50), [true, true]);
    assert_eq!(load(&[(2, 0, 8), (1, 0, 29)], 50), (vec![25, 75], vec![0, 0]));
    assert_eq!(load(&[(0, 0, 1), (0, 0, 2)], 50).0, [34, 66], "the rest of a division goes to the first");
    // Without panic nobody can be chosen, and it shows at the first priority.
    assert_eq!(load(&[(0, 0, 1), (0, 0, 2)], 0).0, [100, 0]);
}

#[test]
fn one_priority_may_panic_while_another_does_not() {
    // 28 % and 56 %.
    assert_eq!(panics(&[(2, 0, 8), (4, 0, 6)], 30), [true, false]);
    assert_eq!(load(&[(2, 0, 8), (4, 0, 6)], 30).0, [34, 66]);
    assert_eq!(panics(&[(2, 0, 8), (10, 0, 0)], 30), [false, false], "the second can do it all");
}

#[test]
fn a_priority_that_is_left_out_is_empty() {
    let set = set_of(hosts([endpoint(2, Healthy), endpoint(0, Unhealthy)]), 50);
    assert_eq!(set.groups.priorities.iter().map(|p| p.all.len()).collect::<Vec<_>>(), [1, 0, 1]);
    assert_eq!(set.groups.load.healthy[..], [0, 0, 100]);
    assert_eq!(set.hosts[1].priority, 2, "hosts are in order of priority");
}

#[test]
fn weights_make_the_health_of_a_priority_where_asked() {
    let endpoint = |weight, health| Endpoint { weight, ..endpoint(0, health) };
    let hosts = hosts([endpoint(1, Healthy), endpoint(9, Unhealthy), endpoint(100, Draining)]);
    let health = |weighted_priority_health| {
        let policy = AssignmentPolicy { weighted_priority_health, ..AssignmentPolicy::default() };
        HostSet::new(hosts.clone(), layout(&policy)).groups.priorities[0].health
    };
    assert_eq!((health(false), health(true)), (70, 14));
}

#[test]
fn overprovisioning_is_configured() {
    let health = |overprovisioning_factor| {
        let policy = AssignmentPolicy { overprovisioning_factor, ..AssignmentPolicy::default() };
        HostSet::new(mixed(&[(1, 0, 1)]), layout(&policy)).groups.priorities[0].health
    };
    assert_eq!((health(100), health(140), health(u32::MAX)), (50, 70, 100));
}

#[test]
fn hosts_are_grouped_by_locality() {
    let at = |zone: &str| Some(Arc::new(Locality { zone: zone.into(), ..Locality::default() }));
    let weight = |zone, weight| LocalityWeight { locality: at(zone), priority: 0, weight };
    let policy =
        AssignmentPolicy { locality_weights: [weight("b", 7), weight("a", 3)].into(), ..AssignmentPolicy::default() };
    let endpoint = |zone, health| Endpoint { locality: at(zone), ..endpoint(0, health) };
    let hosts =
        hosts([endpoint("b", Healthy), endpoint("a", Healthy), endpoint("b", Unhealthy), endpoint("c", Healthy)]);
    let seen = |local: Option<&Locality>| -> Vec<_> {
        let layout = Layout { localities: Localities::Grouped { local }, ..layout(&policy) };
        let set = HostSet::new(hosts.clone(), layout);
        let priority = &set.groups.priorities[0];
        assert_eq!(priority.has_local, local == at("b").as_deref());
        let seen = |l: &LocalityHosts| {
            (
                l.locality.as_ref().unwrap().zone.to_string(),
                l.weight,
                l.all.places().to_vec(),
                l.effective_weight(&l.healthy),
            )
        };
        priority.localities.iter().map(seen).collect()
    };
    let [a, b, c] =
        [("a".into(), 3, vec![1], 3.0), ("b".into(), 7, vec![0, 2], 7.0 * 0.7), ("c".into(), 0, vec![3], 0.0)];
    assert_eq!(seen(None), [a.clone(), b.clone(), c.clone()]);
    assert_eq!(seen(at("d").as_deref()), [a.clone(), b.clone(), c.clone()]);
    assert_eq!(seen(at("b").as_deref()), [b, a, c], "the local one comes first");
}
