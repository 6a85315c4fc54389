//! What happens when nothing happens.

use crate::support::bootstrap::Pieces;
use crate::support::client::{Client, End};
use crate::support::frames::{END_STREAM, Frames, GOAWAY, RST_STREAM, SETTINGS};
use crate::support::proxy::{Running, proxy};
use crate::support::split::Split;
use crate::support::upstream::{Answer, Then, http1};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(5);

async fn with_hcm(hcm: &str) -> Running {
    let pieces = Pieces { hcm: hcm.to_owned(), ..Pieces::default() };
    let silent = Answer::bytes("").then(Then::Hang);
    proxy(pieces.yaml()).upstream(http1().answer("/silent", silent)).run().await
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    // Envoy: an idle connection is drained first, for the whole of drain_timeout, over HTTP/1 too.
    let proxy = with_hcm("common_http_protocol_options: { idle_timeout: 0.2s }\ndrain_timeout: 0.1s\n").await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    client.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
    assert_eq!(client.end(LONG).await.expect("no bytes"), End::Closed);
    assert_eq!(proxy.stat("http.in.downstream_cx_idle_timeout").await, 1);
}

#[tokio::test]
async fn an_idle_http2_connection_is_told_goodbye() {
    let proxy = with_hcm("common_http_protocol_options: { idle_timeout: 0.2s }\ndrain_timeout: 0.1s\n").await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    frames.headers(1, END_STREAM, &fields).await.expect("the proxy reads");
    let goaway = frames.until(GOAWAY, None).await.expect("the proxy speaks").expect("a GOAWAY");
    assert_eq!(goaway.error_code(), 0);
    while frames.next().await.expect("frames or the end").is_some() {}
    assert_eq!(proxy.stat("http.in.downstream_cx_idle_timeout").await, 1);
}

#[tokio::test]
async fn a_connection_ends_at_its_longest_duration() {
    let hcm = "common_http_protocol_options: { max_connection_duration: 0.2s }\ndrain_timeout: 0.1s\n";
    let proxy = with_hcm(hcm).await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    client.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
    assert_eq!(client.end(LONG).await.expect("no bytes"), End::Closed);
    assert_eq!(proxy.stat("http.in.downstream_cx_max_duration_reached").await, 1);
}

/// Connections live for a fifth of a second and a random part of it.
#[tokio::test]
async fn the_longest_duration_varies_by_its_jitter() {
    let common = "{ max_connection_duration: 0.2s, max_connection_duration_jitter: { value: 100 } }";
    let proxy = with_hcm(&format!("common_http_protocol_options: {common}\ndrain_timeout: 0s\n")).await;
    let mut lives = Vec::new();
    for _ in 0..8 {
        let start = std::time::Instant::now();
        let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
        assert_eq!(client.end(LONG).await.expect("no bytes"), End::Closed);
        lives.push(start.elapsed());
    }
    let (least, most) = (lives.iter().min().expect("eight lives"), lives.iter().max().expect("eight lives"));
    assert!(*least >= Duration::from_millis(200) && *most - *least > Duration::from_millis(20), "{lives:?}");
}

/// An idle connection drains for a fifth of a second and a random part of it.
#[tokio::test]
async fn the_drain_time_varies_by_its_jitter() {
    let common = "common_http_protocol_options: { idle_timeout: 0.05s }\n";
    let proxy = with_hcm(&format!("{common}drain_timeout: 0.2s\ndrain_timeout_jitter: {{ value: 100 }}\n")).await;
    let mut drains = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
        client.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
        let start = std::time::Instant::now();
        assert_eq!(client.end(LONG).await.expect("no bytes"), End::Closed);
        drains.push(start.elapsed());
    }
    let (least, most) = (drains.iter().min().expect("eight times"), drains.iter().max().expect("eight times"));
    assert!(*least >= Duration::from_millis(200) && *most - *least > Duration::from_millis(20), "{drains:?}");
}

/// Before the first byte there is nothing to drain; the connection is counted all the same.
#[tokio::test]
async fn a_silent_connection_ends_at_its_longest_duration() {
    let proxy = with_hcm("common_http_protocol_options: { max_connection_duration: 0.2s }\ndrain_timeout: 60s\n").await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    assert_eq!(client.end(LONG).await.expect("no bytes"), End::Closed);
    for name in ["downstream_cx_max_duration_reached", "downstream_cx_total", "downstream_cx_destroy_local"] {
        assert_eq!(proxy.stat(&format!("http.in.{name}")).await, 1, "{name}");
    }
    assert_eq!(proxy.stat("http.in.downstream_cx_http1_total").await, 0);
    assert_eq!(proxy.stat("http.in.downstream_cx_active").await, 0);
}

