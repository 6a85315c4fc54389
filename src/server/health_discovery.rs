//! Checks hosts for a server and tells it what comes of that: `envoy.service.health.v3.HealthDiscoveryService`.
//!
//! In: clusters with the checks of their hosts. They are watched beside the clusters of the configuration and take no
//! requests. Out: the health of each host, as often as the server asks for.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nuncio_config::address::to_proto;
use nuncio_config::cluster::{ClusterConfig, Locality};
use nuncio_config::load::{Loader, UnknownFields};
use nuncio_config::protocol::{read_duration, to_duration};
use nuncio_filter_api::{ClusterName, GrpcStream, GrpcTarget, LowerCx, LowerEnv, Rng, Upstreams, grpc_frame};
use nuncio_proto::envoy::config::cluster::v3 as cluster;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::endpoint::v3 as endpoint;
use nuncio_proto::envoy::service::health::v3 as pb;
use nuncio_proto::google::protobuf;
use nuncio_upstream::{Clusters, CoarseHealth, HealthFlag, Host, WorkerClusters};
use pb::health_check_request_or_endpoint_health_response::RequestType;
use prost::Message;
use tokio::time::{Instant, sleep};
use tonic::Status;
use tracing::warn;

use crate::deadline::reached;
use crate::task::Task;
use crate::worker::Shared;
use crate::xds::sent;

const METHOD: &str = "/envoy.service.health.v3.HealthDiscoveryService/StreamHealthCheck";
/// Between responses, where the server does not say.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
/// Responses come no closer than this, whatever the server asks for.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
/// Below this is the pause between streams; Envoy begins anew with each stream, so that it never grows.
const RETRY_BOUND: Duration = Duration::from_secs(1);
/// Envoy's `connect_timeout` and `per_connection_buffer_limit_bytes` of such a cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const BUFFER_LIMIT: u32 = 32 * 1024;

nuncio_telemetry::stats! {
    /// `hds_delegate`
    struct HdsStats {
        /// Messages of the server.
        requests: Counter,
        /// What it was sent.
        responses: Counter,
        /// Streams that broke off, and messages that were refused.
        errors: Counter,
        /// Messages that said something new.
        updates: Counter,
    }
}

/// Keeps the stream, and the clusters that the server has checked.
pub(crate) struct HealthDelegate {
    env: Arc<LowerEnv>,
    /// Of the configuration; the server is one of them.
    clusters: Arc<Clusters>,
    upstreams: Rc<WorkerClusters>,
    target: GrpcTarget,
    node: core::Node,
    stats: HdsStats,
    rng: Rng,
    checked: Arc<Clusters>,
    /// What each of them was made of, in the order in which the server named them.
    asked: Vec<(ClusterName, pb::ClusterHealthCheck)>,
    interval: Option<Duration>,
    /// When the next response is due.
    due: Option<Instant>,
}

// === impl HealthDelegate ===

impl HealthDelegate {
    pub(crate) fn new(
        shared: &Shared,
        env: &Arc<LowerEnv>,
        upstreams: Rc<WorkerClusters>,
        target: GrpcTarget,
        node: &core::Node,
    ) -> Self {
        let stats = HdsStats::new(&shared.store.scope("hds_delegate"));
        for counter in [stats.requests(), stats.responses(), stats.errors(), stats.updates()] {
            counter.add(0);
        }
        Self {
            env: env.clone(),
            clusters: shared.clusters.clone(),
            upstreams,
            target,
            node: node.clone(),
            stats,
            rng: Rng::from_entropy(),
            checked: Clusters::beside(&shared.store, &env.runtime),
            asked: Vec::new(),
            interval: None,
            due: None,
        }
    }

