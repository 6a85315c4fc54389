use std::rc::Rc;
use std::time::SystemTime;

use http::{Method, StatusCode};
use nuncio_filter_api::Scheme;
use nuncio_filter_api::testing::{headers, lines};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::r#type::matcher::v3::StringMatcher as StringMatcherProto;
use nuncio_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use nuncio_telemetry::{Address, ConnectionInfo, StreamInfo};
use tokio::time::Instant;

use super::*;
use crate::testing::env;

fn remove(name: &str) -> Action {
    Action::Remove(name.into())
}

fn append(key: &str, value: &str, append_action: i32) -> Action {
    let header = core::HeaderValue { key: key.into(), value: value.into(), raw_value: Vec::new() };
    Action::Append(core::HeaderValueOption {
        header: Some(header),
        append: None,
        append_action,
        keep_empty_value: false,
    })
}

fn remove_prefix(prefix: &str) -> Action {
    let match_pattern = Some(MatchPattern::Prefix(prefix.into()));
    Action::RemoveOnMatch(RemoveOnMatch { key_matcher: Some(StringMatcherProto { ignore_case: false, match_pattern }) })
}

fn lower(fields: Fields, actions: Vec<Action>) -> Result<HeaderMutations, String> {
    let env = env();
    let mut cx = LowerCx::new(&env);
    let mutations = actions.into_iter().map(|a| proto::HeaderMutation { action: Some(a) }).collect();
    HeaderMutations::lower(fields, "m", mutations, &mut cx).map_err(|Refused| cx.finish()[0].to_string())
}

fn with_cx<R>(f: impl FnOnce(&FormatCx<'_>) -> R) -> R {
    let address = Address::Ip(([127, 0, 0, 1], 1).into());
    let connection = ConnectionInfo::new(1, address.clone(), address, Instant::now());
    let info = StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::UNIX_EPOCH);
    f(&FormatCx::new(&info, Instant::now(), SystemTime::UNIX_EPOCH))
}

fn head() -> RequestHead {
    RequestHead::new(Method::GET, Scheme::Http, "host".into(), "/p".into())
}

#[track_caller]
fn check(actions: Vec<Action>, before: &[&str], after: &[&str]) {
    let mutations = lower(Fields::Request, actions).unwrap();
    let mut head = head();
    head.headers = headers(before);
    with_cx(|cx| mutations.apply_request(&mut head, cx)).unwrap();
    assert_eq!(lines(&head.headers), after);
}

const APPEND: i32 = 0;
const ADD_IF_ABSENT: i32 = 1;
const OVERWRITE: i32 = 2;
const OVERWRITE_IF_EXISTS: i32 = 3;

#[test]
fn each_action_does_as_its_name_says() {
    let before = ["x-a: 1", "x-a: 2"];
    check(
        vec![append("x-a", "3", APPEND), append("x-b", "3", APPEND)],
        &before,
        &["x-a: 1", "x-a: 2", "x-a: 3", "x-b: 3"],
    );
    check(
        vec![append("x-a", "3", ADD_IF_ABSENT), append("x-b", "3", ADD_IF_ABSENT)],
        &before,
        &["x-a: 1", "x-a: 2", "x-b: 3"],
    );
    check(vec![append("x-a", "3", OVERWRITE), append("x-b", "3", OVERWRITE)], &before, &["x-a: 3", "x-b: 3"]);
    check(vec![append("x-a", "3", OVERWRITE_IF_EXISTS), append("x-b", "3", OVERWRITE_IF_EXISTS)], &before, &["x-a: 3"]);
    check(vec![remove("X-A"), remove("b@d name"), remove("")], &before, &[]);
}

#[test]
fn each_mutation_sees_what_those_before_it_did() {
    let actions = vec![append("x-a", "1", OVERWRITE), append("x-b", "%REQ(x-a)%", APPEND), remove("x-a")];
    check(actions, &["x-a: 0"], &["x-b: 1"]);
    check(vec![remove("x-a"), append("x-a", "1", OVERWRITE_IF_EXISTS)], &["x-a: 0"], &[]);
}

