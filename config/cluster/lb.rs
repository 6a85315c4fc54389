mod client_weights;
mod common;
mod hashing;
mod load_aware;
mod override_host;
mod runtime_number;
mod slow_start;
mod subset;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::cluster::{self as pb, LbPolicy as Policy};
use nuncio_proto::envoy::config::cluster::v3::{LoadBalancingPolicy, load_balancing_policy};
use nuncio_proto::envoy::extensions::load_balancing_policies::subset::v3 as subset_pb;
use nuncio_proto::envoy::extensions::load_balancing_policies::{
    cluster_provided, least_request, random, round_robin, wrr_locality,
};
use nuncio_proto::google::protobuf::Any;

use super::endpoint::Assignment;
use super::{AssignmentPolicy, Discovery, Endpoint};
use crate::protocol::{any_as, message_name};

pub use client_weights::{ClientWeights, Metric, OwnReports};
pub use common::{CommonLb, HealthStatuses, LocalityBasis, LocalityLb, ZoneAware};
pub use hashing::{HashTable, HashingLb, RingHashFunction};
pub use load_aware::LoadAware;
pub use override_host::{HostSource, OverrideHostLb};
pub use runtime_number::RuntimeNumber;
pub use slow_start::SlowStart;
pub use subset::{SelectorFallback, SubsetFallback, SubsetLb, SubsetSelector};

/// How a host is chosen for a request.
#[derive(Clone, Debug)]
pub enum LbPolicy {
    /// One after the other, as often as their weights say.
    RoundRobin,
    /// One with few active requests.
    LeastRequest(LeastRequest),
    /// Any.
    Random,
    /// By the hash of the request.
    Hashing(Box<HashingLb>),
    /// As the type of the cluster has it.
    ClusterProvided,
}

/// How one with few active requests is found.
#[derive(Clone, Debug, PartialEq)]
pub struct LeastRequest {
    /// Among so many drawn at random, at least 2, where weights are equal; `None`: among all.
    pub choices: Option<u32>,
    /// `active_request_bias`: see [`LeastRequest::bias`].
    bias: RuntimeNumber,
}

/// A policy with how it treats localities.
#[derive(Clone, Debug)]
pub(super) struct LoweredLb {
    pub(super) policy: LbPolicy,
    pub(super) locality: LocalityLb,
    /// Subsets among which the policy chooses.
    pub(super) subset: Option<Box<SubsetLb>>,
    pub(super) slow_start: Option<Box<SlowStart>>,
    pub(super) override_host: Option<Box<OverrideHostLb>>,
    pub(super) client_weights: Option<Box<ClientWeights>>,
}

// === impl LoweredLb ===

impl LoweredLb {
    /// `common` counts for `lb_policy` alone.
    pub(super) fn lower(
        policy: i32,
        config: Option<pb::LbConfig>,
        list: Option<LoadBalancingPolicy>,
        common: Option<&pb::CommonLbConfig>,
        subset: Option<&pb::LbSubsetConfig>,
        cluster: &str,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        // Envoy: the list replaces lb_policy where it is given.
        if let Some(list) = list {
            refuse_older(common, subset, cx)?;
            return cx.at("load_balancing_policy", |cx| {
                Self::lower_list(list, cluster, cx, |names| {
                    format!(
                        "cluster: didn't find a registered load balancer factory implementation for cluster: \
                         '{cluster}' with names from [{names}]"
                    )
                })
            });
        }
        let slow_start = lower_slow_start(policy, config.as_ref(), cx);
        let policy = LbPolicy::lower(policy, config, common, cx);
        let specifier = common.and_then(|c| c.locality_config_specifier);
        let locality = cx.at("common_lb_config", |cx| LocalityLb::lower_common(specifier, cx))?;
        let subset = match subset {
            Some(proto) => cx.at("lb_subset_config", |cx| SubsetLb::lower_config(proto, &locality, cluster, cx))?,
            None => None,
        };
        Ok(Self { subset: subset.map(Box::new), slow_start: slow_start?, ..Self::new(policy?, locality) })
    }

    /// Whether the policy can work with the weights that are configured.
    pub(super) fn check_weights(&self, assignment: &Assignment, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        match self.policy.refuses(&assignment.endpoints, &assignment.policy) {
            Some(reason) => Err(cx.invalid(reason)),
            None => Ok(()),
        }
    }

