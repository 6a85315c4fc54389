//! Connections to upstreams: reused, replaced, shared.

use crate::support::bootstrap::Pieces;
use crate::support::client::{Client, get};
use crate::support::h2_client::{H2Client, Outcome};
use crate::support::proxy::{Running, proxy};
use crate::support::say;
use crate::support::split::Split;
use crate::support::upstream::{Answer, Script, Then, http1, http2};
use std::time::Duration;

fn http2_pieces() -> Pieces {
    Pieces { http2_upstream: true, ..Pieces::default() }
}

async fn with_cluster(cluster: &str, upstream: Script) -> Running {
    let pieces = Pieces { cluster: cluster.to_owned(), ..Pieces::default() };
    proxy(pieces.yaml()).upstream(upstream).run().await
}

/// On which upstream connections `count` requests, one after the other, arrived.
async fn connections_of(proxy: &Running, count: usize) -> Vec<usize> {
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    for _ in 0..count {
        let response = client.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
        assert_eq!(response.status(), 200);
    }
    proxy.upstream(0).take_received().iter().map(|received| received.connection).collect()
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let proxy = with_cluster("", http1()).await;
    assert_eq!(connections_of(&proxy, 3).await, [0, 0, 0]);
}

#[tokio::test]
async fn a_connection_that_the_upstream_gives_up_is_not_used_again() {
    let closing =
        Answer::bytes("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").then(Then::Close);
    let proxy = with_cluster("", http1().answer("/", closing)).await;
    assert_eq!(connections_of(&proxy, 3).await, [0, 1, 2]);
}

#[tokio::test]
async fn a_connection_serves_no_more_requests_than_it_may() {
    let options = "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \
                   \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    \
                   common_http_protocol_options: { max_requests_per_connection: 2 }\n    \
                   explicit_http_config: { http_protocol_options: {} }\n";
    let proxy = with_cluster(options, http1()).await;
    assert_eq!(connections_of(&proxy, 5).await, [0, 0, 1, 1, 2]);
}

/// Envoy answers 503 here; a request of which no byte was answered is safe to send again on a fresh connection.
#[tokio::test]
async fn a_stale_connection_is_replaced_without_the_client_noticing() {
    let proxy = with_cluster("", http1().answer("/", Answer::ok("ok").then(Then::CloseAtNext))).await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    for _ in 0..4 {
        let response = client.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test]
async fn http2_requests_share_one_connection() {
    let proxy = proxy(http2_pieces().yaml()).upstream(http2()).run().await;
    for _ in 0..5 {
        assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").status(), 200);
    }
    assert!(proxy.upstream(0).take_received().iter().all(|received| received.connection == 0));
    assert_eq!(proxy.stat("cluster.up.upstream_cx_http2_total").await, 1);
}

/// Bytes behind a response belong to no request: the connection is dropped, the next client gets its own answer.
#[tokio::test]
async fn bytes_behind_a_response_poison_nobody() {
    let two = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\noneHTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned";
    let proxy = with_cluster("", http1().answer("/two", Answer::bytes(two)).route("/", "good")).await;
    for _ in 0..5 {
        assert_eq!(get(proxy.addr(), "/two").await.expect("the proxy answers").text(), "one");
        assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").text(), "good");
    }
}

/// RFC 9110 §15.2.2 has it say to which. Envoy passes such a 101 on as a whole response, and closes.
#[tokio::test]
async fn a_host_that_switches_to_nothing_has_failed() {
    let upgrades = "upgrade_configs: [{ upgrade_type: websocket }]\n".to_owned();
    let pieces = Pieces { hcm: upgrades, ..Pieces::default() };
    let answer = Answer::bytes("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\nraw");
    let proxy = proxy(pieces.yaml()).upstream(http1().answer("/", answer)).run().await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    let asked = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let response = client.request(asked).await.expect("the proxy answers");
    assert_eq!(response.status(), 502);
    assert_eq!(proxy.stat("cluster.up.upstream_cx_protocol_error").await, 1);
}

#[tokio::test]
async fn ten_thousand_interim_responses_are_swallowed() {
    let many = "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000) + "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let proxy = with_cluster("", http1().answer("/", Answer::bytes(many))).await;
    assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").text(), "ok");
}

#[tokio::test]
async fn a_large_body_passes_unchanged_in_every_combination() {
    let body: String = (0..400_000).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    for (pieces, upstream) in [(Pieces::default(), http1()), (http2_pieces(), http2())] {
        let proxy = proxy(pieces.yaml()).upstream(upstream.route("/", &body)).run().await;
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut client = Client::connect(proxy.addr(), Split::Bytes).await.expect("the proxy accepts");
        let response = client.request(request.as_bytes()).await.expect("the proxy answers");
        assert!(response.text() == body, "HTTP/1 response of {} bytes", response.body.len());
        let mut client = H2Client::connect(proxy.addr(), Split::Bytes).await.expect("the proxy accepts");
        let head = http::Request::post("http://a/").body(()).expect("a valid request");
        let Outcome::Response(response) = client.request(head, body.as_bytes(), None).await else { panic!("reset") };
        assert!(response.text() == body, "HTTP/2 response of {} bytes", response.body.len());
        let requests = proxy.upstream(0).take_requests();
        assert!(requests.len() == 2 && requests.iter().all(|request| request.text() == body), "at the upstream");
    }
}

#[tokio::test]
async fn a_thousand_requests_at_once_are_all_answered() {
    let breakers = "circuit_breakers: { thresholds: [{ max_connections: 2000, max_pending_requests: 2000, max_requests: 2000 }] }\n";
    let pieces = Pieces { cluster: breakers.to_owned(), ..Pieces::default() };
    let proxy = proxy(pieces.yaml()).concurrency(2).upstream(http1()).run().await;
    let to = proxy.addr();
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        requests.spawn(async move { get(to, "/").await.map(|response| response.status()) });
    }
    while let Some(done) = requests.join_next().await {
        assert_eq!(done.expect("no panic").expect("the proxy answers"), 200);
    }
}

