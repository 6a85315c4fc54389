//! The HTTP connection manager: Envoy's `envoy.filters.network.http_connection_manager`.
//!
//! In: a connection and its configuration. Out: for each request a stream through the filter chain,
//! and its response on the connection. Start reading at `Hcm::run`, then `h1` or `h2`, then `stream`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::LocalBoxFuture;
use http::StatusCode;
use nuncio_config::discovery::RouteSlot;
use nuncio_config::header_rules::{Side, join_repeated};
use nuncio_config::http_chain::HttpChain;
use nuncio_config::protocol::non_zero;
use nuncio_config::route::{Action, RouteEntry, RouteTable, ScopedRoutes, WorkerRoutes};
use nuncio_filter_api::{
    ByteStr, Connection, Drain, Flow, LocalReply, NetworkCx, NetworkFilter, Readiness, RequestHead, ResponseHead,
    RouteRef, RouteSource, TurnedAway, Worker,
};
use nuncio_telemetry::access_log::AccessLog;
use nuncio_telemetry::format::{AccessLogType, FormatCx};
use nuncio_telemetry::{ConnectionInfo, ResponseFlag, StreamInfo};
use tokio::time::Instant;

use self::config::{CodecOptions, HeadOptions, Timeouts};
use self::sniff::{Spoken, replayed};
use self::stats::Closed;
use self::stream::Origin;
use crate::local_reply::LocalReplies;

mod client_cert;
mod config;
mod connect_udp;
mod deadline;
mod h1;
mod h2;
mod lower;
mod preview;
mod proxy_status;
mod request_head;
mod response_head;
mod sniff;
mod stats;
mod stream;
mod trace;
mod upgrade;

pub use lower::ROW;
pub use preview::{Chosen, Preview};

/// The connection manager as configured; shared by all workers.
pub(crate) struct Hcm {
    pub(crate) codec: CodecOptions,
    pub(crate) head: HeadOptions,
    pub(crate) timeouts: Timeouts,
    pub(crate) chain: Arc<HttpChain>,
    pub(crate) upgrades: upgrade::Upgrades,
    pub(crate) local_replies: LocalReplies,
    pub(crate) stats: Arc<stats::HcmStats>,
    pub(crate) routes: Routes,
    /// Where the table comes from discovery: it is asked for as long as somebody holds this.
    pub(crate) _slot: Option<Arc<RouteSlot>>,
    pub(crate) h1_settings: Arc<crate::h1::ServerSettings>,
    pub(crate) logs: Vec<AccessLog>,
    /// What loopback peers are called in X-Forwarded-For.
    pub(crate) local_ip: ByteStr,
}

/// `%DOWNSTREAM_LOCAL_CLOSE_REASON%` of connections that have nothing more to do.
const CLOSED_WHEN_DRAINED: &str = "deferred_close_on_drained_connection";

/// `route_specifier`
pub(crate) enum Routes {
    /// Swapped by a route update; a connection sees the new table with its next request.
    Table(Arc<ArcSwap<RouteTable>>),
    Scoped(ScopedRoutes),
}

/// One connection's share of the manager.
pub(crate) struct Http {
    pub(crate) hcm: Arc<Hcm>,
    pub(crate) connection: Rc<ConnectionInfo>,
    pub(crate) worker: Rc<Worker>,
    pub(crate) drain: Rc<Drain>,
    pub(crate) buffer_limit: usize,
    /// The table that the last request was routed by.
    routes: RefCell<Option<Rc<WorkerRoutes>>>,
    requests: Cell<u64>,
    /// How old the connection may become.
    max_age: Option<Duration>,
    /// Between its drain notice and its end.
    pub(crate) drain_timeout: Duration,
}

