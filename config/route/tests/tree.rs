use super::*;

/// A table of one virtual host with this matcher, in which `I(x)` stands for an input and `R(x)` for an action.
fn yaml(matcher: &str) -> String {
    let input = regex::Regex::new(r"I\(([^)]*)\)").unwrap();
    let action = regex::Regex::new(r"R\(([^)]*)\)").unwrap();
    let matcher = input.replace_all(
        matcher,
        "input: {name: i, typed_config: {'@type': \
         type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: '$1'}}",
    );
    let matcher = action.replace_all(
        &matcher,
        "action: {name: r, typed_config: {'@type': type.googleapis.com/envoy.config.route.v3.Route, name: $1, \
         match: {prefix: /}, direct_response: {status: 200}}}",
    );
    format!("virtual_hosts:\n- name: h\n  domains: ['*']\n  matcher:\n{}", indent(&matcher, 4))
}

#[test]
fn a_subtree_without_match_is_no_match() {
    let table = table(&yaml(
        "
matcher_list:
  matchers:
  - predicate: {single_predicate: {I(x-a), value_match: {exact: one}}}
    on_match: {matcher: {matcher_tree: {I(x-b), exact_match_map: {map: {b: {R(inner)}}}}}}
  - predicate: {not_matcher: {single_predicate: {I(x-a), value_match: {prefix: t}}}}
    on_match: {R(not)}
on_no_match: {R(last)}
",
    ));
    assert_eq!(name(&table, &with(with(get("h/"), "x-a", "one"), "x-b", "b")), "inner");
    assert_eq!(name(&table, &with(get("h/"), "x-a", "one")), "not");
    assert_eq!(name(&table, &get("h/")), "not");
    assert_eq!(name(&table, &with(get("h/"), "x-a", "two")), "last");
}

#[test]
fn the_longest_prefix_comes_first() {
    let table = table(&yaml("matcher_tree: {I(:path), prefix_match_map: {map: {/: {R(root)}, /a: {R(a)}}}}"));
    assert_eq!(name(&table, &get("h/ab")), "a");
    assert_eq!(name(&table, &get("h/b")), "root");
}

#[test]
fn values_are_joined_and_missing_ones_match_nothing() {
    let table = table(&yaml("matcher_tree: {I(x-a), exact_match_map: {map: {'1,2': {R(both)}, '': {R(empty)}}}}"));
    assert_eq!(name(&table, &with(with(get("h/"), "x-a", "1"), "x-a", "2")), "both");
    assert_eq!(name(&table, &with(get("h/"), "x-a", "1")), "-");
    assert_eq!(name(&table, &with(get("h/"), "x-a", "")), "empty");
    assert_eq!(name(&table, &get("h/")), "-");
}

#[test]
fn what_envoy_refuses_is_refused_by_path() {
    let keep = refused(&yaml("on_no_match: {R(a), keep_matching: true}"));
    assert_eq!(keep, ["virtual_hosts[0].matcher.on_no_match.keep_matching: is not supported here"]);
    let both = yaml("on_no_match: {R(a)}") + "  routes: [{match: {prefix: /}, direct_response: {status: 200}}]\n";
    assert_eq!(refused(&both), ["virtual_hosts[0]: only one of routes and matcher may be set"]);
    let query = yaml("matcher_tree: {I(x), exact_match_map: {map: {a: {R(a)}}}}")
        .replace("HttpRequestHeaderMatchInput, header_name", "HttpRequestQueryParamMatchInput, query_param");
    assert!(refused(&query)[0].starts_with("virtual_hosts[0].matcher.matcher_tree.input.typed_config: "));
}
