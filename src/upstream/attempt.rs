//! One attempt to get a response: what it takes while it lasts, and what is counted of it.

mod filtered;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode};
use nuncio_config::cluster::{Priority, UpstreamProtocol};
use nuncio_config::header_rules::{Side, join_repeated};
use nuncio_filter_api::{Body, Io, RequestHead, Response, ResponseHead};
use nuncio_http::h1::{ExchangeError, ExchangeFailure, ExchangeOptions, RequestSent};
use nuncio_http::h2::client::H2Client;
use nuncio_telemetry::{ChosenHost, Protocol, StreamInfo};
use tokio::time::Instant;

use crate::failure::Failure;
use crate::host::Host;
use crate::limits::Resource;
use crate::orca::Reported;
use crate::pool::connection::{ClosedBy, ConnectionRecord, PoolFailure};
use crate::pool::http1::Http1Pool;
use crate::pool::http2::{Http2Lease, Http2Pool};
use crate::pool::mixed::MixedPool;
use crate::pool::tcp;
use crate::pool::transport::{TransportOptions, has_overrides, original_source};
use crate::pool::{PoolKey, PoolOverflow};
use crate::router::Watch;
use crate::udp_tunnel;
use crate::worker::{ClusterShare, WorkerHost};

pub(crate) use filtered::UpstreamFilters;

/// A request to be sent to one host.
pub(crate) struct Attempt<'a> {
    pub(crate) host: &'a Rc<WorkerHost>,
    pub(crate) priority: Priority,
    /// The stream, if it has a record.
    pub(crate) info: Option<&'a Rc<StreamInfo>>,
    /// Receives interim responses.
    pub(crate) informational: Option<&'a Rc<dyn Fn(ResponseHead)>>,
}

/// Which version of HTTP a request is sent by.
#[derive(Clone, Copy)]
enum Speaks {
    Http1,
    Http2,
    /// The one that its host has chosen.
    Either,
}

/// A response with what it holds until its end.
pub(crate) struct Answered {
    pub(crate) response: Response,
    pub(crate) active: ActiveRequest,
}

/// A request that is on a connection. Dropping it gives back what it took.
pub(crate) struct ActiveRequest {
    pub(crate) share: Rc<ClusterShare>,
    pub(crate) host: Arc<Host>,
    pub(crate) record: Rc<ConnectionRecord>,
    priority: Priority,
    /// Leave for the stream, on a connection that carries several.
    leave: Option<Http2Lease>,
    has_ended: Cell<bool>,
    /// The response has told of the load of the host.
    has_reported: Cell<bool>,
    /// What is told of the attempt when it is over.
    pub(crate) watch: Option<Box<Watch>>,
}

/// How often one request may meet a kept connection that was closed before it.
const STALE_RETRIES: u32 = 3;

// === impl Attempt ===