const BACKED_UP: &str = "cluster.deaf.upstream_flow_control_backed_up_total";
const DRAINED: &str = "cluster.deaf.upstream_flow_control_drained_total";

/// The gauge follows what the kernel does not take, and goes back when it does.
#[tokio::test]
async fn bytes_that_an_upstream_does_not_take_are_in_the_gauge() {
    // It accepts in the kernel alone, and never reads.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = deaf.local_addr().expect("it is bound").port();
    let endpoint = format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}");
    let pieces = Pieces {
        routes: "- match: { prefix: / }\n  route: { cluster: deaf }\n".to_owned(),
        clusters: format!(
            "- name: deaf\n  load_assignment: {{ cluster_name: deaf, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ \
             address: {endpoint} }} }}] }}] }}\n"
        ),
        ..Pieces::default()
    };
    let proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n").await.expect("the proxy reads");
    let chunk = vec![b'x'; 256 * 1024];
    let gauge = "cluster.deaf.upstream_cx_tx_bytes_buffered";
    let until = tokio::time::Instant::now() + super::support::DEADLINE;
    // A proxy that is slow, rather than full, takes more later.
    while tokio::time::timeout(Duration::from_millis(500), client.send(&chunk)).await.is_ok()
        || proxy.stat(gauge).await == 0
    {
        assert!(tokio::time::Instant::now() < until, "nothing is buffered");
    }
    // Meanwhile its client is not read.
    let paused = [BACKED_UP, "http.in.downstream_flow_control_paused_reading_total"];
    let resumed = [DRAINED, "http.in.downstream_flow_control_resumed_reading_total"];
    for (paused, resumed) in paused.into_iter().zip(resumed) {
        assert_eq!(proxy.stat(paused).await, proxy.stat(resumed).await + 1, "{paused}");
    }
    // At last it reads, on a thread that ends with its connection.
    std::thread::spawn(move || {
        deaf.accept().and_then(|(mut stream, _)| std::io::copy(&mut stream, &mut std::io::sink()))
    });
    while proxy.stat(gauge).await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let until = tokio::time::Instant::now() + super::support::DEADLINE;
    for (paused, resumed) in paused.into_iter().zip(resumed) {
        while proxy.stat(paused).await != proxy.stat(resumed).await {
            assert!(tokio::time::Instant::now() < until, "{paused}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits until a stat is no longer zero.
async fn rises(proxy: &Running, name: &str) {
    let until = tokio::time::Instant::now() + super::support::DEADLINE;
    while proxy.stat(name).await == 0 {
        assert!(tokio::time::Instant::now() < until, "{name} stays at zero");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A host is not read while the client takes nothing of what it says.
#[tokio::test]
async fn a_client_that_takes_no_more_is_waited_for() {
    if std::env::var_os("NUNCIO_SPLIT").is_some() {
        say("skipped: so large a body in pieces of some bytes takes longer than a test may, and tells nothing more");
        return;
    }
    let body = "x".repeat(20_000_000);
    // A client that is so slow is cut off by the default time-out.
    let routes = "- match: { prefix: / }\n  route: { cluster: up, timeout: 0s }\n".to_owned();
    for (pieces, upstream) in [(Pieces::default(), http1()), (http2_pieces(), http2())] {
        let pieces = Pieces { routes: routes.clone(), ..pieces };
        let proxy = proxy(pieces.yaml()).upstream(upstream.route("/", &body)).run().await;
        let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy reads");
        let gauge = "http.in.downstream_cx_tx_bytes_buffered";
        rises(&proxy, gauge).await;
        let paused = "cluster.up.upstream_flow_control_paused_reading_total";
        let resumed = "cluster.up.upstream_flow_control_resumed_reading_total";
        rises(&proxy, paused).await;
        let response = client.response("GET").await.expect("the proxy answers").expect("a response");
        assert!(response.text() == body, "{} bytes", response.body.len());
        assert_eq!(proxy.stat(paused).await, proxy.stat(resumed).await);
        proxy.wait_for_stat(gauge, 0).await;
    }
}
