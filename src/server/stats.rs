//! What the process counts about itself, under Envoy's names.

use std::time::Duration;

use nuncio_telemetry::stats::{CounterHandle, Scope, Store};
use tokio::time::Instant;

use crate::memory::Memory;

nuncio_telemetry::stats! {
    /// `server.`
    pub(crate) struct ServerStats {
        concurrency: Gauge,
        days_until_first_cert_expiring: Gauge,
        dropped_stat_flushes: Counter,
        dynamic_unknown_fields: Counter,
        hot_restart_epoch: Gauge,
        live: Gauge,
        memory_allocated: Gauge,
        memory_heap_size: Gauge,
        memory_physical_size: Gauge,
        parent_connections: Gauge,
        seconds_until_first_ocsp_response_expiring: Gauge,
        state: Gauge,
        static_unknown_fields: Counter,
        uptime: Gauge,
        version: Gauge,
        wip_protos: Counter,
        initialization_time_ms: Histogram(Milliseconds),
        /// Of nuncio: workers that died and were started again.
        worker_restarts: Counter when used,
    }

    /// `listener_manager.`
    pub(crate) struct ListenerManagerStats {
        listener_added: Counter,
        listener_create_failure: Counter,
        listener_create_success: Counter,
        listener_in_place_updated: Counter,
        listener_modified: Counter,
        listener_removed: Counter,
        listener_stopped: Counter,
        total_filter_chains_draining: Gauge,
        total_listeners_active: Gauge,
        total_listeners_draining: Gauge,
        total_listeners_warming: Gauge,
        workers_started: Gauge,
    }
}

/// Envoy's value where no certificate is loaded.
const NO_CERTIFICATE: u64 = u32::MAX as u64;

fn scope(store: &Store) -> Scope {
    store.scope("server")
}

/// `server.panics`, of nuncio.
pub(crate) fn panics(store: &Store) -> CounterHandle {
    scope(store).counter("panics")
}

impl ServerStats {
    /// The block, with what never changes filled in.
    pub(crate) fn start(store: &Store, concurrency: usize, version: Option<u64>) -> Self {
        let stats = Self::new(&scope(store));
        stats.concurrency().set(concurrency as u64);
        stats.days_until_first_cert_expiring().set(NO_CERTIFICATE);
        stats.hot_restart_epoch().set(0);
        stats.version().set(version.unwrap_or_else(own_version));
        stats
    }

    /// Brings the gauges up to date that nobody writes as things change.
    pub(crate) fn refresh(&self, state: u8, started: Instant) {
        let memory = Memory::read();
        self.live().set(u64::from(state == 0));
        self.state().set(state.into());
        self.uptime().set(started.elapsed().as_secs());
        self.memory_allocated().set(memory.allocated);
        self.memory_heap_size().set(memory.heap);
        self.memory_physical_size().set(memory.physical);
    }

    /// Records how long the process took until it served.
    pub(crate) fn initialised_after(&self, time: Duration) {
        self.initialization_time_ms().record(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }
}

/// The release as one number, two bytes for the major part.
fn own_version() -> u64 {
    let part = |text: &str| text.parse::<u64>().unwrap_or_default();
    part(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | part(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | part(env!("CARGO_PKG_VERSION_PATCH"))
}
