//! What the process tells of itself among the stats.

use nuncio_config::tls::{ContextInUse, days_until_first_end, seconds_until_first_response_ends};
use nuncio_proto::envoy::admin::v3::server_info::State;
use nuncio_telemetry::stats::Store;
use nuncio_telemetry::stats::catalogue::ServerStats;
use tokio::time::Instant;

use crate::memory::Memory;

/// Envoy's value where no certificate is loaded.
const NO_CERTIFICATE: u64 = u32::MAX as u64;

/// The block, with what never changes filled in.
pub(crate) fn start(store: &Store, concurrency: usize, version: Option<u64>) -> ServerStats {
    let stats = ServerStats::new(&store.scope("server"));
    stats.concurrency().set(concurrency as u64);
    stats.days_until_first_cert_expiring().set(NO_CERTIFICATE);
    stats.hot_restart_epoch().set(0);
    stats.hot_restart_generation().set(1);
    stats.version().set(version.unwrap_or_else(own_version));
    stats
}

/// Brings the gauges up to date that nobody writes as things change.
pub(crate) fn refresh(stats: &ServerStats, state: State, started: Instant, connections: u64) {
    let memory = Memory::read();
    stats.live().set(u64::from(state == State::Live));
    stats.state().set(state as u64);
    stats.uptime().set(started.elapsed().as_secs());
    stats.total_connections().set(connections);
    stats.memory_allocated().set(memory.allocated);
    stats.memory_heap_size().set(memory.heap);
    stats.memory_physical_size().set(memory.physical);
}

/// The same of the certificates in use.
pub(crate) fn refresh_certificates(stats: &ServerStats, contexts: &[ContextInUse]) {
    stats.days_until_first_cert_expiring().set(days_until_first_end(contexts).unwrap_or(NO_CERTIFICATE));
    let seconds = seconds_until_first_response_ends(contexts).unwrap_or(0);
    stats.seconds_until_first_ocsp_response_expiring().set(seconds);
}

/// The release as one number, two bytes for the major part.
fn own_version() -> u64 {
    let part = |text: &str| text.parse::<u64>().unwrap_or_default();
    part(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | part(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | part(env!("CARGO_PKG_VERSION_PATCH"))
}
