//! What requests ask discovery for.

use super::support::DEADLINE;
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

fn host(name: &str, domain: &str, status: u16) -> String {
    format!(
        "name: {name}\ndomains: ['{domain}']\nroutes: [{{ match: {{ prefix: / }}, direct_response: {{ status: {status} }} }}]\n"
    )
}

async fn status_of(proxy: &Running, host: &str) -> u16 {
    fetch(proxy.addr(), &format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await.expect("an answer").status()
}

async fn wait_for_status_of(proxy: &Running, host: &str, wanted: u16) {
    let until = Instant::now() + DEADLINE;
    while status_of(proxy, host).await != wanted {
        assert!(Instant::now() < until, "no {wanted} came for {host}\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn a_virtual_host_is_asked_for(way: Way) {
    let plane = ControlPlane::start().await;
    plane.set(Kind::VirtualHost, "routes/a.test", &host("a", "a.test", 201));
    plane.set(Kind::VirtualHost, "routes/b.test", &host("b", "b.test", 202));
    let proxy = start(&Pieces {
        route_config: format!("vhds: {{ config_source: {} }}\n", way.source("")),
        vhosts: host("own", "own.test", 200).replace('\n', "\n  ").replacen("name:", "- name:", 1),
        ..pieces(way, &plane, "")
    });
    let proxy = proxy.run().await;
    assert_eq!(status_of(&proxy, "own.test").await, 200);
    assert_eq!(status_of(&proxy, "A.test").await, 201, "{way:?}\n{}", proxy.log());
    let asked = plane.wait_for(Kind::VirtualHost, |asked| asked.names.contains(&"routes/a.test".to_owned())).await;
    assert_eq!(asked.names, ["routes/a.test"]);
    assert_eq!(status_of(&proxy, "b.test").await, 202);
    assert_eq!(status_of(&proxy, "nowhere.test").await, 404);
    assert_eq!(status_of(&proxy, "own.test").await, 200);
    // They are followed from then on.
    plane.set(Kind::VirtualHost, "routes/a.test", &host("a", "a.test", 203));
    wait_for_status_of(&proxy, "a.test", 203).await;
    plane.set(Kind::VirtualHost, "routes/b.test", &host("b", "a.test", 204));
    let nack = plane.wait_for(Kind::VirtualHost, |asked| asked.error.is_some()).await.error.unwrap_or_default();
    assert!(nack.contains("domains must be unique"), "{nack}");
    assert_eq!((status_of(&proxy, "a.test").await, status_of(&proxy, "b.test").await), (203, 202));
    plane.remove(Kind::VirtualHost, "routes/a.test");
    wait_for_status_of(&proxy, "a.test", 404).await;
    // One that was not there is asked for again.
    plane.set(Kind::VirtualHost, "routes/nowhere.test", &host("late", "nowhere.test", 205));
    assert_eq!(status_of(&proxy, "nowhere.test").await, 205);
    for (stat, least) in [("update_attempt", 1), ("update_success", 4), ("update_rejected", 1), ("config_reload", 4)] {
        let value = proxy.stat(&format!("vhds.routes.{stat}")).await;
        assert!(value >= least, "{stat} is {value}");
    }
}

#[tokio::test]
async fn a_request_to_an_unknown_host_waits_for_its_virtual_host() {
    for way in deltas() {
        a_virtual_host_is_asked_for(way).await;
    }
}

#[tokio::test]
async fn routes_from_discovery_ask_for_virtual_hosts() {
    for gives_all in [false, true] {
        routes_ask_for_virtual_hosts(gives_all).await;
    }
}

async fn routes_ask_for_virtual_hosts(gives_all: bool) {
    let (way, plane) = (WAYS[1], ControlPlane::start().await);
    if gives_all {
        plane.give_all_hosts();
    }
    let source = way.source("");
    let table = |status: u16| {
        format!(
            "name: r\nvhds: {{ config_source: {source} }}\nvirtual_hosts: [{{ name: own, domains: [own.test], routes: [{{ match: {{ prefix: / }}, direct_response: {{ status: {status} }} }}] }}]"
        )
    };
    plane.set(Kind::Routes, "r", &table(200));
    plane.set(Kind::VirtualHost, "r/a.test", &host("a", "a.test", 201));
    let yaml = pieces(way, &plane, "").yaml().replace("$UPSTREAM", "1");
    let at = yaml.find("          route_config:").expect("there are routes");
    let end = yaml.find("          http_filters:").expect("there are filters");
    let rds = format!("          rds: {{ route_config_name: r, config_source: {source} }}\n");
    let proxy = proxy(format!("{}{rds}{}", &yaml[..at], &yaml[end..])).run().await;
    assert_eq!(status_of(&proxy, "a.test").await, 201, "{}", proxy.log());
    proxy.wait_for_stat("http.in.rds.vhds.r.config_reload", 1).await;
    let asked = plane.asked();
    let by_name =
        asked.iter().filter(|asked| asked.type_url == Kind::VirtualHost.type_url() && !asked.names.is_empty());
    assert_eq!(by_name.count(), usize::from(!gives_all), "what came with the first response is not asked for");
    plane.set(Kind::Routes, "r", &table(202));
    wait_for_status_of(&proxy, "own.test", 202).await;
    assert_eq!(status_of(&proxy, "a.test").await, 201, "what has come stays");
}

#[tokio::test]
async fn virtual_hosts_come_from_those_who_tell_changes_alone() {
    let plane = ControlPlane::start().await;
    let route_config = format!("vhds: {{ config_source: {} }}\n", WAYS[0].source(""));
    let started = start(&Pieces { route_config, ..pieces(WAYS[0], &plane, "") }).start().await;
    let refused = started.err().expect("it is refused").to_string();
    assert!(refused.contains("vhds.config_source: only DELTA_GRPC"), "{refused}");
}
