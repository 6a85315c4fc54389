//! Hosts that fail and recover: who is asked meanwhile.

use std::time::{Duration, Instant};

use crate::support::DEADLINE;
use crate::support::bootstrap::Pieces;
use crate::support::client::{Client, get};
use crate::support::ports::free_port;
use crate::support::proxy::{Running, proxy};
use crate::support::split::Split;
use crate::support::upstream::{Answer, Script, Then, http1, http2};

/// Both upstreams as hosts of `up`, of which no unhealthy one is ever chosen.
const TWO_HOSTS: &str = r#"common_lb_config: { healthy_panic_threshold: { value: 0 }, update_merge_window: 0s }
load_assignment:
  cluster_name: up
  endpoints:
  - lb_endpoints:
    - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $UPSTREAM } } }
    - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $UPSTREAM2 } } }
"#;

const CHECKS: &str = "health_checks:\n- { timeout: 0.5s, interval: 0.05s, no_traffic_interval: 0.05s, \
                      unhealthy_threshold: 2, healthy_threshold: 2, http_health_check: { path: /hc } }\n";

const OUTLIERS: &str = "outlier_detection: { consecutive_5xx: 2, interval: 0.1s, base_ejection_time: 0.3s, \
                        max_ejection_percent: 50 }\n";

async fn with(cluster: &str, first: Script, second: Script) -> Running {
    let pieces = Pieces { cluster: format!("{cluster}{TWO_HOSTS}"), ..Pieces::default() };
    proxy(pieces.yaml()).upstream(first).upstream(second).run().await
}

fn status(code: u16) -> Answer {
    Answer::bytes(format!("HTTP/1.1 {code} x\r\ncontent-length: 0\r\n\r\n"))
}

fn times(answer: Answer, times: usize) -> Answer {
    Answer { times, ..answer }
}

/// Sends `count` requests for `/`; how many of them had which status.
async fn ask(proxy: &Running, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(get(proxy.addr(), "/").await.expect("the proxy answers").status());
    }
    statuses
}

/// Which of the upstreams got requests for `/` since the last call.
fn asked(proxy: &Running) -> [bool; 2] {
    [0, 1].map(|at| proxy.upstream(at).take_requests().iter().any(|request| request.target() == "/"))
}

#[tokio::test]
async fn a_host_is_left_out_while_its_checks_fail() {
    let first = http1().answer("/hc", times(status(200), 4)).answer("/hc", times(status(503), 12));
    let proxy = with(CHECKS, first, http1()).await;
    assert_eq!(ask(&proxy, 4).await, [200; 4]);
    assert_eq!(asked(&proxy), [true, true]);
    proxy.wait_for_stat("cluster.up.membership_healthy", 1).await;
    asked(&proxy);
    assert_eq!(ask(&proxy, 4).await, [200; 4]);
    assert_eq!(asked(&proxy), [false, true]);
    proxy.wait_for_stat("cluster.up.membership_healthy", 2).await;
    assert_eq!(ask(&proxy, 4).await, [200; 4]);
    assert_eq!(asked(&proxy), [true, true]);
}

#[tokio::test]
async fn no_request_fails_while_a_host_hangs_and_comes_back() {
    let first =
        http1().answer("/hc", times(status(200), 3)).answer("/hc", times(Answer::bytes("").then(Then::Close), 6));
    let proxy = with(CHECKS, first, http1()).await;
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        assert_eq!(ask(&proxy, 10).await, [200; 10]);
    }
    assert!(proxy.stat("cluster.up.health_check.network_failure").await >= 2);
    proxy.wait_for_stat("cluster.up.membership_healthy", 2).await;
}

#[tokio::test]
async fn a_cluster_without_a_healthy_host_says_so_until_one_is_back() {
    let bad = || http1().answer("/hc", times(status(500), 10));
    let proxy = with(CHECKS, bad(), bad()).await;
    let response = get(proxy.addr(), "/").await.expect("the proxy answers");
    assert_eq!((response.status(), &*response.text()), (503, "no healthy upstream"));
    proxy.wait_for_stat("cluster.up.membership_healthy", 2).await;
    assert_eq!(ask(&proxy, 2).await, [200; 2]);
}

