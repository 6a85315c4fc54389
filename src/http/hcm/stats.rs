//! What a connection manager counts, as events.

use std::sync::Arc;

use nuncio_telemetry::stats::catalogue::{Http1Stats, Http2Stats, HttpStats, ListenerHttpStats, TracingStats};
use nuncio_telemetry::stats::{Scope, Store};
use nuncio_telemetry::{ConnectionInfo, Protocol, StreamInfo};
use tokio::time::Instant;

use super::deadline::Expired;
use crate::h2::{FloodKind, Metered};

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// We closed it.
    Local,
    /// The peer did.
    Remote,
}

/// `http.<stat_prefix>`, `http1` and `http2`.
#[derive(Clone, Debug)]
pub(crate) struct HcmStats {
    pub(crate) http: HttpStats,
    pub(crate) http1: Http1Stats,
    pub(crate) http2: Http2Stats,
    pub(crate) tracing: TracingStats,
    /// `listener.<address>.http.<stat_prefix>`
    listener: Option<ListenerHttpStats>,
}

impl HcmStats {
    pub(crate) fn new(store: &Store, listener: Option<&Scope>, stat_prefix: &str) -> Self {
        let prefix = format!("http.{stat_prefix}");
        Self {
            listener: listener.map(|scope| ListenerHttpStats::new(&scope.scope(&prefix))),
            http: HttpStats::new(&store.scope(&prefix)),
            tracing: TracingStats::new(&store.scope(&format!("{prefix}.tracing"))),
            http1: Http1Stats::new(&store.scope("http1")),
            http2: Http2Stats::new(&store.scope("http2")),
        }
    }

    /// Counts a connection for as long as the guard lives.
    pub(crate) fn connection(self: &Arc<Self>, is_tls: bool) -> ActiveConnection {
        self.http.downstream_cx_total().inc();
        self.http.downstream_cx_active().inc();
        if is_tls {
            self.http.downstream_cx_ssl_total().inc();
            self.http.downstream_cx_ssl_active().inc();
        }
        let start = Instant::now();
        ActiveConnection {
            stats: self.clone(),
            is_tls,
            protocol: None.into(),
            start,
            closed: Closed::Remote.into(),
            with_requests: false.into(),
        }
    }

    /// A connection reached the end of its life at `age`, if that is past, or else was idle for too long; whether it is
    /// the former.
    pub(crate) fn timed_out(&self, age: Option<Instant>) -> bool {
        let is_old = age.is_some_and(|age| Instant::now() >= age);
        match is_old {
            true => self.http.downstream_cx_max_duration_reached().inc(),
            false => self.http.downstream_cx_idle_timeout().inc(),
        }
        is_old
    }

    /// The same of a connection that is closed at once: without a codec it has nothing to drain.
    pub(crate) fn closed_in_time(&self, connection: &ConnectionInfo, age: Option<Instant>) {
        let reason = if self.timed_out(age) { "duration_timeout" } else { "on_idle_timeout" };
        connection.local_close_reason.set(Some(reason));
    }

    /// A request head arrived.
    pub(crate) fn stream_begins(&self, info: &StreamInfo) {
        self.http.downstream_rq_total().inc();
        self.http.downstream_rq_active().inc();
        match info.protocol.get() {
            Some(Protocol::Http2) => self.http.downstream_rq_http2_total().inc(),
            Some(Protocol::Http3) => self.http.downstream_rq_http3_total().inc(),
            Some(Protocol::Http10 | Protocol::Http11) | None => self.http.downstream_rq_http1_total().inc(),
        }
    }

    /// A request begins anew: Envoy counts it as another one.
    pub(crate) fn stream_begins_again(&self, info: &StreamInfo) {
        self.http.downstream_rq_active().dec();
        self.stream_begins(info);
    }

    /// A response with this status, interim ones included, is about to be sent. Not later: who has read it may ask for
    /// its count.
    pub(crate) fn stream_responds(&self, code: u16) {
        let http = &self.http;
        http.downstream_rq_completed().inc();
        match code / 100 {
            1 => http.downstream_rq_1xx().inc(),
            2 => http.downstream_rq_2xx().inc(),
            3 => http.downstream_rq_3xx().inc(),
            4 => http.downstream_rq_4xx().inc(),
            _ => http.downstream_rq_5xx().inc(),
        }
        if let Some(listener) = &self.listener {
            count_in(listener, code);
        }
    }

