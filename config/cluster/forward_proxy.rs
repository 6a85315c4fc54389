//! `envoy.clusters.dynamic_forward_proxy`: requests go to the host that they name.

mod sub_clusters;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::CheckNames;
use nuncio_proto::envoy::config::cluster::v3 as cluster;
use nuncio_proto::envoy::config::core::v3::SocketAddress;
use nuncio_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use nuncio_proto::envoy::extensions::clusters::dynamic_forward_proxy::v3 as pb;
use nuncio_proto::envoy::extensions::common::dynamic_forward_proxy::v3 as cache;
use nuncio_proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use nuncio_proto::envoy::r#type::matcher::v3::AddressMatcher;
use prost::Message;

use super::{DnsFamily, DnsResolverConfig, RefreshRate, dns};
use crate::matcher::Cidr;
use crate::protocol::{any_as, duration};

pub use sub_clusters::SubClusters;

/// A cluster whose hosts are those that requests name.
#[derive(Clone, Debug)]
pub struct ForwardProxy {
    /// How it knows them.
    pub hosts: ForwardHosts,
}

/// How the hosts that requests name are known.
#[derive(Clone, Debug)]
pub enum ForwardHosts {
    /// A cache keeps their addresses.
    Cache(Arc<DnsCacheConfig>),
    /// Each has a cluster of its own.
    Clusters(SubClusters),
}

/// The addresses of names, as they are kept for all that name the cache.
#[derive(Clone, Debug)]
pub struct DnsCacheConfig {
    /// By which all know it.
    pub name: Arc<str>,
    /// Which addresses are asked for.
    pub family: DnsFamily,
    /// Whom to ask; `None` takes the bootstrap's resolver.
    pub resolver: Option<Arc<DnsResolverConfig>>,
    /// When a name without addresses is asked for again.
    pub refresh: Duration,
    /// The shortest time after which one with addresses is, whatever their time-to-live.
    pub min_refresh: Duration,
    /// How queries back off that fail; `None` goes on at `refresh`.
    pub failure: Option<RefreshRate>,
    /// Whether a name whose query failed is asked for again before a request names it again.
    pub refreshes_failures: bool,
    /// A name that no request names for so long is dropped.
    pub host_ttl: Duration,
    /// Most names.
    pub max_hosts: usize,
    /// Most requests that wait for an address.
    pub max_pending: u64,
    /// Longest time for an answer; `None`: as long as the resolver takes.
    pub query_timeout: Option<Duration>,
    /// Names to ask for before any request does, with their ports.
    pub preresolved: Box<[(Box<str>, u16)]>,
    /// Addresses that are passed over.
    pub filter: Option<AddressFilter>,
}

/// Addresses that are passed over.
#[derive(Clone, Debug)]
pub struct AddressFilter {
    ranges: Box<[Cidr]>,
    /// Those outside of the ranges are.
    is_inverted: bool,
}

/// Envoy's `dns_refresh_rate` of a cache.
const DEFAULT_REFRESH: Duration = Duration::from_secs(60);
/// Envoy's `dns_min_refresh_rate`.
const DEFAULT_MIN_REFRESH: Duration = Duration::from_secs(5);
/// Envoy's `host_ttl`.
const DEFAULT_HOST_TTL: Duration = Duration::from_secs(300);
/// Envoy's `max_hosts`.
const DEFAULT_MAX_HOSTS: u32 = 1024;
/// Envoy's `max_pending_requests` of a cache.
const DEFAULT_MAX_PENDING: u32 = 1024;
/// Envoy's `dns_query_timeout`.
const DEFAULT_QUERY_TIMEOUT: Duration = Duration::from_secs(5);

// === impl ForwardProxy ===

impl ForwardProxy {
    pub(super) fn lower(
        proto: pb::ClusterConfig,
        cluster: &cluster::Cluster,
        names: &CheckNames,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        use pb::cluster_config::ClusterImplementationSpecifier as Specifier;
        let pb::ClusterConfig {
            allow_insecure_cluster_options,
            allow_coalesced_connections,
            cluster_implementation_specifier,
        } = proto;
        if allow_coalesced_connections {
            // Envoy may share a connection of HTTP/2 over TLS between names that its certificate has.
            tracing::info!(
                path = cx.path(),
                "allow_coalesced_connections has no effect: each name has its connections"
            );
        }
        if !allow_insecure_cluster_options {
            check_options(cluster, cx)?;
        }
        let cache = match cluster_implementation_specifier {
            Some(Specifier::DnsCacheConfig(config)) => {
                cx.at("dns_cache_config", |cx| DnsCacheConfig::lower(config, cx))?
            }
            Some(Specifier::SubClustersConfig(config)) => {
                let clusters = cx.at("sub_clusters_config", |cx| SubClusters::lower(config, cluster, names, cx))?;
                return Ok(Self { hosts: ForwardHosts::Clusters(clusters) });
            }
            // Envoy: a cache that says nothing of itself.
            None => DnsCacheConfig::lower(cache::DnsCacheConfig::default(), cx)?,
        };
        Ok(Self { hosts: ForwardHosts::Cache(Arc::new(cache)) })
    }
}

