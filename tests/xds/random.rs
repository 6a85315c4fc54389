//! Random sequences of pushes under load: whatever is added, changed, removed, broken or reordered, and however often
//! the control plane goes away, no request fails that had a healthy route before and after, and what is in force in
//! the end is what was accepted last.

use super::{DELTA_GRPC, GRPC, Scene, cluster, endpoints, filter, listener, routes, runtime};
use crate::support::DEADLINE;
use crate::support::client::Client;
use crate::support::control_plane::Kind;
use crate::support::split::Split;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

/// Sequences of one run; `NUNCIO_SEQUENCES` sets another number.
const SEQUENCES: u32 = 6;
/// Changes of one sequence at most.
const CHANGES: usize = 10;
/// Clients that ask all the time.
const CLIENTS: usize = 4;
/// Sequences after which memory is to grow no more; half of them, where there are not so many.
const SETTLED: u32 = 20;

#[derive(Default)]
struct Load {
    answered: Cell<u64>,
    ends: Cell<bool>,
}

/// Asks again and again, on connections that are kept where the proxy lets them.
async fn ask(load: Rc<Load>, address: SocketAddr) -> Result<(), String> {
    let mut client = None;
    while !load.ends.get() {
        let mut connection = match client.take() {
            Some(kept) => kept,
            None => Client::connect(address, Split::Whole).await.map_err(|error| format!("connect: {error}"))?,
        };
        let answer = connection.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let answer = answer.map_err(|error| format!("request: {error}"))?;
        if answer.status() != 200 {
            return Err(format!("{} {}", answer.status(), answer.text()));
        }
        if answer.header("connection") != Some("close") {
            client = Some(connection);
        }
        load.answered.set(load.answered.get() + 1);
    }
    Ok(())
}

/// What the control plane is to have in the end. Cluster `a`, the listener and its routes are always there.
struct Model {
    scene: Scene,
    /// Further clusters, by name, with their policy.
    others: BTreeMap<String, &'static str>,
    changes: u32,
}

impl Model {
    fn port(&self) -> u16 {
        let either = [&self.scene.a, &self.scene.b];
        either[fastrand::usize(..2)].port()
    }

    fn put_cluster(&self, name: &str, policy: &str) {
        self.scene.plane.set(Kind::Cluster, name, &format!("{}\nlb_policy: {policy}", cluster(name)));
    }

    fn put_listener(&self, server: &str) {
        let yaml = listener(self.scene.front.port());
        let named = yaml.replace("stat_prefix: front", &format!("stat_prefix: front\n      server_name: {server}"));
        self.scene.plane.set(Kind::Listener, "front", &named);
    }

    fn put_routes(&self, mark: &str) {
        let yaml = routes("a");
        let marked = format!("{yaml}\nresponse_headers_to_add: [{{ header: {{ key: x-mark, value: {mark} }} }}]");
        self.scene.plane.set(Kind::Routes, "routes", &marked);
    }

    /// A cluster with its endpoints, in either order.
    fn add(&mut self) {
        let name = format!("c{}", fastrand::u32(..5));
        let policy = ["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"][fastrand::usize(..3)];
        let first = fastrand::bool();
        if first {
            self.put_cluster(&name, policy);
        }
        self.scene.plane.set(Kind::Endpoints, &name, &endpoints(&name, self.port()));
        if !first {
            self.put_cluster(&name, policy);
        }
        self.others.insert(name, policy);
    }

    fn remove(&mut self) {
        let name = format!("c{}", fastrand::u32(..5));
        let (first, second) =
            if fastrand::bool() { (Kind::Cluster, Kind::Endpoints) } else { (Kind::Endpoints, Kind::Cluster) };
        self.scene.plane.remove(first, &name);
        self.scene.plane.remove(second, &name);
        self.others.remove(&name);
    }

    fn change(&mut self) {
        let mark = format!("m{}", self.changes);
        match fastrand::u32(..6) {
            4 => self.scene.plane.set(Kind::Extension, "found", &filter(&mark)),
            5 => self.scene.plane.set(Kind::Runtime, "layer", &runtime(&mark)),
            0 => self.put_cluster("a", ["ROUND_ROBIN", "RANDOM"][fastrand::usize(..2)]),
            1 => self.scene.plane.set(Kind::Endpoints, "a", &endpoints("a", self.port())),
            2 => self.put_listener(&mark),
            _ => self.put_routes(&mark),
        }
    }

    /// What is in force stays so.
    fn damage(&mut self) {
        let garbage = vec![0xff; 1 + fastrand::usize(..4)];
        match fastrand::u32(..8) {
            4 => self.scene.plane.set_bytes(Kind::Extension, "found", garbage),
            5 => self.scene.plane.set_bytes(Kind::Runtime, "layer", garbage),
            6 => self.scene.plane.set(Kind::Runtime, "layer", "{ name: layer, layer: { mark: [] } }"),
            0 => self.scene.plane.set_bytes(Kind::Cluster, "a", garbage),
            1 => self.scene.plane.set_bytes(Kind::Listener, "front", garbage),
            2 => self.scene.plane.set_bytes(Kind::Routes, "routes", garbage),
            3 => self.scene.plane.set_bytes(Kind::Endpoints, "a", garbage),
            _ => self.scene.plane.set(Kind::Cluster, "a", "{ name: a, type: EDS, lb_policy: CLUSTER_PROVIDED }"),
        }
    }

