//! Mixed load while proxies drain one after another and upstreams restart: no request may be lost.
//!
//! Runs for `$NUNCIO_SOAK_SECONDS`, 5 by default. Clients go where the newest proxy is, as behind a balancer, and leave
//! a connection when they are told to; upstreams restart on a listening socket that they hand on, closing their
//! connections between two requests. A request that crosses such a close on the way is the upstream's loss: a GET is sent
//! again on a fresh connection, a POST cannot be (RFC 9110 §9.2.2).

mod upstream;

use crate::support::bootstrap::Pieces;
use crate::support::client::Client;
use crate::support::h2_client::{H2Client, Outcome};
use crate::support::http1::Message;
use crate::support::proxy::{Running, proxy};
use crate::support::split::Split;
use http::{Method, Request};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;
use upstream::Restarting;

/// How long one proxy serves before the next takes over.
const GENERATION: Duration = Duration::from_millis(1500);

/// How long one upstream serves before it restarts.
const UPSTREAM_LIFE: Duration = Duration::from_millis(400);

/// Between two requests of a client, so that the run tells of many restarts rather than of much load.
const PAUSE: Duration = Duration::from_millis(5);

/// What the clients share.
struct Load {
    target: Cell<SocketAddr>,
    stop: Cell<bool>,
    sent: Cell<u64>,
    lost: RefCell<Vec<String>>,
    /// POSTs that were answered with the upstream's end. Unlike a GET they are not sent again.
    ended: Cell<u64>,
}

impl Load {
    fn done(&self, what: &str, expected: &[u8], answer: Result<&Message, String>) {
        self.sent.set(self.sent.get() + 1);
        let fault = match answer {
            Ok(m) if m.start.contains(" 200") && !m.truncated && m.body == expected => return,
            Ok(m) if what.ends_with("POST") && m.text().contains("connection termination") => {
                return self.ended.set(self.ended.get() + 1);
            }
            Ok(m) => {
                format!("{} {:?} {}", m.start, m.headers, String::from_utf8_lossy(&m.body[..m.body.len().min(200)]))
            }
            Err(e) => e,
        };
        self.lost.borrow_mut().push(format!("{what}: {fault}"));
    }
}

/// The requests in turn: a small GET, one with a large answer, a POST whose body comes back.
fn request(number: u64) -> (&'static str, &'static str, Vec<u8>, Vec<u8>) {
    match number % 3 {
        0 => ("GET", "/small", Vec::new(), b"small".to_vec()),
        1 => ("GET", "/large", Vec::new(), upstream::large()),
        _ => ("POST", "/echo", vec![b'x'; 20_000], vec![b'x'; 20_000]),
    }
}

async fn http1(load: Rc<Load>, keeps_alive: bool) {
    let mut kept: Option<Client> = None;
    let mut number = 0;
    while !load.stop.get() {
        number += 1;
        tokio::time::sleep(PAUSE).await;
        let (method, path, body, expected) = request(number);
        let close = if keeps_alive { "" } else { "connection: close\r\n" };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\n{close}content-length: {}\r\n\r\n", body.len());
        let bytes = [head.as_bytes(), &body].concat();
        let mut client = match kept.take() {
            Some(client) => client,
            None => Client::connect(load.target.get(), Split::Whole).await.expect("the newest proxy accepts"),
        };
        let answer = client.request(&bytes).await;
        load.done(&format!("HTTP/1 {method}"), &expected, answer.as_ref().map_err(ToString::to_string));
        kept = answer.ok().filter(|a| a.header("connection") != Some("close") && keeps_alive).map(|_| client);
    }
}

async fn http2(load: Rc<Load>) {
    let mut number = 0;
    while !load.stop.get() {
        let target = load.target.get();
        let mut client = H2Client::connect(target, Split::Whole).await.expect("the newest proxy accepts");
        while !load.stop.get() {
            number += 1;
            tokio::time::sleep(PAUSE).await;
            let (method, path, body, expected) = request(number);
            let head = Request::builder()
                .method(method.parse::<Method>().expect("a method"))
                .uri(format!("http://a{path}"))
                .body(())
                .expect("a request");
            match client.request(head, &body, None).await {
                Outcome::Response(answer) => load.done(&format!("HTTP/2 {method}"), &expected, Ok(&answer)),
                // A GOAWAY that covers not this request: the proxy never took it, and it is sent again elsewhere.
                Outcome::Reset(_) if client.is_closed().await => break,
                Outcome::Reset(reason) => load.done(&format!("HTTP/2 {method}"), &expected, Err(reason)),
            }
        }
    }
}

