use std::cell::RefCell;

use nuncio_proto::envoy::config::core::v3::CidrRange;
use nuncio_proto::google::protobuf::UInt32Value;
use nuncio_telemetry::Inspected;
use tokio::time::Instant;

use super::*;
use crate::testing::env;

fn range(text: &str) -> CidrRange {
    let (address, len) = text.split_once('/').expect("a range has a length");
    let value = len.parse().expect("it is a number");
    CidrRange { address_prefix: address.to_owned(), prefix_len: Some(UInt32Value { value }) }
}

fn table(all: Vec<proto::FilterChainMatch>) -> Result<Table, u32> {
    let env = env();
    let mut table = Table::default();
    for (number, proto) in (0..).zip(all) {
        let criteria = Criteria::lower(proto, &mut LowerCx::new(&env)).expect("it is good");
        table.add(&criteria, number)?;
    }
    table.finish();
    Ok(table)
}

fn connection(remote: &str, local: &str, name: &str, alpn: &[&str]) -> ConnectionInfo {
    let address = |text: &str| text.parse().map_or_else(|_| Address::Pipe(text.into()), Address::Ip);
    let mut connection = ConnectionInfo::new(0, address(remote), address(local), Instant::now());
    connection.server_name = RefCell::new((!name.is_empty()).then(|| name.into()));
    let application_protocols = alpn.iter().map(|protocol| (*protocol).into()).collect();
    let transport_protocol = if name.is_empty() { "" } else { "tls" };
    connection.inspected =
        Some(Box::new(Inspected { transport_protocol, application_protocols, ..Inspected::default() }));
    connection
}

fn names(names: &[&str]) -> proto::FilterChainMatch {
    let server_names = names.iter().map(|name| (*name).to_owned()).collect();
    proto::FilterChainMatch { server_names, ..Default::default() }
}

#[test]
fn the_most_precise_name_decides() {
    let table = table(vec![
        names(&["*.example.com"]),
        names(&["A.example.com"]),
        names(&["*.com"]),
        names(&[]),
        names(&["*.b.example.com"]),
    ]);
    let table = table.expect("no two are the same");
    let cases = [
        ("a.example.com", 1),
        ("b.example.com", 0),
        ("c.b.example.com", 4),
        ("example.com", 2),
        (".example.com", 0),
        ("com", 3),
        ("x.com.", 3),
        ("", 3),
    ];
    for (name, expected) in cases {
        let found = table.find(&connection("1.2.3.4:5", "10.0.0.1:80", name, &[]));
        assert_eq!(found, Some(expected), "{name}");
    }
}

#[test]
fn a_criterion_that_fits_is_final() {
    let port = |value, server_names: &[&str]| proto::FilterChainMatch {
        destination_port: Some(UInt32Value { value }),
        ..names(server_names)
    };
    let table = table(vec![port(80, &["a.test"]), names(&[])]).expect("no two are the same");
    let found = |local, name| table.find(&connection("1.2.3.4:5", local, name, &[]));
    assert_eq!(found("10.0.0.1:80", "a.test"), Some(0));
    assert_eq!(found("10.0.0.1:80", "b.test"), None);
    assert_eq!(found("10.0.0.1:81", "b.test"), Some(1));
}

#[test]
fn the_longest_prefix_decides_in_both_families() {
    let prefixes = |all: &[&str]| proto::FilterChainMatch {
        prefix_ranges: all.iter().map(|text| range(text)).collect(),
        ..Default::default()
    };
    let table = table(vec![
        prefixes(&["10.0.0.0/8", "2001:db8::/32"]),
        prefixes(&["10.1.0.0/16", "2001:db8:1::/48"]),
        prefixes(&["10.1.1.1/32"]),
        prefixes(&[]),
    ]);
    let table = table.expect("no two are the same");
    let cases = [
        ("10.2.0.1:1", 0),
        ("10.1.0.1:1", 1),
        ("10.1.1.1:1", 2),
        ("11.0.0.1:1", 3),
        ("[2001:db8:2::]:1", 0),
        ("[2001:db8:1::2]:1", 1),
        ("[::1]:1", 3),
        ("/a/pipe", 3),
    ];
    for (local, expected) in cases {
        assert_eq!(table.find(&connection("1.2.3.4:5", local, "", &[])), Some(expected), "{local}");
    }
}

#[test]
fn the_first_protocol_that_is_known_decides() {
    let alpn = |all: &[&str]| proto::FilterChainMatch {
        application_protocols: all.iter().map(|text| (*text).to_owned()).collect(),
        ..Default::default()
    };
    let table = table(vec![alpn(&["h2"]), alpn(&["http/1.1", "spdy"])]).expect("no two are the same");
    let found = |offered: &[&str]| table.find(&connection("1.2.3.4:5", "10.0.0.1:80", "a", offered));
    assert_eq!(found(&["x", "spdy", "h2"]), Some(1));
    assert_eq!(found(&["h2", "http/1.1"]), Some(0));
    assert_eq!((found(&["x"]), found(&[])), (None, None));
}

#[test]
fn sources_are_told_apart_by_type_range_and_port() {
    let of = |kind: ConnectionSourceType, ranges: &[&str], ports: &[u32]| proto::FilterChainMatch {
        source_type: kind.into(),
        source_prefix_ranges: ranges.iter().map(|text| range(text)).collect(),
        source_ports: ports.to_vec(),
        ..Default::default()
    };
    let table = table(vec![
        of(ConnectionSourceType::SameIpOrLoopback, &[], &[]),
        of(ConnectionSourceType::Any, &["1.0.0.0/8"], &[]),
        of(ConnectionSourceType::Any, &["1.0.0.0/8"], &[7]),
        of(ConnectionSourceType::Any, &["1.2.0.0/16"], &[9]),
    ]);
    let table = table.expect("no two are the same");
    let found = |remote| table.find(&connection(remote, "10.0.0.1:80", "", &[]));
    assert_eq!(found("127.0.0.1:7"), Some(0));
    assert_eq!(found("10.0.0.1:7"), Some(0));
    assert_eq!((found("1.1.1.1:6"), found("1.1.1.1:7")), (Some(1), Some(2)));
    assert_eq!((found("1.2.1.1:9"), found("1.2.1.1:7")), (Some(3), None));
    assert_eq!(found("2.0.0.1:7"), None);
}

#[test]
fn rules_that_overlap_are_told() {
    assert_eq!(table(vec![names(&["a", "b"]), names(&["b", "c"])]).expect_err("both have b"), 0);
    assert_eq!(table(vec![names(&["a"]), names(&[]), names(&[])]).expect_err("both have none"), 1);
}
