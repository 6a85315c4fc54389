//! Clusters. Beside these go [`ResponseCodes`](crate::stats::ResponseCodes) under the same prefixes.

crate::stats! {
    /// `cluster.<name>`
    pub struct ClusterStats {
        // Each request.
        upstream_rq_total: Counter,
        upstream_rq_active: Gauge,
        /// From the last byte of the request to the end of the response.
        upstream_rq_time: Histogram(Milliseconds) when used,
        upstream_rq_pending_total: Counter,
        upstream_rq_pending_active: Gauge,
        upstream_cx_rx_bytes_total: Counter,
        upstream_cx_rx_bytes_buffered: Gauge,
        upstream_cx_tx_bytes_total: Counter,
        upstream_cx_tx_bytes_buffered: Gauge,

        // Each connection.
        upstream_cx_total: Counter,
        upstream_cx_active: Gauge,
        upstream_cx_http1_total: Counter,
        upstream_cx_http2_total: Counter,
        upstream_cx_http3_total: Counter,
        upstream_cx_connect_ms: Histogram(Milliseconds),
        upstream_cx_length_ms: Histogram(Milliseconds),
        /// Requests that a connection had carried when it was closed.
        upstream_rq_per_cx: Histogram(Unspecified),
        upstream_cx_destroy: Counter,
        upstream_cx_destroy_local: Counter,
        upstream_cx_destroy_remote: Counter,
        upstream_cx_destroy_with_active_rq: Counter,
        upstream_cx_destroy_local_with_active_rq: Counter,
        upstream_cx_destroy_remote_with_active_rq: Counter,
        upstream_cx_close_notify: Counter,
        upstream_cx_connect_attempts_exceeded: Counter,
        upstream_cx_connect_fail: Counter,
        upstream_cx_connect_timeout: Counter,
        upstream_cx_connect_with_0_rtt: Counter,
        upstream_cx_idle_timeout: Counter,
        upstream_cx_max_duration_reached: Counter,
        upstream_cx_max_requests: Counter,
        upstream_cx_none_healthy: Counter,
        upstream_cx_overflow: Counter,
        upstream_cx_pool_overflow: Counter,
        upstream_cx_preconnect_skipped: Counter,
        upstream_cx_protocol_error: Counter,
        bind_errors: Counter,
        upstream_http3_broken: Counter,
        upstream_flow_control_backed_up_total: Counter,
        upstream_flow_control_drained_total: Counter,
        upstream_flow_control_paused_reading_total: Counter,
        upstream_flow_control_resumed_reading_total: Counter,

        // Requests that took another way.
        upstream_rq_timeout: Counter,
        upstream_rq_per_try_timeout: Counter,
        upstream_rq_per_try_idle_timeout: Counter,
        upstream_rq_max_duration_reached: Counter,
        upstream_rq_cancelled: Counter,
        upstream_rq_rx_reset: Counter,
        upstream_rq_rx_reset_no_error: Counter,
        upstream_rq_tx_reset: Counter,
        upstream_rq_active_overflow: Counter,
        upstream_rq_pending_overflow: Counter,
        upstream_rq_pending_failure_eject: Counter,
        upstream_rq_maintenance_mode: Counter,
        upstream_rq_0rtt: Counter,
        upstream_queue_overloaded: Gauge,
        upstream_rq_retry: Counter,
        upstream_rq_retry_backoff_exponential: Counter,
        upstream_rq_retry_backoff_ratelimited: Counter,
        upstream_rq_retry_limit_exceeded: Counter,
        upstream_rq_retry_overflow: Counter,
        upstream_rq_retry_success: Counter,
        retry_or_shadow_abandoned: Counter,
        upstream_internal_redirect_succeeded_total: Counter,
        upstream_internal_redirect_failed_total: Counter,

        // 1 while a limit of the priority is reached.
        default_cx_open: Gauge = "circuit_breakers.default.cx_open",
        default_cx_pool_open: Gauge = "circuit_breakers.default.cx_pool_open",
        default_rq_open: Gauge = "circuit_breakers.default.rq_open",
        default_rq_pending_open: Gauge = "circuit_breakers.default.rq_pending_open",
        default_rq_retry_open: Gauge = "circuit_breakers.default.rq_retry_open",
        high_cx_open: Gauge = "circuit_breakers.high.cx_open",
        high_cx_pool_open: Gauge = "circuit_breakers.high.cx_pool_open",
        high_rq_open: Gauge = "circuit_breakers.high.rq_open",
        high_rq_pending_open: Gauge = "circuit_breakers.high.rq_pending_open",
        high_rq_retry_open: Gauge = "circuit_breakers.high.rq_retry_open",

        // Hosts.
        /// Hosts made, each of which asked for the transport socket that is its own; there is one for all.
        default_total_match_count: Counter = "default.total_match_count",
        membership_change: Counter,
        membership_total: Gauge,
        membership_healthy: Gauge,
        membership_degraded: Gauge,
        membership_excluded: Gauge,
        max_host_weight: Gauge,
        original_dst_host_invalid: Counter,

        // Discovery.
        update_attempt: Counter,
        update_success: Counter,
        update_failure: Counter,
        update_empty: Counter,
        update_no_rebuild: Counter,
        /// A hash of the version that the control plane named.
        version: Gauge,
        /// 1 while the cluster waits for its first hosts.
        warming_state: Gauge,
        assignment_stale: Counter,
        assignment_timeout_received: Counter,
        assignment_use_cached: Counter,

        // Load balancing.
        lb_healthy_panic: Counter,
        lb_local_cluster_not_ok: Counter,
        lb_recalculate_zone_structures: Counter,
        lb_zone_cluster_too_small: Counter,
        lb_zone_no_capacity_left: Counter,
        lb_zone_routing_all_directly: Counter,
        lb_zone_routing_cross_zone: Counter,
        lb_zone_routing_sampled: Counter,
        lb_subsets_active: Gauge,
        lb_subsets_created: Counter,
        lb_subsets_removed: Counter,
        lb_subsets_selected: Counter,
        lb_subsets_fallback: Counter,
        lb_subsets_fallback_panic: Counter,
    }

    /// `cluster.<name>.external`, `.internal` or `.canary`
    pub struct RequestTimeStats {
        upstream_rq_time: Histogram(Milliseconds) when used,
    }

    /// `vhost.<name>.vcluster.<name>`, and `vhost.<name>.route.<stat prefix>`
    pub struct VirtualClusterStats {
        upstream_rq_total: Counter,
        upstream_rq_time: Histogram(Milliseconds) when used,
        upstream_rq_timeout: Counter,
        upstream_rq_retry: Counter,
        upstream_rq_retry_limit_exceeded: Counter,
        upstream_rq_retry_overflow: Counter,
        upstream_rq_retry_success: Counter,
    }
}
