//! Clusters: `envoy.config.cluster.v3.Cluster` made ready to run.

mod aggregate;
mod circuit_breakers;
mod connections;
mod dns;
mod eds;
mod endpoint;
mod error_matcher;
mod filters;
mod forward_proxy;
mod happy_eyeballs;
mod health_check;
mod http;
mod lb;
mod leds;
mod load_metrics;
mod original_dst;
mod outlier;
mod policies;
mod pooling;
#[cfg(test)]
mod tests;
mod tracking;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use nuncio_filter_api::{ClusterName, LowerCx, Readiness, Refused};
use nuncio_proto::CheckNames;
use nuncio_proto::envoy::config::cluster::v3 as pb;
use nuncio_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use nuncio_telemetry::Metadata;
use prost::Message;

pub use aggregate::Aggregate;
pub use circuit_breakers::{CircuitBreakers, Priority, RetryBudget, Thresholds};
pub use dns::{DnsConfig, DnsFamily, DnsResolverConfig, RefreshRate, ResolverLibrary};
pub use eds::{ClusterAssignment, EdsConfig};
pub use endpoint::{AssignmentPolicy, DropOverload, Endpoint, EndpointAddress, Health, Locality, LocalityWeight};
pub use error_matcher::ErrorMatcher;
pub use forward_proxy::{AddressFilter, DnsCacheConfig, ForwardHosts, ForwardProxy, SubClusters};
pub use happy_eyeballs::HappyEyeballs;
pub use health_check::{
    Checker, EndpointCheck, GrpcHealthCheck, HealthCheck, HealthCheckLog, HttpHealthCheck, Intervals, Payloads,
    RedisHealthCheck, StatusRanges, TcpHealthCheck, ThriftHealthCheck, ThriftProtocol, ThriftTransport,
};
pub use http::{ServerName, UpstreamHttp, UpstreamProtocol};
pub use lb::{
    ClientWeights, CommonLb, HashTable, HashingLb, HealthStatuses, HostSource, LbPolicy, LeastRequest, LoadAware,
    LocalityBasis, LocalityLb, Metric, OverrideHostLb, OwnReports, RingHashFunction, RuntimeNumber, SelectorFallback,
    SlowStart, SubsetFallback, SubsetLb, SubsetSelector, ZoneAware,
};
pub use leds::{LedsLocality, lower_local_endpoint};
pub use load_metrics::LoadMetric;
pub use original_dst::OriginalDst;
pub use outlier::{Consecutive, FailurePercentage, OutlierDetection, OutlierKeys, SuccessRate};
pub use policies::RequestPolicies;
pub use pooling::{Pooling, UpstreamPool};
pub use tracking::Tracking;
pub use transport::{TransportSocketMatch, TransportSockets, transport_fields};

use crate::extension;
use crate::metadata::lower_metadata;
use crate::protocol::{any_as, duration, message_name};
use crate::socket::{BindConfig, TcpKeepalive};

/// Envoy's `connect_timeout`.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Envoy's `per_connection_buffer_limit_bytes`: 1 MiB.
const DEFAULT_BUFFER_LIMIT: u32 = 1024 * 1024;

