//! A server is told of the load of clusters (LRS): the same scripted server asks nuncio, and the real Envoy where there
//! is one.

use std::time::Duration;

use super::parity::envoy::programs;
use super::support::bootstrap::Pieces;
use super::support::client;
use super::support::control_plane::cluster_at;
use super::support::conversation::{self, Streams, Words};
use super::support::ports::free_port;
use super::support::proxy::{Proxy, proxy};
use super::support::upstream::{Answer, http1};
use nuncio_config::protocol::{read_duration, to_duration};
use nuncio_proto::envoy::config::core::v3::address::Address;
use nuncio_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use nuncio_proto::envoy::config::endpoint::v3::{
    ClusterStats, EndpointLoadMetricStats, UpstreamEndpointStats, UpstreamLocalityStats,
};
use nuncio_proto::envoy::service::load_stats::v3::load_reporting_service_server as service;
use nuncio_proto::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use tokio::time::{sleep, timeout, timeout_at};
use tonic::{Request, Response, Status, Streaming};

/// Between reports.
const INTERVAL: Duration = Duration::from_millis(300);

type Server = conversation::Server<LoadStatsRequest, LoadStatsResponse>;

struct Service(Streams<LoadStatsRequest, LoadStatsResponse>);

#[tonic::async_trait]
impl service::LoadReportingService for Service {
    type StreamLoadStatsStream = Words<LoadStatsResponse>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        Ok(Response::new(self.0.serve(request.into_inner())))
    }
}

async fn server() -> Server {
    Server::start(|streams| service::LoadReportingServiceServer::new(Service(streams))).await
}

/// A proxy that tells the server at this port of its load, with these clusters, of which requests name one.
fn bootstrap(server: u16, clusters: &str) -> Proxy {
    let pieces = Pieces {
        bootstrap: "node: { id: me, cluster: us, locality: { zone: b } }
cluster_manager:
  load_stats_config:
    api_type: GRPC
    transport_api_version: V3
    grpc_services: [{ envoy_grpc: { cluster_name: xds } }]
"
        .to_owned(),
        routes: "- { match: { prefix: / }, route: { cluster_header: x-cluster } }\n".to_owned(),
        cluster: "load_assignment: { cluster_name: up }\n".to_owned(),
        clusters: cluster_at(server) + clusters,
        ..Pieces::default()
    };
    proxy(pieces.yaml())
}

/// A static cluster with these `endpoints`, and further fields.
fn cluster(name: &str, endpoints: &str, further: &str) -> String {
    format!(
        "- {{ name: {name}, connect_timeout: 1s, {further} load_assignment: {{ cluster_name: {name}, endpoints: [{endpoints}] }} }}\n"
    )
}

/// One host in a locality.
fn host(zone: &str, priority: u32, port: &str) -> String {
    format!(
        "{{ locality: {{ zone: {zone} }}, priority: {priority}, lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}"
    )
}

fn ask(clusters: &[&str]) -> LoadStatsResponse {
    LoadStatsResponse {
        clusters: clusters.iter().map(|name| (*name).to_owned()).collect(),
        load_reporting_interval: Some(to_duration(INTERVAL)),
        ..Default::default()
    }
}

/// Runs a test with nuncio, and with Envoy.
async fn with_both(test: impl AsyncFn(&dyn Fn(Proxy) -> Proxy)) {
    for program in programs() {
        test(&|proxy| proxy.program(&program)).await;
    }
}

/// Reports from now on, added up, until they hold `enough`.
async fn gather(server: &mut Server, enough: impl Fn(&[ClusterStats]) -> bool) -> Vec<ClusterStats> {
    let mut all: Vec<ClusterStats> = Vec::new();
    loop {
        let report = timeout(super::support::DEADLINE, server.next()).await;
        for stats in report.unwrap_or_else(|_| panic!("no more reports after {all:?}")).cluster_stats {
            match all.iter_mut().find(|known| known.cluster_name == stats.cluster_name) {
                Some(known) => merge(known, stats),
                None => all.push(stats),
            }
        }
        if enough(&all) {
            all.sort_by(|a, b| a.cluster_name.cmp(&b.cluster_name));
            return all;
        }
    }
}