    /// Envoy: only some types of clusters bring a balancer, and those are used with it alone.
    pub(super) fn check_provided(
        &self,
        discovery: &Discovery,
        cluster: &str,
        cx: &mut LowerCx<'_>,
    ) -> Result<(), Refused> {
        let is_provided = matches!(self.policy, LbPolicy::ClusterProvided);
        if is_provided && self.subset.is_some() {
            let reason = "cluster: LB policy CLUSTER_PROVIDED cannot be combined with lb_subset_config";
            return Err(cx.invalid(reason));
        }
        match (is_provided, discovery.brings_balancer()) {
            (true, false) => Err(cx.invalid(format!(
                "cluster manager: cluster provided LB specified but cluster '{cluster}' did not provide one. Check \
                 cluster documentation."
            ))),
            (false, true) => Err(cx.invalid(format!(
                "cluster manager: cluster provided LB not specified but cluster '{cluster}' provided one. Check \
                 cluster documentation."
            ))),
            _ => Ok(()),
        }
    }

    /// The first entry of a type that Envoy knows wins, as in Envoy; if nuncio lacks it, it is refused.
    /// `none` says that there is no such entry among those with these names.
    fn lower_list(
        list: LoadBalancingPolicy,
        cluster: &str,
        cx: &mut LowerCx<'_>,
        none: impl FnOnce(String) -> String,
    ) -> Result<Self, Refused> {
        let LoadBalancingPolicy { policies } = list;
        cx.at("policies", |cx| {
            let mut names = Vec::new();
            for (i, policy) in policies.into_iter().enumerate() {
                let load_balancing_policy::Policy { typed_extension_config } = policy;
                let Some(config) = typed_extension_config else { continue };
                if let Some(any) = config.typed_config
                    && let Some(lowered) = cx.at_index(i, |cx| {
                        cx.at("typed_extension_config", |cx| {
                            cx.at("typed_config", |cx| Self::lower_any(&any, cluster, cx))
                        })
                    })?
                {
                    return Ok(lowered);
                }
                names.push(config.name);
            }
            Err(cx.invalid(none(names.join(", "))))
        })
    }

    fn new(policy: LbPolicy, locality: LocalityLb) -> Self {
        Self { policy, locality, subset: None, slow_start: None, override_host: None, client_weights: None }
    }

    fn lower_subset(proto: subset_pb::Subset, cluster: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let list = proto.subset_lb_policy.clone().unwrap_or_default();
        let child = cx.at("subset_lb_policy", |cx| {
            Self::lower_list(list, cluster, cx, |names| {
                format!(
                    "cluster: didn't find a registered load balancer factory implementation for subset lb with names \
                     from [{names}]"
                )
            })
        })?;
        if child.subset.is_some() {
            return Err(cx.not_implemented("a subset of subsets"));
        }
        if child.locality.load_aware().is_some() {
            return Err(cx.not_implemented("localities chosen by their load within a subset"));
        }
        // Without selectors there are no subsets.
        let makes_subsets = !proto.subset_selectors.is_empty();
        let subset = SubsetLb::lower(proto, &child.locality, cluster, cx)?;
        // Envoy looks for no host by its address within a subset: there it only tells who was chosen.
        let override_host = child.override_host.map(|own| match makes_subsets {
            true => Box::new(OverrideHostLb { sources: Box::default(), ..*own }),
            false => own,
        });
        let subset = makes_subsets.then(|| Box::new(subset));
        Ok(Self { subset, override_host, ..child })
    }

    /// Envoy has it for one other policy alone.
    fn lower_wrr_locality(
        proto: wrr_locality::v3::WrrLocality,
        cluster: &str,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        const OTHERS: &str = "Currently WrrLocalityLoadBalancer only supports ClientSideWeightedRoundRobinLoadBalancer \
                              as its endpoint picking policy.";
        let wrr_locality::v3::WrrLocality { endpoint_picking_policy } = proto;
        cx.at("endpoint_picking_policy", |cx| {
            let list = endpoint_picking_policy.unwrap_or_default();
            let child = Self::lower_list(list, cluster, cx, |_| OTHERS.to_owned())?;
            let is_other = child.client_weights.is_none() || child.locality.load_aware().is_some();
            if is_other || child.subset.is_some() || child.override_host.is_some() {
                return Err(cx.invalid(OTHERS));
            }
            Ok(Self { locality: LocalityLb::Weighted, ..child })
        })
    }

