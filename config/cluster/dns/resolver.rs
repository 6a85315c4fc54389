use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::Cluster;
use nuncio_proto::envoy::config::core::v3::{
    Address, DnsResolutionConfig, DnsResolverOptions, TypedExtensionConfig, address,
};
use nuncio_proto::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use nuncio_proto::envoy::extensions::network::dns_resolver::getaddrinfo::v3::GetAddrInfoDnsResolverConfig;
use nuncio_proto::envoy::extensions::network::dns_resolver::hickory::v3::HickoryDnsResolverConfig;

use crate::protocol::{any_as, duration, message_name};
use crate::socket::AddressConfig;

/// Envoy's time for each name server to answer.
const DEFAULT_QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Envoy's number of attempts of one query.
const DEFAULT_QUERY_TRIES: u32 = 4;
/// The same of the hickory extension.
const HICKORY_QUERY_TRIES: u32 = 3;
/// The largest answer over UDP that c-ares says it takes.
const DEFAULT_UDP_PAYLOAD: u16 = 1232;
/// The standard port of DNS.
const DNS_PORT: u16 = 53;

/// Whom to ask and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsResolverConfig {
    /// What Envoy would ask with.
    pub library: ResolverLibrary,
    /// Name servers; empty takes those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// Whether `servers` count only where /etc/resolv.conf names none.
    pub servers_are_fallback: bool,
    /// Whether to ask over TCP alone.
    pub use_tcp: bool,
    /// Whether names are taken as they are, without the search domains of /etc/resolv.conf.
    pub no_search: bool,
    /// Whether addresses of a family are left out of which no interface has one.
    pub filter_unroutable: bool,
    /// Time for each name server to answer.
    pub timeout: Duration,
    /// Attempts before a query fails.
    pub tries: u32,
    /// Whether to begin each query with another name server.
    pub rotate: bool,
    /// The largest answer over UDP, in bytes, that name servers are told of.
    pub udp_payload: u16,
    /// How long answers are used again, at most; `None` asks each time.
    pub cache_ttl: Option<Duration>,
}

/// The library of Envoy whose options a resolver has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResolverLibrary {
    /// c-ares: Envoy's default, and the only one that counts.
    Cares,
    /// getaddrinfo(3).
    GetAddrInfo,
    /// hickory.
    Hickory,
}

// === impl DnsResolverConfig ===

impl Default for DnsResolverConfig {
    /// The resolver where nothing is said of it.
    fn default() -> Self {
        Self {
            library: ResolverLibrary::Cares,
            servers: Vec::new(),
            servers_are_fallback: false,
            use_tcp: false,
            no_search: false,
            filter_unroutable: false,
            timeout: DEFAULT_QUERY_TIMEOUT,
            tries: DEFAULT_QUERY_TRIES,
            rotate: false,
            udp_payload: DEFAULT_UDP_PAYLOAD,
            cache_ttl: None,
        }
    }
}

impl DnsResolverConfig {
    /// What a cluster says of its resolver; `None` where it says nothing. Envoy reads the first that is there of
    /// `typed_dns_resolver_config`, `dns_resolution_config` and the fields that came before both.
    pub(super) fn lower_cluster(proto: &Cluster, cx: &mut LowerCx<'_>) -> Result<Option<Self>, Refused> {
        let typed = proto.typed_dns_resolver_config.clone();
        if let Some(lowered) = Self::lower_either(typed, proto.dns_resolution_config.clone(), cx)? {
            return Ok(Some(lowered));
        }
        let servers = cx.each("dns_resolvers", proto.dns_resolvers.clone(), lower_server)?;
        let is_set = !servers.is_empty() || proto.use_tcp_for_dns_lookups;
        Ok(is_set.then(|| Self { servers, use_tcp: proto.use_tcp_for_dns_lookups, ..Self::default() }))
    }

    /// The resolver of all clusters that say nothing of theirs.
    pub(crate) fn lower_bootstrap(
        typed: Option<TypedExtensionConfig>,
        older: Option<DnsResolutionConfig>,
        use_tcp: bool,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let lowered = Self::lower_either(typed, older, cx)?;
        Ok(lowered.unwrap_or_else(|| Self { use_tcp, ..Self::default() }))
    }

