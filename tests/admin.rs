//! The admin interface over its own socket.

use crate::support::bootstrap::Pieces;
use crate::support::client::{fetch, get};
use crate::support::http1::Message;
use crate::support::proxy::{Running, proxy};
use crate::support::upstream::http1;

async fn running() -> Running {
    proxy(Pieces::default().yaml()).upstream(http1()).run().await
}

async fn ask(proxy: &Running, method: &str, path: &str) -> Message {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    fetch(proxy.admin, &request).await.expect("admin answers")
}

#[tokio::test]
async fn every_page_answers() {
    let proxy = running().await;
    let pages = [
        ("/", "<"),
        ("/help", "/stats"),
        ("/ready", "LIVE"),
        ("/server_info", "\"state\": \"LIVE\""),
        ("/stats", "server.live: 1"),
        ("/stats?format=json", "\"stats\""),
        ("/stats/prometheus", "# TYPE envoy_server_live gauge"),
        ("/stats?format=prometheus", "envoy_server_live{} 1"),
        ("/clusters", "up::default_priority::max_connections::1024"),
        ("/clusters?format=json", "\"cluster_statuses\""),
        ("/listeners", "main::127.0.0.1:"),
        ("/listeners?format=json", "\"listener_statuses\""),
        ("/config_dump", "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump"),
        ("/memory", "\"allocated\""),
    ];
    for (path, wanted) in pages {
        let response = get(proxy.admin, path).await.expect("admin answers");
        assert_eq!(response.status(), 200, "{path}");
        assert!(response.text().contains(wanted), "{path} lacks {wanted}:\n{:.2000}", response.text());
    }
}

#[tokio::test]
async fn an_unknown_page_lists_the_known_ones() {
    let proxy = running().await;
    let response = get(proxy.admin, "/nowhere").await.expect("admin answers");
    assert_eq!(response.status(), 404);
    assert!(response.text().contains("/config_dump"), "{}", response.text());
}

#[tokio::test]
async fn what_changes_something_takes_post_alone() {
    let proxy = running().await;
    for path in ["/quitquitquit", "/healthcheck/fail", "/healthcheck/ok", "/drain_listeners", "/logging"] {
        assert_eq!(ask(&proxy, "GET", path).await.status(), 405, "{path}");
    }
    assert_eq!(get(proxy.admin, "/ready").await.expect("admin answers").status(), 200);
}

#[tokio::test]
async fn stats_are_filtered_by_use_and_by_name() {
    let proxy = running().await;
    get(proxy.addr(), "/").await.expect("the proxy answers");
    let used = get(proxy.admin, "/stats?usedonly&filter=^http.in.downstream_rq").await.expect("admin answers").text();
    assert!(used.lines().all(|line| line.starts_with("http.in.downstream_rq")), "{used}");
    assert!(used.contains("http.in.downstream_rq_2xx: 1\n"), "{used}");
    assert!(!used.contains("downstream_rq_5xx"), "{used}");
    let bad = get(proxy.admin, "/stats?filter=(").await.expect("admin answers");
    assert_eq!(bad.status(), 400, "{}", bad.text());
}

#[tokio::test]
async fn a_failed_health_check_is_told_and_taken_back() {
    let proxy = running().await;
    assert_eq!(ask(&proxy, "POST", "/healthcheck/fail").await.text(), "OK\n");
    assert_eq!(get(proxy.admin, "/ready").await.expect("admin answers").status(), 503);
    assert_eq!(ask(&proxy, "POST", "/healthcheck/ok").await.text(), "OK\n");
    assert_eq!(get(proxy.admin, "/ready").await.expect("admin answers").status(), 200);
}

#[tokio::test]
async fn levels_of_logging_are_listed_and_set() {
    let proxy = running().await;
    assert!(ask(&proxy, "POST", "/logging").await.text().contains("active loggers"));
    assert_eq!(ask(&proxy, "POST", "/logging?level=debug").await.status(), 200);
    assert_eq!(ask(&proxy, "POST", "/logging?level=nonsense").await.status(), 400);
}

#[tokio::test]
async fn quitquitquit_ends_the_process_well() {
    let mut proxy = running().await;
    assert_eq!(ask(&proxy, "POST", "/quitquitquit").await.text(), "OK\n");
    assert!(proxy.wait().await.success());
}

#[tokio::test]
async fn drained_listeners_accept_no_more() {
    let proxy = running().await;
    get(proxy.addr(), "/").await.expect("the proxy answers");
    assert_eq!(ask(&proxy, "POST", "/drain_listeners").await.text(), "OK\n");
    let until = std::time::Instant::now() + crate::support::DEADLINE;
    while get(proxy.addr(), "/").await.is_ok() {
        assert!(std::time::Instant::now() < until, "still accepting");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
