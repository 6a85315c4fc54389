//! The HTTP connection manager and the router below it.

crate::stats! {
    /// `http.<stat prefix>`
    pub struct HttpStats {
        // Each request.
        downstream_rq_total: Counter,
        downstream_rq_active: Gauge,
        downstream_rq_http1_total: Counter,
        downstream_rq_http2_total: Counter,
        downstream_rq_http3_total: Counter,
        downstream_rq_completed: Counter,
        downstream_rq_1xx: Counter,
        downstream_rq_2xx: Counter,
        downstream_rq_3xx: Counter,
        downstream_rq_4xx: Counter,
        downstream_rq_5xx: Counter,
        /// From the first byte of the request to the last of the response.
        downstream_rq_time: Histogram(Milliseconds),
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_rx_bytes_buffered: Gauge,
        downstream_cx_tx_bytes_total: Counter,
        downstream_cx_tx_bytes_buffered: Gauge,

        // The router: all requests it got, and those it answered or left without asking a cluster.
        rq_total: Counter,
        rq_direct_response: Counter,
        rq_redirect: Counter,
        no_route: Counter,
        no_cluster: Counter,
        rq_reset_after_downstream_response_started: Counter,
        rq_overload_local_reply: Counter,
        /// Responses that were larger than a filter's buffer.
        rs_too_large: Counter,
        passthrough_internal_redirect_bad_location: Counter,
        passthrough_internal_redirect_no_route: Counter,
        passthrough_internal_redirect_predicate: Counter,
        passthrough_internal_redirect_too_many_redirects: Counter,
        passthrough_internal_redirect_unsafe_scheme: Counter,

        // Each connection.
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_http1_total: Counter,
        downstream_cx_http1_active: Gauge,
        /// HTTP/1 connections that are to close after their next response.
        downstream_cx_http1_soft_drain: Gauge,
        downstream_cx_http2_total: Counter,
        downstream_cx_http2_active: Gauge,
        downstream_cx_http3_total: Counter,
        downstream_cx_http3_active: Gauge,
        downstream_cx_ssl_total: Counter,
        downstream_cx_ssl_active: Gauge,
        downstream_cx_upgrades_total: Counter,
        downstream_cx_upgrades_active: Gauge,
        downstream_cx_length_ms: Histogram(Milliseconds),
        downstream_cx_destroy: Counter,
        downstream_cx_destroy_active_rq: Counter,
        downstream_cx_destroy_local: Counter,
        downstream_cx_destroy_local_active_rq: Counter,
        downstream_cx_destroy_remote: Counter,
        downstream_cx_destroy_remote_active_rq: Counter,
        downstream_cx_drain_close: Counter,
        downstream_cx_idle_timeout: Counter,
        downstream_cx_max_duration_reached: Counter,
        downstream_cx_max_requests_reached: Counter,
        downstream_cx_delayed_close_timeout: Counter,
        downstream_cx_overload_disable_keepalive: Counter,
        downstream_cx_protocol_error: Counter,
        downstream_flow_control_paused_reading_total: Counter,
        downstream_flow_control_resumed_reading_total: Counter,

        // Requests that went wrong.
        downstream_rq_failed_path_normalization: Counter,
        downstream_rq_redirected_with_normalized_path: Counter,
        downstream_rq_non_relative_path: Counter,
        downstream_rq_rejected_via_ip_detection: Counter,
        downstream_rq_header_timeout: Counter,
        downstream_rq_timeout: Counter,
        downstream_rq_idle_timeout: Counter,
        downstream_rq_max_duration_reached: Counter,
        downstream_rq_overload_close: Counter,
        downstream_rq_response_before_rq_complete: Counter,
        downstream_rq_rx_reset: Counter,
        downstream_rq_tx_reset: Counter,
        downstream_rq_too_large: Counter,
        downstream_rq_too_many_premature_resets: Counter,
        downstream_rq_ws_on_non_ws_route: Counter,
    }

    /// `http.<stat prefix>.tracing`: why requests were chosen to be traced, or were not, where `tracing` is configured.
    pub struct TracingStats {
        client_enabled: Counter,
        health_check: Counter,
        not_traceable: Counter,
        random_sampling: Counter,
        service_forced: Counter,
    }
}
