use std::rc::Rc;
use std::time::SystemTime;

use nuncio_filter_api::testing::{env, request};
use nuncio_proto::google::protobuf::Value;
use nuncio_telemetry::{Address, ConnectionInfo, StreamInfo};
use tokio::time::Instant;

use super::*;

fn remove(key: &str) -> core::KeyValueMutation {
    core::KeyValueMutation { append: None, remove: key.into() }
}

fn append(key: &str, value: &str, action: i32) -> core::KeyValueMutation {
    let value = Value { kind: Some(Kind::StringValue(value.into())) };
    let record = core::KeyValuePair { key: key.into(), value: Some(value) };
    let append = core::KeyValueAppend { record: Some(record), entry: None, action };
    core::KeyValueMutation { append: Some(append), remove: String::new() }
}

fn lower(mutations: Vec<core::KeyValueMutation>) -> Result<QueryMutations, String> {
    let env = env();
    let mut cx = LowerCx::new(&env);
    QueryMutations::lower(mutations, &mut cx).map_err(|Refused| cx.finish()[0].to_string())
}

/// The expected paths are those that Envoy 1.40 sent upstream.
#[track_caller]
fn check(mutations: Vec<core::KeyValueMutation>, before: &str, after: &str) {
    let address = Address::Ip(([127, 0, 0, 1], 1).into());
    let connection = ConnectionInfo::new(1, address.clone(), address, Instant::now());
    let info = StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::UNIX_EPOCH);
    let mut head = request(http::Method::GET, before, &[]).head;
    lower(mutations).unwrap().apply(&mut head, &FormatCx::new(&info, Instant::now(), SystemTime::UNIX_EPOCH));
    assert_eq!(&*head.path, after);
}

const APPEND: i32 = 0;
const ADD_IF_ABSENT: i32 = 1;
const OVERWRITE: i32 = 2;
const OVERWRITE_IF_EXISTS: i32 = 3;

#[test]
fn each_action_does_as_its_name_says() {
    let two = |action| vec![append("a", "2", action), append("c", "9", action)];
    check(two(APPEND), "/?a=1&b=3", "/?a=1&a=2&b=3&c=9");
    check(two(ADD_IF_ABSENT), "/?a=1&b=3", "/?a=1&b=3&c=9");
    check(two(OVERWRITE), "/?a=1&a=5&b=3", "/?a=2&b=3&c=9");
    check(two(OVERWRITE_IF_EXISTS), "/?a=1&a=5&b=3", "/?a=2&b=3");
    check(vec![remove("a")], "/?z=1&a=1&a=5&b=3", "/?b=3&z=1");
}

#[test]
fn the_query_comes_and_goes() {
    check(vec![append("a", "1", APPEND)], "/p", "/p?a=1");
    check(vec![remove("a")], "/p?a=1", "/p");
    check(vec![remove("a")], "/p?", "/p");
    check(vec![remove("a")], "", "");
}

#[test]
fn parameters_are_sorted_and_have_an_equals_sign() {
    check(vec![remove("n")], "/?z=1&a=2&m&a=1", "/?a=2&a=1&m=&z=1");
    check(vec![remove("n")], "/?f=&=g&&h==&", "/?=g&=&f=&h==");
    check(vec![append("a", "1", APPEND)], "/?b=1?c=2", "/?a=1&b=1?c=2");
}

#[test]
fn values_are_encoded_but_not_keys() {
    let value = "x y&z=/?#%%é+~-_.*";
    check(vec![append("k&", value, APPEND)], "/", "/?k&=x%20y%26z%3D%2F%3F%23%25%C3%A9%2B%7E-_.*");
    check(vec![append("a b\n", "1", APPEND)], "/", "/?a%20b%0A=1");
}

#[test]
fn escapes_are_decoded_where_that_changes_nothing() {
    check(vec![remove("n")], "/?a=%41%2f%3d&b=%zz&c=%4", "/?a=A/=&b=%zz&c=%4");
    check(vec![remove("n")], "/?a=%20%0d%0a%26%23%25%2b+", "/?a=%20%0d%0a%26%23%25%2b+");
    check(vec![remove("n")], "/?a%26%3d=1", "/?a%26%3d=1");
    check(vec![remove("a&")], "/?a%26=1&b", "/?b=");
}

#[test]
fn values_may_have_operators_which_see_the_path_as_it_came() {
    let mutations = vec![
        append("a", "%REQ(:path)%", APPEND),
        append("b", "%REQ(none)%", APPEND),
        append("c", "%REQ(:path)%", APPEND),
    ];
    check(mutations, "/p?b=1", "/p?a=%2Fp%3Fb%3D1&b=1&b=&c=%2Fp%3Fb%3D1");
}

#[test]
fn what_envoy_refuses_is_refused_with_its_path() {
    let refusal = |mutation| lower(vec![mutation]).err().unwrap();
    let none = core::KeyValueMutation { append: None, remove: String::new() };
    assert_eq!(refusal(none), "query_parameter_mutations[0]: one of append and remove is required");
    let both = core::KeyValueMutation { remove: "b".into(), ..append("a", "1", APPEND) };
    assert_eq!(refusal(both), "query_parameter_mutations[0]: only one of append and remove may be set");
    let without = core::KeyValueAppend { record: None, entry: None, action: 0 };
    let without = core::KeyValueMutation { append: Some(without), remove: String::new() };
    assert_eq!(refusal(without), "query_parameter_mutations[0].append.record: is required");
    let mut number = append("a", "1", APPEND);
    let record = number.append.as_mut().and_then(|a| a.record.as_mut()).unwrap();
    record.value = Some(Value { kind: Some(Kind::NumberValue(1.0)) });
    assert_eq!(refusal(number), "query_parameter_mutations[0].append.record.value: must be a string");
    assert!(refusal(append("a", "%NOPE%", APPEND)).starts_with("query_parameter_mutations[0].append.record.value: "));
    assert!(refusal(append("a", "1", 4)).starts_with("query_parameter_mutations[0].append.action: "));
}