impl Attempt<'_> {
    /// Sends the request and waits for the head of its response.
    ///
    /// The body is taken out of its place when there is a connection for it: handed down from future to future, each
    /// would have room for it.
    pub(crate) async fn run(&self, head: &RequestHead, body: &mut Body) -> Result<Answered, Failure> {
        let mut outcome = match self.speaks(head) {
            Speaks::Http1 => self.run_http1(head, body).await,
            Speaks::Http2 => self.run_http2(head, body).await,
            Speaks::Either => Box::pin(self.run_mixed(head, body)).await,
        };
        if let Ok(answered) = &mut outcome {
            join_repeated(Side::Response, &mut answered.response.head.headers);
        }
        self.note_outcome(head, &outcome);
        outcome
    }

    fn speaks(&self, head: &RequestHead) -> Speaks {
        match self.host.share.protocol() {
            UpstreamProtocol::Http1 => Speaks::Http1,
            UpstreamProtocol::Http2 => Speaks::Http2,
            UpstreamProtocol::Downstream if head.version == Protocol::Http2 => Speaks::Http2,
            UpstreamProtocol::Downstream => Speaks::Http1,
            UpstreamProtocol::Auto => Speaks::Either,
        }
    }

    /// Tells outlier detection and health checks how the host did.
    fn note_outcome(&self, request: &RequestHead, outcome: &Result<Answered, Failure>) {
        if let Ok(answered) = outcome {
            answered.active.note_load(&answered.response.head.headers);
        }
        let Some(health) = self.host.share.cluster.health() else { return };
        match outcome {
            Ok(answered) => health.note_response(&self.host.host, request, &answered.response.head),
            Err(failure) => health.note_failure(&self.host.host, failure),
        }
    }

    /// Connects, and makes of the connection and `body` the two directions of a tunnel.
    pub(crate) async fn run_tunnel(&self, head: &RequestHead, body: Body) -> Result<Answered, Failure> {
        let outcome = self.connect_tunnel(head, body).await;
        self.note_outcome(head, &outcome);
        outcome
    }

    async fn connect_tunnel(&self, head: &RequestHead, body: Body) -> Result<Answered, Failure> {
        let begun = self.begun();
        let options = self.transport_options(head);
        let (connection, record) =
            self.note_host(tcp::dial(&self.host.share, &self.host.host, self.priority, options).await)?;
        let active = ActiveRequest::begin(&self.host.share, &record, self.priority)?;
        self.note_connection(&record, begun);
        let body = tcp::end_with_host(connection.tunnel(body, self.info.cloned()), &record);
        // Envoy: to the client the connection is a host that grants its CONNECT.
        let head = ResponseHead::new(StatusCode::OK);
        Ok(Answered { response: Response { head, body }, active })
    }

    /// Connects, for bytes that are no HTTP.
    pub(crate) async fn connect_raw(&self) -> Result<(Io, ActiveRequest), Failure> {
        let begun = self.begun();
        let options = self.info.and_then(|info| TransportOptions::of_bytes(&self.host.host, info));
        let dialled = tcp::dial_raw(&self.host.share, &self.host.host, self.priority, options).await;
        let (io, record) = self.note_host(dialled).inspect_err(|failure| {
            if let Some(health) = self.host.share.cluster.health() {
                health.note_failure(&self.host.host, failure);
            }
        })?;
        let active = ActiveRequest::begin_unlimited(&self.host.share, &record, self.priority);
        self.note_connection(&record, begun);
        Ok((io, active))
    }

    /// Makes of a socket to the host and `body` the two directions of a tunnel.
    pub(crate) fn run_udp_tunnel(&self, body: Body) -> Result<Answered, Failure> {
        let record = Rc::new(ConnectionRecord::uncounted(&self.host.share, &self.host.host, self.priority));
        let socket = record.dial_udp();
        let active = ActiveRequest::uncounted(&self.host.share, &record, self.priority);
        let socket = self.note_host(socket)?;
        Ok(Answered { response: udp_tunnel::respond(socket, body), active })
    }

    /// A kept connection that turns out to be closed is replaced, where the request can do no harm twice. A host that
    /// restarts closes all it has: the replacement may have been in use too, until then.
    async fn run_http1(&self, head: &RequestHead, body: &mut Body) -> Result<Answered, Failure> {
        let pool = self.http1_pool(self.pool_key(head))?;
        let begun = self.begun();
        let mut lease = self.note_host(pool.acquire().await)?;
        let mut retries = 0;
        loop {
            let record = lease.record().clone();
            let active = ActiveRequest::begin(&self.host.share, &record, self.priority)?;
            self.note_connection(&record, begun);
            if head.method == Method::CONNECT {
                record.half_close();
            }
            let (connection, on_idle) = lease.begin();
            let options = ExchangeOptions {
                info: self.info.cloned(),
                informational: self.informational.cloned(),
                on_idle: Some(on_idle),
            };
            let error = match connection.exchange(head, std::mem::take(body), options).await {
                Ok(response) => return Ok(Answered::new(response, active)),
                Err(error) => error,
            };
            *body = self.body_again(head, error, retries, &record)?;
            retries += 1;
            drop(active);
            lease = self.note_host(pool.acquire_busy_or_new().await)?;
        }
    }

    async fn run_http2(&self, head: &RequestHead, body: &mut Body) -> Result<Answered, Failure> {
        let pool = self.http2_pool(self.pool_key(head))?;
        let mut retries = 0;
        let begun = self.begun();
        loop {
            let lease = self.note_host(pool.acquire().await)?;
            let Some((client, active)) = self.begin_http2(lease, begun)? else { continue };
            // Boxed: attempts over HTTP/1 do not carry its future about.
            let (info, informational) = (self.info.cloned(), self.informational.cloned());
            let exchange = Box::pin(client.exchange(head, std::mem::take(body), info, informational));
            let error = match exchange.await {
                Ok(response) => return Ok(Answered::new(response, active)),
                Err(error) => error,
            };
            self.note_end_of_stream(&active, &error.failure);
            *body = self.body_again(head, error, retries, &active.record)?;
            retries += 1;
        }
    }

    /// Begins a request on the connection, if that was not retired since.
    fn begin_http2(
        &self,
        lease: Http2Lease,
        begun: Option<Instant>,
    ) -> Result<Option<(H2Client, ActiveRequest)>, Failure> {
        let (client, record) = (lease.client(), lease.record().clone());
        let stillborn = lease.stillborn();
        if client.is_none() && stillborn.is_none() {
            return Ok(None);
        }
        let mut active = ActiveRequest::begin(&self.host.share, &record, self.priority)?;
        self.note_connection(&record, begun);
        active.leave = Some(lease);
        if let Some(failure) = stillborn {
            self.note_end_of_stream(&active, &failure);
            return Err(failure.into());
        }
        Ok(client.map(|client| (client, active)))
    }

    fn http1_pool(&self, key: Option<PoolKey>) -> Result<Rc<Http1Pool>, Failure> {
        let pool = self.host.pools.http1(&self.host.share, &self.host.host, self.priority, key);
        // Envoy: as if there were no host.
        pool.map_err(|PoolOverflow| Failure::NoHealthyHost)
    }

    fn http2_pool(&self, key: Option<PoolKey>) -> Result<Rc<Http2Pool>, Failure> {
        let pool = self.host.pools.http2(&self.host.share, &self.host.host, self.priority, key);
        pool.map_err(|PoolOverflow| Failure::NoHealthyHost)
    }

    fn mixed_pool(&self, key: Option<PoolKey>) -> Result<Rc<MixedPool>, Failure> {
        let pool = self.host.pools.mixed(&self.host.share, &self.host.host, self.priority, key);
        pool.map_err(|PoolOverflow| Failure::NoHealthyHost)
    }

    /// With whom the request shares connections, if not with everybody.
    #[inline]
    fn pool_key(&self, head: &RequestHead) -> Option<PoolKey> {
        let config = &self.host.share.cluster.config;
        let tells_of_clients = self.host.host.transport().is_some_and(|socket| socket.tells_of_clients());
        let has_source = self.info.is_some_and(|info| original_source(&info.connection).is_some());
        let shares = self.info.is_some_and(|info| info.connection.filter_state.borrow().is_shared());
        let overrides = self.info.is_some_and(|info| {
            has_overrides(&info.connection.filter_state.borrow()) || has_overrides(&info.filter_state.borrow())
        });
        let tells = tells_of_clients || has_source || shares || overrides;
        let is_everybody = config.pooling.is_none() && config.http.server_name.is_none() && !tells;
        if is_everybody { None } else { self.own_pool_key(head) }
    }

    #[cold]
    fn own_pool_key(&self, head: &RequestHead) -> Option<PoolKey> {
        let pooling = self.host.share.cluster.config.pooling.as_ref();
        let is_own = pooling.is_some_and(|pooling| pooling.per_downstream_connection);
        let downstream = self.info.filter(|_| is_own).map(|info| info.connection.id);
        let key = PoolKey { downstream, options: self.transport_options(head) };
        (key.downstream.is_some() || key.options.is_some()).then_some(key)
    }

    /// What the request means for the transport socket. Envoy: nothing, where it came on no connection.
    fn transport_options(&self, head: &RequestHead) -> Option<Rc<TransportOptions>> {
        let http = &self.host.share.cluster.config.http;
        TransportOptions::of(&self.host.host, http, head, self.info?)
    }

    /// What an HTTP/2 stream that gets no response means for its connection.
    fn note_end_of_stream(&self, active: &ActiveRequest, failure: &ExchangeFailure) {
        match failure {
            // Envoy: a stream that the codec resets for what the host sent is taken for the host's doing.
            ExchangeFailure::Reset | ExchangeFailure::TooManyHeaders | ExchangeFailure::HeadersTooLarge => {
                active.end_by_reset();
            }
            // Envoy: a request that was refused was none, and neither was one that a host has gone away without.
            ExchangeFailure::Refused | ExchangeFailure::GoneAway => active.end(),
            ExchangeFailure::Closed if active.leave.as_ref().is_some_and(|l| !l.is_lost()) => active.end(),
            _ => {}
        }
    }

    /// The body to send on another connection, or why there is no second attempt.
    fn body_again(
        &self,
        head: &RequestHead,
        error: ExchangeError,
        retries: u32,
        record: &ConnectionRecord,
    ) -> Result<Body, Failure> {
        if retries == STALE_RETRIES || !record.has_answered() || !may_be_sent_again(head, &error) {
            return Err(error.failure.into());
        }
        let Some(body) = error.body else { return Err(error.failure.into()) };
        tracing::debug!(host = %record.remote(), "a kept connection was closed, the request is sent on another");
        Ok(body)
    }

    /// Notes the host of a request that got a connection, or failed to get one.
    fn note_host<T>(&self, acquired: Result<T, PoolFailure>) -> Result<T, Failure> {
        // Envoy: who was turned away at the queue never had a host.
        if let Some(info) = self.info
            && !matches!(acquired, Err(PoolFailure::Overflow))
        {
            self.note_host_in(info);
        }
        acquired.map_err(Failure::Pool)
    }

    fn note_host_in(&self, info: &StreamInfo) {
        let host = &self.host.host;
        let mut upstream = info.upstream.borrow_mut();
        host.note_in(&mut upstream);
        upstream.chosen = Some(ChosenHost::new(self.host.clone()));
    }

    /// When the wait for a connection begins, if a log will tell.
    fn begun(&self) -> Option<Instant> {
        self.info.filter(|info| info.is_logged.get()).map(|_| self.host.share.env.clock.now())
    }

    fn note_connection(&self, record: &ConnectionRecord, begun: Option<Instant>) {
        if let Some(health) = self.host.share.cluster.health() {
            health.note_connected(&self.host.host);
        }
        let Some(info) = self.info else { return };
        let now = self.host.share.env.clock.now();
        record.note_times(&info.times);
        info.times.upstream_request_start.set(Some(now));
        let mut upstream = info.upstream.borrow_mut();
        upstream.pool_ready = begun.map(|begun| now.saturating_duration_since(begun));
        upstream.connection_id = Some(record.id);
        upstream.protocol = record.protocol();
        upstream.remote = Some(record.remote());
        upstream.local = record.local();
        upstream.tls = record.tls();
        upstream.filter_state = record.shared();
    }
}

