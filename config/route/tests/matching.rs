use super::*;

#[track_caller]
fn check(table: &RouteTable, cases: &[(&str, &str)]) {
    for (url, expected) in cases {
        assert_eq!(name(table, &get(url)), *expected, "{url}");
    }
}

#[test]
fn the_first_route_that_matches_wins() {
    let table = routes(
        "
- {name: exact, match: {path: /a/b}, direct_response: {status: 200}}
- {name: segment, match: {path_separated_prefix: /a}, direct_response: {status: 200}}
- {name: regex, match: {safe_regex: {regex: '/a[0-9]+'}}, direct_response: {status: 200}}
- {name: prefix, match: {prefix: /a}, direct_response: {status: 200}}
- {name: never, match: {prefix: /ab}, direct_response: {status: 200}}
- {name: root, match: {path: /}, direct_response: {status: 200}}
",
    );
    check(
        &table,
        &[
            ("h/a/b", "exact"),
            ("h/a/b?q", "exact"),
            ("h/a/b#f", "exact"),
            ("h/a/b/", "segment"),
            ("h/a", "segment"),
            ("h/a?x/b", "segment"),
            ("h/a12", "regex"),
            ("h/a12?q", "regex"),
            ("h/a12/", "prefix"),
            ("h/ab", "prefix"),
            ("h/", "root"),
            ("h/?", "root"),
            ("h/b", "-"),
            ("h", "-"),
        ],
    );
}

#[test]
fn case_can_be_ignored() {
    let table = routes(
        "
- {name: prefix, match: {prefix: /Aa, case_sensitive: false}, direct_response: {status: 200}}
- {name: exact, match: {path: /Bb, case_sensitive: false}, direct_response: {status: 200}}
- {name: segment, match: {path_separated_prefix: /Cc, case_sensitive: false}, direct_response: {status: 200}}
- {name: regex, match: {safe_regex: {regex: /Dd}, case_sensitive: false}, direct_response: {status: 200}}
",
    );
    check(
        &table,
        &[
            ("h/aAx", "prefix"),
            ("h/bB", "exact"),
            ("h/bBx", "-"),
            ("h/cC/", "segment"),
            ("h/dd", "-"),
            ("h/Dd", "regex"),
        ],
    );
}

#[test]
fn all_conditions_must_hold() {
    let table = routes(
        "
- name: all
  match:
    prefix: /
    headers: [{name: x-a, string_match: {exact: '1'}}, {name: ':method', string_match: {exact: GET}}]
    query_parameters: [{name: q, string_match: {prefix: v}}, {name: none, present_match: false}]
  direct_response: {status: 200}
- {name: grpc, match: {prefix: /, grpc: {}}, direct_response: {status: 200}}
",
    );
    let request = |url, a| with(get(url), "x-a", a);
    assert_eq!(name(&table, &request("h/?q=v1", "1")), "all");
    assert_eq!(name(&table, &request("h/?q=v1", "2")), "-");
    assert_eq!(name(&table, &request("h/?q=w&q=v", "1")), "-");
    assert_eq!(name(&table, &request("h/?q=v&none", "1")), "-");
    assert_eq!(name(&table, &with(get("h/"), "content-type", "application/grpc+proto")), "grpc");
}

#[test]
fn a_fraction_takes_its_share() {
    let table = routes(
        "
- name: some
  match: {prefix: /, runtime_fraction: {default_value: {numerator: 30}, runtime_key: k}}
  direct_response: {status: 200}
- {name: rest, match: {prefix: /}, direct_response: {status: 200}}
",
    );
    let some = (0..1000).filter(|r| resolve(&table, &get("h/"), *r) == Some(0)).count();
    assert_eq!(some, 300);
}

#[test]
fn connect_is_matched_by_connect_matcher_alone() {
    let table = routes(
        "
- {name: prefix, match: {prefix: /}, direct_response: {status: 200}}
- {name: connect, match: {connect_matcher: {}}, direct_response: {status: 200}}
",
    );
    let mut head = get("h:443");
    head.method = Method::CONNECT;
    assert_eq!(name(&table, &head), "connect");
    head.path = "/".into();
    head.protocol = Some("websocket".into());
    assert_eq!(name(&table, &head), "prefix");
    head.path = "".into();
    assert_eq!(name(&table, &head), "-");
    head.protocol = Some("CONNECT-UDP".into());
    assert_eq!(name(&table, &head), "connect");
}

#[test]
fn path_parameters_can_be_ignored() {
    let route = "
- name: all
  domains: ['*']
  routes: [{name: exact, match: {path: /a}, direct_response: {status: 200}}]
";
    let ignoring = table(&format!("ignore_path_parameters_in_path_matching: true\nvirtual_hosts:{route}"));
    check(&ignoring, &[("h/a;v=1", "exact"), ("h/a;v=1?q", "exact"), ("h/a/;v", "-")]);
    check(&table(&format!("virtual_hosts:{route}")), &[("h/a;v=1", "-")]);
}

