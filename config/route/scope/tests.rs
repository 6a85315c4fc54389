use http::{HeaderName, HeaderValue, Method};
use nuncio_filter_api::Scheme;

use super::*;
use crate::load::{Format, Loader, Source, UnknownFields};
use crate::testing::env;

fn lower(builders: &str, scopes: &str) -> Result<ScopedRoutes, Vec<String>> {
    let yaml = format!(
        "name: s\nscope_key_builder: {{fragments: [{builders}]}}\n\
         scoped_route_configurations_list: {{scoped_route_configurations: [{scopes}]}}"
    );
    let text = Source::new("test", Format::Yaml, yaml.into_bytes());
    let message: hcm::ScopedRoutes = Loader::new(UnknownFields::Reject).load(vec![text]).expect("loads").message;
    let env = env();
    let mut cx = LowerCx::new(&env);
    let lowered = ScopedRoutes::lower(message, &env.stats.scope("http.in"), &mut cx);
    lowered.map_err(|Refused| cx.finish().iter().map(ToString::to_string).collect())
}

fn scope(name: &str, key: &[&str]) -> String {
    let fragments: Vec<_> = key.iter().map(|fragment| format!("{{string_key: '{fragment}'}}")).collect();
    format!("{{name: {name}, key: {{fragments: [{}]}}, route_configuration: {{name: {name}}}}}", fragments.join(", "))
}

/// The name of the scope of a request with these headers, or `-`.
fn find(routes: &ScopedRoutes, headers: &[(&'static str, &'static str)]) -> String {
    let mut head = RequestHead::new(Method::GET, Scheme::Http, "a.test".into(), "/p".into());
    for (name, value) in headers {
        head.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    routes.find(&head).map_or("-".to_owned(), |scope| scope.name.to_string())
}

const ELEMENT: &str =
    "{header_value_extractor: {name: x-a, element_separator: ';', element: {separator: '=', key: k}}}";

fn index(name: &str, separator: &str, index: u32) -> String {
    format!("{{header_value_extractor: {{name: '{name}', element_separator: '{separator}', index: {index}}}}}")
}

#[test]
fn a_key_of_an_element_chooses_the_scope() {
    let routes = lower(ELEMENT, &[scope("v", &["v"]), scope("empty", &[""])].join(", ")).map_err(|e| e.join("\n"));
    let routes = routes.unwrap();
    for (value, expected) in [
        ("k=v", "v"),
        ("a=b;k=v;c", "v"),
        ("k=v;k=w", "v"),
        ("k=w;k=v", "-"),
        ("k=v=w", "-"),
        ("k", "empty"),
        ("k=", "empty"),
        (" k=v", "-"),
        ("", "-"),
        ("kk=v", "-"),
    ] {
        assert_eq!(find(&routes, &[("x-a", value)]), expected, "{value}");
    }
    assert_eq!(find(&routes, &[]), "-");
    assert_eq!(find(&routes, &[("x-a", "a"), ("x-a", "k=v")]), "-");
}

#[test]
fn an_index_counts_from_zero() {
    let routes = lower(&index("x-a", ", ", 1), &scope("two", &["two"])).map_err(|e| e.join("\n")).unwrap();
    for (value, expected) in [("one, two", "two"), ("one,two", "-"), ("two", "-"), ("a, two, b", "two")] {
        assert_eq!(find(&routes, &[("x-a", value)]), expected, "{value}");
    }
    let routes = lower(&index(":path", "", 0), &scope("path", &["/p"])).map_err(|e| e.join("\n")).unwrap();
    assert_eq!(find(&routes, &[]), "path");
}

#[test]
fn all_fragments_must_be_there_in_order() {
    let builders = [index("x-a", "", 0), index("x-b", "", 0)].join(", ");
    let scopes = [scope("one", &["a", "b"]), scope("joined", &["ab", ""]), scope("short", &["a"])].join(", ");
    let routes = lower(&builders, &scopes).map_err(|e| e.join("\n")).unwrap();
    assert_eq!(find(&routes, &[("x-a", "a"), ("x-b", "b")]), "one");
    assert_eq!(find(&routes, &[("x-a", "ab"), ("x-b", "")]), "joined");
    assert_eq!(find(&routes, &[("x-a", "b"), ("x-b", "a")]), "-");
    assert_eq!(find(&routes, &[("x-a", "a")]), "-");
}

#[test]
fn of_one_name_or_key_the_last_is_there() {
    let scopes = [scope("s", &["a"]), scope("s", &["b"]), scope("m", &["c"]), scope("o", &["c"])].join(", ");
    let routes = lower(&index("x-a", "", 0), &scopes).map_err(|e| e.join("\n")).unwrap();
    let names: Vec<String> = ["a", "b", "c"].map(|value| find(&routes, &[("x-a", value)])).into();
    assert_eq!(names, ["-", "s", "o"]);
}

#[test]
fn what_envoy_refuses_is_refused_by_its_place() {
    let none = lower("{header_value_extractor: {name: x}}", &scope("s", &["a"])).err().unwrap();
    assert_eq!(none, ["scope_key_builder.fragments[0].header_value_extractor: extract_type is required"]);
    let refusals = lower(
        &index("x-a", "", 1),
        "{name: s, key: {fragments: [{string_key: a}]}, route_configuration_name: r}, \
         {name: m, key: {fragments: [{string_key: a}]}}",
    );
    let scopes = "scoped_route_configurations_list.scoped_route_configurations";
    assert_eq!(
        refusals.err().unwrap(),
        [
            "scope_key_builder.fragments[0].header_value_extractor.index: must be 0 without element_separator"
                .to_owned(),
            format!("{scopes}[0].route_configuration_name: an inline scope has its route_configuration inline, too"),
            format!("{scopes}[1].route_configuration: is required"),
        ]
    );
}
