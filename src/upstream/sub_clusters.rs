//! The clusters that a dynamic forward proxy has for the hosts that requests name (`sub_clusters_config`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

    /// The number of the cluster for `key`, which is `host:port`; it is made where there is none.
    pub(crate) fn ensure(&self, key: &str, parent: &Cluster, clusters: &Clusters) -> Result<u32, Full> {
        let mut table = self.lock();
        if let Some(known) = table.hosts.get_mut(key) {
            known.used = Instant::now();
            return Ok(known.id);
        }
        let config = config_of(parent).filter(|config| table.hosts.len() < config.max).ok_or(Full)?;
        let id = table.free.pop().unwrap_or_else(|| {
            table.numbers += 1;
            config.number(&parent.config.name, table.numbers)
        });
        let (host, port) = split(key);
        // Before anybody else finds it here.
        clusters.warm_up([config.cluster(id, host, port)]);
        table.hosts.insert(key.into(), Known { id, used: Instant::now() });
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
    use super::*;

    #[test]
    fn a_key_is_a_host_and_a_port() {
        assert_eq!(split("a.test:80"), ("a.test", 80));
        assert_eq!(split("[::1]:8080"), ("::1", 8080));
    }
}
