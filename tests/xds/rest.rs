//! A control plane that is polled: requests and responses as JSON over HTTP.

use super::wait_for_body;
use crate::support::DEADLINE;
use crate::support::ports::free_port;
use crate::support::proxy::{Proxy, Running, proxy};
use crate::support::upstream::http1;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PREFIX: &str = "/v3/discovery:";

/// Answers by what is asked for: `clusters`, or `endpoints a` where a name is.
#[derive(Clone, Default)]
struct Plane(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    answers: HashMap<String, (u16, String)>,
    asked: Vec<(String, Value)>,
}

impl Plane {
    async fn start(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let plane = self.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(plane.clone().serve(socket));
            }
        });
        port
    }

    async fn serve(self, mut socket: TcpStream) -> std::io::Result<()> {
        let mut received = Vec::new();
        loop {
            let Some(head) = received.windows(4).position(|w| w == b"\r\n\r\n") else {
                if socket.read_buf(&mut received).await? == 0 {
                    return Ok(());
                }
                continue;
            };
            let text = String::from_utf8_lossy(&received[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let end = head + 4 + length.and_then(|l| l.trim().parse::<usize>().ok()).expect("the length is told");
            while received.len() < end {
                socket.read_buf(&mut received).await?;
            }
            assert!(text.contains("content-type: application/json"), "{text}");
            let path = text.split(' ').nth(1).expect("a path").to_owned();
            let body: Value = serde_json::from_slice(&received[head + 4..end]).expect("the request is JSON");
            received.drain(..end);
            let (status, answer) = self.answer(&path, body);
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
            socket.write_all(answer.as_bytes()).await?;
        }
    }

    fn answer(&self, path: &str, body: Value) -> (u16, String) {
        let mut state = self.0.lock().expect("no test panics with it");
        let name = body["resource_names"][0].as_str().map(|name| format!(" {name}")).unwrap_or_default();
        let key = format!("{}{name}", path.strip_prefix(PREFIX).expect("it is a path of discovery"));
        let answer = state.answers.get(&key).cloned();
        state.asked.push((key, body));
        answer.unwrap_or((404, String::new()))
    }

    fn set(&self, key: &str, version: &str, type_url: &str, mut resources: Vec<Value>) {
        for resource in &mut resources {
            resource["@type"] = format!("type.googleapis.com/{type_url}").into();
        }
        let answer = json!({ "version_info": version, "resources": resources }).to_string();
        self.set_raw(key, 200, &answer);
    }

    fn set_raw(&self, key: &str, status: u16, answer: &str) {
        let mut state = self.0.lock().expect("no test panics with it");
        state.answers.insert(key.to_owned(), (status, answer.to_owned()));
    }

    async fn wait_for(&self, fits: impl Fn(&str, &Value) -> bool) -> Value {
        let until = Instant::now() + DEADLINE;
        loop {
            {
                let state = self.0.lock().expect("no test panics with it");
                if let Some((_, body)) = state.asked.iter().rev().find(|(key, body)| fits(key, body)) {
                    return body.clone();
                }
            }
            assert!(Instant::now() < until, "no such request");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn forget(&self) {
        self.0.lock().expect("no test panics with it").asked.clear();
    }
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";

fn source() -> Value {
    json!({
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "REST",
            "transport_api_version": "V3",
            "cluster_names": ["xds"],
            "refresh_delay": "0.02s",
            "request_timeout": "5s",
        },
    })
}

fn cluster(name: &str) -> Value {
    json!({ "name": name, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": { "eds_config": source() } })
}

fn endpoints(name: &str, port: u16) -> Value {
    json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": {
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } } } }] }] })
}

