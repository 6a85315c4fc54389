//! The admin interface over its own socket.

use crate::support::bootstrap::Pieces;
use crate::support::client::{fetch, get};
use crate::support::control_plane::{ControlPlane, Kind, WAYS};
use crate::support::http1::Message;
use crate::support::proxy::{Proxy, Running, proxy};
use crate::support::upstream::http1;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

async fn running() -> Running {
    proxy(Pieces::default().yaml()).upstream(http1()).run().await
}

async fn ask(proxy: &Running, method: &str, path: &str) -> Message {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    fetch(proxy.admin, &request).await.expect("admin answers")
}

#[tokio::test]
async fn every_page_answers() {
    let proxy = running().await;
    let pages = [
        ("/", "<"),
        ("/help", "/stats"),
        ("/ready", "LIVE"),
        ("/server_info", "\"state\": \"LIVE\""),
        ("/stats", "server.live: 1"),
        ("/stats?format=json", "\"stats\""),
        ("/stats/prometheus", "# TYPE envoy_server_live gauge"),
        ("/stats?format=prometheus", "envoy_server_live{} 1"),
        ("/clusters", "up::default_priority::max_connections::1024"),
        ("/clusters?format=json", "\"cluster_statuses\""),
        ("/listeners", "main::127.0.0.1:"),
        ("/listeners?format=json", "\"listener_statuses\""),
        ("/config_dump", "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump"),
        ("/memory", "\"allocated\""),
        ("/init_dump", "{"),
        ("/xds", ""),
    ];
    for (path, wanted) in pages {
        let response = get(proxy.admin, path).await.expect("admin answers");
        assert_eq!(response.status(), 200, "{path}");
        assert!(response.text().contains(wanted), "{path} lacks {wanted}:\n{:.2000}", response.text());
    }
}

#[tokio::test]
async fn an_unknown_page_lists_the_known_ones() {
    let proxy = running().await;
    let response = get(proxy.admin, "/nowhere").await.expect("admin answers");
    assert_eq!(response.status(), 404);
    assert!(response.text().contains("/config_dump"), "{}", response.text());
}

#[tokio::test]
async fn what_changes_something_takes_post_alone() {
    let proxy = running().await;
    for path in ["/quitquitquit", "/healthcheck/fail", "/healthcheck/ok", "/drain_listeners", "/logging"] {
        assert_eq!(ask(&proxy, "GET", path).await.status(), 405, "{path}");
    }
    assert_eq!(get(proxy.admin, "/ready").await.expect("admin answers").status(), 200);
}

#[tokio::test]
async fn stats_are_filtered_by_use_and_by_name() {
    let proxy = running().await;
    get(proxy.addr(), "/").await.expect("the proxy answers");
    let used = get(proxy.admin, "/stats?usedonly&filter=^http.in.downstream_rq").await.expect("admin answers").text();
    assert!(used.lines().all(|line| line.starts_with("http.in.downstream_rq")), "{used}");
    assert!(used.contains("http.in.downstream_rq_2xx: 1\n"), "{used}");
    assert!(!used.contains("downstream_rq_5xx"), "{used}");
    let bad = get(proxy.admin, "/stats?filter=(").await.expect("admin answers");
    assert_eq!(bad.status(), 400, "{}", bad.text());
}

#[tokio::test]
async fn a_failed_health_check_is_told_and_taken_back() {
    let proxy = running().await;
    assert_eq!(ask(&proxy, "POST", "/healthcheck/fail").await.text(), "OK\n");
    assert_eq!(get(proxy.admin, "/ready").await.expect("admin answers").status(), 503);
    assert_eq!(ask(&proxy, "POST", "/healthcheck/ok").await.text(), "OK\n");
    assert_eq!(get(proxy.admin, "/ready").await.expect("admin answers").status(), 200);
}

#[tokio::test]
async fn levels_of_logging_are_listed_and_set() {
    let proxy = running().await;
    assert!(ask(&proxy, "POST", "/logging").await.text().contains("active loggers"));
    assert_eq!(ask(&proxy, "POST", "/logging?level=debug").await.status(), 200);
    assert_eq!(ask(&proxy, "POST", "/logging?level=nonsense").await.status(), 400);
}

#[tokio::test]
async fn quitquitquit_ends_the_process_well() {
    let mut proxy = running().await;
    assert_eq!(ask(&proxy, "POST", "/quitquitquit").await.text(), "OK\n");
    assert!(proxy.wait().await.success());
}

