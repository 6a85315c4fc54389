//! Clients that leave with a reset, at each byte of what they send before there is a filter chain for them and after.

use super::parity::hello::client_hello;
use super::support::DEADLINE;
use super::support::bootstrap::Pieces;
use super::support::proxy::{Running, proxy};
use super::support::upstream::http1;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const V1: &[u8] = b"PROXY TCP4 10.0.0.1 10.0.0.2 1000 2000\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\x0a\x00\x00\x02\x03\xe8\x07\xd0";

async fn started() -> Running {
    let filter = |name: &str| {
        format!(
            "{{ name: {name}, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.listener.{name}.v3."
        )
    };
    let (proxied, inspected) = (filter("proxy_protocol"), filter("tls_inspector"));
    let listeners = format!(
        "- name: l
  stat_prefix: l
  address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
  listener_filters:
  - {proxied}ProxyProtocol }} }}
  - {inspected}TlsInspector }} }}
  filter_chains:
  - filters:
    - name: tcp
      typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: echo }}
"
    );
    let clusters = "- name: echo
  load_assignment: { cluster_name: echo, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $TCP_ECHO } } } }] }] }
";
    let pieces = Pieces { listeners, clusters: clusters.to_owned(), ..Pieces::default() };
    proxy(pieces.yaml()).upstream(http1()).run().await
}

async fn connect(proxy: &Running) -> TcpStream {
    TcpStream::connect(proxy.listener("l")).await.expect("the proxy accepts")
}

#[tokio::test]
async fn a_reset_at_any_byte_leaves_nothing_behind() {
    let proxy = started().await;
    let hello = client_hello(b"a.test", [].into_iter());
    let before = proxy.settled_open_files().await;
    let (mut count, mut got_through) = (0, 0);
    for header in [V1, V2] {
        let whole = [header, &hello[..]].concat();
        let edges = [header.len(), header.len() + 1, header.len() + 5, header.len() + 6, whole.len() - 1, whole.len()];
        for part in (0..header.len()).chain(edges) {
            let mut stream = connect(&proxy).await;
            stream.write_all(&whole[..part]).await.expect("the proxy reads");
            if part == whole.len() {
                // It has got through to the host and back.
                let mut back = vec![0; hello.len()];
                stream.read_exact(&mut back).await.expect("the host answers");
                assert_eq!(back, hello);
                got_through += 1;
            }
            stream.set_zero_linger().expect("it is a socket");
            drop(stream);
            count += 1;
        }
    }
    // A reset is an error to who reads, and an end to who is told of it first.
    let until = std::time::Instant::now() + DEADLINE;
    loop {
        let closed = proxy.stat("listener.l.downstream_listener_filter_remote_close").await;
        let left = closed + proxy.stat("listener.l.downstream_listener_filter_error").await;
        if left == count - got_through {
            break;
        }
        assert!(std::time::Instant::now() < until, "{left} of {count} have left before there was a chain");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(proxy.stat("listener.l.downstream_cx_total").await, got_through);
    for gauge in
        ["listener.l.downstream_cx_active", "listener.l.downstream_pre_cx_active", "cluster.echo.upstream_cx_active"]
    {
        proxy.wait_for_stat(gauge, 0).await;
    }
    let until = std::time::Instant::now() + DEADLINE;
    while proxy.open_files() > before + 2 {
        assert!(std::time::Instant::now() < until, "{} files, before {before}", proxy.open_files());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // None of them was malformed.
    assert_eq!(
        proxy.stat("proxy_proto.versions.v1.error").await + proxy.stat("proxy_proto.versions.v2.error").await,
        0
    );
    assert_eq!(proxy.stat("tcp.t.downstream_cx_no_route").await, 0);
}
