//! The codecs. Envoy has one root block of each for all listeners, and one for each cluster that speaks the protocol.

crate::stats! {
    /// `http1`, and `cluster.<name>.http1`
    pub struct Http1Stats {
        dropped_headers_with_underscores: Counter,
        metadata_not_supported_error: Counter,
        requests_rejected_with_underscores_in_headers: Counter,
        /// Connections closed for responses that nobody read.
        response_flood: Counter,
    }

    /// `http2`, and `cluster.<name>.http2`
    pub struct Http2Stats {
        streams_active: Gauge,
        /// Bytes that flow control holds back.
        pending_send_bytes: Gauge,
        /// Frames in the output buffer.
        outbound_frames_active: Gauge,
        /// PING, SETTINGS and RST_STREAM frames in the output buffer.
        outbound_control_frames_active: Gauge,
        /// Streams closed by us whose last bytes wait for flow control.
        deferred_stream_close: Gauge,
        rx_reset: Counter,
        tx_reset: Counter,
        rx_messaging_error: Counter,
        trailers: Counter,
        goaway_sent: Counter,
        keepalive_timeout: Counter,
        /// Streams given up since the peer left no window for their last bytes.
        tx_flush_timeout: Counter,
        stream_refused_errors: Counter,
        headers_cb_no_stream: Counter,
        metadata_empty_frames: Counter,

        // Limits.
        header_overflow: Counter,
        header_list_size_too_large: Counter,
        cookies_total_bytes_too_large: Counter,
        dropped_headers_with_underscores: Counter,
        requests_rejected_with_underscores_in_headers: Counter,
        inbound_empty_frames_flood: Counter,
        inbound_priority_frames_flood: Counter,
        inbound_window_update_frames_flood: Counter,
        outbound_flood: Counter,
        outbound_control_flood: Counter,

        // Sizes of received header blocks.
        header_count: Histogram(Unspecified),
        header_list_size: Histogram(Bytes),
        cookie_count: Histogram(Unspecified),
        cookie_size: Histogram(Bytes),
    }
}
