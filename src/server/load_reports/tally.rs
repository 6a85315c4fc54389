//! What clusters had to do from one report to the next.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use nuncio_config::address::to_proto;
use nuncio_config::cluster::Locality;
use nuncio_config::protocol::{read_duration, to_duration};
use nuncio_filter_api::ClusterNames;
use nuncio_proto::envoy::config::endpoint::v3::cluster_stats::DroppedRequests;
use nuncio_proto::envoy::config::endpoint::v3::{
    ClusterStats, EndpointLoadMetricStats, UpstreamEndpointStats, UpstreamLocalityStats,
};
use nuncio_proto::envoy::service::load_stats::v3::LoadStatsResponse;
use nuncio_upstream::{Cluster, Host, HostSet, MetricSum, Snapshot};
use tokio::time::Instant;

/// What a server asks for.
pub(super) struct Asked {
    which: Which,
    /// The least time from one report to the next.
    pub(super) interval: Duration,
    /// Whether hosts are told of one by one.
    pub(super) by_host: bool,
}

enum Which {
    All,
    Named(Vec<String>),
}

/// Remembers how far the counters of clusters were with the last report.
pub(super) struct Tally {
    names: Arc<ClusterNames>,
    /// Where this proxy stands: hosts there are told of first.
    local: Option<Locality>,
    followed: BTreeMap<String, Followed>,
}

/// A cluster that reports are about, whether there is one of this name or not.
struct Followed {
    since: Instant,
    /// Hosts that it had then, with their counts. They are held, so that no other host has the address of one of them.
    hosts: Option<Arc<HostSet>>,
    counts: Vec<Counts>,
    drops: [u64; 2],
}

/// How often since its host was made.
#[derive(Clone, Copy, Default, PartialEq)]
struct Counts {
    success: u64,
    error: u64,
    issued: u64,
}

/// Of one locality, and a priority in it.
#[derive(Default)]
struct Sum {
    counts: Counts,
    active: u64,
    metrics: BTreeMap<String, MetricSum>,
    hosts: Vec<UpstreamEndpointStats>,
}

/// In the order in which they are told: by priority, and there the local one first.
type Place<'a> = (u32, bool, Option<&'a Locality>);

// === impl Asked ===

impl Asked {
    pub(super) fn new(response: LoadStatsResponse) -> Self {
        let LoadStatsResponse { clusters, send_all_clusters, load_reporting_interval, report_endpoint_granularity } =
            response;
        Self {
            which: if send_all_clusters { Which::All } else { Which::Named(clusters) },
            // An interval that is none, or below zero, is as short as may be.
            interval: load_reporting_interval.and_then(read_duration).unwrap_or_default(),
            by_host: report_endpoint_granularity,
        }
    }
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(names: Arc<ClusterNames>, local: Option<Locality>) -> Self {
        Self { names, local, followed: BTreeMap::new() }
    }

    /// Reports are about the clusters that `asked` names from now on. Those that they were about already go on, so that
    /// nothing is lost between a report and the next word of the server; the others begin now.
    pub(super) fn follow(&mut self, asked: &Asked, snapshot: &Snapshot, now: Instant) {
        let mut before = std::mem::take(&mut self.followed);
        let names: Vec<&str> = match &asked.which {
            Which::All => snapshot.iter().map(|cluster| &*cluster.config.name.name).collect(),
            Which::Named(names) => names.iter().map(|name| &**name).collect(),
        };
        for name in names {
            let followed = before.remove(name).unwrap_or_else(|| Followed::begin(self.find(name, snapshot), now));
            self.followed.entry(name.to_owned()).or_insert(followed);
        }
    }

    /// What there is to tell since the last report, of each cluster that there is.
    pub(super) fn report(&mut self, snapshot: &Snapshot, by_host: bool, now: Instant) -> Vec<ClusterStats> {
        let Self { names, local, followed } = self;
        let mut all = Vec::new();
        for (name, followed) in followed {
            let id = names.find(name).map(|name| name.id);
            if let Some(cluster) = id.and_then(|id| snapshot.get(id)) {
                all.push(followed.report(cluster, local.as_ref(), by_host, now));
            }
        }
        all
    }

    fn find<'a>(&self, name: &str, snapshot: &'a Snapshot) -> Option<&'a Arc<Cluster>> {
        snapshot.get(self.names.find(name)?.id)
    }
}

// === impl Followed ===

impl Followed {
    /// A cluster that comes later is told of from its own begin on.
    fn begin(cluster: Option<&Arc<Cluster>>, now: Instant) -> Self {
        let hosts = cluster.map(|cluster| cluster.hosts());
        let counts = hosts.iter().flat_map(|set| &*set.hosts).map(|host| Counts::of(host)).collect();
        Self { since: now, hosts, counts, drops: cluster.map(|cluster| drops(cluster)).unwrap_or_default() }
    }

