//! `nuncio explain` and `/explain`, held against what the proxy does.

use crate::support::bootstrap::Pieces;
use crate::support::client::{fetch, get};
use crate::support::proxy::{Dir, Running, binary, proxy};
use crate::support::upstream::http1;
use std::process::Command;

const ROUTES: &str = r#"
- name: shop
  domains: ["*.example"]
  retry_policy: { retry_on: "5xx,reset", num_retries: 3 }
  rate_limits: [{ actions: [{ destination_cluster: {} }, { remote_address: {} }] }]
  routes:
  - { name: gold, match: { prefix: /, headers: [{ name: x-tier, string_match: { exact: gold } }] }, route: { cluster: up } }
  - { match: { prefix: /old }, redirect: { path_redirect: /new, response_code: FOUND } }
  - match: { prefix: /api/ }
    route:
      prefix_rewrite: /
      host_rewrite_literal: api.internal
      timeout: 3s
      hash_policy: [{ header: { header_name: x-user } }]
      include_vh_rate_limits: true
      rate_limits:
      - stage: 2
        disable_key: "off"
        apply_on_stream_done: true
        limit: { rate_limit: { requests_per_unit: 5, unit: MINUTE } }
        actions: [{ generic_key: { descriptor_value: api } }, { query_parameters: { query_parameter_name: z, descriptor_key: z } }]
      - actions: [{ request_headers: { header_name: x-user, descriptor_key: user } }]
      metadata_match: { filter_metadata: { envoy.lb: { stage: prod, zone: 1 } } }
      weighted_clusters:
        clusters:
        - { name: up, weight: 1 }
        - { name: named, weight: 1, metadata_match: { filter_metadata: { envoy.lb: { stage: canary } } } }
- name: rest
  domains: ["*"]
  routes:
  - { match: { path: /hi }, direct_response: { status: 203, body: { inline_string: hello } } }
"#;

const NAMED: &str = r#"
- name: named
  type: LOGICAL_DNS
  wait_for_warm_on_init: false
  load_assignment:
    cluster_name: named
    endpoints:
    - lb_endpoints:
      - endpoint: { address: { socket_address: { address: localhost, port_value: 9 } } }
"#;

fn bootstrap() -> String {
    let pieces = Pieces {
        vhosts: ROUTES.to_owned(),
        clusters: NAMED.to_owned(),
        hcm: "normalize_path: true\nuse_remote_address: true\ninternal_address_config: { cidr_ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }] }\n".to_owned(),
        ..Pieces::default()
    };
    pieces.yaml()
}

