//! Messages that come in wire format, as from xDS.

use super::*;
use nuncio_proto::TypedStruct;
use nuncio_proto::envoy::config::cluster::v3::Cluster;
use nuncio_proto::google::protobuf::{Any, Duration, Struct, Value, value};

fn load_cluster(policy: UnknownFields, bytes: Vec<u8>) -> Result<Loaded<Cluster>, Vec<String>> {
    Loader::new(policy).load_wire("cds/c", bytes).map_err(|problems| shown(&problems))
}

fn named() -> Cluster {
    Cluster { name: "c".into(), ..Default::default() }
}

#[test]
fn rules_hold_for_wire_format_too() {
    let cluster = Cluster { connect_timeout: Some(Duration { seconds: -1, nanos: 0 }), ..Default::default() };
    let problems = load_cluster(UnknownFields::Count, cluster.encode_to_vec()).expect_err("it is bad");
    assert_eq!(
        problems,
        [
            "cds/c: name: value length must be at least 1 characters",
            "cds/c: connect_timeout: value must be greater than 0s",
        ]
    );
}

#[test]
fn unknown_wire_fields_follow_the_policy() {
    let mut bytes = named().encode_to_vec();
    wire::bytes(5000, b"x", &mut bytes);
    let loaded = load_cluster(UnknownFields::Count, bytes.clone()).expect("it is allowed");
    assert_eq!((loaded.unknown_fields, loaded.warnings[0].path.as_str()), (1, "5000"));
    assert_eq!(load_cluster(UnknownFields::Ignore, bytes.clone()).expect("it is allowed").unknown_fields, 0);
    let problems = load_cluster(UnknownFields::Reject, bytes).expect_err("it is refused");
    assert_eq!(problems, ["cds/c: 5000: unknown field in envoy.config.cluster.v3.Cluster"]);
}

fn with_typed_struct(type_url: &str, fields: &[(&str, value::Kind)]) -> Vec<u8> {
    let fields = fields.iter().map(|(name, kind)| (name.to_string(), Value { kind: Some(kind.clone()) })).collect();
    let held = TypedStruct { type_url: type_url.into(), value: Some(Struct { fields }) };
    let any = Any { type_url: "t/udpa.type.v1.TypedStruct".into(), value: held.encode_to_vec() };
    let mut cluster = named();
    cluster.typed_extension_protocol_options.insert("x".into(), any);
    cluster.encode_to_vec()
}

#[test]
fn a_typed_struct_in_wire_format_becomes_the_message_it_names() {
    let router = "t/envoy.extensions.filters.http.router.v3.Router";
    let bytes = with_typed_struct(router, &[("start_child_span", value::Kind::BoolValue(true))]);
    let loaded = load_cluster(UnknownFields::Count, bytes).expect("it is good");
    let any = &loaded.message.typed_extension_protocol_options["x"];
    assert_eq!(any.type_url, "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router");
    assert!(Router::decode(&any.value[..]).expect("it decodes").start_child_span);

    let bytes = with_typed_struct(router, &[("start_child_span", value::Kind::NumberValue(5.0))]);
    assert_eq!(
        load_cluster(UnknownFields::Count, bytes).expect_err("it is bad"),
        ["cds/c: typed_extension_protocol_options[\"x\"].start_child_span: expected true or false"]
    );
}

#[test]
fn a_typed_struct_of_an_unknown_type_passes_through_wire_format() {
    let bytes = with_typed_struct("t/my.Plugin", &[("a", value::Kind::NumberValue(0.5))]);
    let loaded = load_cluster(UnknownFields::Reject, bytes).expect("it is good");
    let any = &loaded.message.typed_extension_protocol_options["x"];
    assert_eq!(any.type_url, "t/udpa.type.v1.TypedStruct");
    assert!(TypedStruct::decode(&any.value[..]).is_ok());
}

#[test]
fn text_that_is_no_utf8_is_refused() {
    let mut bytes = named().encode_to_vec();
    wire::bytes(28, b"\xff", &mut bytes);
    let problems = load_cluster(UnknownFields::Count, bytes).expect_err("it is bad");
    assert_eq!(problems, ["cds/c: alt_stat_name: text is not valid UTF-8"]);
}

#[test]
fn the_last_of_a_value_set_twice_counts_and_messages_merge() {
    let mut bytes = Cluster { name: "first".into(), ..Default::default() }.encode_to_vec();
    let timeout = |seconds, nanos| Cluster { connect_timeout: Some(Duration { seconds, nanos }), ..Default::default() };
    bytes.extend(timeout(5, 0).encode_to_vec());
    bytes.extend(timeout(0, 7).encode_to_vec());
    bytes.extend(Cluster { name: String::new(), ..Default::default() }.encode_to_vec());
    wire::bytes(1, b"", &mut bytes);
    let problems = load_cluster(UnknownFields::Count, bytes.clone()).expect_err("the last name is empty");
    assert_eq!(problems, ["cds/c: name: value length must be at least 1 characters"]);
    wire::bytes(1, b"last", &mut bytes);
    let loaded = load_cluster(UnknownFields::Count, bytes).expect("it is good");
    assert_eq!(loaded.message.name, "last");
    assert_eq!(loaded.message.connect_timeout, Some(Duration { seconds: 5, nanos: 7 }));
}

#[test]
fn malformed_bytes_of_any_kind_are_an_error() {
    let good = good(RICH).encode_to_vec();
    let mut loader = Loader::new(UnknownFields::Count);
    let mut load = |bytes: &[u8]| drop(loader.load_wire::<Bootstrap>("x", bytes.to_vec()));
    for cut in 0..good.len() {
        load(&good[..cut]);
    }
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..1_500 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        load(&bytes);
    }
    // A message in itself, a thousand times: shorter than its own depth in errors.
    let mut nested = Vec::new();
    for _ in 0..1_000 {
        let mut outer = Vec::new();
        wire::bytes(43, &nested, &mut outer);
        nested = outer;
    }
    assert!(load_cluster(UnknownFields::Count, nested).is_err());
}
