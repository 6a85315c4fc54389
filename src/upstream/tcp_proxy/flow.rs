//! What a session holds for want of room, in gauges, and how often it waits for room.

use nuncio_telemetry::stats::GaugePart;
use nuncio_telemetry::stats::catalogue::ClusterStats;

use super::config::TcpProxyStats;
use super::direction::Direction;

/// What is counted of the flow of one session.
#[derive(Default)]
pub(super) struct Flow {
    /// Nothing is read of the client: its host has not taken what was there.
    client_is_paused: bool,
    /// The same the other way.
    host_is_paused: bool,
    /// Bytes of the client's last read. Envoy: they count as buffered until the next one.
    received: GaugePart,
    /// Bytes that the client has not taken.
    waiting: GaugePart,
    /// Bytes that the host has not taken, of those that never were in a buffer of its connection.
    piped: GaugePart,
}

// === impl Flow ===

impl Flow {
    /// Brings all up to date.
    pub(super) fn note(
        &mut self,
        tcp: &TcpProxyStats,
        cluster: &ClusterStats,
        to_host: &Direction,
        to_client: &Direction,
    ) {
        let (to_host_held, to_client_held) = (to_host.held(), to_client.held());
        if self.client_is_paused != (to_host_held > 0) {
            self.client_is_paused = to_host_held > 0;
            match self.client_is_paused {
                true => tcp.downstream_flow_control_paused_reading_total().inc(),
                false => tcp.downstream_flow_control_resumed_reading_total().inc(),
            }
        }
        if self.host_is_paused != (to_client_held > 0) {
            self.host_is_paused = to_client_held > 0;
            match self.host_is_paused {
                true => cluster.upstream_flow_control_paused_reading_total().inc(),
                false => cluster.upstream_flow_control_resumed_reading_total().inc(),
            }
        }
        self.received.set(tcp.downstream_cx_rx_bytes_buffered(), to_host.last_read);
        self.waiting.set(tcp.downstream_cx_tx_bytes_buffered(), to_client_held);
        self.piped.set(cluster.upstream_cx_tx_bytes_buffered(), to_host.piped());
    }

    /// The session is over.
    pub(super) fn end(&mut self, tcp: &TcpProxyStats, cluster: &ClusterStats) {
        self.received.set(tcp.downstream_cx_rx_bytes_buffered(), 0);
        self.waiting.set(tcp.downstream_cx_tx_bytes_buffered(), 0);
        self.piped.set(cluster.upstream_cx_tx_bytes_buffered(), 0);
    }
}
