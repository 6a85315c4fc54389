//! Hosts are checked for a server (HDS): the same scripted server asks nuncio, and the real Envoy where there is one.

use super::parity::envoy::programs;
use super::support::control_plane::cluster_at;
use super::support::conversation::{self, Streams, Words};
use super::support::ports::free_port;
use super::support::proxy::{Proxy, proxy};
use super::support::upstream::{Answer, http1, refusing};
use nuncio_config::protocol::to_duration;
use nuncio_proto::envoy::config::core::v3::address::Address;
use nuncio_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use nuncio_proto::envoy::config::core::v3::{self as core, HealthStatus, health_check};
use nuncio_proto::envoy::config::endpoint::v3::Endpoint;
use nuncio_proto::envoy::service::health::v3 as pb;
use nuncio_proto::google::protobuf;
use pb::health_check_request_or_endpoint_health_response::RequestType;
use pb::health_discovery_service_server as service;
use pb::{HealthCheckRequestOrEndpointHealthResponse as FromProxy, HealthCheckSpecifier};
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

/// Between responses.
const INTERVAL: Duration = Duration::from_millis(100);

type Server = conversation::Server<FromProxy, HealthCheckSpecifier>;

struct Service(Streams<FromProxy, HealthCheckSpecifier>);

#[tonic::async_trait]
impl service::HealthDiscoveryService for Service {
    type StreamHealthCheckStream = Words<HealthCheckSpecifier>;

    async fn stream_health_check(
        &self,
        request: Request<Streaming<FromProxy>>,
    ) -> Result<Response<Self::StreamHealthCheckStream>, Status> {
        Ok(Response::new(self.0.serve(request.into_inner())))
    }

    async fn fetch_health_check(&self, _: Request<FromProxy>) -> Result<Response<HealthCheckSpecifier>, Status> {
        Err(Status::unimplemented("nobody polls"))
    }
}

async fn server() -> Server {
    Server::start(|streams| service::HealthDiscoveryServiceServer::new(Service(streams))).await
}

fn bootstrap(server: u16) -> Proxy {
    let server = cluster_at(server).trim_end().replace('\n', "\n  ");
    proxy(format!(
        "node: {{ id: me, cluster: us }}
hds_config:
  api_type: GRPC
  transport_api_version: V3
  grpc_services: [{{ envoy_grpc: {{ cluster_name: xds }} }}]
static_resources:
  clusters:
  {server}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
"
    ))
}

