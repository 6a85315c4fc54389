//! Clients that leave while their request is under way: the proxy learns of it at once, whatever it has not read.

use crate::support::bootstrap::{ENDS_LOGGED, Pieces};
use crate::support::frames::{DATA, Frames, RST_STREAM};
use crate::support::proxy::{Running, proxy};
use crate::support::split::Split;
use crate::support::upstream::{Answer, Script, http1};
use socket2::{Domain, SockRef, Socket, Type};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

async fn run(pieces: &Pieces, upstream: Script) -> Running {
    let proxy = proxy(pieces.yaml()).argument("--file-flush-interval-msec").argument("10");
    proxy.upstream(upstream).run().await
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// Its half is closed; Envoy does not serve what is left of such a client.
    HalfCloses,
    Closes,
    Resets,
}

/// A proxy whose only route leads to `port`, where nobody reads.
async fn before_deaf(port: u16) -> Running {
    let endpoint = format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}");
    let pieces = Pieces {
        listener: "per_connection_buffer_limit_bytes: 32768\n".to_owned(),
        routes: "- match: { prefix: / }\n  route: { cluster: deaf, timeout: 0s }\n".to_owned(),
        clusters: format!(
            "- name: deaf\n  connect_timeout: 60s\n  per_connection_buffer_limit_bytes: 32768\n  load_assignment: {{ \
             cluster_name: deaf, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {endpoint} }} }}] }}] }}\n"
        ),
        hcm: ENDS_LOGGED.to_owned(),
        ..Pieces::default()
    };
    run(&pieces, http1()).await
}

async fn leave(mut client: TcpStream, how: Leaves) -> Option<TcpStream> {
    match how {
        Leaves::HalfCloses => {
            client.shutdown().await.expect("it is connected");
            return Some(client);
        }
        Leaves::Closes => {}
        Leaves::Resets => SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("it is a socket"),
    }
    None
}

/// What Envoy counts and logs of a stream whose client is gone.
async fn check_noticed(proxy: &Running) {
    proxy.wait_for_stat("http.in.downstream_rq_active", 0).await;
    for name in ["downstream_rq_rx_reset", "downstream_cx_destroy_remote_active_rq", "downstream_rq_total"] {
        assert_eq!(proxy.stat(&format!("http.in.{name}")).await, 1, "{name}");
    }
    proxy.wait_for_stat("cluster.deaf.upstream_rq_active", 0).await;
    proxy.wait_for_stat("cluster.deaf.upstream_rq_pending_active", 0).await;
    assert_eq!(proxy.file_once_written("access.log").await, "0 DC downstream_remote_disconnect\n");
}

/// Writes until nobody takes more.
async fn fill(client: &mut TcpStream) {
    let chunk = vec![b'x'; 256 * 1024];
    while tokio::time::timeout(Duration::from_millis(500), client.write_all(&chunk)).await.is_ok() {}
}

/// The upstream takes the connection and never reads. Envoy looks for an orderly end alone while it does not read.
#[tokio::test]
async fn a_reset_is_noticed_while_the_upload_is_blocked() {
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let proxy = before_deaf(deaf.local_addr().expect("it is bound").port()).await;
    let mut client = TcpStream::connect(proxy.addr()).await.expect("the proxy accepts");
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n";
    client.write_all(head).await.expect("the proxy reads");
    fill(&mut client).await;
    assert_eq!(proxy.stat("http.in.downstream_rq_active").await, 1);
    leave(client, Leaves::Resets).await;
    check_noticed(&proxy).await;
    assert_eq!(proxy.stat("cluster.deaf.upstream_cx_destroy_local_with_active_rq").await, 1);
}

/// The upstream is still being connected to, and the proxy holds as much as it may.
#[tokio::test]
async fn a_client_that_leaves_is_noticed_behind_bytes_that_nobody_reads() {
    for how in [Leaves::HalfCloses, Leaves::Closes, Leaves::Resets] {
        let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        deaf.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port is free");
        deaf.listen(0).expect("it is bound");
        let address = deaf.local_addr().expect("it is bound").as_socket().expect("an IP address");
        // It fills the backlog: the kernel answers no other.
        let _first = TcpStream::connect(address).await.expect("the backlog has room for one");
        let proxy = before_deaf(address.port()).await;
        let mut client = TcpStream::connect(proxy.addr()).await.expect("the proxy accepts");
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
        client.write_all(head).await.expect("the proxy reads");
        client.write_all(&vec![b'x'; 60_000]).await.expect("the kernel buffers");
        proxy.wait_for_stat("http.in.downstream_rq_active", 1).await;
        let _client = leave(client, how).await;
        check_noticed(&proxy).await;
        assert_eq!(proxy.stat("cluster.deaf.upstream_rq_cancelled").await, 1, "{how:?}");
    }
}

/// The client reads nothing, and half-closes: the response has nobody to go to.
#[tokio::test]
async fn a_client_that_leaves_is_noticed_while_the_response_is_blocked() {
    let large = Answer::ok(&"x".repeat(32 << 20));
    let pieces = Pieces { hcm: ENDS_LOGGED.to_owned(), ..Pieces::default() };
    let proxy = run(&pieces, http1().answer("/", large)).await;
    let mut client = TcpStream::connect(proxy.addr()).await.expect("the proxy accepts");
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy reads");
    client.readable().await.expect("the proxy answers");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _client = leave(client, Leaves::HalfCloses).await;
    proxy.wait_for_stat("http.in.downstream_rq_active", 0).await;
    assert_eq!(proxy.stat("http.in.downstream_cx_destroy_remote_active_rq").await, 1);
    assert_eq!(proxy.file_once_written("access.log").await, "200 DC downstream_remote_disconnect\n");
}

/// Over HTTP/2 the windows bound what is read ahead; what ends the stream is read all the same.
#[tokio::test]
async fn an_http2_stream_that_is_reset_is_noticed_while_the_upload_is_blocked() {
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let proxy = before_deaf(deaf.local_addr().expect("it is bound").port()).await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    frames.headers(1, 0, &fields).await.expect("the proxy reads");
    // Less than the initial window of the protocol, which needs no update.
    for _ in 0..3 {
        frames.frame(DATA, 0, 1, &[b'x'; 16_000]).await.expect("the proxy reads");
    }
    proxy.wait_for_stat("cluster.deaf.upstream_rq_active", 1).await;
    frames.frame(RST_STREAM, 0, 1, &8u32.to_be_bytes()).await.expect("the proxy reads");
    proxy.wait_for_stat("http.in.downstream_rq_active", 0).await;
    proxy.wait_for_stat("cluster.deaf.upstream_rq_active", 0).await;
    assert_eq!(proxy.stat("cluster.deaf.upstream_cx_destroy_local_with_active_rq").await, 1);
    assert!(proxy.file_once_written("access.log").await.starts_with("0 DR "));
}
