//! `envoy.transport_sockets.tcp_stats`

use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::google::protobuf;
use nuncio_telemetry::stats::Scope;

use crate::protocol::duration;

nuncio_telemetry::stats! {
    /// `tcp_stats`
    pub struct TcpStats {
        /// Segments sent, those without data too.
        cx_tx_segments: Counter,
        cx_rx_segments: Counter,
        cx_tx_data_segments: Counter,
        cx_rx_data_segments: Counter,
        cx_tx_retransmitted_segments: Counter,
        cx_rx_bytes_received: Counter,
        cx_tx_bytes_sent: Counter,
        cx_tx_unsent_bytes: Gauge,
        cx_tx_unacked_segments: Gauge,
        cx_tx_percent_retransmitted_segments: Histogram(Percent),
        cx_rtt_us: Histogram(Microseconds),
        cx_rtt_variance_us: Histogram(Microseconds),
    }
}

/// What the kernel knows of TCP connections is counted.
#[derive(Clone)]
pub struct TcpStatsConfig {
    /// Where.
    pub stats: TcpStats,
    /// How often, while a connection lasts; `None`: at its end alone.
    pub period: Option<Duration>,
}

// === impl TcpStatsConfig ===

impl TcpStatsConfig {
    /// Below `scope`, that of a cluster or a listener.
    pub(crate) fn lower(
        period: Option<protobuf::Duration>,
        scope: &Scope,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let period = cx.opt("update_period", period, duration)?;
        Ok(Self { stats: TcpStats::new(&scope.scope("tcp_stats")), period })
    }
}

impl std::fmt::Debug for TcpStatsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpStatsConfig").field("period", &self.period).finish_non_exhaustive()
    }
}
