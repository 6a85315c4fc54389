//! Which hosts get the requests, over many of them. The hosts refuse connections: who was chosen is told in a header of
//! the answer.

use std::collections::BTreeMap;

use crate::support::bootstrap::Pieces;
use crate::support::client::Client;
use crate::support::proxy::{Running, proxy};
use crate::support::split::Split;
use crate::support::upstream::http1;

const POLICIES: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies";

/// Ten hosts, 127.0.0.10 to 127.0.0.19, of which that at `place` has these further fields.
fn cluster(fields: &str, host: impl Fn(usize) -> String) -> String {
    let mut yaml = format!(
        "- name: lb\n  connect_timeout: 2s\n{fields}  load_assignment:\n    cluster_name: lb\n    endpoints:\n"
    );
    for place in 0..10 {
        let (address, zone) = (10 + place, place / 5);
        yaml += &format!(
            "    - locality: {{ zone: z{zone} }}\n      load_balancing_weight: {}\n      lb_endpoints:\n      - endpoint: \
             {{ address: {{ socket_address: {{ address: 127.0.0.{address}, port_value: 1 }} }} }}\n{}",
            1 + 2 * zone,
            host(place),
        );
    }
    yaml
}

fn policy(name: &str) -> String {
    format!(
        "  load_balancing_policy: {{ policies: [{{ typed_extension_config: {{ name: x, typed_config: {{ '@type': {POLICIES}.{name} }} }} }}] }}\n"
    )
}

async fn start(clusters: String, route: &str) -> Running {
    let routes = format!(
        "- match: {{ prefix: / }}\n  route: {{ cluster: lb{route} }}\n  response_headers_to_add: [{{ header: {{ key: \
         x-host, value: '%UPSTREAM_HOST%' }} }}]\n"
    );
    proxy(Pieces { clusters, routes, ..Pieces::default() }.yaml()).upstream(http1()).concurrency(1).run().await
}

/// How many of `count` requests each host gets.
async fn shares(proxy: &Running, count: usize) -> [usize; 10] {
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    let mut seen = BTreeMap::new();
    for n in 0..count {
        let request = format!("GET /{n} HTTP/1.1\r\nhost: a\r\nx-key: k{n}\r\n\r\n");
        let response = client.request(request.as_bytes()).await.expect("the proxy answers");
        *seen.entry(response.header("x-host").unwrap_or_default().to_owned()).or_insert(0) += 1;
    }
    let shares = std::array::from_fn(|place| seen.remove(&format!("127.0.0.{}:1", 10 + place)).unwrap_or(0));
    assert!(seen.is_empty(), "{seen:?}");
    shares
}

/// Whether chance gives `shares` at the odds of `weights`: chi-square below its value for p = 0.0001 at 9 degrees.
#[track_caller]
fn assert_likely(shares: &[usize; 10], weights: impl Fn(usize) -> f64) {
    let total = shares.iter().sum::<usize>() as f64;
    let all: f64 = (0..10).map(&weights).sum();
    let expected = |place| total * weights(place) / all;
    let chi: f64 = shares.iter().enumerate().map(|(at, n)| (*n as f64 - expected(at)).powi(2) / expected(at)).sum();
    assert!(chi < 33.72, "{shares:?}: {chi}");
}

/// Whether `shares` are those of `weights`, but for two requests.
#[track_caller]
fn assert_exact(shares: &[usize; 10], weights: impl Fn(usize) -> f64) {
    let unit = shares.iter().sum::<usize>() as f64 / (0..10).map(&weights).sum::<f64>();
    let is_near = |(place, n): (usize, &usize)| (*n as f64 - weights(place) * unit).abs() <= 2.0;
    assert!(shares.iter().enumerate().all(is_near), "{shares:?}");
}

fn weighted(place: usize) -> String {
    format!("        load_balancing_weight: {}\n", place + 1)
}

fn plain(_: usize) -> String {
    String::new()
}

#[tokio::test]
async fn round_robin_gives_shares_by_weight() {
    let proxy = start(cluster("", weighted), "").await;
    assert_exact(&shares(&proxy, 550).await, |place| (place + 1) as f64);
    let proxy = start(cluster(&policy("round_robin.v3.RoundRobin"), plain), "").await;
    assert_eq!(shares(&proxy, 500).await, [50; 10]);
}

#[tokio::test]
async fn hosts_in_slow_start_share_alike() {
    let slow = ", slow_start_config: { slow_start_window: 600s }";
    let proxy = start(cluster(&policy(&format!("round_robin.v3.RoundRobin{slow}")), weighted), "").await;
    assert_exact(&shares(&proxy, 550).await, |place| (place + 1) as f64);
}

#[tokio::test]
async fn random_and_least_request_give_idle_hosts_the_same_odds() {
    for name in ["random.v3.Random", "least_request.v3.LeastRequest"] {
        let proxy = start(cluster(&policy(name), plain), "").await;
        assert_likely(&shares(&proxy, 1000).await, |_| 1.0);
    }
    let full_scan = "least_request.v3.LeastRequest, selection_method: FULL_SCAN";
    let proxy = start(cluster(&policy(full_scan), plain), "").await;
    assert_likely(&shares(&proxy, 1000).await, |_| 1.0);
}

#[tokio::test]
async fn hashes_spread_over_hosts_by_weight() {
    let by_header = ", hash_policy: [{ header: { header_name: x-key } }]";
    let ring = "ring_hash.v3.RingHash, minimum_ring_size: 500000";
    for name in [ring, "maglev.v3.Maglev"] {
        let proxy = start(cluster(&policy(name), weighted), by_header).await;
        let first = shares(&proxy, 1100).await;
        assert_likely(&first, |place| (place + 1) as f64);
        assert_eq!(shares(&proxy, 1100).await, first, "equal hashes have equal hosts");
    }
}