    fn lower_any(any: &Any, cluster: &str, cx: &mut LowerCx<'_>) -> Result<Option<Self>, Refused> {
        let Some(name) = message_name(any).strip_prefix("envoy.extensions.load_balancing_policies.") else {
            return Ok(None);
        };
        let lowered = match name {
            "round_robin.v3.RoundRobin" => {
                let round_robin::v3::RoundRobin { slow_start_config, locality_lb_config } = any_as(any, cx)?;
                let slow_start = SlowStart::lower(slow_start_config, cx)?;
                Self { slow_start, ..Self::new(LbPolicy::RoundRobin, LocalityLb::lower(locality_lb_config, cx)?) }
            }
            "least_request.v3.LeastRequest" => LeastRequest::lower_policy(any_as(any, cx)?, cx)?,
            "random.v3.Random" => {
                let random::v3::Random { locality_lb_config } = any_as(any, cx)?;
                Self::new(LbPolicy::Random, LocalityLb::lower(locality_lb_config, cx)?)
            }
            "ring_hash.v3.RingHash" => HashingLb::lower_ring_policy(any_as(any, cx)?, cx)?,
            "maglev.v3.Maglev" => HashingLb::lower_maglev_policy(any_as(any, cx)?, cx)?,
            "subset.v3.Subset" => Self::lower_subset(any_as(any, cx)?, cluster, cx)?,
            "override_host.v3.OverrideHost" => OverrideHostLb::lower(any_as(any, cx)?, cluster, cx)?,
            "cluster_provided.v3.ClusterProvided" => {
                let cluster_provided::v3::ClusterProvided {} = any_as(any, cx)?;
                Self::new(LbPolicy::ClusterProvided, LocalityLb::default())
            }
            "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin" => {
                ClientWeights::lower(any_as(any, cx)?, cx)?
            }
            "load_aware_locality.v3.LoadAwareLocality" => LoadAware::lower(any_as(any, cx)?, cluster, cx)?,
            "wrr_locality.v3.WrrLocality" => Self::lower_wrr_locality(any_as(any, cx)?, cluster, cx)?,
            // Envoy 1.40 has the messages and no such policies: it looks for another in the list.
            "pick_first.v3.PickFirst" | "random_subsetting.v3.RandomSubsetting" => return Ok(None),
            other => return Err(cx.not_implemented(format!("load balancing by {other}"))),
        };
        Ok(Some(lowered))
    }
}

/// Envoy: what the list says is not said by older fields too.
fn refuse_older(
    common: Option<&pb::CommonLbConfig>,
    subset: Option<&pb::LbSubsetConfig>,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    const COMMON: &str = "cluster: load_balancing_policy cannot be combined with partial fields (zone_aware_lb_config, \
                          locality_weighted_lb_config, consistent_hashing_lb_config) of common_lb_config";
    if subset.is_some() {
        let reason = "cluster: load_balancing_policy cannot be combined with lb_subset_config";
        return Err(cx.at("lb_subset_config", |cx| cx.invalid(reason)));
    }
    let is_older = |common: &pb::CommonLbConfig| {
        common.locality_config_specifier.is_some() || common.consistent_hashing_lb_config.is_some()
    };
    match common.is_some_and(is_older) {
        true => Err(cx.at("common_lb_config", |cx| cx.invalid(COMMON))),
        false => Ok(()),
    }
}

/// Hosts have names where DNS gave them, as Envoy sees it, which asks no more than the type of the cluster, and nothing
/// where a policy in the list says that names count.
pub(super) fn check_hostname(
    common: Option<&pb::CommonLbConfig>,
    kind: Option<&pb::ClusterDiscoveryType>,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    let config = common.and_then(|common| common.consistent_hashing_lb_config);
    if !config.is_some_and(|config| config.use_hostname_for_hashing) {
        return Ok(());
    }
    let kind = match kind {
        None => "envoy.cluster.static",
        Some(pb::ClusterDiscoveryType::ClusterType(_)) => "",
        Some(pb::ClusterDiscoveryType::Type(kind)) => match pb::DiscoveryType::try_from(*kind) {
            Ok(pb::DiscoveryType::StrictDns) => return Ok(()),
            Ok(pb::DiscoveryType::LogicalDns) => "envoy.cluster.logical_dns",
            Ok(pb::DiscoveryType::Eds) => "envoy.cluster.eds",
            Ok(pb::DiscoveryType::OriginalDst) => "envoy.cluster.original_dst",
            Ok(pb::DiscoveryType::Static) | Err(_) => "envoy.cluster.static",
        },
    };
    Err(cx.invalid(format!("Cannot use hostname for consistent hashing loadbalancing for cluster of type: '{kind}'")))
}

// === impl LbPolicy ===

impl LbPolicy {
    /// Whether hosts are chosen by the hash of a request. Envoy makes none for the others, and no cookie for it.
    pub fn is_by_hash(&self) -> bool {
        match self {
            Self::RoundRobin | Self::LeastRequest(_) | Self::Random | Self::ClusterProvided => false,
            Self::Hashing(_) => true,
        }
    }

