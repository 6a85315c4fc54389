//! How fast proxies take over what a control plane pushes, all from the same control plane in the same run:
//!
//! `xds_push [--clusters N] [--into FILE] NAME=BINARY...`
//!
//! Of each dialect of aggregated discovery are told: the time from the start of the process until the last route
//! answers; that from the response that changes one cluster to its ACK, where the state of the world is told with all
//! clusters in it; that from a change of endpoints until a client sees it; and the latencies of 5,000 requests a second,
//! alone and while clusters are pushed, in turns. `--into` puts the table in the place of the section of this name in the
//! file, or at its end. Other programs on the machine make every figure worse.
//!
//! So that the latencies are those of the proxy: what is pushed beside the load was encoded before, the control plane
//! gives way to whoever else wants its core, and the load waits for nobody where the kernel allows that.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints what it measured, and ends where it cannot"
)]

mod client;
mod plane;
mod world;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::Client;
use plane::{Dialect, Encoded, Plane};
use world::{Kind, World, bootstrap, of_cluster, of_endpoints};

const RATE: u32 = 5_000;
/// So often is the load measured alone, and then beside pushes.
const WINDOWS: usize = 7;
/// In one of them, two a second.
const PUSHES: usize = 6;
const SECTION: &str = "## xds: ";

/// A figure of a proxy, and what nuncio may need at most.
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    bar: Option<f64>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut count, mut into, mut proxies) = (10_000, None, Vec::new());
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--clusters" => count = arguments.next().unwrap().parse().unwrap(),
            "--into" => into = arguments.next(),
            pair => proxies.push(pair.split_once('=').map(|(name, path)| (name.to_owned(), path.to_owned())).unwrap()),
        }
    }
    let measured: Vec<Vec<Figure>> = proxies
        .iter()
        .map(|(name, binary)| {
            let of_dialect = |dialect| measure(name, binary, dialect, count);
            [Dialect::Sotw, Dialect::Delta].into_iter().flat_map(of_dialect).collect()
        })
        .collect();
    let section = table(count, &proxies, &measured);
    println!("\n{section}");
    if let Some(path) = into {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, replace_section(&text, &section)).unwrap();
    }
}

fn measure(name: &str, binary: &str, dialect: Dialect, count: usize) -> Vec<Figure> {
    let hosts = [client::host(b'a'), client::host(b'b')];
    let front = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let plane = Plane::start(dialect, World::new(count, hosts[0], front));
    let all: Vec<_> = (0..count).map(|i| of_cluster(i, 1)).collect();
    let started = Instant::now();
    let mut proxy = Proxy::start(binary, plane.port, dialect);
    let last = format!("/r{}/", count - 1);
    while !Client::connect(front).and_then(|mut c| c.get(&last)).is_ok_and(|(status, _)| status == 200) {
        assert!(started.elapsed() < Duration::from_secs(120), "{name} does not get ready");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut figures = Vec::new();
    let mut note = |what: &str, value: f64, unit: &'static str, bar: Option<f64>| {
        println!("{name:<8} {dialect:?} {what:<52} {value:.2} {unit}");
        figures.push(Figure { what: format!("{what}, {}", told(dialect)), value, unit, bar });
    };
    note("first full push, until the last route answers", started.elapsed().as_secs_f64(), "s", Some(2.0));
    note("resident memory then", proxy.resident(), "MB", None);
    let mut seconds = 1;
    // What changes is given its endpoints again: Envoy acknowledges clusters once those that are new are warm.
    let mut change_one = || {
        seconds += 1;
        let altered = of_cluster(7, seconds);
        let resources = match dialect {
            Dialect::Sotw => {
                all.iter().cloned().enumerate().map(|(i, one)| if i == 7 { altered.clone() } else { one }).collect()
            }
            Dialect::Delta => vec![altered],
        };
        let clusters = plane.encode(Kind::Cluster, resources);
        let endpoints = plane.encode(Kind::Endpoints, vec![of_endpoints(7, hosts[0])]);
        [clusters, endpoints]
    };
    let changes: Vec<_> = (0..20).map(|_| plane.push(&change_one())).collect();
    note("one cluster changed, until the ACK, median", millis(quantile(&changes, 0.5)), "ms", Some(50.0));
    note("one cluster changed, until the ACK, longest", millis(quantile(&changes, 1.0)), "ms", None);
    let lives: Vec<_> =
        (0..300).map(|i| endpoints_live(&plane, front, hosts[(i + 1) % 2], [b'b', b'a'][i % 2])).collect();
    note("endpoints changed, until a client sees it, median", millis(quantile(&lives, 0.5)), "ms", None);
    note("endpoints changed, until a client sees it, p99", millis(quantile(&lives, 0.99)), "ms", Some(10.0));
    plane.give_way();
    let mut windows = [(); WINDOWS].map(|()| {
        let pushes = [(); PUSHES].map(|()| change_one());
        [window(front, &plane, &[]), window(front, &plane, &pushes)]
    });
    let mut median = |which: usize| {
        windows.sort_by_key(|window| window[which]);
        millis(windows[WINDOWS / 2][which])
    };
    let [alone, beside] = [median(0), median(1)];
    note("p99.9 of 5,000 requests a second, alone", alone, "ms", None);
    note("p99.9 of 5,000 requests a second, two pushes a second", beside, "ms", Some(alone + 1.0));
    windows.sort_by_key(|[alone, beside]| beside.saturating_sub(*alone));
    let [alone, beside] = windows[WINDOWS / 2].map(millis);
    note("how much it rises from a window to the next, median", beside - alone, "ms", Some(1.0));
    proxy.stop();
    figures
}

