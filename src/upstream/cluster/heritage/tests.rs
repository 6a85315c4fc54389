use std::net::SocketAddr;

use nuncio_config::cluster::{ClusterAssignment, EdsConfig, Health, SubsetLb, SubsetSelector};
use nuncio_config::discovery::{ConfigSource, Origin};
use nuncio_config::metadata::subset_key;
use nuncio_telemetry::Metadata;
use nuncio_telemetry::stats::Store;

use super::*;
use crate::cluster::Surroundings;
use crate::testing::{cluster_config, fixed, tcp_check};

fn at(port: u16) -> Endpoint {
    fixed(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn eds() -> ClusterConfig {
    let origin = Origin::Path { path: "/eds".into(), watched_directory: None };
    let source = ConfigSource { origin, initial_fetch_timeout: None };
    let discovery = Discovery::Eds(Box::new(EdsConfig { service_name: "c".into(), told_name: None, source }));
    ClusterConfig { discovery, ..cluster_config("c", Vec::new()) }
}

fn cluster(config: ClusterConfig, before: Option<Arc<Cluster>>) -> Arc<Cluster> {
    let surroundings = Surroundings {
        store: Store::new(),
        rules: Default::default(),
        local: None,
        on_warm: None,
        before,
        merges: None,
    };
    Arc::new(Cluster::within(config, surroundings))
}

fn assign(cluster: &Cluster, endpoints: Vec<Endpoint>) -> Vec<Arc<Host>> {
    let (endpoints, policy) = (endpoints.into(), AssignmentPolicy::default());
    cluster.assign(&ClusterAssignment { endpoints, leds: Box::default(), policy });
    cluster.hosts().hosts.to_vec()
}

#[test]
fn a_host_that_stays_is_the_same_host_whatever_its_health() {
    let cluster = cluster(eds(), None);
    assert!(!cluster.is_warm());
    let before = assign(&cluster, vec![at(1), at(2)]);
    assert!(cluster.is_warm());
    let after = assign(&cluster, vec![Endpoint { health: Health::Unhealthy, ..at(2) }, at(3)]);
    assert!(Arc::ptr_eq(&before[1], &after[0]));
    assert!(after[0].flags().has(HealthFlag::FailedEdsHealth));
    assert_eq!((cluster.hosts().hosts.len(), cluster.hosts().healthy()), (2, 1));
    let again = assign(&cluster, vec![at(2), at(3)]);
    assert!(Arc::ptr_eq(&before[1], &again[0]) && cluster.hosts().healthy() == 2);
}

#[test]
fn a_host_stays_whatever_is_said_of_it_and_is_found_by_that() {
    let lb = |value: &str| {
        let fields = serde_json::json!({ "version": value }).as_object().cloned();
        Some(Arc::new(Metadata::from([(Arc::from("envoy.lb"), fields.expect("an object"))])))
    };
    let selector = SubsetSelector { keys: ["version".into()].into(), fallback: None, single_host: false };
    let subset = SubsetLb { selectors: [selector].into(), ..SubsetLb::default() };
    let cluster = cluster(ClusterConfig { subset: Some(Box::new(subset)), ..eds() }, None);
    let of = |value: &str| Endpoint { metadata: lb(value), ..at(2) };
    let key = |value: &str| subset_key(std::iter::once(("version", &serde_json::json!(value))));
    let found =
        |value: &str| cluster.hosts().subsets.as_ref().is_some_and(|subsets| subsets.find(&key(value)).is_some());
    let before = assign(&cluster, vec![at(1), of("1")]);
    before[1].set_flag(HealthFlag::FailedOutlierCheck);
    let changes = cluster.stats.membership_change().value();
    let after = assign(&cluster, vec![at(1), of("2")]);
    assert!(Arc::ptr_eq(&before[1], &after[1]) && after[1].flags().has(HealthFlag::FailedOutlierCheck));
    assert_eq!(after[1].metadata(), lb("2"));
    assert!(found("2") && !found("1"));
    assert_eq!(cluster.stats.membership_change().value(), changes);
    assert!(assign(&cluster, vec![at(1)]).len() == 1 && !found("2"));
}

#[test]
fn the_same_assignment_again_changes_nothing() {
    let cluster = cluster(eds(), None);
    assign(&cluster, vec![at(1)]);
    let version = cluster.version();
    assign(&cluster, vec![at(1)]);
    assert_eq!((cluster.version(), cluster.stats.update_no_rebuild().value()), (version, 1));
}

#[test]
fn a_host_of_another_weight_keeps_what_its_checks_found() {
    let cluster = cluster(ClusterConfig { health_check: Some(tcp_check()), ..eds() }, None);
    let before = assign(&cluster, vec![at(1), at(2)]);
    before[0].clear_flag(HealthFlag::FailedActiveHc);
    let after = assign(&cluster, vec![Endpoint { weight: 5, ..at(1) }, Endpoint { weight: 5, ..at(2) }]);
    let failed = |host: &Host| host.flags().has(HealthFlag::FailedActiveHc);
    assert_eq!((after[0].weight(), failed(&after[0]), failed(&after[1])), (5, false, true));
    assert!(before.iter().zip(&after).all(|(before, after)| Arc::ptr_eq(before, after)), "connections and all");
    let set = cluster.hosts();
    assign(&cluster, vec![Endpoint { weight: 5, ..at(1) }, Endpoint { weight: 6, ..at(2) }]);
    assert!(!Arc::ptr_eq(&set, &cluster.hosts()), "the weight counts");
}

#[test]
fn a_host_that_left_stays_while_its_checks_pass() {
    let cluster = cluster(ClusterConfig { health_check: Some(tcp_check()), ..eds() }, None);
    let before = assign(&cluster, vec![at(1), at(2)]);
    before[0].clear_flag(HealthFlag::FailedActiveHc);
    assert_eq!(assign(&cluster, vec![at(3)]).len(), 2, "the one that passes, and the new one");
    before[0].set_flag(HealthFlag::FailedActiveHc);
    cluster.update_health();
    assert_eq!(cluster.hosts().hosts.len(), 1);
}

#[test]
fn hosts_go_on_in_the_cluster_that_replaces_theirs() {
    let before =
        cluster(ClusterConfig { health_check: Some(tcp_check()), ..cluster_config("c", vec![at(1), at(2)]) }, None);
    let host = before.hosts().hosts[0].clone();
    host.clear_flag(HealthFlag::FailedActiveHc);
    let config = ClusterConfig { health_check: Some(tcp_check()), ..cluster_config("c", vec![at(1), at(3)]) };
    let after = cluster(config, Some(before.clone()));
    assert!(Arc::ptr_eq(&host, &after.hosts().hosts[0]));
    assert!(!host.flags().has(HealthFlag::FailedActiveHc), "it is known to be healthy");
    assert!(Arc::ptr_eq(&before.limits, &after.limits));
    let unchecked = cluster(cluster_config("c", vec![at(1)]), Some(before));
    assert!(!Arc::ptr_eq(&host, &unchecked.hosts().hosts[0]), "nobody would ever mend it");
}

#[test]
fn a_host_that_was_ejected_begins_anew_in_another_cluster() {
    let before = cluster(cluster_config("c", vec![at(1)]), None);
    before.hosts().hosts[0].set_flag(HealthFlag::FailedOutlierCheck);
    let after = cluster(cluster_config("c", vec![at(1)]), Some(before));
    assert!(!after.hosts().hosts[0].flags().has(HealthFlag::FailedOutlierCheck));
}
