//! `nuncio route-check` as a user runs it.

use crate::support::bootstrap::Pieces;
use crate::support::proxy::{Dir, binary};
use std::process::Command;

const ROUTES: &str = r#"name: shop
virtual_hosts:
- name: shop
  domains: [shop.example]
  virtual_clusters:
  - { name: buy, headers: [{ name: ":method", string_match: { exact: POST } }] }
  routes:
  - name: old
    match: { prefix: /old }
    redirect: { path_redirect: /new, response_code: FOUND }
  - match: { prefix: /ping }
    direct_response: { status: 200, body: { inline_string: pong } }
    response_headers_to_add: [{ header: { key: x-ping, value: "yes" } }]
  - match: { prefix: /beta, runtime_fraction: { default_value: { numerator: 30 }, runtime_key: beta } }
    route: { cluster: beta }
  - match: { prefix: /split }
    route:
      weighted_clusters: { clusters: [{ name: one, weight: 30 }, { name: two, weight: 70 }] }
  - match: { prefix: /api/ }
    route: { cluster: api, prefix_rewrite: /, host_rewrite_literal: api.internal, timeout: 3s }
    request_headers_to_add: [{ header: { key: x-client, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%" } }]
- name: rest
  domains: ["*"]
  routes:
  - match: { prefix: /, dynamic_metadata: [{ filter: f, path: [{ key: k }], value: { string_match: { exact: v } } }] }
    route: { cluster: noted }
  - match: { prefix: / }
    route: { cluster: rest }
"#;

/// Exit code and all that was printed.
fn check(files: [(&str, &str); 2], flags: &[&str]) -> (Option<i32>, String) {
    let dir = Dir::new();
    let mut command = Command::new(binary());
    command.arg("route-check").current_dir(&dir.0);
    for ((name, text), flag) in files.iter().zip(["-c", "--tests"]) {
        std::fs::write(dir.0.join(name), text).expect("the test's folder is writable");
        command.args([flag, name]);
    }
    let output = command.args(flags).output().expect("the binary runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("it prints text"));
    (output.status.code(), text.concat())
}

/// As `check`, of `ROUTES` with tests of which each is `name | input | validate`.
fn run(tests: &[&str], flags: &[&str]) -> (Option<i32>, String) {
    let tests = tests.iter().map(|test| {
        let mut parts = test.split(" | ");
        let mut next = || parts.next().expect("a test has three parts");
        let (name, input, validate) = (next(), next(), next());
        format!("- {{ test_name: {name}, input: {{ method: GET, {input} }}, validate: {{ {validate} }} }}\n")
    });
    let tests: String = std::iter::once("tests:\n".to_owned()).chain(tests).collect();
    check([("routes.yaml", ROUTES), ("tests.yaml", &tests)], flags)
}

#[test]
fn what_is_as_expected_passes_and_is_covered() {
    let tests = [
        "redirect | authority: shop.example, path: /old/1 | path_redirect: 'http://shop.example/new', code_redirect: 302, cluster_name: ''",
        "tls | authority: shop.example, path: /old/1, ssl: true | path_redirect: 'https://shop.example/new'",
        "direct | authority: shop.example, path: /ping | path_redirect: 'http://shop.example/ping', response_header_matches: [{ name: x-ping, string_match: { exact: 'yes' } }, { name: ':status', string_match: { exact: '200' } }, { name: content-length, range_match: { start: 4, end: 5 } }]",
        "lucky | authority: shop.example, path: /beta, runtime: beta, random_value: 29 | cluster_name: beta",
        "unlucky | authority: shop.example, path: /beta, runtime: beta, random_value: 30 | cluster_name: ''",
        "switched-off | authority: shop.example, path: /beta | cluster_name: ''",
        "one | authority: shop.example, path: /split, random_value: 29 | cluster_name: one",
        "two | authority: shop.example, path: /split, random_value: 30 | cluster_name: two, virtual_cluster_name: other",
        "rewrite | authority: shop.example, path: '/api/x?y' | path_rewrite: '/x?y', host_rewrite: api.internal, timeout: 3s, request_header_matches: [{ name: x-client, string_match: { exact: 127.0.0.1 } }]",
        "noted | authority: other, path: /, dynamic_metadata: [{ metadata_namespace: f, value: { k: v } }] | cluster_name: noted",
        "rest | authority: other, path: /, internal: true | virtual_host_name: rest, virtual_cluster_name: '', request_header_matches: [{ name: x-envoy-internal }]",
    ];
    let (code, text) = run(&tests, &["--details", "-f", "100"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("redirect\ntls\ndirect\n"), "{text}");
    assert!(text.ends_with("Current route coverage: 100%\n"), "{text}");
}

#[test]
fn each_mismatch_is_told_with_what_was_expected_and_what_came() {
    let tests = [
        "good | authority: other, path: / | cluster_name: rest",
        "bad | authority: shop.example, path: /api/x, additional_request_headers: [{ key: x-a, value: b }] | cluster_name: other, path_rewrite: /api/x, request_header_matches: [{ name: x-a, string_match: { exact: c } }, { name: x-b }, { name: x-a, string_match: { prefix: z } }], request_header_fields: [{ key: x-c, value: d }]",
    ];
    let (code, text) = run(&tests, &[]);
    assert_eq!(code, Some(1), "{text}");
    for line in [
        "bad",
        "expected: [other], actual: [api], test type: cluster_name",
        "expected: [/api/x], actual: [/x], test type: path_rewrite",
        "expected: [x-a: c], actual: [x-a: b], test type: request_header_matches.string_match.exact",
        "expected: [has(x-b):true], actual: [has(x-b):false], test type: request_header_matches.present_match",
        "actual: [x-a: b], test type: request_header_matches.string_match.prefix",
        "expected: [d], actual: [], test type: request_header_fields",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
    }
    assert!(!text.contains("good"), "{text}");
    assert!(!run(&tests, &["--details", "--only-show-failures"]).1.contains("good"));
    assert!(run(&tests, &["--details"]).1.contains("good"));
}

#[test]
fn too_little_coverage_fails() {
    let tests = ["only | authority: shop.example, path: /split | cluster_name: one, virtual_host_name: shop"];
    let (code, text) = run(&tests, &["--fail-under", "12.5"]);
    assert_eq!((code, &*text), (Some(0), "Current route coverage: 12.5%\n"));
    let (code, text) = run(&tests, &["--fail-under", "12.6", "--detailed-coverage"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("Failed to meet coverage requirement: 12.6%"), "{text}");
    assert!(text.contains("Missing test for host: shop, route: virtual_hosts[0].routes[0] \"old\"\n"), "{text}");
    assert!(text.contains("routes[3].route.weighted_clusters.clusters[1]\n"), "{text}");
    let (code, text) = run(&tests, &["--covall"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("Current route coverage: 5%\n"), "{text}");
}

#[test]
fn a_bootstrap_is_checked_by_its_inline_table() {
    let tests = r#"{"tests": [{"test_name": "t", "input": {"authority": "a", "path": "/", "method": "GET"},
        "validate": {"cluster_name": "up", "virtual_host_name": "all"}}]}"#;
    let bootstrap = Pieces::default().yaml().replace("$UPSTREAM", "1");
    let files = [("bootstrap.yaml", &*bootstrap), ("tests.json", tests)];
    let (code, text) = check(files, &["-d"]);
    assert_eq!((code, &*text), (Some(0), "t\nCurrent route coverage: 100%\n"));
    let (code, text) = check(files, &["--route-config", "none"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("has no inline route_config named \"none\""), "{text}");
}

#[test]
fn what_is_wrong_with_the_files_is_told_with_path_and_line() {
    let (code, text) = run(&["t | authority: a, path: /, metod: GET | cluster_name: x"], &[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("tests.yaml:2:"), "{text}");
    assert!(text.contains("tests[0].input.metod: unknown field"), "{text}");
    let (_, text) = run(
        &["t | path: / | request_header_matches: [{ name: a, string_match: { safe_regex: { regex: '(' } } }]"],
        &[],
    );
    assert!(text.contains("tests[0].input.authority: "), "{text}");
    let (_, text) = run(
        &[
            "t | authority: a, path: / | request_header_matches: [{ name: a, string_match: { safe_regex: { regex: '(' } } }]",
        ],
        &[],
    );
    assert!(text.contains("tests.yaml:2:"), "{text}");
    assert!(text.contains("tests[0].validate.request_header_matches[0].string_match.safe_regex.regex: "), "{text}");
    let bad = "virtual_hosts:\n- name: a\n  domains: ['*']\n  routes:\n  - match: { prefix: / }\n";
    let tests = "tests: [{ test_name: t, input: { authority: a, path: /, method: GET }, validate: {} }]";
    let (code, text) = check([("r.yaml", bad), ("t.yaml", tests)], &[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("r.yaml:5:5: virtual_hosts[0].routes[0]"), "{text}");
}