    /// Runs until it is dropped, within a `LocalSet`.
    pub(crate) async fn run(mut self) {
        let _watch = Task::spawn(self.checked.clone().run_health());
        let server = self.clusters.snapshot().get(self.target.cluster.id).cloned();
        if let Some(server) = server {
            server.warmed().await;
        }
        loop {
            let status = self.serve().await;
            (self.due, self.interval) = (None, None);
            self.stats.errors().inc();
            warn!(target: "upstream", cluster = %self.target.cluster.name, code = status.code() as i32,
                reason = status.message(), "stream of health discovery closed");
            let bound = u64::try_from(RETRY_BOUND.as_nanos()).unwrap_or(u64::MAX);
            sleep(Duration::from_nanos(self.rng.below(bound))).await;
        }
    }

    /// One stream from its begin to its end.
    async fn serve(&mut self) -> Status {
        let upstreams: &dyn Upstreams = &*self.upstreams;
        let (sender, mut stream) = GrpcStream::open(upstreams, &self.target, METHOD.into());
        let mut message = Some(self.introduce());
        loop {
            tokio::select! {
                () = sent(&sender, &mut message), if message.is_some() => {}
                () = reached(self.due), if message.is_none() && self.due.is_some() => message = Some(self.respond()),
                received = stream.next() => match received {
                    Ok(bytes) => self.receive(bytes),
                    Err(status) => return status,
                },
            }
        }
    }

    /// Who asks, and what can be checked.
    fn introduce(&self) -> Bytes {
        use pb::capability::Protocol;
        // Envoy tells of no more, though it checks Redis and gRPC too.
        let health_check_protocols = vec![Protocol::Http.into(), Protocol::Tcp.into()];
        self.message(RequestType::HealthCheckRequest(pb::HealthCheckRequest {
            node: Some(self.node.clone()),
            capability: Some(pb::Capability { health_check_protocols }),
        }))
    }

    fn message(&self, request: RequestType) -> Bytes {
        self.stats.responses().inc();
        let request = pb::HealthCheckRequestOrEndpointHealthResponse { request_type: Some(request) };
        grpc_frame(&request.encode_to_vec())
    }

    fn receive(&mut self, bytes: Bytes) {
        self.stats.requests().inc();
        let specifier = Loader::new(UnknownFields::Ignore).load_wire("health check specifier", bytes.into());
        let specifier = specifier.map(|loaded| loaded.message).map_err(|problems| {
            problems.iter().map(|problem| problem.invalid.to_string()).collect::<Vec<_>>().join("; ")
        });
        let obeyed = specifier.and_then(|specifier| self.obey(specifier));
        if let Err(reason) = obeyed {
            self.stats.errors().inc();
            warn!(target: "upstream", %reason, "what is to be checked was refused");
        }
    }

    /// Has checked what the server asks for, and nothing else.
    fn obey(&mut self, specifier: pb::HealthCheckSpecifier) -> Result<(), String> {
        let pb::HealthCheckSpecifier { cluster_health_checks, interval } = specifier;
        let interval = interval.and_then(read_duration).unwrap_or(DEFAULT_INTERVAL);
        let interval = interval.max(MIN_INTERVAL);
        let mut configs = Vec::new();
        let mut asked = Vec::new();
        for checks in cluster_health_checks {
            let known = self.asked.iter().find(|(_, known)| *known == checks);
            let name = match known {
                Some((name, _)) => name.clone(),
                None => {
                    let config = self.lower(&checks)?;
                    let name = config.name.clone();
                    configs.push(config);
                    name
                }
            };
            asked.push((name, checks));
        }
        let is_news = self.interval.is_none() || self.asked != asked || self.interval != Some(interval);
        if is_news {
            self.stats.updates().inc();
        }
        let stays = |id: u32| asked.iter().any(|(name, _)| name.id == id);
        let gone: Vec<u32> = self.asked.iter().map(|(name, _)| name.id).filter(|id| !stays(*id)).collect();
        self.checked.remove_all(gone);
        self.checked.update(configs);
        self.asked = asked;
        if self.interval.replace(interval) != Some(interval) {
            self.due = Instant::now().checked_add(interval);
        }
        Ok(())
    }

