//! Time to find the route of a request, by number of routes and by what tells them apart.
//!
//! `cargo bench -p nuncio-config --bench route_find`

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::hint::black_box;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use http::{HeaderValue, Method};
use nuncio_config::load::{Format, Loader, Source, UnknownFields};
use nuncio_config::route::RouteTable;
use nuncio_filter_api::{LowerCx, RequestHead, Scheme};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::r#type::matcher::v3 as matcher;
use nuncio_telemetry::{Address, ConnectionInfo, StreamInfo};
use prost::Message;
use proto::route_match::PathSpecifier;

const ROUNDS: u32 = 200_000;

fn main() {
    for count in [10, 1_000, 50_000] {
        prefixes(count);
        paths(count);
        hosts(count);
        headers(count);
        regexes(count);
    }
    regexes_that_begin_alike(10_000);
    nested(200);
}

fn prefixes(count: usize) {
    let routes = (0..count).map(|i| route(PathSpecifier::Prefix(format!("/service-{i}/api/")), Vec::new()));
    let table = table("prefix", count, vec![host("*".into(), routes.collect())]);
    for (which, i) in [("first", 0), ("last", count - 1)] {
        time(&format!("route_find_prefix_{which}/{count}"), &table, &head("h", &format!("/service-{i}/api/x?q=1")));
    }
}

fn paths(count: usize) {
    let routes = (0..count).map(|i| route(PathSpecifier::Path(format!("/service-{i}/api")), Vec::new()));
    let table = table("path", count, vec![host("*".into(), routes.collect())]);
    for (which, i) in [("first", 0), ("last", count - 1)] {
        time(&format!("route_find_path_{which}/{count}"), &table, &head("h", &format!("/service-{i}/api?q=1")));
    }
}

fn hosts(count: usize) {
    let all = || vec![route(PathSpecifier::Prefix("/".into()), Vec::new())];
    let mut hosts: Vec<_> = (0..count).map(|i| host(format!("host-{i}.example.com"), all())).collect();
    hosts.push(host("*.example.org".into(), all()));
    let table = table("host", count, hosts);
    time(&format!("route_find_host/{count}"), &table, &head(&format!("host-{}.example.com", count - 1), "/"));
    time(&format!("route_find_suffix/{count}"), &table, &head("www.example.org", "/"));
}

/// All routes have the same path, and a header with one value each tells them apart.
fn headers(count: usize) {
    let routes =
        (0..count).map(|i| route(PathSpecifier::Prefix("/".into()), vec![exact("x-tenant", &format!("tenant-{i}"))]));
    let table = table("header", count, vec![host("*".into(), routes.collect())]);
    for (which, i) in [("first", 0), ("last", count - 1)] {
        let mut head = head("h", "/x");
        head.headers.insert("x-tenant", HeaderValue::from_str(&format!("tenant-{i}")).expect("a value"));
        time(&format!("route_find_header_{which}/{count}"), &table, &head);
    }
}

fn regexes(count: usize) {
    let routes = (0..count).map(|i| route(regex(format!("/service-{i}/[0-9]+/.*")), Vec::new()));
    let table = table("regex", count, vec![host("*".into(), routes.collect())]);
    for (which, i) in [("first", 0), ("last", count - 1)] {
        time(&format!("route_find_regex_{which}/{count}"), &table, &head("h", &format!("/service-{i}/17/x")));
    }
}

/// What tells them apart comes late in the path.
fn regexes_that_begin_alike(count: usize) {
    let routes = (0..count).map(|i| route(regex(format!("/[a-z]+/v[0-9]+/item-{i}(/.*)?")), Vec::new()));
    let table = table("inner_regex", count, vec![host("*".into(), routes.collect())]);
    for (which, i) in [("first", 0), ("last", count - 1)] {
        time(&format!("route_find_inner_regex_{which}/{count}"), &table, &head("h", &format!("/shop/v1/item-{i}/x")));
    }
}

