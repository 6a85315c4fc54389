//! The store seen from outside.

use super::render::{Query, render};
use super::{Store, Unit};
use std::thread;

mod cost;

crate::stats! {
    pub(crate) struct TestStats {
        rq_total: Counter,
        cx_open: Gauge = "circuit_breakers.default.cx_open",
        rq_time: Histogram(Milliseconds) when used,
        rq_retry: Counter,
    }
}

fn text(store: &Store, query: Query) -> String {
    let mut out = String::new();
    render(store, &query, &mut out);
    out
}

fn all(store: &Store) -> String {
    text(store, Query::default())
}

fn used(store: &Store) -> String {
    text(store, Query { used_only: true, ..Query::default() })
}

#[test]
fn an_idle_block_is_rendered_as_zeros_without_hidden_metrics() {
    let store = Store::new();
    let _stats = TestStats::new(&store.scope("cluster.c"));
    assert_eq!(
        all(&store),
        "cluster.c.circuit_breakers.default.cx_open: 0\ncluster.c.rq_retry: 0\ncluster.c.rq_total: 0\n"
    );
    assert_eq!(used(&store), "");
}

#[test]
fn workers_and_other_threads_add_up() {
    let store = Store::new();
    let stats = TestStats::new(&store.scope("c"));
    thread::scope(|threads| {
        for worker in 0..4 {
            let (store, stats) = (&store, &stats);
            threads.spawn(move || {
                let _shard = (worker < 2).then(|| store.register_worker(worker));
                for _ in 0..1000 {
                    stats.rq_total().inc();
                    stats.cx_open().inc();
                    stats.cx_open().dec();
                    stats.rq_time().record(7);
                }
            });
        }
    });
    assert_eq!(stats.rq_total().value(), 4000);
    assert_eq!(stats.rq_time().merged().count(), 4000);
    assert!(used(&store).starts_with("c.circuit_breakers.default.cx_open: 0\nc.rq_total: 4000\nc.rq_time: P0(nan,7."));
}

#[test]
fn a_gauge_taken_down_by_another_thread_is_zero() {
    let store = Store::new();
    let stats = TestStats::new(&store.scope("c"));
    stats.cx_open().inc();
    thread::scope(|threads| {
        threads.spawn(|| {
            let _shard = store.register_worker(0);
            stats.cx_open().dec();
        });
    });
    assert_eq!(stats.cx_open().value(), 0);
}

#[test]
fn the_last_to_set_a_gauge_wins() {
    let store = Store::new();
    let stats = TestStats::new(&store.scope("c"));
    stats.cx_open().set(4_294_967_295);
    let _shard = store.register_worker(0);
    stats.cx_open().set(9);
    assert_eq!(stats.cx_open().value(), 9);
}

#[test]
fn a_gauge_holds_a_hash_of_64_bits() {
    let store = Store::new();
    let stats = TestStats::new(&store.scope("c"));
    stats.cx_open().set(17_241_709_254_077_376_921);
    assert_eq!(stats.cx_open().value(), 17_241_709_254_077_376_921);
}

#[test]
fn a_worker_started_again_goes_on_with_its_shard() {
    let store = Store::new();
    let stats = TestStats::new(&store.scope("c"));
    for _ in 0..3 {
        let _shard = store.register_worker(0);
        stats.rq_total().inc();
    }
    assert_eq!(stats.rq_total().value(), 3);
    assert_eq!(store.shards().count(), 2);
}

#[test]
fn two_stores_on_one_worker_do_not_mix() {
    let (one, other) = (Store::new(), Store::new());
    let _shard = one.register_worker(0);
    let stats = TestStats::new(&other.scope("c"));
    stats.rq_total().inc();
    assert_eq!(stats.rq_total().value(), 1);
    assert_eq!(all(&one), "");
}

#[test]
fn blocks_of_one_prefix_and_schema_are_one() {
    let store = Store::new();
    let first = TestStats::new(&store.scope("c"));
    let second = TestStats::new(&store.scope("c"));
    first.rq_total().inc();
    assert_eq!(second.rq_total().value(), 1);
    drop(first);
    assert_eq!(TestStats::new(&store.scope("c")).rq_total().value(), 1);
}