#[tokio::test]
async fn localities_and_subsets_share_by_weight() {
    let weighted_localities = "  common_lb_config: { locality_weighted_lb_config: {} }\n";
    let proxy = start(cluster(weighted_localities, plain), "").await;
    assert_exact(&shares(&proxy, 800).await, |place| if place < 5 { 1.0 } else { 3.0 });
    let versions =
        |place| format!("        metadata: {{ filter_metadata: {{ envoy.lb: {{ v: 'v{}' }} }} }}\n", place % 2);
    let subsets = "  lb_subset_config: { subset_selectors: [{ keys: [v] }] }\n";
    let wanted = ", metadata_match: { filter_metadata: { envoy.lb: { v: v1 } } }";
    let proxy = start(cluster(subsets, versions), wanted).await;
    assert_exact(&shares(&proxy, 500).await, |place| (place % 2) as f64);
}

/// Five hosts at each of two priorities, so many of the first of which are healthy.
fn failing_over(fields: &str, healthy: usize) -> String {
    let endpoints = (0..10).map(|place| {
        let (address, priority) = (10 + place, place / 5);
        let health = if priority == 0 && place >= healthy { "UNHEALTHY" } else { "HEALTHY" };
        format!(
            "    - priority: {priority}\n      lb_endpoints:\n      - {{ endpoint: {{ address: {{ socket_address: {{ address: \
             127.0.0.{address}, port_value: 1 }} }} }}, health_status: {health} }}\n"
        )
    });
    let endpoints: String = endpoints.collect();
    format!(
        "- name: lb\n  connect_timeout: 2s\n{fields}  load_assignment:\n    cluster_name: lb\n    endpoints:\n{endpoints}"
    )
}

#[tokio::test]
async fn priorities_share_by_what_they_can_do() {
    for fields in [String::new(), policy("random.v3.Random"), policy("least_request.v3.LeastRequest")] {
        let proxy = start(failing_over(&fields, 3), "").await;
        // Three of five can do 84 %.
        let odds = |place: usize| match place {
            0..3 => 84.0 / 3.0,
            3..5 => 1e-9,
            _ => 16.0 / 5.0,
        };
        assert_likely(&shares(&proxy, 1500).await, odds);
    }
    // A table for each priority, chosen by the same hash.
    for name in ["ring_hash.v3.RingHash", "maglev.v3.Maglev"] {
        let proxy = start(failing_over(&policy(name), 3), ", hash_policy: [{ header: { header_name: x-key } }]").await;
        let shares = shares(&proxy, 1500).await;
        let first: usize = shares[..3].iter().sum();
        assert!((1200..1320).contains(&first) && shares[3..5] == [0, 0], "{shares:?}");
    }
}

#[tokio::test]
async fn weights_of_localities_count_where_nobody_reports() {
    let weights = format!(
        "wrr_locality.v3.WrrLocality, endpoint_picking_policy: {{ policies: [{{ typed_extension_config: {{ name: x, \
         typed_config: {{ '@type': {POLICIES}.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin }} }} }}] }}"
    );
    let proxy = start(cluster(&policy(&weights), plain), "").await;
    // Zones of the weights 1 and 3, with five hosts each.
    assert_likely(&shares(&proxy, 1000).await, |place| if place < 5 { 1.0 } else { 3.0 });
}

#[tokio::test]
async fn policies_that_envoy_does_not_have_give_way_to_the_next() {
    let entry = |name: &str| {
        format!("{{ typed_extension_config: {{ name: x, typed_config: {{ '@type': {POLICIES}.{name} }} }} }}")
    };
    let next = entry("round_robin.v3.RoundRobin");
    let unknown = entry(&format!(
        "random_subsetting.v3.RandomSubsetting, subset_size: 2, child_policy: {{ policies: [{next}] }}"
    ));
    let list = format!("  load_balancing_policy: {{ policies: [{unknown}, {next}] }}\n");
    let proxy = start(cluster(&list, plain), "").await;
    assert_eq!(shares(&proxy, 500).await, [50; 10]);
}

#[tokio::test]
async fn the_weights_of_a_host_that_does_not_report_are_those_of_all() {
    let name = "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin";
    let proxy = start(cluster(&policy(name), weighted), "").await;
    assert_exact(&shares(&proxy, 500).await, |_| 1.0);
}

#[tokio::test]
async fn a_request_gets_the_host_that_it_names() {
    let fallback = format!(
        "fallback_policy: {{ policies: [{{ typed_extension_config: {{ name: fallback, typed_config: {{ '@type': \
         {POLICIES}.round_robin.v3.RoundRobin }} }} }}] }}"
    );
    let name = format!("override_host.v3.OverrideHost, override_host_sources: [{{ header: x-to }}], {fallback}");
    let proxy = start(cluster(&policy(&name), plain), "").await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    for place in [13, 17, 13] {
        let request = format!("GET / HTTP/1.1\r\nhost: a\r\nx-to: 127.0.0.{place}:1\r\n\r\n");
        let response = client.request(request.as_bytes()).await.expect("the proxy answers");
        assert_eq!(response.header("x-host"), Some(&*format!("127.0.0.{place}:1")));
    }
    assert_eq!(shares(&proxy, 100).await, [10; 10]);
}
