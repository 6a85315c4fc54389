use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nuncio_filter_api::filter_state::ProxyTlv;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::envoy_internal_address::AddressNameSpecifier;
use nuncio_proto::envoy::config::core::v3::{self as core, HealthStatus};
use nuncio_proto::envoy::config::endpoint::v3 as pb;
use nuncio_proto::envoy::config::endpoint::v3::locality_lb_endpoints::LbConfig;
use nuncio_proto::envoy::r#type::v3::FractionalPercent;
use nuncio_proto::envoy::r#type::v3::fractional_percent::DenominatorType;
use nuncio_telemetry::{Address, Metadata};

use super::{Discovery, EndpointCheck, LedsLocality};
use crate::address::parse_ip;
use crate::metadata::lower_metadata;
use crate::protocol::{any_as, duration};
use crate::proxy_tlv::lower_of_host;
use crate::socket::{AddressConfig, lower_pipe};
use crate::transport_socket::take_proxy;

/// One endpoint of a cluster as configured.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: EndpointAddress,
    /// `hostname`, for host rewrites and health checks; empty where not given.
    pub hostname: Arc<str>,
    /// `load_balancing_weight`, 1 where not given.
    pub weight: u32,
    /// Health as the configuration has it.
    pub health: Health,
    /// Region, zone and sub-zone.
    pub locality: Option<Arc<Locality>>,
    /// `priority` of its locality: 0 is used first.
    pub priority: u32,
    /// `metadata`
    pub metadata: Option<Arc<Metadata>>,
    /// What it is told of clients besides what others are (`added_tlvs` of its typed metadata).
    pub tlvs: Arc<[ProxyTlv]>,
    /// `metadata` of its locality.
    pub locality_metadata: Option<Arc<Metadata>>,
    /// How it is checked otherwise than the cluster says.
    pub check: Option<Arc<EndpointCheck>>,
    /// All its addresses, where it has several, in the order in which they are tried.
    pub addresses: Option<Arc<[SocketAddr]>>,
    /// The proxy that is connected to in its place.
    pub proxy: Option<Arc<Address>>,
    /// What it is counted by in place of its address.
    pub observability_name: Option<Arc<str>>,
}

impl Endpoint {
    /// One that no assignment names, but a request or DNS has found: nothing but its address and name is known of it.
    pub fn found(address: Address, hostname: Arc<str>) -> Self {
        Self {
            address: EndpointAddress::Fixed(address),
            hostname,
            weight: 1,
            health: Health::Unknown,
            locality: None,
            priority: 0,
            metadata: None,
            tlvs: Arc::default(),
            locality_metadata: None,
            check: None,
            addresses: None,
            proxy: None,
            observability_name: None,
        }
    }
}

/// What a load assignment says beside its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignmentPolicy {
    /// In percent: so much more than all is taken to be enough.
    pub overprovisioning_factor: u32,
    /// Whether the weights of hosts, rather than their number, make the health of a priority.
    pub weighted_priority_health: bool,
    /// Weights of localities; one that is not listed has none.
    pub locality_weights: Box<[LocalityWeight]>,
    /// `drop_overloads`, if there is one: a share of the requests that no host is to see.
    pub drop_overload: Option<Arc<DropOverload>>,
    /// How long it holds where discovery gives it and no other comes; `None`: for ever.
    pub stale_after: Option<Duration>,
}

/// A share of the requests to a cluster that is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropOverload {
    /// Its name.
    pub category: Arc<str>,
    /// The share, a million being all.
    pub millionths: u32,
}

/// The weight of a locality within its priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalityWeight {
    /// The locality.
    pub locality: Option<Arc<Locality>>,
    /// The priority.
    pub priority: u32,
    /// At least 1.
    pub weight: u32,
}

/// The endpoints of a cluster with what else its assignment says.
#[derive(Clone, Debug, Default)]
pub(super) struct Assignment {
    pub(super) endpoints: Vec<Endpoint>,
    /// Localities whose endpoints are discovered one by one.
    pub(super) leds: Vec<LedsLocality>,
    pub(super) policy: AssignmentPolicy,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAddress {
    /// At this address.
    Fixed(Address),
    /// At what DNS says of a name.
    Named {
        /// The name.
        name: Arc<str>,
        /// The port.
        port: u16,
    },
}

/// What the configuration says of an endpoint's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// UNKNOWN: taken for healthy.
    #[default]
    Unknown,
    /// HEALTHY
    Healthy,
    /// UNHEALTHY: used in panic alone.
    Unhealthy,
    /// DRAINING: unhealthy and said to leave.
    Draining,
    /// TIMEOUT: as UNHEALTHY.
    Timeout,
    /// DEGRADED: used where there are too few healthy ones.
    Degraded,
}

