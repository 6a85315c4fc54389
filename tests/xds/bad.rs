//! What a control plane that is broken sends: it is told why, and what was in force serves on.

use super::{GRPC, Scene, bootstrap_text, cluster, endpoints, listener, routes};
use crate::support::DEADLINE;
use crate::support::client;
use crate::support::control_plane::Kind;
use crate::support::ports::free_port;
use crate::support::proxy::proxy;
use nuncio_proto::envoy::config::cluster::v3::Cluster;
use nuncio_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use nuncio_proto::envoy::config::route::v3::RouteConfiguration;
use nuncio_proto::envoy::service::discovery::v3::DiscoveryResponse;
use nuncio_proto::google::protobuf::Any;
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn any(kind: Kind, value: Vec<u8>) -> Any {
    Any { type_url: kind.type_url().to_owned(), value }
}

fn response(kind: Kind, nonce: &str, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: nonce.to_owned(),
        nonce: nonce.to_owned(),
        type_url: kind.type_url().to_owned(),
        resources,
        ..Default::default()
    }
}

fn named(name: &str) -> Any {
    any(Kind::Cluster, Cluster { name: name.to_owned(), ..Default::default() }.encode_to_vec())
}

/// Sends the response; it is refused for `reason`, and all serves on.
async fn refused(kind: Kind, resources: Vec<Any>, reason: &str) {
    let scene = Scene::new(GRPC).await;
    scene.plane.send(response(kind, "broken", resources));
    let nack = scene.plane.wait_for(kind, |asked| asked.nonce == "broken").await;
    let error = nack.error.expect("it is refused");
    assert!(error.contains(reason), "{error:?} does not tell of {reason:?}");
    assert_ne!(nack.version, "broken");
    assert_eq!(scene.get().await.text(), "a");
}

/// The clusters that are in force, and what is to be refused beside them.
fn beside(broken: Vec<Any>) -> Vec<Any> {
    let good = Kind::Cluster.encode(&cluster("a"));
    std::iter::once(any(Kind::Cluster, good)).chain(broken).collect()
}

#[tokio::test]
async fn a_resource_of_another_type_is_refused() {
    let other = Any { type_url: Kind::Listener.type_url().to_owned(), value: Vec::new() };
    refused(Kind::Cluster, beside(vec![other]), "does not match").await;
}

#[tokio::test]
async fn a_name_that_comes_twice_is_refused() {
    refused(Kind::Cluster, beside(vec![named("twice"), named("twice")]), "duplicate cluster twice").await;
}

#[tokio::test]
async fn a_resource_without_a_name_is_refused() {
    refused(Kind::Cluster, beside(vec![named("")]), "name: value length must be at least 1 characters").await;
}

/// What cannot be told apart by a name may be any of those that are wanted.
#[tokio::test]
async fn what_was_asked_for_by_name_is_refused_where_it_has_none() {
    for (kind, stat) in [(Kind::Endpoints, "cluster.a"), (Kind::Routes, "http.front.rds.routes")] {
        for value in [Vec::new(), vec![0xff; 3]] {
            let scene = Scene::new(GRPC).await;
            scene.plane.send(response(kind, "broken", vec![any(kind, value)]));
            let nack = scene.plane.wait_for(kind, |asked| asked.nonce == "broken").await;
            assert!(nack.error.is_some_and(|error| !error.is_empty()), "{kind:?}");
            scene.proxy.wait_for_stat(&format!("{stat}.update_rejected"), 1).await;
            assert_eq!(scene.get().await.text(), "a");
        }
    }
}

#[tokio::test]
async fn what_was_asked_for_by_name_may_come_twice() {
    let scene = Scene::new(GRPC).await;
    for (kind, first, second) in [
        (Kind::Endpoints, endpoints("a", scene.b.port()), endpoints("a", scene.a.port())),
        (Kind::Routes, routes("a"), routes("none")),
    ] {
        let both = [first, second].map(|yaml| any(kind, kind.encode(&yaml)));
        scene.plane.send(response(kind, "twice", both.into()));
        let answer = scene.plane.wait_for(kind, |asked| asked.nonce == "twice").await;
        assert_eq!(answer.error, None);
    }
    scene.wait_for("b").await;
}

#[tokio::test]
async fn a_listener_with_a_filter_that_nobody_knows_is_refused() {
    let text = listener(free_port()).replace("name: front", "name: broken");
    let mut bytes = Kind::Listener.encode(&text);
    let known = b"http_connection_manager.v3.HttpConnectionManager";
    let at = bytes.windows(known.len()).position(|w| w == known).expect("it has one");
    bytes[at] = b'X';
    let scene = Scene::new(GRPC).await;
    scene.plane.set_bytes(Kind::Listener, "broken", bytes);
    let nack = scene.plane.wait_for(Kind::Listener, |asked| asked.error.is_some()).await;
    let error = nack.error.unwrap_or_default();
    assert!(error.contains("broken: ") && error.contains("Xttp_connection_manager"), "{error}");
    assert_eq!(scene.get().await.text(), "a");
}

