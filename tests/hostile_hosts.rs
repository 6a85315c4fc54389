//! HTTP/2 hosts that break the rules: what is made of it, for the client and for the connection.

use std::net::SocketAddr;

use crate::support::bootstrap::{ENDS_LOGGED, Pieces};
use crate::support::client::get;
use crate::support::frames::{DATA, END_STREAM, HEADERS, SETTINGS, encode, encode_headers};
use crate::support::proxy::{Running, proxy};
use crate::support::upstream::http1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The frames of a response on this stream.
type Frames = fn(u32) -> Vec<u8>;

/// Answers each request with `frames`.
async fn answer(mut client: TcpStream, frames: Frames) -> std::io::Result<()> {
    client.read_exact(&mut [0; b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()]).await?;
    client.write_all(&encode(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).await?;
        if head[3] == HEADERS {
            client.write_all(&frames(u32::from_be_bytes([head[5], head[6], head[7], head[8]]))).await?;
        }
    }
}

async fn before(frames: Frames, fields: &str) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address: SocketAddr = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(answer(client, frames));
        }
    });
    let port = address.port();
    let endpoint = format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}");
    let pieces = Pieces {
        hcm: ENDS_LOGGED.to_owned(),
        routes: "- match: { prefix: / }\n  route: { cluster: bad }\n".to_owned(),
        clusters: format!(
            "- name: bad\n  connect_timeout: 60s\n  {fields}\n  load_assignment: {{ \
             cluster_name: bad, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {endpoint} }} }}] }}] }}\n"
        ),
        ..Pieces::default()
    };
    proxy(pieces.yaml()).argument("--file-flush-interval-msec").argument("10").upstream(http1()).run().await
}

const PRIORITY: u8 = 2;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const PLAIN: &str = "http2_protocol_options: {}";

const OK: (&str, &str) = (":status", "200");

/// A response without its end.
fn begun(stream: u32) -> Vec<u8> {
    [encode_headers(stream, 0, &[OK]), encode(DATA, 0, stream, b"ok")].concat()
}

fn whole(stream: u32) -> Vec<u8> {
    encode_headers(stream, END_STREAM, &[OK])
}

fn interim(stream: u32, status: &str) -> Vec<u8> {
    encode_headers(stream, 0, &[(":status", status)])
}

fn many(count: usize) -> Vec<(&'static str, &'static str)> {
    vec![("x", "y"); count]
}

/// More than 8 KiB of them.
fn wide() -> Vec<(&'static str, &'static str)> {
    const VALUE: &str =
        "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy";
    vec![("x", VALUE); 90]
}

fn with_status(status: &'static str, mut fields: Vec<(&'static str, &'static str)>, stream: u32) -> Vec<u8> {
    fields.insert(0, (":status", status));
    encode_headers(stream, 0, &fields)
}

const LATE: &str = "200 UPE upstream_reset_after_response_started{protocol_error}\n";
const EARLY: &str = "502 UPE upstream_reset_before_response_started{protocol_error}\n";

/// Messages that no rule of HTTP allows, and how the stream ends.
const MALFORMED: [(Frames, &str); 9] = [
    (|s| encode_headers(s, END_STREAM, &[("a", "b")]), EARLY),
    (|s| encode_headers(s, END_STREAM, &[OK, OK]), EARLY),
    (|s| encode_headers(s, END_STREAM, &[OK, ("connection", "close")]), EARLY),
    (|s| encode_headers(s, 0, &[OK, ("content-length", "x")]), EARLY),
    (|s| encode_headers(s, END_STREAM, &[(":status", "100")]), EARLY),
    (|s| [interim(s, "101"), whole(s)].concat(), EARLY),
    (|s| [begun(s), encode_headers(s, 0, &[("t", "v")])].concat(), LATE),
    (|s| [begun(s), encode_headers(s, END_STREAM, &[("connection", "close")])].concat(), LATE),
    (|s| [begun(s), encode_headers(s, END_STREAM, &[("content-length", "2")])].concat(), LATE),
];

#[tokio::test]
async fn a_host_whose_message_is_malformed_loses_its_connection() {
    for (case, (frames, log)) in MALFORMED.into_iter().enumerate() {
        let proxy = before(frames, PLAIN).await;
        let _ = get(proxy.addr(), "/").await;
        proxy.wait_for_stat("cluster.bad.upstream_cx_destroy_local", 1).await;
        assert_eq!(proxy.file_once_written("access.log").await, log, "case {case}");
        for (stat, value) in [
            ("http2.rx_messaging_error", 1),
            ("http2.tx_reset", 0),
            ("upstream_cx_protocol_error", 1),
            ("upstream_rq_tx_reset", 1),
        ] {
            assert_eq!(proxy.stat(&format!("cluster.bad.{stat}")).await, value, "case {case}: {stat}");
        }
    }
}

#[tokio::test]
async fn a_malformed_message_ends_its_stream_alone_where_that_is_asked_for() {
    for (case, (frames, log)) in MALFORMED.into_iter().enumerate() {
        let proxy =
            before(frames, "http2_protocol_options: { override_stream_error_on_invalid_http_message: true }").await;
        let _ = get(proxy.addr(), "/").await;
        assert_eq!(proxy.file_once_written("access.log").await, log, "case {case}");
        for (stat, value) in [
            ("http2.rx_messaging_error", 1),
            ("http2.tx_reset", 1),
            ("upstream_cx_protocol_error", 0),
            ("upstream_cx_active", 1),
        ] {
            assert_eq!(proxy.stat(&format!("cluster.bad.{stat}")).await, value, "case {case}: {stat}");
        }
    }
}