impl NetworkFilter for Hcm {
    fn run(self: Arc<Self>, connection: Connection, cx: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        Box::pin(async move {
            let Connection { mut io, info } = connection;
            let http = Rc::new(Http::new(self, info, cx));
            let is_handshaking = sniff::is_handshaking(&mut io).await;
            let active = http.hcm.stats.connection(is_handshaking || http.connection.tls.borrow().is_some());
            match sniff::spoken(&http, &mut io, &active, is_handshaking).await {
                Spoken::Http1(first) => h1::serve(http, io, first, active).await,
                // Boxed, since it is many times as large as that of HTTP/1, which would take as much.
                Spoken::Http2(first) => Box::pin(h2::serve(http, replayed(first, io), active)).await,
                Spoken::Nothing => {}
            }
            Flow::Done
        })
    }

    fn turned_away(&self, info: Rc<ConnectionInfo>, why: TurnedAway, _: &NetworkCx) {
        let is_tls = why != TurnedAway::Refused || info.tls.borrow().is_some();
        let active = self.stats.connection(is_tls);
        if why != TurnedAway::NoHandshake {
            active.closed_by(Closed::Local);
        }
        if why == TurnedAway::TooSlow {
            let age = self.codec.common.max_connection_duration;
            self.stats.closed_in_time(&info, age.map(|age| info.start + age));
        }
    }

    fn precedes_handshake(&self) -> bool {
        true
    }

    fn patience(&self) -> Option<Duration> {
        let common = &self.codec.common;
        [common.idle_timeout, common.max_connection_duration].into_iter().flatten().min()
    }

    fn is_terminal(&self) -> bool {
        true
    }
}

impl Http {
    fn new(hcm: Arc<Hcm>, connection: Rc<ConnectionInfo>, cx: NetworkCx) -> Self {
        let routes = RefCell::default();
        let NetworkCx { worker, drain, buffer_limit } = cx;
        let common = &hcm.codec.common;
        let longer = |time: Duration, jitter: f64| {
            if jitter > 0.0 { time + time.mul_f64(jitter / 100.0 * unit(worker.rng.u64())) } else { time }
        };
        let max_age = common.max_connection_duration.map(|age| longer(age, common.max_connection_duration_jitter));
        // A connection has one manager; were there another, the first counts.
        let _ = connection.http.set(hcm.stats.http.clone());
        let drain_timeout = longer(hcm.timeouts.drain, hcm.timeouts.drain_jitter);
        let (buffer_limit, requests) = (buffer_limit as usize, Cell::new(0));
        Self { hcm, connection, worker, drain, buffer_limit, routes, requests, max_age, drain_timeout }
    }

    /// Applies Envoy's contract to a request head, or refuses it.
    pub(crate) fn admit(&self, head: &mut RequestHead, info: &StreamInfo, origin: Origin) -> Result<(), LocalReply> {
        let options = &self.hcm.head;
        if !origin.has_host {
            return Err(LocalReply::new(StatusCode::BAD_REQUEST, "missing_host_header"));
        }
        join_repeated(Side::Request, &mut head.headers);
        request_head::apply_underscores(
            &mut head.headers,
            self.hcm.codec.common.underscores,
            head.version,
            &self.hcm.stats,
        )?;
        request_head::normalize_target(head, options, &self.connection, &self.hcm.stats)?;
        let internal =
            request_head::prepare(head, options, info, &self.worker, &self.hcm.local_ip, origin.has_scheme, |head| {
                self.remove_internal_only(head);
            });
        info.internal.set(internal);
        // Only logs look at it, and it costs an allocation.
        if !self.hcm.logs.is_empty() {
            let id = head.headers.get(request_head::name::REQUEST_ID).and_then(|v| v.to_str().ok());
            *info.request_id.borrow_mut() = id.map(Into::into);
        }
        Ok(())
    }

    /// As [`Http::admit`], for a request that begins anew: it has been told what it is told, and only its target is new.
    pub(crate) fn readmit(&self, head: &mut RequestHead) -> Result<(), LocalReply> {
        request_head::normalize_target(head, &self.hcm.head, &self.connection, &self.hcm.stats)
    }