#[tokio::test]
async fn an_outlier_is_left_out_until_it_is_back() {
    let first = http1().answer("/", times(status(500), 2));
    let proxy = with(OUTLIERS, first, http1()).await;
    let mut statuses = ask(&proxy, 4).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 500, 500]);
    proxy.wait_for_stat("cluster.up.outlier_detection.ejections_active", 1).await;
    proxy.wait_for_stat("cluster.up.membership_healthy", 1).await;
    asked(&proxy);
    assert_eq!(ask(&proxy, 4).await, [200; 4]);
    assert_eq!(asked(&proxy), [false, true]);
    proxy.wait_for_stat("cluster.up.membership_healthy", 2).await;
    assert_eq!(ask(&proxy, 4).await, [200; 4]);
    assert_eq!(asked(&proxy), [true, true]);
}

#[tokio::test]
async fn several_workers_count_the_failures_of_a_host_together() {
    let pieces = Pieces { cluster: format!("{OUTLIERS}{TWO_HOSTS}"), ..Pieces::default() };
    let first = http1().answer("/", status(500));
    let proxy = proxy(pieces.yaml()).concurrency(4).upstream(first).upstream(http1()).run().await;
    let until = Instant::now() + Duration::from_secs(5);
    while proxy.stat("cluster.up.outlier_detection.ejections_enforced_total").await == 0 {
        assert!(Instant::now() < until, "the host is never ejected");
        ask(&proxy, 8).await;
    }
}

