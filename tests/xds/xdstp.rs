//! Resources that are called by `xdstp:` names: collections, one form of a name, and who is asked by its authority. All
//! holds for Envoy 1.40 too, seen by `NUNCIO_BINARY`.

use super::{DELTA_GRPC, GRPC, plain_listener, wait_for_body};
use crate::support::control_plane::{ControlPlane, Kind, named_cluster_at};
use crate::support::ports::free_port;
use crate::support::proxy::{Proxy, proxy};
use crate::support::upstream::{Upstream, http1};
use nuncio_proto::envoy::service::discovery::v3::DiscoveryResponse;
use nuncio_proto::google::protobuf::Any;
use std::net::SocketAddr;

const CLUSTER: &str = "xdstp://auth/envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "xdstp://auth/envoy.config.listener.v3.Listener";
const ADS: &str = "{ ads: {}, resource_api_version: V3 }";

fn endpoints_of(authority: &str) -> String {
    format!("xdstp://{authority}/envoy.config.endpoint.v3.ClusterLoadAssignment/a?x=1&y=2")
}

fn routes_of(authority: &str) -> String {
    format!("xdstp://{authority}/envoy.config.route.v3.RouteConfiguration/r?x=1&y=2")
}

fn cluster(name: &str, endpoints: &str) -> String {
    format!(
        "name: '{name}'\ntype: EDS\nconnect_timeout: 1s\neds_cluster_config: {{ service_name: '{endpoints}', eds_config: {ADS} }}"
    )
}

fn put_endpoints(plane: &ControlPlane, name: &str, upstream: &Upstream) {
    plane.set(Kind::Endpoints, name, &super::endpoints(&format!("'{name}'"), upstream.port()));
}

fn put_routes(plane: &ControlPlane, asked: &str, name: &str, cluster: &str) {
    let yaml = super::routes(&format!("'{cluster}'")).replace("name: routes", &format!("name: '{name}'"));
    plane.set(Kind::Routes, asked, &yaml);
}

fn api(api_type: &str, cluster: &str) -> String {
    format!(
        "{{ api_type: {api_type}, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: {cluster} }} }}] }}"
    )
}

fn bootstrap(top: &str, dynamic: &str, clusters: &[String]) -> Proxy {
    let clusters = clusters.concat().trim_end().replace('\n', "\n  ");
    proxy(format!(
        "node: {{ id: me, cluster: us }}
{top}
dynamic_resources:
{dynamic}
static_resources:
  clusters:
  {clusters}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
"
    ))
}