/// A cluster. Small, because a configuration may hold tens of thousands: what is rarely set is boxed or shared.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Name and number.
    pub name: ClusterName,
    /// `alt_stat_name`, or else the name: what stats and `%UPSTREAM_CLUSTER%` say.
    pub observable_name: Arc<str>,
    /// Where the hosts come from.
    pub discovery: Discovery,
    /// The hosts as configured, in order; for a DNS cluster the names to resolve.
    pub endpoints: Box<[Endpoint]>,
    /// How the load is spread over the priorities and localities of `endpoints`.
    pub assignment: AssignmentPolicy,
    /// How a host is chosen.
    pub lb: LbPolicy,
    /// How localities count for it.
    pub locality_lb: LocalityLb,
    /// Subsets of the hosts among which one is chosen.
    pub subset: Option<Box<SubsetLb>>,
    /// Whether the share of a new host grows slowly.
    pub slow_start: Option<Box<SlowStart>>,
    /// Where requests name the hosts that they are for.
    pub override_host: Option<Box<OverrideHostLb>>,
    /// Whether a dynamic forward proxy made it, for a host that requests name.
    pub is_made_for_host: bool,
    /// Whether it stands for a service that is no cluster of the configuration, and nobody is told of.
    pub is_own: bool,
    /// Whether hosts get their weights by what they report of their load.
    pub client_weights: Option<Box<ClientWeights>>,
    /// What of the hosts' load reports is passed on; `None`: nothing.
    pub load_metrics: Option<Arc<Vec<LoadMetric>>>,
    /// What is the same for all ways to choose a host.
    pub common_lb: CommonLb,
    /// Limits.
    pub circuit_breakers: CircuitBreakers,
    /// How hosts are checked, if they are.
    pub health_check: Option<Arc<HealthCheck>>,
    /// Further checks, each of which a host has to pass as well.
    pub further_checks: Box<[Arc<HealthCheck>]>,
    /// How hosts that fail are found, if they are.
    pub outlier: Option<Arc<OutlierDetection>>,
    /// Whether a host that discovery has no longer is gone at once, though its checks pass.
    pub ignore_health_on_host_removal: bool,
    /// HTTP towards the hosts.
    pub http: Arc<UpstreamHttp>,
    /// Longest time a connection may take to be established.
    pub connect_timeout: Duration,
    /// Soft limit of the buffers of one connection, in bytes.
    pub buffer_limit: u32,
    /// What must be there before it is used, beside its hosts.
    pub waits_for: Box<[Arc<Readiness>]>,
    /// How sockets are bound; `None` takes the bootstrap's default.
    pub bind: Option<Arc<BindConfig>>,
    /// TCP keep-alive.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// In which order the addresses of a host that has several are tried.
    pub happy_eyeballs: HappyEyeballs,
    /// Whether the server waits with its start for the first answer of DNS.
    pub wait_for_warm: bool,
    /// `metadata`
    pub metadata: Option<Arc<Metadata>>,
    /// Of all that makes a connection what it is: those of another configuration of the cluster go on where it is equal.
    pub connections: u64,
    /// How connections are pooled otherwise than usual.
    pub pooling: Option<Arc<Pooling>>,
    /// What is counted besides what always is.
    pub tracking: Tracking,
    /// `upstream_config`: what becomes of requests on their way to hosts.
    pub upstream_pool: UpstreamPool,
    /// What carries the bytes of connections, where they are not sent as they are.
    pub transport: Option<Arc<TransportSockets>>,
    /// `close_connections_on_host_health_failure`: tunnels to a host that fails end at once.
    pub close_connections_on_host_health_failure: bool,
}

/// Where the hosts of a cluster come from.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// The configuration.
    Static,
    /// DNS; every address of each name is a host.
    StrictDns(Box<DnsConfig>),
    /// DNS; the name is one host, new connections go to its first address.
    LogicalDns(Box<DnsConfig>),
    /// Endpoint discovery.
    Eds(Box<EdsConfig>),
    /// None are its own: those of other clusters, which stand in for each other.
    Aggregate(Box<Aggregate>),
    /// The requests: where each is to go.
    OriginalDst(Arc<OriginalDst>),
    /// The requests: each names its host.
    ForwardProxy(Arc<ForwardProxy>),
}

// === impl Discovery ===

impl Discovery {
    /// Whether the type of the cluster has a way of its own to choose a host.
    pub fn brings_balancer(&self) -> bool {
        match self {
            Self::Static | Self::StrictDns(_) | Self::LogicalDns(_) | Self::Eds(_) => false,
            Self::Aggregate(_) | Self::OriginalDst(_) | Self::ForwardProxy(_) => true,
        }
    }

