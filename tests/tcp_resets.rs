//! How connections through tcp_proxy end whose host resets them, and tunnels that were never granted.

use super::parity::envoy::programs;
use super::support::bootstrap::Pieces;
use super::support::proxy::{Running, proxy};
use h2::Reason;
use http::Response;
use std::io::{ErrorKind, Result};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// What is logged of a connection.
const LOGGED: &str = "%RESPONSE_FLAGS% %UPSTREAM_TRANSPORT_FAILURE_REASON% %DOWNSTREAM_DETECTED_CLOSE_TYPE% \
                      %UPSTREAM_DETECTED_CLOSE_TYPE% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% \
                      %UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %UPSTREAM_LOCAL_CLOSE_REASON%";

async fn bound() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    (listener, port)
}

/// A proxy in front of `host`, with further fields of tcp_proxy.
async fn start(program: &Path, host: u16, fields: &str, http2_upstream: bool) -> Running {
    let log = format!(
        "{{ '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/access.log, log_format: {{ text_format_source: {{ inline_string: \"{LOGGED}\\n\" }} }} }}"
    );
    let network = format!(
        "- name: tcp
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
    stat_prefix: t
    cluster: up
    access_log: [{{ name: file, typed_config: {log} }}]
    {fields}
"
    );
    let pieces = Pieces { network, http2_upstream, ..Pieces::default() };
    proxy(pieces.yaml().replace("$UPSTREAM", &host.to_string())).program(program).run().await
}

/// How a client that says something hears of the end, and what is logged of it.
async fn told(proxy: &Running) -> (Result<usize>, String) {
    let mut client = TcpStream::connect(proxy.addr()).await.expect("it is accepted");
    client.write_all(b"hi").await.expect("it is taken");
    let end = client.read(&mut [0; 9]).await;
    (end, proxy.file_once_written("access.log").await.trim_end().to_owned())
}

fn is_reset(end: &Result<usize>) -> bool {
    end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_client_hears_of_a_reset_although_bytes_to_the_host_are_held_back() {
    for program in programs() {
        let (listener, port) = bound().await;
        let proxy = start(&program, port, "", false).await;
        let mut client = TcpStream::connect(proxy.addr()).await.expect("it is accepted");
        let (host, _) = listener.accept().await.expect("the proxy connects");
        // Until nobody on the way takes more.
        while timeout(Duration::from_millis(500), client.write(&[b'x'; 1 << 16])).await.is_ok() {}
        host.set_zero_linger().expect("it is a socket");
        drop(host);
        let end = client.read(&mut [0; 1]).await;
        assert!(is_reset(&end), "{program:?}: {end:?}");
        let logged = proxy.file_once_written("access.log").await;
        assert_eq!(logged.trim_end(), "UR - LocalReset RemoteReset 127.0.0.1 127.0.0.1 -", "{program:?}");
    }
}

/// Answers 200 to whoever asks for a tunnel, and resets the stream when it hears something; without a reason it ends the
/// response with its head.
fn serve_http2(listener: TcpListener, reason: Option<Reason>) {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.expect("the proxy speaks HTTP/2");
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    let ends = reason.is_none();
                    let mut stream = respond.send_response(Response::new(()), ends).expect("the proxy waits for it");
                    let _ = body.data().await;
                    if let Some(reason) = reason {
                        stream.send_reset(reason);
                    }
                });
            }
        }
    });
}