/// Envoy: whoever says how HTTP is spoken has to say that certificates are checked against the names that are asked for.
fn check_options(cluster: &cluster::Cluster, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let Some(any) = cluster.typed_extension_protocol_options.get(OPTIONS) else { return Ok(()) };
    let options: HttpProtocolOptions = any_as(any, cx)?;
    let is_secure = options.upstream_http_protocol_options.is_some_and(|o| o.auto_sni && o.auto_san_validation);
    if is_secure {
        return Ok(());
    }
    Err(cx.invalid(
        "dynamic_forward_proxy cluster must have auto_sni and auto_san_validation true unless \
         allow_insecure_cluster_options is set.",
    ))
}

// === impl DnsCacheConfig ===

impl DnsCacheConfig {
    /// Lowers the message, which is the same wherever the name of the cache is given.
    // Deprecated fields are configuration too.
    #[allow(deprecated)]
    pub fn lower(proto: cache::DnsCacheConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let encoded = proto.encode_to_vec();
        let cache::DnsCacheConfig {
            name,
            dns_lookup_family,
            dns_refresh_rate,
            dns_min_refresh_rate,
            host_ttl,
            max_hosts,
            disable_dns_refresh_on_failure,
            dns_failure_refresh_rate,
            dns_cache_circuit_breaker,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            preresolve_hostnames,
            dns_query_timeout,
            key_value_config,
            resolved_address_filter,
        } = proto;
        // The same fields as those of a cluster.
        let as_cluster = cluster::Cluster {
            dns_lookup_family,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            dns_failure_refresh_rate,
            ..cluster::Cluster::default()
        };
        let refused = cx.unsupported("key_value_config", &key_value_config);
        let dns = dns::DnsConfig::lower(&as_cluster, cx);
        let times = [
            ("dns_refresh_rate", dns_refresh_rate),
            ("dns_min_refresh_rate", dns_min_refresh_rate),
            ("host_ttl", host_ttl),
            ("dns_query_timeout", dns_query_timeout),
        ];
        let [refresh, min_refresh, ttl, timeout] = times.map(|(field, value)| cx.opt(field, value, duration));
        let cache::DnsCacheCircuitBreakers { max_pending_requests } = dns_cache_circuit_breaker.unwrap_or_default();
        let preresolved = cx.each("preresolve_hostnames", preresolve_hostnames, preresolved);
        let filter = cx.opt("resolved_address_filter", resolved_address_filter, AddressFilter::lower);
        if !cx.env.shared.agree("DNS cache", &name, encoded) {
            return Err(cx.invalid(format!("config specified DNS cache '{name}' with different settings")));
        }
        refused?;
        let dns = dns?;
        let query_timeout = timeout?.unwrap_or(DEFAULT_QUERY_TIMEOUT);
        Ok(Self {
            name: name.into(),
            family: dns.family,
            resolver: dns.resolver,
            refresh: refresh?.unwrap_or(DEFAULT_REFRESH),
            min_refresh: min_refresh?.unwrap_or(DEFAULT_MIN_REFRESH),
            failure: dns.failure,
            refreshes_failures: !disable_dns_refresh_on_failure,
            host_ttl: ttl?.unwrap_or(DEFAULT_HOST_TTL),
            max_hosts: max_hosts.map_or(DEFAULT_MAX_HOSTS, |v| v.value) as usize,
            max_pending: max_pending_requests.map_or(DEFAULT_MAX_PENDING, |v| v.value).into(),
            query_timeout: (!query_timeout.is_zero()).then_some(query_timeout),
            preresolved: preresolved?.into(),
            filter: filter?,
        })
    }
}

fn preresolved(proto: SocketAddress, cx: &mut LowerCx<'_>) -> Result<(Box<str>, u16), Refused> {
    let port = match proto.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port).ok(),
        _ => None,
    };
    let port = port.ok_or_else(|| cx.at("port_value", |cx| cx.invalid("a port is required")))?;
    Ok((proto.address.into(), port))
}

// === impl AddressFilter ===

impl AddressFilter {
    fn lower(proto: AddressMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let AddressMatcher { ranges, invert_match } = proto;
        let ranges = cx.each("ranges", ranges, Cidr::lower_xds)?;
        Ok(Self { ranges: ranges.into(), is_inverted: invert_match })
    }

    /// Whether `ip` is passed over.
    pub fn filters(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(ip)) != self.is_inverted
    }
}
