//! Which host a connection goes to, and the connection to it.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_config::cluster::Priority;
use nuncio_config::metadata::MetadataMatch;
use nuncio_filter_api::Io;
use nuncio_filter_api::filter_state::{self, ProxyTlvs};
use nuncio_proto::envoy::extensions::filters::network::tcp_proxy::v3::ProxyProtocolTlvMergePolicy;
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::{FailedHost, FilterValue, LifeSpan, ResponseFlag};
use tokio::time::Instant;

use super::session::Session;
use super::tunnel::TunnelConfig;
use crate::attempt::{ActiveRequest, Attempt};
use crate::failure::Failure;
use crate::lb::PickContext;
use crate::limits::Resource;
use crate::pool::connection::PoolFailure;
use crate::pool::transport::proxy_tlvs;
use crate::router::note_cluster;
use crate::worker::{WorkerCluster, WorkerHost};

/// Hosts that were tried in vain of which logs tell, at most: `max_connect_attempts` has no bound.
const MAX_FAILED: usize = 1000;

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

impl Session {
    /// Connects, as often as may be tried. What went wrong is noted.
    pub(super) async fn connect(&self) -> Option<Connected> {
        self.tell_of_client();
        let random = self.worker.rng.u64();
        let mut attempts = 0;
        let begun = self.info.is_logged.get().then(|| self.worker.clock.now());
        loop {
            let cluster = self.cluster(random).await?;
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
                self.note_ready(begun);
                stats.upstream_cx_none_healthy().inc();
                self.refuse(Unconnected::NoHost);
                self.info.flag(ResponseFlag::NoHealthyUpstream);
                return None;
            };
            attempts += 1;
            self.info.upstream.borrow_mut().attempts = attempts;
            let attempt =
                Attempt { host: &host, priority: Priority::Default, info: Some(&self.info), informational: None };
            let tunnel =
                self.config.tunnel.as_ref().filter(|_| !TunnelConfig::is_disabled(&self.info.filter_state.borrow()));
            let connected = match tunnel {
                None => attempt.connect_raw().await,
                Some(tunnel) => Box::pin(tunnel.open(self, &attempt)).await,
            };
            self.note_ready(begun);
            match connected {
                Ok((io, active)) => return Some(Connected { io, active }),
                Err(failure) => self.note_failure(&failure),
            }
            if let Some(backoff) = self.config.backoff.filter(|_| attempts < self.config.max_connect_attempts) {
                tokio::time::sleep(backoff.pause(attempts, self.worker.rng.u64())).await;
            }
        }
    }

    /// Leaves for the sockets of hosts what they are to tell of the client besides.
    fn tell_of_client(&self) {
        if self.config.tlvs.is_empty() {
            return;
        }
        let now = self.worker.clock.now();
        let cx = FormatCx::new(&self.info, now, self.worker.clock.wall(now));
        let known = proxy_tlvs(&self.info.filter_state.borrow());
        let own = || self.config.tlvs.iter().map(|tlv| tlv.of(&cx)).collect::<Vec<_>>();
        let merged = match (known, self.config.tlv_merge) {
            (Some(_), ProxyProtocolTlvMergePolicy::AddIfAbsent) => return,
            (None, _) => own(),
            (Some(known), ProxyProtocolTlvMergePolicy::OverwriteByTypeIfExistsOrAdd) => {
                let mut merged = own();
                let others = known.0.iter().filter(|tlv| !merged.iter().any(|own| own.kind == tlv.kind)).cloned();
                let others: Vec<_> = others.collect();
                merged.extend(others);
                merged
            }
            (Some(known), ProxyProtocolTlvMergePolicy::AppendIfExistsOrAdd) => [known.0.clone(), own()].concat(),
        };
        let value = FilterValue::Object(Rc::new(ProxyTlvs(merged)));
        self.info.filter_state.borrow_mut().set(filter_state::PROXY_TLVS, value, LifeSpan::Connection);
    }

    /// The cluster of this connection.
    async fn cluster(&self, random: u64) -> Option<Rc<WorkerCluster>> {
        let cluster = match (self.known_cluster(random), &self.config.on_demand) {
            (None, Some(on_demand)) => self.discovered_cluster(on_demand, random).await,
            (known, _) => known,
        };
        if cluster.is_none() {
            self.config.stats.downstream_cx_no_route().inc();
            self.refuse(Unconnected::NoRoute);
            self.info.flag(ResponseFlag::NoClusterFound);
        }
        note_cluster(&mut self.info.upstream.borrow_mut(), cluster.as_deref());
        cluster
    }

    /// The cluster of this connection, if it is there.
    pub(super) fn known_cluster(&self, random: u64) -> Option<Rc<WorkerCluster>> {
        let id = match self.cluster_of_filters() {
            Some(name) => self.config.names.find(&name)?.id,
            None => self.config.target(random).cluster.id,
        };
        self.clusters.get(id)
    }

    /// The cluster that another filter names.
    pub(super) fn cluster_of_filters(&self) -> Option<Arc<str>> {
        match self.info.filter_state.borrow().get(filter_state::TCP_PROXY_CLUSTER) {
            Some(FilterValue::Text(name)) => Some(name.clone()),
            _ => None,
        }
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

    /// Notes how long it took until there was a connection, or none. Envoy: from the first attempt on.
    fn note_ready(&self, begun: Option<Instant>) {
        let ready = begun.map(|begun| self.worker.clock.now().saturating_duration_since(begun));
        self.info.upstream.borrow_mut().pool_ready = ready;
    }

    fn note_failure(&self, failure: &Failure) {
        // Envoy: who was turned away at the queue has no flag of its own.
        if !matches!(failure, Failure::Pool(PoolFailure::Overflow)) {
            self.info.flag(ResponseFlag::UpstreamConnectionFailure);
        }
        let mut upstream = self.info.upstream.borrow_mut();
        upstream.transport_failure = failure.transport_failure().cloned();
        if self.info.is_logged.get()
            && upstream.failed.len() < MAX_FAILED
            && let Some(host) = upstream.host.clone()
        {
            let name = upstream.host_name.clone();
            upstream.failed.push(FailedHost { host, name });
        }
    }
}
