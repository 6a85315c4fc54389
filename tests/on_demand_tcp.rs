//! What connections through tcp_proxy ask discovery for.

use super::parity::envoy::programs;
use super::support::DEADLINE;
use super::support::bootstrap::Pieces;
use super::support::control_plane::{ControlPlane, Kind, WAYS, Way};
use super::support::proxy::{Running, binary, proxy, tcp_echo};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const SET_FILTER_STATE: &str = "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config";

/// The counters that tell how connections to clusters that are not there fare, below `tcp.t`.
const COUNTERS: [&str; 5] = [
    "on_demand_cluster_attempt",
    "on_demand_cluster_success",
    "on_demand_cluster_missing",
    "on_demand_cluster_timeout",
    "downstream_cx_no_route",
];

fn deltas() -> impl Iterator<Item = Way> {
    WAYS.into_iter().filter(|way| way.is_delta())
}

/// A proxy whose connections go to cluster `c`, or to what `filters` before say, and are logged.
async fn start(way: Way, plane: &ControlPlane, filters: &str, on_demand: &str) -> Running {
    start_program(&binary(), way, plane, filters, &format!("on_demand: {{ {on_demand} }}")).await
}

/// The same of any program, with these fields of tcp_proxy.
async fn start_program(program: &Path, way: Way, plane: &ControlPlane, filters: &str, fields: &str) -> Running {
    let dynamic = if way.is_aggregated { format!("dynamic_resources: {{ {} }}\n", way.ads()) } else { String::new() };
    let log = "{ name: file, typed_config: { '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/access_log, log_format: { text_format_source: { inline_string: \"%RESPONSE_FLAGS% %UPSTREAM_CLUSTER% %BYTES_SENT%\\n\" } } } }";
    let pieces = Pieces {
        bootstrap: format!("node: {{ id: me, cluster: us }}\n{dynamic}"),
        clusters: plane.cluster(),
        network: format!(
            "{filters}- {{ name: tcp, typed_config: {{ '@type': {TCP_PROXY}, stat_prefix: t, cluster: c, access_log: [{log}], {fields} }} }}\n"
        ),
        ..Pieces::default()
    };
    // Nobody gets there.
    proxy(pieces.yaml().replace("$UPSTREAM", "1")).program(program).run().await
}

fn cluster(name: &str, port: u16) -> String {
    format!(
        "name: {name}
connect_timeout: 1s
load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}"
    )
}

/// What comes back on a connection that sends this, until it is closed or as much has come.
async fn echoed(proxy: &Running, text: &str) -> String {
    let mut client = TcpStream::connect(proxy.addr()).await.expect("it is accepted");
    client.write_all(text.as_bytes()).await.expect("it is sent");
    let mut back = vec![0; text.len()];
    match client.read_exact(&mut back).await {
        Ok(_) => String::from_utf8(back).expect("it is text"),
        Err(_) => "closed".to_owned(),
    }
}

