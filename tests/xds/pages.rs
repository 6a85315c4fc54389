//! What `/xds` and `/init_dump` tell of a control plane, and of those who wait for it.

use super::{DELTA_GRPC, GRPC, Scene, bootstrap_text, cluster, endpoints, listener, routes, runtime};
use crate::support::DEADLINE;
use crate::support::client;
use crate::support::control_plane::{ControlPlane, Kind};
use crate::support::ports::free_port;
use crate::support::proxy::{Running, proxy};
use crate::support::upstream::http1;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What the page tells of each type.
async fn subscriptions(proxy: &Running) -> Vec<Value> {
    let page: Value = serde_json::from_str(&proxy.admin("/xds?format=json").await).expect("it is JSON");
    page["subscriptions"].as_array().expect("it is a list").clone()
}

async fn of(proxy: &Running, kind: &str) -> Value {
    let all = subscriptions(proxy).await;
    all.iter().find(|entry| entry["type"] == kind).unwrap_or_else(|| panic!("no {kind} in {all:?}")).clone()
}

/// Waits until what the page tells of a type fits.
async fn wait_for(proxy: &Running, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + DEADLINE;
    loop {
        let entry = of(proxy, kind).await;
        if fits(&entry) {
            return entry;
        }
        assert!(Instant::now() < until, "{entry:#}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn a_life_is_told(api_type: &str) {
    let scene = Scene::new(api_type).await;
    assert_eq!(scene.get().await.text(), "a");
    let expected = [
        ("RTDS", "layer", "envoy.service.runtime.v3.Runtime"),
        ("CDS", "*", "envoy.config.cluster.v3.Cluster"),
        ("EDS", "a", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
        ("LDS", "*", "envoy.config.listener.v3.Listener"),
        ("ECDS", "found", "envoy.config.core.v3.TypedExtensionConfig"),
        ("RDS", "routes", "envoy.config.route.v3.RouteConfiguration"),
    ];
    let all = subscriptions(&scene.proxy).await;
    let told = all.iter().map(|entry| (&entry["type"], &entry["subscribed"], &entry["type_url"], &entry["source"]));
    for (told, (kind, name, message)) in told.zip(expected) {
        let type_url = format!("type.googleapis.com/{message}");
        assert_eq!(told, (&json!(kind), &json!([name]), &json!(type_url), &json!("ads")));
    }
    assert_eq!(all.len(), expected.len());
    for entry in &all {
        assert_eq!(
            (&entry["resources"], &entry["refused"], &entry["from_cache"]),
            (&json!(1), &json!([]), &json!(false))
        );
        assert!(entry["last_request"].is_string() && entry["age_ms"].is_number(), "{entry:#}");
        assert!(entry["last_ack"]["version"].as_str().is_some_and(|version| !version.is_empty()), "{entry:#}");
        assert!(entry["last_nack"].is_null() && entry["last_failure"].is_null(), "{entry:#}");
        let latency = &entry["update_latency_ms"];
        let counts = latency["buckets"].as_array().expect("it is a list").iter().map(|b| b["count"].as_u64());
        let counts: Vec<u64> = counts.map(|count| count.expect("it is a number")).collect();
        assert!(counts.is_sorted() && counts.last().copied() == latency["count"].as_u64(), "{latency:#}");
    }
    // A second cluster, one that is refused, and a server that goes away.
    scene.plane.set(Kind::Endpoints, "c", &endpoints("c", scene.b.port()));
    scene.plane.set(Kind::Cluster, "c", &cluster("c"));
    wait_for(&scene.proxy, "CDS", |entry| entry["resources"] == 2).await;
    wait_for(&scene.proxy, "EDS", |entry| entry["subscribed"] == json!(["a", "c"]) && entry["resources"] == 2).await;
    scene.plane.set(Kind::Cluster, "broken", "{ name: broken, type: EDS, lb_policy: LOAD_BALANCING_POLICY_CONFIG }");
    let clusters = wait_for(&scene.proxy, "CDS", |entry| !entry["last_nack"].is_null()).await;
    assert_eq!((&clusters["refused"][0]["name"], &clusters["resources"]), (&json!("broken"), &json!(2)));
    for reason in [&clusters["last_nack"]["reason"], &clusters["refused"][0]["reason"]] {
        assert!(reason.as_str().is_some_and(|reason| reason.contains("lb_policy")), "{clusters:#}");
    }
    assert_ne!(clusters["last_nack"]["version"], clusters["last_ack"]["version"]);
    let text = scene.proxy.admin("/xds").await;
    for line in
        ["CDS from ads\n  subscribed: *\n  resources: 2\n", "  refused: broken, version \"", "  last NACK: version \""]
    {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    let acked = of(&scene.proxy, "LDS").await["last_ack"].clone();
    scene.plane.disconnect();
    for kind in ["CDS", "EDS", "RDS"] {
        wait_for(&scene.proxy, kind, |entry| entry["last_failure"].is_string()).await;
    }
    // Over a stream on which it never told of anything, the server would not tell that there is nothing either.
    scene.plane.set(Kind::Listener, "front", &listener(scene.front.port()));
    wait_for(&scene.proxy, "LDS", |entry| entry["last_ack"] != acked).await;
    // What is gone is counted no longer. Its routes are asked for until it has drained, which takes its time.
    scene.plane.remove(Kind::Listener, "front");
    scene.proxy.wait_for_stat("listener_manager.listener_removed", 1).await;
    assert_eq!(of(&scene.proxy, "LDS").await["resources"], 0);
}

#[tokio::test]
async fn a_stream_of_the_state_of_the_world_is_told_with_what_it_was_answered() {
    a_life_is_told(GRPC).await;
}

#[tokio::test]
async fn a_stream_of_changes_is_told_with_what_it_was_answered() {
    a_life_is_told(DELTA_GRPC).await;
}

async fn dump(admin: SocketAddr, query: &str) -> Option<Value> {
    let answer = client::get(admin, &format!("/init_dump{query}")).await.ok()?;
    serde_json::from_str(&answer.text()).ok()
}

#[tokio::test]
async fn what_the_start_waits_for_is_told_until_it_has_come() {
    let plane = ControlPlane::start().await;
    let upstream = http1().route("/", "a").start().await;
    let (port, admin) = (free_port(), free_port());
    plane.set(Kind::Runtime, "layer", &runtime("first"));
    plane.set(Kind::Cluster, "a", &cluster("a"));
    plane.set(Kind::Listener, "front", &listener(port));
    let text = bootstrap_text(plane.port(), GRPC).replace("port_value: 0", &format!("port_value: {admin}"));
    let starting = tokio::spawn(proxy(text).run());
    let admin = SocketAddr::from(([127, 0, 0, 1], admin));
    let clusters = async |list: &str| {
        let path = format!("/config_dump?resource={list}&mask=cluster.name");
        let answer = client::get(admin, &path).await.ok()?;
        serde_json::from_str::<Value>(&answer.text()).ok()?["configs"][0]["cluster"]["name"].as_str().map(str::to_owned)
    };
    let until = Instant::now() + DEADLINE;
    while clusters("dynamic_warming_clusters").await.as_deref() != Some("a") {
        assert!(Instant::now() < until, "it is not told of");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(clusters("dynamic_active_clusters").await, None, "it is not used yet");
    plane.set(Kind::Endpoints, "a", &endpoints("a", upstream.port()));
    let targets = [
        "shared target FilterConfigSubscription init found",
        "shared target RdsRouteConfigSubscription RDS init routes",
    ];
    let names = |dump: &Value| dump["unready_targets_dumps"][0]["target_names"].clone();
    let wait_for = async |query: &str, wanted: Value| {
        let until = Instant::now() + DEADLINE;
        loop {
            let now = dump(admin, query).await;
            if now.as_ref().map(&names) == Some(wanted.clone()) {
                return now.unwrap_or_default();
            }
            assert!(Instant::now() < until, "{now:?} is not {wanted}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let told = wait_for("", json!(targets)).await;
    assert!(told["unready_targets_dumps"][0]["name"].as_str().is_some_and(|name| name.contains("front")), "{told}");
    assert_eq!(dump(admin, "?mask=listener").await, Some(told));
    assert_eq!(dump(admin, "?mask=cluster").await, Some(json!({})), "nothing else is told of");
    assert!(!starting.is_finished(), "it waits");
    plane.set(Kind::Routes, "routes", &routes("a"));
    wait_for("", json!(targets[..1])).await;
    plane.set(Kind::Extension, "found", &super::filter("first"));
    let running = starting.await.expect("no panic");
    assert_eq!(dump(running.admin, "").await, Some(json!({})), "nothing is waited for");
    assert_eq!(clusters("dynamic_active_clusters").await.as_deref(), Some("a"));
    assert_eq!(clusters("dynamic_warming_clusters").await, None);
    assert_eq!(client::get(SocketAddr::from(([127, 0, 0, 1], port)), "/").await.expect("it serves").text(), "a");
}

#[tokio::test]
async fn a_listener_that_is_gone_is_told_while_it_drains() {
    let Scene { plane, proxy: running, .. } = Scene::with_arguments(GRPC, &["--drain-time-s", "1"]).await;
    let listeners = async || {
        let answer = client::get(running.admin, "/config_dump?resource=dynamic_listeners").await.expect("it answers");
        serde_json::from_str::<Value>(&answer.text()).expect("JSON")["configs"].clone()
    };
    let wait_for = async |what: &str, is_so: &dyn Fn(&Value) -> bool| {
        let until = Instant::now() + DEADLINE;
        while !is_so(&listeners().await) {
            assert!(Instant::now() < until, "{what}: {}", listeners().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    wait_for("it serves", &|all| all[0]["active_state"].is_object()).await;
    plane.remove(Kind::Listener, "front");
    wait_for("it drains", &|all| {
        let state = &all[0]["draining_state"];
        all[0]["name"] == "front" && state["listener"]["name"] == "front" && all[0]["active_state"].is_null()
    })
    .await;
    wait_for("it is gone", &|all| all.is_null() || *all == json!([])).await;
}