fn is_termination(failure: &ExchangeFailure) -> bool {
    matches!(failure, ExchangeFailure::Closed | ExchangeFailure::GoneAway | ExchangeFailure::Io(_))
}

/// RFC 9110 §9.2.2: a proxy repeats a request by itself only where it is idempotent, or was never sent.
fn may_be_sent_again(head: &RequestHead, error: &ExchangeError) -> bool {
    let is_idempotent = head.method.is_idempotent() && head.protocol.is_none() && head.method != Method::CONNECT;
    is_termination(&error.failure) && !error.response_started && (is_idempotent || error.sent == RequestSent::Nothing)
}

// === impl Answered ===

impl Answered {
    fn new(response: Response, active: ActiveRequest) -> Self {
        active.record.answer();
        Self { response, active }
    }
}

// === impl ActiveRequest ===

impl ActiveRequest {
    /// Begins a request on the connection of `record`, unless `max_requests` forbids.
    pub(crate) fn begin(
        share: &Rc<ClusterShare>,
        record: &Rc<ConnectionRecord>,
        priority: Priority,
    ) -> Result<Self, Failure> {
        let stats = &share.cluster.stats;
        if !share.cluster.limits(priority).try_take(Resource::Requests, stats) {
            stats.upstream_rq_active_overflow().inc();
            return Err(Failure::RequestOverflow);
        }
        Ok(Self::begun(share, record, priority))
    }

