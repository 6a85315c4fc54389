use std::rc::Rc;
use std::time::SystemTime;

use http::{Method, StatusCode};
use nuncio_filter_api::Scheme;
use nuncio_proto::google::protobuf::BoolValue;
use nuncio_telemetry::{Address, ConnectionInfo, StreamInfo};
use tokio::time::Instant;

use super::*;
use crate::testing::env;

fn option(key: &str, value: &str, append_action: i32) -> core::HeaderValueOption {
    let header = core::HeaderValue { key: key.into(), value: value.into(), raw_value: Vec::new() };
    core::HeaderValueOption { header: Some(header), append: None, append_action, keep_empty_value: false }
}

fn lower(side: Side, add: Vec<core::HeaderValueOption>, remove: &[&str]) -> Result<HeaderRules, String> {
    let env = env();
    let mut cx = LowerCx::new(&env);
    let remove = remove.iter().map(|s| s.to_string()).collect();
    HeaderRules::lower(side, add, remove, &mut cx).map_err(|Refused| cx.finish()[0].to_string())
}

fn info() -> StreamInfo {
    let address = Address::Ip(([127, 0, 0, 1], 1).into());
    let connection = ConnectionInfo::new(1, address.clone(), address, Instant::now());
    StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::UNIX_EPOCH)
}

/// Applies the rules to a request with the header lines `before`.
#[track_caller]
fn check(add: &[(&str, &str, i32)], remove: &[&str], before: &[&str], after: &[&str]) {
    let add = add.iter().map(|(key, value, action)| option(key, value, *action)).collect();
    let rules = lower(Side::Request, add, remove).unwrap();
    let mut head = RequestHead::new(Method::GET, Scheme::Http, "host".into(), "/p".into());
    for line in before {
        let (name, value) = line.split_once(": ").unwrap();
        head.headers.append(HeaderName::try_from(name).unwrap(), value.try_into().unwrap());
    }
    let info = info();
    rules.apply_request(&mut head, &FormatCx::new(&info, Instant::now(), SystemTime::UNIX_EPOCH));
    let found: Vec<_> = head.headers.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
    assert_eq!(found, after);
}

const APPEND: i32 = 0;
const ADD_IF_ABSENT: i32 = 1;
const OVERWRITE: i32 = 2;
const OVERWRITE_IF_EXISTS: i32 = 3;

#[test]
fn each_action_does_as_its_name_says() {
    check(&[("x-a", "2", APPEND)], &[], &["x-a: 1"], &["x-a: 1", "x-a: 2"]);
    check(&[("x-a", "2", ADD_IF_ABSENT), ("x-b", "2", ADD_IF_ABSENT)], &[], &["x-a: 1"], &["x-a: 1", "x-b: 2"]);
    check(&[("x-a", "2", OVERWRITE), ("x-b", "2", OVERWRITE)], &[], &["x-a: 1", "x-a: 3"], &["x-a: 2", "x-b: 2"]);
    check(&[("x-a", "2", OVERWRITE_IF_EXISTS), ("x-b", "2", OVERWRITE_IF_EXISTS)], &[], &["x-a: 1"], &["x-a: 2"]);
}

#[test]
fn removal_comes_before_overwriting_and_that_before_adding() {
    check(&[("x-a", "2", APPEND)], &["X-A"], &["x-a: 1"], &["x-a: 2"]);
    check(&[("x-a", "add", APPEND), ("x-a", "set", OVERWRITE)], &[], &["x-a: 1"], &["x-a: set", "x-a: add"]);
    check(&[("x-a", "2", OVERWRITE_IF_EXISTS)], &["x-a"], &["x-a: 1"], &[]);
}

#[test]
fn all_values_are_made_from_the_head_before_any_is_written() {
    check(
        &[
            ("x-a", "new", OVERWRITE),
            ("x-b", "%REQ(x-a)%", APPEND),
            ("x-c", "1", ADD_IF_ABSENT),
            ("x-c", "2", ADD_IF_ABSENT),
        ],
        &[],
        &["x-a: old"],
        &["x-a: new", "x-b: old", "x-c: 1", "x-c: 2"],
    );
}

#[test]
fn values_may_have_operators() {
    check(&[("x-a", "100%% %REQ(:path)%-%PROTOCOL%", APPEND)], &[], &[], &["x-a: 100% /p-"]);
}

#[test]
fn an_empty_value_is_dropped_unless_kept() {
    check(&[("x-a", "", APPEND), ("x-b", "%REQ(none)%", OVERWRITE)], &[], &["x-b: 1"], &["x-b: 1"]);
    let mut keep = option("x-a", "%REQ(none)%", APPEND);
    keep.keep_empty_value = true;
    let rules = lower(Side::Response, vec![keep], &[]).unwrap();
    let mut head = ResponseHead::new(StatusCode::OK);
    let request = RequestHead::new(Method::GET, Scheme::Http, "host".into(), "/p".into());
    let info = info();
    rules.apply_response(&mut head, &request, &FormatCx::new(&info, Instant::now(), SystemTime::UNIX_EPOCH));
    assert_eq!(head.headers["x-a"], "");
}

#[test]
fn the_inline_headers_of_envoy_are_joined() {
    check(&[("via", "b", APPEND)], &[], &["via: a"], &["via: a,b"]);
    check(&[("user-agent", "b", APPEND), ("user-agent", "c", APPEND)], &[], &[], &["user-agent: b,c"]);
}

#[test]
fn the_deprecated_append_still_counts() {
    let mut set = option("x-a", "2", APPEND);
    set.append = Some(BoolValue { value: false });
    assert_eq!(lower(Side::Request, vec![set.clone()], &[]).unwrap().add[0].action, Action::Overwrite);
    set.append_action = OVERWRITE;
    assert!(lower(Side::Request, vec![set], &[]).unwrap_err().contains("only one of append"));
}

#[test]
fn headers_that_belong_to_the_route_action_are_refused() {
    for name in [":path", ":authority", "Host", ":x"] {
        let error = lower(Side::Request, vec![option(name, "v", APPEND)], &[]).unwrap_err();
        assert_eq!(error, "request_headers_to_add[0].header.key: :-prefixed or host headers may not be modified");
        assert!(lower(Side::Response, Vec::new(), &[name]).unwrap_err().contains("may not be removed"));
    }
    assert!(lower(Side::Request, vec![option("a b", "v", APPEND)], &[]).is_err());
    assert!(lower(Side::Request, vec![option("x-a", "a\nb", APPEND)], &[]).is_err());
    assert!(lower(Side::Request, vec![option("x-a", "%NOPE%", APPEND)], &[]).unwrap_err().contains("unknown operator"));
    assert!(lower(Side::Request, vec![option("x-a", "v", 9)], &[]).is_err());
    let many = vec![option("x-a", "v", APPEND); 1001];
    assert!(lower(Side::Request, many, &[]).unwrap_err().contains("no more than 1000"));
}
