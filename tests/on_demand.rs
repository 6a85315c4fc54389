//! What requests ask discovery for.

use super::support::bootstrap::Pieces;
use super::support::client::fetch;
use super::support::control_plane::{ControlPlane, Kind, WAYS, Way};
use super::support::proxy::{Proxy, Running, proxy};
use super::support::upstream::{Upstream, http1};
use std::time::{Duration, Instant};

const ON_DEMAND: &str = "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand";

fn deltas() -> impl Iterator<Item = Way> {
    WAYS.into_iter().filter(|way| way.is_delta())
}

/// Pieces of a proxy that has the filter, configured by `config`, and asks in this way.
fn pieces(way: Way, plane: &ControlPlane, config: &str) -> Pieces {
    let dynamic = if way.is_aggregated { format!("dynamic_resources: {{ {} }}\n", way.ads()) } else { String::new() };
    Pieces {
        bootstrap: format!("node: {{ id: me, cluster: us }}\n{dynamic}"),
        clusters: plane.cluster(),
        filters: format!("- {{ name: on_demand, typed_config: {{ '@type': {ON_DEMAND}{config} }} }}\n"),
        ..Pieces::default()
    }
}

fn start(pieces: &Pieces) -> Proxy {
    // No request gets there.
    proxy(pieces.yaml().replace("$UPSTREAM", "1"))
}

async fn status(proxy: &Running, path: &str, header: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n{header}\r\n\r\n");
    fetch(proxy.addr(), &request).await.expect("an answer").status()
}

fn cluster(name: &str, upstream: &Upstream) -> String {
    let port = upstream.port();
    format!(
        "name: {name}
connect_timeout: 1s
load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}"
    )
}

const BY_HEADER: &str = "- match: { prefix: /without }
  route: { cluster_header: x-cluster }
  typed_per_filter_config:
    on_demand: { '@type': type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.PerRouteConfig }
- match: { prefix: / }
  route: { cluster_header: x-cluster }
";

async fn a_cluster_is_asked_for(way: Way) {
    let (plane, upstream) = (ControlPlane::start().await, http1().route("/", "there").start().await);
    plane.set(Kind::Cluster, "c", &cluster("c", &upstream));
    let odcds = format!(", odcds: {{ source: {}, timeout: 0.3s }}", way.source(""));
    let proxy = start(&Pieces { routes: BY_HEADER.to_owned(), ..pieces(way, &plane, &odcds) }).run().await;
    assert_eq!(status(&proxy, "/without", "x-cluster: c").await, 503, "the route does not ask");
    assert_eq!(proxy.stat("cluster_manager.active_clusters").await, 2);
    assert_eq!(status(&proxy, "/", "x-cluster: c").await, 200, "{way:?}\n{}", proxy.log());
    assert_eq!(status(&proxy, "/without", "x-cluster: c").await, 200, "now it is there");
    assert_eq!(proxy.stat("cluster_manager.cluster_added").await, 3);
    assert!(proxy.stat("cluster_manager.odcds.update_success").await >= 1);
    let begun = Instant::now();
    assert_eq!(status(&proxy, "/", "x-cluster: nowhere").await, 503);
    assert!(begun.elapsed() >= Duration::from_millis(300), "it is waited for");
    // It comes later, is changed and goes.
    plane.set(Kind::Cluster, "nowhere", &cluster("nowhere", &upstream));
    proxy.wait_for_stat("cluster_manager.cluster_added", 4).await;
    assert_eq!(status(&proxy, "/", "x-cluster: nowhere").await, 200);
    plane.remove(Kind::Cluster, "c");
    proxy.wait_for_stat("cluster_manager.cluster_removed", 1).await;
    assert_eq!(status(&proxy, "/without", "x-cluster: c").await, 503);
    plane.set(Kind::Cluster, "c", &cluster("c", &upstream));
    assert_eq!(status(&proxy, "/", "x-cluster: c").await, 200, "it is asked for again");
}

#[tokio::test]
async fn a_request_to_an_unknown_cluster_waits_until_it_is_there() {
    for way in deltas() {
        a_cluster_is_asked_for(way).await;
    }
}

#[tokio::test]
async fn clusters_are_not_asked_for_where_the_state_of_the_world_is_told() {
    let plane = ControlPlane::start().await;
    let odcds = format!(", odcds: {{ source: {} }}", WAYS[0].source(""));
    let refused = start(&pieces(WAYS[0], &plane, &odcds)).start().await.err().expect("it is refused").to_string();
    assert!(refused.contains("odcds.source: only ADS and gRPC that tell changes"), "{refused}");
}

#[tokio::test]
async fn a_request_waits_for_the_routes_of_a_scope_that_is_on_demand() {
    for way in WAYS {
        let plane = ControlPlane::start().await;
        let scope = "name: s\nroute_configuration_name: r\non_demand: true\nkey: { fragments: [{ string_key: k }] }";
        plane.set(Kind::Scope, "s", scope);
        plane.set(
            Kind::Routes,
            "r",
            "name: r\nvirtual_hosts: [{ name: all, domains: ['*'], routes: [{ match: { prefix: / }, direct_response: { status: 201 } }] }]",
        );
        let source = way.source("");
        let scoped_routes = format!(
            "name: scoped
scope_key_builder: {{ fragments: [{{ header_value_extractor: {{ name: x-scope, index: 0 }} }}] }}
rds_config_source: {source}
scoped_rds: {{ scoped_rds_config_source: {source} }}
"
        );
        let proxy = start(&Pieces { scoped_routes, ..pieces(way, &plane, "") }).run().await;
        assert_eq!(proxy.stat("http.in.scoped_rds.scoped.active_scopes").await, 0);
        assert_eq!(status(&proxy, "/", "x-scope: none").await, 404);
        assert_eq!(status(&proxy, "/", "x-scope: k").await, 201, "{way:?}\n{}", proxy.log());
        assert_eq!(proxy.stat("http.in.scoped_rds.scoped.active_scopes").await, 1);
    }
}
