//! Scoped routes in the tools and pages beside the data path, which `tests/parity/route_scoped.txt` is about.

use crate::support::bootstrap::Pieces;
use crate::support::client::get;
use crate::support::proxy::{Dir, binary, proxy};
use crate::support::upstream::http1;
use std::process::Command;

const SCOPES: &str = r#"
name: scopes
scope_key_builder: { fragments: [{ header_value_extractor: { name: x-scope, index: 0 } }] }
scoped_route_configurations_list:
  scoped_route_configurations:
  - name: one
    key: { fragments: [{ string_key: "1" }] }
    route_configuration: { name: first, virtual_hosts: [{ name: v, domains: ["*"], routes: [{ match: { prefix: / }, route: { cluster: up } }] }] }
  - name: two
    key: { fragments: [{ string_key: "2" }] }
    route_configuration: { name: second, virtual_hosts: [{ name: v, domains: ["*"], routes: [{ match: { prefix: / }, direct_response: { status: 202 } }] }] }
"#;

fn bootstrap() -> String {
    Pieces { scoped_routes: SCOPES.to_owned(), ..Pieces::default() }.yaml()
}

/// Exit code and all that the tool prints.
fn run(arguments: &[&str], tests: &str) -> (Option<i32>, String) {
    let dir = Dir::new();
    let files = [("b.yaml", bootstrap().replace("$UPSTREAM", "1")), ("t.yaml", tests.to_owned())];
    for (name, text) in files {
        std::fs::write(dir.0.join(name), text).expect("the test's folder is writable");
    }
    let output = Command::new(binary()).args(arguments).current_dir(&dir.0).output().expect("the binary runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("it prints text"));
    (output.status.code(), text.concat())
}

#[test]
fn explain_names_the_scope() {
    let explain = ["explain", "-c", "b.yaml", "--authority", "a"];
    let (_, text) = run(&[&explain[..], &["--header", "x-scope: 2"]].concat(), "");
    assert!(text.starts_with("listener \"main\", filter chain \"\", scope \"two\", route configuration \"second\"\n"));
    assert!(text.ends_with("  action: direct_response\n  status: 202\n  body: \n"), "{text}");
    let (code, text) = run(&[&explain[..], &["--header", "x-scope: 3"]].concat(), "");
    assert!(text.ends_with("external\nno scope has the request's key\nno route: answered with 404\n"), "{text}");
    assert_eq!(code, Some(0));
    let (_, text) = run(&[&explain[..], &["--json", "--header", "x-scope: 1"]].concat(), "");
    assert!(text.contains("\"scope\": \"one\"") && text.contains("\"cluster\": \"up\""), "{text}");
}

#[test]
fn the_table_of_a_scope_is_tested_by_its_name() {
    let tests = "tests: [{test_name: t, input: {authority: a, path: /, method: GET}, validate: {cluster_name: up}}]";
    let check = ["route-check", "-c", "b.yaml", "--tests", "t.yaml"];
    let (code, text) = run(&[&check[..], &["--route-config", "first"]].concat(), tests);
    assert_eq!((code, &*text), (Some(0), "Current route coverage: 100%\n"));
    let (code, text) = run(&check, tests);
    let list = "filters[0].typed_config.scoped_routes.scoped_route_configurations_list.scoped_route_configurations";
    assert!(text.contains(&format!("\"second\" (static_resources.listeners[0].filter_chains[0].{list}[1]")), "{text}");
    assert_eq!(code, Some(1));
}

#[tokio::test]
async fn the_scopes_are_dumped_and_their_tables_not_again() {
    let proxy = proxy(bootstrap()).upstream(http1()).run().await;
    let text = get(proxy.admin, "/config_dump").await.expect("admin answers").text();
    let dump: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let section = |name: &str| {
        let mut sections = dump["configs"].as_array().expect("it is a list").iter();
        sections.find(|section| section["@type"].as_str().is_some_and(|t| t.ends_with(name))).expect("it is there")
    };
    let scopes = &section("ScopedRoutesConfigDump")["inline_scoped_route_configs"][0];
    assert_eq!(scopes["name"], "scopes");
    assert!(scopes["last_updated"].is_string());
    let second = &scopes["scoped_route_configs"][1];
    assert_eq!(second["@type"], "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration");
    assert_eq!(second["key"]["fragments"][0]["string_key"], "2");
    assert_eq!(second["route_configuration"]["name"], "second");
    assert!(section("RoutesConfigDump").get("static_route_configs").is_none());
}