/// Where an endpoint stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// Sub-zone.
    pub sub_zone: Arc<str>,
}

/// Lowers the endpoints of a cluster. `discovery` is `None` where it was refused: then endpoints are still checked.
pub(super) fn lower(
    proto: Option<pb::ClusterLoadAssignment>,
    discovery: Option<&Discovery>,
    cx: &mut LowerCx<'_>,
) -> Result<Assignment, Refused> {
    let Some(proto) = proto else {
        return match discovery {
            Some(Discovery::LogicalDns(_)) => Err(cx.invalid("LOGICAL_DNS clusters must have a single host")),
            _ => Ok(Assignment::default()),
        };
    };
    cx.at("load_assignment", |cx| {
        let localities = proto.endpoints.len();
        refuse_leds(&proto.endpoints, cx)?;
        let assignment = lower_assignment(proto, discovery, cx)?;
        check_count(assignment, localities, discovery, cx)
    })
}

/// Lowers an assignment, whose cluster the caller knows.
pub(super) fn lower_assignment(
    proto: pb::ClusterLoadAssignment,
    discovery: Option<&Discovery>,
    cx: &mut LowerCx<'_>,
) -> Result<Assignment, Refused> {
    // Envoy knows no endpoints by their names.
    let pb::ClusterLoadAssignment { cluster_name, endpoints, named_endpoints: _, policy } = proto;
    let policy = cx.opt("policy", policy, AssignmentPolicy::lower)?.unwrap_or_default();
    let mut assignment = Assignment { endpoints: Vec::new(), leds: Vec::new(), policy };
    let lowered = cx.each("endpoints", endpoints, |l, cx| LocalityEndpoints::lower(l, &cluster_name, discovery, cx))?;
    let mut weights = Vec::new();
    for LocalityEndpoints { endpoints, leds, weight } in lowered {
        assignment.endpoints.extend(endpoints);
        assignment.leds.extend(leds);
        weights.extend(weight);
    }
    assignment.policy.locality_weights = weights.into();
    Ok(assignment)
}

/// Endpoints that are discovered one by one are those of an assignment that is discovered itself.
fn refuse_leds(localities: &[pb::LocalityLbEndpoints], cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let is_by_leds = |l: &pb::LocalityLbEndpoints| matches!(l.lb_config, Some(LbConfig::LedsClusterLocalityConfig(_)));
    let Some(at) = localities.iter().position(is_by_leds) else { return Ok(()) };
    let refuse = |cx: &mut LowerCx<'_>| cx.invalid("LEDS is only supported when EDS is used");
    Err(cx.at("endpoints", |cx| cx.at_index(at, |cx| cx.at("leds_cluster_locality_config", refuse))))
}

fn check_count(
    mut assignment: Assignment,
    localities: usize,
    discovery: Option<&Discovery>,
    cx: &mut LowerCx<'_>,
) -> Result<Assignment, Refused> {
    if !matches!(discovery, Some(Discovery::LogicalDns(_))) {
        return Ok(assignment);
    }
    match &mut assignment.endpoints[..] {
        [endpoint] if localities == 1 => {
            // Envoy: the one host has the highest priority, whatever is configured.
            endpoint.priority = 0;
            assignment.policy.locality_weights.iter_mut().for_each(|weight| weight.priority = 0);
            Ok(assignment)
        }
        _ => Err(cx.invalid("LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint")),
    }
}

// === impl AssignmentPolicy ===

/// Envoy's `overprovisioning_factor`, in percent.
const DEFAULT_OVERPROVISIONING: u32 = 140;

impl Default for AssignmentPolicy {
    fn default() -> Self {
        Self {
            overprovisioning_factor: DEFAULT_OVERPROVISIONING,
            weighted_priority_health: false,
            locality_weights: Box::default(),
            drop_overload: None,
            stale_after: None,
        }
    }
}

impl AssignmentPolicy {
    fn lower(proto: pb::cluster_load_assignment::Policy, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::cluster_load_assignment::Policy {
            drop_overloads,
            overprovisioning_factor,
            endpoint_stale_after,
            weighted_priority_health,
        } = proto;
        let drop_overload = DropOverload::lower(drop_overloads, cx);
        let stale_after = cx.opt("endpoint_stale_after", endpoint_stale_after, duration);
        let overprovisioning_factor = overprovisioning_factor.map_or(DEFAULT_OVERPROVISIONING, |v| v.value);
        Ok(Self {
            overprovisioning_factor,
            weighted_priority_health,
            locality_weights: Box::default(),
            drop_overload: drop_overload?.map(Arc::new),
            stale_after: stale_after?,
        })
    }
}

