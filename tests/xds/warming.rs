//! When clusters are acknowledged that cannot be used yet. All holds for Envoy 1.40 too, seen by `NUNCIO_BINARY`.

use super::plane::{found, start_with_cluster};
use super::{cluster, endpoints};
use crate::support::DEADLINE;
use crate::support::control_plane::{Asked, ControlPlane, Kind, WAYS, Way};
use crate::support::proxy::{CERTIFICATES, Running};
use crate::support::upstream::{Answer, Then, Upstream, http1};
use std::time::{Duration, Instant};

const WARMING: &str = "cluster_manager.warming_clusters";
/// It fails after three seconds at a host that says nothing.
const CHECK: &str =
    "{ timeout: 3s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: { path: / } }";

/// A proxy that has cluster `a` and a listener from a control plane, which it asks in one of the ways.
struct Scene {
    plane: ControlPlane,
    way: Way,
    proxy: Running,
    a: Upstream,
    /// Requests that came before anything was changed.
    before: usize,
}

impl Scene {
    async fn new(way: Way) -> Self {
        let plane = ControlPlane::start().await;
        let a = http1().route("/", "a").start().await;
        let proxy = start_with_cluster(&plane, way, a.port()).await;
        plane.wait_for(Kind::Cluster, |asked| !asked.nonce.is_empty()).await;
        let before = plane.asked().len();
        Self { plane, way, proxy, a, before }
    }

    /// What it answered to further clusters.
    fn answers(&self) -> Vec<Asked> {
        let asked = self.plane.asked().split_off(self.before);
        asked
            .into_iter()
            .filter(|asked| asked.type_url == Kind::Cluster.type_url() && !asked.nonce.is_empty())
            .collect()
    }