    fn report(&mut self, cluster: &Cluster, local: Option<&Locality>, by_host: bool, now: Instant) -> ClusterStats {
        let set = cluster.hosts();
        let before = self.counts_of(&set);
        self.counts.clear();
        let mut sums: BTreeMap<Place<'_>, Sum> = BTreeMap::new();
        for (host, before) in set.hosts.iter().zip(before) {
            let counts = Counts::of(host);
            self.counts.push(counts);
            let (counts, active, metrics) = (counts.since(before), host.stats.rq_active.get(), host.metrics.take());
            if counts == Counts::default() && active == 0 && metrics.is_empty() {
                continue;
            }
            let locality = host.locality.as_deref();
            let is_elsewhere = local.is_none() || locality != local;
            let sum = sums.entry((host.priority, is_elsewhere, locality)).or_default();
            sum.add(host, counts, active, metrics, by_host);
        }
        let upstream_locality_stats = sums.into_iter().map(|(place, sum)| sum.tell(place)).collect();
        self.hosts = Some(set.clone());
        let period = now.saturating_duration_since(std::mem::replace(&mut self.since, now));
        let [all, by_assignment] = drops(cluster);
        let [before, before_by_assignment] = std::mem::replace(&mut self.drops, [all, by_assignment]);
        ClusterStats {
            cluster_name: cluster.config.name.name.to_string(),
            cluster_service_name: cluster.config.discovery.told_service().unwrap_or_default().to_owned(),
            upstream_locality_stats,
            total_dropped_requests: since(all, before),
            dropped_requests: dropped(cluster, since(by_assignment, before_by_assignment)),
            load_report_interval: Some(to_duration(micros(period))),
        }
    }

    /// The counts of the hosts of `set` with the last report, one by one; a host that was not there then had none.
    fn counts_of(&self, set: &Arc<HostSet>) -> Vec<Counts> {
        let Some(before) = &self.hosts else { return vec![Counts::default(); set.hosts.len()] };
        if Arc::ptr_eq(before, set) {
            return self.counts.clone();
        }
        let known: HashMap<*const Host, Counts> =
            before.hosts.iter().map(Arc::as_ptr).zip(self.counts.iter().copied()).collect();
        set.hosts.iter().map(|host| known.get(&Arc::as_ptr(host)).copied().unwrap_or_default()).collect()
    }
}

// === impl Counts ===

impl Counts {
    fn of(host: &Host) -> Self {
        let stats = &host.stats;
        Self { success: stats.rq_success.get(), error: stats.rq_error.get(), issued: stats.rq_total.get() }
    }

    fn since(self, before: Self) -> Self {
        Self {
            success: since(self.success, before.success),
            error: since(self.error, before.error),
            issued: since(self.issued, before.issued),
        }
    }
}

// === impl Sum ===

impl Sum {
    fn add(&mut self, host: &Host, counts: Counts, active: u64, metrics: BTreeMap<String, MetricSum>, by_host: bool) {
        self.counts.success += counts.success;
        self.counts.error += counts.error;
        self.counts.issued += counts.issued;
        self.active += active;
        if by_host {
            self.hosts.push(UpstreamEndpointStats {
                address: Some(to_proto(&host.address())),
                metadata: None,
                total_successful_requests: counts.success,
                total_requests_in_progress: active,
                total_error_requests: counts.error,
                total_issued_requests: counts.issued,
                load_metric_stats: tell_metrics(metrics.clone()),
            });
        }
        for (name, sum) in metrics {
            self.metrics.entry(name).or_default().merge(sum);
        }
    }

    fn tell(self, (priority, _, locality): Place<'_>) -> UpstreamLocalityStats {
        let Self { counts, active, metrics, hosts } = self;
        UpstreamLocalityStats {
            // Envoy: there always is one, though it says nothing.
            locality: Some(locality.map(Locality::to_proto).unwrap_or_default()),
            total_successful_requests: counts.success,
            total_requests_in_progress: active,
            total_error_requests: counts.error,
            total_issued_requests: counts.issued,
            load_metric_stats: tell_metrics(metrics),
            upstream_endpoint_stats: hosts,
            priority,
            // Envoy tells none of these.
            ..UpstreamLocalityStats::default()
        }
    }
}

fn tell_metrics(metrics: BTreeMap<String, MetricSum>) -> Vec<EndpointLoadMetricStats> {
    let tell = |(metric_name, sum): (String, MetricSum)| EndpointLoadMetricStats {
        metric_name,
        num_requests_finished_with_metric: sum.count,
        total_metric_value: sum.total,
    };
    metrics.into_iter().map(tell).collect()
}

fn dropped(cluster: &Cluster, count: u64) -> Vec<DroppedRequests> {
    let category = cluster.assignment_policy().drop_overload.map(|drop| drop.category.to_string());
    match count {
        0 => Vec::new(),
        _ => vec![DroppedRequests { category: category.unwrap_or_default(), dropped_count: count }],
    }
}

fn drops(cluster: &Cluster) -> [u64; 2] {
    [cluster.drops.all(), cluster.drops.by_assignment()]
}

/// Counters of a cluster that was replaced begin anew.
fn since(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// Envoy tells microseconds.
fn micros(period: Duration) -> Duration {
    Duration::from_micros(u64::try_from(period.as_micros()).unwrap_or(u64::MAX))
}
