use std::time::Duration;

use http::StatusCode;
use nuncio_filter_api::RuntimeKey;

use super::*;

fn first(yaml: &str) -> RouteTable {
    routes(&format!("- {{match: {{prefix: /}}, route: {{cluster: c, {yaml}}}}}"))
}

#[test]
fn a_retry_policy_has_envoys_defaults() {
    let table = first("retry_policy: {retry_on: 'reset, 5xx'}");
    let policy = table.entry(0).retry_policy().unwrap();
    assert!(policy.on.has(RetryOn::RESET) && policy.on.has(RetryOn::SERVER_ERROR));
    assert_eq!((policy.num_retries, policy.host_selections), (1, 1));
    assert_eq!(policy.back_off.intervals(&RuntimeKey::NONE), (Duration::from_millis(25), Duration::from_millis(250)));
    assert_eq!(policy.per_try_timeout, None);
}

#[test]
fn the_policy_of_the_route_wins_as_a_whole() {
    let table = table(
        "
virtual_hosts:
- name: h
  domains: ['*']
  retry_policy: {retry_on: 5xx, num_retries: 7}
  routes:
  - {match: {path: /own}, route: {cluster: c, retry_policy: {retry_on: reset}}}
  - {match: {prefix: /}, route: {cluster: c}}
",
    );
    assert_eq!(table.entry(0).retry_policy().unwrap().num_retries, 1);
    assert_eq!(table.entry(1).retry_policy().unwrap().num_retries, 7);
}

#[test]
fn intervals_are_at_least_a_millisecond_and_in_order() {
    let table = first("retry_policy: {retry_back_off: {base_interval: 0.0001s}}");
    let back_off = table.entry(0).retry_policy().unwrap().back_off;
    assert_eq!(back_off.intervals(&RuntimeKey::NONE), (Duration::from_millis(1), Duration::from_millis(10)));
    let refusals = refused(
        "virtual_hosts: [{name: h, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c, \
         retry_policy: {retry_back_off: {base_interval: 2s, max_interval: 1s}}}}]}]",
    );
    let path = "virtual_hosts[0].routes[0].route.retry_policy.retry_back_off.max_interval";
    assert_eq!(refusals, [format!("{path}: must not be less than base_interval")]);
}

#[test]
fn what_of_retries_is_not_there_is_refused_by_name() {
    let refusals = refused(
        "
virtual_hosts:
- name: h
  domains: ['*']
  retry_policy: {refresh_cluster_on_retry: true}
  routes: [{match: {prefix: /}, route: {cluster: c, hedge_policy: {hedge_on_per_try_timeout: true}}}]
",
    );
    let reason = "refresh_cluster_on_retry beside hedge_on_per_try_timeout is not implemented yet";
    assert_eq!(refusals, [format!("virtual_hosts[0].routes[0]: {reason}")]);
}

#[test]
fn mirrors_are_those_of_the_most_specific_level_that_has_any() {
    let table = table(
        "
request_mirror_policies: [{cluster: t}]
virtual_hosts:
- name: h
  domains: [h]
  request_mirror_policies: [{cluster: h}]
  routes:
  - {match: {path: /own}, route: {cluster: c, request_mirror_policies: [{cluster: a}, {cluster_header: x}]}}
  - {match: {prefix: /}, route: {cluster: c}}
- {name: any, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}
",
    );
    let clusters =
        |i| -> Vec<_> { table.entry(i).mirror_policies().iter().map(|m| format!("{:?}", m.cluster)).collect() };
    assert_eq!(clusters(0).len(), 2);
    assert!(clusters(1)[0].contains("\"h\"") && clusters(2)[0].contains("\"t\""));
    let refs: Vec<_> = table.mirror_refs().map(|(path, cluster)| format!("{path}={}", cluster.name)).collect();
    let expected = [
        "request_mirror_policies[0].cluster=t",
        "virtual_hosts[0].request_mirror_policies[0].cluster=h",
        "virtual_hosts[0].routes[0].route.request_mirror_policies[0].cluster=a",
    ];
    assert_eq!(refs, expected);
}