    /// A stream ended. Envoy: what did not end by request and response both being complete was reset, by whomever.
    pub(crate) fn stream_ends(&self, info: &StreamInfo, is_complete: bool) {
        let http = &self.http;
        http.downstream_rq_active().dec();
        if !is_complete {
            http.downstream_rq_rx_reset().inc();
        }
        // Of HTTP/2 the connection counts, which has bytes that belong to no stream.
        if !matches!(info.protocol.get(), Some(Protocol::Http2 | Protocol::Http3)) {
            http.downstream_cx_rx_bytes_total().add(info.wire_bytes_received.get());
            http.downstream_cx_tx_bytes_total().add(info.wire_bytes_sent.get());
        }
        if info.response_code.get() == 0 {
            return;
        }
        let end = info.times.complete.get().unwrap_or(info.start);
        let elapsed = end.saturating_duration_since(info.start);
        http.downstream_rq_time().record(elapsed.as_millis().try_into().unwrap_or(u64::MAX));
    }

    /// A stream ran into a time-out.
    pub(crate) fn expired(&self, expired: Expired) {
        match expired {
            Expired::Idle => self.http.downstream_rq_idle_timeout().inc(),
            Expired::Flush => {
                self.http2.tx_flush_timeout().inc();
                self.http2.tx_reset().inc();
            }
            Expired::Duration => self.http.downstream_rq_max_duration_reached().inc(),
            Expired::Request => self.http.downstream_rq_timeout().inc(),
            Expired::Headers => self.http.downstream_rq_header_timeout().inc(),
        }
    }

    /// Heads of HTTP/2 requests were refused before they became streams.
    pub(crate) fn heads_refused(&self, count: u64) {
        self.http.downstream_rq_total().add(count);
        self.http.downstream_rq_http2_total().add(count);
        self.http.downstream_rq_rx_reset().add(count);
    }

    /// An HTTP/2 peer broke the protocol or a flood limit.
    pub(crate) fn protocol_error(&self, metered: &Metered) {
        self.http.downstream_cx_protocol_error().inc();
        let Some(flood) = metered.flood.get() else { return };
        flood.count(&self.http2);
        if flood == FloodKind::Reset {
            self.http.downstream_rq_too_many_premature_resets().inc();
        }
    }
}

/// One connection in the gauges; counted as closed when dropped.
pub(crate) struct ActiveConnection {
    stats: Arc<HcmStats>,
    /// Unknown until the client has said something.
    protocol: std::cell::Cell<Option<Protocol>>,
    is_tls: bool,
    start: Instant,
    closed: std::cell::Cell<Closed>,
    /// Requests were under way when it ended.
    with_requests: std::cell::Cell<bool>,
}

impl ActiveConnection {
    /// When it was accepted.
    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// Notes what the client speaks.
    pub(crate) fn speaks(&self, protocol: Protocol) {
        let http = &self.stats.http;
        if protocol == Protocol::Http2 {
            http.downstream_cx_http2_total().inc();
            http.downstream_cx_http2_active().inc();
        } else {
            http.downstream_cx_http1_total().inc();
            http.downstream_cx_http1_active().inc();
        }
        self.protocol.set(Some(protocol));
    }

    /// Notes who closed the connection.
    pub(crate) fn closed_by(&self, closed: Closed) {
        self.closed.set(closed);
    }

    /// Whether that is who closed it, as far as is known.
    pub(crate) fn is_closed_by(&self, closed: Closed) -> bool {
        self.closed.get() == closed
    }

    /// Notes that it ends while requests are under way.
    pub(crate) fn ends_with_requests(&self) {
        self.with_requests.set(true);
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        let http = &self.stats.http;
        http.downstream_cx_active().dec();
        if self.is_tls {
            http.downstream_cx_ssl_active().dec();
        }
        match self.protocol.get() {
            Some(Protocol::Http2) => http.downstream_cx_http2_active().dec(),
            Some(_) => http.downstream_cx_http1_active().dec(),
            None => {}
        }
        http.downstream_cx_destroy().inc();
        match self.closed.get() {
            Closed::Local => http.downstream_cx_destroy_local().inc(),
            Closed::Remote => http.downstream_cx_destroy_remote().inc(),
        }
        if self.with_requests.get() {
            http.downstream_cx_destroy_active_rq().inc();
            match self.closed.get() {
                Closed::Local => http.downstream_cx_destroy_local_active_rq().inc(),
                Closed::Remote => http.downstream_cx_destroy_remote_active_rq().inc(),
            }
        }
        http.downstream_cx_length_ms().record(self.start.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
    }
}

fn count_in(listener: &ListenerHttpStats, code: u16) {
    listener.downstream_rq_completed().inc();
    match code / 100 {
        1 => listener.downstream_rq_1xx().inc(),
        2 => listener.downstream_rq_2xx().inc(),
        3 => listener.downstream_rq_3xx().inc(),
        4 => listener.downstream_rq_4xx().inc(),
        _ => listener.downstream_rq_5xx().inc(),
    }
}
