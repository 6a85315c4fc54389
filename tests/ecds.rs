//! Configurations of filters that come by discovery.

use super::support::DEADLINE;
use super::support::bootstrap::Pieces;
use super::support::client::get;
use super::support::control_plane::{ControlPlane, Kind, WAYS, Way};
use super::support::http1::Message;
use super::support::proxy::{Proxy, Running, proxy};
use std::time::{Duration, Instant};

const MUTATION: &str = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
const LIMIT: &str = "type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit";
const INSPECTOR: &str = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const BUFFER: &str = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer";

/// Adds a header to responses.
fn mutation(value: &str) -> String {
    format!(
        "{{ '@type': {MUTATION}, mutations: {{ response_mutations: [{{ append: {{ header: {{ key: x-found, value: {value} }} }} }}] }} }}"
    )
}

fn limit(max: u32) -> String {
    format!("{{ '@type': {LIMIT}, stat_prefix: limit, max_connections: {max} }}")
}

fn resource(name: &str, config: &str) -> String {
    format!("name: {name}\ntyped_config: {config}\n")
}

fn file(name: &str, config: &str) -> String {
    format!(
        "version_info: '1'\nresources:\n- '@type': type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig\n  name: {name}\n  typed_config: {config}\n"
    )
}

/// A filter that is called `name` and configured by discovery.
fn discovered(name: &str, source: &str, message: &str, further: &str) -> String {
    format!("- name: {name}\n  config_discovery: {{ config_source: {source}, type_urls: ['{message}']{further} }}\n")
}

fn from_file(name: &str) -> String {
    format!("{{ path_config_source: {{ path: $DIR/{name}.yaml }} }}")
}

/// Answers every request itself.
fn answering(pieces: Pieces) -> Proxy {
    let routes = "- match: { prefix: / }\n  direct_response: { status: 200 }\n".to_owned();
    // No request gets there.
    proxy(Pieces { routes, ..pieces }.yaml().replace("$UPSTREAM", "1"))
}

async fn answer(proxy: &Running) -> Message {
    get(proxy.addr(), "/").await.expect("an answer")
}

