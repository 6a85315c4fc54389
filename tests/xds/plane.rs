//! What is counted of streams to control planes, and what updates must leave. All holds for Envoy 1.40 too, seen by
//! `NUNCIO_BINARY`.

use super::{cluster, endpoints, filter, listener, plain_listener, routes};
use crate::support::bootstrap::Pieces;
use crate::support::control_plane::{Asked, ControlPlane, Kind, WAYS, Way};
use crate::support::ports::free_port;
use crate::support::proxy::{Running, proxy};
use crate::support::upstream::http1;

const VALIDATOR: &str = "config_validators: [{ name: envoy.config.validators.minimum_clusters, typed_config: { '@type': type.googleapis.com/envoy.extensions.config.validators.minimum_clusters.v3.MinimumClustersValidator, min_clusters_num: 2 } }]";

/// A proxy that asks this plane in this way for clusters and listeners, and whoever they refer to.
async fn start(plane: &ControlPlane, way: Way, further: &str) -> Running {
    let source = way.source("").replace("{ api_type", &format!("{{ {further} api_type"));
    let ads = way.ads().replace("{ api_type", &format!("{{ {further} api_type"));
    let ads = if way.is_aggregated { format!("{ads}, ") } else { String::new() };
    let pieces = Pieces {
        bootstrap: format!(
            "node: {{ id: me, cluster: us }}\ndynamic_resources: {{ {ads}cds_config: {source}, lds_config: {source} }}\n"
        ),
        clusters: plane.cluster(),
        ..Pieces::default()
    };
    proxy(pieces.yaml().replace("$UPSTREAM", "1")).run().await
}

/// What asks for more over aggregated discovery does so in this way.
pub(super) fn found(way: Way, yaml: &str) -> String {
    yaml.replace("{ ads: {}, resource_api_version: V3 }", &way.source(""))
}

/// A proxy that has been given cluster `a` with this port, and a listener with routes to it.
pub(super) async fn start_with_cluster(plane: &ControlPlane, way: Way, port: u16) -> Running {
    plane.set(Kind::Cluster, "a", &found(way, &cluster("a")));
    plane.set(Kind::Endpoints, "a", &endpoints("a", port));
    plane.set(Kind::Routes, "routes", &routes("a"));
    plane.set(Kind::Listener, "front", &found(way, &plain_listener(free_port())));
    let proxy = start(plane, way, "").await;
    proxy.wait_for_stat("http.front.rds.routes.update_success", 1).await;
    proxy
}

#[tokio::test]
async fn each_subscription_counts_its_stream_and_aggregated_ones_the_one_of_all() {
    for way in WAYS {
        let plane = ControlPlane::start().await;
        plane.set_identifier("plane 7");
        let upstream = http1().start().await;
        let proxy = start_with_cluster(&plane, way, upstream.port()).await;
        let own = ["cluster_manager.cds.", "listener_manager.lds.", "cluster.a.", "http.front.rds.routes."];
        let expected = if way.is_aggregated { vec![""] } else { own.to_vec() };
        for prefix in &expected {
            proxy.wait_for_stat(&format!("{prefix}control_plane.connected_state"), 1).await;
        }
        let stats = proxy.stats().await;
        let told: Vec<&str> =
            stats.iter().filter(|(_, value)| value == "\"plane 7\"").map(|(name, _)| &**name).collect();
        let mut identifiers: Vec<String> = expected.iter().map(|p| format!("{p}control_plane.identifier")).collect();
        identifiers.sort();
        assert_eq!(told, identifiers, "{way:?}");
        let counted = stats.iter().filter(|(name, _)| name.contains("control_plane.")).count();
        assert_eq!(counted, expected.len() * 4, "{way:?}: {stats:?}");
        plane.disconnect();
        proxy
            .wait_for_stat(&format!("{}update_failure", if way.is_aggregated { own[0] } else { expected[0] }), 1)
            .await;
        for prefix in &expected {
            proxy.wait_for_stat(&format!("{prefix}control_plane.connected_state"), 1).await;
        }
    }
}

/// A connection manager that has its routes by scopes, and one of its filters, from this source.
fn scoped_listener(port: u16, source: &str) -> String {
    let yaml = listener(port).replace("{ ads: {}, resource_api_version: V3 }", source);
    let rds = format!("rds: {{ route_config_name: routes, config_source: {source} }}");
    let builder = "{ fragments: [{ header_value_extractor: { name: x-scope, index: 0 } }] }";
    let scoped = format!(
        "scoped_routes: {{ name: scoped, scope_key_builder: {builder}, rds_config_source: {source}, scoped_rds: {{ scoped_rds_config_source: {source} }} }}"
    );
    yaml.replace(&rds, &scoped)
}

