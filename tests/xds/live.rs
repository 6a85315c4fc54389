//! What changes under connections that are open: where listeners listen, what their requests are given, and which hosts
//! serve them. Each holds for Envoy 1.40 too, seen by `NUNCIO_BINARY`.

use super::{DELTA_GRPC, GRPC, Scene, cluster, endpoints, filter, listener, routes};
use crate::support::DEADLINE;
use crate::support::client::{self, Client, End};
use crate::support::control_plane::Kind;
use crate::support::h2_client::{H2Client, Outcome};
use crate::support::http1::Message;
use crate::support::ports::free_port;
use crate::support::split::Split;
use crate::support::upstream::{Answer, http1};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
/// A drain that takes so many seconds and tells all at once.
const DRAINS: [&str; 4] = ["--drain-time-s", "2", "--drain-strategy", "immediate"];

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn connect(to: SocketAddr) -> Client {
    Client::connect(to, Split::Whole).await.expect("it accepts")
}

async fn ask(client: &mut Client) -> Message {
    client.request(GET).await.expect("the connection lives")
}

/// Waits until something listens there, or nothing does any longer.
async fn wait_for_listening(scene: &Scene, to: SocketAddr, is_wanted: bool) {
    let until = Instant::now() + DEADLINE;
    while tokio::net::TcpStream::connect(to).await.is_ok() != is_wanted {
        assert!(Instant::now() < until, "{to}\n{}", scene.proxy.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn moves(api_type: &str) {
    let scene = Scene::with_arguments(api_type, &DRAINS).await;
    let (mut busy, mut idle) = (connect(scene.front).await, connect(scene.front).await);
    assert_eq!((ask(&mut busy).await.text(), ask(&mut idle).await.text()), ("a".to_owned(), "a".to_owned()));
    let other = at(free_port());
    scene.plane.set(Kind::Listener, "front", &listener(other.port()));
    wait_for_listening(&scene, other, true).await;
    assert_eq!(client::get(other, "/").await.expect("the new address serves").text(), "a");
    wait_for_listening(&scene, scene.front, false).await;
    assert_eq!(scene.proxy.stat("listener_manager.total_listeners_draining").await, 1);
    let told = ask(&mut busy).await;
    assert_eq!((told.text(), told.header("connection")), ("a".to_owned(), Some("close")), "it is told to leave");
    assert_eq!(idle.end(DEADLINE).await.expect("nothing is sent"), End::Closed, "the drain time has passed");
    scene.proxy.wait_for_stat("listener_manager.total_listeners_draining", 0).await;
    for (stat, value) in [("listener_added", 1), ("listener_modified", 1), ("listener_removed", 0)] {
        assert_eq!(scene.proxy.stat(&format!("listener_manager.{stat}")).await, value, "{stat}");
    }
    assert_eq!(client::get(other, "/").await.expect("it goes on serving").text(), "a");
}

#[tokio::test]
async fn a_listener_moves_to_another_address_in_the_state_of_the_world() {
    moves(GRPC).await;
}

#[tokio::test]
async fn a_listener_moves_to_another_address_among_changes() {
    moves(DELTA_GRPC).await;
}

#[tokio::test]
async fn further_addresses_of_a_listener_come_and_go() {
    let scene = Scene::with_arguments(DELTA_GRPC, &DRAINS).await;
    let further = at(free_port());
    let mut open = connect(scene.front).await;
    assert_eq!(ask(&mut open).await.text(), "a");
    let address = format!("socket_address: {{ address: 127.0.0.1, port_value: {} }}", further.port());
    let both = listener(scene.front.port()).replace(
        "\nfilter_chains",
        &format!("\nadditional_addresses: [{{ address: {{ {address} }} }}]\nfilter_chains"),
    );
    scene.plane.set(Kind::Listener, "front", &both);
    wait_for_listening(&scene, further, true).await;
    for to in [further, scene.front] {
        assert_eq!(client::get(to, "/").await.expect("both serve").text(), "a", "{to}");
    }
    assert_eq!(ask(&mut open).await.text(), "a", "who is connected is served on");
    scene.plane.set(Kind::Listener, "front", &listener(scene.front.port()));
    wait_for_listening(&scene, further, false).await;
    assert_eq!(scene.get().await.text(), "a");
    assert_eq!(scene.proxy.stat("listener_manager.total_listeners_active").await, 1);
}

/// Asks over connections of its own until it is told to stop; none may be refused.
async fn ask_all_the_time(to: SocketAddr, stop: Arc<AtomicBool>) -> Result<u32, String> {
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        let response = client::get(to, "/").await.map_err(|error| format!("after {answered}: {error}"))?;
        if response.status() != 200 {
            return Err(format!("after {answered}: {}", response.status()));
        }
        answered += 1;
    }
    Ok(answered)
}

#[tokio::test]
async fn another_listener_takes_over_a_port_without_refusing_anybody() {
    let scene = Scene::with_arguments(GRPC, &DRAINS).await;
    assert_eq!(scene.get().await.text(), "a");
    let stop = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn(ask_all_the_time(scene.front, stop.clone()));
    let other = listener(scene.front.port()).replace("name: front", "name: other");
    // The one goes and the other comes in one response.
    scene.plane.replace(Kind::Listener, "front", "other", &other);
    scene.proxy.wait_for_stat("listener_manager.listener_removed", 1).await;
    scene.proxy.wait_for_stat("listener_manager.total_listeners_draining", 0).await;
    stop.store(true, Ordering::Relaxed);
    assert!(asking.await.expect("no panic").expect("nobody is refused") > 0);
    assert_eq!(scene.get().await.text(), "a");
    assert_eq!(scene.proxy.stat("listener_manager.total_listeners_active").await, 1);
}

async fn a_port_that_is_taken(api_type: &str) {
    let scene = Scene::with_arguments(api_type, &DRAINS).await;
    assert_eq!(scene.get().await.text(), "a");
    let other = listener(scene.front.port()).replace("name: front", "name: other");
    scene.plane.set(Kind::Listener, "other", &other);
    let nack = scene.plane.wait_for(Kind::Listener, |asked| asked.error.is_some()).await;
    let (error, port) = (nack.error.unwrap_or_default(), scene.front.port());
    let told =
        format!("other: error adding listener: 'other' has duplicate address '127.0.0.1:{port}' as existing listener");
    assert!(error.contains(&told), "{error:?}");
    assert_eq!(scene.get().await.text(), "a");
    // The one that has it moves, and the other is sent again.
    let elsewhere = at(free_port());
    scene.plane.set(Kind::Listener, "front", &listener(elsewhere.port()));
    wait_for_listening(&scene, elsewhere, true).await;
    scene.plane.set(
        Kind::Listener,
        "other",
        &format!("{other}\n# again\n").replace("stat_prefix: front", "stat_prefix: other"),
    );
    scene.proxy.wait_for_stat("listener_manager.listener_added", 2).await;
    wait_for_listening(&scene, scene.front, true).await;
    for to in [elsewhere, scene.front] {
        assert_eq!(client::get(to, "/").await.expect("both serve").text(), "a", "{to}");
    }
}

#[tokio::test]
async fn a_port_that_a_listener_left_is_there_for_another_in_the_state_of_the_world() {
    a_port_that_is_taken(GRPC).await;
}

#[tokio::test]
async fn a_port_that_a_listener_left_is_there_for_another_among_changes() {
    a_port_that_is_taken(DELTA_GRPC).await;
}

/// One connection of each protocol.
struct Open {
    http1: Client,
    http2: H2Client,
}

impl Open {
    async fn new(to: SocketAddr) -> Self {
        let http2 = H2Client::connect(to, Split::Whole).await.expect("it accepts");
        Self { http1: connect(to).await, http2 }
    }

    async fn ask(&mut self) -> [Message; 2] {
        let head = http::Request::get("http://a/").body(()).expect("it is a request");
        let second = match self.http2.request(head, b"", None).await {
            Outcome::Response(message) => message,
            Outcome::Reset(reason) => panic!("the stream was reset: {reason}"),
        };
        [ask(&mut self.http1).await, second]
    }

    /// Asks until both answers fit.
    async fn wait_for(&mut self, scene: &Scene, what: &str, fits: impl Fn(&Message) -> bool) {
        let until = Instant::now() + DEADLINE;
        loop {
            let answers = self.ask().await;
            if answers.iter().all(&fits) {
                return;
            }
            assert!(Instant::now() < until, "{what}: {answers:?}\n{}", scene.proxy.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn next_requests_see_what_is_new(api_type: &str) {
    let scene = Scene::new(api_type).await;
    let slow = http1().answer("/", Answer::ok("slow").after(Duration::from_secs(2))).start().await;
    let mut open = Open::new(scene.front).await;
    for answer in open.ask().await {
        assert_eq!((answer.text(), answer.header("x-found")), ("a".to_owned(), Some("first")));
    }
    // A filter, then routes, then a time-out of a route to a cluster that is new.
    scene.plane.set(Kind::Extension, "found", &filter("second"));
    open.wait_for(&scene, "a filter", |answer| answer.header("x-found") == Some("second")).await;
    let marked = format!("{}\nresponse_headers_to_add: [{{ header: {{ key: x-mark, value: new }} }}]", routes("a"));
    scene.plane.set(Kind::Routes, "routes", &marked);
    open.wait_for(&scene, "routes", |answer| answer.header("x-mark") == Some("new")).await;
    scene.plane.set(Kind::Cluster, "slow", &cluster("slow"));
    scene.plane.set(Kind::Endpoints, "slow", &endpoints("slow", slow.port()));
    scene.proxy.wait_for_stat("cluster_manager.active_clusters", 3).await;
    let hasty = routes("slow").replace("cluster: slow", "cluster: slow, timeout: 0.2s");
    scene.plane.set(Kind::Routes, "routes", &hasty);
    open.wait_for(&scene, "a time-out", |answer| answer.status() == 504).await;
    let patient = routes("slow").replace("cluster: slow", "cluster: slow, timeout: 20s");
    scene.plane.set(Kind::Routes, "routes", &patient);
    open.wait_for(&scene, "no time-out", |answer| answer.text() == "slow").await;
    assert_eq!(scene.proxy.stat("http.front.downstream_cx_total").await, 2, "these connections and no others");
}

#[tokio::test]
async fn open_connections_see_what_is_new_in_the_state_of_the_world() {
    next_requests_see_what_is_new(GRPC).await;
}

#[tokio::test]
async fn open_connections_see_what_is_new_among_changes() {
    next_requests_see_what_is_new(DELTA_GRPC).await;
}

#[tokio::test]
async fn a_request_that_is_under_way_outlives_its_cluster_and_its_route() {
    let scene = Scene::new(GRPC).await;
    let slow = http1().answer("/", Answer::ok("slow").after(Duration::from_millis(1500))).start().await;
    scene.plane.set(Kind::Cluster, "slow", &cluster("slow"));
    scene.plane.set(Kind::Endpoints, "slow", &endpoints("slow", slow.port()));
    scene.proxy.wait_for_stat("cluster_manager.active_clusters", 3).await;
    scene.plane.set(Kind::Routes, "routes", &routes("slow"));
    scene.proxy.wait_for_stat("http.front.rds.routes.config_reload", 2).await;
    let mut open = connect(scene.front).await;
    let asked = tokio::spawn(async move { ask(&mut open).await });
    scene.proxy.wait_for_stat("cluster.slow.upstream_rq_active", 1).await;
    scene.plane.set(Kind::Routes, "routes", &routes("a"));
    scene.plane.remove(Kind::Cluster, "slow");
    scene.plane.remove(Kind::Endpoints, "slow");
    scene.proxy.wait_for_stat("cluster_manager.cluster_removed", 1).await;
    assert!(!asked.is_finished(), "the test is slower than the host");
    assert_eq!(asked.await.expect("no panic").text(), "slow");
    assert_eq!(scene.get().await.text(), "a");
    assert_eq!(scene.proxy.stat("cluster_manager.active_clusters").await, 2);
}

fn two_endpoints(name: &str, ports: [u16; 2]) -> String {
    let host = |port: u16| {
        format!("{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}")
    };
    format!("cluster_name: {name}\nendpoints: [{{ lb_endpoints: [{}, {}] }}]", host(ports[0]), host(ports[1]))
}

/// Connections that a host has seen, from 0.
fn connections(upstream: &crate::support::upstream::Upstream) -> Vec<usize> {
    let mut seen: Vec<usize> = upstream.take_received().iter().map(|received| received.connection).collect();
    seen.dedup();
    seen
}

#[tokio::test]
async fn a_host_that_stays_keeps_its_connections() {
    let scene = Scene::new(GRPC).await;
    let (a, b) = (scene.a.port(), scene.b.port());
    assert_eq!(scene.get().await.text(), "a");
    scene.plane.set(Kind::Endpoints, "a", &two_endpoints("a", [a, b]));
    scene.wait_for("b").await;
    scene.plane.set(Kind::Endpoints, "a", &endpoints("a", a));
    scene.proxy.wait_for_stat("cluster.a.membership_total", 1).await;
    scene.wait_for("a").await;
    assert_eq!(connections(&scene.a), [0], "one connection all the time");
    assert_eq!(scene.proxy.stat("cluster.a.upstream_cx_total").await, 2);
    // What is not known by the host itself leaves it as it is.
    scene.plane.set(
        Kind::Endpoints,
        "a",
        &endpoints("a", a).replace("lb_endpoints: [{", "lb_endpoints: [{ load_balancing_weight: 7,"),
    );
    scene.proxy.wait_for_stat("cluster.a.update_success", 4).await;
    assert_eq!(scene.get().await.text(), "a");
    assert_eq!(connections(&scene.a), [0]);
    // Nor does what is said of it make it another one.
    let changes = scene.proxy.stat("cluster.a.membership_change").await;
    let described = "lb_endpoints: [{ metadata: { filter_metadata: { envoy.lb: { canary: true } } },";
    scene.plane.set(Kind::Endpoints, "a", &endpoints("a", a).replace("lb_endpoints: [{", described));
    scene.proxy.wait_for_stat("cluster.a.update_success", 5).await;
    assert_eq!(scene.get().await.text(), "a");
    assert_eq!(connections(&scene.a), [0]);
    assert!(scene.proxy.admin("/clusters").await.contains("::canary::true"));
    assert_eq!(scene.proxy.stat("cluster.a.membership_change").await, changes);
    assert_eq!(scene.proxy.stat("cluster.a.upstream_cx_total").await, 2);
}

#[tokio::test]
async fn a_cluster_that_is_gone_leaves_nothing_behind_where_no_request_comes() {
    let scene = Scene::new(GRPC).await;
    let changed = cluster("c").replace("connect_timeout:", "max_requests_per_connection: 7\nconnect_timeout:");
    for next in [Some(changed), None] {
        scene.plane.set(Kind::Endpoints, "c", &endpoints("c", scene.b.port()));
        scene.plane.set(Kind::Cluster, "c", &cluster("c"));
        scene.plane.set(Kind::Routes, "routes", &routes("c"));
        scene.wait_for("b").await;
        scene.plane.set(Kind::Routes, "routes", &routes("a"));
        scene.wait_for("a").await;
        assert_eq!(scene.proxy.stat("cluster.c.upstream_cx_active").await, 1);
        match &next {
            Some(changed) => scene.plane.set(Kind::Cluster, "c", changed),
            None => scene.plane.remove(Kind::Cluster, "c"),
        }
        // Nobody asks for anything from here on.
        let until = Instant::now() + DEADLINE;
        while scene.proxy.stat("cluster.c.upstream_cx_active").await != 0 {
            assert!(Instant::now() < until, "its connection is open");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if next.is_none() {
            while scene.proxy.admin("/stats").await.contains("cluster.c.") {
                assert!(Instant::now() < until, "it is still counted");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test]
async fn what_an_assignment_says_of_health_counts_at_once() {
    let scene = Scene::new(GRPC).await;
    let (a, b) = (scene.a.port(), scene.b.port());
    scene.plane.set(Kind::Endpoints, "a", &two_endpoints("a", [a, b]));
    scene.wait_for("b").await;
    // Several changes within `update_merge_window`, which holds back what checks find out alone.
    for (updates, health) in (3..).zip(["DRAINING", "HEALTHY", "UNHEALTHY", "HEALTHY", "DRAINING"]) {
        let told = two_endpoints("a", [a, b]).replace("}, {", &format!("}}, {{ health_status: {health}, "));
        scene.plane.set(Kind::Endpoints, "a", &told);
        scene.proxy.wait_for_stat("cluster.a.update_success", updates).await;
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(scene.get().await.text());
        }
        assert_eq!(answers.contains(&"b".to_owned()), health == "HEALTHY", "{health}: {answers:?}");
    }
    assert_eq!(scene.proxy.stat("cluster_manager.cluster_updated_via_merge").await, 0);
}

fn checked(name: &str, further: &str) -> String {
    format!(
        "{}\n{further}\nhealth_checks: [{{ timeout: 1s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{ path: /healthy }} }}]",
        cluster(name)
    )
}

#[tokio::test]
async fn a_host_that_stays_keeps_its_health() {
    let scene = Scene::new(GRPC).await;
    let sick = http1().answer("/healthy", Answer::bytes("HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n"));
    let sick = sick.route("/", "sick").start().await;
    let well = http1().route("/", "well").start().await;
    scene.plane.set(Kind::Endpoints, "c", &two_endpoints("c", [sick.port(), well.port()]));
    scene.plane.set(Kind::Cluster, "c", &checked("c", ""));
    scene.proxy.wait_for_stat("cluster.c.membership_healthy", 1).await;
    scene.plane.set(Kind::Routes, "routes", &routes("c"));
    scene.wait_for("well").await;
    let only_well = async |what: &str| {
        for _ in 0..10 {
            assert_eq!(scene.get().await.text(), "well", "{what}");
        }
    };
    only_well("as it was found").await;
    // Another weight of the other one, then another setting of the cluster itself.
    let weighed = two_endpoints("c", [sick.port(), well.port()]).replace("}, {", "}, { load_balancing_weight: 3, ");
    scene.plane.set(Kind::Endpoints, "c", &weighed);
    scene.proxy.wait_for_stat("cluster.c.update_success", 2).await;
    only_well("after EDS").await;
    scene.plane.set(Kind::Cluster, "c", &checked("c", "per_connection_buffer_limit_bytes: 65536"));
    scene.proxy.wait_for_stat("cluster_manager.cluster_modified", 1).await;
    only_well("after CDS").await;
}

#[tokio::test]
async fn what_is_as_it_was_is_not_looked_at() {
    let scene = Scene::with_arguments(GRPC, &["-l", "debug"]).await;
    assert_eq!(scene.get().await.text(), "a");
    for number in 0..3 {
        scene.plane.set(Kind::Cluster, &format!("c{number}"), &cluster(&format!("c{number}")));
        scene.plane.set(Kind::Endpoints, &format!("c{number}"), &endpoints(&format!("c{number}"), scene.b.port()));
        scene.proxy.wait_for_stat("cluster_manager.cluster_added", 3 + number).await;
    }
    assert_eq!(scene.proxy.stat("cluster_manager.cluster_modified").await, 0);
    assert!(scene.proxy.log().contains("CDS: 3 of 4 resources are as they were"), "{}", scene.proxy.log());
}
