use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::cluster::{self as pb, LbPolicy as Policy};
use nuncio_proto::envoy::config::cluster::v3::{LoadBalancingPolicy, load_balancing_policy};
use nuncio_proto::envoy::extensions::load_balancing_policies::{common, least_request, random, round_robin};
use nuncio_proto::google::protobuf::Any;

use crate::protocol::{any_as, message_name};

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

/// Envoy's `choice_count`.
const DEFAULT_CHOICES: u32 = 2;

// === impl LbPolicy ===

impl LbPolicy {
    pub(super) fn lower(
        policy: i32,
        config: Option<pb::LbConfig>,
        list: Option<LoadBalancingPolicy>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        // Envoy: the list replaces lb_policy where it is given.
        if let Some(list) = list {
            return cx.at("load_balancing_policy", |cx| Self::lower_list(list, cx));
        }
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
                refuse_locality(locality_lb_config, cx)?;
                Ok(Some(Self::RoundRobin))
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
                refuse_locality(locality_lb_config, cx)?;
                Ok(Some(Self::LeastRequest { choices: choice_count.map_or(DEFAULT_CHOICES, |c| c.value) }))
            }
            "envoy.extensions.load_balancing_policies.random.v3.Random" => {
                let random::v3::Random { locality_lb_config } = any_as(any, cx)?;
                refuse_locality(locality_lb_config, cx)?;
                Ok(Some(Self::Random))
            }
            name if name.starts_with("envoy.extensions.load_balancing_policies.") => {
                Err(cx.not_implemented(format!("load balancing by {name}")))
            }
            _ => Ok(None),
        }
    }
}

fn refuse_locality(proto: Option<common::v3::LocalityLbConfig>, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let specifier = proto.and_then(|l| l.locality_config_specifier);
    cx.unsupported("locality_lb_config", &specifier)
}

/// Lowers `common_lb_config`, of which only the panic threshold is implemented.
pub(super) fn lower_panic_threshold(proto: pb::CommonLbConfig, cx: &mut LowerCx<'_>) -> Result<Option<u8>, Refused> {
    let pb::CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = proto;
    cx.unsupported("update_merge_window", &update_merge_window)?;
    cx.unsupported("ignore_new_hosts_until_first_hc", &ignore_new_hosts_until_first_hc)?;
    cx.unsupported("close_connections_on_host_set_change", &close_connections_on_host_set_change)?;
    cx.unsupported("consistent_hashing_lb_config", &consistent_hashing_lb_config)?;
    cx.unsupported("override_host_status", &override_host_status)?;
    let field = match &locality_config_specifier {
        Some(pb::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            "locality_weighted_lb_config"
        }
        _ => "zone_aware_lb_config",
    };
    cx.unsupported(field, &locality_config_specifier)?;
    cx.opt("healthy_panic_threshold", healthy_panic_threshold, |percent, cx| {
        if !(0.0..=100.0).contains(&percent.value) {
            return Err(cx.invalid("a percentage lies between 0 and 100"));
        }
        // Envoy rounds to the nearest whole percent.
        Ok(percent.value.round() as u8)
    })
}
