//! What follows from what hosts report of their load (ORCA): the weights of `client_side_weighted_round_robin`, and the
//! shares of localities (`lb/load_aware.rs`).
//!
//! What hosts send by themselves (`orca/stream.rs`) takes the same way.
//!
//! ```text
//! response -> report -> Host, on a worker        Host -> weigh -> a new HostSet, on the control thread
//! ```

mod report;
mod stream;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nuncio_config::cluster::ClientWeights;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::clusters::Clusters;
use crate::host::Host;

pub(crate) use report::Reported;
use stream::ReportStreams;

/// How often the streams of hosts are compared with the hosts.
const RECONCILE_PERIOD: Duration = Duration::from_secs(1);

impl Clusters {
    /// Works out the weights of the hosts of every snapshot that report their load. Runs until it is dropped, within a
    /// `LocalSet`.
    pub async fn run_weights(self: Arc<Self>) {
        let mut changes = self.changes();
        let (mut tasks, mut seen) = (JoinSet::new(), Vec::new());
        // By number of the cluster's name.
        let mut running: HashMap<u32, (Arc<Cluster>, AbortHandle)> = HashMap::new();
        let begin = |tasks: &mut JoinSet<()>, cluster: &Arc<Cluster>| tasks.spawn_local(weigh_forever(cluster.clone()));
        loop {
            let snapshot = self.snapshot();
            for id in snapshot.news(&mut seen) {
                let cluster = snapshot.get(id).filter(|cluster| is_told(cluster));
                let before = running.get(&id).map(|(before, _)| before);
                if before.map(Arc::as_ptr) == cluster.map(Arc::as_ptr) {
                    continue;
                }
                if let Some((_, task)) = running.remove(&id) {
                    task.abort();
                }
                if let Some(cluster) = cluster {
                    running.insert(id, (cluster.clone(), begin(&mut tasks, cluster)));
                }
            }
            // One that has ended has panicked.
            for (cluster, task) in running.values_mut().filter(|(_, task)| task.is_finished()) {
                *task = begin(&mut tasks, cluster);
            }
            while tasks.try_join_next().is_some() {}
            // The sender is in `self`, so that waiting cannot fail.
            let _ = changes.changed().await;
        }
    }
}

/// Whether anything follows from what its hosts report.
fn is_told(cluster: &Cluster) -> bool {
    cluster.config.client_weights.is_some() || cluster.config.locality_lb.load_aware().is_some()
}

async fn weigh_forever(cluster: Arc<Cluster>) {
    let config = &cluster.config;
    let weights = async {
        let Some(weights) = &config.client_weights else { return };
        loop {
            sleep(weights.update_period).await;
            cluster.weigh(weights);
        }
    };
    let shares = async {
        let Some(load_aware) = config.locality_lb.load_aware() else { return };
        loop {
            sleep(load_aware.update_period).await;
            cluster.share_out();
        }
    };
    let streams = async {
        if config.own_reports().is_none() {
            return;
        }
        let mut streams = ReportStreams::new(&cluster);
        loop {
            streams.reconcile();
            sleep(RECONCILE_PERIOD).await;
        }
    };
    tokio::join!(weights, shares, streams);
}

/// Gives `hosts` the weights that follow from their reports; those without have the median of the others of their
/// priority. False if nothing changes.
pub(crate) fn weigh(config: &ClientWeights, hosts: &[Arc<Host>], now: Instant) -> bool {
    let mut has_changed = false;
    let count = hosts.iter().map(|host| host.priority + 1).max().unwrap_or(0);
    for priority in 0..count {
        let of_priority = || hosts.iter().filter(|host| host.priority == priority);
        let reported: Vec<Option<u32>> = of_priority().map(|host| host.reported_weight(config, now)).collect();
        let default = median(reported.iter().copied().flatten().collect());
        for (host, weight) in of_priority().zip(reported) {
            has_changed |= host.set_weight(weight.unwrap_or(default));
        }
    }
    has_changed
}

/// 1 where there is none to take it of.
fn median(mut weights: Vec<u32>) -> u32 {
    weights.sort_unstable();
    let middle = weights.len() / 2;
    match weights.len() {
        0 => 1,
        count if count % 2 == 1 => weights[middle],
        _ => weights[middle - 1].midpoint(weights[middle]),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::testing::{cluster_config, fixed};

    const SECOND: Duration = Duration::from_secs(1);

    /// Hosts that count after 10 seconds of reports, and no longer after 60 without.
    fn cluster(hosts: u16) -> Cluster {
        let endpoints = (0..hosts).map(|port| fixed(([127, 0, 0, 1], port).into())).collect();
        let mut config = cluster_config("c", endpoints);
        config.client_weights = Some(Box::new(ClientWeights {
            blackout: 10 * SECOND,
            expiration: 60 * SECOND,
            update_period: SECOND,
            error_penalty: 0.0,
            metrics: Box::default(),
            own_reports: None,
        }));
        Cluster::new(config, &nuncio_telemetry::stats::Store::new(), None)
    }

    fn report(cluster: &Cluster, weights: &[u32]) {
        for (host, weight) in cluster.hosts().hosts.iter().zip(weights) {
            host.note_report(*weight, Instant::now());
        }
    }

    fn weights(cluster: &Cluster) -> Vec<u32> {
        cluster.weigh(cluster.config.client_weights.as_ref().unwrap());
        cluster.hosts().hosts.iter().map(|host| host.weight()).collect()
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(
            [&[][..], &[7], &[9, 1], &[5, 1, 9], &[u32::MAX, u32::MAX]].map(|w| median(w.to_vec())),
            [1, 7, 5, 5, u32::MAX]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn reports_count_after_the_blackout_and_those_who_do_not_report_have_the_median() {
        let cluster = cluster(4);
        report(&cluster, &[100, 400, 0]);
        assert_eq!(weights(&cluster), [1; 4]);
        advance(10 * SECOND).await;
        let version = cluster.version();
        assert_eq!(weights(&cluster), [100, 400, 1, 100]);
        assert_eq!(cluster.version(), version + 1);
        weights(&cluster);
        assert_eq!(cluster.version(), version + 1, "what does not change is not told");
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_that_is_too_old_counts_no_longer_and_the_blackout_begins_again() {
        let cluster = cluster(2);
        report(&cluster, &[100, 300]);
        advance(40 * SECOND).await;
        report(&cluster, &[100]);
        assert_eq!(weights(&cluster), [100, 300]);
        advance(30 * SECOND).await;
        assert_eq!(weights(&cluster), [100, 100]);
        report(&cluster, &[100, 500]);
        assert_eq!(weights(&cluster), [100, 100]);
        advance(10 * SECOND).await;
        assert_eq!(weights(&cluster), [100, 500]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_host_has_the_median_at_once() {
        let cluster = cluster(2);
        report(&cluster, &[200, 400]);
        advance(10 * SECOND).await;
        let new = Arc::new(Host::new(
            &cluster.config.endpoints[0],
            "127.0.0.1:9".parse::<std::net::SocketAddr>().unwrap().into(),
        ));
        cluster.set_hosts(cluster.hosts().hosts.iter().cloned().chain([new]).collect());
        assert_eq!(cluster.hosts().hosts.iter().map(|host| host.weight()).collect::<Vec<_>>(), [200, 400, 300]);
    }
}
