//! What a control plane takes back, or says not to have, while it is waited for. All holds for Envoy 1.40 too, seen by
//! `NUNCIO_BINARY`.

use super::{DELTA_GRPC, GRPC, Scene, plain_listener};
use crate::support::DEADLINE;
use crate::support::control_plane::Kind;
use crate::support::ports::free_port;
use std::time::{Duration, Instant};

const DRAINS: [&str; 4] = ["--drain-time-s", "1", "--drain-strategy", "immediate"];
const WARMING: &str = "listener_manager.total_listeners_warming";

/// A listener that asks for routes that nobody has.
fn waiting(port: u16, routes: &str) -> String {
    plain_listener(port).replace("route_config_name: routes", &format!("route_config_name: {routes}"))
}

/// Waits until nothing of this name is asked for any more.
async fn wait_for_unsubscription(scene: &Scene, api_type: &str, kind: Kind, name: &str) {
    let name = name.to_owned();
    scene.plane.wait_for(kind, |asked| asked.names.contains(&name)).await;
    let is_gone = || {
        let mut asked = scene.plane.asked().into_iter().filter(|asked| asked.type_url == kind.type_url());
        match api_type {
            GRPC => asked.next_back().is_some_and(|asked| !asked.names.contains(&name)),
            _ => asked.any(|asked| asked.unsubscribed.contains(&name)),
        }
    };
    let until = Instant::now() + DEADLINE;
    while !is_gone() {
        assert!(Instant::now() < until, "{name} is asked for still: {:#?}", scene.plane.asked());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether nobody has bound the port, listening or not.
fn is_free(port: u16) -> bool {
    let socket = tokio::net::TcpSocket::new_v4().expect("sockets are to be had");
    socket.bind(([127, 0, 0, 1], port).into()).is_ok()
}

async fn wait_for_listening(scene: &Scene, port: u16, is_wanted: bool) {
    let until = Instant::now() + DEADLINE;
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() != is_wanted {
        assert!(Instant::now() < until, "{port}\n{}", scene.proxy.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_listener_that_goes_while_its_successor_waits_leaves_nothing() {
    for api_type in [GRPC, DELTA_GRPC] {
        let scene = Scene::with_arguments(api_type, &DRAINS).await;
        let port = scene.front.port();
        scene.plane.set(Kind::Listener, "front", &waiting(port, "never"));
        scene.proxy.wait_for_stat(WARMING, 1).await;
        assert_eq!(scene.get().await.text(), "a", "the old one serves");
        scene.plane.remove(Kind::Listener, "front");
        scene.proxy.wait_for_stat(WARMING, 0).await;
        wait_for_listening(&scene, port, false).await;
        wait_for_unsubscription(&scene, api_type, Kind::Routes, "never").await;
        scene.plane.set(Kind::Listener, "front", &plain_listener(port));
        scene.wait_for("a").await;
    }
}

#[tokio::test]
async fn a_listener_that_waits_gives_its_port_back_when_another_takes_its_place() {
    for api_type in [GRPC, DELTA_GRPC] {
        let scene = Scene::with_arguments(api_type, &DRAINS).await;
        let (first, second) = (free_port(), free_port());
        scene.plane.set(Kind::Listener, "new", &waiting(first, "never").replace("name: front", "name: new"));
        scene.proxy.wait_for_stat(WARMING, 1).await;
        assert!(!is_free(first), "it is bound");
        scene.plane.set(Kind::Listener, "new", &waiting(second, "neither").replace("name: front", "name: new"));
        wait_for_unsubscription(&scene, api_type, Kind::Routes, "never").await;
        assert!(is_free(first));
        assert_eq!(scene.proxy.stat(WARMING).await, 1);
        scene.plane.remove(Kind::Listener, "new");
        wait_for_unsubscription(&scene, api_type, Kind::Routes, "neither").await;
    }
}

#[tokio::test]
async fn a_cluster_that_goes_while_it_waits_asks_for_its_secret_no_longer() {
    for api_type in [GRPC, DELTA_GRPC] {
        let scene = Scene::new(api_type).await;
        let source = "{ ads: {}, resource_api_version: V3 }";
        scene.plane.set(Kind::Cluster, "safe", &super::warming::safe(source));
        scene.proxy.wait_for_stat("cluster_manager.warming_clusters", 1).await;
        scene.plane.remove(Kind::Cluster, "safe");
        scene.proxy.wait_for_stat("cluster_manager.warming_clusters", 0).await;
        wait_for_unsubscription(&scene, api_type, Kind::Secret, "ca").await;
    }
}

#[tokio::test]
async fn a_listener_whose_routes_are_not_there_yet_waits_until_they_are() {
    let scene = Scene::with_arguments(DELTA_GRPC, &DRAINS).await;
    scene.plane.deny("late");
    scene.plane.set(Kind::Listener, "front", &waiting(scene.front.port(), "late"));
    scene.proxy.wait_for_stat(WARMING, 1).await;
    scene.plane.wait_for(Kind::Routes, |asked| asked.names.contains(&"late".to_owned())).await;
    // The server has said that there are none, and is heard once more.
    scene.plane.set(Kind::Cluster, "other", "name: other\nconnect_timeout: 1s");
    scene.proxy.wait_for_stat("cluster_manager.cluster_added", 3).await;
    assert_eq!(scene.proxy.stat(WARMING).await, 1);
    assert_eq!(scene.get().await.text(), "a", "the old one serves");
    let late = super::routes("a").replace("name: routes", "name: late");
    scene.plane.set(
        Kind::Routes,
        "late",
        &late.replace("route: { cluster: a }", "direct_response: { status: 200, body: { inline_string: late } }"),
    );
    scene.wait_for("late").await;
    scene.proxy.wait_for_stat(WARMING, 0).await;
}