fn listener(port: u16) -> Value {
    json!({
        "name": "front",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
        "filter_chains": [{ "filters": [{ "name": "hcm", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "rds": { "route_config_name": "routes", "config_source": source() },
            "http_filters": [{ "name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }],
        } }] }],
    })
}

fn routes(cluster: &str) -> Value {
    json!({ "name": "routes", "virtual_hosts": [{ "name": "all", "domains": ["*"],
        "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster } }] }] })
}

fn bootstrap(port: u16) -> Proxy {
    let source = source();
    proxy(format!(
        "node: {{ id: me, cluster: us }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
dynamic_resources: {{ cds_config: {source}, lds_config: {source} }}
static_resources:
  clusters:
  - name: xds
    connect_timeout: 1s
    load_assignment:
      cluster_name: xds
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}]
"
    ))
}

async fn wait_for_count(proxy: &Running, name: &str, least: u64) {
    let until = Instant::now() + DEADLINE;
    while proxy.stat(name).await < least {
        assert!(Instant::now() < until, "{name} stays below {least}\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A proxy that has all from this server, and where it listens. It serves by the host at this port, which answers `a`.
async fn following(plane: &Plane, host: u16) -> (Running, SocketAddr) {
    let port = free_port();
    let front = SocketAddr::from(([127, 0, 0, 1], port));
    plane.set("clusters", "1", CLUSTER, vec![cluster("a")]);
    plane.set("endpoints a", "1", ENDPOINTS, vec![endpoints("a", host)]);
    plane.set("listeners", "1", LISTENER, vec![listener(port)]);
    plane.set("routes routes", "1", ROUTES, vec![routes("a")]);
    let proxy = bootstrap(plane.start().await).run().await;
    wait_for_body(&proxy, front, "a").await;
    (proxy, front)
}

#[tokio::test]
async fn a_server_that_is_polled_is_followed() {
    let (a, b) = (http1().route("/", "a").start().await, http1().route("/", "b").start().await);
    let plane = Plane::default();
    let (proxy, front) = following(&plane, a.port()).await;
    // The version in force goes with each request, and so does the node.
    let asked = plane.wait_for(|key, body| key == "clusters" && body["version_info"] == "1").await;
    assert_eq!(
        (&asked["node"]["id"], &asked["type_url"]),
        (&"me".into(), &format!("type.googleapis.com/{CLUSTER}").into())
    );
    plane.set("endpoints a", "2", ENDPOINTS, vec![endpoints("a", b.port())]);
    wait_for_body(&proxy, front, "b").await;
    // What is refused keeps the version of what is in force.
    plane.set("clusters", "2", CLUSTER, vec![cluster("a"), json!({ "name": "bad", "lb_policy": "CLUSTER_PROVIDED" })]);
    wait_for_count(&proxy, "cluster_manager.cds.update_rejected", 1).await;
    plane.forget();
    let asked = plane.wait_for(|key, _| key == "clusters").await;
    assert_eq!(asked["version_info"], "1");
    wait_for_body(&proxy, front, "b").await;
}

#[tokio::test]
async fn a_server_that_answers_no_config_is_asked_again_and_all_serves_on() {
    let a = http1().route("/", "a").start().await;
    let plane = Plane::default();
    let (proxy, front) = following(&plane, a.port()).await;
    plane.set_raw("clusters", 500, "");
    wait_for_count(&proxy, "cluster_manager.cds.update_failure", 2).await;
    plane.set_raw("clusters", 200, "{ no JSON");
    wait_for_count(&proxy, "cluster_manager.cds.update_rejected", 1).await;
    let successes = proxy.stat("cluster_manager.cds.update_success").await;
    plane.set_raw("clusters", 304, "");
    plane.forget();
    plane.wait_for(|key, _| key == "clusters").await;
    plane.forget();
    plane.wait_for(|key, _| key == "clusters").await;
    assert_eq!(proxy.stat("cluster_manager.cds.update_success").await, successes, "unchanged is no update");
    // Routes that were not asked for are none.
    plane.set("routes routes", "2", ROUTES, vec![json!({ "name": "others", "virtual_hosts": [] })]);
    wait_for_count(&proxy, "http.front.rds.routes.update_rejected", 1).await;
    wait_for_body(&proxy, front, "a").await;
}