/// A client that sends just as the time-out strikes loses nothing: it is answered, and told that this was the last.
#[tokio::test]
async fn an_idle_connection_answers_while_it_drains() {
    for hcm in ["{ idle_timeout: 0.2s }", "{ max_connection_duration: 0.2s }"] {
        let proxy = with_hcm(&format!("common_http_protocol_options: {hcm}\ndrain_timeout: 60s\n")).await;
        let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        assert_eq!(client.request(request).await.expect("the proxy answers").header("connection"), None, "{hcm}");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let last = client.request(request).await.expect("the proxy answers");
        assert_eq!((last.status(), last.header("connection")), (200, Some("close")), "{hcm}");
        assert_eq!(client.end(LONG).await.expect("no bytes"), End::Closed);
        let counted = proxy.stat("http.in.downstream_cx_max_duration_reached").await
            + proxy.stat("http.in.downstream_cx_idle_timeout").await;
        assert_eq!(counted, 1, "{hcm}");
    }
}

#[tokio::test]
async fn a_stream_ends_at_its_longest_duration() {
    let proxy = with_hcm("common_http_protocol_options: { max_stream_duration: 0.2s }\n").await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    let response = client.request(b"GET /silent HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
    assert_eq!(response.status(), 504);
    assert_eq!(proxy.stat("http.in.downstream_rq_max_duration_reached").await, 1);
}

#[tokio::test]
async fn an_idle_stream_is_ended() {
    let proxy = with_hcm("stream_idle_timeout: 0.2s\n").await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    let response = client.request(b"GET /silent HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
    assert_eq!(response.status(), 504);
    assert_eq!(proxy.stat("http.in.downstream_rq_idle_timeout").await, 1);
}

/// A slow head: a byte now and then does not put off the end of the time for all of it.
#[tokio::test]
async fn a_head_that_drips_is_refused() {
    let proxy = with_hcm("request_headers_timeout: 0.3s\n").await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx: ").await.expect("the proxy reads");
    for _ in 0..40 {
        if client.send(b"y").await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(proxy.stat("http.in.downstream_rq_header_timeout").await, 1);
}

#[tokio::test]
async fn an_unanswered_ping_ends_the_connection() {
    let hcm = "http2_protocol_options: { connection_keepalive: { interval: 0.1s, timeout: 0.2s } }\n";
    let proxy = with_hcm(hcm).await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/silent"), (":authority", "a")];
    frames.headers(1, END_STREAM, &fields).await.expect("the proxy reads");
    // PINGs are read and never answered.
    let end = async { while let Ok(Some(_)) = frames.next().await {} };
    tokio::time::timeout(LONG, end).await.expect("the proxy closes");
    proxy.wait_for_stat("http2.keepalive_timeout", 1).await;
}

#[tokio::test]
async fn a_timeout_of_nothing_is_none() {
    let hcm = "stream_idle_timeout: 0s\nrequest_timeout: 0s\ncommon_http_protocol_options: { idle_timeout: 0s }\n";
    let proxy = with_hcm(hcm).await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    client.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
    assert_eq!(client.end(Duration::from_millis(300)).await.expect("no bytes"), End::Open);
}

/// A client that takes 5 bytes of a response and no more.
async fn unread(hcm: &str, route: &str) -> (Option<u32>, u64, u64) {
    let routes = format!("- match: {{ prefix: / }}\n  route: {{ cluster: up{route} }}\n");
    let pieces = Pieces { hcm: hcm.to_owned(), routes, ..Pieces::default() };
    let proxy = proxy(pieces.yaml()).upstream(http1().route("/", "more than five bytes")).run().await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    frames.frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 5]).await.expect("the proxy reads");
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    frames.headers(1, END_STREAM, &fields).await.expect("the proxy reads");
    let reset = tokio::time::timeout(Duration::from_secs(1), frames.until(RST_STREAM, Some(1))).await;
    let code = reset.ok().map(|frame| frame.expect("the proxy speaks").expect("a reset").error_code());
    (code, proxy.stat("http2.tx_flush_timeout").await, proxy.stat("http.in.downstream_rq_idle_timeout").await)
}

/// What Envoy 1.40 does with the same settings, save that there `idle_timeout` of a route alone ends nothing.
#[tokio::test]
async fn a_response_that_nobody_takes_is_ended() {
    const INTERNAL_ERROR: u32 = 2;
    for (hcm, route, code) in [
        ("", ", flush_timeout: 0.2s", Some(INTERNAL_ERROR)),
        ("stream_idle_timeout: 0.2s\n", ", flush_timeout: 0s", None),
        ("stream_flush_timeout: 0.2s\n", "", Some(INTERNAL_ERROR)),
        ("stream_flush_timeout: 0.2s\n", ", idle_timeout: 20s", Some(INTERNAL_ERROR)),
        ("stream_flush_timeout: 20s\n", ", flush_timeout: 0.2s", Some(INTERNAL_ERROR)),
        ("stream_flush_timeout: 20s\n", ", idle_timeout: 0.2s", None),
        ("stream_idle_timeout: 0.2s\n", "", Some(INTERNAL_ERROR)),
    ] {
        assert_eq!(unread(hcm, route).await, (code, code.is_some().into(), 0), "{hcm}{route}");
    }
}
