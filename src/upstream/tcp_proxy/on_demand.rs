//! Clusters that discovery is asked for when a connection wants them, and what is counted of that.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nuncio_config::discovery::OnDemandClusters;
use nuncio_config::protocol::duration;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::filters::network::tcp_proxy::v3 as proto;
use nuncio_telemetry::stats::Scope;

use super::session::Session;
use crate::worker::WorkerCluster;

nuncio_telemetry::stats! {
    /// `tcp.<stat_prefix>`
    pub(super) struct OnDemandStats {
        on_demand_cluster_attempt: Counter,
        on_demand_cluster_missing: Counter,
        on_demand_cluster_success: Counter,
        on_demand_cluster_timeout: Counter,
    }
}

/// `on_demand`
pub(super) struct OnDemand {
    source: Arc<OnDemandClusters>,
    timeout: Duration,
    stats: OnDemandStats,
}

/// Envoy's default of `timeout`.
const TIMEOUT: Duration = Duration::from_secs(60);

impl OnDemand {
    /// `None` where no source is told: then nothing is asked for.
    pub(super) fn lower(
        message: proto::tcp_proxy::OnDemand,
        scope: &Scope,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        let proto::tcp_proxy::OnDemand { odcds_config, resources_locator, timeout } = message;
        if !resources_locator.is_empty() {
            // Envoy reads it nowhere, not even to see whether it is a locator.
            tracing::info!(path = cx.path(), "resources_locator has no effect: clusters are asked for by name");
        }
        let timeout = cx.opt("timeout", timeout, duration);
        let source = cx.opt("odcds_config", odcds_config, OnDemandClusters::lower);
        let timeout = timeout?.unwrap_or(TIMEOUT);
        Ok(source?.map(|source| Self { source, timeout, stats: OnDemandStats::new(scope) }))
    }
}

impl Session {
    /// The cluster of this connection, which is not there yet. Envoy: a client that leaves meanwhile is missed only where
    /// it is read before there is a host (`max_early_data_bytes`), and only if it resets; else it is asked for to the end.
    pub(super) async fn discovered_cluster(&self, on_demand: &OnDemand, random: u64) -> Option<Rc<WorkerCluster>> {
        let stats = &on_demand.stats;
        stats.on_demand_cluster_attempt().inc();
        let ready = match self.cluster_of_filters() {
            Some(name) => on_demand.source.demand(&name),
            None => on_demand.source.demand(&self.config.target(random).cluster.name),
        };
        if tokio::time::timeout(on_demand.timeout, ready.wait()).await.is_err() {
            stats.on_demand_cluster_timeout().inc();
            return None;
        }
        let cluster = self.known_cluster(random);
        match cluster {
            Some(_) => stats.on_demand_cluster_success().inc(),
            None => stats.on_demand_cluster_missing().inc(),
        }
        cluster
    }
}
