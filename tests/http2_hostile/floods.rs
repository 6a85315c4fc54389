//! Frames that are cheap to send and dear to take: the proxy closes such connections and goes on serving others.

use super::{GOOD, Outcome, outcome, serves};
use crate::support::bootstrap::Pieces;
use crate::support::client::fetch;
use crate::support::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM, SETTINGS, encode, literal};
use crate::support::proxy::{Running, proxy};
use crate::support::split::Split;
use crate::support::upstream::{Answer, Then, http1};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Frames after which a flood that was not stopped counts as accepted.
const FLOOD: usize = 60_000;

fn request_block() -> Vec<u8> {
    GOOD.iter().flat_map(|(n, v)| literal(n.as_bytes(), v.as_bytes())).collect()
}

async fn silent_upstream() -> Running {
    let silent = Answer::bytes("").then(Then::Hang);
    let upstream = http1().route("/good", "ok").answer("/silent", silent);
    proxy(Pieces::default().yaml()).upstream(upstream).run().await
}

/// Sends `first`, then `frame` again and again; whether the proxy closed the connection before `FLOOD` of them.
async fn is_stopped(proxy: &Running, first: &[u8], frame: impl Fn(usize) -> Vec<u8>) -> bool {
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    frames.bytes(first).await.expect("the proxy reads");
    for at in 0..FLOOD / 100 {
        let batch: Vec<u8> = (0..100).flat_map(|n| frame(at * 100 + n)).collect();
        // An attacker does not read; the proxy must not wait for it to.
        match tokio::time::timeout(Duration::from_secs(2), frames.bytes(&batch)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return true,
            Err(_) => break,
        }
    }
    // Perhaps it was closed and the kernel took the rest.
    matches!(outcome(&mut frames, u32::MAX).await, Outcome::GoAway(_) | Outcome::Closed)
}

async fn check(name: &str, first: Vec<u8>, frame: impl Fn(usize) -> Vec<u8>) {
    let proxy = silent_upstream().await;
    assert!(is_stopped(&proxy, &first, frame).await, "a flood of {name} was not stopped");
    serves(proxy.addr()).await;
}

fn nth_stream(n: usize) -> u32 {
    u32::try_from(n).expect("a flood is short") * 2 + 1
}

