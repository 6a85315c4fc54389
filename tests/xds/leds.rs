//! Endpoints that are discovered one by one. All but the refusal of the state of the world holds for Envoy 1.40 too, seen
//! by `NUNCIO_BINARY`.

use super::{DELTA_GRPC, GRPC, Scene, endpoints, routes};
use crate::support::client;
use crate::support::control_plane::Kind;
use crate::support::upstream::{Upstream, http1};
use nuncio_proto::envoy::config::endpoint::v3::LbEndpoint;
use nuncio_proto::google::protobuf::UInt32Value;
use prost::Message as _;

const FOLDER: &str = "xdstp://auth/envoy.config.endpoint.v3.LbEndpoint";
const ADS: &str = "{ ads: {}, resource_api_version: V3 }";

fn collection(name: &str) -> String {
    format!("{FOLDER}/{name}/*")
}

/// A locality of which the endpoints are those of a collection.
fn locality(zone: &str, source: &str, name: &str) -> String {
    format!(
        "{{ locality: {{ zone: {zone} }}, leds_cluster_locality_config: {{ leds_config: {source}, leds_collection_name: '{name}' }} }}"
    )
}

fn assignment(localities: &[String]) -> String {
    format!("cluster_name: c\nendpoints: [{}]", localities.join(", "))
}

fn endpoint(upstream: &Upstream, further: &str) -> String {
    let port = upstream.port();
    format!("endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}\n{further}")
}

fn put(scene: &Scene, folder: &str, name: &str, upstream: &Upstream, further: &str) {
    scene.plane.set(Kind::LocalityEndpoint, &format!("{FOLDER}/{folder}/{name}"), &endpoint(upstream, further));
}

/// A cluster `c` of these localities, to which all routes go as soon as it serves.
async fn with_cluster(scene: &Scene, localities: &[String]) {
    scene.plane.set(Kind::Endpoints, "c", &assignment(localities));
    scene.plane.set(Kind::Cluster, "c", &super::cluster("c"));
    scene.proxy.wait_for_stat("cluster.c.update_success", 1).await;
}

async fn endpoints_come_change_and_go(source: &str) {
    let scene = Scene::new(DELTA_GRPC).await;
    let (x, y) = (http1().route("/", "x").start().await, http1().route("/", "y").start().await);
    put(&scene, "one", "1", &x, "");
    with_cluster(&scene, &[locality("z", source, &collection("one"))]).await;
    scene.plane.set(Kind::Routes, "routes", &routes("c"));
    scene.wait_for("x").await;
    scene.proxy.wait_for_stat("cluster.c.leds.update_success", 1).await;
    assert_eq!(scene.proxy.stat("cluster.c.membership_total").await, 1);
    // One more comes, the first one goes, and the other is another host.
    put(&scene, "one", "2", &y, "");
    scene.proxy.wait_for_stat("cluster.c.membership_total", 2).await;
    scene.wait_for("y").await;
    scene.plane.remove(Kind::LocalityEndpoint, &format!("{FOLDER}/one/1"));
    scene.proxy.wait_for_stat("cluster.c.membership_total", 1).await;
    assert_eq!(scene.get().await.text(), "y");
    put(&scene, "one", "2", &x, "");
    scene.wait_for("x").await;
    put(&scene, "one", "2", &x, "health_status: UNHEALTHY");
    scene.proxy.wait_for_stat("cluster.c.membership_healthy", 0).await;
    scene.proxy.wait_for_stat("cluster.c.leds.update_success", 5).await;
    assert_eq!(scene.proxy.stat("cluster.c.update_success").await, 1, "EDS has told nothing more");
    // What is refused leaves what was.
    let weightless = LbEndpoint { load_balancing_weight: Some(UInt32Value { value: 0 }), ..Default::default() };
    scene.plane.set_bytes(Kind::LocalityEndpoint, &format!("{FOLDER}/one/2"), weightless.encode_to_vec());
    let nack = scene.plane.wait_for(Kind::LocalityEndpoint, |asked| asked.error.is_some()).await;
    assert!(nack.error.is_some_and(|error| error.to_lowercase().contains("weight")));
    scene.proxy.wait_for_stat("cluster.c.leds.update_rejected", 1).await;
    put(&scene, "one", "2", &x, "");
    scene.proxy.wait_for_stat("cluster.c.membership_healthy", 1).await;
    // Another locality beside it, in its place, and none any longer.
    put(&scene, "two", "1", &y, "");
    let both = [locality("z", source, &collection("one")), locality("w", source, &collection("two"))];
    scene.plane.set(Kind::Endpoints, "c", &assignment(&both));
    scene.proxy.wait_for_stat("cluster.c.membership_total", 2).await;
    scene.plane.set(Kind::Endpoints, "c", &assignment(&both[1..]));
    scene.proxy.wait_for_stat("cluster.c.membership_total", 1).await;
    scene.wait_for("y").await;
    scene.plane.wait_for(Kind::LocalityEndpoint, |asked| asked.unsubscribed == [collection("one")]).await;
    scene.plane.set(Kind::Endpoints, "c", &endpoints("c", x.port()));
    scene.wait_for("x").await;
}

