use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::Cluster;
use nuncio_proto::envoy::config::cluster::v3::cluster::{DnsLookupFamily, RefreshRate as RefreshRateProto};
use nuncio_proto::envoy::config::core::v3::{Address, DnsResolverOptions, TypedExtensionConfig, address};
use nuncio_proto::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use nuncio_proto::envoy::extensions::network::dns_resolver::getaddrinfo::v3::GetAddrInfoDnsResolverConfig;

use crate::protocol::{any_as, duration, message_name};
use crate::socket::AddressConfig;

/// Envoy's `dns_refresh_rate`.
const DEFAULT_REFRESH: Duration = Duration::from_secs(5);
/// Envoy's time for each name server to answer.
const DEFAULT_QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Envoy's number of attempts of one query.
const DEFAULT_QUERY_TRIES: u32 = 4;
/// The standard port of DNS.
const DNS_PORT: u16 = 53;

/// How a cluster resolves its names.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Time from one answer to the next query.
    pub refresh: Duration,
    /// A random time below this is added to each refresh.
    pub jitter: Duration,
    /// Whether the time-to-live of the answer takes the place of `refresh`.
    pub respect_ttl: bool,
    /// How refreshes back off while queries fail; `None` goes on at `refresh`.
    pub failure: Option<RefreshRate>,
    /// Which addresses are asked for.
    pub family: DnsFamily,
    /// Whom to ask; clusters that ask alike share one.
    pub resolver: Arc<DnsResolverConfig>,
}

/// A back-off between two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshRate {
    /// The first.
    pub base: Duration,
    /// The longest.
    pub max: Duration,
}

/// Which addresses of a name are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv6, or IPv4 if there are none.
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4, or IPv6 if there are none.
    V4Preferred,
    /// Both.
    All,
}

/// Whom to ask and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsResolverConfig {
    /// Name servers; empty takes those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// Whether to ask over TCP alone.
    pub use_tcp: bool,
    /// Whether names are taken as they are, without the search domains of /etc/resolv.conf.
    pub no_search: bool,
    /// Time for each name server to answer.
    pub timeout: Duration,
    /// Attempts before a query fails.
    pub tries: u32,
    /// Whether to begin each query with another name server.
    pub rotate: bool,
}

// === impl DnsConfig ===

impl DnsConfig {
    pub(super) fn lower(proto: &Cluster, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let refresh = cx.opt("dns_refresh_rate", proto.dns_refresh_rate, duration)?.unwrap_or(DEFAULT_REFRESH);
        let jitter = cx.opt("dns_jitter", proto.dns_jitter, duration)?.unwrap_or_default();
        let failure = cx.opt("dns_failure_refresh_rate", proto.dns_failure_refresh_rate, RefreshRate::lower)?;
        let family = match DnsLookupFamily::try_from(proto.dns_lookup_family) {
            Ok(DnsLookupFamily::Auto) => DnsFamily::Auto,
            Ok(DnsLookupFamily::V4Only) => DnsFamily::V4Only,
            Ok(DnsLookupFamily::V6Only) => DnsFamily::V6Only,
            Ok(DnsLookupFamily::V4Preferred) => DnsFamily::V4Preferred,
            Ok(DnsLookupFamily::All) => DnsFamily::All,
            Err(_) => return Err(cx.at("dns_lookup_family", |cx| cx.invalid("is no family"))),
        };
        let resolver = Arc::new(DnsResolverConfig::lower(proto, cx)?);
        Ok(Self { refresh, jitter, respect_ttl: proto.respect_dns_ttl, failure, family, resolver })
    }
}

// === impl RefreshRate ===

impl RefreshRate {
    fn lower(proto: RefreshRateProto, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let RefreshRateProto { base_interval, max_interval } = proto;
        let base = cx.opt("base_interval", base_interval, duration)?;
        let base = base.ok_or_else(|| cx.at("base_interval", |cx| cx.invalid("is required")))?;
        // Envoy: the longest is ten times the first where it is not given.
        let max = cx.opt("max_interval", max_interval, duration)?.unwrap_or(base.saturating_mul(10));
        if max < base {
            return Err(cx.invalid("max_interval must be greater than or equal to the base_interval"));
        }
        Ok(Self { base, max })
    }
}

// === impl DnsResolverConfig ===

