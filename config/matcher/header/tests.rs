use http::{HeaderValue, Method, StatusCode};
use nuncio_filter_api::Scheme;
use nuncio_proto::envoy::r#type::matcher::v3 as matcher;

use super::*;
use crate::testing::env;

fn lower(name: &str, specifier: Option<Specifier>, change: fn(&mut proto::HeaderMatcher)) -> HeaderMatcher {
    let mut message =
        proto::HeaderMatcher { name: name.to_owned(), header_match_specifier: specifier, ..Default::default() };
    change(&mut message);
    let env = env();
    HeaderMatcher::lower(message, &mut LowerCx::new(&env)).unwrap()
}

fn head(values: &[&str]) -> RequestHead {
    let mut head = RequestHead::new(Method::GET, Scheme::Http, "host.test:80".into(), "/p?q".into());
    for value in values {
        head.headers.append("x-h", HeaderValue::from_str(value).unwrap());
    }
    head
}

/// Checks the matcher of `x-h` against requests that have these values of it.
#[track_caller]
fn check(specifier: Specifier, change: fn(&mut proto::HeaderMatcher), matching: &[&[&str]], others: &[&[&str]]) {
    let matcher = lower("X-H", Some(specifier), change);
    for values in matching {
        assert!(matcher.matches_request(&head(values)), "{matcher:?} matches {values:?}");
    }
    for values in others {
        assert!(!matcher.matches_request(&head(values)), "{matcher:?} does not match {values:?}");
    }
}

fn as_is(_: &mut proto::HeaderMatcher) {}

fn inverted(m: &mut proto::HeaderMatcher) {
    m.invert_match = true;
}

fn missing_is_empty(m: &mut proto::HeaderMatcher) {
    m.treat_missing_header_as_empty = true;
}

fn exact(s: &str) -> Specifier {
    let match_pattern = Some(matcher::string_matcher::MatchPattern::Exact(s.to_owned()));
    Specifier::StringMatch(matcher::StringMatcher { match_pattern, ignore_case: false })
}

#[test]
fn deprecated_and_new_kinds_match_values() {
    check(exact("a"), as_is, &[&["a"]], &[&["A"], &["ab"], &[]]);
    check(Specifier::ExactMatch("a".into()), as_is, &[&["a"]], &[&["b"], &[]]);
    check(Specifier::ExactMatch("".into()), as_is, &[&["b"], &[""]], &[&[]]);
    check(Specifier::PrefixMatch("a".into()), as_is, &[&["ab"]], &[&["ba"]]);
    check(Specifier::SuffixMatch("a".into()), as_is, &[&["ba"]], &[&["ab"]]);
    check(Specifier::ContainsMatch("a".into()), as_is, &[&["bab"]], &[&["b"]]);
    let regex = matcher::RegexMatcher { regex: "a+".into(), engine_type: None };
    check(Specifier::SafeRegexMatch(regex), as_is, &[&["aa"]], &[&["aab"]]);
}

#[test]
fn of_several_fields_one_that_matches_is_enough() {
    check(exact("b"), as_is, &[&["a", "b"], &["b", "a"]], &[&["a,b"], &["a", "c"]]);
    check(exact("b"), inverted, &[&["a,b"], &["a", "c"]], &[&["a", "b"]]);
    check(exact("a,b"), as_is, &[&["a,b"]], &[&["a", "b"]]);
}

#[test]
fn the_fields_of_an_inline_header_are_one_value() {
    let matches = |value| {
        let mut head = head(&[]);
        head.headers.append("via", HeaderValue::from_static("a"));
        head.headers.append("via", HeaderValue::from_static("b"));
        lower("via", Some(exact(value)), as_is).matches_request(&head)
    };
    assert!(matches("a,b"));
    assert!(!matches("a"));
}

#[test]
fn a_range_includes_its_start_alone() {
    let range = || Specifier::RangeMatch(Int64Range { start: -10, end: 0 });
    check(range(), as_is, &[&["-10"], &[" -1 "]], &[&["0"], &["+5"], &["1e2"], &["x"], &[""], &[], &["1", "2"]]);
    check(range(), inverted, &[&["0"], &["x"]], &[&["-1"], &[]]);
    check(
        Specifier::RangeMatch(Int64Range { start: 0, end: i64::MAX }),
        as_is,
        &[&["+7"]],
        &[&["9223372036854775808"], &["9223372036854775807"]],
    );
}

#[test]
fn a_missing_header_matches_only_where_presence_is_asked_for() {
    check(Specifier::PresentMatch(true), as_is, &[&["a"], &[""]], &[&[]]);
    check(Specifier::PresentMatch(true), inverted, &[&[]], &[&["a"]]);
    check(Specifier::PresentMatch(false), as_is, &[&[]], &[&["a"]]);
    check(Specifier::PresentMatch(false), inverted, &[&["a"]], &[&[]]);
    check(exact("a"), inverted, &[&["b"]], &[&["a"], &[]]);
}

#[test]
fn a_missing_header_may_be_taken_as_empty() {
    check(exact(""), missing_is_empty, &[&[], &[""]], &[&["a"]]);
    check(
        exact("a"),
        |m| {
            inverted(m);
            missing_is_empty(m);
        },
        &[&[], &["b"]],
        &[&["a"]],
    );
}

#[test]
fn pseudo_headers_are_headers() {
    let matches = |name: &str, value: &str| lower(name, Some(exact(value)), as_is).matches_request(&head(&[]));
    assert!(matches(":method", "GET"));
    assert!(matches(":path", "/p?q"));
    assert!(matches(":authority", "host.test:80"));
    assert!(matches("Host", "host.test:80"));
    assert!(matches(":scheme", "http"));
    assert!(!lower(":unknown", None, as_is).matches_request(&head(&[])));
    let response = ResponseHead::new(StatusCode::NOT_FOUND);
    assert!(lower(":status", Some(exact("404")), as_is).matches_response(&response));
}

#[test]
fn an_extended_connect_is_matched_as_the_upgrade_it_stands_for() {
    let mut head = head(&[]);
    head.method = Method::CONNECT;
    head.protocol = Some("websocket".into());
    assert!(lower(":method", Some(exact("GET")), as_is).matches_request(&head));
    assert!(lower("upgrade", Some(exact("websocket")), as_is).matches_request(&head));
    head.protocol = None;
    assert!(lower(":method", Some(exact("CONNECT")), as_is).matches_request(&head));
}