    /// How endpoints are discovered, where they are.
    pub fn eds(&self) -> Option<&EdsConfig> {
        match self {
            Self::Eds(eds) => Some(eds),
            _ => None,
        }
    }

    /// What endpoints are asked for by, where that is said (`service_name`).
    pub fn told_service(&self) -> Option<&str> {
        self.eds()?.told_name.as_deref()
    }

    /// How names are resolved, where they are the hosts.
    pub fn dns(&self) -> Option<&DnsConfig> {
        match self {
            Self::StrictDns(dns) | Self::LogicalDns(dns) => Some(dns),
            Self::Static | Self::Eds(_) | Self::Aggregate(_) | Self::OriginalDst(_) | Self::ForwardProxy(_) => None,
        }
    }
}

// === impl ClusterConfig ===

impl ClusterConfig {
    /// How hosts report their load by themselves, where they are asked to.
    pub fn own_reports(&self) -> Option<&OwnReports> {
        let of_weights = self.client_weights.as_ref().and_then(|weights| weights.own_reports.as_deref());
        of_weights.or_else(|| self.locality_lb.load_aware()?.own_reports.as_deref())
    }

    /// Lowers one cluster; `encoded` is the same, with what the message has no place for.
    pub fn lower_encoded(proto: pb::Cluster, encoded: &[u8], cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let names = match proto.health_checks.is_empty() {
            true => CheckNames::default(),
            false => CheckNames::decode(encoded).map_err(|error| cx.invalid(error.to_string()))?,
        };
        Self::lower_named(proto, names, cx)
    }

    /// Lowers one cluster, whose health checks have no names.
    pub fn lower(proto: pb::Cluster, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        Self::lower_named(proto, CheckNames::default(), cx)
    }