async fn wait_for_header(proxy: &Running, wanted: Option<&str>) {
    let until = Instant::now() + DEADLINE;
    while answer(proxy).await.header("x-found") != wanted {
        assert!(Instant::now() < until, "no {wanted:?} came\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn files_configure_filters_of_every_kind() {
    let pieces = Pieces {
        filters: discovered("http", &from_file("http"), MUTATION, ""),
        network: String::new(),
        listener: format!("listener_filters:\n{}", discovered("inspector", &from_file("inspector"), INSPECTOR, "")),
        ..Pieces::default()
    };
    let yaml = answering(pieces);
    let proxy = yaml
        .file("http.yaml", &file("http", &mutation("one")))
        .file("inspector.yaml", &file("inspector", &format!("{{ '@type': {INSPECTOR} }}")))
        .run()
        .await;
    assert_eq!(answer(&proxy).await.header("x-found"), Some("one"), "it is waited for");
    // What is refused changes nothing.
    for (rejected, config) in [
        (1, file("http", &format!("{{ '@type': {BUFFER}, max_request_bytes: 5 }}"))),
        (2, file("other", &mutation("two"))),
    ] {
        proxy.replace("http.yaml", &config);
        proxy.wait_for_stat("extension_config_discovery.http_filter.http.update_rejected", rejected).await;
    }
    assert_eq!(answer(&proxy).await.header("x-found"), Some("one"));
    proxy.replace("http.yaml", &file("http", &mutation("two")));
    wait_for_header(&proxy, Some("two")).await;
    for (stat, value) in [
        ("http_filter.http.config_reload", 2),
        ("http_filter.http.config_fail", 2),
        ("http_filter.http.config_conflict", 0),
        ("http_filter.http.update_attempt", 4),
        ("http_filter.http.update_success", 2),
        ("tcp_listener_filter.inspector.config_reload", 1),
        ("tcp_listener_filter.inspector.update_success", 1),
    ] {
        assert_eq!(proxy.stat(&format!("extension_config_discovery.{stat}")).await, value, "{stat}");
    }
    let dump = proxy.admin("/config_dump").await;
    assert_eq!(dump.matches("envoy.admin.v3.EcdsConfigDump").count(), 2, "{dump}");
    assert!(dump.contains("ecds_filters") && dump.contains("\"two\""), "{dump}");
}

/// A proxy that asks for filters in this way.
fn asking(way: Way, plane: &ControlPlane, further: &str, default: &str) -> Proxy {
    let source = way.source(further);
    let dynamic = if way.is_aggregated { format!("dynamic_resources: {{ {} }}\n", way.ads()) } else { String::new() };
    let pieces = Pieces {
        bootstrap: format!("node: {{ id: me, cluster: us }}\n{dynamic}"),
        clusters: plane.cluster(),
        filters: discovered("http", &source, MUTATION, default),
        ..Pieces::default()
    };
    answering(pieces)
}

async fn a_filter_is_followed(way: Way) {
    let plane = ControlPlane::start().await;
    plane.set(Kind::Extension, "http", &resource("http", &mutation("one")));
    let proxy = asking(way, &plane, "", "").run().await;
    assert_eq!(answer(&proxy).await.header("x-found"), Some("one"), "it is waited for ({way:?})");
    let buffer = format!("{{ '@type': {BUFFER}, max_request_bytes: 5 }}");
    plane.set(Kind::Extension, "http", &resource("http", &buffer));
    let nack = plane.wait_for(Kind::Extension, |asked| asked.error.is_some()).await.error.unwrap_or_default();
    assert!(nack.contains("http: typed_config.@type: filter config has type URL"), "{nack}");
    assert_eq!(answer(&proxy).await.header("x-found"), Some("one"), "the old one is in force");
    plane.set(Kind::Extension, "http", &resource("http", &mutation("two")));
    wait_for_header(&proxy, Some("two")).await;
    plane.remove(Kind::Extension, "http");
    if way.is_delta() {
        let until = Instant::now() + DEADLINE;
        while answer(&proxy).await.status() != 500 {
            assert!(Instant::now() < until, "{way:?}\n{}", proxy.log());
        }
    }
    let scope = if way.is_aggregated { "" } else { "extension_config_discovery.http_filter.http." };
    assert_eq!(proxy.stat(&format!("{scope}control_plane.connected_state")).await, 1, "{way:?}");
}

#[tokio::test]
async fn a_control_plane_configures_http_filters_in_every_way() {
    for way in WAYS {
        a_filter_is_followed(way).await;
    }
}

#[tokio::test]
async fn a_configuration_that_does_not_come_is_500_or_the_default() {
    let plane = ControlPlane::start().await;
    let default = format!(", default_config: {}", mutation("default"));
    let without = asking(WAYS[0], &plane, "initial_fetch_timeout: 0.2s,", "").run().await;
    assert_eq!(answer(&without).await.status(), 500);
    assert_eq!(without.stat("extension_config_discovery.http_filter.http.config_fail").await, 1);
    let with = asking(WAYS[0], &plane, "initial_fetch_timeout: 0.2s,", &default).run().await;
    assert_eq!(answer(&with).await.header("x-found"), Some("default"));
    let at_once = format!("{default}, apply_default_config_without_warming: true");
    let at_once = asking(WAYS[1], &plane, "initial_fetch_timeout: 0s,", &at_once).run().await;
    assert_eq!(answer(&at_once).await.header("x-found"), Some("default"), "nobody waits");
    plane.set(Kind::Extension, "http", &resource("http", &mutation("one")));
    for proxy in [&without, &with, &at_once] {
        wait_for_header(proxy, Some("one")).await;
    }
    plane.remove(Kind::Extension, "http");
    wait_for_header(&at_once, Some("default")).await;
}

#[tokio::test]
async fn clusters_wait_for_their_filters_and_find_what_came_for_others() {
    let (way, plane) = (WAYS[0], ControlPlane::start().await);
    let source = way.source("");
    plane.set(Kind::Extension, "http", &resource("http", &mutation("one")));
    let cds = way.source("initial_fetch_timeout: 0.2s,");
    let proxy = answering(Pieces {
        bootstrap: format!(
            "node: {{ id: me, cluster: us }}\ndynamic_resources: {{ cds_config: {cds}, {} }}\n",
            way.ads()
        ),
        clusters: plane.cluster(),
        filters: discovered("http", &source, MUTATION, ""),
        ..Pieces::default()
    });
    let proxy = proxy.run().await;
    let active = proxy.stat("cluster_manager.active_clusters").await;
    let cluster = |name: &str, filter: &str| {
        format!(
            "name: {name}
connect_timeout: 1s
load_assignment: {{ cluster_name: {name} }}
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {{ http_protocol_options: {{}} }}
    http_filters:
    - {{ name: {filter}, config_discovery: {{ config_source: {source}, type_urls: ['{MUTATION}'] }} }}
    - {{ name: codec, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec }} }}
"
        )
    };
    plane.set(Kind::Cluster, "late", &cluster("late", "http"));
    proxy.wait_for_stat("cluster_manager.active_clusters", active + 1).await;
    assert_eq!(proxy.stat("cluster_manager.warming_clusters").await, 0);
    plane.set(Kind::Cluster, "waiting", &cluster("waiting", "coming"));
    proxy.wait_for_stat("cluster_manager.warming_clusters", 1).await;
    plane.set(Kind::Extension, "coming", &resource("coming", &mutation("two")));
    proxy.wait_for_stat("cluster_manager.active_clusters", active + 2).await;
}