    /// Why it cannot work with the weights that are configured or discovered.
    pub(super) fn refuses(&self, endpoints: &[Endpoint], policy: &AssignmentPolicy) -> Option<String> {
        match self {
            Self::RoundRobin | Self::LeastRequest(_) | Self::Random | Self::ClusterProvided => None,
            Self::Hashing(_) => HashingLb::overflow(endpoints, &policy.locality_weights),
        }
    }

    /// Whether it says itself what of a request is hashed, whatever routes say.
    pub fn says_what_is_hashed(&self) -> bool {
        matches!(self, Self::Hashing(hashing) if hashing.policies.is_some())
    }

    fn lower(
        policy: i32,
        config: Option<pb::LbConfig>,
        common: Option<&pb::CommonLbConfig>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        match Policy::try_from(policy) {
            Ok(Policy::RoundRobin) => Ok(Self::RoundRobin),
            Ok(Policy::LeastRequest) => Ok(Self::LeastRequest(LeastRequest::lower(config, cx))),
            Ok(Policy::Random) => Ok(Self::Random),
            Ok(Policy::RingHash) => HashingLb::lower_ring(config, common, cx),
            Ok(Policy::Maglev) => HashingLb::lower_maglev(config, common, cx),
            Ok(Policy::LoadBalancingPolicyConfig) => {
                Err(cx.at("lb_policy", |cx| cx.invalid("cluster: field load_balancing_policy need to be set")))
            }
            Ok(Policy::ClusterProvided) => Ok(Self::ClusterProvided),
            Err(_) => Err(cx.at("lb_policy", |cx| cx.invalid("is no load balancing policy"))),
        }
    }
}

/// Envoy reads the configuration of the policy in force alone.
fn lower_slow_start(
    policy: i32,
    config: Option<&pb::LbConfig>,
    cx: &mut LowerCx<'_>,
) -> Result<Option<Box<SlowStart>>, Refused> {
    let (field, slow_start) = match (Policy::try_from(policy), config) {
        (Ok(Policy::RoundRobin), Some(pb::LbConfig::RoundRobinLbConfig(config))) => {
            let pb::RoundRobinLbConfig { slow_start_config } = config;
            ("round_robin_lb_config", slow_start_config)
        }
        (Ok(Policy::LeastRequest), Some(pb::LbConfig::LeastRequestLbConfig(config))) => {
            ("least_request_lb_config", &config.slow_start_config)
        }
        _ => return Ok(None),
    };
    cx.at(field, |cx| SlowStart::lower_config(slow_start.clone(), cx))
}

// === impl LeastRequest ===

/// Envoy's `choice_count`.
const DEFAULT_CHOICES: u32 = 2;

impl Default for LeastRequest {
    fn default() -> Self {
        Self { choices: Some(DEFAULT_CHOICES), bias: RuntimeNumber::from(1.0) }
    }
}

impl LeastRequest {
    /// Where weights differ, they are divided by the number of active requests to the power of this.
    pub fn bias(&self) -> f64 {
        // Envoy: a bias below 0 is passed over.
        Some(self.bias.get()).filter(|bias| *bias >= 0.0).unwrap_or(1.0)
    }

    fn lower(config: Option<pb::LbConfig>, cx: &LowerCx<'_>) -> Self {
        let Some(pb::LbConfig::LeastRequestLbConfig(config)) = config else { return Self::default() };
        // Slow start is lowered by itself.
        let pb::LeastRequestLbConfig { choice_count, active_request_bias, slow_start_config: _ } = config;
        let choices = Some(choice_count.map_or(DEFAULT_CHOICES, |c| c.value));
        Self { choices, bias: RuntimeNumber::lower(active_request_bias, cx) }
    }

    // A deprecated field is configuration too.
    #[allow(deprecated)]
    fn lower_policy(proto: least_request::v3::LeastRequest, cx: &mut LowerCx<'_>) -> Result<LoweredLb, Refused> {
        use least_request::v3::least_request::SelectionMethod;
        let least_request::v3::LeastRequest {
            choice_count,
            active_request_bias,
            slow_start_config,
            locality_lb_config,
            enable_full_scan,
            selection_method,
        } = proto;
        let slow_start = SlowStart::lower(slow_start_config, cx)?;
        // The old field asks for nothing else.
        let scans_all =
            selection_method == SelectionMethod::FullScan as i32 || enable_full_scan.is_some_and(|v| v.value);
        let choices = (!scans_all).then(|| choice_count.map_or(DEFAULT_CHOICES, |c| c.value));
        let policy = LbPolicy::LeastRequest(Self { choices, bias: RuntimeNumber::lower(active_request_bias, cx) });
        Ok(LoweredLb { slow_start, ..LoweredLb::new(policy, LocalityLb::lower(locality_lb_config, cx)?) })
    }
}

#[cfg(test)]
mod tests;
