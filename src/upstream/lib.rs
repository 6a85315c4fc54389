//! Clusters: who the hosts are, which of them gets a request, and over which connection.
//!
//! In: a [`ClusterConfig`](nuncio_config::cluster::ClusterConfig) for each cluster. Out: responses of hosts, or why
//! there is none.
//! Invariants: what workers share is immutable behind arc-swap or an atomic; a worker makes its own state of a cluster
//! when it first uses it and drops it when the cluster is gone; whatever a request takes (a place in a queue, a
//! connection, a count) it gives back when it is dropped.
//! Start reading at [`Clusters`] for what is configured, and at `router` for the way of a request: it picks a host of a
//! `worker`'s cluster, gets a connection from the host's `pool`, and makes an `attempt`.

mod attempt;
mod blocks;
mod capsule;
mod cluster;
mod clusters;
mod codes;
mod discovery;
mod dns;
mod dns_cache;
mod dns_filter;
mod dynamic;
mod failure;
mod forward_proxy;
mod health;
mod host;
mod host_set;
mod lb;
mod limits;
mod orca;
mod outlier;
mod pings;
mod pipes;
mod pool;
mod router;
mod runtime;
mod send;
mod sni_forward_proxy;
mod sub_clusters;
mod tcp_proxy;
#[cfg(test)]
mod testing;
mod timer;
mod udp_proxy;
mod udp_tunnel;
mod worker;

pub use cluster::{Cluster, Drops};
pub use clusters::{Clusters, Snapshot};
pub use dns_filter::ROW as DNS_FILTER;
pub use forward_proxy::ROW as FORWARD_PROXY;
pub use host::{
    CoarseHealth, HealthFlag, HealthFlags, Host, HostCounter, HostGauge, HostMetrics, HostStats, MetricSum,
};
pub use host_set::{Candidates, HostGroups, HostSet, LocalityHosts, PriorityHosts, PriorityLoad};
pub use router::ROW as ROUTER;
pub use sni_forward_proxy::ROW as SNI_FORWARD_PROXY;
pub use tcp_proxy::ROW as TCP_PROXY;
pub use udp_proxy::ROW as UDP_PROXY;
pub use worker::WorkerClusters;
