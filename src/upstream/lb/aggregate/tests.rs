use std::rc::Rc;
use std::sync::Arc;

use nuncio_config::cluster::{Aggregate, ClusterConfig, Discovery, Endpoint, Health, LbPolicy};
use nuncio_filter_api::{ClusterNames, Rng, Worker};
use nuncio_telemetry::stats::Store;

use crate::host::HealthFlag;
use crate::lb::PickContext;
use crate::testing::{cluster_config, fixed};
use crate::{Clusters, WorkerClusters};

struct Fixture {
    names: ClusterNames,
    clusters: Arc<Clusters>,
    worker: Rc<Worker>,
}

/// A host by its port; health; priority.
type Place = (u16, Health, u32);

impl Fixture {
    /// An aggregate `all` of these clusters, of which there is none yet.
    fn of(members: &[&str]) -> Self {
        let names = ClusterNames::default();
        let clusters = Clusters::new(&Store::new(), None);
        let worker = Rc::new(Worker::new(0, Rng::seeded(1), Arc::default()));
        WorkerClusters::serve(clusters.clone(), Rng::seeded(3), &worker);
        let mut config = cluster_config("all", Vec::new());
        config.name = names.intern("all");
        let members = members.iter().map(|name| names.intern(name)).collect();
        config.discovery = Discovery::Aggregate(Box::new(Aggregate { clusters: members }));
        config.lb = LbPolicy::ClusterProvided;
        clusters.update([config]);
        Self { names, clusters, worker }
    }

    fn update(&self, name: &str, places: &[Place]) {
        let endpoint = |(port, health, priority): &Place| Endpoint {
            health: *health,
            priority: *priority,
            ..fixed(([127, 0, 0, 1], *port).into())
        };
        let name = self.names.intern(name);
        let config = cluster_config(&name.name, places.iter().map(endpoint).collect());
        self.clusters.update([ClusterConfig { name, ..config }]);
    }

    /// The ports of so many picks, each once and in order.
    fn picks(&self, count: usize) -> Vec<u16> {
        let all = WorkerClusters::of(&self.worker).get(self.names.intern("all").id).unwrap();
        let mut ports: Vec<u16> = (0..count)
            .filter_map(|_| all.pick(&PickContext::default()))
            .filter_map(|host| host.host.address().port())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

#[test]
fn the_first_member_that_can_takes_it_all() {
    let fixture = Fixture::of(&["a", "b"]);
    assert!(fixture.picks(9).is_empty());
    fixture.update("b", &[(2, Health::Healthy, 0)]);
    assert_eq!(fixture.picks(9), [2]);
    fixture.update("a", &[(1, Health::Healthy, 0)]);
    assert_eq!(fixture.picks(9), [1]);
}

#[test]
fn members_are_followed_when_they_change_and_go() {
    let fixture = Fixture::of(&["a", "b"]);
    fixture.update("a", &[(1, Health::Healthy, 0)]);
    fixture.update("b", &[(2, Health::Healthy, 0)]);
    assert_eq!(fixture.picks(9), [1]);
    let a = fixture.clusters.snapshot().get(fixture.names.intern("a").id).unwrap().clone();
    a.hosts().hosts[0].set_flag(HealthFlag::FailedActiveHc);
    a.update_health();
    assert_eq!(fixture.picks(9), [2]);
    fixture.update("a", &[(3, Health::Healthy, 0)]);
    assert_eq!(fixture.picks(9), [3]);
    assert!(fixture.clusters.remove("a"));
    assert_eq!(fixture.picks(9), [2]);
}

#[test]
fn priorities_of_members_stand_in_one_line() {
    let fixture = Fixture::of(&["a", "b"]);
    // 1.4 times one of four is 35 percent; the second priority can do the rest.
    let down = Health::Unhealthy;
    let up = Health::Healthy;
    fixture.update("a", &[(1, up, 0), (1, down, 0), (1, down, 0), (1, down, 0), (2, up, 2)]);
    fixture.update("b", &[(3, up, 0)]);
    assert_eq!(fixture.picks(100), [1, 2]);
    fixture.update("a", &[(1, up, 0), (1, down, 0), (1, down, 0), (1, down, 0), (2, down, 2)]);
    assert_eq!(fixture.picks(100), [1, 3]);
}

#[test]
fn degraded_hosts_come_after_the_healthy_ones_of_all_members() {
    let fixture = Fixture::of(&["a", "b"]);
    fixture.update("a", &[(1, Health::Degraded, 0)]);
    fixture.update("b", &[(2, Health::Healthy, 0)]);
    assert_eq!(fixture.picks(50), [2]);
    fixture.update("b", &[(2, Health::Unhealthy, 0)]);
    assert_eq!(fixture.picks(50), [1]);
}

#[test]
fn an_aggregate_is_no_member_of_another_nor_of_itself() {
    let fixture = Fixture::of(&["all"]);
    assert!(fixture.picks(9).is_empty());
}
