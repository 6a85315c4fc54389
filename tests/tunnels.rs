//! What hosts say at the end of the tunnels of tcp_proxy. Envoy 1.40 cannot be asked: by trailers here it dies.

use super::support::DEADLINE;
use super::support::bootstrap::Pieces;
use super::support::proxy::{Running, proxy};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Grants a tunnel by POST, says something and ends it with trailers.
async fn host() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a request comes"));
            }
            let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n\
                           5\r\nhello\r\n0\r\nx-end: one\r\nx-end: two\r\n\r\n";
            stream.write_all(answer).await.expect("it is taken");
            // The tunnel ends with its client.
            let mut body = Vec::new();
            while !body.ends_with(b"0\r\n\r\n") && stream.read_buf(&mut body).await.is_ok_and(|count| count > 0) {}
        }
    });
    port
}

async fn start(propagates: bool) -> Running {
    let log = "{ '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/access.log, log_format: { text_format_source: { inline_string: \"%FILTER_STATE(envoy.tcp_proxy.propagate_response_trailers:TYPED)%\\n\" } } }";
    let network = format!(
        "- name: tcp
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
    stat_prefix: t
    cluster: up
    access_log: [{{ name: file, typed_config: {log} }}]
    tunneling_config: {{ hostname: a.test, use_post: true, propagate_response_trailers: {propagates} }}
"
    );
    let cluster = "typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: { http_protocol_options: { enable_trailers: true } }
";
    let pieces = Pieces { network, cluster: cluster.to_owned(), ..Pieces::default() };
    proxy(pieces.yaml().replace("$UPSTREAM", &host().await.to_string())).run().await
}

/// What is logged of a connection whose tunnel has ended.
async fn logged(proxy: &Running) -> String {
    let mut client = TcpStream::connect(proxy.addr()).await.expect("it is accepted");
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.expect("an orderly end");
    assert_eq!(all, b"hello");
    drop(client);
    let until = Instant::now() + DEADLINE;
    loop {
        let log = proxy.file("access.log");
        if log.ends_with('\n') {
            return log.trim_end().to_owned();
        }
        assert!(Instant::now() < until, "nothing is logged");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn trailers_that_end_a_tunnel_are_left_for_logs_where_that_is_asked_for() {
    let told = r#"{"headers":[{"key":"x-end","value":"one"},{"key":"x-end","value":"two"}]}"#;
    assert_eq!(logged(&start(true).await).await, told);
    assert_eq!(logged(&start(false).await).await, "-");
}
