//! UDP listeners and what runs on them, where Envoy need not be asked or cannot be.

use crate::support::DEADLINE;
use crate::support::bootstrap::Pieces;
use crate::support::datagrams;
use crate::support::ports::free_port;
use crate::support::proxy::{Running, proxy};
use crate::support::say;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;

/// A listener of datagrams, as an item of a list, that sends them to `cluster`.
fn listener(name: &str, address: &str, cluster: &str, more: &str) -> String {
    format!(
        "- name: {name}
  address: {{ socket_address: {{ protocol: UDP, address: {address}, port_value: 0 }} }}
  stat_prefix: {name}
  listener_filters:
  - name: proxy
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig
      stat_prefix: p
      cluster: {cluster}
      {more}
"
    )
}

/// A cluster of hosts on loopback, as an item of a list.
fn cluster(name: &str, ports: &[&str]) -> String {
    let endpoints: String = ports
        .iter()
        .map(|port| {
            format!(
                "      - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}\n"
            )
        })
        .collect();
    format!(
        "- name: {name}\n  load_assignment:\n    cluster_name: {name}\n    endpoints:\n    - lb_endpoints:\n{endpoints}"
    )
}

async fn started(listeners: String, clusters: String, workers: u32) -> Running {
    let pieces = Pieces { listeners, clusters, ..Pieces::default() };
    proxy(pieces.yaml()).concurrency(workers).upstream(crate::support::upstream::http1()).run().await
}

async fn client(local: &str, proxy: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(local).await.expect("a port is free");
    socket.connect(proxy).await.expect("it is an address");
    socket
}

async fn ask(socket: &UdpSocket, text: &str) -> Option<String> {
    socket.send(text.as_bytes()).await.expect("loopback takes it");
    let mut buffer = vec![0; 1 << 16];
    let received = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.ok()?;
    Some(String::from_utf8_lossy(&buffer[..received.ok()?]).into_owned())
}

