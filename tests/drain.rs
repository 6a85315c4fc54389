//! Draining: connections are told to close, listeners stop, logs are reopened.

use crate::support::bootstrap::Pieces;
use crate::support::client::{Client, fetch, get};
use crate::support::proxy::{Running, proxy};
use crate::support::split::Split;
use crate::support::upstream::http1;
use std::time::Duration;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

pub(crate) async fn post(proxy: &Running, path: &str) {
    let request = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    assert_eq!(fetch(proxy.admin, &request).await.expect("admin answers").text(), "OK\n", "{path}");
}

async fn client(proxy: &Running) -> Client {
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    assert_eq!(client.request(GET).await.expect("the proxy answers").header("connection"), None);
    client
}

#[tokio::test]
async fn listeners_that_stop_keep_their_connections() {
    let proxy = proxy(Pieces::default().yaml()).concurrency(2).upstream(http1()).run().await;
    let mut open = client(&proxy).await;
    post(&proxy, "/drain_listeners").await;
    assert!(get(proxy.addr(), "/").await.is_err(), "the kernel refuses from the answer on");
    assert_eq!(open.request(GET).await.expect("the connection lives").status(), 200);
    assert_eq!(proxy.stat("listener_manager.listener_stopped").await, 1);
    // Envoy: it is there as long as the process is.
    assert_eq!(proxy.stat("listener_manager.total_listeners_active").await, 1);
    post(&proxy, "/drain_listeners").await;
    assert_eq!(proxy.stat("listener_manager.listener_stopped").await, 1);
}

#[tokio::test]
async fn connections_of_listeners_that_stop_are_told_to_close() {
    let immediate = proxy(Pieces::default().yaml()).argument("--drain-strategy").argument("immediate");
    let proxy = immediate.upstream(http1()).run().await;
    let mut open = client(&proxy).await;
    post(&proxy, "/drain_listeners").await;
    let response = open.request(GET).await.expect("the connection lives");
    assert_eq!(response.header("connection"), Some("close"));
}

#[tokio::test]
async fn a_graceful_drain_closes_connections_and_then_stops_the_listener() {
    let proxy = proxy(Pieces::default().yaml())
        .argument("--drain-time-s")
        .argument("1")
        .argument("--drain-strategy")
        .argument("immediate")
        .upstream(http1())
        .run()
        .await;
    let mut open = client(&proxy).await;
    post(&proxy, "/drain_listeners?graceful").await;
    let response = open.request(GET).await.expect("the connection lives");
    assert_eq!(response.header("connection"), Some("close"));
    // It accepts until the drain time has passed.
    assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").status(), 200);
    proxy.wait_for_stat("listener_manager.listener_stopped", 1).await;
    assert!(get(proxy.addr(), "/").await.is_err());
}

#[tokio::test]
async fn only_inbound_listeners_stop_on_request() {
    let proxy = proxy(Pieces::default().yaml()).upstream(http1()).run().await;
    post(&proxy, "/drain_listeners?inboundonly").await;
    assert_eq!(get(proxy.addr(), "/").await.expect("it is not inbound").status(), 200);
}

#[tokio::test]
async fn connections_close_while_the_health_check_fails_unless_the_listener_says_otherwise() {
    for (drain_type, closes) in [("DEFAULT", true), ("MODIFY_ONLY", false)] {
        let pieces = Pieces { listener: format!("drain_type: {drain_type}\n"), ..Pieces::default() };
        let proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
        let mut open = client(&proxy).await;
        post(&proxy, "/healthcheck/fail").await;
        let response = open.request(GET).await.expect("the connection lives");
        assert_eq!(response.header("connection") == Some("close"), closes, "{drain_type}");
        post(&proxy, "/healthcheck/ok").await;
        client(&proxy).await;
    }
}

#[tokio::test]
async fn logs_are_reopened_by_admin_and_by_signal() {
    let hcm = "access_log:\n- name: file\n  typed_config:\n    \
               \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    \
               path: $DIR/access.log\n    log_format: { text_format_source: { inline_string: \"%REQ(:PATH)%\\n\" } }\n";
    let pieces = Pieces { hcm: hcm.to_owned(), ..Pieces::default() };
    let mut proxy =
        proxy(pieces.yaml()).argument("--file-flush-interval-msec").argument("10").upstream(http1()).run().await;
    for (rotations, by_signal) in [false, true].into_iter().enumerate() {
        get(proxy.addr(), &format!("/before-{rotations}")).await.expect("the proxy answers");
        // The line comes after the response: rotated before, it would be in the new file, rightly.
        wait_until("the line is written", || proxy.file("access.log").contains("/before")).await;
        std::fs::rename(proxy.dir().join("access.log"), proxy.dir().join(format!("old-{rotations}")))
            .expect("it exists");
        if by_signal {
            proxy.signal(libc::SIGUSR1);
            // A signal that does nothing must not end the process either.
            proxy.signal(libc::SIGHUP);
        } else {
            post(&proxy, "/reopen_logs").await;
        }
        wait_until("the log is reopened", || proxy.dir().join("access.log").exists()).await;
    }
    get(proxy.addr(), "/after").await.expect("the proxy answers");
    assert!(proxy.stop().await.success());
    assert_eq!(proxy.file("old-0"), "/before-0\n");
    assert_eq!(proxy.file("old-1"), "/before-1\n");
    assert_eq!(proxy.file("access.log"), "/after\n");
}

async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + crate::support::DEADLINE;
    while !is_so() {
        assert!(std::time::Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
