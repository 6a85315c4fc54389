use std::rc::Rc;
use std::time::SystemTime;

use http::{HeaderName, Method};
use nuncio_filter_api::Scheme;
use nuncio_telemetry::{Address, ConnectionInfo, FilterValue, LifeSpan, Sharing};
use tokio::time::Instant;

use super::*;
use crate::load::{Format, Loader, Source as Text, UnknownFields};
use crate::testing::env;

fn lower(yaml: &str) -> Result<Option<HashPolicies>, Vec<String>> {
    let text = Text::new("test", Format::Yaml, format!("cluster: c\nhash_policy: [{yaml}]").into_bytes());
    let action: proto::RouteAction = Loader::new(UnknownFields::Reject).load(vec![text]).expect("loads").message;
    let env = env();
    let mut cx = LowerCx::new(&env);
    let lowered = HashPolicies::lower("hash_policy", action.hash_policy, &mut cx);
    lowered.map_err(|Refused| cx.finish().iter().map(ToString::to_string).collect())
}

fn info() -> StreamInfo {
    let address = |port| Address::Ip(([127, 0, 0, 1], port).into());
    let connection = ConnectionInfo::new(1, address(20001), address(19802), Instant::now());
    StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::UNIX_EPOCH)
}

fn request(path: &str, headers: &[(&'static str, &'static str)]) -> RequestHead {
    let mut head = RequestHead::new(Method::GET, Scheme::Http, "a.test".into(), path.into());
    for (name, value) in headers {
        head.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    head
}

fn hash(yaml: &str, head: &RequestHead) -> Option<u64> {
    lower(yaml).expect("is accepted").and_then(|policies| policies.hash(head, &info(), None))
}

fn of(value: &str) -> Option<u64> {
    Some(xx_hash(0, value.as_bytes()))
}

#[test]
fn the_function_is_xx_hash_64() {
    assert_eq!(xx_hash(0, b""), 0xef46_db37_51d8_e999);
    assert_eq!(xx_hash(0, b"foo"), 0x33bf_00a8_59c4_ba3f);
}

#[test]
fn each_kind_hashes_its_value() {
    let head = request("/p?q=1&q=2&e", &[("x-a", "v"), ("cookie", "c=\"w\"; d=")]);
    assert_eq!(hash("{header: {header_name: X-A}}", &head), of("v"));
    assert_eq!(hash("{header: {header_name: ':path'}}", &head), of("/p?q=1&q=2&e"));
    assert_eq!(hash("{header: {header_name: host}}", &head), of("a.test"));
    assert_eq!(hash("{header: {header_name: x-b}}", &head), None);
    assert_eq!(hash("{cookie: {name: c}}", &head), of("w"));
    assert_eq!(hash("{cookie: {name: d}}", &head), None);
    assert_eq!(hash("{query_parameter: {name: q}}", &head), of("1"));
    assert_eq!(hash("{query_parameter: {name: e}}", &head), of(""));
    assert_eq!(hash("{query_parameter: {name: none}}", &head), None);
    assert_eq!(hash("{connection_properties: {source_ip: true}}", &head), of("127.0.0.1"));
    assert!(lower("{connection_properties: {}, terminal: true}").expect("is accepted").is_none());
}

#[test]
fn several_values_hash_alike_in_any_order() {
    let policy = "{header: {header_name: x-a}}";
    let both = hash(policy, &request("/", &[("x-a", "foo"), ("x-a", "bar")]));
    assert_eq!(both, hash(policy, &request("/", &[("x-a", "bar"), ("x-a", "foo")])));
    assert_eq!(both, Some(xx_hash(xx_hash(0, b"bar"), b"foo")));
}

#[test]
fn values_are_rewritten_before_they_are_hashed() {
    let policy =
        "{header: {header_name: ':path', regex_rewrite: {pattern: {regex: '^/([a-z]+).*'}, substitution: '\\1'}}}";
    assert_eq!(hash(policy, &request("/ab/1", &[])), of("ab"));
    assert_eq!(hash(policy, &request("/1", &[])), of("/1"));
}

#[test]
fn policies_add_up_unless_one_is_terminal() {
    let head = request("/?q=w", &[("x-a", "v")]);
    let (v, w) = (xx_hash(0, b"v"), xx_hash(0, b"w"));
    let header = |name: &str, terminal: bool| format!("{{header: {{header_name: {name}}}, terminal: {terminal}}}");
    let query = "{query_parameter: {name: q}}";
    assert_eq!(hash(&format!("{}, {query}", header("x-a", false)), &head), Some(v.rotate_left(1) ^ w));
    assert_eq!(hash(&format!("{0}, {0}", header("x-a", false)), &head), Some(v.rotate_left(1) ^ v));
    assert_eq!(hash(&format!("{}, {query}", header("x-a", true)), &head), Some(v));
    assert_eq!(hash(&format!("{}, {query}", header("x-none", true)), &head), Some(w));
    // Envoy: a terminal policy that finds nothing ends the list too, once there is a hash.
    let list = format!("{query}, {}, {}", header("x-none", true), header("x-a", false));
    assert_eq!(hash(&list, &head), Some(w));
}

#[test]
fn a_missing_cookie_is_generated_where_a_host_is_chosen() {
    let attributes = "[{name: SameSite, value: Strict}, {name: Secure}]";
    let policies = lower(&format!("{{cookie: {{name: x, ttl: 3.7s, path: /p, attributes: {attributes}}}}}"));
    let policies = policies.expect("is accepted").expect("there is one");
    let mut cookies = Vec::new();
    let head = request("/", &[("cookie", "x=")]);
    assert_eq!(policies.hash(&head, &info(), Some(&mut cookies)), of("9be57859b5062099"));
    // The same as Envoy says to a client at this port.
    assert_eq!(cookies, ["x=\"9be57859b5062099\"; Max-Age=3; Path=/p; SameSite=Strict; Secure; HttpOnly"]);
    assert_eq!(policies.hash(&head, &info(), None), None);
    let head = request("/", &[("cookie", "x=1")]);
    assert_eq!(policies.hash(&head, &info(), Some(&mut cookies)), of("1"));
    assert_eq!(cookies.len(), 1);
}

#[test]
fn a_cookie_of_the_session_has_no_age() {
    let policies = lower("{cookie: {name: x, ttl: 0s}}").expect("is accepted").expect("there is one");
    let mut cookies = Vec::new();
    policies.hash(&request("/", &[]), &info(), Some(&mut cookies));
    assert_eq!(cookies, ["x=\"9be57859b5062099\"; HttpOnly"]);
}

#[test]
fn what_cannot_be_is_refused_by_its_place() {
    assert_eq!(
        lower("{query_parameter: {name: k}}, {cookie: {name: \"a\\nb\", ttl: 1s}}").expect_err("is refused"),
        ["hash_policy[1].cookie: name, path and attributes do not make a Set-Cookie header",]
    );
    let regex = "{header: {header_name: a, regex_rewrite: {pattern: {regex: '('}, substitution: ''}}}";
    assert_eq!(lower(regex).expect_err("is refused").len(), 1);
}

#[test]
fn a_value_of_the_filter_state_is_hashed_if_it_is_for_that() {
    let policies = lower("{filter_state: {key: k}}").expect("is accepted").expect("is kept");
    let (info, head) = (info(), request("/", &[]));
    assert_eq!(policies.hash(&head, &info, None), None);
    let text = || FilterValue::Text("v".into());
    let hashable = Sharing { parts_pools: true, ..Sharing::default() };
    info.filter_state.borrow_mut().share("k", text(), LifeSpan::Request, hashable);
    assert_eq!(policies.hash(&head, &info, None), of("v"));
    info.filter_state.borrow_mut().set("k", text(), LifeSpan::Request);
    assert_eq!(policies.hash(&head, &info, None), None);
}