/// Asks until the answer is this one: a change takes a moment.
async fn ask_until(socket: &UdpSocket, text: &str, wanted: &str) {
    let until = std::time::Instant::now() + DEADLINE;
    loop {
        let answer = ask(socket, text).await;
        if answer.as_deref() == Some(wanted) {
            return;
        }
        assert!(std::time::Instant::now() < until, "the answer is {answer:?}, not {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn each_client_stays_with_one_worker_and_all_workers_serve() {
    let proxy = started(listener("u", "127.0.0.1", "hosts", ""), cluster("hosts", &["$UDP_A"]), 2).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(client("127.0.0.1:0", proxy.listener("u")).await);
    }
    for round in 0..3 {
        for client in &clients {
            let text = round.to_string();
            assert_eq!(ask(client, &text).await, Some(format!("a:{text}")));
        }
    }
    assert_eq!(proxy.stat("udp.p.downstream_sess_total").await, 40);
    assert_eq!(proxy.stat("udp.p.downstream_sess_rx_datagrams").await, 120);
}

#[tokio::test]
async fn a_client_is_answered_from_the_address_that_it_asked() {
    let proxy = started(listener("u", "0.0.0.0", "hosts", ""), cluster("hosts", &["$UDP_A"]), 1).await;
    let port = proxy.listener("u").port();
    for address in ["127.0.0.2", "127.0.0.3"] {
        let asked = SocketAddr::new(address.parse().expect("an address"), port);
        // Connected, it hears nobody else.
        let client = client("127.0.0.1:0", asked).await;
        assert_eq!(ask(&client, "hi").await.as_deref(), Some("a:hi"));
    }
    assert_eq!(proxy.stat("udp.p.downstream_sess_total").await, 2);
}

#[tokio::test]
async fn clients_without_number_cost_no_more_than_the_cluster_may_have() {
    let limited = cluster("hosts", &["$UDP_A"]) + "  circuit_breakers: { thresholds: [{ max_connections: 100 }] }\n";
    let proxy = started(listener("u", "127.0.0.1", "hosts", ""), limited, 1).await;
    let (to, before) = (proxy.listener("u"), proxy.rss());
    let mut sent = 0;
    for third in 0..40 {
        for fourth in 1..=250 {
            // Sources that nobody could answer, as a forger has them.
            let source = format!("127.1.{third}.{fourth}:0");
            let socket = std::net::UdpSocket::bind(&source).expect("loopback has it");
            socket.send_to(b"?", to).expect("loopback takes it");
            sent += 1;
        }
        // No more than the socket has room for at a time.
        let name = "cluster.hosts.upstream_cx_overflow";
        proxy.wait_for_stat(name, u64::saturating_sub(sent, 100)).await;
    }
    assert_eq!(proxy.stat("udp.p.downstream_sess_active").await, 100);
    let grown = proxy.rss().saturating_sub(before);
    assert!(grown < 8 << 20, "{} KB more for {sent} clients", grown >> 10);
}

#[tokio::test]
async fn tcp_and_udp_may_have_the_same_port() {
    let hosts = cluster("hosts", &["$UDP_A"]);
    let free = free_port().to_string();
    let tcp = "- name: t\n  address: { socket_address: { address: 127.0.0.1, port_value: PORT } }\n  filter_chains:\n  - filters:\n    - name: echo\n      typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo }\n";
    let udp = listener("u", "127.0.0.1", "hosts", "").replace("port_value: 0", &format!("port_value: {free}"));
    let proxy = started(tcp.replace("PORT", &free) + &udp, hosts, 1).await;
    let client = client("127.0.0.1:0", proxy.listener("u")).await;
    assert_eq!(ask(&client, "hi").await.as_deref(), Some("a:hi"));
    assert_eq!(proxy.listener("t"), proxy.listener("u"));
}

/// A bootstrap whose listeners come from a file.
fn with_lds() -> Pieces {
    Pieces {
        bootstrap: "dynamic_resources: { lds_config: { path_config_source: { path: $DIR/lds.yaml } } }\n\
                    node: { id: node, cluster: c }\n"
            .to_owned(),
        clusters: cluster("a", &["$UDP_A"]) + &cluster("b", &["$UDP_B"]),
        ..Pieces::default()
    }
}

fn lds(version: u32, listeners: &[String]) -> String {
    let resource = |text: &String| {
        let body = text.replacen("- name", "  name", 1);
        format!("- \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n{}\n", body.trim_end())
    };
    let resources: String = listeners.iter().map(resource).collect();
    let list = if resources.is_empty() { "resources: []\n".to_owned() } else { format!("resources:\n{resources}") };
    format!("version_info: \"{version}\"\n{list}")
}

#[tokio::test]
async fn a_listener_that_is_replaced_keeps_its_socket_and_one_that_is_removed_is_silent() {
    let listener = |cluster: &str| listener("u", "127.0.0.1", cluster, "");
    let proxy = proxy(with_lds().yaml())
        .file("lds.yaml", &lds(1, &[listener("a")]))
        .upstream(crate::support::upstream::http1())
        .run()
        .await;
    let address = proxy.listener_now("u").await.expect("it is there from the start");
    let client = client("127.0.0.1:0", address).await;
    assert_eq!(ask(&client, "one").await.as_deref(), Some("a:one"));
    proxy.replace("lds.yaml", &lds(2, &[listener("b")]));
    ask_until(&client, "two", "b:two").await;
    assert_eq!(proxy.listener_now("u").await, Some(address));
    proxy.wait_for_stat("udp.p.downstream_sess_active", 1).await;
    proxy.replace("lds.yaml", &lds(3, &[]));
    proxy.wait_for_stat("udp.p.downstream_sess_active", 0).await;
    assert_eq!(proxy.listener_now("u").await, None);
}

#[tokio::test]
async fn a_host_that_leaves_takes_its_sessions_with_it() {
    let eds = |ports: &[&str]| {
        let endpoints: String = ports
            .iter()
            .map(|port| format!("    - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}\n"))
            .collect();
        format!(
            "version_info: \"{}\"\nresources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: hosts\n  endpoints:\n  - lb_endpoints:\n{endpoints}",
            ports.join("-")
        )
    };
    let (a, b) = (datagrams::host("a").await.to_string(), datagrams::host("b").await.to_string());
    let hosts = "- name: hosts\n  type: EDS\n  eds_cluster_config: { eds_config: { path_config_source: { path: $DIR/eds.yaml } } }\n";
    let pieces = Pieces {
        listeners: listener("u", "127.0.0.1", "hosts", ""),
        clusters: hosts.to_owned(),
        bootstrap: "node: { id: node, cluster: c }\n".to_owned(),
        ..Pieces::default()
    };
    let proxy =
        proxy(pieces.yaml()).file("eds.yaml", &eds(&[&a])).upstream(crate::support::upstream::http1()).run().await;
    let client = client("127.0.0.1:0", proxy.listener("u")).await;
    assert_eq!(ask(&client, "one").await.as_deref(), Some("a:one"));
    assert_eq!(proxy.stat("udp.p.downstream_sess_active").await, 1);
    proxy.replace("eds.yaml", &eds(&[&b]));
    proxy.wait_for_stat("udp.p.downstream_sess_active", 0).await;
    assert_eq!(ask(&client, "two").await.as_deref(), Some("b:two"));
}

#[tokio::test]
async fn hosts_see_the_address_of_the_client_where_that_is_asked_for() {
    let host = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
    let port = host.local_addr().expect("it is bound").port().to_string();
    let proxy =
        started(listener("u", "127.0.0.1", "hosts", "use_original_src_ip: true"), cluster("hosts", &[&port]), 1).await;
    let client = client("127.0.0.9:0", proxy.listener("u")).await;
    client.send(b"hi").await.expect("loopback takes it");
    let mut buffer = [0; 16];
    match tokio::time::timeout(Duration::from_secs(3), host.recv_from(&mut buffer)).await {
        Ok(received) => assert_eq!(received.expect("it was sent").1.ip().to_string(), "127.0.0.9"),
        // IP_TRANSPARENT needs a capability that not everybody has.
        Err(_) => {
            assert_eq!(proxy.stat("cluster.hosts.udp.sess_tx_errors").await, 1);
            say("SKIPPED hosts_see_the_address_of_the_client: the process may not use IP_TRANSPARENT");
        }
    }
}