#[tokio::test]
async fn what_nobody_asked_for_changes_nothing() {
    let scene = Scene::new(GRPC).await;
    let table = RouteConfiguration { name: "others".to_owned(), ..Default::default() };
    scene.plane.send(response(Kind::Routes, "r", vec![any(Kind::Routes, table.encode_to_vec())]));
    scene.plane.wait_for(Kind::Routes, |asked| asked.nonce == "r" && asked.error.is_none()).await;
    let hosts = ClusterLoadAssignment { cluster_name: "others".to_owned(), ..Default::default() };
    scene.plane.send(response(Kind::Endpoints, "e", vec![any(Kind::Endpoints, hosts.encode_to_vec())]));
    scene.plane.wait_for(Kind::Endpoints, |asked| asked.nonce == "e" && asked.error.is_none()).await;
    assert_eq!(scene.get().await.text(), "a");
}

#[tokio::test]
async fn a_response_of_100_megabytes_is_read_and_told_about() {
    let scene = Scene::new(GRPC).await;
    scene.plane.send(response(Kind::Cluster, "big", beside(vec![any(Kind::Cluster, vec![0xff; 100 << 20])])));
    let nack = scene.plane.wait_for(Kind::Cluster, |asked| asked.nonce == "big").await;
    assert!(nack.error.is_some_and(|error| error.len() < 64 << 10), "what is told is short");
    assert_eq!(scene.get().await.text(), "a");
}

#[tokio::test]
async fn refusals_without_end_leave_all_serving() {
    let scene = Scene::new(GRPC).await;
    for round in 0..200 {
        scene.plane.send(response(Kind::Cluster, &format!("broken {round}"), beside(vec![named("")])));
    }
    scene.plane.wait_for(Kind::Cluster, |asked| asked.nonce == "broken 199" && asked.error.is_some()).await;
    assert_eq!(scene.get().await.text(), "a");
    scene.plane.set(Kind::Endpoints, "a", &endpoints("a", scene.b.port()));
    scene.wait_for("b").await;
}

/// A server that takes connections and does this with each.
async fn odd_server<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let count = Arc::new(AtomicUsize::new(0));
    let taken = count.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            taken.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(socket));
        }
    });
    (port, count)
}

/// A bootstrap that waits for its first resources only for a moment.
fn waiting_a_moment(port: u16) -> String {
    let text = bootstrap_text(port, GRPC);
    let text = text.replace("cds_config: {", "cds_config: { initial_fetch_timeout: 0.2s,");
    text.replace("lds_config: {", "lds_config: { initial_fetch_timeout: 0.2s,")
}

#[tokio::test]
async fn a_server_that_never_answers_is_waited_for_so_long_and_no_longer() {
    let (port, _) = odd_server(|mut socket| async move {
        let mut sink = Vec::new();
        // Until the proxy goes.
        let _ = socket.read_to_end(&mut sink).await;
    })
    .await;
    let proxy = proxy(waiting_a_moment(port)).run().await;
    assert_eq!(client::get(proxy.admin, "/ready").await.expect("admin answers").text(), "LIVE\n");
    assert_eq!(proxy.stat("cluster_manager.cds.init_fetch_timeout").await, 1);
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_not_besieged() {
    let (port, count) = odd_server(|socket| async move { drop(socket) }).await;
    let proxy = proxy(waiting_a_moment(port)).run().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Each stream takes one connection, and pauses are random below bounds that double from half a second.
    let connections = count.load(Ordering::Relaxed);
    assert!((1..40).contains(&connections), "{connections} connections in two seconds");
    let told = proxy.log();
    assert!(told.contains("reset reason: connection termination"), "{told}");
}

#[tokio::test]
async fn a_server_that_fell_silent_is_left_where_pings_are_asked_for() {
    let (port, count) = odd_server(|mut socket| async move {
        // SETTINGS, and then nothing more, not even the answer to a ping.
        let _ = socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        let mut sink = Vec::new();
        let _ = socket.read_to_end(&mut sink).await;
    })
    .await;
    let pings = "http2_protocol_options: { connection_keepalive: { interval: 0.2s, timeout: 0.2s } }";
    let text = waiting_a_moment(port).replace("http2_protocol_options: {}", pings);
    assert!(text.contains(pings), "{text}");
    let proxy = proxy(text).run().await;
    let until = Instant::now() + DEADLINE;
    while count.load(Ordering::Relaxed) < 2 {
        assert!(Instant::now() < until, "it is not left\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