    fn lower_named(proto: pb::Cluster, names: CheckNames, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // What came before is another cluster's.
        drop(cx.take_waits());
        let supported = refuse_unsupported(&proto, cx);
        let connections = connections::hash(&proto);
        // Each part is lowered even if an earlier one was refused, to report all refusals at once.
        let discovery = lower_discovery(&proto, &names, cx);
        let assignment = endpoint::lower(proto.load_assignment, discovery.as_ref().ok(), cx);
        let lb = lb::LoweredLb::lower(
            proto.lb_policy,
            proto.lb_config,
            proto.load_balancing_policy,
            proto.common_lb_config.as_ref(),
            proto.lb_subset_config.as_ref(),
            &proto.name,
            cx,
        );
        let hostname = cx.at("common_lb_config", |cx| {
            lb::check_hostname(proto.common_lb_config.as_ref(), proto.cluster_discovery_type.as_ref(), cx)
        });
        let common_lb = cx.opt("common_lb_config", proto.common_lb_config, CommonLb::lower);
        if let (Ok(discovery), Ok(lb)) = (&discovery, &lb) {
            cx.at("lb_policy", |cx| lb.check_provided(discovery, &proto.name, cx))?;
            if let Ok(assignment) = &assignment {
                cx.at("load_assignment", |cx| lb.check_weights(assignment, cx))?;
            }
        }
        let circuit_breakers = cx.opt("circuit_breakers", proto.circuit_breakers, CircuitBreakers::lower);
        let name = cx.env.clusters.intern(&proto.name);
        let observable_name =
            if proto.alt_stat_name.is_empty() { name.name.clone() } else { proto.alt_stat_name.into() };
        let http = UpstreamHttp::lower(
            http::Protos {
                stat_name: &observable_name,
                typed: proto.typed_extension_protocol_options,
                upstream: proto.upstream_http_protocol_options,
                common: proto.common_http_protocol_options,
                http1: proto.http_protocol_options,
                http2: proto.http2_protocol_options,
                selection: proto.protocol_selection,
                max_requests_per_connection: proto.max_requests_per_connection,
            },
            cx,
        );
        let protocol = http.as_ref().ok().map(|http| http.protocol);
        let health_check = HealthCheck::lower(proto.health_checks, names, protocol, cx);
        let outlier = cx.opt("outlier_detection", proto.outlier_detection, OutlierDetection::lower);
        let connect_timeout = cx.opt("connect_timeout", proto.connect_timeout, duration);
        let bind = cx.opt("upstream_bind_config", proto.upstream_bind_config, BindConfig::lower);
        let connection =
            cx.opt("upstream_connection_options", proto.upstream_connection_options, lower_connection_options);
        let metadata = proto.metadata.and_then(lower_metadata);
        let upstream_pool = cx.opt("upstream_config", proto.upstream_config, UpstreamPool::lower);
        let scope = cx.env.stats.scope("cluster").scope(&observable_name);
        let transport = cx.in_scope(scope, |cx| {
            let (socket, matches) = (proto.transport_socket, proto.transport_socket_matches);
            TransportSockets::lower(socket, matches, proto.transport_socket_matcher, cx)
        });
        let knows_alpn = transport.as_ref().is_ok_and(|t| t.as_ref().is_some_and(TransportSockets::know_alpn));
        if protocol == Some(UpstreamProtocol::Auto) && transport.is_ok() && !knows_alpn {
            let reason = "ALPN configured for a cluster which has a non-ALPN transport socket";
            return Err(cx.at("typed_extension_protocol_options", |cx| cx.invalid(reason)));
        }
        let tracking = Tracking::lower(proto.track_timeout_budgets, proto.track_cluster_stats);
        let pooling = Pooling::lower(proto.preconnect_policy, proto.connection_pool_per_downstream_connection, cx);
        supported?;
        hostname?;
        let discovery = discovery?;
        let (tcp_keepalive, happy_eyeballs) = connection?.unwrap_or_default();
        let mut health_checks = health_check?.into_iter().map(Arc::new);
        // LEDS is refused where endpoints are not discovered.
        let endpoint::Assignment { mut endpoints, leds: _, policy: assignment } = assignment?;
        for addresses in endpoints.iter_mut().filter_map(|endpoint| endpoint.addresses.as_mut()) {
            *addresses = happy_eyeballs.sort(addresses).into();
        }
        let lb::LoweredLb { policy: lb, locality: locality_lb, subset, slow_start, override_host, client_weights } =
            lb?;
        Ok(Self {
            name,
            observable_name,
            // Envoy passes over the hosts of a cluster that finds its own.
            endpoints: if discovery.brings_balancer() { Box::default() } else { endpoints.into() },
            discovery,
            assignment,
            lb,
            locality_lb,
            subset,
            slow_start,
            override_host,
            is_made_for_host: false,
            is_own: false,
            client_weights,
            load_metrics: LoadMetric::lower_all(&proto.lrs_report_endpoint_metrics),
            common_lb: common_lb?.unwrap_or_default(),
            circuit_breakers: circuit_breakers?.unwrap_or_default(),
            health_check: health_checks.next(),
            further_checks: health_checks.collect(),
            outlier: outlier?.map(Arc::new),
            ignore_health_on_host_removal: proto.ignore_health_on_host_removal,
            http: http?,
            connect_timeout: connect_timeout?.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            // Envoy: zero is no limit.
            buffer_limit: match proto.per_connection_buffer_limit_bytes.map_or(DEFAULT_BUFFER_LIMIT, |v| v.value) {
                0 => u32::MAX,
                limit => limit,
            },
            waits_for: cx.take_waits().into(),
            bind: bind?.map(Arc::new),
            tcp_keepalive,
            happy_eyeballs,
            wait_for_warm: proto.wait_for_warm_on_init.is_none_or(|v| v.value),
            metadata,
            connections,
            pooling: pooling?.map(Arc::new),
            transport: transport?.map(Arc::new),
            tracking,
            upstream_pool: upstream_pool?.unwrap_or_default(),
            close_connections_on_host_health_failure: proto.close_connections_on_host_health_failure,
        })
    }
}

