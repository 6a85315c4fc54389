mod common;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::cluster::{self as pb, LbPolicy as Policy};
use nuncio_proto::envoy::config::cluster::v3::{LoadBalancingPolicy, load_balancing_policy};
use nuncio_proto::envoy::extensions::load_balancing_policies::{least_request, random, round_robin};
use nuncio_proto::google::protobuf::Any;

use crate::protocol::{any_as, message_name};

pub use common::{CommonLb, LocalityBasis, LocalityLb, ZoneAware};

/// How a host is chosen for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LbPolicy {
    /// One after the other, as often as their weights say.
    RoundRobin,
    /// The one with the fewest active requests among `choices` drawn at random.
    LeastRequest {
        /// At least 2.
        choices: u32,
    },
    /// Any.
    Random,
}

/// A policy with how it treats localities.
#[derive(Clone, Debug)]
pub(super) struct LoweredLb {
    pub(super) policy: LbPolicy,
    pub(super) locality: LocalityLb,
}

/// Envoy's `choice_count`.
const DEFAULT_CHOICES: u32 = 2;

// === impl LoweredLb ===

impl LoweredLb {
    /// `common` counts for `lb_policy` alone.
    pub(super) fn lower(
        policy: i32,
        config: Option<pb::LbConfig>,
        list: Option<LoadBalancingPolicy>,
        common: Option<&pb::CommonLbConfig>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        // Envoy: the list replaces lb_policy where it is given.
        if let Some(list) = list {
            return cx.at("load_balancing_policy", |cx| Self::lower_list(list, cx));
        }
        let policy = LbPolicy::lower(policy, config, cx);
        let specifier = common.and_then(|c| c.locality_config_specifier);
        let locality = cx.at("common_lb_config", |cx| LocalityLb::lower_common(specifier, cx))?;
        Ok(Self { policy: policy?, locality })
    }

    /// The first entry of a type that Envoy knows wins, as in Envoy; if nuncio lacks it, it is refused.
    fn lower_list(list: LoadBalancingPolicy, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let LoadBalancingPolicy { policies } = list;
        cx.at("policies", |cx| {
            for (i, policy) in policies.into_iter().enumerate() {
                let load_balancing_policy::Policy { typed_extension_config } = policy;
                let Some(any) = typed_extension_config.and_then(|c| c.typed_config) else { continue };
                if let Some(lowered) = cx.at_index(i, |cx| {
                    cx.at("typed_extension_config", |cx| cx.at("typed_config", |cx| Self::lower_any(&any, cx)))
                })? {
                    return Ok(lowered);
                }
            }
            Err(cx.invalid("didn't find a registered load balancer factory"))
        })
    }

    fn lower_any(any: &Any, cx: &mut LowerCx<'_>) -> Result<Option<Self>, Refused> {
        match message_name(any) {
            "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin" => {
                let round_robin::v3::RoundRobin { slow_start_config, locality_lb_config } = any_as(any, cx)?;
                cx.unsupported("slow_start_config", &slow_start_config)?;
                let locality = LocalityLb::lower(locality_lb_config, cx)?;
                Ok(Some(Self { policy: LbPolicy::RoundRobin, locality }))
            }
            "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest" => {
                let least_request::v3::LeastRequest {
                    choice_count,
                    active_request_bias,
                    slow_start_config,
                    locality_lb_config,
                    enable_full_scan,
                    selection_method,
                } = any_as(any, cx)?;
                cx.unsupported("active_request_bias", &active_request_bias)?;
                cx.unsupported("slow_start_config", &slow_start_config)?;
                cx.unsupported("enable_full_scan", &enable_full_scan.filter(|v| v.value))?;
                cx.unsupported("selection_method", &selection_method)?;
                let locality = LocalityLb::lower(locality_lb_config, cx)?;
                let choices = choice_count.map_or(DEFAULT_CHOICES, |c| c.value);
                Ok(Some(Self { policy: LbPolicy::LeastRequest { choices }, locality }))
            }
            "envoy.extensions.load_balancing_policies.random.v3.Random" => {
                let random::v3::Random { locality_lb_config } = any_as(any, cx)?;
                let locality = LocalityLb::lower(locality_lb_config, cx)?;
                Ok(Some(Self { policy: LbPolicy::Random, locality }))
            }
            name if name.starts_with("envoy.extensions.load_balancing_policies.") => {
                Err(cx.not_implemented(format!("load balancing by {name}")))
            }
            _ => Ok(None),
        }
    }
}

// === impl LbPolicy ===

impl LbPolicy {
    /// Whether hosts are chosen by the hash of a request. Envoy makes none for the others, and no cookie for it.
    pub fn is_by_hash(self) -> bool {
        match self {
            Self::RoundRobin | Self::LeastRequest { .. } | Self::Random => false,
        }
    }

    fn lower(policy: i32, config: Option<pb::LbConfig>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        match Policy::try_from(policy) {
            Ok(Policy::RoundRobin) => Self::lower_round_robin(config, cx),
            Ok(Policy::LeastRequest) => Self::lower_least_request(config, cx),
            Ok(Policy::Random) => Ok(Self::Random),
            Ok(Policy::LoadBalancingPolicyConfig) => {
                Err(cx.at("lb_policy", |cx| cx.invalid("LOAD_BALANCING_POLICY_CONFIG needs load_balancing_policy")))
            }
            Ok(other @ (Policy::RingHash | Policy::Maglev | Policy::ClusterProvided)) => {
                let what = format!("load balancing by {}", other.as_str_name());
                Err(cx.at("lb_policy", |cx| cx.not_implemented(what)))
            }
            Err(_) => Err(cx.at("lb_policy", |cx| cx.invalid("is no load balancing policy"))),
        }
    }

    fn lower_round_robin(config: Option<pb::LbConfig>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // Envoy reads the configuration of the policy in force alone.
        if let Some(pb::LbConfig::RoundRobinLbConfig(config)) = config {
            let pb::RoundRobinLbConfig { slow_start_config } = config;
            cx.at("round_robin_lb_config", |cx| cx.unsupported("slow_start_config", &slow_start_config))?;
        }
        Ok(Self::RoundRobin)
    }

    fn lower_least_request(config: Option<pb::LbConfig>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Some(pb::LbConfig::LeastRequestLbConfig(config)) = config else {
            return Ok(Self::LeastRequest { choices: DEFAULT_CHOICES });
        };
        let pb::LeastRequestLbConfig { choice_count, active_request_bias, slow_start_config } = config;
        cx.at("least_request_lb_config", |cx| {
            cx.unsupported("active_request_bias", &active_request_bias)?;
            cx.unsupported("slow_start_config", &slow_start_config)
        })?;
        Ok(Self::LeastRequest { choices: choice_count.map_or(DEFAULT_CHOICES, |c| c.value) })
    }
}
