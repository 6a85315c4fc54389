//! `refresh_cluster_on_retry`: the next attempt may go to another cluster of the same route.

use nuncio_filter_api::{ClusterName, RequestHead};
use nuncio_telemetry::StreamInfo;

use super::RouteEntry;
use super::forward::Cluster;

/// The weighted clusters of a route that a request was sent to, by their numbers.
#[derive(Debug)]
pub struct TriedClusters(Vec<usize>);

/// Where the next attempt goes.
#[derive(Debug)]
pub enum NextCluster {
    /// Where the last went.
    Same,
    /// To the cluster of the entry with this number.
    Entry(usize),
    /// To another cluster of the same entry; `None`: to none.
    Chosen(Option<ClusterName>),
}

impl TriedClusters {
    /// The cluster of `entry` alone.
    pub fn first(entry: &RouteEntry) -> Self {
        Self(entry.weighted.iter().map(|weighted| weighted.number).collect())
    }
}

impl RouteEntry {
    /// Chooses the cluster of the next attempt; `random` as where the route was found. Envoy: a cluster that a header
    /// names stays.
    pub fn next_cluster(
        &self,
        head: &RequestHead,
        info: &StreamInfo,
        random: u64,
        tried: &mut TriedClusters,
    ) -> NextCluster {
        match (&self.weighted, &self.cluster) {
            (Some(weighted), _) => {
                let siblings = &weighted.siblings;
                match siblings.split.pick_untried(head, info, random, &mut tried.0) {
                    Some(number) => NextCluster::Entry(siblings.first + number),
                    None => NextCluster::Same,
                }
            }
            (None, Some(Cluster::Matcher(matcher))) => NextCluster::Chosen(matcher.find(head, info).cloned()),
            (None, _) => NextCluster::Same,
        }
    }
}