fn explain(flags: &[&str]) -> (Option<i32>, String) {
    let dir = Dir::new();
    std::fs::write(dir.0.join("b.yaml"), bootstrap().replace("$UPSTREAM", "1")).expect("the test's folder is writable");
    let mut command = Command::new(binary());
    command.args(["explain", "-c", "b.yaml"]).args(flags).current_dir(&dir.0);
    let output = command.output().expect("the binary runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("it prints text"));
    (output.status.code(), text.concat())
}

#[track_caller]
fn check(flags: &[&str], expected: &str) {
    let (code, text) = explain(flags);
    assert_eq!((&*text, code), (expected, Some(0)));
}

#[test]
fn each_step_of_a_forwarded_request_is_told() {
    let flags =
        ["--authority", "a.example", "--path", "/x/../api/y?z", "--header", "x-tier: silver", "--random-value", "1"];
    check(
        &flags,
        r#"listener "main", filter chain "", route configuration "routes"
request GET http://a.example/api/y?z, external
virtual host "shop": suffix domain "*.example"
route 0 "gold": prefix "/": does not match
  header "x-tier": expected exact "gold", is "silver"
route 1: prefix "/old": does not match
  path: expected prefix "/old", is "/api/y"
route 2: prefix "/api/": matches
taken: virtual_hosts[0].routes[2].route.weighted_clusters.clusters[1]
  action: route
  cluster: named
  cluster_from: weighted_clusters.clusters[1]
  upstream_path: /y?z
  upstream_host: api.internal
  timeout: 3s
  retry: on 5xx,reset, 3 times
  hash: none: by chance
  metadata_match: stage="canary", zone=1.0
rate limit of the route, stage 2, after the stream, unless "off" disables it: generic_key="api", z="", at most 5 per minute
rate limit of the route, stage 0: no descriptor
rate limit of the virtual host, stage 0: destination_cluster="named", remote_address="127.0.0.1"
cluster "named": round robin
  localhost:9: healthy, weight 1, candidate
"#,
    );
}

#[test]
fn answers_without_upstream_are_told() {
    let (_, text) = explain(&["--authority", "a.example", "--path", "/old", "--source-address", "10.1.2.3"]);
    assert!(text.contains("/old, internal\n"), "{text}");
    assert!(text.ends_with("  action: redirect\n  status: 302\n  location: http://a.example/new\n"), "{text}");
    let (_, text) = explain(&["--authority", "b", "--path", "/hi"]);
    assert!(text.contains("virtual host \"rest\": catch-all domain \"*\"\n"), "{text}");
    assert!(text.ends_with("  action: direct_response\n  status: 203\n  body: hello\n"), "{text}");
    let (_, text) = explain(&["--authority", "b", "--path", "/ho"]);
    assert!(text.ends_with("is \"/ho\"\nno route: answered with 404\n"), "{text}");
    let (_, text) = explain(&["--authority", "b", "--path", "no"]);
    assert!(text.ends_with("answered with 404 before routing: absolute_path_rejected\n"), "{text}");
}

#[test]
fn the_same_is_told_as_json() {
    let (code, text) = explain(&["--authority", "a.example", "--path", "/api/", "--json", "--listener", "main"]);
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "\"match\": \"suffix\"",
        "\"condition\": \"header \\\"x-tier\\\"\"",
        "\"place\": \"virtual_hosts[0].routes[2].route.weighted_clusters.clusters[0]\"",
        "\"lb_policy\": \"round robin\"",
        "\"apply_on_stream_done\": true,\n            \"descriptor\": null",
        "\"key\": \"destination_cluster\",\n                \"value\": \"up\"",
        "\"address\": \"127.0.0.1:1\"",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn what_is_wrong_with_the_request_is_told() {
    let cases = [
        (&["--authority", "a", "--source-address", "x"][..], "source_address: \"x\" is no IP address"),
        (&["--authority", "a", "--header", "x"], "header: \"x\" is not 'name: value'"),
        (&["--authority", "a", "--listener", "x"], "no listener \"x\" has a connection manager"),
    ];
    for (flags, wanted) in cases {
        let (code, text) = explain(flags);
        assert_eq!((code, &*text), (Some(1), &*format!("nuncio explain: {wanted}\n")));
    }
}

async fn post(proxy: &Running, target: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let head = format!("POST {target} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let response = fetch(proxy.admin, &(head + body)).await.expect("admin answers");
    (response.status(), response.text())
}

#[tokio::test]
async fn admin_explains_the_configuration_in_force() {
    let proxy = proxy(bootstrap()).upstream(http1()).run().await;
    let (status, text) = post(&proxy, "/explain?authority=a.example&header=x-tier:%20gold", "").await;
    assert_eq!(status, 200, "{text}");
    let endpoint = format!("cluster \"up\": round robin\n  127.0.0.1:{}: healthy", proxy.upstream(0).port());
    assert!(text.contains("route 0 \"gold\": prefix \"/\": matches\n") && text.contains(&endpoint), "{text}");
    let body = r#"{"authority": "a.example", "header": {"x-tier": "gold"}, "format": "json"}"#;
    let (status, text) = post(&proxy, "/explain", body).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("\"place\": \"virtual_hosts[0].routes[0]\""), "{text}");
    assert_eq!(post(&proxy, "/explain", "{").await.0, 400);
    assert_eq!(post(&proxy, "/explain", "").await, (400, "authority is required\n".to_owned()));
    assert_eq!(get(proxy.admin, "/explain").await.expect("admin answers").status(), 405);
    let help = get(proxy.admin, "/help").await.expect("admin answers").text();
    assert!(help.contains("  /explain (POST): what becomes of a request, and why\n"), "{help}");
}

#[test]
fn the_examples_of_the_readme_print_what_it_shows() {
    let readme = include_str!("../README.md");
    let examples = readme.split("```console\n$ nuncio ").skip(1);
    let mut count = 0;
    for example in examples {
        let (example, _) = example.split_once("```").expect("a block ends");
        let (command, shown) = example.split_once('\n').expect("a command has output");
        let arguments = command.split(' ').map(|word| word.trim_matches('\''));
        let root = env!("CARGO_MANIFEST_DIR");
        let output = Command::new(binary()).args(arguments).current_dir(root).output().expect("the binary runs");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("it prints text"));
        assert_eq!(text.concat(), shown, "put this into README.md for {command}");
        count += 1;
    }
    assert_eq!(count, 2);
}