#[tokio::test]
async fn a_connection_that_is_kept_survives_the_failure_of_the_other_host() {
    let first = http1().answer("/hc", times(status(200), 2)).answer("/hc", status(503));
    let proxy = with(CHECKS, first, http1()).await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    for _ in 0..50 {
        let response = client.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
        assert_eq!(response.status(), 200);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.wait_for_stat("cluster.up.membership_healthy", 1).await;
}

/// A cluster whose one host is checked at these times.
async fn checked(times: &str, upstream: Script) -> Running {
    let check = "unhealthy_threshold: 3, healthy_threshold: 3, http_health_check: { path: /hc }";
    let cluster = format!("health_checks:\n- {{ timeout: 2s, {times}, {check} }}\n");
    proxy(Pieces { cluster, ..Pieces::default() }.yaml()).upstream(upstream).run().await
}

/// Checks where none is expected any more, apart from one that had begun.
async fn assert_checks_rest(proxy: &Running) {
    let before = proxy.stat("cluster.up.health_check.attempt").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let after = proxy.stat("cluster.up.health_check.attempt").await;
    assert!(after <= before + 1, "{} checks", after - before);
}

/// Waits until there were so many checks more.
async fn wait_for_checks(proxy: &Running, more: u64) {
    let until = Instant::now() + Duration::from_secs(20);
    let enough = proxy.stat("cluster.up.health_check.attempt").await + more;
    while proxy.stat("cluster.up.health_check.attempt").await < enough {
        assert!(Instant::now() < until, "there are no more checks");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const NO_TRAFFIC: &str = "no_traffic_interval: 0.05s";

#[tokio::test]
async fn a_host_that_fails_is_checked_at_its_own_interval() {
    let fails = || http1().answer("/hc", status(503));
    let rarely = checked(&format!("{NO_TRAFFIC}, interval: 0.05s, unhealthy_interval: 100s"), fails()).await;
    wait_for_checks(&rarely, 3).await;
    assert_eq!(ask(&rarely, 1).await, [200], "a cluster in panic has traffic");
    assert_checks_rest(&rarely).await;
    let often = checked(&format!("{NO_TRAFFIC}, interval: 100s, unhealthy_interval: 0.05s"), fails()).await;
    assert_eq!(ask(&often, 1).await, [200]);
    wait_for_checks(&often, 5).await;
}

#[tokio::test]
async fn the_first_failure_of_a_healthy_host_has_an_interval_of_its_own() {
    let upstream = http1().answer("/hc", times(status(200), 60)).answer("/hc", Answer::bytes("").then(Then::Close));
    let proxy = checked(&format!("{NO_TRAFFIC}, interval: 0.05s, unhealthy_edge_interval: 100s"), upstream).await;
    assert_eq!(ask(&proxy, 1).await, [200]);
    proxy.wait_for_stat("cluster.up.health_check.network_failure", 1).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(proxy.stat("cluster.up.health_check.network_failure").await, 1);
    assert_eq!(proxy.stat("cluster.up.membership_healthy").await, 1);
}

#[tokio::test]
async fn the_first_success_of_a_host_that_failed_has_an_interval_of_its_own() {
    let upstream = http1().answer("/hc", times(status(503), 60));
    let proxy = checked(&format!("{NO_TRAFFIC}, interval: 0.05s, healthy_edge_interval: 100s"), upstream).await;
    assert_eq!(ask(&proxy, 1).await, [200]);
    proxy.wait_for_stat("cluster.up.health_check.success", 1).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(proxy.stat("cluster.up.health_check.success").await, 1);
    assert_eq!(proxy.stat("cluster.up.membership_healthy").await, 0);
}

/// The chance that so little jitter is drawn that a check comes is below one in a thousand.
#[tokio::test]
async fn jitter_is_added_to_the_interval() {
    for jitter in ["interval_jitter: 1000s", "interval_jitter_percent: 2000000"] {
        let proxy = checked(&format!("{NO_TRAFFIC}, interval: 0.05s, {jitter}"), http1()).await;
        assert_checks_rest(&proxy).await;
        assert_eq!(proxy.stat("cluster.up.health_check.attempt").await, 1, "{jitter}");
    }
}

#[tokio::test]
async fn a_proxy_whose_hosts_are_not_checked_yet_says_so() {
    let check = "timeout: 2s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, initial_jitter: 100000s, \
                 http_health_check: { path: /hc }";
    let cluster = format!("health_checks: [{{ {check} }}]\n");
    let yaml = Pieces { cluster, ..Pieces::default() }.yaml();
    let proxy = proxy(yaml).upstream(http1()).unready().run().await;
    for _ in 0..5 {
        assert_eq!(proxy.admin("/ready").await, "PRE_INITIALIZING\n");
        assert!(proxy.admin("/server_info").await.contains(r#""state": "PRE_INITIALIZING""#));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(proxy.stat("cluster.up.health_check.attempt").await, 0);
}

#[tokio::test]
async fn a_proxy_is_live_when_the_first_check_has_failed_at_last() {
    let check = "timeout: 3s, interval: 100s, unhealthy_threshold: 1, healthy_threshold: 1, \
                 http_health_check: { path: /hc }";
    let cluster = format!("health_checks: [{{ {check} }}]\n");
    let yaml = Pieces { cluster, ..Pieces::default() }.yaml();
    let silent = http1().answer("/hc", Answer::bytes("").then(Then::Hang));
    let proxy = proxy(yaml).upstream(silent).unready().run().await;
    assert_eq!(proxy.admin("/ready").await, "PRE_INITIALIZING\n");
    let until = Instant::now() + Duration::from_secs(20);
    while proxy.admin("/ready").await != "LIVE\n" {
        assert!(Instant::now() < until, "it is never live");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(proxy.stat("cluster.up.health_check.network_failure").await, 1);
}

/// The chance that so little jitter is drawn that the host is back is below one in a thousand.
#[tokio::test]
async fn jitter_is_added_to_the_time_of_an_ejection() {
    let outliers = "outlier_detection: { consecutive_5xx: 2, interval: 0.05s, base_ejection_time: 0.05s, \
                    max_ejection_time: 0.1s, max_ejection_percent: 50, max_ejection_time_jitter: 1000s }\n";
    let proxy = with(outliers, http1().answer("/", times(status(500), 2)), http1()).await;
    ask(&proxy, 4).await;
    proxy.wait_for_stat("cluster.up.outlier_detection.ejections_active", 1).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(proxy.stat("cluster.up.outlier_detection.ejections_active").await, 1);
}

/// A Redis server, which ends when it is dropped.
struct Redis {
    process: std::process::Child,
    port: u16,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        ended.expect("it runs");
    }
}

/// A Redis server; `None`, and a word about it, where there is none to be had.
async fn redis() -> Option<Redis> {
    let port = free_port();
    let arguments = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let mut command = std::process::Command::new("redis-server");
    match command.args(arguments).stdout(std::process::Stdio::null()).spawn() {
        Ok(process) => Some(Redis { process, port }),
        Err(error) => {
            crate::support::say(&format!("SKIPPED: redis-server does not start: {error}"));
            None
        }
    }
}

/// Says one thing to a Redis server.
async fn tell_redis(port: u16, command: &[u8]) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    stream.write_all(command).await.expect("it reads");
    assert!(stream.read(&mut [0; 64]).await.expect("it answers") > 0);
}

#[tokio::test]
async fn a_redis_server_is_well_until_it_has_the_key() {
    let Some(server) = redis().await else { return };
    let port = server.port;
    let cluster = |name: &str, key: &str| {
        format!(
            r#"- name: {name}
  load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ] }}
  health_checks:
  - timeout: 1s
    interval: 0.05s
    no_traffic_interval: 0.05s
    unhealthy_threshold: 1
    healthy_threshold: 1
    custom_health_check:
      name: envoy.health_checkers.redis
      typed_config: {{ "@type": type.googleapis.com/envoy.extensions.health_checkers.redis.v3.Redis, key: "{key}" }}
"#
        )
    };
    let clusters = cluster("by_ping", "") + &cluster("by_key", "down");
    let proxy = proxy(Pieces { clusters, ..Pieces::default() }.yaml()).upstream(http1()).run().await;
    for name in ["by_ping", "by_key"] {
        proxy.wait_for_stat(&format!("cluster.{name}.membership_healthy"), 1).await;
    }
    tell_redis(port, b"SET down 1\r\n").await;
    proxy.wait_for_stat("cluster.by_key.membership_healthy", 0).await;
    assert_eq!(proxy.stat("cluster.by_ping.membership_healthy").await, 1);
    assert_eq!(proxy.stat("cluster.by_key.upstream_cx_active").await, 1, "the connection is kept");
    tell_redis(port, b"DEL down\r\n").await;
    proxy.wait_for_stat("cluster.by_key.membership_healthy", 1).await;
    drop(server);
    proxy.wait_for_stat("cluster.by_ping.membership_healthy", 0).await;
    proxy.wait_for_stat("cluster.by_ping.upstream_cx_active", 0).await;
}

#[tokio::test]
async fn grpc_checks_keep_a_connection_of_which_only_their_streams_end() {
    let checks = "http2_protocol_options: {}\nhealth_checks:\n- { timeout: 0.2s, interval: 0.05s, no_traffic_interval: \
                  0.05s, unhealthy_threshold: 2, healthy_threshold: 2, grpc_health_check: {} }\n";
    let reset = Answer::bytes("HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\n\r\n").then(Then::Reset);
    for answer in [Answer::bytes("").then(Then::Reset), reset, Answer::bytes("").then(Then::Hang)] {
        let (then, host) = (answer.then, http2().answer("/", answer));
        let proxy = with(checks, host, http2()).await;
        let (mut received, until) = (Vec::new(), Instant::now() + DEADLINE);
        while received.len() < 4 {
            assert!(Instant::now() < until, "{then:?}: {received:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            received.extend(proxy.upstream(0).take_received());
        }
        assert!(received.iter().all(|request| request.connection == 0), "{then:?}: {received:?}");
    }
}
