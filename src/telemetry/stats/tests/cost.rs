//! What a write costs. Run alone and optimised:
//! `cargo test --profile quick -p nuncio-telemetry cost_ -- --ignored --nocapture --test-threads 1`.

use super::TestStats;
use crate::stats::Store;
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
