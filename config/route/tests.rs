mod actions;
mod explaining;
mod hostile;
mod linear;
mod matching;
mod places;
mod plugin;
mod policies;
mod refresh;
mod refusals;
mod rewriting;
mod selection;
mod tree;

use std::rc::Rc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, Method};
use nuncio_filter_api::{LowerCx, LowerEnv, Refused, RequestHead, Scheme};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::{Address, ConnectionInfo, StreamInfo};
use tokio::time::Instant;

use super::*;
use crate::load::{Format, Loader, Source, UnknownFields};
use crate::testing::env;

fn parse(yaml: &str) -> proto::RouteConfiguration {
    let source = Source::new("test", Format::Yaml, yaml.as_bytes().to_vec());
    Loader::new(UnknownFields::Reject).load(vec![source]).unwrap_or_else(|e| panic!("{e:?}\n{yaml}")).message
}

fn lower_in(message: proto::RouteConfiguration, env: &LowerEnv) -> Result<RouteTable, Vec<String>> {
    let mut cx = LowerCx::new(env);
    let lowered = RouteTable::lower(message, &mut cx);
    let invalid: Vec<_> = cx.finish().iter().map(ToString::to_string).collect();
    assert_eq!(lowered.is_err(), !invalid.is_empty(), "a refusal is recorded exactly where lowering fails");
    lowered.map_err(|Refused| invalid)
}

fn table(yaml: &str) -> RouteTable {
    lower_in(parse(yaml), &env()).unwrap()
}

/// A table of one virtual host, which takes everything and has these routes.
fn routes(yaml: &str) -> RouteTable {
    table(&format!("virtual_hosts:\n- name: all\n  domains: ['*']\n  routes:\n{}", indent(yaml, 2)))
}

fn indent(yaml: &str, spaces: usize) -> String {
    yaml.lines().map(|line| format!("{:spaces$}{line}\n", "")).collect()
}

fn refused(yaml: &str) -> Vec<String> {
    lower_in(parse(yaml), &env()).err().expect("refused")
}

fn get(url: &str) -> RequestHead {
    let (authority, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    RequestHead::new(Method::GET, Scheme::Http, authority.into(), path.into())
}

fn with(mut head: RequestHead, name: &'static str, value: &'static str) -> RequestHead {
    head.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    head
}

pub(super) fn info() -> StreamInfo {
    let address = Address::Ip(([127, 0, 0, 1], 1).into());
    let connection = ConnectionInfo::new(1, address.clone(), address, Instant::now());
    StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::UNIX_EPOCH)
}

fn resolve(table: &RouteTable, head: &RequestHead, random: u64) -> Option<usize> {
    table.resolve(head, &info(), random)
}

/// The name of the route, or `-`.
fn name(table: &RouteTable, head: &RequestHead) -> String {
    resolve(table, head, 0).map_or("-".to_owned(), |i| table.entry(i).name().to_string())
}

fn location(entry: &RouteEntry, head: &RequestHead) -> Option<String> {
    entry.location(head, &FormatCx::new(&info(), Instant::now(), SystemTime::UNIX_EPOCH))
}

fn rewritten(table: &RouteTable, mut head: RequestHead, envoy: EnvoyHeaders) -> RequestHead {
    let entry = table.entry(resolve(table, &head, 0).expect("a route"));
    let info = info();
    entry.rewrite_request(&mut head, &FormatCx::new(&info, Instant::now(), SystemTime::UNIX_EPOCH), envoy);
    head
}