/// Whether connections are left on a proxy that drains.
async fn is_left(proxy: &Running) -> bool {
    proxy.stat("http.in.downstream_cx_active").await == 0
}

async fn start(ports: &[u16]) -> Running {
    let endpoints: String = ports
        .iter()
        .map(|port| {
            format!(
                "    - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}\n"
            )
        })
        .collect();
    let pieces = Pieces {
        clusters: format!(
            "- name: many\n  connect_timeout: 2s\n  load_assignment:\n    cluster_name: many\n    endpoints:\n    - lb_endpoints:\n{}",
            endpoints.replace("    - endpoint", "      - endpoint")
        ),
        routes: "- match: { prefix: / }\n  route: { cluster: many }\n".into(),
        ..Pieces::default()
    };
    proxy(pieces.yaml().replace("$UPSTREAM", "1"))
        .concurrency(2)
        .argument("--drain-time-s")
        .argument("1")
        .argument("--drain-strategy")
        .argument("immediate")
        .run()
        .await
}

/// What came of it.
struct Soaked {
    sent: u64,
    lost: Vec<String>,
    generations: u64,
    ended: u64,
    broken: u64,
}

async fn soak(length: Duration) -> Soaked {
    let upstreams = [Restarting::start().await, Restarting::start().await];
    let ports: Vec<u16> = upstreams.iter().map(Restarting::port).collect();
    let mut current = start(&ports).await;
    let load = Rc::new(Load {
        target: Cell::new(current.addr()),
        stop: Cell::new(false),
        sent: Cell::new(0),
        lost: RefCell::default(),
        ended: Cell::new(0),
    });
    let broken = upstreams.each_ref().map(Restarting::broken);
    let mut clients = Vec::new();
    for n in 0..12 {
        clients.push(tokio::task::spawn_local(http1(load.clone(), n % 4 != 0)));
        clients.push(tokio::task::spawn_local(http2(load.clone())));
    }
    let restarts: Vec<_> = upstreams.into_iter().map(|u| tokio::task::spawn_local(u.run(UPSTREAM_LIFE))).collect();
    let started = Instant::now();
    let mut generations = 1;
    while started.elapsed() < length {
        tokio::time::sleep(GENERATION).await;
        let next = start(&ports).await;
        load.target.set(next.addr());
        let mut old = std::mem::replace(&mut current, next);
        crate::drain::post(&old, "/drain_listeners?graceful").await;
        while !is_left(&old).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(old.stop().await.success());
        generations += 1;
    }
    load.stop.set(true);
    for client in clients {
        client.await.expect("clients do not panic");
    }
    restarts.iter().for_each(tokio::task::JoinHandle::abort);
    let broken = broken.iter().map(|b| b.get()).sum();
    Soaked { sent: load.sent.get(), lost: load.lost.take(), generations, ended: load.ended.get(), broken }
}

#[tokio::test]
async fn no_request_is_lost_while_proxies_drain_and_upstreams_restart() {
    let seconds = std::env::var("NUNCIO_SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    let Soaked { sent, lost, generations, ended, broken } =
        LocalSet::new().run_until(soak(Duration::from_secs(seconds))).await;
    crate::support::say(&format!(
        "soak: {sent} requests over {generations} proxies, {} lost; {broken} crossed the close of an upstream, {ended} of them POSTs that failed",
        lost.len()
    ));
    assert!(sent > 300, "only {sent} requests");
    assert!(lost.is_empty(), "{} of {sent} lost: {:#?}", lost.len(), &lost[..lost.len().min(10)]);
    assert!(ended <= broken, "{ended} POSTs failed, {broken} requests were broken by upstreams");
}