    fn lower(&self, checks: &pb::ClusterHealthCheck) -> Result<ClusterConfig, String> {
        let message = to_cluster(checks.clone());
        LowerCx::whole(&self.env, |cx| ClusterConfig::lower(message, cx)).map_err(|invalid| {
            let reasons: Vec<String> = invalid.iter().map(ToString::to_string).collect();
            format!("{}: {}", checks.cluster_name, reasons.join("; "))
        })
    }

    /// How it stands with all that is checked, framed.
    #[allow(deprecated, reason = "Envoy tells servers that know no clusters as well")]
    fn respond(&mut self) -> Bytes {
        self.due = self.interval.and_then(|interval| Instant::now().checked_add(interval));
        let snapshot = self.checked.snapshot();
        let clusters = self.asked.iter().filter_map(|(name, _)| snapshot.get(name.id));
        let cluster_endpoints_health: Vec<_> = clusters
            .map(|cluster| pb::ClusterEndpointsHealth {
                cluster_name: cluster.config.name.name.to_string(),
                locality_endpoints_health: by_locality(&cluster.hosts().hosts),
            })
            .collect();
        let localities = cluster_endpoints_health.iter().flat_map(|cluster| &cluster.locality_endpoints_health);
        let endpoints_health = localities.flat_map(|locality| locality.endpoints_health.clone()).collect();
        let response = pb::EndpointHealthResponse { endpoints_health, cluster_endpoints_health };
        self.message(RequestType::EndpointHealthResponse(response))
    }
}

/// The cluster whose hosts are to be checked.
fn to_cluster(checks: pb::ClusterHealthCheck) -> cluster::Cluster {
    let pb::ClusterHealthCheck {
        cluster_name,
        health_checks,
        locality_endpoints,
        transport_socket_matches,
        upstream_bind_config,
    } = checks;
    let to_host = |endpoint| endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..endpoint::LbEndpoint::default()
    };
    let localities = locality_endpoints.into_iter().map(|pb::LocalityEndpoints { locality, endpoints }| {
        endpoint::LocalityLbEndpoints {
            locality,
            lb_endpoints: endpoints.into_iter().map(to_host).collect(),
            ..endpoint::LocalityLbEndpoints::default()
        }
    });
    cluster::Cluster {
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: cluster_name.clone(),
            endpoints: localities.collect(),
            ..endpoint::ClusterLoadAssignment::default()
        }),
        name: cluster_name,
        connect_timeout: Some(to_duration(CONNECT_TIMEOUT)),
        per_connection_buffer_limit_bytes: Some(protobuf::UInt32Value { value: BUFFER_LIMIT }),
        health_checks,
        transport_socket_matches,
        upstream_bind_config,
        ..cluster::Cluster::default()
    }
}

/// Hosts that stand together in the same locality are told together.
fn by_locality(hosts: &[Arc<Host>]) -> Vec<pb::LocalityEndpointsHealth> {
    let of_group = |group: &[Arc<Host>]| pb::LocalityEndpointsHealth {
        locality: Some(
            group.first().and_then(|host| host.locality.as_deref()).map(Locality::to_proto).unwrap_or_default(),
        ),
        endpoints_health: group.iter().map(|host| health_of(host)).collect(),
    };
    hosts.chunk_by(|a, b| a.locality == b.locality).map(of_group).collect()
}

fn health_of(host: &Host) -> pb::EndpointHealth {
    let status = match host.health() {
        CoarseHealth::Healthy => core::HealthStatus::Healthy,
        _ if host.flags().has(HealthFlag::ActiveHcTimeout) => core::HealthStatus::Timeout,
        CoarseHealth::Unhealthy | CoarseHealth::Degraded => core::HealthStatus::Unhealthy,
    };
    let endpoint = endpoint::Endpoint { address: Some(to_proto(&host.address())), ..endpoint::Endpoint::default() };
    pb::EndpointHealth { endpoint: Some(endpoint), health_status: status.into(), health_metadata: None }
}