#[tokio::test]
async fn connections_whose_filters_have_no_configuration_are_closed() {
    let plane = ControlPlane::start().await;
    let way = WAYS[1];
    let source = way.source("initial_fetch_timeout: 0.2s,");
    let hcm = |prefix: &str| {
        format!(
            "- name: hcm
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {prefix}
          route_config: {{ virtual_hosts: [{{ name: all, domains: ['*'], routes: [{{ match: {{ prefix: / }}, direct_response: {{ status: 200 }} }}] }}] }}
          http_filters: [{{ name: router, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]"
        )
    };
    let yaml = format!(
        "node: {{ id: me, cluster: us }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
dynamic_resources: {{ {ads} }}
static_resources:
  clusters:
  {cluster}
  listeners:
  - name: network
    stat_prefix: network
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - {{ name: limit, config_discovery: {{ config_source: {source}, type_urls: ['{LIMIT}'] }} }}
      {network}
  - name: inspected
    stat_prefix: inspected
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    listener_filters:
    - {{ name: inspector, config_discovery: {{ config_source: {source}, type_urls: ['{INSPECTOR}'] }} }}
    filter_chains:
    - filters:
      {inspected}
",
        ads = way.ads(),
        cluster = plane.cluster().replace('\n', "\n  "),
        network = hcm("network"),
        inspected = hcm("inspected"),
    );
    let proxy = proxy(yaml).run().await;
    for (listener, stat) in [("network", "network_extension_config_missing"), ("inspected", "extension_config_missing")]
    {
        assert!(get(proxy.listener(listener), "/").await.is_err(), "it is closed");
        proxy.wait_for_stat(&format!("listener.{listener}.{stat}"), 1).await;
    }
    plane.set(Kind::Extension, "limit", &resource("limit", &limit(100)));
    plane.set(Kind::Extension, "inspector", &resource("inspector", &format!("{{ '@type': {INSPECTOR} }}")));
    let until = Instant::now() + DEADLINE;
    for listener in ["network", "inspected"] {
        while get(proxy.listener(listener), "/").await.map_or(0, |answer| answer.status()) != 200 {
            assert!(Instant::now() < until, "{listener}\n{}", proxy.log());
        }
    }
    // Connections that are open keep what they began with; new ones get the new limit.
    plane.set(Kind::Extension, "limit", &resource("limit", &limit(1)));
    proxy.wait_for_stat("extension_config_discovery.network_filter.limit.config_reload", 2).await;
    assert_eq!(get(proxy.listener("network"), "/").await.expect("one may come").status(), 200);
}
