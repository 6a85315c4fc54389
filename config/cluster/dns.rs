mod resolver;

use std::sync::Arc;
use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::Cluster;
use nuncio_proto::envoy::config::cluster::v3::cluster::{DnsLookupFamily, RefreshRate as RefreshRateProto};
use nuncio_proto::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily as ExtensionFamily;
use nuncio_proto::envoy::extensions::clusters::dns::v3::{DnsCluster, dns_cluster};
use nuncio_proto::google::protobuf::Duration as ProtoDuration;

pub use resolver::{DnsResolverConfig, ResolverLibrary};

use super::Discovery;
use crate::protocol::duration;

/// Envoy's `dns_refresh_rate`.
const DEFAULT_REFRESH: Duration = Duration::from_secs(5);

/// How a cluster resolves its names.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Time from one answer to the next query.
    pub refresh: Duration,
    /// A random time below this is added to each refresh.
    pub jitter: Duration,
    /// Whether the time-to-live of the answer takes the place of `refresh`.
    pub respect_ttl: bool,
    /// The shortest time-to-live that does.
    pub min_refresh: Duration,
    /// How refreshes back off while queries fail; `None` goes on at `refresh`.
    pub failure: Option<RefreshRate>,
    /// Which addresses are asked for.
    pub family: DnsFamily,
    /// Whom to ask; `None` takes the bootstrap's resolver. Clusters that ask alike share one.
    pub resolver: Option<Arc<DnsResolverConfig>>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

// === impl DnsConfig ===

impl DnsConfig {
    /// Lowers what a cluster of type STRICT_DNS or LOGICAL_DNS says of DNS.
    pub(super) fn lower(proto: &Cluster, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let refresh = cx.opt("dns_refresh_rate", proto.dns_refresh_rate, duration)?.unwrap_or(DEFAULT_REFRESH);
        let jitter = cx.opt("dns_jitter", proto.dns_jitter, duration)?.unwrap_or_default();
        let failure = cx.opt("dns_failure_refresh_rate", proto.dns_failure_refresh_rate, |rate, cx| {
            let RefreshRateProto { base_interval, max_interval } = rate;
            RefreshRate::lower(base_interval, max_interval, cx)
        })?;
        let family = match DnsLookupFamily::try_from(proto.dns_lookup_family) {
            Ok(DnsLookupFamily::Auto) => DnsFamily::Auto,
            Ok(DnsLookupFamily::V4Only) => DnsFamily::V4Only,
            Ok(DnsLookupFamily::V6Only) => DnsFamily::V6Only,
            Ok(DnsLookupFamily::V4Preferred) => DnsFamily::V4Preferred,
            Ok(DnsLookupFamily::All) => DnsFamily::All,
            Err(_) => return Err(cx.at("dns_lookup_family", |cx| cx.invalid("is no family"))),
        };
        let resolver = DnsResolverConfig::lower_cluster(proto, cx)?.map(Arc::new);
        let min_refresh = Duration::ZERO;
        Ok(Self { refresh, jitter, respect_ttl: proto.respect_dns_ttl, min_refresh, failure, family, resolver })
    }

    /// Lowers the cluster extension. What the cluster itself says of DNS does not count then, as in Envoy.
    pub(super) fn lower_extension(proto: DnsCluster, cx: &mut LowerCx<'_>) -> Result<Discovery, Refused> {
        let DnsCluster {
            dns_refresh_rate,
            dns_failure_refresh_rate,
            respect_dns_ttl,
            dns_jitter,
            typed_dns_resolver_config,
            dns_lookup_family,
            all_addresses_in_single_endpoint,
            dns_min_refresh_rate,
        } = proto;
        let refresh = cx.opt("dns_refresh_rate", dns_refresh_rate, duration)?.unwrap_or(DEFAULT_REFRESH);
        let jitter = cx.opt("dns_jitter", dns_jitter, duration)?.unwrap_or_default();
        let min_refresh = cx.opt("dns_min_refresh_rate", dns_min_refresh_rate, duration)?.unwrap_or_default();
        let failure = cx.opt("dns_failure_refresh_rate", dns_failure_refresh_rate, |rate, cx| {
            let dns_cluster::RefreshRate { base_interval, max_interval } = rate;
            RefreshRate::lower(base_interval, max_interval, cx)
        })?;
        let family = match ExtensionFamily::try_from(dns_lookup_family) {
            Ok(ExtensionFamily::Unspecified | ExtensionFamily::Auto) => DnsFamily::Auto,
            Ok(ExtensionFamily::V4Only) => DnsFamily::V4Only,
            Ok(ExtensionFamily::V6Only) => DnsFamily::V6Only,
            Ok(ExtensionFamily::V4Preferred) => DnsFamily::V4Preferred,
            Ok(ExtensionFamily::All) => DnsFamily::All,
            Err(_) => return Err(cx.at("dns_lookup_family", |cx| cx.invalid("is no family"))),
        };
        let resolver =
            cx.opt("typed_dns_resolver_config", typed_dns_resolver_config, DnsResolverConfig::lower_typed)?;
        let resolver = resolver.map(Arc::new);
        let dns = Self { refresh, jitter, respect_ttl: respect_dns_ttl, min_refresh, failure, family, resolver };
        Ok(match all_addresses_in_single_endpoint {
            true => Discovery::LogicalDns(Box::new(dns)),
            false => Discovery::StrictDns(Box::new(dns)),
        })
    }
}

// === impl RefreshRate ===

impl RefreshRate {
    fn lower(
        base_interval: Option<ProtoDuration>,
        max_interval: Option<ProtoDuration>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
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
