//! Connections through tcp_proxy whose host ends before their client does.

use super::parity::envoy::programs;
use super::support::bootstrap::Pieces;
use super::support::proxy::{Running, proxy};
use socket2::SockRef;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Ends its half at once, and reads until the client has ended too.
async fn host() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.shutdown().await.expect("it is connected");
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    port
}

async fn start(program: &Path) -> Running {
    let network = "- { name: tcp, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: up } }\n";
    let pieces = Pieces { network: network.to_owned(), ..Pieces::default() };
    proxy(pieces.yaml().replace("$UPSTREAM", &host().await.to_string())).program(program).run().await
}

/// Sends this when the host has ended, and ends.
async fn say(proxy: &Running, last: &[u8]) {
    let mut client = TcpStream::connect(proxy.addr()).await.expect("it is accepted");
    assert_eq!(client.read(&mut [0; 9]).await.expect("no reset"), 0, "the host has ended");
    // Bytes and end go in one segment: what counts is whether they are seen together.
    SockRef::from(&client).set_tcp_cork(true).expect("it is a socket");
    client.write_all(last).await.expect("it is taken");
    drop(client);
    proxy.wait_for_stat("listener.127.0.0.1_0.downstream_cx_active", 0).await;
    proxy.wait_for_stat("cluster.up.upstream_cx_active", 0).await;
}

#[tokio::test]
async fn last_bytes_that_come_with_the_end_of_a_client_count_as_flushed() {
    for program in programs() {
        let proxy = start(&program).await;
        say(&proxy, b"").await;
        assert_eq!(proxy.stat("tcp.t.upstream_flush_total").await, 0, "{program:?}");
        say(&proxy, b"bye").await;
        assert_eq!(proxy.stat("tcp.t.upstream_flush_total").await, 1, "{program:?}");
        assert_eq!(proxy.stat("tcp.t.upstream_flush_active").await, 0, "{program:?}");
    }
}