    async fn wait_for_answers(&self, count: usize) -> Vec<Asked> {
        let until = Instant::now() + DEADLINE;
        loop {
            let answers = self.answers();
            if answers.len() >= count {
                assert_eq!(answers.len(), count, "{:?}: {answers:#?}", self.way);
                return answers;
            }
            assert!(Instant::now() < until, "{:?}: {answers:#?}\n{}", self.way, self.proxy.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn add(&self, name: &str) {
        self.plane.set(Kind::Cluster, name, &found(self.way, &cluster(name)));
    }

    fn give(&self, name: &str) {
        self.plane.set(Kind::Endpoints, name, &endpoints(name, self.a.port()));
    }

    /// The stream goes on, and still nothing is said of clusters, where all share one.
    async fn holds_back(&self, answers: usize) {
        let weight = self.plane.asked().len() + 1;
        let weighed = format!("lb_endpoints: [{{ load_balancing_weight: {weight},");
        let endpoints = endpoints("a", self.a.port()).replace("lb_endpoints: [{", &weighed);
        self.plane.set(Kind::Endpoints, "a", &endpoints);
        let (line, until) = (format!("a::127.0.0.1:{}::weight::{weight}\n", self.a.port()), Instant::now() + DEADLINE);
        while !self.proxy.admin("/clusters").await.contains(&line) {
            assert!(Instant::now() < until, "no {line}{}", self.proxy.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        match self.way.is_aggregated {
            true => assert_eq!(self.answers().len(), 0, "{:?}: {:#?}", self.way, self.answers()),
            false => drop(self.wait_for_answers(answers).await),
        }
    }
}

/// How many answers two pushes have once nothing holds them back: the state of the world is acknowledged as it is; of
/// changes each has its own.
fn answers_to_two(way: Way) -> usize {
    if way.is_aggregated && !way.is_delta() { 1 } else { 2 }
}

fn number(nonce: &str) -> u64 {
    nonce.parse().expect("the plane's nonces are numbers")
}

#[tokio::test]
async fn clusters_are_acknowledged_once_all_of_them_can_be_used() {
    for way in WAYS {
        let scene = Scene::new(way).await;
        scene.add("late");
        scene.proxy.wait_for_stat(WARMING, 1).await;
        scene.holds_back(1).await;
        scene.add("later");
        scene.proxy.wait_for_stat(WARMING, 2).await;
        scene.holds_back(2).await;
        scene.give("late");
        scene.proxy.wait_for_stat(WARMING, 1).await;
        scene.holds_back(2).await;
        scene.give("later");
        scene.proxy.wait_for_stat(WARMING, 0).await;
        let answers = scene.wait_for_answers(answers_to_two(way)).await;
        assert!(answers.iter().all(|answer| answer.error.is_none()), "{answers:#?}");
        assert!(answers.iter().map(|answer| number(&answer.nonce)).is_sorted_by(|a, b| a < b), "{answers:#?}");
        scene.plane.remove(Kind::Cluster, "late");
        let count = answers.len() + 1;
        scene.wait_for_answers(count).await;
    }
}

#[tokio::test]
async fn a_cluster_that_goes_before_it_can_be_used_holds_nothing_back_any_more() {
    for way in WAYS {
        let scene = Scene::new(way).await;
        scene.add("late");
        scene.proxy.wait_for_stat(WARMING, 1).await;
        scene.holds_back(1).await;
        scene.plane.remove(Kind::Cluster, "late");
        scene.proxy.wait_for_stat(WARMING, 0).await;
        scene.wait_for_answers(answers_to_two(way)).await;
    }
}

#[tokio::test]
async fn a_cluster_is_used_without_endpoints_when_its_time_for_them_is_over() {
    for way in WAYS {
        let scene = Scene::new(way).await;
        let source = way.source("initial_fetch_timeout: 3s,");
        let late = cluster("late").replace("{ ads: {}, resource_api_version: V3 }", &source);
        scene.plane.set(Kind::Cluster, "late", &late);
        scene.proxy.wait_for_stat(WARMING, 1).await;
        scene.holds_back(1).await;
        scene.proxy.wait_for_stat(WARMING, 0).await;
        scene.wait_for_answers(1).await;
        assert_eq!(scene.proxy.stat("cluster.late.init_fetch_timeout").await, 1);
    }
}

/// A cluster that believes those whom a secret tells.
pub(super) fn safe(source: &str) -> String {
    let context = format!("{{ validation_context_sds_secret_config: {{ name: ca, sds_config: {source} }} }}");
    format!(
        "name: safe
connect_timeout: 1s
transport_socket:
  name: tls
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    common_tls_context: {context}"
    )
}

#[tokio::test]
async fn a_cluster_that_waits_for_a_secret_is_acknowledged_with_it() {
    for way in WAYS {
        let scene = Scene::new(way).await;
        scene.plane.set(Kind::Cluster, "safe", &safe(&way.source("")));
        scene.proxy.wait_for_stat(WARMING, 1).await;
        scene.holds_back(1).await;
        let ca = format!("name: ca\nvalidation_context: {{ trusted_ca: {{ filename: {CERTIFICATES}/ca.pem }} }}");
        scene.plane.set(Kind::Secret, "ca", &ca);
        scene.proxy.wait_for_stat(WARMING, 0).await;
        scene.wait_for_answers(1).await;
    }
}

#[tokio::test]
async fn a_cluster_is_acknowledged_after_its_first_health_check() {
    for way in WAYS {
        let scene = Scene::new(way).await;
        let silent = http1().answer("/", Answer::ok("").then(Then::Hang).after(Duration::from_secs(60))).start().await;
        let checked = format!("{}\nhealth_checks: [{CHECK}]", found(way, &cluster("checked")));
        scene.plane.set(Kind::Endpoints, "checked", &endpoints("checked", silent.port()));
        scene.plane.set(Kind::Cluster, "checked", &checked);
        scene.proxy.wait_for_stat(WARMING, 1).await;
        scene.holds_back(1).await;
        scene.proxy.wait_for_stat(WARMING, 0).await;
        scene.wait_for_answers(1).await;
        assert_eq!(scene.proxy.stat("cluster.checked.health_check.failure").await, 1);
    }
}

#[tokio::test]
async fn what_is_refused_meanwhile_is_told_with_the_rest() {
    for way in WAYS {
        let scene = Scene::new(way).await;
        scene.add("late");
        scene.proxy.wait_for_stat(WARMING, 1).await;
        scene.plane.set_bytes(Kind::Cluster, "broken", vec![0xff, 0xff]);
        scene.proxy.wait_for_stat("cluster_manager.cds.update_rejected", 1).await;
        scene.holds_back(2).await;
        scene.give("late");
        scene.proxy.wait_for_stat(WARMING, 0).await;
        let answers = scene.wait_for_answers(answers_to_two(way)).await;
        let last = &answers[answers.len() - 1];
        assert!(last.error.is_some(), "{way:?}: {answers:#?}");
    }
}
