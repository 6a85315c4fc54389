//! What is counted of streams to control planes, and what updates must leave. All holds for Envoy 1.40 too, seen by
//! `NUNCIO_BINARY`.

use super::{cluster, endpoints, plain_listener, routes};
use crate::support::bootstrap::Pieces;
use crate::support::control_plane::{Asked, ControlPlane, Kind, WAYS, Way};
use crate::support::ports::free_port;
use crate::support::proxy::{Running, proxy};
use crate::support::upstream::http1;

const VALIDATOR: &str = "config_validators: [{ name: envoy.config.validators.minimum_clusters, typed_config: { '@type': type.googleapis.com/envoy.extensions.config.validators.minimum_clusters.v3.MinimumClustersValidator, min_clusters_num: 2 } }]";

/// A proxy that asks this plane in this way for clusters and listeners, and whoever they refer to.
pub(super) async fn start(plane: &ControlPlane, way: Way, further: &str) -> Running {
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

#[tokio::test]
async fn each_subscription_counts_its_stream_and_aggregated_ones_the_one_of_all() {
    for way in WAYS {
        let plane = ControlPlane::start().await;
        plane.set_identifier("plane 7");
        let upstream = http1().start().await;
        let source = way.source("");
        let ads = "{ ads: {}, resource_api_version: V3 }";
        plane.set(Kind::Cluster, "a", &cluster("a").replace(ads, &source));
        plane.set(Kind::Endpoints, "a", &endpoints("a", upstream.port()));
        plane.set(Kind::Routes, "routes", &routes("a"));
        plane.set(Kind::Listener, "front", &plain_listener(free_port()).replace(ads, &source));
        let proxy = start(&plane, way, "").await;
        proxy.wait_for_stat("http.front.rds.routes.update_success", 1).await;
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