#[test]
fn a_dropped_block_leaves_and_its_slots_start_again_at_zero() {
    let store = Store::new();
    let shard = store.register_worker(0);
    let stats = TestStats::new(&store.scope("old"));
    stats.rq_total().add(5);
    stats.rq_time().record(1234);
    store.flush();
    drop(stats);
    assert_eq!(all(&store), "");
    let stats = TestStats::new(&store.scope("new"));
    stats.rq_retry().inc();
    stats.rq_time().record(1);
    drop(shard);
    assert!(used(&store).starts_with("new.rq_retry: 1\nnew.rq_time: P0(nan,1.05) "), "{}", used(&store));
}

#[test]
fn counters_are_reset_although_workers_own_their_words() {
    let store = Store::new();
    let stats = TestStats::new(&store.scope("c"));
    let _shard = store.register_worker(0);
    stats.rq_total().add(5);
    stats.cx_open().inc();
    store.reset_counters();
    assert_eq!((stats.rq_total().value(), stats.cx_open().value()), (0, 1));
    stats.rq_total().inc();
    assert_eq!(stats.rq_total().value(), 1);
}

#[test]
fn names_given_at_run_time_live_as_long_as_their_scope() {
    let store = Store::new();
    let scope = store.scope("cluster.a:b");
    scope.counter("upstream_rq_599").inc();
    scope.counter("upstream_rq_599").inc();
    scope.gauge("g").set(3);
    scope.histogram("h", Unit::Bytes).record(0);
    let version = scope.text_readout("version");
    version.set("v1");
    let lines = all(&store);
    assert!(lines.starts_with(
        "cluster.a_b.version: \"v1\"\ncluster.a_b.g: 3\ncluster.a_b.upstream_rq_599: 2\ncluster.a_b.h: P0(nan,0) P25(nan,0)"
    ));
    drop((scope, version));
    assert_eq!(all(&store), "");
}

#[test]
fn a_filter_sees_the_full_name() {
    let store = Store::new();
    let _stats = [TestStats::new(&store.scope("a")), TestStats::new(&store.scope("b"))];
    let filter = Some(regex::Regex::new(r"^b\.rq_t").expect("a literal"));
    assert_eq!(text(&store, Query { filter, ..Query::default() }), "b.rq_total: 0\n");
}

#[test]
fn names_are_sorted_across_blocks() {
    let store = Store::new();
    let scope = store.scope("a");
    let _stats = TestStats::new(&scope);
    let _deeper = [scope.counter("rq"), scope.counter("rq_s"), store.scope("a-").counter("z"), scope.counter("b.z")];
    let names: Vec<_> = all(&store).lines().map(|line| line.replace(": 0", "")).collect();
    let sorted = ["a-.z", "a.b.z", "a.circuit_breakers.default.cx_open", "a.rq", "a.rq_retry", "a.rq_s", "a.rq_total"];
    assert_eq!(names, sorted);
}

#[test]
fn slots_are_reused_only_when_nobody_writes_them() {
    let store = Store::new();
    thread::scope(|threads| {
        for worker in 0..3 {
            let store = &store;
            threads.spawn(move || {
                let _shard = store.register_worker(worker);
                for round in 0..500 {
                    let stats = TestStats::new(&store.scope(&format!("w{worker}.r{round}")));
                    stats.rq_total().inc();
                    stats.rq_time().record(round);
                    assert_eq!((stats.rq_total().value(), stats.rq_time().merged().count()), (1, 1));
                }
            });
        }
        for _ in 0..100 {
            all(&store);
        }
    });
    assert_eq!(all(&store), "");
}

#[test]
fn handles_go_to_any_thread() {
    fn any_thread<T: Send + Sync>() {}
    any_thread::<TestStats>();
    any_thread::<super::ResponseCodes>();
    any_thread::<super::Scope>();
}
