//! What is refused, and in which words.

use super::*;

fn refusals(text: &str) -> Vec<String> {
    load(text).err().map(|problems| shown(&problems)).unwrap_or_default()
}

/// The one refusal of a cluster with these lines, without the path and place that all share.
fn refusal(lines: &str) -> String {
    let all = refusals(&with_cluster(lines));
    assert_eq!(all.len(), 1, "{lines}: {all:#?}");
    let rest = all[0].strip_prefix("b.yaml:4:").unwrap_or(&all[0]);
    rest.split_once(": static_resources.clusters[0].").map_or(rest, |(_, rest)| rest).to_owned()
}

#[test]
fn an_unknown_field_has_path_place_and_suggestion() {
    assert_eq!(
        refusals(&with_cluster("connect_timout: 1s")),
        ["b.yaml:4:5: static_resources.clusters[0].connect_timout: unknown field in \
             envoy.config.cluster.v3.Cluster; did you mean \"connect_timeout\"?"]
    );
    assert!(refusal("connectTimeOut: 1s").ends_with("did you mean \"connect_timeout\"?"));
    assert_eq!(refusal("zebra: 1"), "zebra: unknown field in envoy.config.cluster.v3.Cluster");
}

#[test]
fn an_unknown_type_names_the_nearest() {
    for (written, meant) in [
        (
            "envoy.extensions.upstreams.http.v3.HttpProtocolOption",
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        ),
        ("envoy.config.filter.http.router.v2.Router", "envoy.extensions.filters.http.router.v3.Router"),
    ] {
        assert_eq!(
            refusal(&format!("typed_extension_protocol_options: {{a: {{'@type': t/{written}}}}}")),
            format!("typed_extension_protocol_options[\"a\"]: unknown type {written:?}; did you mean {meant:?}?")
        );
    }
}

#[test]
fn an_unknown_type_is_not_taken_for_that_of_another_extension() {
    for written in [
        "envoy.extensions.filters.http.golang.v3alpha.Config",
        "envoy.extensions.filters.network.mysql_proxy.v3.MySQLProxy",
    ] {
        assert_eq!(
            refusal(&format!("typed_extension_protocol_options: {{a: {{'@type': t/{written}}}}}")),
            format!("typed_extension_protocol_options[\"a\"]: unknown type {written:?}")
        );
    }
}

#[test]
fn a_field_inside_an_any_has_its_full_path() {
    let text = RICH.replace("codec_type: AUTO", "codec_type: HTTP");
    assert_eq!(
        refusals(&text),
        [
            "b.yaml:21:23: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.codec_type: unknown value \
             \"HTTP\" of envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.CodecType; did you \
             mean \"HTTP1\"?"
        ]
    );
}

#[test]
fn values_of_the_wrong_type_are_refused() {
    for (lines, expected) in [
        ("alt_stat_name: 5", "alt_stat_name: expected a string, found a number: put it in quotes"),
        ("alt_stat_name: yes", "alt_stat_name: expected a string, found a bool: put it in quotes"),
        ("alt_stat_name: {}", "alt_stat_name: expected a string"),
        ("respect_dns_ttl: 1", "respect_dns_ttl: expected true or false"),
        ("connect_timeout: 5", "connect_timeout: expected a duration in seconds such as \"1.5s\", found \"5\""),
        ("connect_timeout: 1m", "connect_timeout: expected a duration in seconds such as \"1.5s\", found \"1m\""),
        ("per_connection_buffer_limit_bytes: -1", "per_connection_buffer_limit_bytes: number -1 out of range"),
        ("per_connection_buffer_limit_bytes: 1.5", "per_connection_buffer_limit_bytes: expected an integer"),
        (
            "per_connection_buffer_limit_bytes: 4294967296",
            "per_connection_buffer_limit_bytes: number 4294967296 out of range",
        ),
        ("per_connection_buffer_limit_bytes: ''", "per_connection_buffer_limit_bytes: expected an integer"),
        (
            "lb_policy: LEASTREQUEST",
            "lb_policy: unknown value \"LEASTREQUEST\" of envoy.config.cluster.v3.Cluster.LbPolicy; did you mean \"LEAST_REQUEST\"?",
        ),
        ("lb_policy: 1.5", "lb_policy: unknown value \"1.5\" of envoy.config.cluster.v3.Cluster.LbPolicy"),
        ("health_checks: 5", "health_checks[0]: expected a message envoy.config.core.v3.HealthCheck"),
        ("metadata: {filter_metadata: {x: 5}}", "metadata.filter_metadata[\"x\"]: expected a mapping"),
        ("metadata: {filter_metadata: []}", "metadata.filter_metadata: expected a mapping"),
        (
            "typed_extension_protocol_options: {a: {x: 1}}",
            "typed_extension_protocol_options[\"a\"]: expected \"@type\", which names the message",
        ),
        (
            "typed_extension_protocol_options: {a: {'@type': envoy.A}}",
            "typed_extension_protocol_options[\"a\"]: expected a type URL such as type.googleapis.com/envoy.A, found \"envoy.A\"",
        ),
    ] {
        assert_eq!(refusal(lines), expected);
    }
}

#[test]
fn two_members_of_a_oneof_are_refused() {
    assert_eq!(
        refusal("type: STATIC\n    cluster_type: {name: x}"),
        "b.yaml:5:5: static_resources.clusters[0].cluster_type: only one of cluster_discovery_type may be set, and type is set too"
            .split_once("clusters[0].")
            .map_or("", |(_, rest)| rest)
    );
}