fn merge(into: &mut ClusterStats, from: ClusterStats) {
    into.total_dropped_requests += from.total_dropped_requests;
    for dropped in from.dropped_requests {
        match into.dropped_requests.iter_mut().find(|known| known.category == dropped.category) {
            Some(known) => known.dropped_count += dropped.dropped_count,
            None => into.dropped_requests.push(dropped),
        }
    }
    for stats in from.upstream_locality_stats {
        let place = |stats: &UpstreamLocalityStats| (stats.locality.clone(), stats.priority);
        match into.upstream_locality_stats.iter_mut().find(|known| place(known) == place(&stats)) {
            Some(known) => {
                known.total_successful_requests += stats.total_successful_requests;
                known.total_error_requests += stats.total_error_requests;
                known.total_issued_requests += stats.total_issued_requests;
                known.total_requests_in_progress = stats.total_requests_in_progress;
                known.upstream_endpoint_stats.extend(stats.upstream_endpoint_stats);
                known.load_metric_stats.extend(stats.load_metric_stats);
            }
            None => into.upstream_locality_stats.push(stats),
        }
    }
}

/// `zone/priority: success error active issued` of each locality, in the order in which they are told.
fn localities(stats: &ClusterStats) -> Vec<String> {
    let places = stats.upstream_locality_stats.iter().map(|of| {
        let zone = of.locality.as_ref().map_or("-", |locality| &locality.zone);
        format!("{zone}/{}", of.priority)
    });
    places.zip(counts(stats)).map(|(place, counts)| format!("{place}: {counts:?}")).collect()
}

fn counts(stats: &ClusterStats) -> impl Iterator<Item = [u64; 4]> {
    stats.upstream_locality_stats.iter().map(|of| {
        let ended = [of.total_successful_requests, of.total_error_requests];
        [ended[0], ended[1], of.total_requests_in_progress, of.total_issued_requests]
    })
}

/// As [`localities`], of hosts by their ports.
fn hosts(of: &[UpstreamEndpointStats]) -> Vec<(u32, [u64; 4])> {
    let port = |stats: &UpstreamEndpointStats| match stats.address.as_ref().and_then(|address| address.address.as_ref())
    {
        Some(Address::SocketAddress(address)) => match address.port_specifier {
            Some(PortSpecifier::PortValue(port)) => port,
            _ => 0,
        },
        _ => 0,
    };
    let counts = |of: &UpstreamEndpointStats| {
        [of.total_successful_requests, of.total_error_requests, of.total_requests_in_progress, of.total_issued_requests]
    };
    of.iter().map(|of| (port(of), counts(of))).collect()
}

/// How many requests were answered, well or not.
fn ended(stats: &[ClusterStats]) -> u64 {
    let localities = stats.iter().flat_map(|of| &of.upstream_locality_stats);
    localities.map(|of| of.total_successful_requests + of.total_error_requests).sum()
}

fn interval(stats: &ClusterStats) -> Duration {
    stats.load_report_interval.and_then(read_duration).unwrap_or_default()
}

async fn get(at: std::net::SocketAddr, cluster: &str, path: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-cluster: {cluster}\r\nconnection: close\r\n\r\n");
    let mut client = client::Client::connect(at, super::support::split::Split::Whole).await.expect("it listens");
    client.request(request.as_bytes()).await.expect("it answers").status()
}

#[tokio::test]
async fn a_server_is_told_of_the_clusters_that_it_asks_for() {
    with_both(async |with| {
        let mut server = server().await;
        let endpoints = [host("a", 0, "$UPSTREAM"), host("b", 0, "$UPSTREAM2"), host("a", 1, "$UPSTREAM")].join(", ");
        let clusters = cluster("told", &endpoints, "") + &cluster("other", &host("a", 0, "$UPSTREAM"), "");
        let error = Answer::bytes("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n");
        let first = http1().answer("/bad", error.clone()).route("/", "one");
        let second = http1().answer("/bad", error).route("/", "two");
        let running = with(bootstrap(server.port(), &clusters)).upstream(first).upstream(second).run().await;
        let LoadStatsRequest { node, cluster_stats } = server.next().await;
        let node = node.expect("the first message says who tells");
        assert_eq!((&*node.id, &*node.cluster), ("me", "us"));
        assert!(node.client_features.iter().any(|feature| feature == "envoy.lrs.supports_send_all_clusters"));
        assert!(cluster_stats.is_empty());

        // What was before is not told.
        assert_eq!(get(running.addr(), "told", "/").await, 200);
        server.say(LoadStatsResponse { report_endpoint_granularity: true, ..ask(&["told", "missing"]) });
        running.wait_for_stat("load_reporter.requests", 1).await;
        for path in ["/", "/bad", "/", "/"] {
            get(running.addr(), "told", path).await;
            get(running.addr(), "other", path).await;
        }
        let told = gather(&mut server, |stats| ended(stats) == 4).await;
        let [stats] = &*told else { panic!("{told:?}") };
        assert_eq!((&*stats.cluster_name, &*stats.cluster_service_name), ("told", ""));
        // Clocks that are read once a turn may be some milliseconds late.
        assert!(interval(stats) >= INTERVAL / 2, "{stats:?}");
        // The locality of the proxy comes first, and each host had two of the requests.
        let zones: Vec<&str> =
            stats.upstream_locality_stats.iter().map(|of| &*of.locality.as_ref().unwrap().zone).collect();
        assert_eq!(zones, ["b", "a"]);
        let all: u64 = stats.upstream_locality_stats.iter().map(|of| of.total_successful_requests).sum();
        let errors: u64 = stats.upstream_locality_stats.iter().map(|of| of.total_error_requests).sum();
        assert_eq!((all, errors), (3, 1));
        let ports: Vec<u32> = [1, 0].map(|at| running.upstream(at).port().into()).into();
        for (locality, port) in stats.upstream_locality_stats.iter().zip(ports) {
            let by_host = hosts(&locality.upstream_endpoint_stats);
            assert_eq!(by_host.iter().map(|(_, counts)| counts[3]).sum::<u64>(), 2);
            assert!(by_host.iter().all(|(at, _)| *at == port), "{by_host:?}");
        }
        // A cluster without news is told of as well.
        let next = server.next().await;
        let [stats] = &*next.cluster_stats else { panic!("{next:?}") };
        assert!(next.node.is_some() && localities(stats).is_empty() && stats.dropped_requests.is_empty());
        assert!(running.stat("load_reporter.responses").await >= 2);
        assert_eq!(running.stat("load_reporter.errors").await, 0);
    })
    .await;
}

