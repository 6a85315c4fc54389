//! Envoy's names for the core, each block beside its prefix.
//!
//! Taken from Envoy 1.40's `/stats` with listeners, an HTTP connection manager and clusters of HTTP/1 and HTTP/2.
//! Left out is what counts parts of Envoy that have no counterpart here: `http.async-client`, `overload`,
//! `server.stats_recent_lookups`, `thread_local_cluster_manager`, `http2.nghttp2_*` and `http2.oghttp2_*`. A metric is
//! listed although nothing counts it yet where zero is the truth, as for HTTP/3: dashboards find it.
//!
//! Slots lie in the order of declaration, so what a request writes stands together, first.

mod cluster;
mod codec;
mod http;
mod listener;
mod server;

pub use cluster::{ClusterStats, RequestTimeStats, VirtualClusterStats};
pub use codec::{Http1Stats, Http2Stats};
pub use http::{HttpStats, TracingStats};
pub use listener::{ListenerHttpStats, ListenerStats, ListenerWorkerStats, UdpListenerStats};
pub use server::{
    CaresStats, ClusterManagerStats, EndpointSubscriptionStats, ExtensionStats, FilesystemStats, ListenerManagerStats,
    ReloadStats, RouteSubscriptionStats, RuntimeStats, SecretStats, ServerStats, SubscriptionStats, WatchdogStats,
};
