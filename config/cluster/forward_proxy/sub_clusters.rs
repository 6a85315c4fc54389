//! `sub_clusters_config`: a dynamic forward proxy with a cluster for each host that requests name.

use std::sync::Arc;
use std::time::Duration;

use nuncio_filter_api::{ClusterName, ClusterNames, LowerCx, Refused};
use nuncio_proto::CheckNames;
use nuncio_proto::envoy::config::cluster::v3 as cluster;
use nuncio_proto::envoy::config::core::v3::{Address, SocketAddress, UpstreamHttpProtocolOptions, address};
use nuncio_proto::envoy::config::endpoint::v3 as endpoint;
use nuncio_proto::envoy::extensions::clusters::dynamic_forward_proxy::v3 as pb;
use nuncio_proto::google::protobuf::Any;
use prost::{Message, Name};

use crate::cluster::{ClusterConfig, EndpointAddress};
use crate::protocol::duration;

/// The clusters of the hosts that requests name.
#[derive(Clone, Debug)]
pub struct SubClusters {
    /// What they have in common.
    template: Box<ClusterConfig>,
    names: Arc<ClusterNames>,
    /// Most of them.
    pub max: usize,
    /// One that no request names for so long goes.
    pub ttl: Duration,
}

/// Envoy's `max_sub_clusters`.
const DEFAULT_MAX: usize = 1024;
/// Envoy's `sub_cluster_ttl`.
const DEFAULT_TTL: Duration = Duration::from_secs(300);
/// The host of the template.
const NOBODY: &str = "host.invalid";

// === impl SubClusters ===

impl SubClusters {
    pub(super) fn lower(
        proto: pb::SubClustersConfig,
        parent: &cluster::Cluster,
        names: &CheckNames,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let pb::SubClustersConfig {
            lb_policy,
            max_sub_clusters,
            sub_cluster_ttl,
            // Envoy makes none of them before a request names it.
            preresolve_clusters: _,
            dns_cluster_config,
        } = proto;
        if lb_policy == cluster::cluster::LbPolicy::ClusterProvided as i32 {
            let reason = "unsupported lb_policy 'CLUSTER_PROVIDED' in sub_cluster_config";
            return Err(cx.at("lb_policy", |cx| cx.invalid(reason)));
        }
        let ttl = cx.opt("sub_cluster_ttl", sub_cluster_ttl, duration);
        let message = template(parent, lb_policy, dns_cluster_config);
        let template = ClusterConfig::lower_named(message, names.clone(), cx);
        Ok(Self {
            template: Box::new(template?),
            names: cx.env.clusters.clone(),
            max: max_sub_clusters.map_or(DEFAULT_MAX, |max| max.value as usize),
            ttl: ttl?.unwrap_or(DEFAULT_TTL),
        })
    }

    /// Whether the hash of a request counts for which host it gets.
    pub fn is_by_hash(&self) -> bool {
        self.template.lb.is_by_hash()
    }

    /// A number for one of them, of which there are `max`: names that requests invent do not live for ever.
    pub fn number(&self, parent: &ClusterName, place: usize) -> u32 {
        self.names.intern(&format!("{}\0{place}", parent.name)).id
    }

    /// The cluster of `host`, under this number.
    pub fn cluster(&self, id: u32, host: &str, port: u16) -> ClusterConfig {
        let name: Arc<str> = format!("DFPCluster:{host}:{port}").into();
        let mut config = ClusterConfig::clone(&self.template);
        config.observable_name = name.clone();
        config.is_made_for_host = true;
        config.name = ClusterName { id, name };
        for endpoint in &mut config.endpoints {
            endpoint.address = EndpointAddress::Named { name: host.into(), port };
        }
        config
    }
}

/// What Envoy makes such clusters of: the one that makes them, but for who its hosts are.
fn template(
    parent: &cluster::Cluster,
    lb_policy: i32,
    dns: Option<nuncio_proto::envoy::extensions::clusters::dns::v3::DnsCluster>,
) -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType};
    let discovery = match dns {
        None => ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into()),
        Some(dns) => {
            let value = dns.encode_to_vec();
            let type_url = nuncio_proto::envoy::extensions::clusters::dns::v3::DnsCluster::type_url();
            let typed_config = Some(Any { type_url, value });
            ClusterDiscoveryType::ClusterType(CustomClusterType { name: "envoy.cluster.dns".to_owned(), typed_config })
        }
    };
    let socket = SocketAddress {
        address: NOBODY.to_owned(),
        port_specifier: Some(nuncio_proto::envoy::config::core::v3::socket_address::PortSpecifier::PortValue(1)),
        ..SocketAddress::default()
    };
    let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
    let host = endpoint::Endpoint { address, ..endpoint::Endpoint::default() };
    let host_identifier = Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host));
    let lb_endpoints = vec![endpoint::LbEndpoint { host_identifier, ..endpoint::LbEndpoint::default() }];
    let locality = endpoint::LocalityLbEndpoints { lb_endpoints, ..endpoint::LocalityLbEndpoints::default() };
    let assignment = endpoint::ClusterLoadAssignment {
        cluster_name: parent.name.clone(),
        endpoints: vec![locality],
        ..Default::default()
    };
    // Envoy: hosts are held to be who they are called, unless the cluster says otherwise.
    let secure = UpstreamHttpProtocolOptions { auto_sni: true, auto_san_validation: true, ..Default::default() };
    let is_said =
        parent.upstream_http_protocol_options.is_some() || !parent.typed_extension_protocol_options.is_empty();
    cluster::Cluster {
        cluster_discovery_type: Some(discovery),
        lb_policy,
        load_balancing_policy: None,
        alt_stat_name: String::new(),
        load_assignment: Some(assignment),
        upstream_http_protocol_options: if is_said {
            parent.upstream_http_protocol_options.clone()
        } else {
            Some(secure)
        },
        ..parent.clone()
    }
}