#[tokio::test]
async fn requests_under_way_are_told_of_as_long_as_they_last() {
    with_both(async |with| {
        let mut server = server().await;
        // The answer comes between two reports: where it is begun and not yet read to its end, a report tells of a
        // request that has succeeded and is still under way.
        let slow = http1().answer("/", Answer::ok("late").after(INTERVAL * 7 / 2));
        let clusters = cluster("c", &host("a", 0, "$UPSTREAM"), "");
        let running = with(bootstrap(server.port(), &clusters)).upstream(slow).run().await;
        server.next().await;
        server.say(LoadStatsResponse { send_all_clusters: true, ..ask(&[]) });
        running.wait_for_stat("load_reporter.requests", 1).await;
        let address = running.addr();
        let asked = tokio::spawn(async move { get(address, "c", "/").await });
        let until = tokio::time::Instant::now() + super::support::DEADLINE;
        // Successes, errors, requests under way and issued ones of each report; some may have come together.
        let mut seen: Vec<[u64; 4]> = Vec::new();
        let mut under_way = true;
        while under_way {
            let report = timeout_at(until, server.next()).await.unwrap_or_else(|_| panic!("no end is told: {seen:?}"));
            let names: Vec<&str> = report.cluster_stats.iter().map(|stats| &*stats.cluster_name).collect();
            assert!(names.contains(&"c") && names.contains(&"xds"), "{names:?}");
            let of = report.cluster_stats.iter().find(|of| of.cluster_name == "c").expect("it is there");
            assert!(localities(of).iter().all(|line| line.starts_with("a/0: ")), "{of:?}");
            seen.extend(counts(of));
            under_way = counts(of).any(|[.., active, _]| active > 0) || seen.iter().all(|[ok, ..]| *ok == 0);
        }
        assert_eq!(asked.await.unwrap(), 200);
        assert_eq!(seen.iter().map(|[.., issued]| issued).sum::<u64>(), 1, "{seen:?}");
        assert!(seen.iter().all(|[_, errors, ..]| *errors == 0), "{seen:?}");
        assert!(seen.contains(&[0, 0, 1, 0]), "told of again while it lasts: {seen:?}");
        assert_eq!(seen.iter().map(|[ok, ..]| ok).sum::<u64>(), 1, "{seen:?}");
    })
    .await;
}

#[tokio::test]
async fn requests_that_no_host_was_to_see_are_told_of_by_category() {
    with_both(async |with| {
        let mut server = server().await;
        let endpoints = |policy: &str| {
            format!(
                "{{ resources: [{{ '@type': type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: service, endpoints: [{}], policy: {{ drop_overloads: [{policy}] }} }}] }}",
                host("a", 0, "$UPSTREAM")
            )
        };
        let dropped = "- { name: found, type: EDS, connect_timeout: 1s, eds_cluster_config: { service_name: service, eds_config: { path_config_source: { path: $DIR/eds.yaml } } } }\n";
        let breakers = "circuit_breakers: { thresholds: [{ max_requests: 0 }] },";
        let clusters = dropped.to_owned() + &cluster("full", &host("a", 0, "$UPSTREAM"), breakers);
        let all = endpoints("{ category: shed, drop_percentage: { numerator: 100 } }");
        let running =
            with(bootstrap(server.port(), &clusters)).upstream(http1()).file("eds.yaml", &all).run().await;
        server.next().await;
        server.say(ask(&["found", "full"]));
        running.wait_for_stat("load_reporter.requests", 1).await;
        for cluster in ["found", "found", "full"] {
            assert_eq!(get(running.addr(), cluster, "/").await, 503);
        }
        let drops = |stats: &[ClusterStats]| stats.iter().map(|of| of.total_dropped_requests).sum::<u64>();
        let told = gather(&mut server, |stats| drops(stats) == 3).await;
        let [found, full] = &*told else { panic!("{told:?}") };
        assert_eq!((&*found.cluster_service_name, found.total_dropped_requests), ("service", 2));
        let [category] = &*found.dropped_requests else { panic!("{found:?}") };
        assert_eq!((&*category.category, category.dropped_count), ("shed", 2));
        assert_eq!((full.total_dropped_requests, full.dropped_requests.len()), (1, 0));
    })
    .await;
}

