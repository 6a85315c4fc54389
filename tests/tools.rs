//! Programs that others measure and ask with: iperf3 through `tcp_proxy` and `udp_proxy`, dig of `dns_filter`.
//!
//! Where a program is not installed its tests say so and pass, unless `NUNCIO_REQUIRE_TOOLS=1`.

use crate::support::bootstrap::Pieces;
use crate::support::ports::free_port;
use crate::support::proxy::{Running, proxy};
use crate::support::say;
use crate::support::upstream::http1;
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Bits that iperf3 sends in a second as datagrams, so slowly that a debug build on a busy machine loses hardly any.
const UDP_RATE: &str = "4M";

/// Whether there is such a program; where there is none, that is said.
fn has(program: &str, test: &str) -> bool {
    let found = Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let is_required = std::env::var("NUNCIO_REQUIRE_TOOLS").is_ok_and(|v| v == "1");
    assert!(found || !is_required, "{program} is not installed, and NUNCIO_REQUIRE_TOOLS=1");
    if !found {
        say(&format!("SKIPPED {test}: {program} is not installed"));
    }
    found
}

/// A server of iperf3.
struct Server(Child, u16);

impl Server {
    async fn start() -> Self {
        let port = free_port();
        let number = port.to_string();
        let mut command = Command::new("iperf3");
        let command = command.args(["-s", "-p", &number, "-B", "127.0.0.1"]).stdout(Stdio::null());
        let server = Self(command.spawn().expect("it can be run"), port);
        let until = Instant::now() + super::support::DEADLINE;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < until, "iperf3 does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A proxy with TCP and UDP of one port in front of that server.
async fn in_front_of(server: &Server) -> Running {
    let port = free_port();
    let listeners = format!(
        "- name: t
  address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
  filter_chains:
  - filters:
    - name: tcp
      typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: iperf }}
- name: u
  address: {{ socket_address: {{ protocol: UDP, address: 127.0.0.1, port_value: {port} }} }}
  listener_filters:
  - name: udp
    typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig, stat_prefix: u, cluster: iperf }}
"
    );
    let clusters = format!(
        "- name: iperf
  load_assignment: {{ cluster_name: iperf, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }}
",
        server.1
    );
    proxy(Pieces { listeners, clusters, ..Pieces::default() }.yaml()).upstream(http1()).run().await
}

