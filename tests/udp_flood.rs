//! Datagrams from sources without number, as a forger sends them: what they cost is bounded, and they are counted.
//!
//! `NUNCIO_FLOOD=1000000` sends a million of them.

use crate::support::bootstrap::Pieces;
use crate::support::proxy::{Running, proxy};
use crate::support::upstream::http1;
use crate::support::{DEADLINE, say};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

/// Sources where it is not told.
const SOURCES: u64 = 50_000;
/// Sessions that the cluster takes.
const MOST: u64 = 100;
/// Bytes by which the process may grow.
const GROWTH: u64 = 16 << 20;

fn sources() -> u64 {
    std::env::var("NUNCIO_FLOOD").ok().and_then(|number| number.parse().ok()).unwrap_or(SOURCES)
}

async fn flooded_proxy() -> Running {
    let listeners = "- name: u
  address: { socket_address: { protocol: UDP, address: 127.0.0.1, port_value: 0 } }
  stat_prefix: u
  listener_filters:
  - name: udp
    typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig, stat_prefix: p, cluster: hosts }
";
    let clusters = format!(
        "- name: hosts
  load_assignment: {{ cluster_name: hosts, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: $UDP_A }} }} }} }}] }}] }}
  circuit_breakers: {{ thresholds: [{{ max_connections: {MOST} }}] }}
"
    );
    proxy(Pieces { listeners: listeners.to_owned(), clusters, ..Pieces::default() }.yaml())
        .upstream(http1())
        .run()
        .await
}

/// The source numbered `number`, of which there are as many as a loopback network has addresses, less two each.
fn source(number: u64) -> SocketAddrV4 {
    let [_, second, third, fourth] = (u32::try_from(number % 8_000_000).unwrap_or(0) + 0x01_00_01).to_be_bytes();
    let fourth = fourth.clamp(1, 254);
    SocketAddrV4::new(Ipv4Addr::new(127, second.max(1), third, fourth), 1024 + (number % 60_000) as u16)
}

/// Sends one datagram from each source, as fast as that goes; says how many left.
fn flood(to: SocketAddr, count: u64) -> u64 {
    let send = |number: u64| -> io::Result<()> {
        let socket = match UdpSocket::bind(source(number)) {
            Ok(socket) => socket,
            // Somebody has this one.
            Err(_) => UdpSocket::bind(SocketAddrV4::new(*source(number).ip(), 0))?,
        };
        socket.send_to(b"?", to).map(drop)
    };
    (0..count).filter(|number| send(*number).is_ok()).count() as u64
}

/// Datagrams that are accounted for, and those of them that the kernel had no room for.
async fn counted(proxy: &Running) -> (u64, u64) {
    let lost = proxy.stat("listener.u.udp.downstream_rx_datagram_dropped").await;
    (proxy.stat("udp.p.downstream_sess_total").await + lost, lost)
}

#[tokio::test]
async fn sources_without_number_cost_no_more_than_the_cluster_may_have() {
    let proxy = flooded_proxy().await;
    let (to, before) = (proxy.listener("u"), proxy.rss());
    let begun = Instant::now();
    let count = sources();
    let sent = tokio::task::spawn_blocking(move || flood(to, count)).await.expect("it ends");
    let took = begun.elapsed();
    // What was lost is told with what comes after it.
    let last = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let (mut more, until) = (0, Instant::now() + DEADLINE);
    let lost = loop {
        let (all, lost) = counted(&proxy).await;
        if all == sent + more {
            break lost;
        }
        assert!(Instant::now() < until, "{all} are counted of {sent} and {more}, {lost} as lost");
        last.send_to(b"?", to).expect("loopback takes it");
        more += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let grown = proxy.rss().saturating_sub(before);
    say(&format!(
        "{sent} datagrams in {took:.1?}: {lost} lost before the proxy had them, {} KiB more of memory, {:.1?} of CPU",
        grown >> 10,
        proxy.cpu_time()
    ));
    assert!(grown < GROWTH, "{} KiB more for {sent} sources", grown >> 10);
    assert_eq!(proxy.stat("udp.p.downstream_sess_active").await, MOST);
    assert_eq!(proxy.stat("cluster.hosts.upstream_cx_overflow").await, sent + more - lost - MOST);
    assert_eq!(proxy.stat("cluster.hosts.udp.sess_tx_datagrams").await, MOST);
    assert_eq!(proxy.stat("udp.p.downstream_sess_no_route").await, 0);
    assert_eq!(proxy.stat("cluster.hosts.circuit_breakers.default.cx_open").await, 1);
}