    /// The resolver of whoever has fields for it as a cluster has: those of today, and a list of servers that came
    /// before, with its name. `None` where none is set.
    pub fn lower_fields(
        typed: Option<TypedExtensionConfig>,
        older: Option<DnsResolutionConfig>,
        (field, oldest): (&str, Vec<Address>),
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        if let Some(lowered) = Self::lower_either(typed, older, cx)? {
            return Ok(Some(lowered));
        }
        let servers = cx.each(field, oldest, lower_server)?;
        Ok((!servers.is_empty()).then(|| Self { servers, ..Self::default() }))
    }

    fn lower_either(
        typed: Option<TypedExtensionConfig>,
        older: Option<DnsResolutionConfig>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        if let Some(typed) = typed {
            return cx.at("typed_dns_resolver_config", |cx| Self::lower_typed(typed, cx).map(Some));
        }
        cx.opt("dns_resolution_config", older, |older, cx| {
            let DnsResolutionConfig { resolvers, dns_resolver_options } = older;
            let servers = cx.each("resolvers", resolvers, lower_server)?;
            Ok(Self { servers, ..Self::default() }.with_options(dns_resolver_options))
        })
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
                Ok(Self { library: ResolverLibrary::GetAddrInfo, tries, ..Self::default() })
            }
            "envoy.extensions.network.dns_resolver.hickory.v3.HickoryDnsResolverConfig" => {
                let config = any_as(&any, cx)?;
                Self::lower_hickory(config, cx)
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
        let servers = cx.each("resolvers", resolvers, lower_server)?;
        let payload = edns0_max_payload_size.map(|v| u16::try_from(v.value).unwrap_or(u16::MAX));
        let cache_ttl = qcache_max_ttl.filter(|v| v.value > 0).map(|v| Duration::from_secs(v.value.into()));
        let config = Self {
            servers,
            servers_are_fallback: use_resolvers_as_fallback,
            filter_unroutable: filter_unroutable_families,
            timeout: query_timeout_seconds.map_or(DEFAULT_QUERY_TIMEOUT, |v| Duration::from_secs(v.value)),
            tries: query_tries.map_or(DEFAULT_QUERY_TRIES, |v| v.value),
            rotate: rotate_nameservers,
            udp_payload: payload.unwrap_or(DEFAULT_UDP_PAYLOAD),
            cache_ttl,
            ..Self::default()
        };
        Ok(config.with_options(dns_resolver_options))
    }

    fn lower_hickory(proto: HickoryDnsResolverConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let HickoryDnsResolverConfig {
            resolvers,
            dns_over_tls,
            dns_over_https,
            enable_dnssec,
            cache_size,
            // Queries take no thread here, so that their number has no meaning.
            num_resolver_threads: _,
            use_system_config,
            query_timeout,
            query_tries,
        } = proto;
        let has_system = use_system_config.is_none_or(|v| v.value);
        // Nobody would be asked.
        let use_system_config = (!has_system && resolvers.is_empty()).then_some(false);
        let supported = crate::refuse_set!(cx; dns_over_tls, dns_over_https, enable_dnssec, use_system_config);
        let servers = cx.each("resolvers", resolvers, lower_server);
        let timeout = cx.opt("query_timeout", query_timeout, duration);
        supported?;
        let servers = servers?;
        Ok(Self {
            library: ResolverLibrary::Hickory,
            no_search: !has_system,
            timeout: timeout?.unwrap_or(DEFAULT_QUERY_TIMEOUT),
            tries: query_tries.map_or(HICKORY_QUERY_TRIES, |v| v.value),
            // Its cache holds answers for as long as they say; the number of them is bounded here in any case.
            cache_ttl: cache_size.is_none_or(|v| v.value > 0).then_some(Duration::MAX),
            servers,
            ..Self::default()
        })
    }

    fn with_options(self, proto: Option<DnsResolverOptions>) -> Self {
        let DnsResolverOptions { use_tcp_for_dns_lookups, no_default_search_domain } = proto.unwrap_or_default();
        Self { use_tcp: use_tcp_for_dns_lookups, no_search: no_default_search_domain, ..self }
    }
}

fn lower_server(proto: Address, cx: &mut LowerCx<'_>) -> Result<SocketAddr, Refused> {
    let mut server = match proto.address {
        Some(address::Address::SocketAddress(server)) => server,
        Some(address::Address::Pipe(pipe)) => {
            return Err(cx.invalid(format!("DNS resolver '{}' is not an IP address", pipe.path)));
        }
        _ => return Err(cx.invalid("a name server needs a socket_address")),
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
