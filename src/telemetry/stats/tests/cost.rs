//! What a write costs. Run alone and optimised:
//! `cargo test --profile quick -p nuncio-telemetry cost_ -- --ignored --nocapture --test-threads 1`.

use super::TestStats;
use crate::stats::catalogue::ClusterStats;
use crate::stats::render::{Query, render};
use crate::stats::{ResponseCodes, Store};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: u64 = 50_000_000;

/// Prints the nanoseconds of one call.
fn time(what: &str, mut call: impl FnMut(u64)) {
    for _ in 0..2 {
        let start = Instant::now();
        (0..ROUNDS).for_each(|round| call(black_box(round)));
        let nanoseconds = start.elapsed().as_secs_f64() * 1e9 / ROUNDS as f64;
        eprintln!("{what:<40} {nanoseconds:.2} ns");
    }
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_write() {
    let store = Store::new();
    let all: Vec<_> = (0..64).map(|i| TestStats::new(&store.scope(&format!("c{i}")))).collect();
    let stats = &all[0];
    time("counter, any thread", |_| black_box(stats).rq_total().inc());
    let _shard = store.register_worker(0);
    time("nothing", |_| {});
    time("counter, worker", |_| black_box(stats).rq_total().inc());
    time("counter of 64 blocks, worker", |round| black_box(&all)[round as usize % 64].rq_total().inc());
    time("gauge inc + dec, worker", |_| {
        black_box(stats).cx_open().inc();
        black_box(stats).cx_open().dec();
    });
    time("histogram below 100, worker", |round| black_box(stats).rq_time().record(round % 64));
    time("histogram of large values, worker", |round| black_box(stats).rq_time().record(round));
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_scrape() {
    let store = Store::new();
    let before = resident();
    let clusters: Vec<_> = (0..10_000).map(|i| ClusterStats::new(&store.scope(&format!("cluster.c{i:05}")))).collect();
    eprintln!("an idle cluster: {} bytes", (resident() - before) / 10_000);
    let _shard = store.register_worker(0);
    let before = resident();
    let codes: Vec<_> = (0..10_000).map(|i| ResponseCodes::new(&store.scope(&format!("cluster.c{i:05}")))).collect();
    codes.iter().for_each(|codes| codes.charge(200));
    for stats in &clusters {
        stats.upstream_rq_total().inc();
        stats.upstream_rq_time().record(3);
    }
    eprintln!("an active cluster, for each worker: {} bytes", (resident() - before) / 10_000);
    for format in ["text", "json", "prometheus"] {
        let query = Query::parse([("format", format)]).expect("known");
        let mut out = String::new();
        let start = Instant::now();
        render(&store, &query, &mut out);
        eprintln!("{format} of 10,000 clusters: {:?}, {} bytes", start.elapsed(), out.len());
    }
    let query = Query::parse([("format", "prometheus"), ("usedonly", "")]).expect("known");
    let mut out = String::new();
    let start = Instant::now();
    render(&store, &query, &mut out);
    eprintln!("prometheus of 10,000 active clusters, usedonly: {:?}, {} bytes", start.elapsed(), out.len());
    let start = Instant::now();
    store.flush();
    eprintln!("flush of 10,000 histograms: {:?}", start.elapsed());
}

/// Bytes of memory that the process has now.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    4096 * statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages are the second number")
}