/// Refuses by name every field that nuncio does not implement yet. The destructuring names all others too, so that a
/// field that a newer `envoy-types` adds does not compile until someone has thought of it here.
fn refuse_unsupported(proto: &pb::Cluster, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let pb::Cluster {
        transport_socket_matches: _,
        transport_socket_matcher: _,
        name: _,
        alt_stat_name: _,
        stats_matcher,
        eds_cluster_config: _,
        connect_timeout: _,
        per_connection_buffer_limit_bytes: _,
        per_connection_buffer_high_watermark_timeout,
        lb_policy: _,
        load_assignment: _,
        health_checks: _,
        max_requests_per_connection: _,
        circuit_breakers: _,
        upstream_http_protocol_options: _,
        common_http_protocol_options: _,
        http_protocol_options: _,
        http2_protocol_options: _,
        typed_extension_protocol_options: _,
        dns_refresh_rate: _,
        dns_jitter: _,
        dns_failure_refresh_rate: _,
        respect_dns_ttl: _,
        dns_lookup_family: _,
        dns_resolvers: _,
        use_tcp_for_dns_lookups: _,
        dns_resolution_config: _,
        typed_dns_resolver_config: _,
        wait_for_warm_on_init: _,
        outlier_detection: _,
        // Envoy reads it for ORIGINAL_DST alone.
        cleanup_interval: _,
        upstream_bind_config: _,
        lb_subset_config: _,
        common_lb_config: _,
        transport_socket: _,
        metadata: _,
        protocol_selection: _,
        upstream_connection_options: _,
        close_connections_on_host_health_failure: _,
        ignore_health_on_host_removal: _,
        filters,
        load_balancing_policy: _,
        // Envoy reads it never, whatever it says: `cluster_manager.load_stats_config` alone names a server.
        lrs_server: _,
        lrs_report_endpoint_metrics: _,
        track_timeout_budgets: _,
        upstream_config: _,
        track_cluster_stats: _,
        preconnect_policy: _,
        connection_pool_per_downstream_connection: _,
        queuing_policies,
        cluster_discovery_type: _,
        lb_config: _,
    } = proto;
    // Envoy: zero is never.
    let high_watermark_timeout =
        per_connection_buffer_high_watermark_timeout.filter(|timeout| timeout.seconds != 0 || timeout.nanos != 0);
    let refusals = [
        cx.unsupported("stats_matcher", stats_matcher),
        cx.unsupported("per_connection_buffer_high_watermark_timeout", &high_watermark_timeout),
        filters::refuse(filters, cx),
        cx.unsupported("queuing_policies", queuing_policies),
    ];
    refusals.into_iter().collect()
}

fn lower_discovery(proto: &pb::Cluster, names: &CheckNames, cx: &mut LowerCx<'_>) -> Result<Discovery, Refused> {
    let kind = match &proto.cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return lower_custom(custom, proto, names, cx);
        }
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(*kind).map_err(|_| cx.at("type", |cx| cx.invalid("is no discovery type")))?
        }
    };
    if kind != DiscoveryType::Eds && proto.eds_cluster_config.is_some() {
        return Err(cx.at("eds_cluster_config", |cx| cx.invalid("eds_cluster_config set in a non-EDS cluster")));
    }
    match kind {
        DiscoveryType::Static => Ok(Discovery::Static),
        DiscoveryType::StrictDns => Ok(Discovery::StrictDns(Box::new(DnsConfig::lower(proto, cx)?))),
        DiscoveryType::LogicalDns => Ok(Discovery::LogicalDns(Box::new(DnsConfig::lower(proto, cx)?))),
        DiscoveryType::Eds => Ok(Discovery::Eds(Box::new(EdsConfig::lower(proto, cx)?))),
        DiscoveryType::OriginalDst => Ok(Discovery::OriginalDst(Arc::new(OriginalDst::lower(proto, cx)?))),
    }
}

