//! Tells a server of the load of clusters: `envoy.service.load_stats.v3.LoadReportingService`.
//!
//! In: which clusters the server asks for, and how often. Out: what their hosts had to do since the last report
//! ([`tally`]). Requests pay nothing for it: hosts count all this in any case, and a report tells by how much.

mod tally;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nuncio_config::cluster::Locality;
use nuncio_filter_api::{GrpcStream, GrpcTarget, LowerEnv, Upstreams, grpc_frame};
use nuncio_proto::envoy::config::core::v3::Node;
use nuncio_proto::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use nuncio_upstream::{Clusters, WorkerClusters};
use prost::Message;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};
use tracing::warn;

use crate::deadline::reached;
use crate::worker::Shared;
use crate::xds::sent;
use tally::{Asked, Tally};

const METHOD: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
/// What a server must know before it asks for all clusters.
const FEATURE: &str = "envoy.lrs.supports_send_all_clusters";
/// Envoy's pause between streams; it is always the same.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// Reports come no closer than this, though a server asks for no interval at all.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

nuncio_telemetry::stats! {
    /// `load_reporter`; Envoy's names are those of a server: what it sends are requests.
    struct LoadReporterStats {
        /// Messages of the server.
        requests: Counter,
        /// Reports.
        responses: Counter,
        /// Streams that broke off.
        errors: Counter,
        /// Streams after the first.
        retries: Counter,
    }
}

/// Keeps the stream and what is told over it.
pub(crate) struct LoadReporter {
    clusters: Arc<Clusters>,
    upstreams: Rc<WorkerClusters>,
    target: GrpcTarget,
    node: Node,
    stats: LoadReporterStats,
    tally: Tally,
    /// What the server asked for last, on whichever stream.
    asked: Option<Asked>,
    /// When the next report is due.
    due: Option<Instant>,
}

// === impl LoadReporter ===

impl LoadReporter {
    pub(crate) fn new(
        shared: &Shared,
        env: &LowerEnv,
        upstreams: Rc<WorkerClusters>,
        target: GrpcTarget,
        node: &Node,
    ) -> Self {
        let mut node = node.clone();
        let local = node.locality.clone().and_then(Locality::lower);
        node.client_features.push(FEATURE.to_owned());
        let stats = LoadReporterStats::new(&shared.store.scope("load_reporter"));
        for counter in [stats.requests(), stats.responses(), stats.errors(), stats.retries()] {
            counter.add(0);
        }
        Self {
            clusters: shared.clusters.clone(),
            upstreams,
            target,
            node,
            stats,
            tally: Tally::new(env.clusters.clone(), local),
            asked: None,
            due: None,
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let server = self.clusters.snapshot().get(self.target.cluster.id).cloned();
        if let Some(server) = server {
            server.warmed().await;
        }
        loop {
            let status = self.serve().await;
            self.due = None;
            if status.code() != Code::Ok {
                self.stats.errors().inc();
                warn!(target: "upstream", cluster = %self.target.cluster.name, code = status.code() as i32,
                    reason = status.message(), "stream of load reports closed");
            }
            sleep(RETRY_DELAY).await;
            self.stats.retries().inc();
        }
    }

    /// One stream from its begin to its end.
    async fn serve(&mut self) -> Status {
        let upstreams: &dyn Upstreams = &*self.upstreams;
        let (sender, mut stream) = GrpcStream::open(upstreams, &self.target, METHOD.into());
        // The first message says who tells; after a stream that broke off it is a report too.
        let mut report = Some(self.report());
        loop {
            tokio::select! {
                () = sent(&sender, &mut report), if report.is_some() => self.begin_period(),
                () = reached(self.due), if report.is_none() && self.due.is_some() => report = Some(self.report()),
                message = stream.next() => match message.map(|bytes| LoadStatsResponse::decode(&*bytes)) {
                    Ok(Ok(response)) => self.ask(response),
                    Ok(Err(error)) => return Status::internal(format!("what the server asks does not decode: {error}")),
                    Err(status) => return status,
                },
            }
        }
    }

    fn ask(&mut self, response: LoadStatsResponse) {
        self.stats.requests().inc();
        self.asked = Some(Asked::new(response));
        self.begin_period();
    }

    /// The next report is about what is asked for now.
    fn begin_period(&mut self) {
        let Some(asked) = &self.asked else { return };
        let now = Instant::now();
        self.tally.follow(asked, &self.clusters.snapshot(), now);
        self.due = now.checked_add(asked.interval.max(MIN_INTERVAL));
    }

    /// What is to be told now, framed.
    fn report(&mut self) -> Bytes {
        self.stats.responses().inc();
        self.due = None;
        let by_host = self.asked.as_ref().is_some_and(|asked| asked.by_host);
        let cluster_stats = self.tally.report(&self.clusters.snapshot(), by_host, Instant::now());
        let request = LoadStatsRequest { node: Some(self.node.clone()), cluster_stats };
        grpc_frame(&request.encode_to_vec())
    }
}
