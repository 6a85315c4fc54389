//! What the admin server counts of itself.

use std::cell::Cell;

use http::StatusCode;
use nuncio_telemetry::stats::Store;
use nuncio_telemetry::stats::catalogue::{HttpStats, ListenerHttpStats, ListenerStats, ListenerWorkerStats};
use tokio::time::Instant;

/// `listener.admin` and `http.admin`
pub(super) struct AdminStats {
    listener: ListenerStats,
    thread: ListenerWorkerStats,
    listener_http: ListenerHttpStats,
    http: HttpStats,
}

/// A connection, counted while it lives.
pub(super) struct ActiveConnection<'a> {
    stats: &'a AdminStats,
    start: Instant,
    codec: Cell<Option<Codec>>,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Http1,
    Http2,
}

impl AdminStats {
    pub(super) fn new(store: &Store) -> Self {
        let listener = store.scope("listener.admin");
        Self {
            listener: ListenerStats::new(&listener),
            thread: ListenerWorkerStats::new(&listener.scope("main_thread")),
            listener_http: ListenerHttpStats::new(&listener.scope("http.admin")),
            http: HttpStats::new(&store.scope("http.admin")),
        }
    }

    pub(super) fn connection(&self) -> ActiveConnection<'_> {
        self.listener.downstream_cx_total().inc();
        self.listener.downstream_cx_active().inc();
        self.thread.downstream_cx_total().inc();
        self.thread.downstream_cx_active().inc();
        self.http.downstream_cx_total().inc();
        self.http.downstream_cx_active().inc();
        ActiveConnection { stats: self, start: Instant::now(), codec: Cell::new(None) }
    }

    pub(super) fn request_begins(&self, codec: Codec) {
        self.http.downstream_rq_total().inc();
        self.http.downstream_rq_active().inc();
        match codec {
            Codec::Http1 => self.http.downstream_rq_http1_total().inc(),
            Codec::Http2 => self.http.downstream_rq_http2_total().inc(),
        }
    }

    /// As in Envoy, the request that asks for the stats is among those that are active.
    pub(super) fn request_ends(&self, status: StatusCode) {
        self.http.downstream_rq_active().dec();
        self.http.downstream_rq_completed().inc();
        self.listener_http.downstream_rq_completed().inc();
        let (http, listener) = if status.is_success() {
            (self.http.downstream_rq_2xx(), self.listener_http.downstream_rq_2xx())
        } else if status.is_server_error() {
            (self.http.downstream_rq_5xx(), self.listener_http.downstream_rq_5xx())
        } else {
            (self.http.downstream_rq_4xx(), self.listener_http.downstream_rq_4xx())
        };
        http.inc();
        listener.inc();
    }
}

impl ActiveConnection<'_> {
    /// It is known now what it speaks.
    pub(super) fn speaks(&self, codec: Codec) {
        let http = &self.stats.http;
        match codec {
            Codec::Http1 => {
                http.downstream_cx_http1_total().inc();
                http.downstream_cx_http1_active().inc();
            }
            Codec::Http2 => {
                http.downstream_cx_http2_total().inc();
                http.downstream_cx_http2_active().inc();
            }
        }
        self.codec.set(Some(codec));
    }
}

impl Drop for ActiveConnection<'_> {
    fn drop(&mut self) {
        let AdminStats { listener, thread, listener_http: _, http } = self.stats;
        let length = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        listener.downstream_cx_active().dec();
        listener.downstream_cx_destroy().inc();
        listener.downstream_cx_length_ms().record(length);
        thread.downstream_cx_active().dec();
        http.downstream_cx_active().dec();
        match self.codec.get() {
            Some(Codec::Http1) => http.downstream_cx_http1_active().dec(),
            Some(Codec::Http2) => http.downstream_cx_http2_active().dec(),
            None => {}
        }
        http.downstream_cx_destroy().inc();
        http.downstream_cx_length_ms().record(length);
    }
}
