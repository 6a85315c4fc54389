use std::time::Duration;

use nuncio_filter_api::{Invalid, LowerCx};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::extensions::load_balancing_policies as policies;
use nuncio_proto::google::protobuf::{BoolValue, Duration as ProtoDuration};
use policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
use policies::load_aware_locality::v3::LoadAwareLocality;
use policies::override_host::v3::OverrideHost;
use policies::override_host::v3::override_host::OverrideHostSource;
use policies::pick_first::v3::PickFirst;
use policies::random::v3::Random;
use policies::round_robin::v3::RoundRobin;
use policies::wrr_locality::v3::WrrLocality;
use prost::{Message, Name};

use super::*;

/// A policy with its name, which is that of its type.
fn policy<T: Message + Name>(message: &T) -> load_balancing_policy::Policy {
    let type_url = format!("type.googleapis.com/{}", T::full_name());
    let typed_config = Some(Any { type_url, value: message.encode_to_vec() });
    let typed = core::TypedExtensionConfig { name: T::NAME.to_owned(), typed_config };
    load_balancing_policy::Policy { typed_extension_config: Some(typed) }
}

fn list(policies: impl Into<Vec<load_balancing_policy::Policy>>) -> LoadBalancingPolicy {
    LoadBalancingPolicy { policies: policies.into() }
}

fn lower(policies: impl Into<Vec<load_balancing_policy::Policy>>) -> Result<LoweredLb, String> {
    let env = crate::testing::env();
    let mut cx = LowerCx::new(&env);
    let lowered = LoweredLb::lower(0, None, Some(list(policies)), None, None, "c", &mut cx);
    let invalid = cx.finish();
    lowered.map_err(|_| invalid.iter().map(Invalid::to_string).collect::<Vec<_>>().join("; "))
}

fn refusal(policies: impl Into<Vec<load_balancing_policy::Policy>>) -> String {
    lower(policies).expect_err("refused")
}

#[test]
fn the_first_policy_that_envoy_has_is_taken() {
    let lowered = lower([policy(&PickFirst::default()), policy(&Random::default()), policy(&RoundRobin::default())]);
    assert!(matches!(lowered.unwrap().policy, LbPolicy::Random));
}

#[test]
fn where_no_policy_is_known_the_cluster_and_the_policies_are_named() {
    let expected = "cluster: didn't find a registered load balancer factory implementation for cluster: 'c' with names";
    assert_eq!(
        refusal([policy(&PickFirst::default()), policy(&core::Address::default())]),
        format!("load_balancing_policy.policies: {expected} from [PickFirst, Address]")
    );
    assert_eq!(refusal([]), format!("load_balancing_policy.policies: {expected} from []"));
}

#[test]
fn slow_start_needs_a_window() {
    let with = |window, percent| RoundRobin {
        slow_start_config: Some(policies::common::v3::SlowStartConfig {
            slow_start_window: window,
            aggression: Some(core::RuntimeDouble { default_value: -1.0, runtime_key: "k".to_owned() }),
            min_weight_percent: percent,
        }),
        ..RoundRobin::default()
    };
    assert_eq!(lower([policy(&with(None, None))]).unwrap().slow_start, None);
    let ten = Some(ProtoDuration { seconds: 10, nanos: 0 });
    let slow_start = lower([policy(&with(ten, None))]).unwrap().slow_start.unwrap();
    assert_eq!((slow_start.window, slow_start.min_share), (Duration::from_secs(10), 0.1));
    assert_eq!(slow_start.aggression(), 1.0, "-1 makes no sense");
}

#[test]
fn requests_name_hosts_in_one_place_for_each_source() {
    let fallback_policy = Some(list([policy(&Random::default())]));
    let with = |sources: &[OverrideHostSource]| {
        [policy(&OverrideHost {
            override_host_sources: sources.to_vec(),
            fallback_policy: fallback_policy.clone(),
            selected_host_key: None,
        })]
    };
    let header = OverrideHostSource { header: "x-to".to_owned(), metadata: None };
    let lowered = lower(with(std::slice::from_ref(&header))).unwrap();
    assert!(matches!(lowered.policy, LbPolicy::Random));
    assert_eq!(lowered.override_host.unwrap().sources.len(), 1);
    let both = OverrideHostSource { metadata: Some(Default::default()), ..header };
    assert!(refusal(with(&[both])).ends_with("override_host_sources[0]: Only one override source must be set"));
    assert!(refusal(with(&[OverrideHostSource::default()])).ends_with("Empty override source"));
}

