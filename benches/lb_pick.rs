//! Time to choose a host, by policy and number of hosts; and what a change of one host costs: first the thread that
//! makes it, then each worker with its next choice.
//!
//! `cargo bench -p nuncio-upstream --bench lb_pick`

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use nuncio_config::cluster::ClusterConfig;
use nuncio_config::metadata::MetadataMatch;
use nuncio_filter_api::{LowerCx, Rng};
use nuncio_proto::envoy::config::cluster::v3 as proto;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::endpoint::v3 as endpoint;
use nuncio_proto::google::protobuf::{Struct, UInt32Value, Value, value::Kind};
use nuncio_telemetry::stats::Store;
use nuncio_upstream::{Clusters, Host, WorkerClusters};
use proto::cluster::lb_subset_config::LbSubsetSelector;
use proto::cluster::{LbPolicy, LbSubsetConfig};

const ROUNDS: u32 = 100_000;
const CHANGES: usize = 15;
const POLICIES: [(&str, LbPolicy); 5] = [
    ("round_robin", LbPolicy::RoundRobin),
    ("least_request", LbPolicy::LeastRequest),
    ("random", LbPolicy::Random),
    ("ring_hash", LbPolicy::RingHash),
    ("maglev", LbPolicy::Maglev),
];
/// Fallback to any host.
const ANY: i32 = 1;

fn main() {
    for count in [10, 1_000, 100_000] {
        for (name, policy) in POLICIES {
            bench(name, cluster(policy, count, |_| 1), None);
            // Random knows no weights.
            if policy != LbPolicy::Random {
                bench(&format!("{name}_weighted"), cluster(policy, count, |i| i as u32 % 100 + 1), None);
            }
        }
        let subset_selectors = vec![LbSubsetSelector { keys: vec!["stage".into()], ..Default::default() }];
        let config = LbSubsetConfig { fallback_policy: ANY, subset_selectors, ..Default::default() };
        let of_subsets =
            proto::Cluster { lb_subset_config: Some(config), ..cluster(LbPolicy::RoundRobin, count, |_| 1) };
        bench("subset", of_subsets, MetadataMatch::lower(stage(3)));
    }
}

/// Prints what a choice costs, and what a change.
fn bench(name: &str, cluster: proto::Cluster, asked: Option<MetadataMatch>) {
    let env = nuncio_filter_api::testing::env();
    let mut cx = LowerCx::new(&env);
    let config = ClusterConfig::lower(cluster, &mut cx).unwrap_or_else(|_| panic!("{:?}", cx.finish()));
    let (id, spare) = (config.name.id, config.endpoints[config.endpoints.len() / 2].clone());
    let clusters = Clusters::new(&Store::new(), None);
    clusters.update([config]);
    let worker = WorkerClusters::new(clusters.clone(), Rng::seeded(1));
    let choose = |hash| worker.choose(id, Some(hash), asked.as_ref()).expect("there are hosts");
    let mut best = f64::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        for i in 0..ROUNDS {
            black_box(choose(u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
    }
    let cluster = clusters.snapshot().get(id).expect("it was added").clone();
    let count = cluster.hosts().hosts.len();
    let (mut change, mut rebuild) = (Vec::new(), Vec::new());
    for _ in 0..CHANGES {
        let mut hosts = cluster.hosts().hosts.to_vec();
        let address = hosts[count / 2].address();
        hosts[count / 2] = Arc::new(Host::new(&spare, address));
        let start = Instant::now();
        cluster.set_hosts(hosts);
        change.push(start.elapsed());
        let start = Instant::now();
        black_box(choose(1));
        rebuild.push(start.elapsed());
    }
    change.sort_unstable();
    rebuild.sort_unstable();
    let name = format!("lb_pick_{name}/{count}");
    let micros = |times: &[std::time::Duration]| times[times.len() / 2].as_secs_f64() * 1e6;
    println!("{name:<38} {best:>8.1} ns  change {:>10.1} us  worker {:>8.1} us", micros(&change), micros(&rebuild));
}

fn cluster(policy: LbPolicy, count: usize, weight: impl Fn(usize) -> u32) -> proto::Cluster {
    let lb_endpoints = (0..count).map(|i| lb_endpoint(i, weight(i))).collect();
    let assignment = endpoint::ClusterLoadAssignment {
        cluster_name: "c".into(),
        endpoints: vec![endpoint::LocalityLbEndpoints { lb_endpoints, ..Default::default() }],
        ..Default::default()
    };
    proto::Cluster {
        name: "c".into(),
        lb_policy: policy.into(),
        load_assignment: Some(assignment),
        ..Default::default()
    }
}

fn lb_endpoint(i: usize, weight: u32) -> endpoint::LbEndpoint {
    let [_, a, b, c] = (i as u32).to_be_bytes();
    let address = core::SocketAddress {
        address: format!("10.{a}.{b}.{c}"),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(80)),
        ..Default::default()
    };
    let address = core::Address { address: Some(core::address::Address::SocketAddress(address)) };
    let endpoint = endpoint::Endpoint { address: Some(address), ..Default::default() };
    endpoint::LbEndpoint {
        load_balancing_weight: Some(UInt32Value { value: weight }),
        metadata: Some(stage(i % 10)),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    }
}

/// `envoy.lb: {stage: s<n>}`
fn stage(n: usize) -> core::Metadata {
    let stage = Value { kind: Some(Kind::StringValue(format!("s{n}"))) };
    let fields = Struct { fields: [("stage".to_owned(), stage)].into() };
    core::Metadata { filter_metadata: [("envoy.lb".to_owned(), fields)].into(), ..Default::default() }
}