#[test]
fn names_are_matched_in_lower_case() {
    check(vec![remove_prefix("x-")], &["X-A: 1", "x-a: 2", "x-b: 3", "y: 4"], &["y: 4"]);
    check(vec![remove_prefix("X-")], &["x-a: 1"], &["x-a: 1"]);
}

#[test]
fn an_empty_value_changes_nothing() {
    check(vec![append("x-a", "%REQ(none)%", OVERWRITE), append("x-b", "", APPEND)], &["x-a: 1"], &["x-a: 1"]);
}

#[test]
fn headers_of_one_line_are_joined() {
    check(
        vec![append("accept", "b", APPEND), append("cookie", "b", APPEND)],
        &["accept: a", "cookie: a"],
        &["accept: a,b", "cookie: a", "cookie: b"],
    );
    let both = || vec![append("grpc-status", "2", APPEND), append("via", "2", APPEND)];
    let mut trailers = headers(&["grpc-status: 1", "via: 1"]);
    with_cx(|cx| lower(Fields::ResponseTrailers, both()).unwrap().apply_response_trailers(&mut trailers, cx));
    assert_eq!(lines(&trailers), ["grpc-status: 1,2", "via: 1", "via: 2"]);
    let mut trailers = headers(&["grpc-status: 1"]);
    with_cx(|cx| lower(Fields::RequestTrailers, both()).unwrap().apply_request_trailers(&mut trailers, cx));
    assert_eq!(lines(&trailers), ["grpc-status: 1", "grpc-status: 2", "via: 2"]);
}

#[test]
fn formats_of_response_trailers_see_the_trailers() {
    let mutations = lower(Fields::ResponseTrailers, vec![append("x-b", "%TRAILER(x-a)%", APPEND)]).unwrap();
    let mut trailers = headers(&["x-a: 1"]);
    with_cx(|cx| mutations.apply_response_trailers(&mut trailers, cx));
    assert_eq!(lines(&trailers), ["x-a: 1", "x-b: 1"]);
    assert!(mutations.has_formats());
}

#[test]
fn the_authority_may_be_removed_but_not_method_path_and_status() {
    let apply = |actions| {
        let mut head = head();
        let result = with_cx(|cx| lower(Fields::Request, actions).unwrap().apply_request(&mut head, cx));
        (result, head.authority)
    };
    assert_eq!(apply(vec![remove("Host")]), (Ok(()), ByteStr::EMPTY));
    assert_eq!(apply(vec![remove(":authority")]), (Ok(()), ByteStr::EMPTY));
    assert_eq!(apply(vec![remove(":scheme"), remove(":status"), remove(":x")]), (Ok(()), "host".into()));
    assert_eq!(apply(vec![remove(":path")]).0, Err(MissingHeader(":path")));
    assert_eq!(apply(vec![remove_prefix(":")]), (Err(MissingHeader(":method")), ByteStr::EMPTY));
    assert_eq!(apply(vec![remove_prefix("host")]), (Ok(()), "host".into()));
    for action in [remove(":status"), remove_prefix(":")] {
        let mutations = lower(Fields::Response, vec![action]).unwrap();
        let mut response = ResponseHead::new(StatusCode::OK);
        let result = with_cx(|cx| mutations.apply_response(&mut response, &head(), cx));
        assert_eq!(result, Err(MissingHeader(":status")));
    }
}

#[test]
fn what_envoy_refuses_is_refused_with_its_path() {
    let refusal = |action| lower(Fields::Request, vec![action]).unwrap_err();
    assert_eq!(
        refusal(append(":path", "/x", OVERWRITE)),
        "m[0].append.header.key: :-prefixed or host headers may not be modified"
    );
    assert!(refusal(append("x", "%NOPE%", APPEND)).starts_with("m[0].append.header.value: "));
    let empty = Action::RemoveOnMatch(RemoveOnMatch { key_matcher: None });
    assert_eq!(refusal(empty), "m[0].remove_on_match.key_matcher: is required");
    let env = env();
    let mut cx = LowerCx::new(&env);
    let none = vec![proto::HeaderMutation { action: None }];
    assert!(HeaderMutations::lower(Fields::Request, "m", none, &mut cx).is_err());
    assert_eq!(cx.finish()[0].to_string(), "m[0]: one of remove, append and remove_on_match is required");
}
