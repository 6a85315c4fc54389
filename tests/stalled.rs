//! Clients and hosts that take nothing more: what bounds a stream bounds it all the same.

use crate::support::bootstrap::{ENDS_LOGGED, Pieces};
use crate::support::client::fetch;
use crate::support::frames::{DATA, END_STREAM, Frames, SETTINGS, encode};
use crate::support::proxy::{Running, proxy};
use crate::support::split::Split;
use crate::support::upstream::{Answer, http1};
use std::io::Write;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const WINDOW_UPDATE: u8 = 8;

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

/// A proxy before a host that answers with so many bytes; `route` is the rest of the route's action.
async fn with_answer(bytes: usize, route: &str, cluster: &str) -> Running {
    let pieces = Pieces {
        hcm: ENDS_LOGGED.to_owned(),
        routes: format!("- match: {{ prefix: / }}\n  route: {{ cluster: up, {route} }}\n"),
        cluster: cluster.to_owned(),
        ..Pieces::default()
    };
    let host = http1().answer("/", Answer::ok(&"x".repeat(bytes)));
    proxy(pieces.yaml()).argument("--file-flush-interval-msec").argument("10").upstream(host).run().await
}

/// A proxy before an HTTP/2 host that gives no stream more than its first window, and never answers.
async fn before_mute(route: &str) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut host, _)) = listener.accept().await {
            tokio::spawn(async move {
                host.write_all(&encode(SETTINGS, 0, 0, &[])).await.expect("the proxy reads");
                while host.read(&mut [0; 16_384]).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    let endpoint = format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}");
    let pieces = Pieces {
        hcm: ENDS_LOGGED.to_owned(),
        routes: format!("- match: {{ prefix: / }}\n  route: {{ cluster: mute, {route} }}\n"),
        clusters: format!(
            "- name: mute\n  connect_timeout: 60s\n  http2_protocol_options: {{}}\n  load_assignment: {{ cluster_name: \
             mute, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {endpoint} }} }}] }}] }}\n"
        ),
        ..Pieces::default()
    };
    proxy(pieces.yaml()).argument("--file-flush-interval-msec").argument("10").upstream(http1()).run().await
}

fn post(bytes: usize) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {bytes}\r\n\r\n{}", "x".repeat(bytes))
}

#[tokio::test]
async fn time_outs_hold_while_the_client_does_not_read() {
    let max = "common_http_protocol_options: { max_stream_duration: 0.5s }\n";
    let idle = "timeout: 0s, retry_policy: { retry_on: 5xx, per_try_idle_timeout: 0.5s }";
    for (route, cluster, expected, stat) in [
        ("timeout: 0.5s", "", "200 UT response_timeout\n", "upstream_rq_timeout"),
        (idle, "", "200 UT upstream_per_try_idle_timeout\n", "upstream_rq_per_try_idle_timeout"),
        ("timeout: 0s", max, "200 UMSDR upstream_max_stream_duration_reached\n", "upstream_rq_max_duration_reached"),
    ] {
        let proxy = with_answer(32 << 20, route, cluster).await;
        let socket = TcpSocket::new_v4().expect("sockets are to be had");
        socket.set_recv_buffer_size(4096).expect("it is a socket");
        let mut client = socket.connect(proxy.addr()).await.expect("the proxy accepts");
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy reads");
        proxy.wait_for_stat(&format!("cluster.up.{stat}"), 1).await;
        proxy.wait_for_stat("cluster.up.upstream_rq_active", 0).await;
        proxy.wait_for_stat("http.in.downstream_rq_active", 0).await;
        assert_eq!(proxy.file_once_written("access.log").await, expected, "{route}");
    }
}

#[tokio::test]
async fn time_outs_hold_while_an_http2_stream_has_no_window() {
    let proxy = with_answer(32 << 20, "timeout: 0.5s", "").await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    frames.headers(1, END_STREAM, &GET).await.expect("the proxy reads");
    proxy.wait_for_stat("cluster.up.upstream_rq_timeout", 1).await;
    proxy.wait_for_stat("http.in.downstream_rq_active", 0).await;
    assert_eq!(proxy.file_once_written("access.log").await, "200 UT response_timeout\n");
}

