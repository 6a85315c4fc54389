//! Hosts that come, go, fail and restart at random under a steady load, as an operator would have a proxy bear it: with
//! health checks, outlier detection and retries. Envoy bears the same at the same time.
//!
//! `$NUNCIO_CHAOS_SECONDS` is the length, 4 by default and 1800 for the bar; `$NUNCIO_CHAOS_SEED` the seed. A run that
//! is to be worth something is one of a release build (`NUNCIO_BINARY`):
//!
//! ```text
//! cargo build --release
//! NUNCIO_REQUIRE_ENVOY=1 NUNCIO_BINARY=$PWD/target/release/nuncio NUNCIO_CHAOS_SECONDS=1800 \
//!     cargo test --test main chaos -- --nocapture
//! ```

mod host;
mod load;
mod schedule;

use crate::parity;
use crate::support::bootstrap::Pieces;
use crate::support::name_server::{Table, table};
use crate::support::ports::free_port;
use crate::support::proxy::{Running, binary, proxy};
use crate::support::say;
use host::Host;
use load::Results;
use schedule::{Entry, Event, HOSTS, Mode, is_first, schedule};
use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

/// Requests a second to each proxy.
const RATE: u32 = 2000;

const CLUSTER: &str = r#"type: STRICT_DNS
dns_lookup_family: V4_ONLY
dns_refresh_rate: 0.2s
typed_dns_resolver_config:
  name: envoy.network.dns_resolver.cares
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
    resolvers: [{ socket_address: { address: 127.0.0.1, port_value: $DNS } }]
    dns_resolver_options: { no_default_search_domain: true }
health_checks:
- { timeout: 0.3s, interval: 0.5s, no_traffic_interval: 0.5s, unhealthy_threshold: 2, healthy_threshold: 1, http_health_check: { path: /hc } }
outlier_detection: { consecutive_5xx: 3, interval: 0.5s, base_ejection_time: 1s, max_ejection_time: 5s, max_ejection_percent: 50 }
circuit_breakers: { thresholds: [{ max_connections: 2000, max_pending_requests: 2000, max_requests: 2000, retry_budget: { budget_percent: { value: 50 }, min_retry_concurrency: 50 } }] }
"#;

const ROUTES: &str = r#"- match: { prefix: / }
  route:
    cluster: up
    timeout: 5s
    retry_policy:
      retry_on: "connect-failure,refused-stream,reset,5xx"
      num_retries: 3
      per_try_timeout: 0.5s
      host_selection_retry_max_attempts: 5
      retry_host_predicate:
      - name: previous_hosts
        typed_config: { "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate }
"#;

/// A proxy with hosts of its own.
struct Stage {
    running: Running,
    hosts: Vec<Host>,
    members: Vec<bool>,
}

impl Stage {
    /// `net` tells its hosts from those of another.
    async fn start(program: &Path, net: u8) -> Self {
        let ip = |host: usize| Ipv4Addr::new(127, net, 0, host as u8 + 1);
        let port = free_port();
        let mode = |host| if is_first(host) { Mode::Well } else { Mode::Down };
        let hosts: Vec<_> = (0..HOSTS).map(|host| Host::start(ip(host), port, mode(host))).collect();
        let members: Vec<_> = (0..HOSTS).map(is_first).collect();
        let endpoint = format!("{{ address: up.test, port_value: {port} }}");
        let cluster = format!(
            "{CLUSTER}load_assignment: {{ cluster_name: up, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ \
             socket_address: {endpoint} }} }} }}] }}] }}\n"
        );
        let pieces = Pieces { cluster, routes: ROUTES.to_owned(), ..Pieces::default() };
        let names = names(&hosts, &members);
        let running = proxy(pieces.yaml()).program(program).names(&names).argument("-l").argument("error").run().await;
        running.wait_for_stat("cluster.up.membership_healthy", HOSTS as u64 / 2).await;
        Self { running, hosts, members }
    }

    async fn play(&mut self, entries: &[Entry], begun: Instant) {
        for entry in entries {
            sleep_until(begun + entry.at).await;
            match entry.event {
                Event::Turn(mode) => self.hosts[entry.host].turn(mode),
                Event::Add | Event::Remove => {
                    self.members[entry.host] = entry.event == Event::Add;
                    self.running.name_server().change(&names(&self.hosts, &self.members));
                }
            }
        }
    }

    /// Plays all of `entries` under load.
    async fn run(&mut self, entries: &[Entry], length: Duration) -> Rc<Results> {
        let (begun, results) = (Instant::now(), Rc::new(Results::default()));
        let load = load::run(self.running.addr(), RATE, begun + length, results.clone());
        tokio::join!(load, self.play(entries, begun));
        results
    }

    /// Waits until nothing is left of all that.
    async fn settle(&mut self) {
        self.hosts.clear();
        for gauge in ["upstream_rq_active", "upstream_rq_pending_active", "upstream_cx_active", "membership_healthy"] {
            self.running.wait_for_stat(&format!("cluster.up.{gauge}"), 0).await;
        }
    }
}

fn names(hosts: &[Host], members: &[bool]) -> Table {
    let present = hosts.iter().zip(members).filter(|(_, is_member)| **is_member);
    let addresses: String = present.map(|(host, _)| format!(" {}", host.ip)).collect();
    table(&format!("up.test ttl=1{addresses}")).expect("a table of addresses")
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn tell(who: &str, results: &Results) {
    say(&format!(
        "chaos: {who} {:.4} % of {} requests, {} failed, 99.9 % within {:?}: {:?}",
        results.success_rate(),
        results.sent.get(),
        results.failed(),
        results.p999(),
        results.bad.borrow()
    ));
}

async fn chaos(seed: u64, length: Duration) {
    let entries = schedule(seed, length);
    let mut ours = Stage::start(&binary(), 11).await;
    let mut theirs = match parity::envoy::find() {
        Some(envoy) => Some(Stage::start(&envoy, 12).await),
        None => None,
    };
    let envoy = async {
        match &mut theirs {
            Some(stage) => Some(stage.run(&entries, length).await),
            None => None,
        }
    };
    let (nuncio, envoy) = tokio::join!(ours.run(&entries, length), envoy);
    say(&format!("chaos: {} events in {} s of seed {seed}", entries.len(), length.as_secs()));
    tell("nuncio", &nuncio);
    if let Some(envoy) = &envoy {
        tell("Envoy ", envoy);
        // Which requests meet which fault is chance: so many more are no difference.
        let chance = 4.0 * (envoy.failed() as f64).sqrt() + 20.0;
        assert!((nuncio.failed() as f64) < envoy.failed() as f64 + chance, "{} failed", nuncio.failed());
    }
    assert!(nuncio.success_rate() > 99.0, "{} %", nuncio.success_rate());
    ours.settle().await;
}

#[tokio::test]
async fn requests_succeed_as_often_as_envoys_while_hosts_come_and_go() {
    let length = Duration::from_secs(number("NUNCIO_CHAOS_SECONDS", 4));
    LocalSet::new().run_until(chaos(number("NUNCIO_CHAOS_SEED", 1), length)).await;
}
