//! A control plane at an address of its own (`google_grpc`), asked by nuncio and by the real Envoy.

use super::{DELTA_GRPC, GRPC, bootstrap_text, cluster, endpoints};
use crate::parity::envoy::programs;
use crate::support::DEADLINE;
use crate::support::control_plane::{ControlPlane, Kind};
use crate::support::proxy::{Running, proxy};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A bootstrap that asks the service at `target_uri`, in place of the cluster `xds`.
fn bootstrap(api_type: &str, target_uri: &str, further: &str) -> String {
    let google = format!("{{ google_grpc: {{ target_uri: '{target_uri}', stat_prefix: plane, {further} }} }}");
    let text = bootstrap_text(1, api_type).replace("{ envoy_grpc: { cluster_name: xds } }", &google);
    // Of what comes beside the clusters nothing is of interest.
    let text = text.replace("  lds_config: { ads: {}, resource_api_version: V3 }\n", "");
    let (before, rest) = text.split_once("layered_runtime:").expect("it has layers");
    let (_, after) = rest.split_once("static_resources:").expect("it has static resources");
    let (_, admin) = after.split_once("admin:").expect("it has an admin");
    format!("{before}admin:{admin}")
}

async fn plane() -> ControlPlane {
    let plane = ControlPlane::start().await;
    plane.set(Kind::Cluster, "a", &cluster("a"));
    plane.set(Kind::Endpoints, "a", &endpoints("a", 1));
    plane
}

/// Counts of ended streams, whatever their status.
async fn closed(running: &Running) -> u64 {
    let stats = running.stats().await;
    let closed = stats.iter().filter(|(name, _)| name.starts_with("grpc.plane.streams_closed_"));
    closed.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

#[tokio::test]
async fn it_is_asked_and_counted_and_is_no_cluster() {
    for program in programs() {
        for (api_type, scheme) in [(GRPC, "dns:///"), (DELTA_GRPC, "ipv4:"), (GRPC, "")] {
            let plane = plane().await;
            let text = bootstrap(api_type, &format!("{scheme}127.0.0.1:{}", plane.port()), "");
            let running = proxy(text).program(&program).run().await;
            running.wait_for_stat("cluster_manager.active_clusters", 1).await;
            running.wait_for_stat("control_plane.connected_state", 1).await;
            assert_eq!((running.stat("grpc.plane.streams_total").await, closed(&running).await), (1, 0));
            let stats = running.stats().await;
            assert_eq!(stats.iter().filter(|(name, _)| name.starts_with("grpc.plane.")).count(), 19);
            let clusters = running.admin("/clusters").await;
            assert!(clusters.lines().all(|line| line.starts_with("a::")), "{clusters}");
            assert!(!stats.iter().any(|(name, _)| name.starts_with("cluster.") && !name.starts_with("cluster.a.")));

            plane.disconnect();
            plane.set(Kind::Cluster, "b", &cluster("b"));
            plane.set(Kind::Endpoints, "b", &endpoints("b", 1));
            running.wait_for_stat("cluster_manager.active_clusters", 2).await;
            assert_eq!((running.stat("grpc.plane.streams_total").await, closed(&running).await), (2, 1));
        }
    }
}

#[tokio::test]
async fn it_must_have_a_certificate_for_its_address_where_it_is_to_have_any() {
    let plane = plane().await;
    let front = |certificate: &str| {
        proxy(format!(
            "static_resources:
  clusters:
  - {{ name: plane, connect_timeout: 1s, load_assignment: {{ cluster_name: plane, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }} }}
  listeners:
  - name: tls
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2]
            tls_certificates: [{{ certificate_chain: {{ filename: $CERTS/{certificate}.pem }}, private_key: {{ filename: $CERTS/{certificate}.key }} }}]
      filters:
      - name: tcp
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: plane
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
",
            plane.port()
        ))
    };
    let (own, other) = (front("server-rsa").run().await, front("server").run().await);
    for program in programs() {
        let ssl = "channel_credentials: { ssl_credentials: { root_certs: { filename: $CERTS/ca.pem } } }";
        let token = format!("{ssl}, call_credentials: [{{ access_token: secret }}]");
        let text = bootstrap(GRPC, &own.addr().to_string(), &token);
        let running = proxy(text).program(&program).run().await;
        running.wait_for_stat("cluster_manager.active_clusters", 1).await;

        let text = bootstrap(GRPC, &other.addr().to_string(), ssl);
        // Whoever waits for clusters is not to wait for long.
        let text = text.replace("cds_config: {", "cds_config: { initial_fetch_timeout: 0.1s,");
        let refused = proxy(text).program(&program).run().await;
        let until = Instant::now() + DEADLINE;
        while refused.stat("grpc.plane.streams_closed_13").await == 0 {
            assert!(Instant::now() < until, "no stream ended");
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(refused.stat("cluster_manager.active_clusters").await, 0);
    }
}