async fn collections_are_asked_for(api_type: &str, is_aggregated: bool) {
    let plane = ControlPlane::start().await;
    let upstream = http1().route("/", "a").start().await;
    let port = free_port();
    let [first, second] = ["a", "b"].map(|name| format!("{CLUSTER}/foo/{name}?k=v&xds.node.id=me"));
    let (endpoints, routes) = (endpoints_of("auth"), routes_of("auth"));
    plane.set(Kind::Cluster, &first, &cluster(&first, &endpoints));
    // Of another folder, and of another context.
    for other in [format!("{CLUSTER}/foo/bar/c?k=v&xds.node.id=me"), format!("{CLUSTER}/foo/d?xds.node.id=me")] {
        plane.set(Kind::Cluster, &other, &cluster(&other, &endpoints));
    }
    put_endpoints(&plane, &endpoints, &upstream);
    // They are asked for by the one form of their name.
    let called = routes.replace("x=1&y=2", "y=2&x=1");
    put_routes(&plane, &routes, &called, &first);
    let front = format!("{LISTENER}/front?xds.node.id=me");
    let yaml = plain_listener(port).replace("name: front\n", &format!("name: '{front}'\n"));
    let yaml = yaml.replace("route_config_name: routes", &format!("route_config_name: '{called}'"));
    plane.set(Kind::Listener, &front, &yaml);
    let source = match is_aggregated {
        true => ADS.to_owned(),
        false => format!("{{ resource_api_version: V3, api_config_source: {} }}", api(api_type, "xds")),
    };
    let dynamic = format!(
        "  ads_config: {}
  cds_config: {source}
  cds_resources_locator: '{CLUSTER}/foo/*?k=v'
  lds_config: {source}
  lds_resources_locator: '{LISTENER}/*'",
        api(api_type, "xds")
    );
    let proxy = bootstrap("node_context_params: [id]", &dynamic, &[plane.cluster()]).run().await;
    wait_for_body(&proxy, SocketAddr::from(([127, 0, 0, 1], port)), "a").await;
    let names = |kind: Kind| {
        let asked = plane.asked().into_iter();
        asked.filter(|a| a.type_url == kind.type_url()).flat_map(|a| a.names).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(Vec::from_iter(names(Kind::Cluster)), [format!("{CLUSTER}/foo/*?k=v&xds.node.id=me")]);
    assert_eq!(Vec::from_iter(names(Kind::Listener)), [format!("{LISTENER}/*?xds.node.id=me")]);
    assert_eq!(
        (Vec::from_iter(names(Kind::Endpoints)), Vec::from_iter(names(Kind::Routes))),
        (vec![endpoints.clone()], vec![routes])
    );
    assert_eq!(proxy.stat("cluster_manager.active_clusters").await, 2);
    // One more, and one less.
    plane.set(Kind::Cluster, &second, &cluster(&second, &endpoints));
    proxy.wait_for_stat("cluster_manager.active_clusters", 3).await;
    plane.remove(Kind::Cluster, &second);
    proxy.wait_for_stat("cluster_manager.cluster_removed", 1).await;
    assert_eq!(
        proxy.stat("http.front.rds.xdstp_auth/envoy.config.route.v3.RouteConfiguration/r?y=2&x=1.update_success").await,
        1
    );
    if api_type == GRPC {
        // What is of no collection that was asked for is passed over.
        let any = |name: &str| Any {
            type_url: Kind::Cluster.type_url().to_owned(),
            value: Kind::Cluster.encode(&cluster(name, &endpoints)),
        };
        plane.send(DiscoveryResponse {
            version_info: "strangers".to_owned(),
            nonce: "strangers".to_owned(),
            type_url: Kind::Cluster.type_url().to_owned(),
            resources: vec![any(&first), any("stranger"), any(&format!("{CLUSTER}/foo/d"))],
            ..Default::default()
        });
        plane.wait_for(Kind::Cluster, |asked| asked.version == "strangers" && asked.error.is_none()).await;
        assert_eq!(proxy.stat("cluster_manager.active_clusters").await, 2);
    }
}

#[tokio::test]
async fn a_collection_is_asked_for_by_changes() {
    collections_are_asked_for(DELTA_GRPC, true).await;
}

#[tokio::test]
async fn a_collection_is_asked_for_by_changes_over_streams_of_their_own() {
    collections_are_asked_for(DELTA_GRPC, false).await;
}

#[tokio::test]
async fn a_collection_is_asked_for_as_the_state_of_the_world() {
    collections_are_asked_for(GRPC, true).await;
}

async fn authorities_are_asked(api_type: &str) {
    let planes = [ControlPlane::start().await, ControlPlane::start().await, ControlPlane::start().await];
    let [main, second, default] = &planes;
    let upstream = http1().route("/", "a").start().await;
    let port = free_port();
    let (endpoints, routes) = (endpoints_of("second.example"), routes_of("elsewhere"));
    put_endpoints(second, &endpoints, &upstream);
    put_routes(default, &routes, &routes, "a");
    let listener = plain_listener(port).replace("route_config_name: routes", &format!("route_config_name: '{routes}'"));
    main.set(Kind::Listener, "front", &listener);
    main.set(Kind::Cluster, "a", &cluster("a", &endpoints));
    let top = format!(
        "layered_runtime: {{ layers: [{{ name: s, static_layer: {{ envoy.reloadable_features.xdstp_based_config_singleton_subscriptions: true }} }}] }}
config_sources:
- {{ authorities: [{{ name: first.example }}, {{ name: second.example }}], api_config_source: {} }}
default_config_source: {{ api_config_source: {} }}",
        api(&format!("AGGREGATED_{api_type}"), "second"),
        api(&format!("AGGREGATED_{api_type}"), "default")
    );
    let dynamic = format!("  ads_config: {}\n  cds_config: {ADS}\n  lds_config: {ADS}", api(api_type, "xds"));
    let clusters =
        [main.cluster(), named_cluster_at("second", second.port()), named_cluster_at("default", default.port())];
    let proxy = bootstrap(&top, &dynamic, &clusters).run().await;
    let front = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for_body(&proxy, front, "a").await;
    let kinds = |plane: &ControlPlane| {
        plane.asked().into_iter().map(|asked| asked.type_url).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(Vec::from_iter(kinds(second)), [Kind::Endpoints.type_url()]);
    assert_eq!(Vec::from_iter(kinds(default)), [Kind::Routes.type_url()]);
    assert_eq!(Vec::from_iter(kinds(main)), [Kind::Cluster.type_url(), Kind::Listener.type_url()]);
    // They are followed.
    let other = http1().route("/", "b").start().await;
    put_endpoints(second, &endpoints, &other);
    wait_for_body(&proxy, front, "b").await;
}

#[tokio::test]
async fn authorities_are_asked_for_their_resources_in_the_state_of_the_world() {
    authorities_are_asked(GRPC).await;
}

#[tokio::test]
async fn authorities_are_asked_for_their_resources_by_changes() {
    authorities_are_asked(DELTA_GRPC).await;
}

#[tokio::test]
async fn without_its_guard_no_authority_is_asked() {
    let (main, second) = (ControlPlane::start().await, ControlPlane::start().await);
    let endpoints = endpoints_of("second");
    main.set(Kind::Cluster, "a", &cluster("a", &endpoints));
    put_endpoints(&main, &endpoints, &http1().start().await);
    let top = format!(
        "config_sources: [{{ authorities: [{{ name: second }}], api_config_source: {} }}]",
        api("AGGREGATED_GRPC", "second")
    );
    let dynamic = format!("  ads_config: {}\n  cds_config: {ADS}", api(GRPC, "xds"));
    let clusters = [main.cluster(), named_cluster_at("second", second.port())];
    let proxy = bootstrap(&top, &dynamic, &clusters).run().await;
    proxy.wait_for_stat("cluster.a.membership_healthy", 1).await;
    assert_eq!(second.asked().len(), 0);
    assert!(main.asked().iter().any(|asked| asked.names == [endpoints.clone()]));
}

#[tokio::test]
async fn a_cluster_with_such_a_name_says_what_its_endpoints_are_called() {
    let plane = ControlPlane::start().await;
    let name = format!("{CLUSTER}/foo");
    plane.set(Kind::Cluster, &name, &cluster(&name, ""));
    let dynamic = format!("  ads_config: {}\n  cds_config: {ADS}", api(GRPC, "xds"));
    let proxy = bootstrap("", &dynamic, &[plane.cluster()]).run().await;
    let nack = plane.wait_for(Kind::Cluster, |asked| asked.error.is_some()).await;
    let error = nack.error.unwrap_or_default();
    assert!(error.contains("must be set if Cluster resource has an xdstp name"), "{error}");
    assert_eq!(proxy.stat("cluster_manager.active_clusters").await, 1);
}