#[tokio::test]
async fn scopes_and_filters_count_their_streams_and_updates() {
    const FILTER: &str = "extension_config_discovery.http_filter.found.";
    for way in WAYS {
        let plane = ControlPlane::start().await;
        plane.set_identifier("plane 7");
        let source = way.source("");
        plane.set(
            Kind::Scope,
            "s",
            "name: s\nroute_configuration_name: routes\nkey: { fragments: [{ string_key: k }] }",
        );
        plane.set(Kind::Routes, "routes", &routes("xds"));
        plane.set(Kind::Extension, "found", &filter("first"));
        plane.set(Kind::Listener, "front", &scoped_listener(free_port(), &source));
        plane.set(Kind::Cluster, "a", "name: a\nconnect_timeout: 1s");
        let proxy = start(&plane, way, "").await;
        proxy.wait_for_stat("http.front.rds.routes.update_success", 1).await;
        proxy.wait_for_stat(&format!("{FILTER}update_success"), 1).await;
        let own = [FILTER, "http.front.rds.routes.", "http.front.scoped_rds.scoped."];
        for prefix in if way.is_aggregated { vec![""] } else { own.to_vec() } {
            proxy.wait_for_stat(&format!("{prefix}control_plane.connected_state"), 1).await;
        }
        let stats = proxy.stats().await;
        for prefix in own {
            let count = |name: &str| stats.iter().filter(|(n, _)| n.starts_with(prefix) && n.contains(name)).count();
            assert_eq!(count("control_plane."), if way.is_aggregated { 0 } else { 4 }, "{way:?} {prefix}: {stats:#?}");
        }
        plane.set(Kind::Extension, "found", &filter("second"));
        proxy.wait_for_stat(&format!("{FILTER}update_success"), 2).await;
        plane.disconnect();
        for prefix in own {
            proxy.wait_for_stat(&format!("{prefix}update_failure"), 1).await;
        }
        assert_eq!(proxy.stat(&format!("{FILTER}config_fail")).await, 0, "who is away has refused nothing");
    }
}

#[tokio::test]
async fn each_end_of_an_update_is_an_attempt() {
    for way in WAYS {
        let plane = ControlPlane::start().await;
        let upstream = http1().start().await;
        let proxy = start_with_cluster(&plane, way, upstream.port()).await;
        plane.set(Kind::Routes, "routes", &format!("{}\nvalidate_clusters: false", routes("a")));
        proxy.wait_for_stat("http.front.rds.routes.update_success", 2).await;
        plane.set_bytes(Kind::Cluster, "broken", vec![0xff]);
        proxy.wait_for_stat("cluster_manager.cds.update_rejected", 1).await;
        plane.remove(Kind::Cluster, "broken");
        proxy.wait_for_stat("cluster_manager.cds.update_success", 2).await;
        plane.disconnect();
        proxy.wait_for_stat("http.front.rds.routes.update_failure", 1).await;
        proxy.wait_for_stat("http.front.rds.routes.update_success", if way.is_delta() { 2 } else { 3 }).await;
        let stats = proxy.stats().await;
        let stat =
            |name: String| stats.iter().find(|(n, _)| *n == name).and_then(|(_, v)| v.parse::<u64>().ok()).unwrap_or(0);
        for of in ["cluster_manager.cds", "listener_manager.lds", "cluster.a", "http.front.rds.routes"] {
            let ends = ["update_success", "update_failure", "update_rejected", "init_fetch_timeout"]
                .map(|end| stat(format!("{of}.{end}")));
            assert_eq!(stat(format!("{of}.update_attempt")), 1 + ends.iter().sum::<u64>(), "{way:?} {of}: {ends:?}");
        }
    }
}

async fn nack(plane: &ControlPlane, than: usize) -> Asked {
    let until = tokio::time::Instant::now() + crate::support::DEADLINE;
    loop {
        let nacks: Vec<Asked> = plane.asked().into_iter().filter(|asked| asked.error.is_some()).collect();
        if nacks.len() > than {
            return nacks[than].clone();
        }
        assert!(tokio::time::Instant::now() < until, "no NACK");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_update_that_leaves_too_few_clusters_is_refused_as_a_whole() {
    for way in WAYS {
        let plane = ControlPlane::start().await;
        let plain = |name: &str| format!("name: {name}\nconnect_timeout: 1s");
        for name in ["a", "b", "c"] {
            plane.set(Kind::Cluster, name, &plain(name));
        }
        let proxy = start(&plane, way, &format!("{VALIDATOR},")).await;
        let before = proxy.stat("cluster_manager.active_clusters").await;
        plane.remove(Kind::Cluster, "c");
        proxy.wait_for_stat("cluster_manager.active_clusters", before - 1).await;
        plane.remove(Kind::Cluster, "b");
        let refused = nack(&plane, 0).await.error.unwrap_or_default();
        assert_eq!(refused, "CDS update attempts to reduce clusters below configured minimum.", "{way:?}");
        assert_eq!(proxy.stat("cluster_manager.active_clusters").await, before - 1);
        assert_eq!(proxy.stat("cluster_manager.cds.update_rejected").await, 1);
        // With another in its place it may go.
        plane.replace(Kind::Cluster, "b", "d", &plain("d"));
        proxy.wait_for_stat("cluster_manager.cds.update_success", 3).await;
        let clusters = proxy.admin("/clusters").await;
        assert!(clusters.contains("d::"), "{way:?}: {clusters}");
    }
}