#[test]
fn a_key_in_both_casings_is_a_duplicate() {
    assert_eq!(refusal("altStatName: a\n    alt_stat_name: b"), "alt_stat_name: duplicate key \"alt_stat_name\"");
    assert_eq!(refusals("node: {id: a, id: b}"), ["b.yaml:1:15: duplicate key \"id\""]);
}

#[test]
fn rules_are_held_with_the_words_of_envoy() {
    for (lines, expected) in [
        ("connect_timeout: 0s", "connect_timeout: value must be greater than 0s"),
        (
            "common_lb_config: {healthy_panic_threshold: {value: 101}}",
            "common_lb_config.healthy_panic_threshold.value: value must be inside range [0, 100]",
        ),
        ("lb_policy: 99", "lb_policy: value must be one of the defined enum values"),
        ("load_assignment: {}", "load_assignment.cluster_name: value length must be at least 1 characters"),
        (
            "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1}]",
            "health_checks[0].health_checker: value is required",
        ),
        (
            "health_checks: [{interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}]",
            "health_checks[0].timeout: value is required",
        ),
        (
            "upstream_bind_config: {source_address: {address: 1.1.1.1, port_value: 65536}}",
            "upstream_bind_config.source_address.port_value: value must be less than or equal to 65535",
        ),
        (
            "typed_extension_protocol_options: {a: {'@type': t/envoy.extensions.upstreams.http.v3.HttpProtocolOptions}}",
            "typed_extension_protocol_options[\"a\"].upstream_protocol_options: value is required",
        ),
    ] {
        assert_eq!(refusal(lines), expected);
    }
}

#[test]
fn a_field_that_envoy_no_longer_allows_is_refused() {
    let limit =
        "rate_limits: [{actions: [{dynamic_metadata: {descriptor_key: a, metadata_key: {key: b, path: [{key: c}]}}}]}]";
    let text = RICH.replace("domains: [\"*\"]", &format!("domains: [\"*\"]\n              {limit}"));
    let all = refusals(&text);
    assert_eq!(all.len(), 1, "{all:#?}");
    assert!(all[0].ends_with("Action.dynamic_metadata is deprecated and no longer allowed"), "{}", all[0]);
}

#[test]
fn all_errors_are_told_at_once_and_consequences_are_not() {
    let text = "admin: {adress: {}}\nstatic_resources:\n  clusters:\n  - connect_timeout: 1\n  - name: 5\n  - {name: a, foo: 1}\n";
    let paths: Vec<String> = load(text).expect_err("it is bad").into_iter().map(|p| p.invalid.path).collect();
    assert_eq!(
        paths,
        [
            "admin.adress",
            "static_resources.clusters[0].connect_timeout",
            "static_resources.clusters[1].name",
            "static_resources.clusters[2].foo",
            "static_resources.clusters[0].name",
        ]
    );
}

#[test]
fn what_is_no_document_is_refused_where_it_stands() {
    for (name, text, expected) in [
        ("b.yaml", "", "b.yaml:1:1: the document is empty"),
        ("b.yaml", "foo", "b.yaml:1:1: expected a message envoy.config.bootstrap.v3.Bootstrap"),
        ("b.yaml", "[1]", "b.yaml:1:1: expected a message envoy.config.bootstrap.v3.Bootstrap"),
        ("b.json", "{\"node\": }", "b.json:1:10: expected a value"),
        ("b.json", "{\"node\": {},\n}", "b.json:2:1: JSON has no comma behind the last value"),
        ("b.json", "[{}, ]", "b.json:1:6: JSON has no comma behind the last value"),
        (
            "bootstrap",
            "node: {}",
            "bootstrap:1:1: unknown literal \"node\" in JSON (a file in YAML is called .yaml or .yml)",
        ),
        ("b.pb_text", "node {", "b.pb_text:1:7: unexpected end of the text"),
        ("b.pb", "\u{7}abc", "b.pb: cannot be decoded as envoy.config.bootstrap.v3.Bootstrap"),
    ] {
        let problems = load_all(&[(name, text)]).expect_err("it is bad");
        assert_eq!(shown(&problems), [expected]);
    }
    let latin = Source::new("b.yaml", Format::Yaml, b"a: 1\nb: \xe9".to_vec());
    let problems = Loader::new(UnknownFields::Reject).load::<Bootstrap>(vec![latin]).expect_err("it is bad");
    assert_eq!(shown(&problems), ["b.yaml:2:4: the text is not valid UTF-8"]);
}

#[test]
fn a_rule_broken_across_merged_sources_points_into_the_right_one() {
    let first = "static_resources: {clusters: [{name: c}]}";
    let second = "static_resources:\n  clusters:\n  - name: ''\n";
    let problems = load_all(&[("a.yaml", first), ("b.yaml", second)]).expect_err("it is bad");
    assert_eq!(
        shown(&problems),
        ["b.yaml:3:11: static_resources.clusters[1].name: value length must be at least 1 characters"]
    );
}

#[test]
fn nesting_of_any_kind_has_an_end() {
    let any = "{'@type': t/envoy.config.core.v3.TypedExtensionConfig, name: a, typed_config: ";
    let lists = format!("node: {{metadata: {{a: {}1{}}}}}", "[".repeat(90), "]".repeat(90));
    let anys =
        with_cluster(&format!("typed_extension_protocol_options: {{a: {}{{}}{}}}", any.repeat(60), "}".repeat(60)));
    for text in [lists, anys] {
        let problems = refusals(&text);
        assert!(problems.iter().any(|p| p.contains("nested")), "{problems:?}");
    }
}

#[test]
fn a_thousand_errors_are_enough() {
    let clusters: String = (0..3000).map(|_| "  - {nam: x}\n").collect();
    let problems = refusals(&format!("static_resources:\n  clusters:\n{clusters}"));
    assert_eq!(problems.len(), 1000);
}
