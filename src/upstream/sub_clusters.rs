//! The clusters that a dynamic forward proxy has for the hosts that requests name (`sub_clusters_config`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nuncio_config::cluster::{Discovery, ForwardHosts, SubClusters};
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::clusters::Clusters;

/// Which of them there are, for all workers.
#[derive(Default)]
pub(crate) struct SubClusterTable {
    /// Taken by each request for the time of a look-up: who it is for, and that it was asked for, is one decision.
    known: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// By `host:port`.
    hosts: HashMap<Box<str>, Known>,
    /// Numbers of clusters that are gone.
    free: Vec<u32>,
    /// How many numbers there are.
    numbers: usize,
}

struct Known {
    /// Number of the cluster's name.
    id: u32,
    /// When a request last asked for it.
    used: Instant,
    /// Whose configuration it has.
    parent: Weak<Cluster>,
}

/// There are as many as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// What the cluster says of them; `None` where it has none.
pub(crate) fn config_of(cluster: &Cluster) -> Option<&SubClusters> {
    match &cluster.config.discovery {
        Discovery::ForwardProxy(proxy) => match &proxy.hosts {
            ForwardHosts::Clusters(config) => Some(config),
            ForwardHosts::Cache(_) => None,
        },
        _ => None,
    }
}

// === impl SubClusterTable ===

impl SubClusterTable {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // A poisoned lock means that an insertion panicked: what is there is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the cluster for `key`, which is `host:port`; it is made where there is none, and made anew where
    /// `parent` has taken the place of the one that it was made by.
    pub(crate) fn ensure(&self, key: &str, parent: &Arc<Cluster>, clusters: &Clusters) -> Result<u32, Full> {
        let mut table = self.lock();
        let (host, port) = split(key);
        if let Some(known) = table.hosts.get_mut(key) {
            known.used = Instant::now();
            if !std::ptr::eq(known.parent.as_ptr(), Arc::as_ptr(parent))
                && is_in_use(parent, clusters)
                && let Some(config) = config_of(parent)
            {
                clusters.warm_up([config.cluster(known.id, host, port)]);
                known.parent = Arc::downgrade(parent);
            }
            return Ok(known.id);
        }
        let config = config_of(parent).filter(|config| table.hosts.len() < config.max).ok_or(Full)?;
        let id = table.free.pop().unwrap_or_else(|| {
            table.numbers += 1;
            config.number(&parent.config.name, table.numbers)
        });
        // Before anybody else finds it here.
        clusters.warm_up([config.cluster(id, host, port)]);
        table.hosts.insert(key.into(), Known { id, used: Instant::now(), parent: Arc::downgrade(parent) });
        Ok(id)
    }

    /// The number of the cluster for `key`, if there is one.
    pub(crate) fn find(&self, key: &str) -> Option<u32> {
        self.lock().hosts.get(key).map(|known| known.id)
    }

    /// Lets go of those that no request asked for since `before`.
    fn purge(&self, before: Instant, clusters: &Clusters) {
        let mut table = self.lock();
        let gone: Vec<u32> =
            table.hosts.extract_if(|_, known| known.used <= before).map(|(_, known)| known.id).collect();
        clusters.remove_all(gone.iter().copied());
        table.free.extend(gone);
    }

    /// Lets go of all.
    pub(crate) fn clear(&self, clusters: &Clusters) {
        self.purge(Instant::now(), clusters);
    }
}

/// Whether it is what new requests get: a worker may hold on to one that is replaced for a while.
fn is_in_use(cluster: &Arc<Cluster>, clusters: &Clusters) -> bool {
    clusters.snapshot().get(cluster.config.name.id).is_some_and(|now| Arc::ptr_eq(now, cluster))
}

/// Lets go of those that no request asks for, until it is dropped.
pub(crate) async fn follow_sub_clusters(cluster: Arc<Cluster>, clusters: Arc<Clusters>) {
    let (Some(config), Some(table)) = (config_of(&cluster), cluster.sub_clusters.get()) else { return };
    loop {
        sleep(config.ttl).await;
        if let Some(before) = Instant::now().checked_sub(config.ttl) {
            table.purge(before, &clusters);
        }
    }
}

/// Host and port of what `normalize` made.
fn split(key: &str) -> (&str, u16) {
    let (host, port) = key.rsplit_once(':').unwrap_or((key, ""));
    (host.trim_start_matches('[').trim_end_matches(']'), port.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use nuncio_config::cluster::ClusterConfig;
    use nuncio_filter_api::LowerCx;
    use nuncio_proto::envoy::config::cluster::v3::{self as pb, cluster};
    use nuncio_proto::envoy::extensions::clusters::dynamic_forward_proxy::v3 as dfp;
    use nuncio_proto::google::protobuf;
    use nuncio_telemetry::stats::Store;
    use prost::{Message, Name};

    use super::*;

    #[test]
    fn a_key_is_a_host_and_a_port() {
        assert_eq!(split("a.test:80"), ("a.test", 80));
        assert_eq!(split("[::1]:8080"), ("::1", 8080));
    }

    #[tokio::test]
    async fn a_cluster_is_made_anew_when_another_parent_asks_for_it() {
        let env = nuncio_filter_api::testing::env();
        let parent = |seconds| {
            let timeout = Some(protobuf::Duration { seconds, nanos: 0 });
            let config = dfp::SubClustersConfig::default();
            let hosts = dfp::cluster_config::ClusterImplementationSpecifier::SubClustersConfig(config);
            let config =
                dfp::ClusterConfig { cluster_implementation_specifier: Some(hosts), ..dfp::ClusterConfig::default() };
            let typed = protobuf::Any { type_url: dfp::ClusterConfig::type_url(), value: config.encode_to_vec() };
            let kind = cluster::CustomClusterType { name: "dfp".to_owned(), typed_config: Some(typed) };
            let message = pb::Cluster {
                name: "d".to_owned(),
                connect_timeout: timeout,
                lb_policy: cluster::LbPolicy::ClusterProvided.into(),
                cluster_discovery_type: Some(cluster::ClusterDiscoveryType::ClusterType(kind)),
                ..pb::Cluster::default()
            };
            ClusterConfig::lower(message, &mut LowerCx::new(&env)).expect("it is a cluster")
        };
        let clusters = Clusters::new(&Store::new(), None);
        let update = |seconds| {
            let config = parent(seconds);
            let id = config.name.id;
            clusters.update([config]);
            clusters.snapshot().get(id).expect("it was added").clone()
        };
        let timeout = |id| {
            let snapshot = clusters.snapshot();
            let made: Vec<_> = snapshot.warming().filter(|cluster| cluster.config.name.id == id).collect();
            assert_eq!(made.len(), 1, "DNS has yet to find it");
            made[0].config.connect_timeout.as_secs()
        };
        let before = update(1);
        let table = before.sub_clusters.get().expect("it has them");
        let id = table.ensure("a.test:80", &before, &clusters).expect("there is room");
        assert_eq!(timeout(id), 1);
        let after = update(2);
        assert_eq!(table.ensure("a.test:80", &after, &clusters), Ok(id));
        assert_eq!(timeout(id), 2);
        assert_eq!(table.ensure("a.test:80", &before, &clusters), Ok(id));
        assert_eq!(timeout(id), 2, "who still has the one before changes nothing");
    }
}