#[tokio::test]
async fn rapid_reset_is_stopped() {
    let block = request_block();
    check("rapid resets", Vec::new(), |n| {
        let stream = nth_stream(n);
        let open = encode(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        [open, encode(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    })
    .await;
}

#[tokio::test]
async fn pings_are_stopped() {
    check("PING", Vec::new(), |_| encode(6, 0, 0, &[0; 8])).await;
}

#[tokio::test]
async fn settings_are_stopped() {
    check("SETTINGS", Vec::new(), |_| encode(SETTINGS, 0, 0, &[])).await;
}

#[tokio::test]
async fn empty_data_is_stopped() {
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/silent"), (":authority", "a")];
    let block: Vec<u8> = fields.iter().flat_map(|(n, v)| literal(n.as_bytes(), v.as_bytes())).collect();
    check("empty DATA", encode(HEADERS, END_HEADERS, 1, &block), |_| encode(DATA, 0, 1, &[])).await;
}

#[tokio::test]
async fn priorities_are_stopped() {
    check("PRIORITY", Vec::new(), |n| encode(2, 0, nth_stream(n), &[0, 0, 0, 0, 16])).await;
}

#[tokio::test]
async fn empty_continuations_are_stopped() {
    check("CONTINUATION", encode(HEADERS, END_STREAM, 1, &request_block()), |_| encode(9, 0, 1, &[])).await;
}

#[tokio::test]
async fn continuations_without_end_are_stopped() {
    let block = literal(b"x-filler", &[b'a'; 1000]);
    check("CONTINUATION", encode(HEADERS, END_STREAM, 1, &request_block()), move |_| encode(9, 0, 1, &block)).await;
}

#[tokio::test]
async fn single_bytes_of_window_are_stopped() {
    check("WINDOW_UPDATE", Vec::new(), |_| encode(8, 0, 0, &[0, 0, 0, 1])).await;
}

#[tokio::test]
async fn frames_of_unknown_types_are_stopped() {
    check("unknown frames", Vec::new(), |_| encode(0xbe, 0, 0, &[0; 4])).await;
}

/// CVE-2025-8671: the client makes the proxy reset its streams.
#[tokio::test]
async fn resets_that_the_proxy_is_made_to_send_are_stopped() {
    let block = request_block();
    check("streams in error", Vec::new(), |n| {
        let stream = nth_stream(n);
        let open = encode(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        [open, encode(8, 0, stream, &[0; 4])].concat()
    })
    .await;
}

/// One field of 4 KB in the dynamic table, referred to 11,000 times: 43 MB once decoded.
#[tokio::test]
async fn an_hpack_bomb_is_refused() {
    let proxy = silent_upstream().await;
    // Cookies are joined, and a second host is dropped: neither may take them out of the count (CVE-2026-47774, -73550).
    for name in ["x", "cookie", "host"] {
        let before = proxy.rss();
        let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
        let mut block = request_block();
        block.extend_from_slice(&[0x40, name.len() as u8]);
        block.extend_from_slice(name.as_bytes());
        // A value of 3,900 bytes (RFC 7541 §6.2.1, length 127 + 3773), kept in the table.
        block.extend_from_slice(&[0x7f, 0xbd, 0x1d]);
        block.extend_from_slice(&[b'a'; 3900]);
        block.extend_from_slice(&[0x80 | 62; 11_000]);
        frames.frame(HEADERS, END_HEADERS | END_STREAM, 1, &block).await.expect("the proxy reads");
        let outcome = outcome(&mut frames, 1).await;
        assert!(!matches!(outcome, Outcome::Silence), "{name}: {outcome:?}");
        assert!(proxy.upstream(0).take_received().is_empty(), "{name}");
        let grown = proxy.rss().saturating_sub(before);
        assert!(grown < 8 * 1024 * 1024, "{name}: {} KB", grown / 1024);
    }
    serves(proxy.addr()).await;
}

/// While some clients flood, others are served, and soon.
#[tokio::test]
async fn victims_of_floods_are_served() {
    let block = request_block();
    let reset = move |n: usize| {
        let stream = nth_stream(n);
        let open = encode(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        [open, encode(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    let ping = |_: usize| encode(6, 0, 0, &[0; 8]);
    victims_are_served("rapid resets", reset).await;
    victims_are_served("PING", ping).await;
}

async fn victims_are_served(name: &str, frame: impl Fn(usize) -> Vec<u8>) {
    let flood: Vec<u8> = (0..5_000).flat_map(&frame).collect();
    let proxy = silent_upstream().await;
    let (addr, before) = (proxy.addr(), proxy.rss());
    let end = Instant::now() + Duration::from_secs(3);
    // On threads of their own: what is measured is not to be a wait for this test's own work.
    let attackers = [(); 4].map(|()| {
        let flood = flood.clone();
        std::thread::spawn(move || while Instant::now() < end && attack(addr, &flood).is_ok() {})
    });
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let start = Instant::now();
        let response = fetch(addr, "GET /good HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert_eq!(response.expect("the proxy answers").status(), 200, "{name}");
        slowest = slowest.max(start.elapsed());
    }
    attackers.into_iter().for_each(|attacker| attacker.join().expect("an attacker does not panic"));
    // Envoy's slowest percent takes 0.7 s; the machine that runs this may be busy with more.
    assert!(slowest < Duration::from_secs(4), "{name}: a victim waited for {slowest:?}");
    let grown = proxy.rss().saturating_sub(before);
    assert!(grown < 128 * 1024 * 1024, "{name}: {} KB", grown / 1024);
}

#[tokio::test]
async fn streams_over_the_limit_are_refused() {
    let silent = Answer::bytes("").then(Then::Hang);
    let hcm = "http2_protocol_options: { max_concurrent_streams: 10 }\n".to_owned();
    let pieces = Pieces { hcm, ..Pieces::default() };
    let proxy = proxy(pieces.yaml()).upstream(http1().answer("/silent", silent).route("/", "ok")).run().await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/silent"), (":authority", "a")];
    for n in 0..11 {
        frames.headers(nth_stream(n), END_STREAM, &fields).await.expect("the proxy reads");
    }
    assert_eq!(outcome(&mut frames, nth_stream(10)).await, Outcome::Reset(7), "REFUSED_STREAM");
}

/// Floods over one connection until the proxy has enough of it.
fn attack(to: SocketAddr, flood: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &encode(SETTINGS, 0, 0, &[])[..]].concat();
    if stream.write_all(&preface).and_then(|()| stream.write_all(flood)).is_ok() {
        let mut space = [0; 4096];
        while stream.read(&mut space).is_ok_and(|n| n > 0) {}
    }
    Ok(())
}

/// Clients of gRPC look for their bandwidth with a PING for each piece that they get.
#[tokio::test]
async fn a_client_may_ping_for_each_piece_that_it_gets() {
    const BYTES: usize = 32 << 20;
    let host = http1().answer("/large", Answer::ok(&"x".repeat(BYTES)));
    let running = proxy(Pieces::default().yaml()).upstream(host).run().await;
    let mut frames = Frames::connect(running.addr(), Split::Whole).await.expect("the proxy accepts");
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/large"), (":authority", "a")];
    frames.headers(1, END_STREAM, &fields).await.expect("the proxy reads");
    let (mut read, mut pieces) = (0, 0);
    while read < BYTES {
        let data = frames.until(DATA, Some(1)).await.expect("the proxy speaks").expect("the connection goes on");
        read += data.payload.len();
        pieces += 1;
        let room = u32::try_from(data.payload.len()).expect("a frame has a length").to_be_bytes();
        let more = [encode(8, 0, 0, &room), encode(8, 0, 1, &room), encode(6, 0, 0, &[0; 8])].concat();
        frames.bytes(&more).await.expect("the proxy reads");
    }
    assert!(pieces > 1500, "{pieces}");
}