fn endpoint(port: u16) -> Endpoint {
    let address = core::SocketAddress {
        address: "127.0.0.1".to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    Endpoint { address: Some(core::Address { address: Some(Address::SocketAddress(address)) }), ..Default::default() }
}

/// A cluster whose hosts are at these ports, in two zones, checked every 100 ms for a `200` at `/health`.
fn cluster(name: &str, zones: &[(&str, &[u16])]) -> pb::ClusterHealthCheck {
    let seconds = |duration| Some(to_duration(duration));
    let http = health_check::HttpHealthCheck { path: "/health".to_owned(), ..Default::default() };
    let check = core::HealthCheck {
        timeout: seconds(Duration::from_millis(500)),
        interval: seconds(INTERVAL),
        no_traffic_interval: seconds(INTERVAL),
        unhealthy_threshold: Some(protobuf::UInt32Value { value: 1 }),
        healthy_threshold: Some(protobuf::UInt32Value { value: 1 }),
        health_checker: Some(health_check::HealthChecker::HttpHealthCheck(http)),
        ..Default::default()
    };
    let locality = |(zone, ports): &(&str, &[u16])| pb::LocalityEndpoints {
        locality: Some(core::Locality { zone: (*zone).to_owned(), ..Default::default() }),
        endpoints: ports.iter().map(|port| endpoint(*port)).collect(),
    };
    pb::ClusterHealthCheck {
        cluster_name: name.to_owned(),
        health_checks: vec![check],
        locality_endpoints: zones.iter().map(locality).collect(),
        ..Default::default()
    }
}

fn specifier(clusters: Vec<pb::ClusterHealthCheck>) -> HealthCheckSpecifier {
    HealthCheckSpecifier { cluster_health_checks: clusters, interval: Some(to_duration(INTERVAL)) }
}

/// Cluster, zone, port and health of each host that a response tells of.
fn told(response: &pb::EndpointHealthResponse) -> Vec<(String, String, u16, HealthStatus)> {
    let mut all = Vec::new();
    for cluster in &response.cluster_endpoints_health {
        for locality in &cluster.locality_endpoints_health {
            let zone = locality.locality.as_ref().map(|locality| locality.zone.clone()).unwrap_or_default();
            for health in &locality.endpoints_health {
                all.push((cluster.cluster_name.clone(), zone.clone(), port(health), health.health_status()));
            }
        }
    }
    all
}

fn port(health: &pb::EndpointHealth) -> u16 {
    let address =
        health.endpoint.as_ref().and_then(|endpoint| endpoint.address.as_ref()).and_then(|a| a.address.as_ref());
    match address {
        Some(Address::SocketAddress(address)) => match address.port_specifier {
            Some(PortSpecifier::PortValue(port)) => port.try_into().unwrap_or(0),
            _ => 0,
        },
        _ => 0,
    }
}

/// Waits for a response that tells all this.
async fn wait_for(server: &mut Server, expected: &[(&str, &str, u16, HealthStatus)]) -> pb::EndpointHealthResponse {
    let expected: Vec<_> =
        expected.iter().map(|(c, z, port, health)| ((*c).to_owned(), (*z).to_owned(), *port, *health)).collect();
    let mut last = Vec::new();
    loop {
        let next = timeout(super::support::DEADLINE, server.next()).await;
        let next = next.unwrap_or_else(|_| panic!("not {expected:?} but {last:?}"));
        if let Some(RequestType::EndpointHealthResponse(response)) = next.request_type {
            last = told(&response);
            if last == expected {
                return response;
            }
        }
    }
}

#[tokio::test]
async fn a_server_is_told_of_the_health_of_the_hosts_that_it_asks_for() {
    use HealthStatus::{Healthy, Timeout, Unhealthy};
    for program in programs() {
        let mut server = server().await;
        let good = http1().start().await;
        let error = Answer::bytes("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
        let (bad, away) = (http1().answer("/", error).start().await, refusing().start().await);
        let slow = http1().answer("/", Answer::ok("late").after(Duration::from_secs(5))).start().await;
        let running = bootstrap(server.port()).program(&program).run().await;
        let Some(RequestType::HealthCheckRequest(first)) = server.next().await.request_type else {
            panic!("the first message is no request")
        };
        assert_eq!(first.node.map(|node| node.id), Some("me".to_owned()));
        assert_eq!(first.capability.unwrap().health_check_protocols, [0, 1]);
        let (good, bad, away, slow) = (good.port(), bad.port(), away.port(), slow.port());
        server.say(specifier(vec![
            cluster("a", &[("x", &[good, bad]), ("y", &[away, slow])]),
            cluster("b", &[("z", &[good])]),
        ]));
        let response = wait_for(
            &mut server,
            &[
                ("a", "x", good, Healthy),
                ("a", "x", bad, Unhealthy),
                ("a", "y", away, Unhealthy),
                ("a", "y", slow, Timeout),
                ("b", "z", good, Healthy),
            ],
        )
        .await;
        #[allow(deprecated, reason = "it is told all the same")]
        let flat = response.endpoints_health.len();
        assert_eq!(flat, 5);
        assert_eq!((running.stat("hds_delegate.requests").await, running.stat("hds_delegate.errors").await), (1, 0));
        // What is checked is no cluster that takes requests.
        let clusters = running.admin("/clusters").await;
        assert!(clusters.lines().all(|line| line.starts_with("xds::")), "{clusters}");
        assert!(running.stat("cluster.a.health_check.attempt").await > 0);
        assert_eq!(running.stat("cluster_manager.active_clusters").await, 1);

        // The next message takes the place of the first.
        server.say(specifier(vec![cluster("b", &[("z", &[good, bad])])]));
        wait_for(&mut server, &[("b", "z", good, Healthy), ("b", "z", bad, Unhealthy)]).await;
        running.wait_for_stat("hds_delegate.updates", 2).await;
    }
}

#[tokio::test]
async fn a_host_that_is_degraded_is_told_of_so() {
    for program in programs() {
        let mut server = server().await;
        let degraded = Answer::bytes("HTTP/1.1 200 OK\r\nx-envoy-degraded: true\r\ncontent-length: 0\r\n\r\n");
        let degraded = http1().answer("/", degraded).start().await;
        let _running = bootstrap(server.port()).program(&program).run().await;
        server.next().await;
        server.say(specifier(vec![cluster("a", &[("x", &[degraded.port()])])]));
        wait_for(&mut server, &[("a", "x", degraded.port(), HealthStatus::Unhealthy)]).await;
    }
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again_and_what_is_wrong_is_refused() {
    for program in programs() {
        let mut server = server().await;
        let running = bootstrap(server.port()).program(&program).run().await;
        server.next().await;
        let mut broken = cluster("a", &[("x", &[1])]);
        broken.health_checks[0].timeout = None;
        server.say(specifier(vec![broken]));
        running.wait_for_stat("hds_delegate.errors", 1).await;
        server.close();
        running.wait_for_stat("hds_delegate.errors", 2).await;
        let again = timeout(super::support::DEADLINE, server.next()).await.expect("it comes again");
        assert!(matches!(again.request_type, Some(RequestType::HealthCheckRequest(_))));
        assert_eq!(running.stat("hds_delegate.responses").await, 2);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error() {
    for program in programs() {
        let running = bootstrap(free_port()).program(&program).run().await;
        let until = tokio::time::Instant::now() + super::support::DEADLINE;
        while running.stat("hds_delegate.errors").await == 0 {
            assert!(tokio::time::Instant::now() < until, "no error is counted");
        }
    }
}
