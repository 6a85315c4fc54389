use super::*;
use nuncio_proto::envoy::config::bootstrap::v3::Bootstrap;
use nuncio_proto::envoy::extensions::filters::http::router::v3::Router;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;

mod mutation;
mod refusals;
mod wire_format;

fn sources(texts: &[(&str, &str)]) -> Vec<Source> {
    texts.iter().map(|(name, text)| Source::new(name, Format::of_path(name), text.as_bytes().to_vec())).collect()
}

fn load(text: &str) -> Result<Loaded<Bootstrap>, Vec<Problem>> {
    load_all(&[("b.yaml", text)])
}

fn load_all(texts: &[(&str, &str)]) -> Result<Loaded<Bootstrap>, Vec<Problem>> {
    Loader::new(UnknownFields::Reject).load(sources(texts))
}

fn good(text: &str) -> Bootstrap {
    good_of(&[("b.yaml", text)])
}

fn good_of(texts: &[(&str, &str)]) -> Bootstrap {
    match load_all(texts) {
        Ok(loaded) => loaded.message,
        Err(problems) => panic!("{texts:?}: {}", shown(&problems).join("\n")),
    }
}

fn shown(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

/// A bootstrap with one cluster that has the given lines more.
fn with_cluster(lines: &str) -> String {
    format!("static_resources:\n  clusters:\n  - name: c\n    {lines}\n")
}

fn cluster(lines: &str) -> nuncio_proto::envoy::config::cluster::v3::Cluster {
    good(&with_cluster(lines)).static_resources.expect("it has clusters").clusters.remove(0)
}

/// A config with most forms that the mapping has, for tests that change it.
const RICH: &str = include_str!("tests/rich.yaml");

#[test]
fn both_casings_and_every_form_of_a_value_are_taken() {
    let c = cluster("connectTimeout: 0.25s\n    lb_policy: least_request\n    per_connection_buffer_limit_bytes: '5'");
    let timeout = c.connect_timeout.expect("it is set");
    assert_eq!((timeout.seconds, timeout.nanos), (0, 250_000_000));
    assert_eq!(c.lb_policy, 1);
    assert_eq!(c.per_connection_buffer_limit_bytes.map(|v| v.value), Some(5));
    let limit = |text: &str| {
        cluster(&format!("per_connection_buffer_limit_bytes: {text}"))
            .per_connection_buffer_limit_bytes
            .map(|v| v.value)
    };
    for (text, expected) in [
        ("0x10", Some(16)),
        ("010", Some(8)),
        ("1e3", Some(1000)),
        ("{value: 7}", Some(7)),
        ("~", None),
        ("0", Some(0)),
    ] {
        assert_eq!(limit(text), expected, "{text}");
    }
    assert_eq!(cluster("lb_policy: 2").lb_policy, 2);
    assert_eq!(cluster("connect_timeout: {seconds: 3}").connect_timeout.map(|d| d.seconds), Some(3));
}

#[test]
fn an_any_holds_the_message_its_type_names() {
    let bootstrap = good(RICH);
    let listener = &bootstrap.static_resources.as_ref().expect("it has resources").listeners[0];
    let any = match &listener.filter_chains[0].filters[0].config_type {
        Some(nuncio_proto::envoy::config::listener::v3::filter::ConfigType::TypedConfig(any)) => any,
        other => panic!("{other:?}"),
    };
    assert!(any.type_url.ends_with(".HttpConnectionManager"));
    let hcm = HttpConnectionManager::decode(&any.value[..]).expect("it decodes");
    assert_eq!(hcm.stat_prefix, "ingress");
    assert_eq!(hcm.http_filters.len(), 2);
}

fn first_filter(bootstrap: &Bootstrap) -> nuncio_proto::google::protobuf::Any {
    use nuncio_proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
    let cluster = &bootstrap.static_resources.as_ref().expect("it has resources").clusters[0];
    let any = cluster.typed_extension_protocol_options["x"].clone();
    if any.type_url.ends_with("HttpProtocolOptions") {
        HttpProtocolOptions::decode(&any.value[..]).expect("it decodes");
    }
    any
}

#[test]
fn a_typed_struct_becomes_the_message_it_names() {
    for package in ["xds.type.v3", "udpa.type.v1"] {
        let text = with_cluster(&format!(
            "typed_extension_protocol_options: {{x: {{'@type': type.googleapis.com/{package}.TypedStruct, \
             type_url: a/envoy.extensions.filters.http.router.v3.Router, value: {{start_child_span: true}}}}}}"
        ));
        let any = first_filter(&good(&text));
        assert_eq!(any.type_url, "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router");
        assert!(Router::decode(&any.value[..]).expect("it decodes").start_child_span);
    }
}

#[test]
fn a_typed_struct_of_an_unknown_type_stays_one() {
    let any = first_filter(&good(&with_cluster(
        "typed_extension_protocol_options: {x: {'@type': t/xds.type.v3.TypedStruct, type_url: a/my.Plugin, value: {a: 1}}}",
    )));
    assert_eq!(any.type_url, "t/xds.type.v3.TypedStruct");
    let held = nuncio_proto::TypedStruct::decode(&any.value[..]).expect("it decodes");
    assert_eq!(held.type_url, "a/my.Plugin");
    assert_eq!(held.value.expect("it is set").fields.len(), 1);
}

#[test]
fn well_known_types_stand_under_value_in_an_any() {
    let any = first_filter(&good(&with_cluster(
        "typed_extension_protocol_options: {x: {'@type': t/google.protobuf.Duration, value: 1.5s}}",
    )));
    let duration = nuncio_proto::google::protobuf::Duration::decode(&any.value[..]).expect("it decodes");
    assert_eq!((duration.seconds, duration.nanos), (1, 500_000_000));
}

#[test]
fn structs_keep_the_types_that_envoy_gives_yaml() {
    use nuncio_proto::google::protobuf::value::Kind;
    let c = cluster("metadata: {filter_metadata: {x: {f: 1.5, i: 5, big: 5000000000, b: yes, n: ~, s: '5', l: [1]}}}");
    let fields = &c.metadata.expect("it is set").filter_metadata["x"].fields;
    let kind = |name: &str| fields[name].kind.clone().expect("each value has a kind");
    assert_eq!(kind("f"), Kind::StringValue("1.5".into()));
    assert_eq!(kind("i"), Kind::NumberValue(5.0));
    assert_eq!(kind("big"), Kind::StringValue("5000000000".into()));
    assert_eq!(kind("b"), Kind::BoolValue(true));
    assert_eq!(kind("n"), Kind::NullValue(0));
    assert_eq!(kind("s"), Kind::StringValue("5".into()));
    assert!(matches!(kind("l"), Kind::ListValue(list) if list.values.len() == 1));
}

#[test]
fn later_sources_merge_over_earlier_ones() {
    let first = "node: {id: a, cluster: x}\nstatic_resources: {clusters: [{name: c1}]}";
    let second = "node: {id: b}\nstatic_resources: {clusters: [{name: c2}]}";
    let merged = good_of(&[("a.yaml", first), ("b.yaml", second)]);
    let node = merged.node.expect("it is set");
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("b", "x"));
    let names: Vec<_> =
        merged.static_resources.expect("it has clusters").clusters.into_iter().map(|c| c.name).collect();
    assert_eq!(names, ["c1", "c2"]);
}