/// What iperf3 says of its run, in JSON.
async fn iperf3(proxy: &Running, arguments: &[&str]) -> Value {
    let port = proxy.listener("t").port().to_string();
    let mut command = Command::new("timeout");
    command.args(["30", "iperf3", "-c", "127.0.0.1", "-p", &port, "-J", "-t", "1"]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
    let output = output.expect("it can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(said.get("error"), None, "{text}\n{}", proxy.log());
    said
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} is missing in {value}"))
}

#[tokio::test]
async fn iperf3_measures_tcp_both_ways() {
    if !has("iperf3", "iperf3_measures_tcp_both_ways") {
        return;
    }
    let server = Server::start().await;
    let proxy = in_front_of(&server).await;
    for arguments in [&["-P", "2"][..], &["-R"][..]] {
        let said = iperf3(&proxy, arguments).await;
        let (sent, received) = (number(&said, "/end/sum_sent/bytes"), number(&said, "/end/sum_received/bytes"));
        assert!(received > 1e6 && received <= sent, "{received} of {sent} bytes, {arguments:?}");
    }
    proxy.wait_for_stat("tcp.t.downstream_cx_total", 5).await;
    proxy.wait_for_stat("cluster.iperf.upstream_cx_active", 0).await;
    assert!(proxy.stat("tcp.t.downstream_cx_rx_bytes_total").await > 1_000_000);
    assert!(proxy.stat("tcp.t.downstream_cx_tx_bytes_total").await > 1_000_000);
}

#[tokio::test]
async fn iperf3_measures_udp_both_ways() {
    if !has("iperf3", "iperf3_measures_udp_both_ways") {
        return;
    }
    let server = Server::start().await;
    let proxy = in_front_of(&server).await;
    for arguments in [&["-u", "-b", UDP_RATE, "-l", "1200"][..], &["-u", "-b", UDP_RATE, "-l", "1200", "-R"][..]] {
        let said = iperf3(&proxy, arguments).await;
        let (packets, lost) = (number(&said, "/end/sum/packets"), number(&said, "/end/sum/lost_packets"));
        assert!(packets > 100.0, "{packets} packets, {arguments:?}");
        assert!(lost <= packets / 4.0, "{lost} of {packets} packets were lost, {arguments:?}");
    }
    assert_eq!(proxy.stat("udp.u.downstream_sess_total").await, 2);
    assert!(proxy.stat("udp.u.downstream_sess_rx_datagrams").await > 100);
    assert!(proxy.stat("udp.u.downstream_sess_tx_datagrams").await > 100);
    assert_eq!(proxy.stat("udp.u.downstream_sess_rx_errors").await, 0);
}

/// A proxy that knows a few names.
async fn name_server() -> Running {
    let listeners = "- name: d
  address: { socket_address: { protocol: UDP, address: 127.0.0.1, port_value: 0 } }
  listener_filters:
  - name: dns
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig
      stat_prefix: d
      server_config:
        inline_dns_table:
          virtual_domains:
          - { name: www.foo.com, answer_ttl: 100s, endpoint: { address_list: { address: [10.0.0.1, 10.0.0.2] } } }
          - { name: www.foo.com, endpoint: { address_list: { address: ['2001:db8::1'] } } }
          - { name: voip.foo.com, endpoint: { service_list: { services: [{ service_name: sip, protocol: { name: udp }, ttl: 60s, targets: [{ host_name: www.foo.com, priority: 10, weight: 30, port: 5060 }] }] } } }
";
    let pieces = Pieces { listeners: listeners.to_owned(), ..Pieces::default() };
    proxy(pieces.yaml()).upstream(http1()).run().await
}

/// What dig prints for such a question, its lines sorted.
fn dig(proxy: &Running, question: &[&str]) -> Vec<String> {
    let port = proxy.listener("d").port().to_string();
    let mut command = Command::new("dig");
    command.args(["@127.0.0.1", "-p", &port, "+tries=3", "+time=5", "+noall", "+answer"]).args(question);
    let output = command.output().expect("it can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", proxy.log());
    let mut lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn dig_is_answered() {
    if !has("dig", "dig_is_answered") {
        return;
    }
    let proxy = name_server().await;
    // With and without EDNS, which makes for additional records in the question.
    for more in ["+noedns", "+edns=0"] {
        let addresses = dig(&proxy, &["www.foo.com", "A", more]);
        assert_eq!(addresses, ["www.foo.com. 100 IN A 10.0.0.1", "www.foo.com. 100 IN A 10.0.0.2"]);
        assert_eq!(dig(&proxy, &["www.foo.com", "AAAA", more]), ["www.foo.com. 100 IN AAAA 2001:db8::1"]);
        let services = dig(&proxy, &["_sip._udp.voip.foo.com", "SRV", more]);
        assert_eq!(services, ["_sip._udp.voip.foo.com. 60 IN SRV 10 30 5060 www.foo.com."]);
        assert!(dig(&proxy, &["nowhere.test", "A", more]).is_empty());
        let status = dig(&proxy, &["nowhere.test", "A", more, "+comments"]);
        assert!(status.iter().any(|line| line.contains("status: NXDOMAIN")), "{status:?}");
        let whole = dig(&proxy, &["www.foo.com", "A", more, "+comments", "+norecurse"]);
        assert!(!whole.iter().any(|line| line.contains("WARNING") || line.contains("malformed")), "{whole:?}");
    }
    assert_eq!(proxy.stat("dns_filter.d.downstream_rx_invalid_queries").await, 0);
}