#[test]
fn weights_by_reports_have_envoys_defaults() {
    let lowered = lower([policy(&ClientSideWeightedRoundRobin::default())]).unwrap();
    let weights = lowered.client_weights.unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(
        *weights,
        ClientWeights {
            blackout: seconds(10),
            expiration: seconds(180),
            update_period: seconds(1),
            error_penalty: 0.0,
            metrics: Box::default(),
            own_reports: None,
        }
    );
    let fast = ProtoDuration { seconds: 0, nanos: 1 };
    let fast = ClientSideWeightedRoundRobin { weight_update_period: Some(fast), ..Default::default() };
    let update_period = lower([policy(&fast)]).unwrap().client_weights.unwrap().update_period;
    assert_eq!(update_period, Duration::from_millis(100));
    let oob =
        ClientSideWeightedRoundRobin { enable_oob_load_report: Some(BoolValue { value: true }), ..Default::default() };
    let own = lower([policy(&oob)]).unwrap().client_weights.unwrap().own_reports.expect("they are enabled");
    assert_eq!((own.period, own.port, &*own.authority), (seconds(10), None, ""));
}

#[test]
fn localities_by_weight_are_for_weights_by_reports_alone() {
    let over = |child| [policy(&WrrLocality { endpoint_picking_policy: Some(list([child])) })];
    let lowered = lower(over(policy(&ClientSideWeightedRoundRobin::default()))).unwrap();
    assert_eq!(lowered.locality, LocalityLb::Weighted);
    assert!(lowered.client_weights.is_some());
    assert!(refusal(over(policy(&RoundRobin::default()))).contains("only supports ClientSideWeightedRoundRobin"));
}

fn load_aware(child: load_balancing_policy::Policy) -> LoadAwareLocality {
    LoadAwareLocality { endpoint_picking_policy: Some(list([child])), ..LoadAwareLocality::default() }
}

#[test]
fn localities_are_chosen_by_their_load_whatever_chooses_the_host() {
    let lowered = lower([policy(&load_aware(policy(&Random::default())))]).unwrap();
    assert!(matches!(lowered.policy, LbPolicy::Random));
    let config = lowered.locality.load_aware().expect("it is asked for");
    assert_eq!((config.variance_threshold, config.probe_fraction), (0.1, 0.03));
    assert_eq!((config.update_period, config.expiration), (Duration::from_secs(1), Some(Duration::from_secs(180))));
    assert!((config.blend - 0.181_269).abs() < 1e-6, "{}", config.blend);
    let seconds = |seconds| Some(ProtoDuration { seconds, nanos: 0 });
    let own = LoadAwareLocality {
        weight_expiration_period: seconds(0),
        enable_oob_load_report: Some(BoolValue { value: true }),
        oob_reporting_period: seconds(3),
        ..load_aware(policy(&RoundRobin::default()))
    };
    let lowered = lower([policy(&own)]).unwrap();
    let config = lowered.locality.load_aware().expect("it is asked for");
    assert_eq!(config.expiration, None);
    assert_eq!(config.own_reports.as_ref().map(|own| own.period), Some(Duration::from_secs(3)));
}

#[test]
fn what_cannot_choose_within_a_locality_is_refused() {
    let check = |child, expected: &str| {
        let refusal = refusal([policy(&load_aware(child))]);
        assert!(refusal.contains(expected), "{refusal}");
    };
    let itself = load_aware(policy(&Random::default()));
    check(policy(&itself), "load_aware_locality cannot be its own endpoint_picking_policy");
    check(policy(&policies::cluster_provided::v3::ClusterProvided {}), "could not be instantiated per locality");
    check(policy(&PickFirst::default()), "No supported endpoint picking policy.");
}