#[test]
fn the_virtual_host_is_found_by_authority() {
    let table = table(
        "
virtual_hosts:
- {name: a, domains: [a.test], routes: [{name: a, match: {path: /only}, direct_response: {status: 200}}]}
- {name: b, domains: ['*.test', b.org], routes: [{name: b, match: {prefix: /}, direct_response: {status: 200}}]}
",
    );
    check(&table, &[("A.test/only", "a"), ("a.test/", "-"), ("x.test/", "b"), ("b.org/", "b"), ("c.org/", "-")]);
}

#[test]
fn tls_is_required_by_x_forwarded_proto() {
    let table = |require| {
        table(&format!(
            "
virtual_hosts:
- name: a
  domains: ['*']
  require_tls: {require}
  routes: [{{name: a, match: {{prefix: /}}, direct_response: {{status: 200}}}}]
"
        ))
    };
    let redirects = |table: &RouteTable, head: &RequestHead| {
        let entry = table.entry(resolve(table, head, 0).unwrap());
        assert_eq!(matches!(entry.action(), Action::TlsRedirect), location(entry, head).is_some());
        location(entry, head)
    };
    let external = with(get("h:80/p?q"), "x-forwarded-proto", "http");
    let secure = with(get("h:80/p?q"), "x-forwarded-proto", "https");
    let internal = with(external.clone(), "x-envoy-internal", "true");
    assert_eq!(redirects(&table("ALL"), &external).as_deref(), Some("https://h:80/p?q"));
    assert_eq!(redirects(&table("ALL"), &internal).as_deref(), Some("https://h:80/p?q"));
    assert_eq!(redirects(&table("ALL"), &secure), None);
    assert_eq!(redirects(&table("EXTERNAL_ONLY"), &internal), None);
    assert!(redirects(&table("EXTERNAL_ONLY"), &external).is_some());
    assert_eq!(redirects(&table("NONE"), &external), None);
}

#[test]
fn routes_that_differ_by_a_header_are_found_in_their_order() {
    let mut yaml = String::new();
    for i in 0..50 {
        yaml += &format!(
            "- {{name: r{i}, match: {{prefix: /, headers: [{{name: x-a, string_match: {{exact: 'v{}'}}}}]}}, \
             direct_response: {{status: 200}}}}\n",
            i % 40
        );
    }
    yaml += "- {name: last, match: {prefix: /}, direct_response: {status: 200}}\n";
    let table = routes(&yaml);
    assert_eq!(name(&table, &with(get("h/"), "x-a", "v7")), "r7");
    assert_eq!(name(&table, &with(get("h/"), "x-a", "v39")), "r39");
    assert_eq!(name(&table, &with(get("h/"), "x-a", "v40")), "last");
    assert_eq!(name(&table, &with(with(get("h/"), "x-a", "v9"), "x-a", "v3")), "r3");
}

#[test]
fn a_template_matches_whole_paths_and_only_its_case() {
    let table = routes(
        "
- name: template
  match:
    case_sensitive: false
    path_match_policy:
      name: t
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig
        path_template: '/v1/{user}/**'
  direct_response: {status: 200}
- {name: rest, match: {prefix: /}, direct_response: {status: 200}}
",
    );
    check(&table, &[("h/v1/u/a/b?q", "template"), ("h/v1/u", "rest"), ("h/V1/u/a", "rest")]);
}

#[test]
fn cookies_certificates_and_metadata_are_conditions() {
    let table = routes(
        "
- {name: cookie, match: {prefix: /, cookies: [{name: c, string_match: {exact: v}}]}, direct_response: {status: 200}}
- {name: tls, match: {prefix: /tls, tls_context: {presented: true}}, direct_response: {status: 200}}
- {name: plain, match: {prefix: /tls, tls_context: {presented: false}}, direct_response: {status: 200}}
- name: metadata
  match: {prefix: /, dynamic_metadata: [{filter: f, path: [{key: k}], value: {string_match: {exact: v}}}]}
  direct_response: {status: 200}
",
    );
    assert_eq!(name(&table, &with(get("h/"), "cookie", "c=v")), "cookie");
    check(&table, &[("h/", "-"), ("h/tls", "plain")]);
    let info = info();
    let fields = serde_json::json!({"k": "v"}).as_object().unwrap().clone();
    *info.metadata.borrow_mut() = Some(Box::new(Metadata::from([("f".into(), fields)])));
    assert_eq!(table.resolve(&get("h/"), &info, 0).map(|i| &**table.entry(i).name()), Some("metadata"));
}

#[test]
fn another_header_may_name_the_virtual_host() {
    let table = table(
        "
vhost_header: x-host
virtual_hosts:
- {name: a, domains: [a.test], routes: [{name: a, match: {prefix: /}, direct_response: {status: 200}}]}
- {name: any, domains: ['*'], routes: [{name: any, match: {prefix: /}, direct_response: {status: 200}}]}
",
    );
    assert_eq!(name(&table, &with(get("h/"), "x-host", "A.test")), "a");
    assert_eq!(name(&table, &with(get("a.test/"), "x-host", "b.test")), "any");
    check(&table, &[("a.test/", "-")]);
}