    /// The same, whatever `max_requests` says. Envoy: it is none of a connection without HTTP.
    pub(crate) fn begin_unlimited(share: &Rc<ClusterShare>, record: &Rc<ConnectionRecord>, priority: Priority) -> Self {
        share.cluster.limits(priority).take(Resource::Requests, &share.cluster.stats);
        Self::begun(share, record, priority)
    }

    fn begun(share: &Rc<ClusterShare>, record: &Rc<ConnectionRecord>, priority: Priority) -> Self {
        let stats = &share.cluster.stats;
        share.cluster.limits(priority).request_begins(|| share.env.clock.now());
        record.begin();
        stats.upstream_rq_total().inc();
        stats.upstream_rq_active().inc();
        let host = record.host.clone();
        host.stats.rq_total.inc();
        host.stats.rq_active.inc();
        Self::new(share, host, record, priority)
    }

    /// Datagrams to a host. Envoy counts nothing of them but the response.
    fn uncounted(share: &Rc<ClusterShare>, record: &Rc<ConnectionRecord>, priority: Priority) -> Self {
        Self::new(share, record.host.clone(), record, priority)
    }

    fn new(share: &Rc<ClusterShare>, host: Arc<Host>, record: &Rc<ConnectionRecord>, priority: Priority) -> Self {
        Self {
            share: share.clone(),
            host,
            record: record.clone(),
            priority,
            leave: None,
            has_ended: Cell::new(false),
            has_reported: Cell::new(false),
            watch: None,
        }
    }