// === impl DropOverload ===

impl DropOverload {
    fn lower(
        protos: Vec<pb::cluster_load_assignment::policy::DropOverload>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        if protos.len() > 1 {
            let reason = format!("has {} categories, of which only one is supported", protos.len());
            return Err(cx.at("drop_overloads", |cx| cx.invalid(reason)));
        }
        let lowered = cx.each("drop_overloads", protos, |proto, cx| {
            let pb::cluster_load_assignment::policy::DropOverload { category, drop_percentage } = proto;
            let FractionalPercent { numerator, denominator } = drop_percentage.unwrap_or_default();
            let factor = match DenominatorType::try_from(denominator) {
                Ok(DenominatorType::Million) => 1,
                Ok(DenominatorType::TenThousand) => 100,
                Ok(DenominatorType::Hundred) | Err(_) => 10_000,
            };
            match numerator.checked_mul(factor) {
                Some(millionths @ 0..=1_000_000) => Ok(Self { category: category.into(), millionths }),
                _ => Err(cx.at("drop_percentage", |cx| cx.invalid("must be no more than all"))),
            }
        })?;
        Ok(lowered.into_iter().next())
    }
}

// === impl Health ===

impl Health {
    pub(super) fn from_proto(status: i32) -> Option<Self> {
        Some(match HealthStatus::try_from(status).ok()? {
            HealthStatus::Unknown => Self::Unknown,
            HealthStatus::Healthy => Self::Healthy,
            HealthStatus::Unhealthy => Self::Unhealthy,
            HealthStatus::Draining => Self::Draining,
            HealthStatus::Timeout => Self::Timeout,
            HealthStatus::Degraded => Self::Degraded,
        })
    }
}

// === impl Locality ===

impl Locality {
    /// `None` where it says nothing: that is the same as none at all.
    pub fn lower(proto: core::Locality) -> Option<Self> {
        let core::Locality { region, zone, sub_zone } = proto;
        Self::new(region.into(), zone.into(), sub_zone.into())
    }

    pub(super) fn new(region: Arc<str>, zone: Arc<str>, sub_zone: Arc<str>) -> Option<Self> {
        let locality = Self { region, zone, sub_zone };
        (locality != Self::default()).then_some(locality)
    }

    /// It as a message.
    pub fn to_proto(&self) -> core::Locality {
        let Self { region, zone, sub_zone } = self;
        core::Locality { region: region.to_string(), zone: zone.to_string(), sub_zone: sub_zone.to_string() }
    }
}

/// Where the typed metadata of an endpoint speaks of PROXY headers.
const PROXY_PROTOCOL: &str = "envoy.transport_sockets.proxy_protocol";

/// The endpoints of one locality at one priority.
struct LocalityEndpoints {
    endpoints: Vec<Endpoint>,
    leds: Option<LedsLocality>,
    weight: Option<LocalityWeight>,
}

// === impl LocalityEndpoints ===

impl LocalityEndpoints {
    fn lower(
        proto: pb::LocalityLbEndpoints,
        cluster: &str,
        discovery: Option<&Discovery>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let pb::LocalityLbEndpoints {
            locality,
            mut metadata,
            lb_endpoints,
            load_balancing_weight,
            priority,
            // Envoy does not read it.
            proximity: _,
            lb_config,
        } = proto;
        let proxy = take_proxy(metadata.as_mut(), cx)?.map(Arc::new);
        let metadata = metadata.and_then(lower_metadata);
        let locality = locality.and_then(Locality::lower).map(Arc::new);
        let place = Place { locality: &locality, metadata: &metadata, proxy: &proxy, priority };
        let leds = match lb_config {
            None => None,
            Some(LbConfig::LoadBalancerEndpoints(list)) => {
                cx.unsupported("load_balancer_endpoints", &Some(list))?;
                None
            }
            Some(LbConfig::LedsClusterLocalityConfig(leds)) if !lb_endpoints.is_empty() => {
                let reason = format!(
                    "A ClusterLoadAssignment for cluster {cluster} cannot include both LEDS (resource: {}) and a list \
                     of endpoints.",
                    leds.leds_collection_name
                );
                return Err(cx.invalid(reason));
            }
            Some(LbConfig::LedsClusterLocalityConfig(leds)) => {
                Some(cx.at("leds_cluster_locality_config", |cx| LedsLocality::lower(leds, place, cx))?)
            }
        };
        let endpoints = cx.each("lb_endpoints", lb_endpoints, |e, cx| lower_endpoint(e, place, discovery, cx))?;
        let weight = load_balancing_weight.map(|w| LocalityWeight { locality, priority, weight: w.value });
        Ok(Self { endpoints, leds, weight })
    }
}