/// Its host has given it out within the time-out; how long the client takes for it is another thing.
#[tokio::test]
async fn a_response_that_fits_into_the_buffers_is_complete_before_its_client_reads_it() {
    const BYTES: usize = 600_000;
    let proxy = with_answer(BYTES, "timeout: 2s", "").await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    frames.headers(1, END_STREAM, &GET).await.expect("the proxy reads");
    proxy.wait_for_stat("cluster.up.upstream_rq_200", 1).await;
    proxy.wait_for_stat("cluster.up.upstream_rq_active", 0).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(proxy.stat("cluster.up.upstream_rq_timeout").await, 0);
    for stream in [0, 1] {
        frames.frame(WINDOW_UPDATE, 0, stream, &1_000_000u32.to_be_bytes()).await.expect("the proxy reads");
    }
    let mut read = 0;
    while let Some(frame) = frames.until(DATA, Some(1)).await.expect("the proxy speaks") {
        assert!(frame.payload.iter().all(|byte| *byte == b'x'));
        read += frame.payload.len();
        if frame.flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(read, BYTES);
}

/// More than the window of the host, and less than may be buffered: the request is complete.
#[tokio::test]
async fn time_outs_hold_while_the_upload_waits_for_a_window() {
    for (route, details) in [
        ("timeout: 0.5s", "504 UT response_timeout"),
        (
            "timeout: 60s, retry_policy: { retry_on: 5xx, num_retries: 0, per_try_timeout: 0.5s }",
            "504 URX,UT upstream_per_try_timeout",
        ),
        (
            "timeout: 60s, retry_policy: { retry_on: 5xx, num_retries: 0, per_try_idle_timeout: 0.5s }",
            "504 URX,UT upstream_per_try_idle_timeout",
        ),
        ("timeout: 0s, idle_timeout: 0.5s", "504 SI stream_idle_timeout"),
    ] {
        let proxy = before_mute(route).await;
        let response = fetch(proxy.addr(), &post(300_000)).await.expect("the proxy answers");
        assert_eq!(response.status(), 504, "{route}");
        assert_eq!(proxy.file_once_written("access.log").await.trim_end(), details, "{route}");
        proxy.wait_for_stat("cluster.mute.upstream_rq_active", 0).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_while_its_upload_waits_for_a_window() {
    let proxy = before_mute("timeout: 0s").await;
    let mut client = TcpStream::connect(proxy.addr()).await.expect("the proxy accepts");
    client.write_all(post(900_000).as_bytes()).await.expect("the proxy reads");
    proxy.wait_for_stat("cluster.mute.upstream_rq_active", 1).await;
    drop(client);
    proxy.wait_for_stat("cluster.mute.upstream_rq_active", 0).await;
    proxy.wait_for_stat("http.in.downstream_rq_active", 0).await;
    assert_eq!(proxy.file_once_written("access.log").await, "0 DC downstream_remote_disconnect\n");
}

/// A host that always has more is read without a pause, and yet not longer than its time.
#[tokio::test]
async fn time_outs_hold_while_the_host_sends_without_end() {
    let max = "common_http_protocol_options: { max_stream_duration: 0.5s }";
    for (route, fields, expected) in [
        ("timeout: 0.5s", "", "200 UT response_timeout\n"),
        ("timeout: 0s", max, "200 UMSDR upstream_max_stream_duration_reached\n"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        std::thread::spawn({
            let listener = listener.into_std().expect("it is a listener");
            listener.set_nonblocking(false).expect("it is a socket");
            move || {
                let (mut host, _) = listener.accept().expect("the proxy connects");
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                let chunks = b"1\r\nx\r\n".repeat(10_000);
                let _ = host.write_all(head);
                while host.write_all(&chunks).is_ok() {}
            }
        });
        let pieces = Pieces {
            hcm: ENDS_LOGGED.to_owned(),
            routes: format!("- match: {{ prefix: / }}\n  route: {{ cluster: endless, {route} }}\n"),
            clusters: format!(
                "- name: endless\n  connect_timeout: 60s\n  {fields}\n  load_assignment: {{ cluster_name: endless, endpoints: [{{ \
                 lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} \
                 }} }} }} }}] }}] }}\n"
            ),
            ..Pieces::default()
        };
        let pieces = pieces.yaml();
        let proxy = proxy(pieces).argument("--file-flush-interval-msec").argument("10").upstream(http1()).run().await;
        let begun = Instant::now();
        let mut client = TcpStream::connect(proxy.addr()).await.expect("the proxy accepts");
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy reads");
        let mut space = vec![0; 65_536];
        while client.read(&mut space).await.is_ok_and(|read| read > 0) {}
        assert_eq!(proxy.file_once_written("access.log").await, expected, "{route}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{route}: {:?}", begun.elapsed());
    }
}