#[tokio::test]
async fn single_endpoints_come_change_and_go() {
    endpoints_come_change_and_go(ADS).await;
}

#[tokio::test]
async fn single_endpoints_come_over_a_stream_of_their_own() {
    endpoints_come_change_and_go(
        "{ resource_api_version: V3, api_config_source: { api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{ envoy_grpc: { cluster_name: xds } }] } }",
    )
    .await;
}

#[tokio::test]
async fn a_cluster_waits_for_its_endpoints_so_long_and_no_longer() {
    let scene = Scene::new(DELTA_GRPC).await;
    let source = "{ ads: {}, resource_api_version: V3, initial_fetch_timeout: 3s }";
    with_cluster(&scene, &[locality("z", source, &collection("none"))]).await;
    assert_eq!(scene.proxy.stat("cluster_manager.warming_clusters").await, 1);
    scene.proxy.wait_for_stat("cluster_manager.warming_clusters", 0).await;
    assert_eq!(scene.proxy.stat("cluster.c.leds.init_fetch_timeout").await, 1);
    assert_eq!(scene.proxy.stat("cluster.c.membership_total").await, 0);
    // It may still come.
    put(&scene, "none", "1", &http1().start().await, "");
    scene.proxy.wait_for_stat("cluster.c.membership_total", 1).await;
}

#[tokio::test]
async fn two_clusters_share_a_collection_each_with_a_locality_of_its_own() {
    let scene = Scene::new(DELTA_GRPC).await;
    let x = http1().route("/", "x").start().await;
    put(&scene, "one", "1", &x, "");
    with_cluster(&scene, &[locality("z", ADS, &collection("one"))]).await;
    scene.proxy.wait_for_stat("cluster.c.membership_total", 1).await;
    let other = assignment(&[locality("w", ADS, &collection("one"))]).replace("cluster_name: c", "cluster_name: d");
    scene.plane.set(Kind::Endpoints, "d", &other);
    scene.plane.set(Kind::Cluster, "d", &super::cluster("d"));
    scene.proxy.wait_for_stat("cluster.d.membership_total", 1).await;
    let clusters = scene.proxy.admin("/clusters").await;
    for (name, zone) in [("c", "z"), ("d", "w")] {
        let line = format!("{name}::127.0.0.1:{}::zone::{zone}", x.port());
        assert!(clusters.lines().any(|l| l == line), "{line}: {clusters}");
    }
    scene.plane.remove(Kind::Cluster, "c");
    scene.plane.remove(Kind::Endpoints, "c");
    scene.proxy.wait_for_stat("cluster_manager.cluster_removed", 1).await;
    put(&scene, "one", "2", &http1().start().await, "");
    scene.proxy.wait_for_stat("cluster.d.membership_total", 2).await;
}

