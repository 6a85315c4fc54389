//! Accepting.

crate::stats! {
    /// `listener.<address>`
    pub struct ListenerStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_destroy: Counter,
        downstream_cx_length_ms: Histogram(Milliseconds),
        /// Sockets taken from the backlog each time it had some.
        connections_accepted_per_socket_event: Histogram(Unspecified),
        /// Sockets whose listener filters still run.
        downstream_pre_cx_active: Gauge,
        /// Sockets whose listener filters took longer than `listener_filters_timeout`.
        downstream_pre_cx_timeout: Counter,
        downstream_listener_filter_error: Counter,
        downstream_listener_filter_remote_close: Counter,
        /// Refused by the listener's own limit of connections.
        downstream_cx_overflow: Counter,
        /// Refused by the limit of connections for the whole process.
        downstream_global_cx_overflow: Counter,
        /// Refused by an overload action.
        downstream_cx_overload_reject: Counter,
        downstream_cx_transport_socket_connect_timeout: Counter,
        no_filter_chain_match: Counter,
        /// Closed since a listener filter's discovered configuration was missing.
        extension_config_missing: Counter,
        /// Closed since a network filter's discovered configuration was missing.
        network_extension_config_missing: Counter,
        /// Ours: times that accepting was slowed down, for want of descriptors or memory.
        accept_error: Counter,
    }

    /// `listener.<address>.worker_<id>`, and `listener.admin.main_thread`
    pub struct ListenerWorkerStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
    }

    /// `listener.<address>.udp`
    pub struct UdpListenerStats {
        /// Datagrams that are longer than may be, or that the kernel had no room for.
        downstream_rx_datagram_dropped: Counter,
    }

    /// `listener.<address>.http.<stat prefix>`
    pub struct ListenerHttpStats {
        downstream_rq_completed: Counter,
        downstream_rq_1xx: Counter,
        downstream_rq_2xx: Counter,
        downstream_rq_3xx: Counter,
        downstream_rq_4xx: Counter,
        downstream_rq_5xx: Counter,
    }
}