/// p99.9 of the load while these are pushed.
fn window(front: u16, plane: &Plane, pushes: &[[Encoded; 2]]) -> Duration {
    let gap = Duration::from_millis(500);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| client::load(front, RATE, gap * PUSHES as u32));
        for push in pushes {
            std::thread::sleep(gap * 9 / 10);
            plane.push(push);
        }
        quantile(&load.join().unwrap(), 0.999)
    })
}

/// How long it takes until a client sees that the one host of a cluster is another.
fn endpoints_live(plane: &Plane, front: u16, port: u16, body: u8) -> Duration {
    let response = plane.encode(Kind::Endpoints, vec![of_endpoints(5, port)]);
    let mut client = Client::connect(front).unwrap();
    let started = Instant::now();
    plane.send(&response);
    while client.get("/r5/").unwrap() != (200, body) {
        assert!(started.elapsed() < Duration::from_secs(10), "the endpoints do not change");
    }
    let took = started.elapsed();
    // Not more than some hundred a second.
    std::thread::sleep(Duration::from_millis(5));
    took
}

/// A proxy that runs.
struct Proxy {
    child: Child,
    folder: std::path::PathBuf,
}

impl Proxy {
    fn start(binary: &str, plane: u16, dialect: Dialect) -> Self {
        let folder = std::env::temp_dir().join(format!("nuncio-xds-{}-{plane}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("bootstrap.yaml");
        let api_type = if dialect == Dialect::Sotw { "GRPC" } else { "DELTA_GRPC" };
        std::fs::write(&path, bootstrap(plane, api_type)).unwrap();
        let mut command = Command::new(binary);
        command.arg("-c").arg(&path).args(["--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]);
        Self { child: command.stdout(Stdio::null()).spawn().unwrap(), folder }
    }

    /// Megabytes.
    fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

fn told(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sotw => "state of the world",
        Dialect::Delta => "incremental",
    }
}

fn quantile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() as f64 * share) as usize;
    sorted[at.min(sorted.len() - 1)]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn table(count: usize, proxies: &[(String, String)], measured: &[Vec<Figure>]) -> String {
    let names: Vec<&str> = proxies.iter().map(|(name, _)| &**name).collect();
    let mut lines = vec![
        format!("{SECTION}pushes of a control plane with {count} clusters, their endpoints and a route to each"),
        String::new(),
        format!("Written by the example `xds_push`, one worker each, load average {}.", load_average()),
        String::new(),
        format!("| what | {} | bar |", names.join(" | ")),
        "|---".repeat(names.len() + 2) + "|",
    ];
    for (at, figure) in measured.first().into_iter().flatten().enumerate() {
        let cells: Vec<String> =
            measured.iter().map(|figures| format!("{:.2} {}", figures[at].value, figures[at].unit)).collect();
        let verdict = |bar: f64| if figure.value <= bar { "met" } else { "MISSED" };
        let bar = figure.bar.map_or_else(String::new, |bar| format!("{bar:.2} {}: {}", figure.unit, verdict(bar)));
        lines.push(format!("| {} | {} | {bar} |", figure.what, cells.join(" | ")));
    }
    lines.join("\n") + "\n"
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// The text with this section in the place of the one of its name.
fn replace_section(text: &str, section: &str) -> String {
    let Some(start) = text.find(SECTION) else { return format!("{}\n\n{section}", text.trim_end()) };
    let rest = &text[start + SECTION.len()..];
    let end = rest.find("\n## ").map_or(text.len(), |end| start + SECTION.len() + end + 1);
    format!("{}{section}{}{}", &text[..start], if end < text.len() { "\n" } else { "" }, &text[end..])
}
