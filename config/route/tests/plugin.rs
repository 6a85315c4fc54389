use super::*;

/// The configuration of a plugin whose tree is `matcher`, in which `C(x)` stands for the choice of a cluster.
fn plugin(matcher: &str) -> String {
    let action = regex::Regex::new(r"C\(([^)]*)\)").unwrap();
    let matcher = action.replace_all(
        matcher,
        "{action: {name: a, typed_config: {'@type': \
         type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction, cluster: '$1'}}}",
    );
    format!(
        "{{extension: {{name: p, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier, \
         cluster_matcher: {matcher}}}}}}}"
    )
}

fn inline(path: &str, matcher: &str) -> String {
    format!("- match: {{path: {path}}}\n  route: {{inline_cluster_specifier_plugin: {}}}\n", plugin(matcher))
}

fn chosen(table: &RouteTable, head: &RequestHead, info: &StreamInfo) -> String {
    let number = table.resolve(head, info, 0).expect("a route");
    table.chosen_cluster(table.entry(number), head, info).map_or("-".to_owned(), |cluster| cluster.name.to_string())
}

const CEL: &str = "input: {name: i, typed_config: {'@type': \
                   type.googleapis.com/xds.type.matcher.v3.HttpAttributesCelMatchInput}}, \
                   custom_match: {name: m, typed_config: {'@type': type.googleapis.com/xds.type.matcher.v3.CelMatcher";

/// A list of one predicate, and what else there is.
fn expression(expr: &str) -> String {
    format!(
        "{{matcher_list: {{matchers: [{{predicate: {{single_predicate: {{{CEL}, expr_match: {{cel_expr_parsed: \
         {{expr: {expr}}}}}}}}}}}}}, on_match: C(yes)}}]}}, on_no_match: C(no)}}"
    )
}

/// The request that Envoy was asked about when the table was written.
fn asked(number: usize) -> (RequestHead, StreamInfo) {
    let mut head = get(&format!("a.example/{number}/0?q=1&r=2"));
    for (name, value) in [
        ("x-a", "one"),
        ("x-a", "two"),
        ("user-agent", "agent/1.0"),
        ("referer", "http://r/"),
        ("x-n", "17"),
        ("x-request-id", "7"),
    ] {
        head.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let address = Address::Ip(([127, 0, 0, 1], 1).into());
    let connection = ConnectionInfo::new(1, address.clone(), address, Instant::now());
    let info = StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::now());
    info.protocol.set(Some(nuncio_telemetry::Protocol::Http11));
    (head, info)
}

