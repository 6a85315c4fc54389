//! A control plane drives the proxy: aggregated discovery in both dialects, under the eyes of a client.

mod bad;
mod cache;
mod google;
mod leds;
mod live;
mod pages;
mod plane;
mod random;
mod rest;
mod several;
mod status;
mod warming;
mod withdrawn;
mod xdstp;

use super::support::client;
use super::support::control_plane::{Asked, ControlPlane, Kind, cluster_at};
use super::support::http1::Message;
use super::support::ports::free_port;
use super::support::proxy::{Proxy, Running, proxy};
use super::support::upstream::{Upstream, http1};
use nuncio_proto::envoy::config::cluster::v3::Cluster as ClusterMessage;
use nuncio_proto::envoy::service::discovery::v3::{self as discovery, DiscoveryResponse};
use nuncio_proto::google::protobuf::{Any, Duration};
use prost::Message as _;
use std::net::SocketAddr;

const GRPC: &str = "GRPC";
const DELTA_GRPC: &str = "DELTA_GRPC";

fn bootstrap(plane: &ControlPlane, api_type: &str) -> Proxy {
    bootstrap_at(plane.port(), api_type)
}

/// The control plane is, or will be, at this port.
fn bootstrap_at(port: u16, api_type: &str) -> Proxy {
    proxy(bootstrap_text(port, api_type))
}

fn bootstrap_text(port: u16, api_type: &str) -> String {
    let cluster = cluster_at(port).trim_end().replace('\n', "\n  ");
    format!(
        "node: {{ id: me, cluster: us }}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{{ envoy_grpc: {{ cluster_name: xds }} }}]
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}
  lds_config: {{ ads: {{}}, resource_api_version: V3 }}
layered_runtime:
  layers: [{{ name: found, rtds_layer: {{ name: layer, rtds_config: {{ ads: {{}}, resource_api_version: V3 }} }} }}]
static_resources:
  clusters:
  {cluster}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
"
    )
}

/// A listener at this port that asks for its routes.
fn listener(port: u16) -> String {
    format!(
        "name: front
address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: front
      rds: {{ route_config_name: routes, config_source: {{ ads: {{}}, resource_api_version: V3 }} }}
      http_filters:
      - name: found
        config_discovery:
          config_source: {{ ads: {{}}, resource_api_version: V3 }}
          type_urls: [type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation]
      - name: router
        typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
"
    )
}

/// The same without a filter that is asked for.
fn plain_listener(port: u16) -> String {
    let yaml = listener(port);
    let (before, rest) = yaml.split_once("      - name: found").expect("it has a filter that is found");
    let (_, router) = rest.split_once("      - name: router").expect("it has a router");
    format!("{before}      - name: router{router}")
}

/// The filter `found`, which marks responses.
fn filter(mark: &str) -> String {
    format!(
        "name: found
typed_config:
  '@type': type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
  mutations: {{ response_mutations: [{{ append: {{ header: {{ key: x-found, value: {mark} }} }} }}] }}"
    )
}

fn runtime(mark: &str) -> String {
    format!("name: layer\nlayer: {{ mark: {mark} }}")
}

fn routes(cluster: &str) -> String {
    format!(
        "name: routes
virtual_hosts: [{{ name: all, domains: ['*'], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }}] }}]"
    )
}

fn cluster(name: &str) -> String {
    format!(
        "name: {name}
type: EDS
connect_timeout: 1s
eds_cluster_config: {{ eds_config: {{ ads: {{}}, resource_api_version: V3 }} }}"
    )
}

fn endpoints(name: &str, port: u16) -> String {
    format!(
        "cluster_name: {name}
endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}]"
    )
}

/// A proxy that has all of its configuration from a control plane, and serves `a` by it.
struct Scene {
    plane: ControlPlane,
    proxy: Running,
    a: Upstream,
    b: Upstream,
    front: SocketAddr,
}

impl Scene {
    async fn new(api_type: &str) -> Self {
        Self::with_arguments(api_type, &[]).await
    }

