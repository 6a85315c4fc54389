//! What is counted of the requests of a virtual cluster, or of a route with a `stat_prefix`.

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused, RequestHead};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_telemetry::stats::catalogue::VirtualClusterStats;
use nuncio_telemetry::stats::{ResponseCodes, Scope};

use crate::matcher::HeaderMatcher;

/// The counts of one name.
pub struct RouteStats {
    /// Attempts, retries, times.
    pub counts: VirtualClusterStats,
    /// Status codes of the responses.
    pub codes: ResponseCodes,
}

/// `virtual_clusters` of a virtual host.
pub(super) struct VirtualClusters {
    named: Box<[VirtualCluster]>,
    /// Of requests that none of them takes.
    other: Arc<RouteStats>,
}

struct VirtualCluster {
    name: Arc<str>,
    headers: Box<[HeaderMatcher]>,
    stats: Arc<RouteStats>,
}

/// Envoy's name of the virtual cluster for requests that no other takes.
const OTHER: &str = "other";

impl RouteStats {
    fn new(scope: &Scope) -> Arc<Self> {
        Arc::new(Self { counts: VirtualClusterStats::new(scope), codes: ResponseCodes::new(scope) })
    }

    /// Those of a route with this `stat_prefix`.
    pub(super) fn of_route(host: &str, prefix: &str, cx: &LowerCx<'_>) -> Arc<Self> {
        Self::new(&host_scope(host, cx).scope("route").scope(prefix))
    }
}

impl VirtualClusters {
    /// `None` where there are none.
    pub(super) fn lower(
        host: &str,
        clusters: Vec<proto::VirtualCluster>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Box<Self>>, Refused> {
        if clusters.is_empty() {
            return Ok(None);
        }
        let scope = host_scope(host, cx).scope("vcluster");
        let named = cx.each("virtual_clusters", clusters, |cluster, cx| {
            let proto::VirtualCluster { headers, name } = cluster;
            if headers.is_empty() {
                return Err(cx.at("headers", |cx| cx.invalid("is required")));
            }
            let headers = cx.each("headers", headers, HeaderMatcher::lower)?.into();
            Ok(VirtualCluster { stats: RouteStats::new(&scope.scope(&name)), name: name.into(), headers })
        })?;
        Ok(Some(Box::new(Self { named: named.into(), other: RouteStats::new(&scope.scope(OTHER)) })))
    }

    /// Where a request is counted: the first that takes it, and its name. Envoy does not tell logs of the last resort.
    pub(super) fn find(&self, head: &RequestHead) -> (&Arc<RouteStats>, Option<&Arc<str>>) {
        let found = self.named.iter().find(|cluster| cluster.headers.iter().all(|h| h.matches_request(head)));
        found.map_or((&self.other, None), |cluster| (&cluster.stats, Some(&cluster.name)))
    }
}

fn host_scope(host: &str, cx: &LowerCx<'_>) -> Scope {
    cx.env.stats.scope("vhost").scope(host)
}