#[tokio::test]
async fn drained_listeners_accept_no_more() {
    let proxy = running().await;
    get(proxy.addr(), "/").await.expect("the proxy answers");
    assert_eq!(ask(&proxy, "POST", "/drain_listeners").await.text(), "OK\n");
    let until = std::time::Instant::now() + crate::support::DEADLINE;
    while get(proxy.addr(), "/").await.is_ok() {
        assert!(std::time::Instant::now() < until, "still accepting");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_a_listener_waits_for_is_told_under_its_names_in_envoy() {
    let (way, plane) = (WAYS[0], ControlPlane::start().await);
    let bootstrap = format!(
        "node: {{ id: me, cluster: us }}\ndynamic_resources: {{ lds_config: {}, {} }}\n",
        way.source("initial_fetch_timeout: 0.2s,"),
        way.ads()
    );
    let pieces = Pieces { bootstrap, clusters: plane.cluster(), ..Pieces::default() };
    let proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
    let source = way.source("initial_fetch_timeout: 0s,");
    let late = format!(
        "name: late
address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
listener_filters:
- name: inspector
  config_discovery:
    config_source: {source}
    type_urls: [type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector]
filter_chains:
- filters:
  - name: hcm
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: x
      rds: {{ route_config_name: r, config_source: {source} }}
      http_filters: [{{ name: router, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]
  transport_socket:
    name: tls
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      common_tls_context: {{ tls_certificate_sds_secret_configs: [{{ name: cert, sds_config: {source} }}] }}
"
    );
    plane.set(Kind::Listener, "late", &late);
    proxy.wait_for_stat("listener_manager.total_listeners_warming", 1).await;
    let dump: Value = serde_json::from_str(&proxy.admin("/init_dump").await).expect("it is JSON");
    let [listener] = &**dump["unready_targets_dumps"].as_array().expect("it is a list") else { panic!("{dump}") };
    assert_eq!(
        listener["target_names"],
        serde_json::json!([
            "shared target FilterConfigSubscription init inspector",
            "shared target RdsRouteConfigSubscription RDS init r",
            "shared target SdsApi cert",
        ])
    );
}

/// Clusters, listeners and routes by discovery from files, one of each refused.
fn discovering() -> Proxy {
    let cluster = |name: &str, more: &str| {
        format!(
            "- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: {name}
  connect_timeout: 1s
  {more}
"
        )
    };
    let listener = |name: &str, routes: &str| {
        format!(
            "- '@type': type.googleapis.com/envoy.config.listener.v3.Listener
  name: {name}
  address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
  filter_chains:
  - filters:
    - name: hcm
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: x
        {routes}
        http_filters: [{{ name: router, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]
"
        )
    };
    let table = |name: &str, cluster: &str| {
        format!(
            "{{ name: {name}, virtual_hosts: [{{ name: all, domains: ['*'], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }}] }}] }}"
        )
    };
    let clusters = [cluster("good", ""), cluster("bad", "lb_policy: CLUSTER_PROVIDED")].concat();
    let listeners = [
        listener(
            "followed",
            "rds: { route_config_name: routes, config_source: { path_config_source: { path: $DIR/rds.yaml } } }",
        ),
        listener("inline", &format!("route_config: {}", table("inlined", "good"))),
        listener("broken", &format!("route_config: {}", table("other", "unknown"))),
    ]
    .concat();
    let routes = format!(
        "version_info: '9'\nresources:\n- {{ '@type': type.googleapis.com/envoy.config.route.v3.RouteConfiguration, {}",
        table("routes", "good").trim_start_matches('{')
    );
    proxy(
        "node: { id: me, cluster: us }
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }
dynamic_resources:
  cds_config: { path_config_source: { path: $DIR/cds.yaml } }
  lds_config: { path_config_source: { path: $DIR/lds.yaml } }
",
    )
    .file("cds.yaml", &format!("version_info: '7'\nresources:\n{clusters}"))
    .file("lds.yaml", &format!("version_info: '8'\nresources:\n{listeners}"))
    .file("rds.yaml", &routes)
}

#[tokio::test]
async fn the_dump_tells_what_discovery_gave_and_what_was_refused() {
    let proxy = discovering().run().await;
    let admin = proxy.admin;
    let dump = |query: &'static str| async move {
        let text = get(admin, &format!("/config_dump?{query}")).await.expect("admin answers").text();
        serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{error} in {text}"))["configs"].clone()
    };
    let clusters = dump("resource=dynamic_active_clusters&mask=cluster.name,version_info").await;
    assert_eq!(clusters.as_array().map(Vec::len), Some(1), "{clusters}");
    assert_eq!((&clusters[0]["cluster"]["name"], &clusters[0]["version_info"]), (&"good".into(), &"7".into()));
    let refused = dump("resource=dynamic_warming_clusters").await;
    let state = &refused[0]["error_state"];
    assert_eq!((&state["failed_configuration"]["name"], &state["version_info"]), (&"bad".into(), &"7".into()));
    assert!(state["details"].as_str().is_some_and(|details| details.contains("lb_policy")), "{refused}");
    let listeners = dump("resource=dynamic_listeners").await;
    let named = |name: &str| {
        let all = listeners.as_array().expect("a list").iter();
        all.into_iter().find(|listener| listener["name"] == name).expect("it is listed").clone()
    };
    assert_eq!(named("followed")["active_state"]["listener"]["name"], "followed");
    let broken = named("broken");
    assert!(broken["active_state"].is_null() && broken["error_state"]["details"].is_string(), "{broken}");
    let only = dump("resource=dynamic_listeners&name_regex=in.*e&mask=name").await;
    // What was refused is told whatever its name, as Envoy does.
    assert_eq!((&only[0]["name"], &only[1]["name"]), (&"broken".into(), &"inline".into()));
    assert_eq!(
        dump("resource=dynamic_route_configs&mask=route_config.name").await[0]["route_config"]["name"],
        "routes"
    );
    assert_eq!(dump("resource=static_route_configs").await[0]["route_config"]["name"], "inlined");
    let endpoints = dump("include_eds&resource=dynamic_endpoint_configs&mask=endpoint_config.cluster_name").await;
    assert_eq!(endpoints[0]["endpoint_config"]["cluster_name"], "good");
}

#[tokio::test]
async fn sources_are_listed_with_what_they_were_answered() {
    let proxy = discovering().run().await;
    let text = get(proxy.admin, "/xds").await.expect("admin answers").text();
    assert!(text.contains("CDS from path ") && text.contains("  subscribed: *\n"), "{text}");
    assert!(text.contains("  refused: bad, version \"7\""), "{text}");
    let json = get(proxy.admin, "/xds?format=json").await.expect("admin answers").text();
    let json: Value = serde_json::from_str(&json).expect("it is JSON");
    let of = |kind: &str| {
        let all = json["subscriptions"].as_array().expect("a list");
        all.iter().find(|entry| entry["type"] == kind).unwrap_or_else(|| panic!("{kind} is listed: {json}"))
    };
    assert_eq!((&of("CDS")["subscribed"][0], &of("RDS")["subscribed"][0]), (&"*".into(), &"routes".into()));
    let nack = &of("LDS")["last_nack"];
    assert!(nack["version"] == "8" && nack["reason"].as_str().is_some_and(|r| r.contains("broken")), "{nack}");
    assert!(of("LDS")["last_ack"].is_null() && of("RDS")["last_nack"].is_null());
    assert_eq!((&of("RDS")["last_ack"]["version"], &of("RDS")["resources"]), (&"9".into(), &1.into()));
    assert_eq!(of("RDS")["update_latency_ms"]["count"], 1);
    assert!(of("RDS")["age_ms"].is_number() && of("RDS")["last_request"].is_string());
}

#[tokio::test]
async fn clients_that_hold_connections_keep_nobody_out() {
    let proxy = running().await;
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(TcpStream::connect(proxy.admin).await.expect("admin listens"));
    }
    assert_eq!(get(proxy.admin, "/ready").await.expect("admin answers").status(), 200);
    drop(held);
}

#[tokio::test]
async fn a_client_that_sends_many_requests_at_once_does_not_hold_up_others() {
    let proxy = running().await;
    let mut greedy = TcpStream::connect(proxy.admin).await.expect("admin listens");
    let request = b"GET /config_dump HTTP/1.1\r\nhost: a\r\n\r\n";
    greedy.write_all(&request.repeat(2000)).await.expect("admin reads");
    assert_eq!(get(proxy.admin, "/ready").await.expect("admin answers").status(), 200);
}
