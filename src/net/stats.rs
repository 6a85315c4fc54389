//! What listeners count, under Envoy's names.

use nuncio_telemetry::stats::{Scope, Store};

nuncio_telemetry::stats! {
    /// `listener.<address>.`
    pub struct ListenerStats {
        downstream_cx_active: Gauge,
        downstream_cx_destroy: Counter,
        downstream_cx_overflow: Counter,
        downstream_cx_overload_reject: Counter,
        downstream_cx_total: Counter,
        downstream_cx_transport_socket_connect_timeout: Counter,
        downstream_global_cx_overflow: Counter,
        downstream_listener_filter_error: Counter,
        downstream_listener_filter_remote_close: Counter,
        downstream_pre_cx_active: Gauge,
        downstream_pre_cx_timeout: Counter,
        extension_config_missing: Counter,
        network_extension_config_missing: Counter,
        no_filter_chain_match: Counter,
        /// Of nuncio: accept(2) failed for want of descriptors or memory, and accepting was slowed down.
        accept_error: Counter when used,
        connections_accepted_per_socket_event: Histogram(Unspecified),
        downstream_cx_length_ms: Histogram(Milliseconds),
    }

    /// `listener.<address>.worker_N.`
    pub struct WorkerStats {
        downstream_cx_active: Gauge,
        downstream_cx_total: Counter,
    }
}

/// The scope of a listener's stats.
pub(crate) fn scope(store: &Store, stat_prefix: &str) -> Scope {
    store.scope("listener").scope(stat_prefix)
}