#[tokio::test]
async fn metrics_that_hosts_report_are_passed_on_by_name() {
    with_both(async |with| {
        let mut server = server().await;
        let report = "TEXT cpu_utilization=0.5,named_metrics.a=2,named_metrics.b=3,utilization.x=0.25";
        let answer =
            Answer::bytes(format!("HTTP/1.1 200 OK\r\nendpoint-load-metrics: {report}\r\ncontent-length: 0\r\n\r\n"));
        let metrics = "lrs_report_endpoint_metrics: [cpu_utilization, mem_utilization, named_metrics.a, named_metrics.c, 'utilization.*', bogus], lrs_server: { self: {} },";
        let clusters = cluster("c", &host("a", 0, "$UPSTREAM"), metrics) + &cluster("d", &host("a", 0, "$UPSTREAM"), "");
        let running = with(bootstrap(server.port(), &clusters)).upstream(http1().answer("/", answer)).run().await;
        server.next().await;
        server.say(LoadStatsResponse { report_endpoint_granularity: true, ..ask(&["c", "d"]) });
        running.wait_for_stat("load_reporter.requests", 1).await;
        get(running.addr(), "c", "/").await;
        get(running.addr(), "c", "/").await;
        get(running.addr(), "d", "/").await;
        let told = gather(&mut server, |stats| ended(stats) == 3).await;
        let by_name = |stats: &[EndpointLoadMetricStats]| {
            let mut sums = std::collections::BTreeMap::<String, (u64, f64)>::new();
            for of in stats {
                let sum = sums.entry(of.metric_name.clone()).or_default();
                *sum = (sum.0 + of.num_requests_finished_with_metric, sum.1 + of.total_metric_value);
            }
            sums.into_iter().collect::<Vec<_>>()
        };
        let expected = [
            ("cpu_utilization", (2, 1.0)),
            ("mem_utilization", (2, 0.0)),
            ("named_metrics.a", (2, 4.0)),
            ("utilization.x", (2, 0.5)),
        ]
        .map(|(name, sum)| (name.to_owned(), sum));
        let locality = &told[0].upstream_locality_stats[0];
        assert_eq!(by_name(&locality.load_metric_stats), expected);
        let of_hosts: Vec<_> =
            locality.upstream_endpoint_stats.iter().flat_map(|of| of.load_metric_stats.clone()).collect();
        assert_eq!(by_name(&of_hosts), expected);
        assert!(told[1].upstream_locality_stats[0].load_metric_stats.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again_and_nothing_is_lost_meanwhile() {
    with_both(async |with| {
        let mut server = server().await;
        let clusters = cluster("c", &host("a", 0, "$UPSTREAM"), "");
        let running = with(bootstrap(server.port(), &clusters)).upstream(http1()).run().await;
        server.next().await;
        server.say(ask(&["c"]));
        server.next().await;
        server.close();
        running.wait_for_stat("load_reporter.errors", 1).await;
        while timeout(Duration::from_millis(1), server.next()).await.is_ok() {}
        assert_eq!(get(running.addr(), "c", "/").await, 200);
        // The first message of the next stream is a report.
        let first = server.next().await;
        assert!(first.node.is_some());
        assert_eq!(localities(&first.cluster_stats[0]), ["a/0: [1, 0, 0, 1]"]);
        assert_eq!(running.stat("load_reporter.retries").await, 1);
        // And reports go on as they were asked for before.
        assert_eq!(server.next().await.cluster_stats.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error() {
    with_both(async |with| {
        let clusters = cluster("c", &host("a", 0, "1"), "");
        let running = with(bootstrap(free_port(), &clusters)).run().await;
        running.wait_for_stat("load_reporter.errors", 1).await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!(running.stat("load_reporter.retries").await, 0);
        assert_eq!(running.stat("load_reporter.responses").await, 1);
    })
    .await;
}