/// Every prefix begins the path; all but the last have a condition that does not hold.
fn nested(count: usize) {
    let routes = (1..=count).rev().map(|depth| {
        let headers = if depth == 1 { Vec::new() } else { vec![exact("x-none", "v")] };
        route(PathSpecifier::Prefix("/a".repeat(depth)), headers)
    });
    let table = table("nested", count, vec![host("*".into(), routes.collect())]);
    time(&format!("route_find_nested_deepest/{count}"), &table, &head("h", &"/a".repeat(count)));
    time(&format!("route_find_nested_shallow/{count}"), &table, &head("h", "/a"));
}

fn time(name: &str, table: &RouteTable, head: &RequestHead) {
    let address = Address::Ip(([127, 0, 0, 1], 1).into());
    let connection = ConnectionInfo::new(1, address.clone(), address, tokio::time::Instant::now());
    let info = StreamInfo::new(Rc::new(connection), tokio::time::Instant::now(), SystemTime::UNIX_EPOCH);
    assert!(table.resolve(head, &info, 0).is_some(), "{name} finds its route");
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        for random in 0..ROUNDS {
            black_box(table.resolve(black_box(head), &info, u64::from(random)));
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
    }
    println!("{name:<36} {best:>10.1} ns");
}

/// Makes a table as an update of a control plane does: the bytes are checked and decoded, then the message is lowered.
fn table(kind: &str, count: usize, virtual_hosts: Vec<proto::VirtualHost>) -> RouteTable {
    let env = nuncio_filter_api::testing::env();
    let mut cx = LowerCx::new(&env);
    let bytes = proto::RouteConfiguration { virtual_hosts, ..Default::default() }.encode_to_vec();
    let source = Source::new("x", Format::Binary, bytes);
    let start = cpu_ms();
    let loaded = Loader::new(UnknownFields::Count).load::<proto::RouteConfiguration>(vec![source]);
    let message = loaded.expect("no rule is broken").message;
    println!("{:<36} {:>10.1} ms", format!("route_load_{kind}/{count}"), cpu_ms() - start);
    let start = cpu_ms();
    let table = RouteTable::lower(message, &mut cx).unwrap_or_else(|_| panic!("{:?}", cx.finish()));
    println!("{:<36} {:>10.1} ms", format!("route_build_{kind}/{count}"), cpu_ms() - start);
    table
}

/// Time that this thread has run: others may be running beside it.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let nanoseconds: f64 = stat.split(' ').next().and_then(|n| n.parse().ok()).expect("it begins with a number");
    nanoseconds / 1e6
}

fn host(domain: String, routes: Vec<proto::Route>) -> proto::VirtualHost {
    proto::VirtualHost { name: domain.clone(), domains: vec![domain], routes, ..Default::default() }
}

fn route(path: PathSpecifier, headers: Vec<proto::HeaderMatcher>) -> proto::Route {
    let matched = proto::RouteMatch { path_specifier: Some(path), headers, ..Default::default() };
    let specifier = proto::route_action::ClusterSpecifier::Cluster("c".into());
    let action = proto::RouteAction { cluster_specifier: Some(specifier), ..Default::default() };
    proto::Route { r#match: Some(matched), action: Some(proto::route::Action::Route(action)), ..Default::default() }
}

fn exact(name: &str, value: &str) -> proto::HeaderMatcher {
    let match_pattern = Some(matcher::string_matcher::MatchPattern::Exact(value.into()));
    let string = matcher::StringMatcher { match_pattern, ignore_case: false };
    let specifier = proto::header_matcher::HeaderMatchSpecifier::StringMatch(string);
    proto::HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..Default::default() }
}

fn regex(regex: String) -> PathSpecifier {
    PathSpecifier::SafeRegex(matcher::RegexMatcher { regex, engine_type: None })
}

fn head(authority: &str, path: &str) -> RequestHead {
    RequestHead::new(Method::GET, Scheme::Http, authority.into(), path.into())
}