/// The log, once there is a line in it.
async fn logged(proxy: &Running) -> String {
    let until = Instant::now() + DEADLINE;
    loop {
        let log = proxy.file("access_log");
        if log.ends_with('\n') {
            return log;
        }
        assert!(Instant::now() < until, "nothing is logged");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn counters(proxy: &Running) -> [u64; 5] {
    let mut all = [0; 5];
    for (value, name) in all.iter_mut().zip(COUNTERS) {
        *value = proxy.stat(&format!("tcp.t.{name}")).await;
    }
    all
}

async fn a_cluster_is_asked_for(way: Way) {
    let plane = ControlPlane::start().await;
    plane.set(Kind::Cluster, "c", &cluster("c", tcp_echo().await));
    let proxy = start(way, &plane, "", &format!("odcds_config: {}, timeout: 0.3s", way.source(""))).await;
    assert_eq!(echoed(&proxy, "one").await, "one", "{way:?}\n{}", proxy.log());
    assert_eq!(counters(&proxy).await, [1, 1, 0, 0, 0]);
    assert_eq!(echoed(&proxy, "two").await, "two");
    assert_eq!(counters(&proxy).await, [1, 1, 0, 0, 0], "now it is there");
    plane.remove(Kind::Cluster, "c");
    proxy.wait_for_stat("cluster_manager.cluster_removed", 1).await;
    let begun = Instant::now();
    assert_eq!(echoed(&proxy, "three").await, "closed");
    assert!(begun.elapsed() >= Duration::from_millis(300), "it is waited for");
    assert_eq!(counters(&proxy).await, [2, 1, 0, 1, 1]);
    plane.set(Kind::Cluster, "c", &cluster("c", tcp_echo().await));
    proxy.wait_for_stat("cluster_manager.cluster_added", 4).await;
    assert_eq!(echoed(&proxy, "four").await, "four");
    assert_eq!(counters(&proxy).await, [2, 1, 0, 1, 1], "it came late");
}

#[tokio::test]
async fn a_connection_to_an_unknown_cluster_waits_until_it_is_there() {
    for way in deltas() {
        a_cluster_is_asked_for(way).await;
    }
}

#[tokio::test]
async fn a_connection_ends_when_there_is_no_such_cluster() {
    for way in deltas() {
        let plane = ControlPlane::start().await;
        plane.deny("c");
        let proxy = start(way, &plane, "", &format!("odcds_config: {}", way.source(""))).await;
        assert_eq!(echoed(&proxy, "one").await, "closed", "{way:?}\n{}", proxy.log());
        assert_eq!(counters(&proxy).await, [1, 0, 1, 0, 1]);
        assert_eq!(logged(&proxy).await, "NC - 0\n");
        assert_eq!(echoed(&proxy, "two").await, "closed");
        // Envoy does not ask again, and lets it wait in vain.
        assert_eq!(counters(&proxy).await, [2, 0, 2, 0, 2]);
    }
}

#[tokio::test]
async fn the_cluster_that_a_filter_names_is_asked_for() {
    let filter = format!(
        "- {{ name: state, typed_config: {{ '@type': {SET_FILTER_STATE}, on_new_connection: [{{ object_key: envoy.tcp_proxy.cluster, format_string: {{ text_format_source: {{ inline_string: 'own' }} }} }}] }} }}\n"
    );
    let (way, plane) = (WAYS[1], ControlPlane::start().await);
    plane.set(Kind::Cluster, "own", &cluster("own", tcp_echo().await));
    let proxy = start(way, &plane, &filter, &format!("odcds_config: {}", way.source(""))).await;
    assert_eq!(echoed(&proxy, "one").await, "one", "{}", proxy.log());
    assert_eq!(counters(&proxy).await, [1, 1, 0, 0, 0]);
    let asked = plane.wait_for(Kind::Cluster, |asked| asked.names.contains(&"own".to_owned())).await;
    assert_eq!(asked.names, ["own"]);
}

/// A client that resets while its cluster is asked for; `fields` tell how long, and what is read meanwhile.
async fn reset_while_waiting(program: &Path, way: Way, plane: &ControlPlane, fields: &str) -> Running {
    let proxy = start_program(program, way, plane, "", fields).await;
    let mut client = TcpStream::connect(proxy.addr()).await.expect("it is accepted");
    client.write_all(b"some").await.expect("it is sent");
    proxy.wait_for_stat("tcp.t.on_demand_cluster_attempt", 1).await;
    client.set_zero_linger().expect("it is a socket");
    drop(client);
    proxy
}

const ACTIVE: &str = "listener.127.0.0.1_0.downstream_cx_active";

#[tokio::test]
async fn a_connection_that_leaves_while_it_waits_is_not_missed_where_nobody_reads_it() {
    for program in programs() {
        let (way, plane) = (WAYS[1], ControlPlane::start().await);
        let fields = format!("on_demand: {{ odcds_config: {}, timeout: 0.3s }}", way.source(""));
        let proxy = reset_while_waiting(&program, way, &plane, &fields).await;
        proxy.wait_for_stat(ACTIVE, 0).await;
        assert_eq!(counters(&proxy).await, [1, 0, 0, 1, 1], "{program:?}");
        assert_eq!(logged(&proxy).await, "NC - 0\n", "{program:?}");
    }
}

#[tokio::test]
async fn a_connection_that_leaves_while_it_waits_is_missed_at_once_where_it_is_read() {
    for program in programs() {
        let (way, plane) = (WAYS[1], ControlPlane::start().await);
        let fields =
            format!("max_early_data_bytes: 9, on_demand: {{ odcds_config: {}, timeout: 60s }}", way.source(""));
        let proxy = reset_while_waiting(&program, way, &plane, &fields).await;
        proxy.wait_for_stat(ACTIVE, 0).await;
        assert_eq!(counters(&proxy).await, [1, 0, 0, 0, 0], "{program:?}");
        assert_eq!(logged(&proxy).await, "- - 0\n", "{program:?}");
    }
}

#[tokio::test]
async fn nothing_is_asked_for_without_a_source() {
    let (way, plane) = (WAYS[1], ControlPlane::start().await);
    let proxy = start(way, &plane, "", "timeout: 1s").await;
    assert_eq!(echoed(&proxy, "one").await, "closed");
    assert_eq!(counters(&proxy).await, [0, 0, 0, 0, 1]);
    assert_eq!(logged(&proxy).await, "NC - 0\n");
}
