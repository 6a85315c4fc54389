//! What was accepted last serves while the control plane is away (`--xds-cache-dir`).

use super::{
    DELTA_GRPC, GRPC, Scene, bootstrap_at, bootstrap_text, cluster, endpoints, filter, listener, routes, runtime,
};
use crate::support::DEADLINE;
use crate::support::client;
use crate::support::control_plane::{ControlPlane, Kind};
use crate::support::ports::free_port;
use crate::support::proxy::{Running, proxy};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is kept of a scene.
const KINDS: [&str; 6] = ["cds", "ecds", "eds", "lds", "rds", "rtds"];

/// A folder that goes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nuncio-xds-cache-{}-{name}", std::process::id()));
        // Left over by a test that was cut off.
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn argument(&self) -> String {
        format!("--xds-cache-dir={}", self.0.display())
    }

    fn kinds(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.0).map(|files| files.flatten().collect::<Vec<_>>()).unwrap_or_default();
        let names = files.iter().map(|file| file.file_name().to_string_lossy().into_owned());
        let mut kinds: Vec<_> =
            names.filter(|n| n.ends_with(".pb")).filter_map(|n| Some(n.split_once('-')?.0.to_owned())).collect();
        kinds.sort();
        kinds
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn ready(proxy: &Running) -> String {
    client::get(proxy.admin, "/ready").await.expect("admin answers").text()
}

async fn wait_until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !is_so().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn starts_while_the_server_is_away_and_finds_it_again(api_type: &str) {
    let folder = Folder::new(api_type);
    let scene = Scene::with_arguments(api_type, &[&folder.argument()]).await;
    scene.wait_for("a").await;
    assert_eq!(ready(&scene.proxy).await, "LIVE\n");
    scene.plane.set(Kind::Cluster, "gone", &cluster("gone"));
    scene.plane.set(Kind::Endpoints, "gone", &endpoints("gone", 1));
    scene.proxy.wait_for_stat("cluster_manager.active_clusters", 3).await;
    wait_until("all is written", async || folder.kinds() == KINDS).await;
    // The last change gathers with others before it is written.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let Scene { plane, proxy, a, b, front } = scene;
    drop((plane, proxy));
    // Nothing listens there yet.
    let port = free_port();
    let proxy = bootstrap_at(port, api_type).argument(&folder.argument()).run().await;
    let body = async || client::get(front, "/").await.map(|response| response.text()).unwrap_or_default();
    wait_until("what was kept serves", async || body().await == "a").await;
    let text = ready(&proxy).await;
    assert!(text.starts_with("LIVE\nfrom the cache: "), "{text}");
    for kind in KINDS {
        assert!(text.contains(&format!(" {} from ads", kind.to_uppercase())), "{kind}: {text}");
    }
    let plane = ControlPlane::start_at(port).await;
    plane.set(Kind::Cluster, "a", &cluster("a"));
    plane.set(Kind::Endpoints, "a", &endpoints("a", b.port()));
    plane.set(Kind::Listener, "front", &listener(front.port()));
    plane.set(Kind::Routes, "routes", &routes("a"));
    plane.set(Kind::Extension, "found", &filter("first"));
    plane.set(Kind::Runtime, "layer", &runtime("first"));
    wait_until("the server is heard", async || body().await == "b").await;
    wait_until("nothing is from the cache", async || ready(&proxy).await == "LIVE\n").await;
    // What the server does not know of goes, at once or after a while.
    let until = Instant::now() + Duration::from_secs(40);
    while proxy.stat("cluster_manager.active_clusters").await != 2 {
        assert!(Instant::now() < until, "a cluster of the cache stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(body().await, "b");
    drop(a);
}

#[tokio::test]
async fn the_state_of_the_world_is_kept_for_a_start_without_its_server() {
    starts_while_the_server_is_away_and_finds_it_again(GRPC).await;
}

#[tokio::test]
async fn changes_are_kept_for_a_start_without_their_server() {
    starts_while_the_server_is_away_and_finds_it_again(DELTA_GRPC).await;
}

#[tokio::test]
async fn a_cache_that_is_rubbish_is_as_none() {
    let folder = Folder::new("rubbish");
    let scene = Scene::with_arguments(GRPC, &[&folder.argument()]).await;
    scene.wait_for("a").await;
    wait_until("all is written", async || folder.kinds() == KINDS).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(scene);
    for file in std::fs::read_dir(&folder.0).expect("it is there").flatten() {
        std::fs::write(file.path(), [0xff; 64]).expect("it is writable");
    }
    // It has looked into the cache, and waits for its server as ever.
    let port = free_port();
    let text = bootstrap_text(free_port(), GRPC).replace("port_value: 0", &format!("port_value: {port}"));
    let text = text.replacen("cds_config: {", "cds_config: { initial_fetch_timeout: 0s,", 1);
    let text = text.replace("rtds_config: {", "rtds_config: { initial_fetch_timeout: 0s,");
    let starting = tokio::spawn(proxy(text).argument(&folder.argument()).run());
    let admin = SocketAddr::from(([127, 0, 0, 1], port));
    let page = async |path: &str| client::get(admin, path).await.map(|response| response.text()).unwrap_or_default();
    wait_until("it asks for its layer", async || page("/xds").await.contains("last failure")).await;
    for _ in 0..20 {
        assert_ne!(page("/ready").await, "LIVE\n");
        assert!(!starting.is_finished() && !page("/ready").await.contains("from the cache"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Dropping it would leave the process behind.
    starting.abort();
    assert!(starting.await.is_err(), "it never was ready");
}
