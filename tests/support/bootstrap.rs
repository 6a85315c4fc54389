//! Writes the bootstrap around the few lines that a test is about.

/// Pieces of a bootstrap with one listener, one connection manager and cluster `up` on `$UPSTREAM`; every piece is YAML,
/// indented from column 0, and stands beside or instead of what is there without it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces {
    /// Further fields of the listener.
    pub(crate) listener: String,
    /// Network filters instead of the connection manager, as list items.
    pub(crate) network: String,
    /// Further fields of the filter chain.
    pub(crate) chain: String,
    /// Further fields of the connection manager.
    pub(crate) hcm: String,
    /// HTTP filters before the router, as list items.
    pub(crate) filters: String,
    /// Further fields of the router's configuration.
    pub(crate) router: String,
    /// Further fields of the route configuration.
    pub(crate) route_config: String,
    /// `scoped_routes` instead of a route configuration.
    pub(crate) scoped_routes: String,
    /// All virtual hosts, as list items, instead of the one that takes every host.
    pub(crate) vhosts: String,
    /// Further fields of that one virtual host.
    pub(crate) vhost: String,
    /// Its routes, as list items, instead of the one that sends everything to `up`.
    pub(crate) routes: String,
    /// Further fields of cluster `up`; `connect_timeout` and, unless they are given, endpoints are there.
    pub(crate) cluster: String,
    /// Further listeners, as list items.
    pub(crate) listeners: String,
    /// Further clusters, as list items.
    pub(crate) clusters: String,
    /// Further fields of the bootstrap.
    pub(crate) bootstrap: String,
    /// Cluster `up` speaks HTTP/2.
    pub(crate) http2_upstream: bool,
}

/// For `Pieces::hcm`: has `$DIR/access.log` tell how each stream ended.
pub(crate) const ENDS_LOGGED: &str = r#"access_log:
- name: file
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: $DIR/access.log
    log_format: { text_format_source: { inline_string: "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n" } }
"#;

const HTTP2_UPSTREAM: &str = r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: { http2_protocol_options: {} }
"#;

const LOAD_ASSIGNMENT: &str = "load_assignment:
  cluster_name: up
  endpoints:
  - lb_endpoints:
    - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $UPSTREAM } } }
";

const TEMPLATE: &str = r#"admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }
<bootstrap 0>
static_resources:
  listeners:
  - name: main
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    <listener 4>
    filter_chains:
    - filters:
      <network 6>
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          <hcm 10>
          <routing 10>
          http_filters:
          <filters 10>
          - name: router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              <router 14>
      <chain 6>
  <listeners 2>
  clusters:
  - name: up
    connect_timeout: 2s
    <cluster 4>
    <load_assignment 4>
  <clusters 2>
"#;

impl Pieces {
    /// The bootstrap with `$UPSTREAM` still in it.
    pub(crate) fn yaml(&self) -> String {
        let routes = or(&self.routes, "- match: { prefix: / }\n  route: { cluster: up }\n");
        let vhost =
            format!("- name: all\n  domains: [\"*\"]\n{}  routes:\n{}", indent(&self.vhost, 2), indent(&routes, 2));
        let http2 = self.http2_upstream && !self.cluster.contains("typed_extension_protocol_options");
        // Envoy's default of 1 s would be waited for by every refused request.
        let delayed_close =
            if self.hcm.contains("delayed_close_timeout") { "" } else { "delayed_close_timeout: 0.1s\n" };
        let cluster = format!("{}\n{}", self.cluster, if http2 { HTTP2_UPSTREAM } else { "" });
        let mut yaml = String::new();
        let mut in_hcm = false;
        for line in TEMPLATE.lines() {
            // The one list item of the template at this depth ends with the filters.
            in_hcm = (in_hcm || line == "      - name: http") && line != "      <chain 6>";
            if in_hcm && !self.network.is_empty() {
                continue;
            }
            let Some((name, depth)) = line.trim().strip_prefix('<').and_then(|l| l.strip_suffix('>')?.split_once(' '))
            else {
                yaml += line;
                yaml.push('\n');
                continue;
            };
            let piece = match name {
                "bootstrap" => self.bootstrap.clone(),
                "listener" => self.listener.clone(),
                "network" => self.network.clone(),
                "chain" => self.chain.clone(),
                "hcm" => format!("{delayed_close}{}", self.hcm),
                "routing" if !self.scoped_routes.is_empty() => {
                    format!("scoped_routes:\n{}", indent(&self.scoped_routes, 2))
                }
                "routing" => format!(
                    "route_config:\n  name: routes\n{}  virtual_hosts:\n{}",
                    indent(&self.route_config, 2),
                    indent(&or(&self.vhosts, &vhost), 2)
                ),
                "router" => self.router.clone(),
                "filters" => self.filters.clone(),
                "cluster" => cluster.clone(),
                "load_assignment" if cluster.contains("load_assignment:") => String::new(),
                "load_assignment" => LOAD_ASSIGNMENT.to_owned(),
                "listeners" => self.listeners.clone(),
                "clusters" => self.clusters.clone(),
                unknown => panic!("the template names {unknown}"),
            };
            yaml += &indent(&piece, depth.parse().expect("the template gives a number"));
        }
        yaml
    }
}

fn or(piece: &str, default: &str) -> String {
    if piece.trim().is_empty() { default.to_owned() } else { piece.to_owned() }
}

fn indent(piece: &str, depth: usize) -> String {
    let lines = piece.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| format!("{:depth$}{line}\n", "")).collect()
}