    /// Whether connections are to be ended with their next response.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_draining()
    }

    /// The client breaks the rules of HTTP: its connection ends by that.
    fn note_protocol_error(&self) {
        let flags = &self.connection.flags;
        flags.set(flags.get().union(ResponseFlag::DownstreamProtocolError.into()));
    }

    /// The client did not close the connection in the time that it was given.
    fn delayed_close(&self) {
        self.hcm.stats.http.downstream_cx_delayed_close_timeout().inc();
        self.connection.local_close_reason.set(Some("triggered_delayed_close_timeout"));
    }

    /// Counts a request; whether it is the last that `max_requests_per_connection` allows.
    pub(crate) fn count_request(&self) -> bool {
        self.requests.set(self.requests.get() + 1);
        self.hcm.codec.common.max_requests_per_connection.is_some_and(|max| self.requests.get() >= max)
    }

    /// When a connection that began at `start` is as old as it may become.
    pub(crate) fn age(&self, start: Instant) -> Option<Instant> {
        self.max_age.map(|age| start + age)
    }

    /// The table of a request; `None` where no scope is its own.
    fn routes_for(&self, head: &RequestHead) -> Option<Rc<WorkerRoutes>> {
        match &self.hcm.routes {
            Routes::Table(table) => Some(self.of_table(&table.load())),
            Routes::Scoped(scopes) => Some(self.of_table(&scopes.find(head)?.table)),
        }
    }

    fn of_table(&self, latest: &Arc<RouteTable>) -> Rc<WorkerRoutes> {
        let mut routes = self.routes.borrow_mut();
        match &*routes {
            Some(known) if Arc::ptr_eq(known.table(), latest) => known.clone(),
            _ => routes.insert(WorkerRoutes::new(latest.clone())).clone(),
        }
    }

    /// Removes what only internal callers may say according to the routes (`internal_only_headers`).
    fn remove_internal_only(&self, head: &mut RequestHead) {
        let remove = |table: &RouteTable, head: &mut RequestHead| {
            table.internal_only_headers().iter().for_each(|name| drop(head.headers.remove(name)));
        };
        match &self.hcm.routes {
            Routes::Table(table) => remove(&table.load(), head),
            Routes::Scoped(scopes) => {
                if let Some(scope) = scopes.find(head) {
                    remove(&scope.table, head);
                }
            }
        }
    }
}

/// A random number from 0 to 1.
fn unit(random: u64) -> f64 {
    random as f64 / u64::MAX as f64
}

impl RouteSource for Http {
    fn demand(&self, head: &RequestHead) -> Option<Arc<Readiness>> {
        match &self.hcm.routes {
            Routes::Table(table) => table.load().demand(head),
            Routes::Scoped(scopes) => {
                scopes.demand(head).or_else(|| scopes.find(head).and_then(|scope| scope.table.demand(head)))
            }
        }
    }

    fn resolve(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> Option<RouteRef> {
        let route = self.routes_for(head)?.resolve(head, info, random)?;
        if let Some(Action::Forward(forward)) = route.downcast::<RouteEntry>().map(RouteEntry::action) {
            info.idle_timeout.set(forward.idle_timeout.map(non_zero));
            info.flush_timeout.set(forward.flush_timeout.map(non_zero));
            let manager = self.hcm.codec.common.max_stream_duration;
            info.max_duration.set(Some(forward.stream_duration(head, manager)));
        }
        Some(route)
    }
}

impl Hcm {
    /// Writes the access logs of a stream that ended.
    pub(crate) fn log(&self, request: Option<&RequestHead>, response: Option<&ResponseHead>, info: &StreamInfo) {
        if self.logs.is_empty() {
            return;
        }
        let end = info.times.complete.get().unwrap_or(info.start);
        let mut cx = FormatCx::new(info, end, info.start_wall + end.saturating_duration_since(info.start));
        cx.request = request.map(RequestHead::view);
        cx.response = response.map(ResponseHead::view);
        let trailers = info.response_trailers.borrow();
        cx.trailers = trailers.as_deref();
        cx.log_type = AccessLogType::DownstreamEnd;
        for log in &self.logs {
            log.log(&cx);
        }
    }
}

#[cfg(test)]
mod tests;