    /// Takes in what headers or trailers of the response say of the load of the host; the first word counts.
    #[inline]
    pub(crate) fn note_load(&self, headers: &HeaderMap) {
        let config = &self.share.cluster.config;
        let counts = config.client_weights.is_some()
            || config.load_metrics.is_some()
            || config.locality_lb.load_aware().is_some();
        if counts && !self.has_reported.get() {
            let now = self.share.env.clock.now();
            self.has_reported.set(Reported::take_headers(headers, config, &self.host, now));
        }
    }

    /// Whether its connection speaks HTTP.
    pub(crate) fn is_http(&self) -> bool {
        self.record.protocol().is_some()
    }

    /// The response has ended as it should.
    pub(crate) fn end(&self) {
        self.has_ended.set(true);
    }

    /// The host has reset the stream of the request.
    pub(crate) fn end_by_reset(&self) {
        self.share.cluster.stats.upstream_rq_rx_reset().inc();
        self.end();
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        if !self.record.is_counted {
            return;
        }
        let stats = &self.share.cluster.stats;
        stats.upstream_rq_active().dec();
        self.host.stats.rq_active.dec();
        self.share.cluster.limits(self.priority).give_back(Resource::Requests, stats);
        match (&self.leave, self.has_ended.get()) {
            // An HTTP/1 connection does not outlive a request that breaks off.
            (None, false) => self.record.break_off(),
            (Some(leave), false) if leave.is_lost() => {
                self.record.break_off();
                // Envoy counts it with those that waited.
                stats.upstream_rq_pending_failure_eject().inc();
            }
            (Some(leave), false) => {
                stats.upstream_rq_tx_reset().inc();
                // Streams that end with a connection at fault are told no more.
                if !leave.is_given_up() {
                    self.share.http2_stats().tx_reset().inc();
                }
            }
            // Envoy: the end that a host gives to a tunnel is that of its half; the connection is ours to close.
            (None, true) if self.record.protocol().is_none() => {
                self.record.closed_by.set(ClosedBy::Us);
                self.record.break_off();
            }
            (_, true) => {}
        }
    }
}