#[test]
fn every_format_gives_the_same_message() {
    let yaml = good("node: {id: a}\nstatic_resources:\n  clusters:\n  - {name: c, connect_timeout: 1.5s}\n");
    let json = r#"{"node": {"id": "a"}, "staticResources": {"clusters": [{"name": "c", "connectTimeout": "1.5s"}]}}"#;
    let text = "node { id: 'a' } static_resources { clusters { name: \"c\" connect_timeout: { seconds: 1 nanos: 500000000 } } }";
    assert_eq!(good_of(&[("b.json", json)]), yaml);
    assert_eq!(good_of(&[("b.pb_text", text)]), yaml);
    let binary = Loader::new(UnknownFields::Reject).load_wire::<Bootstrap>("b.pb", yaml.encode_to_vec());
    assert_eq!(binary.expect("it is good").message, yaml);
}

#[test]
fn the_text_format_has_messages_where_json_has_forms() {
    let text = r#"
        static_resources {
          clusters { name: "c" type: STRICT_DNS per_connection_buffer_limit_bytes { value: 5 }
            metadata { filter_metadata { key: "k" value { fields { key: "f" value { number_value: 1 } } } } }
            typed_extension_protocol_options { key: "x" value {
              [type.googleapis.com/envoy.extensions.filters.http.router.v3.Router] { start_child_span: true } } } }
          clusters: [{ name: "d" }]
        }"#;
    let bootstrap = good_of(&[("b.pb_text", text)]);
    let any = first_filter(&bootstrap);
    assert!(Router::decode(&any.value[..]).expect("it decodes").start_child_span);
    let clusters = bootstrap.static_resources.expect("it has clusters").clusters;
    assert_eq!(clusters.len(), 2);
    assert_eq!(clusters[0].metadata.as_ref().expect("it is set").filter_metadata["k"].fields.len(), 1);
}

