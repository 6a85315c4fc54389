use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::cluster::CommonLbConfig;
use nuncio_proto::envoy::config::cluster::v3::cluster::common_lb_config as pb;
use nuncio_proto::envoy::config::core::v3::HealthStatusSet;
use nuncio_proto::envoy::extensions::load_balancing_policies::common::v3 as common;
use nuncio_proto::envoy::r#type::v3::Percent;

use super::LoadAware;
use crate::cluster::Health;
use crate::protocol::duration;

/// What is the same for all ways to choose a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommonLb {
    /// Below this percentage of healthy hosts all are used; 0 never.
    pub panic_threshold: u8,
    /// Whether a host counts for nothing until it was checked once.
    pub ignore_new_hosts_until_first_hc: bool,
    /// Of which status a host must be that a filter wants for a request.
    pub override_statuses: HealthStatuses,
    /// Whether all connections are given up when hosts come or go.
    pub close_connections_on_host_set_change: bool,
    /// Changes of health that follow each other within so much time are told to the workers together.
    pub update_merge_window: Duration,
}

/// A set of statuses of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthStatuses(u8);

/// How localities count when a host is chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum LocalityLb {
    /// The locality of this proxy is preferred, where it is known.
    ZoneAware(ZoneAware),
    /// A locality is chosen by its weight first.
    Weighted,
    /// A locality is chosen first by what its hosts report that they can take.
    LoadAware(Box<LoadAware>),
}

/// Zone-aware routing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneAware {
    /// Percentage of requests that are routed so.
    pub routing_enabled: u8,
    /// With fewer hosts than this there is none.
    pub min_cluster_size: u64,
    /// No host rather than any where there are too few healthy ones.
    pub fail_traffic_on_panic: bool,
    /// All requests stay in the local zone if it has so many healthy hosts.
    pub force_local_zone: Option<u32>,
    /// What the share of a locality is measured by.
    pub basis: LocalityBasis,
}

/// What the share of a locality is measured by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalityBasis {
    /// The number of its healthy hosts.
    #[default]
    HealthyHosts,
    /// Their weight.
    HealthyWeight,
}

// === impl CommonLb ===

/// Envoy's `healthy_panic_threshold`, in percent.
const DEFAULT_PANIC_THRESHOLD: u8 = 50;
/// Envoy's `update_merge_window`.
const DEFAULT_MERGE_WINDOW: Duration = Duration::from_secs(1);

impl Default for CommonLb {
    fn default() -> Self {
        Self {
            panic_threshold: DEFAULT_PANIC_THRESHOLD,
            ignore_new_hosts_until_first_hc: false,
            override_statuses: HealthStatuses::default(),
            close_connections_on_host_set_change: false,
            update_merge_window: DEFAULT_MERGE_WINDOW,
        }
    }
}

impl CommonLb {
    pub(in crate::cluster) fn lower(proto: CommonLbConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let CommonLbConfig {
            healthy_panic_threshold,
            update_merge_window,
            ignore_new_hosts_until_first_hc,
            close_connections_on_host_set_change,
            override_host_status,
            // Parts of the policies that they are for.
            consistent_hashing_lb_config: _,
            locality_config_specifier: _,
        } = proto;
        let window = cx.opt("update_merge_window", update_merge_window, duration)?;
        let panic_threshold = cx.opt("healthy_panic_threshold", healthy_panic_threshold, percent)?;
        Ok(Self {
            panic_threshold: panic_threshold.unwrap_or(DEFAULT_PANIC_THRESHOLD),
            ignore_new_hosts_until_first_hc,
            override_statuses: override_host_status.map(HealthStatuses::lower).unwrap_or_default(),
            close_connections_on_host_set_change,
            update_merge_window: window.unwrap_or(DEFAULT_MERGE_WINDOW),
        })
    }
}

// === impl HealthStatuses ===

impl Default for HealthStatuses {
    fn default() -> Self {
        Self::of([Health::Unknown, Health::Healthy, Health::Degraded])
    }
}

impl HealthStatuses {
    /// Those.
    pub fn of(statuses: impl IntoIterator<Item = Health>) -> Self {
        Self(statuses.into_iter().fold(0, |bits, status| bits | 1 << status as u8))
    }

    fn lower(proto: HealthStatusSet) -> Self {
        let HealthStatusSet { statuses } = proto;
        // Rules of the field hold the numbers.
        Self::of(statuses.into_iter().filter_map(Health::from_proto))
    }

    /// Whether `status` is in it.
    pub fn has(self, status: Health) -> bool {
        self.0 & (1 << status as u8) != 0
    }
}