#[test]
fn the_first_virtual_cluster_that_takes_a_request_counts_it() {
    let table = table(
        "
virtual_hosts:
- name: h
  domains: ['*']
  virtual_clusters:
  - {name: a, headers: [{name: ':path', string_match: {prefix: /a}}, {name: ':method', string_match: {exact: GET}}]}
  - {name: b, headers: [{name: ':path', string_match: {prefix: /}}, {name: x-b, present_match: true}]}
  routes: [{match: {prefix: /}, stat_prefix: s, route: {cluster: c}}]
",
    );
    let entry = table.entry(0);
    let name = |head: &RequestHead| entry.virtual_host().virtual_cluster(head).unwrap().1.map(|name| name.to_string());
    assert_eq!(name(&get("h/a")).as_deref(), Some("a"));
    assert_eq!(name(&with(get("h/b"), "x-b", "1")).as_deref(), Some("b"));
    assert_eq!(name(&get("h/b")), None);
    assert!(entry.stats().is_some());
}

#[test]
fn a_virtual_cluster_needs_headers() {
    let refusals = refused("virtual_hosts: [{name: h, domains: ['*'], virtual_clusters: [{name: v}]}]");
    assert_eq!(refusals, ["virtual_hosts[0].virtual_clusters[0].headers: is required"]);
}

fn redirect(yaml: &str) -> Option<(u32, Vec<u16>)> {
    let table = first(yaml);
    let Action::Forward(forward) = table.entry(0).action() else { panic!("it forwards") };
    let policy = forward.internal_redirect.as_ref()?;
    let followed = (200..600).filter(|code| policy.follows(StatusCode::from_u16(*code).unwrap()));
    Some((policy.max, followed.collect()))
}

#[test]
fn a_redirect_policy_has_envoys_defaults() {
    assert_eq!(redirect("timeout: 1s"), None);
    assert_eq!(redirect("internal_redirect_policy: {}"), Some((1, vec![302])));
    let codes = "internal_redirect_policy: {max_internal_redirects: 0, redirect_response_codes: [303, 200, 301]}";
    assert_eq!(redirect(codes), Some((0, vec![301, 303])));
}

#[test]
fn the_older_fields_hold_where_the_newer_is_not_set() {
    let older = "internal_redirect_action: HANDLE_INTERNAL_REDIRECT, max_internal_redirects: 3";
    assert_eq!(redirect(older), Some((3, vec![302])));
    assert_eq!(redirect("internal_redirect_action: PASS_THROUGH_INTERNAL_REDIRECT"), None);
    let both = format!("{older}, internal_redirect_policy: {{redirect_response_codes: [307]}}");
    assert_eq!(redirect(&both), Some((1, vec![307])));
}

#[test]
fn what_a_redirect_policy_cannot_do_is_refused_by_place() {
    let refusals = refused(
        "virtual_hosts: [{name: h, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c, \
         internal_redirect_policy: {response_headers_to_copy: [Host], predicates: [{name: p, typed_config: {'@type': \
         type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}}}]}]",
    );
    let policy = "virtual_hosts[0].routes[0].route.internal_redirect_policy";
    let other = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
    let safe = "envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig";
    assert_eq!(
        refusals,
        [
            format!("{policy}.predicates[0].typed_config: {other} here (only {safe} is) is not implemented yet"),
            format!("{policy}.response_headers_to_copy[0]: may be neither Host nor a pseudo-header"),
        ]
    );
}

#[test]
fn the_hedge_policy_of_the_route_wins_even_if_it_is_empty() {
    let table = table(
        "
virtual_hosts:
- name: h
  domains: ['*']
  hedge_policy: {hedge_on_per_try_timeout: true, initial_requests: 3}
  routes:
  - {match: {path: /own}, route: {cluster: c, hedge_policy: {}}}
  - {match: {path: /direct}, direct_response: {status: 200}}
  - {match: {prefix: /}, route: {cluster: c}}
",
    );
    let hedging = [0, 1, 2].map(|entry| table.entry(entry).hedging());
    assert_eq!(hedging, [Hedging::Off, Hedging::Off, Hedging::OnPerTryTimeout]);
}