    fn step(&mut self) {
        self.changes += 1;
        match fastrand::u32(..10) {
            0..=2 => self.add(),
            3 => self.remove(),
            4..=6 => self.change(),
            7 | 8 => self.damage(),
            _ => self.scene.plane.disconnect(),
        }
    }

    /// Mends what is broken, in any order, and waits until all of it is in force.
    async fn settle(&mut self, mark: &str) {
        let mut mended = [0, 1, 2, 3, 4, 5];
        fastrand::shuffle(&mut mended);
        let port = self.port();
        for which in mended {
            match which {
                0 => self.put_cluster("a", "ROUND_ROBIN"),
                1 => self.scene.plane.set(Kind::Endpoints, "a", &endpoints("a", port)),
                2 => self.put_listener(mark),
                3 => self.scene.plane.set(Kind::Extension, "found", &filter(mark)),
                4 => self.scene.plane.set(Kind::Runtime, "layer", &runtime(mark)),
                _ => self.put_routes(mark),
            }
        }
        let until = Instant::now() + DEADLINE;
        loop {
            let answer = self.scene.get().await;
            let dump = self.scene.proxy.admin("/config_dump").await;
            let mut clusters: BTreeMap<&str, &str> = self.others.iter().map(|(name, p)| (&**name, *p)).collect();
            clusters.insert("a", "ROUND_ROBIN");
            let marks = ["server", "x-mark", "x-found"].map(|name| answer.header(name));
            let has_layer = self.scene.proxy.admin("/runtime").await.contains(&format!("\"{mark}\""));
            let is_there = marks == [Some(mark); 3] && has_layer;
            let hosts = self.scene.proxy.admin("/clusters").await;
            let hosts: BTreeSet<&str> =
                hosts.lines().filter_map(|l| l.strip_prefix("a::127")?.split("::").next()).collect();
            let has_hosts = hosts == BTreeSet::from([&*format!(".0.0.1:{port}")]);
            if is_there && has_hosts && in_dump(&dump) == clusters {
                return;
            }
            assert!(Instant::now() < until, "{mark}: {answer:?}, {clusters:?} in {dump}\n{}", self.scene.proxy.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Names and policies of the clusters that are dumped.
fn in_dump(dump: &str) -> BTreeMap<&str, &str> {
    // What the bootstrap has is left out.
    let dump = dump.split_once("\"dynamic_active_clusters\"").map_or("", |(_, dynamic)| dynamic);
    let dump = dump.split_once("ListenersConfigDump").map_or(dump, |(clusters, _)| clusters);
    dump.split("\"cluster\": {")
        .skip(1)
        .map(|part| (find(part, "name").unwrap_or_default(), find(part, "lb_policy").unwrap_or("ROUND_ROBIN")))
        .collect()
}

fn find<'a>(part: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = part.split_once(&format!("\"{key}\": \""))?;
    rest.split_once('"').map(|(value, _)| value)
}

async fn no_request_fails(api_type: &str) {
    let scene = Scene::with_arguments(api_type, &["--drain-time-s", "3", "--drain-strategy", "immediate"]).await;
    // A malformed resource takes with it what was sent together with it.
    scene.plane.resend_refused();
    let sequences = std::env::var("NUNCIO_SEQUENCES").ok().and_then(|n| n.parse().ok()).unwrap_or(SEQUENCES);
    let tasks = LocalSet::new();
    let run = async {
        let (load, address) = (Rc::new(Load::default()), scene.front);
        let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::task::spawn_local(ask(load.clone(), address))).collect();
        let mut model = Model { scene, others: BTreeMap::new(), changes: 0 };
        let (mut begun, settled) = (0, SETTLED.min(sequences / 2));
        for sequence in 0..sequences {
            for _ in 0..1 + fastrand::usize(..CHANGES) {
                model.step();
                let enough = load.answered.get() + fastrand::u64(..10);
                while load.answered.get() < enough && !clients.iter().any(tokio::task::JoinHandle::is_finished) {
                    tokio::task::yield_now().await;
                }
            }
            model.settle(&format!("s{sequence}")).await;
            if sequence == settled {
                begun = model.scene.proxy.rss();
            }
        }
        load.ends.set(true);
        let proxy = &model.scene.proxy;
        for client in clients {
            assert_eq!(client.await.expect("no panic"), Ok(()), "{}", proxy.log());
        }
        proxy.wait_for_stat("listener_manager.total_listeners_draining", 0).await;
        proxy.wait_for_stat("listener_manager.total_filter_chains_draining", 0).await;
        assert_eq!(proxy.stat("listener_manager.total_listeners_active").await, 1);
        let grown = proxy.rss().saturating_sub(begun);
        assert!(grown < 16 << 20, "{grown} bytes more than after {settled} sequences");
        eprintln!("{api_type}: {sequences} sequences, {} requests, {grown} bytes grown", load.answered.get());
    };
    tasks.run_until(run).await;
}

#[tokio::test]
async fn no_request_fails_while_the_state_of_the_world_is_random() {
    no_request_fails(GRPC).await;
}

#[tokio::test]
async fn no_request_fails_while_changes_are_random() {
    no_request_fails(DELTA_GRPC).await;
}