/// Envoy rounds to the nearest whole percent.
fn percent(percent: Percent, cx: &mut LowerCx<'_>) -> Result<u8, Refused> {
    if !(0.0..=100.0).contains(&percent.value) {
        return Err(cx.invalid("a percentage lies between 0 and 100"));
    }
    Ok(percent.value.round() as u8)
}

// === impl LocalityLb ===

impl Default for LocalityLb {
    fn default() -> Self {
        Self::ZoneAware(ZoneAware::default())
    }
}

impl LocalityLb {
    /// Where a locality is chosen by what its hosts report.
    #[inline]
    pub fn load_aware(&self) -> Option<&LoadAware> {
        match self {
            Self::LoadAware(load_aware) => Some(load_aware),
            Self::ZoneAware(_) | Self::Weighted => None,
        }
    }

    /// Lowers that of `common_lb_config`.
    pub(super) fn lower_common(
        proto: Option<pb::LocalityConfigSpecifier>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        match proto {
            None => Ok(Self::default()),
            Some(pb::LocalityConfigSpecifier::LocalityWeightedLbConfig(pb::LocalityWeightedLbConfig {})) => {
                Ok(Self::Weighted)
            }
            Some(pb::LocalityConfigSpecifier::ZoneAwareLbConfig(zone_aware)) => {
                cx.at("zone_aware_lb_config", |cx| ZoneAware::lower_common(zone_aware, cx)).map(Self::ZoneAware)
            }
        }
    }

    /// Lowers that of a policy.
    pub(super) fn lower(proto: Option<common::LocalityLbConfig>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use common::locality_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig};
        let Some(common::LocalityLbConfig { locality_config_specifier }) = proto else { return Ok(Self::default()) };
        match locality_config_specifier {
            None => Ok(Self::default()),
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})) => Ok(Self::Weighted),
            Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zone_aware)) => cx
                .at("locality_lb_config", |cx| cx.at("zone_aware_lb_config", |cx| ZoneAware::lower(zone_aware, cx)))
                .map(Self::ZoneAware),
        }
    }
}

// === impl ZoneAware ===

/// Envoy's `min_cluster_size`.
const DEFAULT_MIN_CLUSTER_SIZE: u64 = 6;

impl Default for ZoneAware {
    fn default() -> Self {
        Self {
            routing_enabled: 100,
            min_cluster_size: DEFAULT_MIN_CLUSTER_SIZE,
            fail_traffic_on_panic: false,
            force_local_zone: None,
            basis: LocalityBasis::HealthyHosts,
        }
    }
}

impl ZoneAware {
    fn lower_common(proto: pb::ZoneAwareLbConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::ZoneAwareLbConfig { routing_enabled, min_cluster_size, fail_traffic_on_panic } = proto;
        Ok(Self {
            routing_enabled: cx.opt("routing_enabled", routing_enabled, percent)?.unwrap_or(100),
            min_cluster_size: min_cluster_size.map_or(DEFAULT_MIN_CLUSTER_SIZE, |v| v.value),
            fail_traffic_on_panic,
            ..Self::default()
        })
    }

    // A deprecated field is configuration too.
    #[allow(deprecated)]
    fn lower(proto: common::locality_lb_config::ZoneAwareLbConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use common::locality_lb_config::zone_aware_lb_config::{ForceLocalZone, LocalityBasis as Basis};
        let common::locality_lb_config::ZoneAwareLbConfig {
            routing_enabled,
            min_cluster_size,
            fail_traffic_on_panic,
            force_locality_direct_routing,
            force_local_zone,
            locality_basis,
        } = proto;
        let basis = match Basis::try_from(locality_basis) {
            Ok(Basis::HealthyHostsNum) => LocalityBasis::HealthyHosts,
            Ok(Basis::HealthyHostsWeight) => LocalityBasis::HealthyWeight,
            Err(_) => return Err(cx.at("locality_basis", |cx| cx.invalid("is no basis"))),
        };
        Ok(Self {
            routing_enabled: cx.opt("routing_enabled", routing_enabled, percent)?.unwrap_or(100),
            min_cluster_size: min_cluster_size.map_or(DEFAULT_MIN_CLUSTER_SIZE, |v| v.value),
            fail_traffic_on_panic,
            force_local_zone: match force_local_zone {
                Some(ForceLocalZone { min_size }) => Some(min_size.map_or(1, |v| v.value)),
                None => force_locality_direct_routing.then_some(1),
            },
            basis,
        })
    }
}