async fn refused(api_type: &str, locality: &str, reason: &str) {
    let scene = Scene::new(api_type).await;
    scene.plane.set(Kind::Endpoints, "c", &assignment(&[locality.to_owned()]));
    scene.plane.set(Kind::Cluster, "c", &super::cluster("c"));
    let nack = scene.plane.wait_for(Kind::Endpoints, |asked| asked.error.is_some()).await;
    let error = nack.error.unwrap_or_default();
    assert!(error.contains(reason), "{error:?} does not tell of {reason:?}");
    assert_eq!(client::get(scene.front, "/").await.expect("it serves").text(), "a");
}

#[tokio::test]
async fn a_collection_that_is_none_is_refused() {
    for (name, reason) in [
        ("foo", "foo does not have a xdstp:, http: or file: scheme"),
        (
            "xdstp://auth/envoy.config.cluster.v3.Cluster/*",
            "xdstp:// type does not match envoy.config.endpoint.v3.LbEndpoint",
        ),
    ] {
        refused(DELTA_GRPC, &locality("z", ADS, name), reason).await;
    }
}

#[tokio::test]
async fn endpoints_beside_a_collection_are_refused() {
    let own = "lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } } }]";
    let both = locality("z", ADS, &collection("one")).replacen('{', &format!("{{ {own},"), 1);
    refused(DELTA_GRPC, &both, "A ClusterLoadAssignment for cluster c cannot include both LEDS (resource: ").await;
}

#[tokio::test]
async fn a_collection_of_endpoints_is_not_asked_for_as_the_state_of_the_world() {
    refused(GRPC, &locality("z", ADS, &collection("one")), "leds_config: only ADS and gRPC that tell changes").await;
}

/// Envoy 1.40 ends itself over the first of them, so that this is ours alone.
#[tokio::test]
async fn endpoints_whose_weights_are_too_much_together_are_refused() {
    let scene = Scene::new(DELTA_GRPC).await;
    let (x, y) = (http1().route("/", "x").start().await, http1().route("/", "y").start().await);
    put(&scene, "one", "1", &x, "load_balancing_weight: 4294967295");
    put(&scene, "two", "1", &y, "load_balancing_weight: 1");
    let first = locality("z", ADS, &collection("one"));
    let second = |priority: u32| {
        let of_priority = format!("{{ priority: {priority},");
        locality("w", ADS, &collection("two")).replacen('{', &of_priority, 1)
    };
    scene.plane.set(Kind::Endpoints, "c", &assignment(&[first.clone(), second(1)]));
    scene.plane.set(Kind::Cluster, "c", &format!("{}\nlb_policy: RING_HASH", super::cluster("c")));
    scene.proxy.wait_for_stat("cluster.c.membership_total", 2).await;
    let refusal = "The sum of weights of all upstream hosts in a locality exceeds 4294967295";
    // One more endpoint, and two localities that come together.
    put(&scene, "one", "2", &y, "load_balancing_weight: 1");
    let nack = scene.plane.wait_for(Kind::LocalityEndpoint, |asked| asked.error.is_some()).await;
    assert!(nack.error.is_some_and(|error| error.contains("one/2") && error.contains(refusal)));
    scene.proxy.wait_for_stat("cluster.c.leds.update_rejected", 1).await;
    scene.plane.remove(Kind::LocalityEndpoint, &format!("{FOLDER}/one/2"));
    scene.plane.set(Kind::Endpoints, "c", &assignment(&[first, second(0)]));
    let nack = scene.plane.wait_for(Kind::Endpoints, |asked| asked.error.is_some()).await;
    assert!(nack.error.is_some_and(|error| error.contains(refusal)));
    assert_eq!(scene.proxy.stat("cluster.c.membership_total").await, 2);
    // What fits is taken again.
    put(&scene, "one", "1", &x, "load_balancing_weight: 1");
    put(&scene, "one", "2", &http1().start().await, "load_balancing_weight: 1");
    scene.proxy.wait_for_stat("cluster.c.membership_total", 3).await;
}
