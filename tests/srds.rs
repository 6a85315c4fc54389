//! Scopes of routes that come by discovery.

use super::support::DEADLINE;
use super::support::bootstrap::Pieces;
use super::support::client::fetch;
use super::support::control_plane::{ControlPlane, Kind, WAYS, Way};
use super::support::proxy::{Proxy, Running, proxy};
use std::time::{Duration, Instant};

fn scope(name: &str, key: &str, routes: &str, further: &str) -> String {
    format!(
        "name: {name}\nroute_configuration_name: {routes}\nkey: {{ fragments: [{{ string_key: {key} }}] }}\n{further}"
    )
}

/// Routes that answer everything by this status.
fn routes(name: &str, status: u16) -> String {
    format!(
        "name: {name}\nvirtual_hosts: [{{ name: all, domains: ['*'], routes: [{{ match: {{ prefix: / }}, direct_response: {{ status: {status} }} }}] }}]\n"
    )
}

fn file(message: &str, resources: &[String]) -> String {
    let resource = |resource: &String| {
        let resource = resource.trim_end().replace('\n', "\n  ");
        format!("- '@type': type.googleapis.com/envoy.config.route.v3.{message}\n  {resource}\n")
    };
    format!("version_info: '1'\nresources:\n{}", resources.iter().map(resource).collect::<String>())
}

/// Chooses the scope by `x-scope`.
fn scoped(scopes: &str, routes: &str, pieces: Pieces) -> Proxy {
    let scoped_routes = format!(
        "name: scoped
scope_key_builder: {{ fragments: [{{ header_value_extractor: {{ name: x-scope, index: 0 }} }}] }}
rds_config_source: {routes}
scoped_rds: {{ scoped_rds_config_source: {scopes} }}
"
    );
    // No request gets there.
    proxy(Pieces { scoped_routes, ..pieces }.yaml().replace("$UPSTREAM", "1"))
}

async fn status(proxy: &Running, key: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\nx-scope: {key}\r\n\r\n");
    fetch(proxy.addr(), &request).await.expect("an answer").status()
}

async fn wait_for_status(proxy: &Running, key: &str, wanted: u16) {
    let until = Instant::now() + DEADLINE;
    while status(proxy, key).await != wanted {
        assert!(Instant::now() < until, "no {wanted} came for {key}\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn files_give_scopes_and_their_routes() {
    let source = |name: &str| format!("{{ path_config_source: {{ path: $DIR/{name}.yaml }} }}");
    let first = [scope("one", "a", "r", ""), scope("two", "b", "r", "on_demand: true\n")];
    let proxy = scoped(&source("scopes"), &source("routes"), Pieces::default())
        .file("scopes.yaml", &file("ScopedRouteConfiguration", &first))
        .file("routes.yaml", &file("RouteConfiguration", &[routes("r", 201)]))
        .run()
        .await;
    assert_eq!(status(&proxy, "a").await, 201, "it is waited for");
    assert_eq!(status(&proxy, "b").await, 404, "nobody asks for its routes");
    let stats = "http.in.scoped_rds.scoped";
    for (stat, value) in [
        ("all_scopes", 2),
        ("on_demand_scopes", 1),
        ("active_scopes", 1),
        ("config_reload", 1),
        ("update_attempt", 1),
        ("update_success", 1),
        ("update_empty", 0),
    ] {
        assert_eq!(proxy.stat(&format!("{stats}.{stat}")).await, value, "{stat}");
    }
    assert_eq!(proxy.stat("http.in.rds.r.update_success").await, 1);
    // One key stands for one scope.
    let conflict = [scope("one", "a", "r", ""), scope("two", "a", "r", "")];
    proxy.replace("scopes.yaml", &file("ScopedRouteConfiguration", &conflict));
    proxy.wait_for_stat(&format!("{stats}.update_rejected"), 1).await;
    assert_eq!(status(&proxy, "a").await, 201, "the old ones are in force");
    // Keys may be swapped at once.
    let swapped = [scope("one", "b", "r", ""), scope("two", "a", "r", "on_demand: true\n")];
    proxy.replace("scopes.yaml", &file("ScopedRouteConfiguration", &swapped));
    wait_for_status(&proxy, "b", 201).await;
    assert_eq!(status(&proxy, "a").await, 404);
    let dump = proxy.admin("/config_dump").await;
    assert!(dump.contains("dynamic_scoped_route_configs") && dump.contains("dynamic_route_configs"), "{dump}");
}

async fn scopes_are_followed(way: Way) {
    let plane = ControlPlane::start().await;
    plane.set(Kind::Scope, "one", &scope("one", "a", "r1", ""));
    plane.set(Kind::Scope, "two", &scope("two", "b", "r2", ""));
    plane.set(Kind::Routes, "r1", &routes("r1", 201));
    plane.set(Kind::Routes, "r2", &routes("r2", 202));
    let source = way.source("");
    let dynamic = if way.is_aggregated { format!("dynamic_resources: {{ {} }}\n", way.ads()) } else { String::new() };
    let pieces = Pieces {
        bootstrap: format!("node: {{ id: me, cluster: us }}\n{dynamic}"),
        clusters: plane.cluster(),
        ..Pieces::default()
    };
    let proxy = scoped(&source, &source, pieces).run().await;
    assert_eq!((status(&proxy, "a").await, status(&proxy, "b").await), (201, 202), "all is waited for ({way:?})");
    plane.set(Kind::Routes, "r1", &routes("r1", 203));
    wait_for_status(&proxy, "a", 203).await;
    plane.set(Kind::Scope, "three", &scope("three", "b", "r1", ""));
    let nack = plane.wait_for(Kind::Scope, |asked| asked.error.is_some()).await.error.unwrap_or_default();
    assert!(nack.contains("key: scope key conflict found"), "{nack}");
    assert_eq!(status(&proxy, "b").await, 202, "the old ones are in force");
    plane.set(Kind::Scope, "three", &scope("three", "c", "r1", ""));
    wait_for_status(&proxy, "c", 203).await;
    let inline = routes("own", 204).trim_end().replace('\n', "\n  ");
    let with_its_own = format!("{}route_configuration:\n  {inline}\n", scope("four", "d", "r1", ""));
    plane.set(Kind::Scope, "four", &with_its_own);
    wait_for_status(&proxy, "d", 204).await;
    plane.remove(Kind::Scope, "two");
    wait_for_status(&proxy, "b", 404).await;
    proxy.wait_for_stat("http.in.scoped_rds.scoped.all_scopes", 3).await;
    let scope = if way.is_aggregated { "" } else { "http.in.scoped_rds.scoped." };
    assert_eq!(proxy.stat(&format!("{scope}control_plane.connected_state")).await, 1, "{way:?}");
}

#[tokio::test]
async fn a_control_plane_gives_scopes_in_every_way() {
    for way in WAYS {
        scopes_are_followed(way).await;
    }
}