impl Default for DnsResolverConfig {
    /// The resolver of a cluster that says nothing of it.
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            use_tcp: false,
            no_search: false,
            timeout: DEFAULT_QUERY_TIMEOUT,
            tries: DEFAULT_QUERY_TRIES,
            rotate: false,
        }
    }
}

impl DnsResolverConfig {
    /// Envoy reads the first that is there of `typed_dns_resolver_config`, `dns_resolution_config` and the fields
    /// that came before both.
    fn lower(proto: &Cluster, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        if let Some(typed) = proto.typed_dns_resolver_config.clone() {
            return cx.at("typed_dns_resolver_config", |cx| Self::lower_typed(typed, cx));
        }
        if let Some(config) = proto.dns_resolution_config.clone() {
            return cx.at("dns_resolution_config", |cx| {
                let servers = cx.each("resolvers", config.resolvers, lower_server)?;
                Ok(Self { servers, ..Self::default() }.with_options(config.dns_resolver_options))
            });
        }
        let servers = cx.each("dns_resolvers", proto.dns_resolvers.clone(), lower_server)?;
        Ok(Self { servers, use_tcp: proto.use_tcp_for_dns_lookups, ..Self::default() })
    }

    /// Lowers a resolver extension, of a cluster or of the bootstrap.
    pub fn lower_typed(proto: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // The type selects an extension, not its name.
        let TypedExtensionConfig { name: _, typed_config } = proto;
        let any = typed_config.unwrap_or_default();
        cx.at("typed_config", |cx| match message_name(&any) {
            "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig" => {
                let config = any_as(&any, cx)?;
                Self::lower_cares(config, cx)
            }
            "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig" => {
                // Lookups take no thread here, so that their number has no meaning.
                let GetAddrInfoDnsResolverConfig { num_retries, num_resolver_threads: _ } = any_as(&any, cx)?;
                let tries = num_retries.map_or(DEFAULT_QUERY_TRIES, |n| n.value.saturating_add(1));
                Ok(Self { tries, ..Self::default() })
            }
            other => Err(cx.not_implemented(format!("DNS resolver {other}"))),
        })
    }

    fn lower_cares(proto: CaresDnsResolverConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let CaresDnsResolverConfig {
            resolvers,
            use_resolvers_as_fallback,
            filter_unroutable_families,
            dns_resolver_options,
            // Sockets are not kept between queries here, so that these limits on keeping them have no meaning.
            udp_max_queries: _,
            query_timeout_seconds,
            query_tries,
            rotate_nameservers,
            edns0_max_payload_size,
            max_udp_channel_duration: _,
            reinit_channel_on_timeout: _,
            qcache_max_ttl,
        } = proto;
        let qcache_max_ttl = qcache_max_ttl.filter(|v| v.value > 0);
        let supported = crate::refuse_set!(cx; use_resolvers_as_fallback, filter_unroutable_families,
            edns0_max_payload_size, qcache_max_ttl);
        let servers = cx.each("resolvers", resolvers, lower_server);
        supported?;
        let servers = servers?;
        let config = Self {
            servers,
            timeout: query_timeout_seconds.map_or(DEFAULT_QUERY_TIMEOUT, |v| Duration::from_secs(v.value)),
            tries: query_tries.map_or(DEFAULT_QUERY_TRIES, |v| v.value),
            rotate: rotate_nameservers,
            ..Self::default()
        };
        Ok(config.with_options(dns_resolver_options))
    }

    fn with_options(self, proto: Option<DnsResolverOptions>) -> Self {
        let DnsResolverOptions { use_tcp_for_dns_lookups, no_default_search_domain } = proto.unwrap_or_default();
        Self { use_tcp: use_tcp_for_dns_lookups, no_search: no_default_search_domain, ..self }
    }
}

fn lower_server(proto: Address, cx: &mut LowerCx<'_>) -> Result<SocketAddr, Refused> {
    let Some(address::Address::SocketAddress(mut server)) = proto.address else {
        return Err(cx.invalid("a name server needs a socket_address"));
    };
    cx.at("socket_address", |cx| {
        // Queries go by UDP first, whatever the address says.
        server.protocol = 0;
        let AddressConfig { host, port } = AddressConfig::lower(server, cx)?;
        let ip: IpAddr =
            host.parse().map_err(|_| cx.at("address", |cx| cx.invalid(format!("malformed IP address: {host}"))))?;
        Ok(SocketAddr::new(ip, if port == 0 { DNS_PORT } else { port }))
    })
}
