//! Layers of the runtime that come by discovery.

use super::support::DEADLINE;
use super::support::bootstrap::Pieces;
use super::support::client::get;
use super::support::control_plane::{ControlPlane, Kind, WAYS, Way};
use super::support::proxy::{Proxy, Running, proxy};
use std::time::{Duration, Instant};

const ROUTES: &str = "- match: { prefix: /, runtime_fraction: { default_value: { numerator: 0 }, runtime_key: r.on } }
  direct_response: { status: 201 }
- match: { prefix: / }
  direct_response: { status: 202 }
";

fn runtime(value: &str) -> String {
    format!("name: layer\nlayer: {{ r: {{ on: {value} }} }}\n")
}

fn file(value: &str) -> String {
    let resource = runtime(value).replace('\n', "\n  ");
    format!("resources:\n- '@type': type.googleapis.com/envoy.service.runtime.v3.Runtime\n  {resource}\n")
}

/// Answers 201 where the runtime says so, else 202.
fn with_layer(source: &str, rest: &str, clusters: &str) -> Proxy {
    let bootstrap = format!(
        "node: {{ id: me, cluster: us }}
{rest}
layered_runtime:
  layers:
  - {{ name: low, static_layer: {{ r: {{ on: 0 }} }} }}
  - {{ name: found, rtds_layer: {{ name: layer, rtds_config: {source} }} }}
"
    );
    let pieces = Pieces { bootstrap, routes: ROUTES.to_owned(), clusters: clusters.to_owned(), ..Pieces::default() };
    // No request gets there.
    proxy(pieces.yaml().replace("$UPSTREAM", "1"))
}

async fn status(proxy: &Running) -> u16 {
    get(proxy.addr(), "/").await.expect("an answer").status()
}

async fn wait_for_status(proxy: &Running, wanted: u16) {
    let until = Instant::now() + DEADLINE;
    while status(proxy).await != wanted {
        assert!(Instant::now() < until, "no {wanted} came\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_file_gives_a_layer_and_a_bad_one_changes_nothing() {
    let source = "{ path_config_source: { path: $DIR/layer.yaml } }";
    let proxy = with_layer(source, "", "").file("layer.yaml", &file("100")).run().await;
    assert_eq!(status(&proxy).await, 201);
    for (stat, value) in [
        ("runtime.load_success", 3),
        ("runtime.num_keys", 1),
        ("runtime.num_layers", 2),
        ("runtime.update_attempt", 1),
        ("runtime.update_success", 1),
    ] {
        assert_eq!(proxy.stat(stat).await, value, "{stat}");
    }
    proxy.replace("layer.yaml", &file("[100]"));
    proxy.wait_for_stat("runtime.update_rejected", 1).await;
    proxy.replace("layer.yaml", &file("100").replace("name: layer", "name: other"));
    proxy.wait_for_stat("runtime.update_rejected", 2).await;
    assert_eq!(status(&proxy).await, 201, "the old one is in force");
    assert_eq!(proxy.stat("runtime.load_error").await, 0);
    proxy.replace("layer.yaml", &file("0"));
    wait_for_status(&proxy, 202).await;
    proxy.wait_for_stat("runtime.update_success", 2).await;
    assert_eq!(proxy.stat("runtime.load_success").await, 4);
    let shown = proxy.admin("/runtime").await;
    assert!(shown.contains("\"found\""), "{shown}");
}

/// A proxy that asks for the layer in this way.
fn asking(way: Way, plane: &ControlPlane, further: &str) -> Proxy {
    let dynamic = match way.is_aggregated {
        true => format!("dynamic_resources: {{ {} }}", way.ads()),
        false => String::new(),
    };
    with_layer(&way.source(further), &dynamic, &plane.cluster())
}

async fn a_layer_is_followed(way: Way) {
    let plane = ControlPlane::start().await;
    plane.set(Kind::Runtime, "layer", &runtime("100"));
    let proxy = asking(way, &plane, "").run().await;
    assert_eq!(status(&proxy).await, 201, "it is waited for ({way:?})");
    plane.set(Kind::Runtime, "layer", &runtime("[100]"));
    let nack = plane.wait_for(Kind::Runtime, |asked| asked.error.is_some()).await.error.unwrap_or_default();
    assert!(nack.contains("layer[\"r\"][\"on\"]: is not a text, number or boolean"), "{nack}");
    assert_eq!(status(&proxy).await, 201, "the old one is in force");
    plane.set(Kind::Runtime, "layer", &runtime("0"));
    wait_for_status(&proxy, 202).await;
    plane.set(Kind::Runtime, "layer", &runtime("100"));
    wait_for_status(&proxy, 201).await;
    plane.remove(Kind::Runtime, "layer");
    if way.is_delta() {
        wait_for_status(&proxy, 202).await;
    }
    let scope = if way.is_aggregated { "control_plane" } else { "runtime.control_plane" };
    assert_eq!(proxy.stat(&format!("{scope}.connected_state")).await, 1, "{way:?}");
}

#[tokio::test]
async fn a_control_plane_gives_a_layer_in_every_way() {
    for way in WAYS {
        a_layer_is_followed(way).await;
    }
}

#[tokio::test]
async fn a_layer_that_does_not_come_is_waited_for_no_longer_than_said() {
    let plane = ControlPlane::start().await;
    let proxy = asking(WAYS[0], &plane, "initial_fetch_timeout: 0.2s,").run().await;
    assert_eq!(status(&proxy).await, 202);
    assert_eq!(proxy.stat("runtime.init_fetch_timeout").await, 1);
    plane.set(Kind::Runtime, "layer", &runtime("100"));
    wait_for_status(&proxy, 201).await;
}