#[test]
fn expressions_are_decided_as_envoy_decides_them() {
    let lines = include_str!("expressions.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let cases: Vec<(&str, &str, &str)> = lines
        .map(|line| {
            let mut columns = line.splitn(3, '\t');
            let mut column = || columns.next().expect("three columns");
            (column(), column(), column())
        })
        .collect();
    assert!(cases.len() > 150);
    let yaml: String = cases
        .iter()
        .enumerate()
        .map(|(number, (_, _, expr))| inline(&format!("/{number}/0"), &expression(expr)))
        .collect();
    let table = routes(&yaml);
    for (number, (expected, text, _)) in cases.iter().enumerate() {
        let (head, info) = asked(number);
        assert_eq!(chosen(&table, &head, &info), *expected, "{text}");
    }
}

#[test]
fn expressions_that_envoy_does_not_evaluate_are_refused() {
    #[track_caller]
    fn check(expr: &str, expected: &str) {
        let refused = refused(&format!(
            "virtual_hosts:\n- name: h\n  domains: ['*']\n  routes:\n{}",
            indent(&inline("/", &expression(expr)), 2)
        ));
        assert!(refused[0].ends_with(expected), "{refused:?}");
    }
    let string = "{const_expr: {string_value: a}}";
    check(
        &format!("{{call_expr: {{function: string, args: [{string}]}}}}"),
        "there is no function string of 1 arguments",
    );
    check("{comprehension_expr: {}}", "comprehension_expr: comprehensions are not allowed, in Envoy neither");
    let pattern = "{const_expr: {string_value: '('}}";
    let call = format!("{{call_expr: {{function: matches, args: [{string}, {pattern}]}}}}");
    let expected =
        "call_expr.function: invalid regular expression: regex parse error:\n    (\n    ^\nerror: unclosed group";
    check(&call, expected);
    check("{}", "expr: an expression is required");
}

#[test]
fn what_is_kept_for_later_is_passed_over() {
    let header = "single_predicate: {input: {name: i, typed_config: {'@type': \
                  type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-a}}, \
                  value_match: {exact: one}}";
    let list = format!(
        "{{matcher_list: {{matchers: [{{predicate: {{{header}}}, on_match: {{keep_matching: true, matcher: \
         {{on_no_match: C(kept)}}}}}}, {{predicate: {{{header}}}, on_match: C(taken)}}]}}}}"
    );
    let table = routes(&inline("/", &list));
    assert_eq!(chosen(&table, &with(get("h/"), "x-a", "one"), &info()), "taken");
    assert_eq!(chosen(&table, &get("h/"), &info()), "-");
}

#[test]
fn metadata_is_looked_at_as_it_is_when_the_route_is_found() {
    let matcher = "{matcher_list: {matchers: [{predicate: {single_predicate: {input: {name: i, typed_config: \
                   {'@type': type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.\
                   DynamicMetadataInput, filter: f, path: [{key: a}, {key: b}]}}, custom_match: {name: m, \
                   typed_config: {'@type': \
                   type.googleapis.com/envoy.extensions.matching.input_matchers.metadata.v3.Metadata, \
                   value: {string_match: {exact: v}}}}}}, on_match: C(yes)}]}, on_no_match: C(no)}";
    let filter_metadata = "{select_expr: {operand: {ident_expr: {name: metadata}}, field: filter_metadata}}";
    let f = format!("{{select_expr: {{operand: {filter_metadata}, field: f}}}}");
    let a = format!("{{select_expr: {{operand: {f}, field: a}}}}");
    let b = format!(
        "{{call_expr: {{function: _==_, args: [{{select_expr: {{operand: {a}, field: b}}}}, {{const_expr: {{string_value: v}}}}]}}}}"
    );
    let table = routes(&(inline("/m", matcher) + &inline("/e", &expression(&b))));
    let info = info();
    for (path, expected) in [("h/m", "no"), ("h/e", "no")] {
        assert_eq!(chosen(&table, &get(path), &info), expected);
    }
    let json = serde_json::json!({"a": {"b": "v"}});
    let metadata = Metadata::from([("f".into(), json.as_object().unwrap().clone())]);
    *info.metadata.borrow_mut() = Some(Box::new(metadata));
    for (path, expected) in [("h/m", "yes"), ("h/e", "yes")] {
        assert_eq!(chosen(&table, &get(path), &info), expected);
    }
}

#[test]
fn plugins_are_found_by_name_or_refused() {
    let plugins = format!("cluster_specifier_plugins: [{}]\n", plugin("{on_no_match: C(up)}"));
    let host = |name: &str| {
        format!(
            "virtual_hosts:\n- name: h\n  domains: ['*']\n  routes:\n  - match: {{prefix: /}}\n    route: \
             {{cluster_specifier_plugin: {name}}}\n"
        )
    };
    let table = table(&(plugins.clone() + &host("p")));
    assert_eq!(chosen(&table, &get("h/"), &info()), "up");
    assert_eq!(
        refused(&(plugins + &host("q"))),
        [
            "virtual_hosts[0].routes[0].route.cluster_specifier_plugin: \"q\" is none of the cluster_specifier_plugins of \
          this route configuration"
        ]
    );
    let other = "cluster_specifier_plugins: [{extension: {name: p, typed_config: {'@type': \
                 type.googleapis.com/envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig, source_code: {inline_string: x}}}}]\n";
    let refused = refused(&(other.to_owned() + &host("p")));
    assert_eq!(
        refused[0],
        "cluster_specifier_plugins[0].extension.typed_config: \
         envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig as a cluster specifier plugin is not implemented yet"
    );
}
