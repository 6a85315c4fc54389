//! Which host a connection goes to, and the connection to it.

use std::borrow::Cow;
use std::rc::Rc;

use nuncio_config::cluster::Priority;
use nuncio_config::metadata::MetadataMatch;
use nuncio_filter_api::Io;
use nuncio_telemetry::{FilterValue, ResponseFlag};

use super::session::Session;
use super::tunnel::TunnelConfig;
use crate::attempt::{ActiveRequest, Attempt};
use crate::failure::Failure;
use crate::lb::PickContext;
use crate::limits::Resource;
use crate::pool::connection::PoolFailure;
use crate::router::note_cluster;
use crate::worker::{WorkerCluster, WorkerHost};

/// A connection to a host, with what is counted while it lasts.
pub(super) struct Connected {
    pub(super) io: Io,
    pub(super) active: ActiveRequest,
}

/// Why there is no connection to a host.
enum Unconnected {
    Failed,
    NoHost,
    Limited,
    NoRoute,
}

/// Envoy: under this name a filter, such as sni_cluster, may set the cluster of this connection.
const CLUSTER: &str = "envoy.tcp_proxy.cluster";

impl Session {
    /// Connects, as often as may be tried. What went wrong is noted.
    pub(super) async fn connect(&self) -> Option<Connected> {
        let random = self.worker.rng.u64();
        let mut attempts = 0;
        loop {
            let cluster = self.cluster(random)?;
            let stats = &cluster.shared.cluster.stats;
            // Envoy: a connection is not waited for here, whatever the limit of requests that wait.
            if cluster.shared.cluster.limits(Priority::Default).is_exhausted(Resource::Connections) {
                self.refuse(Unconnected::Limited);
                self.info.flag(ResponseFlag::UpstreamOverflow);
                stats.upstream_cx_overflow().inc();
                return None;
            }
            if attempts >= self.config.max_connect_attempts {
                self.refuse(Unconnected::Failed);
                self.info.flag(ResponseFlag::UpstreamRetryLimitExceeded);
                stats.upstream_cx_connect_attempts_exceeded().inc();
                return None;
            }
            let metadata = self.metadata_match(random);
            let Some(host) = self.host(&cluster, metadata.as_deref()).await else {
                stats.upstream_cx_none_healthy().inc();
                self.refuse(Unconnected::NoHost);
                self.info.flag(ResponseFlag::NoHealthyUpstream);
                return None;
            };
            attempts += 1;
            self.info.upstream.borrow_mut().attempts = attempts;
            let attempt =
                Attempt { host: &host, priority: Priority::Default, info: Some(&self.info), informational: None };
            let tunnel = self.config.tunnel.as_ref().filter(|_| !TunnelConfig::is_disabled(&self.info.filter_state.borrow()));
            let connected = match tunnel {
                None => attempt.connect_raw().await,
                Some(tunnel) => Box::pin(tunnel.open(self, &attempt)).await,
            };
            match connected {
                Ok((io, active)) => return Some(Connected { io, active }),
                Err(failure) => self.note_failure(&failure),
            }
            if let Some(backoff) = self.config.backoff.filter(|_| attempts < self.config.max_connect_attempts) {
                tokio::time::sleep(backoff.pause(attempts, self.worker.rng.u64())).await;
            }
        }
    }

    /// The cluster of this connection.
    fn cluster(&self, random: u64) -> Option<Rc<WorkerCluster>> {
        let named = match self.info.filter_state.borrow().get(CLUSTER) {
            Some(FilterValue::Text(name)) => Some(self.config.names.find(name)),
            _ => None,
        };
        let id = match named {
            Some(named) => named.map(|name| name.id),
            None => Some(self.config.target(random).cluster.id),
        };
        let cluster = id.and_then(|id| self.clusters.get(id));
        if cluster.is_none() {
            self.config.stats.downstream_cx_no_route().inc();
            self.refuse(Unconnected::NoRoute);
            self.info.flag(ResponseFlag::NoClusterFound);
        }
        note_cluster(&mut self.info.upstream.borrow_mut(), cluster.as_deref());
        cluster
    }

    /// What the target asks of the metadata of hosts, and over it what filters ask.
    fn metadata_match(&self, random: u64) -> Option<Cow<'_, MetadataMatch>> {
        let own = self.config.target(random).metadata_match.as_ref();
        let dynamic = self.info.connection.metadata.borrow();
        let Some(asked) = dynamic.as_ref().and_then(|metadata| metadata.get("envoy.lb")) else {
            return own.map(Cow::Borrowed);
        };
        Some(Cow::Owned(own.cloned().unwrap_or_default().with(asked)))
    }

    async fn host(&self, cluster: &WorkerCluster, metadata: Option<&MetadataMatch>) -> Option<Rc<WorkerHost>> {
        let hash = self.config.hash(&self.info.connection, &self.info.filter_state.borrow());
        let asked = || PickContext { hash, metadata, info: Some(&self.info), ..PickContext::default() };
        if let Some(preparing) = cluster.prepare(asked)
            && preparing.await.is_err()
        {
            return None;
        }
        cluster.pick(&asked())
    }

    fn refuse(&self, why: Unconnected) {
        // Envoy's numbers, and its words.
        self.info.connection.local_close_reason.set(Some(match why {
            Unconnected::Failed => "tcp_initializion_failure:0",
            Unconnected::NoHost => "tcp_initializion_failure:1",
            Unconnected::Limited => "tcp_initializion_failure:2",
            Unconnected::NoRoute => "tcp_initializion_failure:3",
        }));
    }

    fn note_failure(&self, failure: &Failure) {
        // Envoy: who was turned away at the queue has no flag of its own.
        if !matches!(failure, Failure::Pool(PoolFailure::Overflow)) {
            self.info.flag(ResponseFlag::UpstreamConnectionFailure);
        }
        self.info.upstream.borrow_mut().transport_failure = failure.transport_failure().cloned();
    }
}