#[test]
fn deprecated_fields_are_warned_of_once_and_counted() {
    let text =
        "static_resources:\n  clusters:\n  - name: c\n    dns_refresh_rate: 5s\n  - {name: d, dns_refresh_rate: 5s}\n";
    let loaded = load(text).expect("it is good");
    assert_eq!(loaded.deprecated_fields, 2);
    let warnings: Vec<String> = loaded.warnings.iter().map(Warning::to_string).collect();
    assert_eq!(
        warnings,
        ["b.yaml:4:23: static_resources.clusters[0].dns_refresh_rate: \
          envoy.config.cluster.v3.Cluster.dns_refresh_rate is deprecated"]
    );
    assert_eq!(loaded.warnings[0].kind, WarningKind::Deprecated);
}

#[test]
fn an_enum_left_at_a_deprecated_zero_is_warned_of() {
    let text = "dynamic_resources: {cds_config: {api_config_source: {cluster_names: [a]}}}";
    let warnings = load(text).expect("Envoy only warns").warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].text.ends_with(".DEPRECATED_AND_UNAVAILABLE_DO_NOT_USE is deprecated"), "{}", warnings[0]);
    assert!(load(&text.replace("{cluster_names", "{api_type: REST, cluster_names")).expect("good").warnings.is_empty());
}

#[test]
fn unknown_fields_may_be_allowed_and_are_counted() {
    let text = "node: {id: a, idd: b}\nadminn: {}";
    let allow = |policy| Loader::new(policy).load::<Bootstrap>(sources(&[("b.yaml", text)])).expect("it is allowed");
    let counted = allow(UnknownFields::Count);
    assert_eq!((counted.unknown_fields, counted.warnings.len()), (2, 2));
    assert_eq!(
        counted.warnings[1].to_string(),
        "b.yaml:2:9: adminn: unknown field in envoy.config.bootstrap.v3.Bootstrap"
    );
    let ignored = allow(UnknownFields::Ignore);
    assert_eq!((ignored.unknown_fields, ignored.warnings.len()), (0, 0));
}

#[test]
fn later_refusals_find_their_place() {
    let loaded = load(RICH).expect("it is good");
    let path = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.codec_type";
    let invalid =
        Invalid { path: path.into(), reason: "not implemented yet".into(), kind: InvalidKind::NotImplemented };
    let line = RICH.lines().position(|l| l.contains("codec_type")).expect("it is there") + 1;
    assert!(loaded.sources.explain(invalid).to_string().starts_with(&format!("b.yaml:{line}:")));
}

/// `cargo test --profile quick -p nuncio-config -- --ignored ten_thousand`
#[test]
#[ignore = "timing"]
#[allow(clippy::print_stdout)]
fn ten_thousand_clusters_and_routes_load_in_time() {
    use std::fmt::Write;
    let mut text = String::from("static_resources:\n  clusters:\n");
    for i in 0..10_000 {
        let _ = write!(
            text,
            "  - name: cluster_{i}\n    connect_timeout: 0.25s\n    load_assignment:\n      cluster_name: cluster_{i}\n      \
             endpoints:\n      - lb_endpoints:\n        - endpoint:\n            address:\n              socket_address:\n                \
             address: 127.0.0.1\n                port_value: 10000\n"
        );
    }
    text += &RICH[RICH.find("  listeners:").expect("it has listeners")
        ..RICH.find("              routes:").expect("it has routes")];
    text += "              routes:\n";
    for i in 0..10_000 {
        let _ = write!(
            text,
            "              - match:\n                  prefix: /service/{i}/\n                route:\n                  \
             cluster: cluster_{i}\n                  timeout: 15s\n"
        );
    }
    let size = text.len();
    let start = std::time::Instant::now();
    let loaded = load(&text).expect("it is good");
    let elapsed = start.elapsed();
    println!("{size} bytes in {elapsed:?}");
    assert_eq!(loaded.message.static_resources.expect("it has clusters").clusters.len(), 10_000);
    assert!(elapsed.as_millis() < 400);
}