    async fn with_arguments(api_type: &str, arguments: &[&str]) -> Self {
        let plane = ControlPlane::start().await;
        let (a, b) = (http1().route("/", "a").start().await, http1().route("/", "b").start().await);
        let port = free_port();
        plane.set(Kind::Cluster, "a", &cluster("a"));
        plane.set(Kind::Endpoints, "a", &endpoints("a", a.port()));
        plane.set(Kind::Listener, "front", &listener(port));
        plane.set(Kind::Routes, "routes", &routes("a"));
        plane.set(Kind::Extension, "found", &filter("first"));
        plane.set(Kind::Runtime, "layer", &runtime("first"));
        let proxy = arguments.iter().fold(bootstrap(&plane, api_type), |proxy, argument| proxy.argument(argument));
        let proxy = proxy.run().await;
        Self { plane, proxy, a, b, front: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    async fn get(&self) -> Message {
        client::get(self.front, "/").await.expect("the listener answers")
    }

    /// Waits until requests are answered by this body.
    async fn wait_for(&self, body: &str) {
        wait_for_body(&self.proxy, self.front, body).await;
    }
}

/// Waits until requests to this address are answered by this body.
async fn wait_for_body(proxy: &Running, front: SocketAddr, body: &str) {
    let until = tokio::time::Instant::now() + super::support::DEADLINE;
    loop {
        let now = match client::get(front, "/").await {
            Ok(response) => response.text(),
            Err(error) => error.to_string(),
        };
        if now == body {
            return;
        }
        assert!(tokio::time::Instant::now() < until, "{now:?} is not {body:?}\n{}", proxy.log());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn serves_and_follows(api_type: &str) {
    let scene = Scene::new(api_type).await;
    assert_eq!(scene.get().await.text(), "a");
    // Hosts of a cluster.
    scene.plane.set(Kind::Endpoints, "a", &endpoints("a", scene.b.port()));
    scene.wait_for("b").await;
    // A new cluster, its endpoints, and then the route to it: nothing is lost on the way.
    scene.plane.set(Kind::Cluster, "c", &cluster("c"));
    scene.plane.set(Kind::Endpoints, "c", &endpoints("c", scene.a.port()));
    scene.plane.set(Kind::Routes, "routes", &routes("c"));
    scene.wait_for("a").await;
    scene.plane.remove(Kind::Cluster, "a");
    scene.proxy.wait_for_stat("cluster_manager.cluster_removed", 1).await;
    assert_eq!(scene.get().await.text(), "a");
    assert_eq!(scene.proxy.stat("control_plane.connected_state").await, 1);
}

#[tokio::test]
async fn the_state_of_the_world_is_followed() {
    serves_and_follows(GRPC).await;
}

#[tokio::test]
async fn changes_are_followed() {
    serves_and_follows(DELTA_GRPC).await;
}

async fn a_bad_resource_is_refused_and_the_good_ones_serve(api_type: &str) {
    let scene = Scene::new(api_type).await;
    scene.plane.set(Kind::Cluster, "broken", "name: broken\ntype: EDS");
    scene.plane.set(Kind::Cluster, "c", &cluster("c"));
    scene.plane.set(Kind::Endpoints, "c", &endpoints("c", scene.b.port()));
    let nack = scene.plane.wait_for(Kind::Cluster, |asked| asked.error.is_some()).await;
    assert!(!nack.error.unwrap_or_default().is_empty());
    scene.plane.set(Kind::Routes, "routes", &routes("c"));
    scene.wait_for("b").await;
    // As soon as it is mended, it is acknowledged.
    scene.plane.set(Kind::Cluster, "broken", &cluster("broken"));
    let number = |nonce: &str| nonce.parse::<u64>().unwrap_or_default();
    let refused = number(&nack.nonce);
    scene.plane.wait_for(Kind::Cluster, |asked| asked.error.is_none() && number(&asked.nonce) > refused).await;
}

#[tokio::test]
async fn a_bad_resource_costs_itself_alone_in_the_state_of_the_world() {
    a_bad_resource_is_refused_and_the_good_ones_serve(GRPC).await;
}

#[tokio::test]
async fn a_bad_resource_costs_itself_alone_among_changes() {
    a_bad_resource_is_refused_and_the_good_ones_serve(DELTA_GRPC).await;
}

async fn what_is_malformed_costs_all(api_type: &str) {
    let scene = Scene::new(api_type).await;
    scene.plane.set_bytes(Kind::Cluster, "broken", vec![0xff, 0xff]);
    let nack = scene.plane.wait_for(Kind::Cluster, |asked| asked.error.is_some()).await;
    let connect_timeout = Some(Duration { seconds: 0, nanos: 0 });
    let broken = ClusterMessage { name: "broken".to_owned(), connect_timeout, ..ClusterMessage::default() };
    scene.plane.set_bytes(Kind::Cluster, "broken", broken.encode_to_vec());
    let number = |nonce: &str| nonce.parse::<u64>().unwrap_or_default();
    let refused = number(&nack.nonce);
    let again = |asked: &Asked| asked.error.is_some() && number(&asked.nonce) > refused;
    let error = scene.plane.wait_for(Kind::Cluster, again).await.error.unwrap_or_default();
    assert!(error.contains("connect_timeout"), "{error}");
    assert_eq!(scene.get().await.text(), "a", "what was there serves");
    assert_eq!(scene.proxy.stat("cluster_manager.cds.update_rejected").await, 2);
    scene.plane.set(Kind::Cluster, "broken", &cluster("broken"));
    scene.proxy.wait_for_stat("cluster_manager.cluster_added", 3).await;
}

#[tokio::test]
async fn what_is_malformed_costs_all_that_came_with_it_in_the_state_of_the_world() {
    what_is_malformed_costs_all(GRPC).await;
}

#[tokio::test]
async fn what_is_malformed_costs_all_that_came_with_it_among_changes() {
    what_is_malformed_costs_all(DELTA_GRPC).await;
}

async fn after_a_disconnection(api_type: &str) -> (Scene, Vec<Asked>) {
    let scene = Scene::new(api_type).await;
    let before = scene.plane.asked().len();
    scene.plane.disconnect();
    let until = tokio::time::Instant::now() + super::support::DEADLINE;
    while scene.plane.streams() < 2 {
        assert!(tokio::time::Instant::now() < until, "no second stream");
        assert_eq!(scene.get().await.text(), "a", "the last configuration serves");
    }
    scene.plane.set(Kind::Endpoints, "a", &endpoints("a", scene.b.port()));
    scene.wait_for("b").await;
    let asked = scene.plane.asked().split_off(before);
    (scene, asked)
}

#[tokio::test]
async fn a_lost_control_plane_leaves_all_serving_and_is_found_again() {
    let (_scene, asked) = after_a_disconnection(GRPC).await;
    assert_eq!(asked[0].node.as_deref(), Some("me"), "a new stream tells who asks");
    assert!(!asked[0].version.is_empty() && asked[0].nonce.is_empty(), "{:?}", asked[0]);
}

#[tokio::test]
async fn a_new_stream_of_changes_tells_what_is_known() {
    let (_scene, asked) = after_a_disconnection(DELTA_GRPC).await;
    let known: Vec<_> = asked[..2].iter().map(|asked| (asked.type_url.as_str(), asked.known.as_slice())).collect();
    assert_eq!(
        known,
        [(Kind::Runtime.type_url(), &["layer".to_owned()][..]), (Kind::Cluster.type_url(), &["a".to_owned()][..])]
    );
}

/// A state of the world that holds but the heartbeat of one resource, which then has so many seconds to live.
fn heartbeat(kind: Kind, name: &str, seconds: i64) -> DiscoveryResponse {
    let beat =
        discovery::Resource { name: name.to_owned(), ttl: Some(Duration { seconds, nanos: 0 }), ..Default::default() };
    let any = Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned(),
        value: beat.encode_to_vec(),
    };
    DiscoveryResponse {
        version_info: "beat".to_owned(),
        resources: vec![any],
        type_url: kind.type_url().to_owned(),
        nonce: format!("beat of {name}"),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_heartbeat_keeps_its_resource_until_its_time_is_over() {
    let scene = Scene::new(GRPC).await;
    for (kind, name) in [(Kind::Cluster, "a"), (Kind::Listener, "front")] {
        scene.plane.send(heartbeat(kind, name, 600));
        scene.plane.wait_for(kind, |asked| asked.version == "beat" && asked.error.is_none()).await;
    }
    assert_eq!(scene.get().await.text(), "a");
    for stat in ["cluster_manager.cluster_removed", "listener_manager.listener_removed"] {
        assert_eq!(scene.proxy.stat(stat).await, 0, "{stat}");
    }
    scene.plane.send(heartbeat(Kind::Cluster, "a", 1));
    scene.proxy.wait_for_stat("cluster_manager.cluster_removed", 1).await;
}
