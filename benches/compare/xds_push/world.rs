//! What the control plane has: many clusters of one host each, their endpoints, and a route to each.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use nuncio_config::load::{Format, Loader, Source, UnknownFields};
use nuncio_proto::envoy::config::{
    cluster::v3 as cluster, endpoint::v3 as endpoint, listener::v3 as listener, route::v3 as route,
};
use nuncio_proto::google::protobuf::Any;
use prost::{Message, Name};

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const HTTP: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const ADS: &str = "{ ads: {}, resource_api_version: V3 }";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Cluster,
    Endpoints,
    Listener,
    Routes,
}

/// All that there is.
pub(crate) struct World {
    resources: BTreeMap<Kind, BTreeMap<String, Any>>,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Routes];

    pub(crate) fn type_url(self) -> String {
        let name = match self {
            Self::Cluster => cluster::Cluster::full_name(),
            Self::Endpoints => endpoint::ClusterLoadAssignment::full_name(),
            Self::Listener => listener::Listener::full_name(),
            Self::Routes => route::RouteConfiguration::full_name(),
        };
        format!("type.googleapis.com/{name}")
    }

    pub(crate) fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }
}

impl World {
    /// `count` clusters whose one host is at the port `host`, and a listener at the port `front`.
    pub(crate) fn new(count: usize, host: u16, front: u16) -> Self {
        let clusters = (0..count).map(|i| of_cluster(i, 1)).collect();
        let endpoints = (0..count).map(|i| of_endpoints(i, host)).collect();
        let listener = [("front".to_owned(), any::<listener::Listener>(&listener(front)))].into();
        let routes = [("routes".to_owned(), any::<route::RouteConfiguration>(&routes(count)))].into();
        let resources = [
            (Kind::Cluster, clusters),
            (Kind::Endpoints, endpoints),
            (Kind::Listener, listener),
            (Kind::Routes, routes),
        ];
        Self { resources: resources.into() }
    }

    pub(crate) fn all(&self, kind: Kind) -> Vec<(String, Any)> {
        self.resources[&kind].iter().map(|(name, any)| (name.clone(), any.clone())).collect()
    }

    pub(crate) fn find(&self, kind: Kind, name: &str) -> Option<(String, Any)> {
        self.resources[&kind].get_key_value(name).map(|(name, any)| (name.clone(), any.clone()))
    }
}

/// The bootstrap of a proxy that is told all by the control plane at this port.
pub(crate) fn bootstrap(plane: u16, api_type: &str) -> String {
    format!(
        "node: {{ id: bench, cluster: bench }}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{{ envoy_grpc: {{ cluster_name: xds }} }}]
  cds_config: {ADS}
  lds_config: {ADS}
static_resources:
  clusters:
  - name: xds
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': {HTTP}
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: xds
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {plane} }} }} }} }}] }}]
"
    )
}

/// Cluster `i`, which takes so many seconds for a connection.
pub(crate) fn of_cluster(i: usize, seconds: usize) -> (String, Any) {
    let text = format!(
        "{{ name: c{i}, type: EDS, connect_timeout: {seconds}s, eds_cluster_config: {{ eds_config: {ADS} }} }}"
    );
    (format!("c{i}"), any::<cluster::Cluster>(&text))
}

/// The endpoints of cluster `i`.
pub(crate) fn of_endpoints(i: usize, port: u16) -> (String, Any) {
    let text = format!(
        "{{ cluster_name: c{i}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: \
         {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}"
    );
    (format!("c{i}"), any::<endpoint::ClusterLoadAssignment>(&text))
}

fn listener(port: u16) -> String {
    format!(
        "name: front
address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      '@type': {HCM}
      stat_prefix: front
      rds: {{ route_config_name: routes, config_source: {ADS} }}
      http_filters: [{{ name: router, typed_config: {{ '@type': {ROUTER} }} }}]
"
    )
}

fn routes(count: usize) -> String {
    let mut text = "name: routes
virtual_hosts:
- name: all
  domains: ['*']
  routes:
  - { match: { path: /load }, direct_response: { status: 200, body: { inline_string: x } } }
"
    .to_owned();
    for i in 0..count {
        let _ = writeln!(text, "  - {{ match: {{ prefix: /r{i}/ }}, route: {{ cluster: c{i} }} }}");
    }
    text
}

fn any<T: Message + Name + Default>(yaml: &str) -> Any {
    let source = Source::new("resource", Format::Yaml, yaml.as_bytes().to_vec());
    let loaded = Loader::new(UnknownFields::Reject).load::<T>(vec![source]);
    let message = loaded.unwrap_or_else(|problems| panic!("{problems:?}")).message;
    Any { type_url: format!("type.googleapis.com/{}", T::full_name()), value: message.encode_to_vec() }
}