#[tokio::test]
async fn data_beside_what_was_declared_ends_its_stream_alone() {
    let cases: [(Frames, &str); 3] = [
        (
            |s| [encode_headers(s, 0, &[OK, ("content-length", "5")]), encode(DATA, END_STREAM, s, b"abc")].concat(),
            LATE,
        ),
        (
            |s| [encode_headers(s, 0, &[OK, ("content-length", "2")]), encode(DATA, END_STREAM, s, b"abc")].concat(),
            LATE,
        ),
        (
            |s| [encode_headers(s, 0, &[(":status", "204")]), encode(DATA, END_STREAM, s, b"abc")].concat(),
            "204 UPE upstream_reset_after_response_started{protocol_error}\n",
        ),
    ];
    for (case, (frames, log)) in cases.into_iter().enumerate() {
        let proxy = before(frames, PLAIN).await;
        let _ = get(proxy.addr(), "/").await;
        assert_eq!(proxy.file_once_written("access.log").await, log, "case {case}");
        for (stat, value) in [("http2.rx_messaging_error", 0), ("http2.tx_reset", 1), ("upstream_cx_active", 1)] {
            assert_eq!(proxy.stat(&format!("cluster.bad.{stat}")).await, value, "case {case}: {stat}");
        }
    }
}

#[tokio::test]
async fn an_empty_end_of_a_response_without_content_is_waited_for() {
    let proxy = before(|s| [interim(s, "204"), encode(DATA, END_STREAM, s, b"")].concat(), PLAIN).await;
    assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").status(), 204);
    assert_eq!(proxy.file_once_written("access.log").await, "204 - via_upstream\n");
    assert_eq!(proxy.stat("cluster.bad.http2.tx_reset").await, 0);
}

#[tokio::test]
async fn trailers_and_interim_responses_are_held_to_the_limits_of_headers() {
    const RESET: &str = "200 UR upstream_reset_after_response_started{remote_reset}\n";
    const NONE: &str = "503 UR upstream_reset_before_response_started{remote_reset}\n";
    const FINE: &str = "200 - via_upstream\n";
    let cases: [(Frames, &str, &str); 6] = [
        (|s| [begun(s), encode_headers(s, END_STREAM, &many(100))].concat(), FINE, ""),
        (|s| [begun(s), encode_headers(s, END_STREAM, &many(101))].concat(), RESET, "header_overflow"),
        (|s| [begun(s), encode_headers(s, END_STREAM, &wide())].concat(), RESET, "header_list_size_too_large"),
        (|s| [with_status("103", many(99), s), whole(s)].concat(), FINE, ""),
        (|s| [with_status("103", many(100), s), whole(s)].concat(), NONE, "header_overflow"),
        (|s| [with_status("103", wide(), s), whole(s)].concat(), NONE, "header_list_size_too_large"),
    ];
    let limited = "http2_protocol_options: {}\n  common_http_protocol_options: { max_response_headers_kb: 8 }";
    for (case, (frames, log, stat)) in cases.into_iter().enumerate() {
        let proxy = before(frames, limited).await;
        let _ = get(proxy.addr(), "/").await;
        assert_eq!(proxy.file_once_written("access.log").await, log, "case {case}");
        let resets = u64::from(!stat.is_empty());
        if resets > 0 {
            assert_eq!(proxy.stat(&format!("cluster.bad.http2.{stat}")).await, 1, "case {case}");
        }
        for (stat, value) in [("http2.tx_reset", resets), ("upstream_rq_rx_reset", resets), ("upstream_cx_active", 1)] {
            assert_eq!(proxy.stat(&format!("cluster.bad.{stat}")).await, value, "case {case}: {stat}");
        }
    }
}

/// Frames that cost the host nothing, and what counts them.
const FLOODS: [(Frames, &str); 6] = [
    (|_| encode(PING, 0, 0, &[0; 8]).repeat(2000), "outbound_control_flood"),
    (|_| encode(SETTINGS, 0, 0, &[]).repeat(2000), "outbound_control_flood"),
    (|_| encode(PRIORITY, 0, 9, &[0, 0, 0, 0, 16]).repeat(500), "inbound_priority_frames_flood"),
    (|_| encode(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(100), "inbound_window_update_frames_flood"),
    (|s| encode(WINDOW_UPDATE, 0, s, &[0, 0, 0, 1]).repeat(100), "inbound_window_update_frames_flood"),
    (|s| [begun(s), encode(DATA, 0, s, &[]).repeat(3)].concat(), "inbound_empty_frames_flood"),
];

#[tokio::test]
async fn a_host_that_floods_loses_its_connection() {
    for (case, (frames, stat)) in FLOODS.into_iter().enumerate() {
        let proxy = before(frames, PLAIN).await;
        let _ = get(proxy.addr(), "/").await;
        proxy.wait_for_stat("cluster.bad.upstream_cx_destroy_local", 1).await;
        let log = proxy.file_once_written("access.log").await;
        assert!([EARLY, LATE].contains(&&*log), "case {case}: {log}");
        for stat in [&*format!("http2.{stat}"), "upstream_cx_protocol_error"] {
            assert_eq!(proxy.stat(&format!("cluster.bad.{stat}")).await, 1, "case {case}: {stat}");
        }
    }
}
