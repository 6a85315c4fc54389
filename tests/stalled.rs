//! Hosts that take nothing more: what bounds a stream bounds it all the same.

use crate::support::bootstrap::{ENDS_LOGGED, Pieces};
use crate::support::client::fetch;
use crate::support::frames::{SETTINGS, encode};
use crate::support::proxy::{Running, proxy};
use crate::support::upstream::http1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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
