//! Several who ask for the same, and several who could be asked.

use super::{GRPC, Scene, bootstrap_text, plain_listener, routes, wait_for_body};
use crate::support::DEADLINE;
use crate::support::client;
use crate::support::control_plane::{ControlPlane, Kind, named_cluster_at};
use crate::support::ports::free_port;
use crate::support::proxy::proxy;
use std::net::SocketAddr;

#[tokio::test]
async fn two_listeners_share_the_routes_that_both_ask_for() {
    let scene = Scene::new(GRPC).await;
    let port = free_port();
    let second = SocketAddr::from(([127, 0, 0, 1], port));
    scene.plane.set(Kind::Listener, "second", &plain_listener(port).replacen("front", "second", 1));
    wait_for_body(&scene.proxy, second, "a").await;
    let asked = scene.plane.asked();
    let names = asked.iter().filter(|asked| asked.type_url == Kind::Routes.type_url()).map(|asked| &asked.names);
    assert!(names.clone().all(|names| *names == ["routes"]), "{:?}", names.collect::<Vec<_>>());
    scene.plane.set(Kind::Routes, "routes", &routes("none"));
    for address in [scene.front, second] {
        let until = tokio::time::Instant::now() + DEADLINE;
        while client::get(address, "/").await.map(|answer| answer.status()).ok() != Some(503) {
            assert!(tokio::time::Instant::now() < until, "{address} has other routes\n{}", scene.proxy.log());
        }
    }
    // The routes stay for the one that is left.
    scene.plane.remove(Kind::Listener, "front");
    scene.proxy.wait_for_stat("listener_manager.listener_removed", 1).await;
    scene.plane.set(Kind::Routes, "routes", &routes("a"));
    wait_for_body(&scene.proxy, second, "a").await;
}

#[tokio::test]
async fn another_server_is_asked_where_the_first_is_away() {
    let plane = ControlPlane::start().await;
    let port = free_port();
    plane.set(Kind::Listener, "front", &plain_listener(port));
    let answering = "name: routes
virtual_hosts: [{ name: all, domains: ['*'], routes: [{ match: { prefix: / }, direct_response: { status: 200, body: { inline_string: found } } }] }]";
    plane.set(Kind::Routes, "routes", answering);
    plane.set(Kind::Runtime, "layer", &super::runtime("first"));
    let away = named_cluster_at("away", free_port()).trim_end().replace('\n', "\n  ");
    let text = bootstrap_text(plane.port(), GRPC)
        .replace(
            "[{ envoy_grpc: { cluster_name: xds } }]",
            "[{ envoy_grpc: { cluster_name: away } }, { envoy_grpc: { cluster_name: xds } }]",
        )
        .replace("  clusters:\n", &format!("  clusters:\n  {away}\n"));
    let running = proxy(text).run().await;
    wait_for_body(&running, SocketAddr::from(([127, 0, 0, 1], port)), "found").await;
    assert_eq!(running.stat("control_plane.connected_state").await, 1);
}