/// What the endpoints of a locality have in common.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) locality: &'a Option<Arc<Locality>>,
    pub(super) metadata: &'a Option<Arc<Metadata>>,
    pub(super) proxy: &'a Option<Arc<Address>>,
    pub(super) priority: u32,
}

pub(super) fn lower_endpoint(
    proto: pb::LbEndpoint,
    place: Place<'_>,
    discovery: Option<&Discovery>,
    cx: &mut LowerCx<'_>,
) -> Result<Endpoint, Refused> {
    let pb::LbEndpoint { health_status, mut metadata, load_balancing_weight, host_identifier } = proto;
    // Envoy: a status of an API to come says nothing.
    let health = Health::from_proto(health_status).unwrap_or_default();
    let proxy = take_proxy(metadata.as_mut(), cx)?.map(Arc::new).or_else(|| place.proxy.clone());
    let (metadata, tlvs) = cx.opt("metadata", metadata, lower_own_metadata)?.unwrap_or_default();
    let endpoint = match host_identifier {
        Some(pb::lb_endpoint::HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(pb::lb_endpoint::HostIdentifier::EndpointName(_)) => {
            return Err(cx.at("endpoint_name", |cx| cx.invalid("is the name of no endpoint: an address must be set")));
        }
        None => return Err(cx.invalid("needs an endpoint")),
    };
    cx.at("endpoint", |cx| {
        let pb::Endpoint { address, health_check_config, hostname, additional_addresses, observability_name } =
            endpoint;
        // Envoy: hosts behind names are counted by their addresses.
        let is_counted_by_name = matches!(discovery, None | Some(Discovery::Static | Discovery::Eds(_)));
        let name = Some(observability_name).filter(|name| is_counted_by_name && !name.is_empty());
        let address = cx.at("address", |cx| lower_address(address, discovery, cx))?;
        let addresses = all_addresses(&address, additional_addresses, cx)?;
        let weight = load_balancing_weight.map_or(1, |w| w.value);
        let Place { locality, metadata: locality_metadata, priority, .. } = place;
        let locality = locality.clone();
        let check = cx.opt("health_check_config", health_check_config, EndpointCheck::lower)?.map(Arc::new);
        let (hostname, locality_metadata) = (hostname.into(), locality_metadata.clone());
        Ok(Endpoint {
            address,
            hostname,
            weight,
            health,
            locality,
            priority,
            metadata,
            tlvs,
            locality_metadata,
            check,
            addresses,
            proxy,
            observability_name: name.map(Arc::from),
        })
    })
}

/// The metadata of an endpoint, and what is in it for PROXY headers.
fn lower_own_metadata(
    mut proto: core::Metadata,
    cx: &mut LowerCx<'_>,
) -> Result<(Option<Arc<Metadata>>, Arc<[ProxyTlv]>), Refused> {
    let own = proto.typed_filter_metadata.remove(PROXY_PROTOCOL);
    let tlvs = cx.opt("typed_filter_metadata", own, |any, cx| {
        cx.at(PROXY_PROTOCOL, |cx| {
            let core::PerHostConfig { added_tlvs } = any_as(&any, cx)?;
            cx.each("added_tlvs", added_tlvs, lower_of_host)
        })
    });
    Ok((lower_metadata(proto), tlvs?.unwrap_or_default().into()))
}

fn lower_address(
    proto: Option<core::Address>,
    discovery: Option<&Discovery>,
    cx: &mut LowerCx<'_>,
) -> Result<EndpointAddress, Refused> {
    match proto.and_then(|a| a.address) {
        Some(core::address::Address::SocketAddress(address)) => cx.at("socket_address", |cx| {
            check_resolver_name(&address.resolver_name, discovery, cx)?;
            let AddressConfig { host, port } = target(address, cx)?;
            match (parse_ip(&host, port), discovery) {
                // Envoy: a DNS cluster resolves all that it is given, addresses too, and so knows them by name.
                (_, Some(Discovery::StrictDns(_) | Discovery::LogicalDns(_))) | (None, None) => {
                    Ok(EndpointAddress::Named { name: host.into(), port })
                }
                (Some(ip), _) => Ok(EndpointAddress::Fixed(ip.into())),
                (None, Some(_)) => Err(cx.at("address", |cx| {
                    cx.invalid(format!(
                        "malformed IP address: {host}. Consider setting resolver_name or setting cluster type to \
                         'STRICT_DNS' or 'LOGICAL_DNS'"
                    ))
                })),
            }
        }),
        Some(core::address::Address::Pipe(core::Pipe { path, mode })) => cx.at("pipe", |cx| {
            // The mode is of a listener's socket.
            let _ = mode;
            lower_pipe(&path, cx).map(EndpointAddress::Fixed)
        }),
        Some(core::address::Address::EnvoyInternalAddress(internal)) => {
            cx.at("envoy_internal_address", |cx| lower_internal(internal, cx).map(EndpointAddress::Fixed))
        }
        None => Err(cx.invalid("needs a socket_address or pipe")),
    }
}

/// A listener of this process, which may be there later, or never.
fn lower_internal(proto: core::EnvoyInternalAddress, cx: &mut LowerCx<'_>) -> Result<Address, Refused> {
    let core::EnvoyInternalAddress { endpoint_id, address_name_specifier } = proto;
    match address_name_specifier {
        Some(AddressNameSpecifier::ServerListenerName(name)) => Ok(Address::internal(name, endpoint_id)),
        None => Err(cx.invalid("a server_listener_name is required")),
    }
}

/// Host and port of where something is sent to. How a listening socket would be made has no meaning for it.
fn target(mut proto: core::SocketAddress, cx: &mut LowerCx<'_>) -> Result<AddressConfig, Refused> {
    proto.protocol = 0;
    proto.ipv4_compat = false;
    proto.resolver_name.clear();
    AddressConfig::lower(proto, cx)
}

fn check_resolver_name(name: &str, discovery: Option<&Discovery>, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let reason = match (name, discovery) {
        ("", _) => return Ok(()),
        (_, Some(Discovery::StrictDns(_))) => "STRICT_DNS clusters must NOT have a custom resolver name set".to_owned(),
        (_, Some(Discovery::LogicalDns(_))) => {
            "LOGICAL_DNS clusters must NOT have a custom resolver name set".to_owned()
        }
        ("envoy.ip", _) => return Ok(()),
        (name, _) => format!("Unknown address resolver: {name}"),
    };
    Err(cx.at("resolver_name", |cx| cx.invalid(reason)))
}

fn lower_additional(proto: pb::endpoint::AdditionalAddress, cx: &mut LowerCx<'_>) -> Result<SocketAddr, Refused> {
    let pb::endpoint::AdditionalAddress { address } = proto;
    cx.at("address", |cx| match address.and_then(|a| a.address) {
        Some(core::address::Address::SocketAddress(address)) => cx.at("socket_address", |cx| {
            check_resolver_name(&address.resolver_name, None, cx)?;
            let AddressConfig { host, port } = target(address, cx)?;
            parse_ip(&host, port)
                .ok_or_else(|| cx.at("address", |cx| cx.invalid(format!("malformed IP address: {host}"))))
        }),
        Some(core::address::Address::Pipe(_)) => {
            cx.at("pipe", |cx| Err(cx.not_implemented("a pipe as an additional address")))
        }
        Some(core::address::Address::EnvoyInternalAddress(_)) => cx
            .at("envoy_internal_address", |cx| Err(cx.not_implemented("an internal address as an additional address"))),
        None => Err(cx.invalid("needs a socket_address")),
    })
}

/// All addresses of an endpoint that has several. A name stands for those that DNS knows, as in Envoy.
fn all_addresses(
    first: &EndpointAddress,
    additional: Vec<pb::endpoint::AdditionalAddress>,
    cx: &mut LowerCx<'_>,
) -> Result<Option<Arc<[SocketAddr]>>, Refused> {
    if additional.is_empty() {
        return Ok(None);
    }
    match first {
        EndpointAddress::Fixed(Address::Ip(first)) => {
            let additional = cx.each("additional_addresses", additional, lower_additional)?;
            Ok(Some(std::iter::once(*first).chain(additional).collect()))
        }
        EndpointAddress::Named { .. } => {
            let path = cx.path();
            tracing::info!(
                path,
                "additional_addresses have no effect: the name stands for the addresses it resolves to"
            );
            Ok(None)
        }
        EndpointAddress::Fixed(_) => {
            let what = "an additional address beside one that is no IP address";
            Err(cx.at("additional_addresses", |cx| cx.not_implemented(what)))
        }
    }
}
