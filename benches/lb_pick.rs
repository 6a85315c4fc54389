//! Time to choose a host, by policy and number of hosts; and for how long a change of one host has a thread run: first
//! the one that makes it, then each worker with its next choice.
//!
//! `cargo bench -p nuncio-upstream --bench lb_pick [-- NAME [CHANGES]]`: those whose names contain this, with so many
//! changes each. The allocator is that of the process, and so is the runtime around a change, which has threads for what
//! need not be done at once.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

#[path = "../src/allocator.rs"]
mod allocator;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

const ROUNDS: u32 = 100_000;
const CHANGES: usize = 31;
const POLICIES: [(&str, LbPolicy); 5] = [
    ("round_robin", LbPolicy::RoundRobin),
    ("least_request", LbPolicy::LeastRequest),
    ("random", LbPolicy::Random),
    ("ring_hash", LbPolicy::RingHash),
    ("maglev", LbPolicy::Maglev),
];
/// Fallback to any host.
const ANY: i32 = 1;

/// What was asked for on the command line.
struct Asked {
    name: String,
    changes: usize,
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let name = arguments.next().unwrap_or_default();
    let changes = arguments.next().and_then(|changes| changes.parse().ok()).unwrap_or(CHANGES);
    let asked = Asked { name, changes };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("the process may have a runtime");
    let _within = runtime.enter();
    for count in [10, 1_000, 100_000] {
        for (name, policy) in POLICIES {
            bench(&asked, name, cluster(policy, count, |_| 1), None);
            // Random knows no weights.
            if policy != LbPolicy::Random {
                let name = format!("{name}_weighted");
                bench(&asked, &name, cluster(policy, count, |i| i as u32 % 100 + 1), None);
            }
        }
        let subset_selectors = vec![LbSubsetSelector { keys: vec!["stage".into()], ..Default::default() }];
        let config = LbSubsetConfig { fallback_policy: ANY, subset_selectors, ..Default::default() };
        let of_subsets =
            proto::Cluster { lb_subset_config: Some(config), ..cluster(LbPolicy::RoundRobin, count, |_| 1) };
        bench(&asked, "subset", of_subsets, MetadataMatch::lower(stage(3)));
    }
}

/// Prints what a choice costs, and what a change.
fn bench(asked: &Asked, name: &str, cluster: proto::Cluster, metadata: Option<MetadataMatch>) {
    let count = cluster.load_assignment.as_ref().map_or(0, |all| all.endpoints[0].lb_endpoints.len());
    let name = format!("lb_pick_{name}/{count}");
    if !name.contains(&asked.name) {
        return;
    }
    let env = nuncio_filter_api::testing::env();
    let mut cx = LowerCx::new(&env);
    let config = ClusterConfig::lower(cluster, &mut cx).unwrap_or_else(|_| panic!("{:?}", cx.finish()));
    let (id, spare) = (config.name.id, config.endpoints[config.endpoints.len() / 2].clone());
    let clusters = Clusters::new(&Store::new(), None);
    clusters.update([config]);
    let worker = WorkerClusters::new(clusters.clone(), Rng::seeded(1));
    let choose = |hash| worker.choose(id, Some(hash), metadata.as_ref()).expect("there are hosts");
    let mut best = f64::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        for i in 0..ROUNDS {
            black_box(choose(u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
    }
    let cluster = clusters.snapshot().get(id).expect("it was added").clone();
    let (mut change, mut rebuild) = (Vec::new(), Vec::new());
    for _ in 0..asked.changes {
        let mut hosts = cluster.hosts().hosts.to_vec();
        let address = hosts[count / 2].address();
        hosts[count / 2] = Arc::new(Host::new(&spare, address));
        // What the change before has left to others is done.
        std::thread::sleep(Duration::from_millis(5));
        let start = thread_time();
        cluster.set_hosts(hosts);
        change.push(thread_time() - start);
        let start = thread_time();
        black_box(choose(1));
        rebuild.push(thread_time() - start);
    }
    change.sort_unstable();
    rebuild.sort_unstable();
    let micros = |times: &[Duration]| times[times.len() / 2].as_secs_f64() * 1e6;
    println!("{name:<38} {best:>8.1} ns  change {:>10.1} us  worker {:>8.1} us", micros(&change), micros(&rebuild));
}

/// How long this thread has run: what it costs, whatever else the machine does.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes into `time`, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
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
