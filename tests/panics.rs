//! Panics injected under load: each costs its own stream or connection, is counted and logged with its place, and the
//! process serves on.

mod faulty;

use crate::support::DEADLINE;
use crate::support::bootstrap::Pieces;
use crate::support::client::{Client, get};
use crate::support::h2_client::{H2Client, Outcome};
use crate::support::proxy::{Running, proxy};
use crate::support::split::Split;
use crate::support::upstream::http1;
use http::Request;
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

/// Where the test's filter panics when `x-panic` says so.
const PLACES: [&str; 6] = ["request", "response", "complete", "timer", "task", "body"];

/// Rounds of panics in every place, over either protocol.
const ROUNDS: usize = 10;

async fn start(dir: &Path) -> Running {
    let pieces = Pieces {
        filters: "- name: panics\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n"
            .into(),
        ..Pieces::default()
    };
    proxy(pieces.yaml()).program(&faulty::program(dir)).concurrency(2).upstream(http1().route("/", "fine")).run().await
}

/// Good requests over one connection until told to stop; how many.
async fn load(to: SocketAddr, stop: Rc<Cell<bool>>) -> u64 {
    let mut client = Client::connect(to, Split::Whole).await.expect("the proxy accepts");
    let mut served = 0;
    while !stop.get() {
        let response = client.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("no panic is this one's");
        assert_eq!(response.text(), "fine");
        served += 1;
    }
    served
}

async fn http1_panics(to: SocketAddr, place: &str) {
    let mut client = Client::connect(to, Split::Whole).await.expect("the proxy accepts");
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\nx-panic: {place}\r\n\r\n");
    let answer = client.request(request.as_bytes()).await;
    // After the response nothing of it can be lost.
    let survives = matches!(place, "complete" | "task");
    match answer {
        Ok(answer) if survives => assert_eq!(answer.text(), "fine", "{place}"),
        Ok(answer) => assert!(answer.truncated, "{place}: {answer:?}"),
        Err(error) => assert!(!survives, "{place}: {error}"),
    }
}

/// The stream that panics is reset; one of the same connection, before and behind it, is answered.
async fn http2_panics(client: &mut H2Client, place: &str) {
    let good = || Request::get("http://a/").body(()).expect("a request");
    let bad = Request::get("http://a/").header("x-panic", place).body(()).expect("a request");
    let outcome = tokio::time::timeout(DEADLINE, client.request(bad, &[], None)).await.expect("the stream ends");
    let survives = matches!(place, "complete" | "task");
    match outcome {
        Outcome::Response(message) => assert!(survives || message.truncated, "{place}: {message:?}"),
        Outcome::Reset(_) => assert!(!survives, "{place}"),
    }
    let Outcome::Response(message) = client.request(good(), &[], None).await else { panic!("{place} ended more") };
    assert_eq!(message.text(), "fine", "{place}");
}

#[tokio::test]
async fn panics_under_load_cost_their_own_streams_alone() {
    let dir = std::env::temp_dir().join(format!("nuncio-panics-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder can be made");
    let proxy = start(&dir).await;
    std::fs::remove_dir_all(&dir).expect("the folder is ours");
    let to = proxy.addr();
    let stop = Rc::new(Cell::new(false));
    let tasks = tokio::task::LocalSet::new();
    let served = tasks
        .run_until(async {
            let loads: Vec<_> = (0..8).map(|_| tokio::task::spawn_local(load(to, stop.clone()))).collect();
            let mut client = H2Client::connect(to, Split::Whole).await.expect("the proxy accepts");
            for place in PLACES.repeat(ROUNDS) {
                http1_panics(to, place).await;
                http2_panics(&mut client, place).await;
            }
            stop.set(true);
            let mut served = 0;
            for load in loads {
                served += load.await.expect("every good request was answered");
            }
            served
        })
        .await;
    assert!(served > 100, "only {served} good requests meanwhile");
    assert_eq!(get(to, "/").await.expect("the proxy answers").status(), 200);
    assert_eq!(proxy.stat("server.panics").await, (2 * PLACES.len() * ROUNDS) as u64);
    assert_eq!(proxy.stat("server.worker_restarts").await, 0);
    let log = proxy.log();
    for place in PLACES {
        let line = log.lines().find(|l| l.contains(&format!("injected: {place}")));
        let line = line.unwrap_or_else(|| panic!("nothing of {place} in the log:\n{log}"));
        assert!(line.contains("tests/panics/faulty.rs:"), "{line}");
    }
}