/// The configurations of cluster types that are extensions, by the full names of their messages.
const AGGREGATE: &str = "envoy.extensions.clusters.aggregate.v3.ClusterConfig";
const DNS: &str = "envoy.extensions.clusters.dns.v3.DnsCluster";
const FORWARD_PROXY: &str = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig";
/// Here Envoy goes by the name of the type.
const STRUCT: &str = "google.protobuf.Struct";
const ORIGINAL_DST: &str = "envoy.extensions.clusters.original_dst.v3.OriginalDstCluster";

/// The type of its configuration selects an extension; one that has none is known by its name.
fn lower_custom(
    custom: &pb::cluster::CustomClusterType,
    cluster: &pb::Cluster,
    names: &CheckNames,
    cx: &mut LowerCx<'_>,
) -> Result<Discovery, Refused> {
    let pb::cluster::CustomClusterType { name, typed_config } = custom;
    let Some(any) = typed_config else { return lower_named(name, cluster, cx) };
    let interval = original_dst::cleanup_interval(cluster, cx);
    let lower_any = |cx: &mut LowerCx<'_>| match message_name(any) {
        AGGREGATE => Ok(Discovery::Aggregate(Box::new(Aggregate::lower(any_as(any, cx)?, cx)?))),
        DNS => DnsConfig::lower_extension(any_as(any, cx)?, cx),
        FORWARD_PROXY => {
            Ok(Discovery::ForwardProxy(Arc::new(ForwardProxy::lower(any_as(any, cx)?, cluster, names, cx)?)))
        }
        ORIGINAL_DST => {
            Ok(Discovery::OriginalDst(Arc::new(OriginalDst::lower_extension(any_as(any, cx)?, interval?, cx)?)))
        }
        STRUCT => Err(cx.not_implemented(format_args!("{name} that is configured by a Struct"))),
        message => {
            let known = [AGGREGATE, FORWARD_PROXY, DNS, ORIGINAL_DST];
            Err(extension::refuse_unknown("cluster type", message, known, cx))
        }
    };
    cx.at("cluster_type", |cx| cx.at("typed_config", lower_any))
}

fn lower_named(name: &str, cluster: &pb::Cluster, cx: &mut LowerCx<'_>) -> Result<Discovery, Refused> {
    match name {
        "envoy.cluster.static" => Ok(Discovery::Static),
        "envoy.cluster.original_dst" => Ok(Discovery::OriginalDst(Arc::new(OriginalDst::lower(cluster, cx)?))),
        // Envoy: it has fields of its own, and does not look at those of the cluster.
        "envoy.cluster.dns" => DnsConfig::lower_extension(Default::default(), cx),
        "envoy.cluster.strict_dns" => Ok(Discovery::StrictDns(Box::new(DnsConfig::lower(cluster, cx)?))),
        "envoy.cluster.logical_dns" => Ok(Discovery::LogicalDns(Box::new(DnsConfig::lower(cluster, cx)?))),
        _ => {
            let what = format!("cluster type {name} without typed_config");
            Err(cx.at("cluster_type", |cx| cx.not_implemented(what)))
        }
    }
}

fn lower_connection_options(
    proto: pb::UpstreamConnectionOptions,
    cx: &mut LowerCx<'_>,
) -> Result<(Option<TcpKeepalive>, HappyEyeballs), Refused> {
    let pb::UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = proto;
    if set_local_interface_name_on_upstream_connections {
        // Envoy keeps the name for extensions written for it: no stat, no log and no header has it.
        tracing::info!(path = cx.path(), "set_local_interface_name_on_upstream_connections has no effect");
    }
    let happy_eyeballs = cx.opt("happy_eyeballs_config", happy_eyeballs_config, HappyEyeballs::lower)?;
    Ok((tcp_keepalive.and_then(TcpKeepalive::lower), happy_eyeballs.unwrap_or_default()))
}
