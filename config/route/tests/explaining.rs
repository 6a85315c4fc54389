use super::*;

const TABLE: &str = r#"
cluster_specifier_plugins:
- { is_optional: true, extension: { name: other, typed_config: { "@type": type.googleapis.com/google.protobuf.Struct, value: {} } } }
virtual_hosts:
- name: exact
  domains: [other, a.example]
  routes:
  - name: first
    direct_response: { status: 200 }
    match:
      prefix: /a
      runtime_fraction: { default_value: { numerator: 10 } }
      grpc: {}
      headers: [{ name: x-a, string_match: { prefix: "1", ignore_case: true }, invert_match: true }, { name: ":method", string_match: { exact: POST } }]
      query_parameters: [{ name: q, string_match: { exact: r } }]
      cookies: [{ name: c, string_match: { exact: d } }]
      tls_context: { presented: true }
      dynamic_metadata: [{ filter: f, path: [{ key: k }], value: { bool_match: true } }]
  - { match: { path: /A, case_sensitive: false }, direct_response: { status: 200 } }
  - { match: { safe_regex: { regex: /a.* } }, direct_response: { status: 200 } }
- { name: suffix, domains: ["*.example", "*.b.example"] }
- { name: prefix, domains: ["a.*"] }
- { name: tls, domains: [tls], require_tls: ALL }
- name: plugin
  domains: [plugin.test]
  routes:
  - match: { prefix: / }
    route: { inline_cluster_specifier_plugin: { is_optional: true, extension: { name: x, typed_config: { "@type": type.googleapis.com/google.protobuf.Struct, value: {} } } } }
  - match: { prefix: / }
    route: { cluster_specifier_plugin: other }
  - { match: { prefix: / }, direct_response: { status: 200 } }
- { name: any, domains: ["*"] }
"#;

fn explain(head: &RequestHead, random: u64) -> Explanation {
    let message = parse(TABLE);
    let env = env();
    let table = lower_in(message.clone(), &env).unwrap();
    table.explain(&message, head, &info(), random, &env)
}

#[test]
fn the_domain_that_took_the_host_is_told() {
    for (host, expected) in [
        ("A.example", "exact a.example"),
        ("b.example", "suffix *.example"),
        ("x.b.example", "suffix *.b.example"),
        ("a.net", "prefix a.*"),
        ("zzz", "catch-all *"),
    ] {
        let found = explain(&get(&format!("{host}/")), 0).virtual_host.unwrap();
        assert_eq!(format!("{} {}", found.kind, found.domain), expected);
    }
    assert!(explain(&get("tls/"), 0).wants_tls);
}

#[test]
fn each_condition_that_does_not_hold_is_named() {
    let explained = explain(&with(get("a.example/a/b?q=s"), "x-a", "123"), 50);
    let reasons: Vec<_> =
        explained.routes[0].reasons.iter().map(|r| format!("{}: {}: {}", r.condition, r.expected, r.actual)).collect();
    assert_eq!(
        reasons,
        [
            "runtime_fraction: { \"default_value\": { \"numerator\": 10 } }: random value 50",
            "grpc: content-type of gRPC: absent",
            "header \"x-a\": not prefix \"1\" in any case: \"123\"",
            "header \":method\": exact \"POST\": \"GET\"",
            "query parameter \"q\": exact \"r\": \"s\"",
            "cookie \"c\": exact \"d\": absent",
            "tls_context: { \"presented\": true }: another connection, or one without TLS",
            "dynamic metadata \"f\": { \"filter\": \"f\", \"path\": [ { \"key\": \"k\" } ], \"value\": { \"bool_match\": \
             true } }: another value, or none",
        ]
    );
    assert_eq!(explained.routes[1].reasons[0].expected, "path \"/A\" in any case");
    assert_eq!(explained.routes[2].reasons, []);
}

#[test]
fn an_unknown_plugin_is_why_a_route_is_passed_over() {
    let routes = explain(&get("plugin.test/"), 0).routes;
    let told: Vec<Vec<_>> = routes.iter().map(|route| route.reasons.iter().map(|r| &*r.actual).collect()).collect();
    let unknown = vec!["unknown and optional"];
    assert_eq!(told, [unknown.clone(), unknown, Vec::new()]);
}
