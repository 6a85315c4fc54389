use super::*;

#[test]
fn everything_wrong_is_told_at_once() {
    let refusals = refused(
        "
internal_only_headers: [x-a]
request_headers_to_add: [{header: {key: ':path', value: v}}]
virtual_hosts:
- name: a
  domains: [a.test, '*']
  rate_limits: [{actions: [{extension: {name: jwt, typed_config: {'@type': type.googleapis.com/google.protobuf.Struct, value: {}}}}]}]
  routes:
  - match: {safe_regex: {regex: '('}, headers: [{name: x, safe_regex_match: {regex: '['}}]}
    route: {cluster: c}
  - match: {prefix: /, filter_state: [{key: k, address_match: {ranges: [{address_prefix: x}]}}]}
    direct_response: {status: 200, body: {filename: /no/such/file}}
- name: b
  domains: [A.test, '*']
  routes:
  - {match: {prefix: /}, direct_response: {status: 200}}
",
    );
    let expected = [
        "request_headers_to_add[0].header.key: :-prefixed or host headers may not be modified",
        "virtual_hosts[0].rate_limits[0].actions[0].extension.typed_config: \"google.protobuf.Struct\" is no rate \
         limit descriptor",
        "virtual_hosts[0].routes[0].match.safe_regex.regex: invalid regular expression \"(\" at position 0: unclosed group",
        "virtual_hosts[0].routes[0].match.headers[0].safe_regex_match.regex: invalid regular expression \"[\" at position 0: \
         unclosed character class",
        "virtual_hosts[0].routes[1].match.filter_state[0].address_match.ranges[0].address_prefix: \"x\" is no IP address",
        "virtual_hosts[0].routes[1].direct_response.body.filename: cannot read \"/no/such/file\": No such file or directory \
         (os error 2)",
        "virtual_hosts[1].domains[0]: duplicate entry of domain A.test; domains must be unique",
        "virtual_hosts[1].domains[1]: only a single wildcard domain (`*`) is permitted",
    ];
    assert_eq!(refusals, expected);
}

fn refused_route(yaml: &str) -> String {
    let refusals =
        refused(&format!("virtual_hosts: [{{name: h, domains: ['*'], routes: [{{match: {{prefix: /}}, {yaml}}}]}}]"));
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    refusals[0].strip_prefix("virtual_hosts[0].routes[0].").unwrap_or(&refusals[0]).to_owned()
}

#[test]
fn what_envoy_refuses_is_refused() {
    for (yaml, expected) in [
        (
            "route: {cluster: c, prefix_rewrite: /a, regex_rewrite: {pattern: {regex: a}, substitution: b}}",
            "route: specify only one of prefix_rewrite, regex_rewrite, path_rewrite_policy and path_rewrite",
        ),
        (
            "route: {weighted_clusters: {clusters: [{name: a, weight: 0}]}}",
            "route.weighted_clusters: the sum of weights must be greater than 0",
        ),
        (
            "route: {weighted_clusters: {clusters: [{name: a, weight: 4294967295}, {name: b, weight: 1}]}}",
            "route.weighted_clusters.clusters[1]: the sum of weights exceeds 4294967295",
        ),
        (
            "route: {weighted_clusters: {clusters: [{name: a, cluster_header: b, weight: 1}]}}",
            "route.weighted_clusters.clusters[0]: exactly one of name and cluster_header must be specified",
        ),
        (
            "route: {weighted_clusters: {clusters: [{name: a}]}}",
            "route.weighted_clusters.clusters[0].weight: is required",
        ),
        (
            "route: {cluster: c, upgrade_configs: [{upgrade_type: a}, {upgrade_type: A}]}",
            "route.upgrade_configs[1]: duplicate upgrade A",
        ),
        (
            "route: {cluster: c, upgrade_configs: [{upgrade_type: a, connect_config: {}}]}",
            "route.upgrade_configs[0]: upgrade type a is not CONNECT and has a connect_config",
        ),
        (
            "route: {cluster: c, retry_policy: {retry_options_predicates: [{name: a, typed_config: {'@type': \
             type.googleapis.com/envoy.config.route.v3.FilterConfig}}]}}",
            "route.retry_policy.retry_options_predicates[0].typed_config: \
             \"envoy.config.route.v3.FilterConfig\" is no retry options predicate",
        ),
        (
            "direct_response: {status: 200}, typed_per_filter_config: {f: {'@type': \
             type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy}}",
            "typed_per_filter_config[\"f\"]: envoy.extensions.filters.http.cors.v3.CorsPolicy here is not implemented yet",
        ),
        (
            "direct_response: {status: 200}, typed_per_filter_config: {f: {'@type': \
             type.googleapis.com/envoy.config.route.v3.FilterConfig}}",
            "typed_per_filter_config[\"f\"]: an empty per-filter configuration: config or disabled is required",
        ),
    ] {
        assert_eq!(refused_route(yaml), expected);
    }
}

#[test]
fn what_is_optional_is_skipped_only_where_envoy_knows_it_neither() {
    let route = |message: &str| {
        format!(
            "direct_response: {{status: 200}}, typed_per_filter_config: {{f: {{'@type': \
             type.googleapis.com/envoy.config.route.v3.FilterConfig, is_optional: true, config: {{'@type': \
             type.googleapis.com/{message}}}}}}}"
        )
    };
    routes(&format!("- {{match: {{prefix: /}}, {}}}", route("envoy.config.route.v3.NonForwardingAction")));
    let known = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
    let expected = format!("typed_per_filter_config[\"f\"].config: {known} here is not implemented yet");
    assert_eq!(refused_route(&route(known)), expected);
}

#[test]
fn a_body_may_be_as_large_as_the_table_says() {
    let yaml = |max: &str, length: usize| {
        format!(
            "{max}\nvirtual_hosts: [{{name: h, domains: ['*'], routes: [{{match: {{prefix: /}}, \
             direct_response: {{status: 200, body: {{inline_string: {}}}}}}}]}}]",
            "x".repeat(length)
        )
    };
    assert!(lower_in(parse(&yaml("", 4096)), &env()).is_ok());
    assert_eq!(
        refused(&yaml("", 4097)),
        ["virtual_hosts[0].routes[0].direct_response.body: has 4097 bytes or more; the maximum is 4096"]
    );
    assert!(lower_in(parse(&yaml("max_direct_response_body_size_bytes: 5000", 5000)), &env()).is_ok());
}
