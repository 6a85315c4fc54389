//! No message makes lowering or resolving panic, however odd.

use prost::Message;

use super::*;

const ROUNDS: u64 = 3000;

/// A configuration that uses a bit of everything.
const SEED: &str = "
name: seed
ignore_port_in_host_matching: true
request_headers_to_add: [{header: {key: x, value: '%REQ(y)%'}, append_action: OVERWRITE_IF_EXISTS}]
response_headers_to_remove: [z]
virtual_hosts:
- name: a
  domains: [a.test, '*.test', 'b.*']
  require_tls: EXTERNAL_ONLY
  routes:
  - match: {prefix: /a, headers: [{name: x, range_match: {start: 1, end: 9}}, {name: ':path', present_match: true}]}
    route: {cluster: c, prefix_rewrite: /b, host_rewrite_literal: new, timeout: 1s, append_x_forwarded_host: true}
  - match: {safe_regex: {regex: '/r[0-9]{1,3}'}, query_parameters: [{name: q, string_match: {contains: v}}]}
    redirect: {https_redirect: true, prefix_rewrite: /c, port_redirect: 8443}
  - match: {path_separated_prefix: /s, case_sensitive: false}
    route: {weighted_clusters: {clusters: [{name: a, weight: 1}, {cluster_header: x-c, weight: 2}]}}
- name: b
  domains: ['*']
  routes:
  - match: {path: /p, runtime_fraction: {default_value: {numerator: 50}}}
    direct_response: {status: 200, body: {inline_string: hello}}
  - match: {connect_matcher: {}}
    route: {cluster_header: x-c, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}
  - match: {prefix: /}
    route: {cluster: d, regex_rewrite: {pattern: {regex: '/(.)'}, substitution: '\\1'}}
";

/// Changes a few bytes of the encoded message, which keeps most of its structure.
fn mutate(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(0..bytes.len());
        match rng.u8(0..4) {
            0 => bytes[at] ^= 1 << rng.u8(0..8),
            1 => bytes[at] = rng.u8(..),
            2 => bytes[at] = *rng.choice(b"\x00\xff/*:%\\([{?.").unwrap(),
            _ => drop(bytes.splice(at..at, std::iter::repeat_n(rng.u8(..), rng.usize(1..3)))),
        }
    }
}

#[test]
fn mutated_tables_are_lowered_or_refused_and_serve() {
    let env = env();
    let seed = parse(SEED).encode_to_vec();
    let mut lowered = 0;
    for round in 0..ROUNDS {
        let mut rng = fastrand::Rng::with_seed(round);
        let mut bytes = seed.clone();
        mutate(&mut bytes, &mut rng);
        let Ok(message) = proto::RouteConfiguration::decode(&bytes[..]) else { continue };
        let Ok(table) = lower_in(message, &env) else { continue };
        lowered += 1;
        for url in ["a.test/a?x", "x.test/r12?q=v", "b.x/S/x", "h:80/p", "/", "h", "[::1]:80/\u{e9}?", "a.test/s"] {
            exercise(&table, with(get(url), "x", "5"), rng.u64(..));
        }
    }
    assert!(lowered > ROUNDS as usize / 20, "only {lowered} of {ROUNDS} mutants are tables");
}

fn exercise(table: &RouteTable, mut head: RequestHead, random: u64) {
    let Some(index) = resolve(table, &head, random) else { return };
    let entry = table.entry(index);
    location(entry, &head);
    entry.filter_configs("f", &mut |_| ());
    let info = info();
    let cx = FormatCx::new(&info, Instant::now(), SystemTime::UNIX_EPOCH);
    entry.rewrite_request(&mut head, &cx, EnvoyHeaders::Add);
    let mut response = nuncio_filter_api::ResponseHead::new(http::StatusCode::OK);
    entry.rewrite_response(&mut response, &head, &cx);
    // A rewritten head may be resolved again.
    resolve(table, &head, random);
}

#[test]
fn a_message_without_anything_is_refused_by_what_it_lacks() {
    let host = proto::VirtualHost { routes: vec![proto::Route::default()], ..Default::default() };
    let message = proto::RouteConfiguration { virtual_hosts: vec![host], ..Default::default() };
    let refusals = lower_in(message, &env()).err().unwrap();
    assert_eq!(
        refusals,
        ["virtual_hosts[0].routes[0].match: is required", "virtual_hosts[0].routes[0]: action is required"]
    );
    let table = lower_in(proto::RouteConfiguration::default(), &env()).unwrap();
    assert_eq!(resolve(&table, &get("h/"), 0), None);
}
