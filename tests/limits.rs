//! What one client can make the proxy hold, and what happens where the machine has no more to give.

use crate::support::bootstrap::Pieces;
use crate::support::client::{Client, get};
use crate::support::frames::{DATA, END_STREAM, Frames, HEADERS, SETTINGS, encode};
use crate::support::proxy::{Running, proxy};
use crate::support::split::Split;
use crate::support::upstream::{Answer, http1};
use std::time::Duration;

const MEBIBYTE: u64 = 1 << 20;

/// A proxy whose upstream answers `/big` with 10 MB.
async fn big_answers() -> Running {
    let big = Answer::ok(&"x".repeat(10_000_000));
    proxy(Pieces::default().yaml()).upstream(http1().answer("/big", big).route("/", "ok")).run().await
}

/// RSS once it has stopped growing.
async fn settled_rss(proxy: &Running) -> u64 {
    let mut last = 0;
    loop {
        let now = proxy.rss();
        if now <= last + MEBIBYTE / 4 {
            return now;
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// A client that does not read holds up its upstream, not the memory of the proxy.
#[tokio::test]
async fn answers_that_nobody_reads_are_not_hoarded() {
    let proxy = big_answers().await;
    let before = settled_rss(&proxy).await;
    let mut open = Vec::new();
    for _ in 0..30 {
        let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
        client.send(b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy reads");
        open.push(client);
    }
    let grown = settled_rss(&proxy).await.saturating_sub(before);
    // per_connection_buffer_limit_bytes is 1 MiB, on both sides.
    assert!(grown < 30 * 3 * MEBIBYTE, "{} KB for each connection", grown / 30 / 1024);
    assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").status(), 200);
}

/// The same over HTTP/2: no window, no bytes. (Envoy reads as much from the upstream as its own stream window, 16 MiB.)
#[tokio::test]
async fn streams_without_a_window_are_not_hoarded() {
    let proxy = big_answers().await;
    let before = settled_rss(&proxy).await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    frames.frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await.expect("the proxy reads");
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/big"), (":authority", "a")];
    for stream in 0..50 {
        frames.headers(stream * 2 + 1, END_STREAM, &fields).await.expect("the proxy reads");
    }
    let grown = settled_rss(&proxy).await.saturating_sub(before);
    assert!(grown < 50 * 3 * MEBIBYTE, "{} KB for each stream", grown / 50 / 1024);
    assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").status(), 200);
}

#[tokio::test]
async fn half_a_head_costs_what_it_is_long() {
    let proxy = big_answers().await;
    let before = settled_rss(&proxy).await;
    let half = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(50_000));
    let mut open = Vec::new();
    for _ in 0..200 {
        let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
        client.send(half.as_bytes()).await.expect("the proxy reads");
        open.push(client);
    }
    let grown = settled_rss(&proxy).await.saturating_sub(before);
    assert!(grown / 200 < 256 * 1024, "{} KB for each connection", grown / 200 / 1024);
}

#[tokio::test]
async fn a_body_in_single_bytes_costs_no_more_than_its_bytes() {
    let proxy = big_answers().await;
    let before = settled_rss(&proxy).await;
    let chunks = "1\r\nx\r\n".repeat(200_000);
    let request = format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    assert_eq!(client.request(request.as_bytes()).await.expect("the proxy answers").status(), 200);
    let grown = proxy.rss().saturating_sub(before);
    assert!(grown < 8 * MEBIBYTE, "{} KB", grown / 1024);
    assert_eq!(proxy.upstream(0).take_requests()[0].body.len(), 200_000);
}

/// What is kept for another attempt is put together, in however many pieces it came.
#[tokio::test]
async fn single_bytes_that_are_kept_for_a_retry_cost_little_more_than_they_are() {
    const BYTES: usize = 200_000;
    let routes = "- match: { prefix: / }\n  route: { cluster: up, retry_policy: { retry_on: 5xx } }\n".to_owned();
    let proxy = proxy(Pieces { routes, ..Pieces::default() }.yaml()).upstream(http1()).run().await;
    let before = settled_rss(&proxy).await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    frames.headers(1, 0, &fields).await.expect("the proxy reads");
    frames.bytes(&encode(DATA, 0, 1, b"x").repeat(BYTES)).await.expect("the proxy reads");
    let grown = settled_rss(&proxy).await.saturating_sub(before);
    assert!(grown < 16 * MEBIBYTE, "{} KB", grown / 1024);
    frames.frame(DATA, END_STREAM, 1, b"").await.expect("the proxy reads");
    frames.until(HEADERS, Some(1)).await.expect("the proxy speaks").expect("the proxy answers");
    assert_eq!(proxy.upstream(0).take_requests()[0].body.len(), BYTES);
}

/// Envoy spins at 100 % here. A client that waits is served once there is a file descriptor for it.
#[tokio::test]
async fn running_out_of_file_descriptors_neither_spins_nor_stops_the_proxy() {
    let proxy = proxy(Pieces::default().yaml()).file_limit(80).upstream(http1()).run().await;
    let mut open = Vec::new();
    for _ in 0..150 {
        open.push(Client::connect(proxy.addr(), Split::Whole).await.expect("the kernel accepts"));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = proxy.cpu_time();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = proxy.cpu_time() - before;
    assert!(spent < Duration::from_millis(300), "{spent:?} of CPU in a second with nothing to do");
    drop(open);
    assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").status(), 200);
}

#[tokio::test]
async fn pipelined_requests_are_not_read_ahead_of_their_answers() {
    let proxy = big_answers().await;
    let before = settled_rss(&proxy).await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    let pipelined = "GET /big HTTP/1.1\r\nhost: a\r\n\r\n".repeat(200);
    client.send(pipelined.as_bytes()).await.expect("the kernel takes it");
    let grown = settled_rss(&proxy).await.saturating_sub(before);
    assert!(grown < 8 * MEBIBYTE, "{} KB", grown / 1024);
    assert!(proxy.upstream(0).take_received().len() < 5);
}
