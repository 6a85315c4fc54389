//! The files that a proxy is configured by: builders of discovery responses.

/// A bootstrap that has nothing of its own.
pub(super) fn bootstrap() -> String {
    "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }
node: { id: node, cluster: test }
dynamic_resources:
  cds_config: { path_config_source: { path: $DIR/cds.yaml } }
  lds_config: { path_config_source: { path: $DIR/lds.yaml } }
"
    .to_owned()
}

/// Name and content of each file that there is at the start.
pub(super) const ALL: [(&str, &str); 4] = [("cds.yaml", CDS), ("eds.yaml", EDS), ("lds.yaml", LDS), ("rds.yaml", RDS)];

const CDS: &str = "version_info: '1'
resources:
- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: a
  type: EDS
  connect_timeout: 1s
  eds_cluster_config: { service_name: s, eds_config: { path_config_source: { path: $DIR/eds.yaml } } }
";

const EDS: &str = "version_info: '1'
resources:
- '@type': type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
  cluster_name: s
  endpoints:
  - lb_endpoints:
    - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $UPSTREAM } } }
";

const LDS: &str = "version_info: '1'
resources:
- '@type': type.googleapis.com/envoy.config.listener.v3.Listener
  name: l
  address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
  filter_chains:
  - filters:
    - name: http
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: in
        rds: { route_config_name: r, config_source: { path_config_source: { path: $DIR/rds.yaml } } }
        http_filters:
        - { name: router, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }
";

const RDS: &str = "version_info: '1'
resources:
- '@type': type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: r
  virtual_hosts:
  - { name: v, domains: ['*'], routes: [{ match: { prefix: / }, route: { cluster: a } }] }
";

/// A response with one resource or several.
#[derive(Clone, Debug)]
pub(super) struct Response {
    version: String,
    resources: Vec<String>,
}

impl Response {
    fn of(whole: &str) -> Self {
        let (_, resource) = whole.split_once("resources:\n").expect("each has resources");
        Self { version: "1".to_owned(), resources: vec![resource.to_owned()] }
    }

    fn edit(mut self, from: &str, to: &str) -> Self {
        let last = self.resources.last_mut().expect("there is at least one");
        assert!(last.contains(from), "{from} in {last}");
        *last = last.replace(from, to);
        self
    }

    /// As they are, under another version.
    pub(super) fn version(self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self }
    }

    /// And one like the first, of another name.
    fn again(mut self, from: &str, name: &str, whole: &str) -> Self {
        let next = Self::of(whole).edit(from, name);
        self.resources.extend(next.resources);
        self
    }

    pub(super) fn yaml(&self) -> String {
        format!("version_info: '{}'\nresources:\n{}", self.version, self.resources.concat())
    }
}

macro_rules! responses {
    ($($name:ident)*) => { $(
        #[derive(Clone, Debug)]
        pub(super) struct $name(Response);

        impl $name {
            pub(super) fn version(self, version: &str) -> Self {
                Self(self.0.version(version))
            }

            pub(super) fn yaml(&self) -> String {
                self.0.yaml()
            }
        }
    )* };
}
responses! { Cds Eds Lds Rds }

impl Cds {
    /// One cluster of this name.
    pub(super) fn one(name: &str) -> Self {
        Self(Response::of(CDS).edit("name: a", &format!("name: {name}")))
    }

    pub(super) fn with(self, name: &str) -> Self {
        Self(self.0.again("name: a", &format!("name: {name}"), CDS))
    }

    /// A further field of the last.
    pub(super) fn field(self, field: &str) -> Self {
        Self(self.0.edit("  type: EDS\n", &format!("  type: EDS\n  {field}\n")))
    }
}

impl Eds {
    /// One endpoint at this port.
    pub(super) fn to(port: &str) -> Self {
        Self(Response::of(EDS).edit("$UPSTREAM", port))
    }
}

impl Lds {
    /// One listener of this name.
    pub(super) fn one(name: &str) -> Self {
        Self(Response::of(LDS).edit("name: l\n", &format!("name: {name}\n")))
    }

    pub(super) fn with(self, name: &str) -> Self {
        Self(self.0.again("name: l\n", &format!("name: {name}\n"), LDS))
    }

    /// A further field of the last one's connection manager.
    pub(super) fn hcm(self, field: &str) -> Self {
        Self(self.0.edit("        stat_prefix: in\n", &format!("        stat_prefix: in\n        {field}\n")))
    }
}

impl Rds {
    /// Everything goes to this cluster.
    pub(super) fn to(cluster: &str) -> Self {
        Self(Response::of(RDS).edit("cluster: a", &format!("cluster: {cluster}")))
    }

    /// Everything is answered so.
    pub(super) fn answering(body: &str) -> Self {
        let answer = format!("direct_response: {{ status: 200, body: {{ inline_string: '{body}' }} }}");
        Self(Response::of(RDS).edit("route: { cluster: a }", &answer))
    }
}