#[tokio::test]
async fn a_client_hears_of_a_reset_of_its_stream_to_the_host() {
    for program in programs() {
        for reason in [Reason::INTERNAL_ERROR, Reason::NO_ERROR, Reason::CANCEL] {
            let (listener, port) = bound().await;
            serve_http2(listener, Some(reason));
            let proxy = start(&program, port, "tunneling_config: { hostname: 'a.test:443' }", true).await;
            let (end, logged) = told(&proxy).await;
            assert!(is_reset(&end), "{program:?} {reason:?}: {end:?}");
            assert_eq!(logged, "UR - LocalReset RemoteReset 127.0.0.1 127.0.0.1 -", "{program:?} {reason:?}");
            assert_eq!(proxy.stat("cluster.up.upstream_rq_rx_reset").await, 1, "{program:?} {reason:?}");
            assert_eq!(proxy.stat("cluster.up.upstream_rq_tx_reset").await, 0, "{program:?} {reason:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_over_http2_that_ends_with_its_head_grants_no_tunnel() {
    for program in programs() {
        let (listener, port) = bound().await;
        serve_http2(listener, None);
        let proxy = start(&program, port, "tunneling_config: { hostname: 'a.test:443' }", true).await;
        let (_, logged) = told(&proxy).await;
        assert_eq!(logged, "UF,URX tunnel_response:200 Normal Normal - - -", "{program:?}");
        assert_eq!(proxy.stat("cluster.up.upstream_cx_connect_attempts_exceeded").await, 1, "{program:?}");
        assert_eq!(proxy.stat("cluster.up.upstream_rq_tx_reset").await, 1, "{program:?}");
    }
}

/// Answers whoever asks for a tunnel, and waits for its client to go.
fn serve_http1(listener: TcpListener, answer: &'static [u8]) {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a request comes"));
            }
            stream.write_all(answer).await.expect("it is taken");
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
}

#[tokio::test]
async fn answers_over_http1_that_grant_no_tunnel() {
    let cases: [(&str, &[u8], &str, u64); 4] = [
        ("false", b"SSH-2.0-x\r\n\r\n", "-", 1),
        ("false", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "tunnel_response:101", 0),
        ("false", b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno", "tunnel_response:503", 0),
        ("true", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "tunnel_response:200", 0),
    ];
    for program in programs() {
        for (use_post, answer, reason, faults) in cases {
            let (listener, port) = bound().await;
            serve_http1(listener, answer);
            let fields = format!("tunneling_config: {{ hostname: 'a.test:443', use_post: {use_post} }}");
            let proxy = start(&program, port, &fields, false).await;
            let (_, logged) = told(&proxy).await;
            assert_eq!(logged, format!("UF,URX {reason} Normal Normal - - -"), "{program:?}");
            let counted = proxy.stat("cluster.up.upstream_cx_protocol_error").await;
            assert_eq!(counted, faults, "{program:?}: {}", answer.escape_ascii());
        }
    }
}

/// What a host does once it was asked for a tunnel, and has perhaps granted it and heard something.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    WithoutAnswer,
    InOrder,
    InOrderAfterTheClient,
    ByReset,
}

async fn leave(mut stream: TcpStream, how: Leaves) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    if matches!(how, Leaves::WithoutAnswer) {
        return Ok(());
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    match how {
        Leaves::InOrderAfterTheClient => stream.read_to_end(&mut Vec::new()).await?,
        _ => stream.read(&mut [0; 99]).await?,
    };
    match how {
        Leaves::ByReset => stream.set_zero_linger(),
        _ => stream.shutdown().await,
    }
}

/// Envoy: a connection on which a CONNECT was sent may be closed by halves, and is closed from here.
#[tokio::test]
async fn who_closes_the_connection_of_a_tunnel_over_http1() {
    let cases = [
        (false, Leaves::WithoutAnswer, "local"),
        (false, Leaves::InOrder, "local"),
        (false, Leaves::InOrderAfterTheClient, "local"),
        (false, Leaves::ByReset, "remote"),
        (true, Leaves::WithoutAnswer, "remote"),
        (true, Leaves::InOrder, "remote"),
        (true, Leaves::ByReset, "remote"),
    ];
    for program in programs() {
        for (use_post, how, who) in cases {
            let (listener, port) = bound().await;
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(leave(stream, how));
                }
            });
            let fields = format!("tunneling_config: {{ hostname: 'a.test:443', use_post: {use_post} }}");
            let proxy = start(&program, port, &fields, false).await;
            let mut client = TcpStream::connect(proxy.addr()).await.expect("it is accepted");
            client.write_all(b"hi").await.expect("it is taken");
            if matches!(how, Leaves::InOrderAfterTheClient) {
                client.shutdown().await.expect("it is open");
            }
            proxy.wait_for_stat("cluster.up.upstream_cx_destroy", 1).await;
            for name in ["with_active_rq", who, &format!("{who}_with_active_rq")] {
                let counted = proxy.stat(&format!("cluster.up.upstream_cx_destroy_{name}")).await;
                assert_eq!(counted, 1, "{program:?} POST: {use_post} {how:?} {name}");
            }
        }
    }
}
