//! A set that follows another is as one that is made of its hosts alone.

use nuncio_config::cluster::{SelectorFallback, SubsetFallback, SubsetLb, SubsetSelector};
use serde_json::{Map, json};

use super::*;
use crate::host::HealthFlag;

/// All that requests see of some groups.
pub(in crate::host_set) fn seen(groups: &HostGroups) -> String {
    let of = |candidates: &Candidates| format!("{:?}{}", candidates.places(), candidates.is_weighted);
    let kinds =
        |all: &Candidates, healthy: &Candidates, degraded: &Candidates| [all, healthy, degraded].map(of).concat();
    let locality = |l: &LocalityHosts| {
        let kinds = kinds(&l.all, &l.healthy, &l.degraded);
        format!("{:?} {} {} {kinds}", l.locality, l.weight, l.excluded)
    };
    let priority = |p: &PriorityHosts| {
        let localities: Vec<_> = p.localities.iter().map(locality).collect();
        let kinds = kinds(&p.all, &p.healthy, &p.degraded);
        format!("{kinds} {} {} {} {} {localities:?}", p.excluded, p.health, p.degraded_health, p.in_panic)
    };
    let priorities: Vec<_> = groups.priorities.iter().map(priority).collect();
    format!("{priorities:?} {:?} {}", groups.load, groups.is_plain)
}

fn zone(n: usize) -> Option<Arc<Locality>> {
    (n > 0).then(|| Arc::new(Locality { zone: format!("z{n}").into(), ..Locality::default() }))
}

/// Any host: its port may be that of another.
fn any_host(rng: &mut fastrand::Rng) -> Arc<Host> {
    let port = rng.u16(1..200);
    let lists = [json!({}), json!({"a": 1}), json!({"a": [1, 2], "b": "x"}), json!({"a": 2, "b": "y", "id": port})];
    let fields: Map<String, _> = lists[rng.usize(..4)].as_object().cloned().unwrap_or_default();
    let endpoint = Endpoint {
        weight: rng.u32(1..3),
        priority: rng.u32(..2),
        locality: zone(rng.usize(..3)),
        health: [Healthy, Healthy, Degraded, Unhealthy, Draining][rng.usize(..5)],
        metadata: Some(Arc::new([("envoy.lb".into(), fields)].into_iter().collect())),
        ..fixed(([127, 0, 0, 1], port).into())
    };
    hosts([endpoint]).remove(0)
}

fn selector(keys: &[&str], single_host: bool) -> SubsetSelector {
    let keys = keys.iter().map(|key| Arc::from(*key)).collect();
    let fallback = single_host.then_some(SelectorFallback::Policy(SubsetFallback::Default));
    SubsetSelector { keys, single_host, fallback }
}

fn subset_lb(scale: bool) -> SubsetLb {
    SubsetLb {
        fallback: SubsetFallback::Any,
        default_subset: json!({"a": 1}).as_object().cloned().unwrap_or_default(),
        selectors: [selector(&["a"], false), selector(&["a", "b"], false), selector(&["id"], true)].into(),
        allow_redundant_keys: false,
        locality_weight_aware: true,
        scale_locality_weight: scale,
        panic_mode_any: true,
        list_as_any: true,
        metadata_fallback: false,
        counted: 1,
    }
}

/// Changes some hosts in one of the ways in which hosts change.
fn change(hosts: &mut Vec<Arc<Host>>, rng: &mut fastrand::Rng) {
    let at = rng.usize(..hosts.len());
    match rng.usize(..8) {
        0 if hosts.len() > 20 => drop(hosts.remove(at)),
        0 | 1 => hosts.insert(at, any_host(rng)),
        2 | 3 => hosts[at] = any_host(rng),
        4 => _ = hosts[at].set_flag(HealthFlag::FailedActiveHc),
        5 => _ = hosts[at].set_weight(rng.u32(1..4)),
        6 => hosts.swap(at, 0),
        _ => hosts.iter_mut().step_by(7).for_each(|host| *host = any_host(rng)),
    }
}

#[track_caller]
fn is_as_made_anew(grown: &HostSet, layout: Layout<'_>) {
    let fresh = HostSet::new(grown.hosts.to_vec(), Layout { before: None, ..layout });
    assert!(grown.hosts.iter().zip(&*fresh.hosts).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert_eq!(seen(&grown.groups), seen(&fresh.groups));
    for port in 0..200 {
        let address = format!("127.0.0.1:{port}");
        let address_of = |set: &HostSet| set.find(&address).map(|at| set.hosts[at].address().to_string());
        assert_eq!(address_of(grown), address_of(&fresh));
    }
    let (Some(grown), Some(fresh)) = (&grown.subsets, &fresh.subsets) else { return };
    assert_eq!(grown.described(), fresh.described());
}

#[test]
fn a_set_that_follows_another_is_as_one_made_anew() {
    let weights = (0..2).flat_map(|priority| (0..3).map(move |n| (priority, n)));
    let weights = weights.map(|(priority, n)| LocalityWeight { locality: zone(n), priority, weight: n as u32 + 1 });
    let policy = AssignmentPolicy { locality_weights: weights.collect(), ..AssignmentPolicy::default() };
    let other_policy = AssignmentPolicy { overprovisioning_factor: 100, ..policy.clone() };
    for (seed, scale) in [(1, false), (2, false), (3, true)] {
        let mut rng = fastrand::Rng::with_seed(seed);
        let config = subset_lb(scale);
        let local = Localities::Grouped { local: None };
        let base = Layout { localities: local, subset: Some(&config), ..layout(&policy) };
        let mut grown = HostSet::new((0..60).map(|_| any_host(&mut rng)).collect(), base);
        for round in 0..200 {
            grown.find("127.0.0.1:1");
            let mut hosts = grown.hosts.to_vec();
            change(&mut hosts, &mut rng);
            let policy = if round % 50 == 49 { &other_policy } else { &policy };
            let layout = Layout { policy, before: Some(&grown), ..base };
            let mut next = HostSet::new(hosts, layout);
            next.follow(&grown);
            is_as_made_anew(&next, Layout { policy, ..base });
            grown = next;
            if round % 10 == 0 {
                let mut next = grown.refreshed(Layout { before: Some(&grown), ..base });
                next.follow(&grown);
                is_as_made_anew(&next, base);
                grown = next;
            }
        }
    }
}

#[test]
fn subsets_without_a_changed_host_are_shared() {
    let policy = AssignmentPolicy::default();
    let config = SubsetLb { locality_weight_aware: false, panic_mode_any: false, ..subset_lb(false) };
    let base = Layout { subset: Some(&config), ..layout(&policy) };
    let mut rng = fastrand::Rng::with_seed(1);
    let mut hosts: Vec<_> = (0..200).map(|_| any_host(&mut rng)).collect();
    let before = HostSet::new(hosts.clone(), base);
    let is_of =
        |host: &Host, value| host.metadata().as_ref().is_some_and(|m| m["envoy.lb"].get("a") == Some(&json!(value)));
    let place = hosts.iter().position(|host| is_of(host, 1)).expect("there are hosts of all kinds");
    let is_like = |other: &Arc<Host>| is_of(other, 1) && other.priority == hosts[place].priority;
    let other = std::iter::repeat_with(|| any_host(&mut rng)).find(is_like).expect("sooner or later");
    hosts[place] = other;
    let after = HostSet::new(hosts, Layout { before: Some(&before), ..base });
    let (before, after) = (before.subsets.expect("it has"), after.subsets.expect("it has"));
    let shared = after.shared_with(&before);
    assert!(shared * 2 > after.len() && shared < after.len(), "{shared} of {}", after.len());
}
