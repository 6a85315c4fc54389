//! A downstream HTTP/1 connection: requests one after another on the connection's own task.
//!
//! ```text
//! wait -> head -> stream (boxed) -> wait ...        -> close
//! ```
//! The future of a stream is boxed, so that an idle connection is no larger than its waiting.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::{Method, StatusCode};
use nuncio_filter_api::{Body, ByteStr, Io, LocalReply, Reply, RequestHead, ResponseHead, Scheme};
use nuncio_telemetry::{Protocol, ResponseFlag, StreamInfo};
use tokio::time::Instant;

use super::deadline::{Deadline, Expired};
use super::stats::{ActiveConnection, Closed};
use super::stream::{Origin, Stream};
use super::{CLOSED_WHEN_DRAINED, Http};
use crate::h1::{BadRequest, IncomingRequest, Persistence, Readiness, RespondError, ServerConnection};
use crate::timer::{LazyTimer, earlier};

/// Serves the connection to its end; `initial` was read from it already.
pub(super) async fn serve(http: Rc<Http>, io: Io, initial: Bytes, active: ActiveConnection) {
    let is_unused = initial.is_empty();
    let codec = Rc::new(ServerConnection::new(io, http.hcm.h1_settings.clone(), initial));
    let worker = http.worker.clone();
    let mut connection =
        H1 { http, codec, active, draining: None, is_aged: false, is_unused, timer: LazyTimer::default() };
    if !is_unused {
        connection.begins();
    }
    while connection.wait().await == Wait::Request {
        if connection.is_unused {
            connection.begins();
        }
        let next = {
            let mut request = connection.boxed_request();
            poll_fn(|cx| worker.clock.turn(|| request.as_mut().poll(cx))).await
        };
        match next {
            Next::KeepAlive => {}
            Next::Close(closer) => return connection.close(closer).await,
            Next::Gone => return,
        }
    }
}

struct H1 {
    http: Rc<Http>,
    codec: Rc<ServerConnection>,
    active: ActiveConnection,
    /// Since when it drains: the next response closes it, or the end of the drain time.
    draining: Option<Instant>,
    /// Its age is reached, and the next response closes it, whenever that is.
    is_aged: bool,
    /// Nothing was received on it yet.
    is_unused: bool,
    /// Of the connection while it is idle, then of its streams: it is set once in minutes.
    timer: LazyTimer,
}

#[derive(PartialEq, Eq)]
enum Wait {
    Request,
    Closed,
}

/// What becomes of the connection after a stream.
enum Next {
    KeepAlive,
    /// The response is written; the client is given time to read it.
    Close(Closer),
    /// There is nobody to wait for.
    Gone,
}

/// Who closes a connection, as far as stats are concerned: either way both sides do.
#[derive(PartialEq, Eq)]
enum Closer {
    /// We do: request and response are complete.
    Us,
    /// Whoever is first. Envoy: after an error the client is given the time to close.
    First,
}

/// Why a stream's work was given up.
enum Stopped {
    Gone,
    Expired(Expired),
}

impl H1 {
    /// It is known for HTTP/1 by what it says.
    fn begins(&mut self) {
        self.is_unused = false;
        self.active.speaks(Protocol::Http11);
    }

    /// Waits for the first byte of a request.
    async fn wait(&mut self) -> Wait {
        let idle = self.http.hcm.codec.common.idle_timeout.map(|t| Instant::now() + t);
        let codec = self.codec.clone();
        let mut readable = pin!(codec.readable());
        loop {
            let age = self.age();
            let deadline = match self.draining {
                Some(since) => Some(since + self.http.drain_timeout),
                None => earlier(idle, age),
            };
            let timer = &mut self.timer;
            let ready = poll_fn(|cx| {
                if let Poll::Ready(ready) = readable.as_mut().poll(cx) {
                    return Poll::Ready(Some(ready));
                }
                timer.poll_reached(deadline, cx).map(|()| None)
            })
            .await;
            match ready {
                Some(Readiness::Request) => return Wait::Request,
                Some(Readiness::Closed) => {
                    self.active.closed_by(Closed::Remote);
                    return Wait::Closed;
                }
                None if self.draining.is_some() => {
                    self.active.closed_by(Closed::Local);
                    self.http.connection.local_close_reason.set(Some(CLOSED_WHEN_DRAINED));
                    return Wait::Closed;
                }
                None if self.is_unused => {
                    self.active.closed_by(Closed::Local);
                    self.http.hcm.stats.closed_in_time(&self.http.connection, age);
                    return Wait::Closed;
                }
                // Envoy: a request that crosses this on its way is answered still, for as long as the drain time.
                None => self.drain(age),
            }
        }
    }

    /// It has reached this age, or was idle for too long.
    fn drain(&mut self, age: Option<Instant>) {
        self.http.hcm.stats.timed_out(age);
        let now = Instant::now();
        if age.is_some_and(|age| now >= age) && self.http.hcm.timeouts.http1_ends_with_request {
            self.is_aged = true;
        } else {
            self.draining = Some(now);
        }
    }

    /// When it will be as old as it may become, if that is still to come.
    fn age(&self) -> Option<Instant> {
        self.http.age(self.active.start()).filter(|_| !self.is_aged)
    }

    /// [`H1::request`], made where it stays: within a larger function it is made elsewhere and copied.
    #[inline(never)]
    fn boxed_request(&mut self) -> Pin<Box<impl Future<Output = Next>>> {
        Box::pin(self.request())
    }

    /// Serves one request. What is rare is boxed: the future of every request would be as large.
    async fn request(&mut self) -> Next {
        let now = self.http.worker.clock.now();
        let info = self.record(now);
        match self.read_head(now).await {
            Ok(Ok(())) => {}
            Ok(Err(bad)) => {
                self.http.note_protocol_error();
                let stats = &self.http.hcm.stats.http;
                stats.downstream_cx_protocol_error().inc();
                // Envoy answers before the request is complete, and then takes the broken codec for a reset.
                stats.downstream_rq_response_before_rq_complete().inc();
                return Box::pin(self.refuse(bad_request(bad), info)).await;
            }
            Err(expired) => {
                self.http.connection.protocol.set(Some(Protocol::Http11));
                self.http.hcm.stats.expired(expired);
                return Box::pin(self.refuse(expired.reply(false), info)).await;
            }
        }
        // Made here, where it stays: it is too large to be handed about. The request it is made of does not stay.
        let mut stream;
        let persistence;
        {
            let info = info;
            let Some(mut request) = self.codec.take_request() else {
                self.http.connection.protocol.set(Some(Protocol::Http11));
                let stream = self.unknown(info);
                self.left(&stream);
                return Next::Gone;
            };
            persistence = self.begin(&mut request, &info);
            let IncomingRequest { head, body, has_host, absolute_form, .. } = request;
            let origin = Origin { has_host, has_scheme: absolute_form, is_known: true };
            stream = Stream::new(self.http.clone(), head, body, info, origin);
        }
        let mut deadline = Deadline::new(&self.http, stream.info(), std::mem::take(&mut self.timer));
        self.pass_informational(&mut stream);
        let next = self.exchange(&mut stream, &mut deadline, persistence).await;
        stream.finish();
        self.timer = deadline.into_timer();
        next
    }

    /// The record of a stream that begins.
    fn record(&self, now: Instant) -> Rc<StreamInfo> {
        let info = StreamInfo::new(self.http.connection.clone(), now, self.http.worker.clock.wall(now));
        info.protocol.set(Some(Protocol::Http11));
        Rc::new(info)
    }

    /// Reads a head, unless it takes too long.
    async fn read_head(&mut self, start: Instant) -> Result<Result<(), BadRequest>, Expired> {
        let (timeout, expired) = self.http.hcm.timeouts.of_head().unzip();
        let deadline = timeout.map(|t| start + t);
        let (codec, timer) = (&self.codec, &mut self.timer);
        poll_fn(|cx| {
            if let Poll::Ready(head) = codec.poll_head(cx) {
                return Poll::Ready(Ok(head));
            }
            timer.poll_reached(deadline, cx).map(|()| Err(expired.unwrap_or(Expired::Headers)))
        })
        .await
    }

    /// Answers a request whose head could not be read.
    async fn refuse(&mut self, reply: LocalReply, info: Rc<StreamInfo>) -> Next {
        let mut stream = self.unknown(info);
        let body = stream.respond(reply.into()).await;
        let _ = self.codec.respond(stream.response_head(), body, Persistence::Close).await;
        self.active.closed_by(Closed::Local);
        stream.finish();
        Next::Close(Closer::First)
    }

    /// The stream of a request whose head did not become one.
    fn unknown(&self, info: Rc<StreamInfo>) -> Stream {
        self.codec.track(info.clone());
        let head = RequestHead::new(Method::GET, Scheme::Http, ByteStr::EMPTY, ByteStr::EMPTY);
        Stream::new(self.http.clone(), head, Body::empty(), info, Origin::UNKNOWN)
    }

    /// Begins a request; tells whether its connection may go on after it.
    fn begin(&mut self, request: &mut IncomingRequest, info: &Rc<StreamInfo>) -> Persistence {
        info.protocol.set(Some(request.head.version));
        self.http.connection.protocol.set(Some(request.head.version));
        if !self.http.hcm.logs.is_empty() {
            info.times.request_headers_end.set(Some(self.http.worker.clock.now()));
        }
        self.codec.track(info.clone());
        request.head.protocol = request.upgrade.take();
        if request.expects_continue && !self.http.hcm.head.proxy_100_continue {
            request.head.headers.remove(http::header::EXPECT);
            self.http.hcm.stats.stream_responds(StatusCode::CONTINUE.as_u16());
            self.codec.queue_informational(&ResponseHead::new(StatusCode::CONTINUE));
        }
        if request.body.is_end() {
            info.times.request_end.set(Some(info.start));
        }
        let is_last = self.http.count_request();
        if is_last {
            self.http.hcm.stats.http.downstream_cx_max_requests_reached().inc();
        }
        if request.keep_alive && !is_last { Persistence::KeepAlive } else { Persistence::Close }
    }

    fn pass_informational(&self, stream: &mut Stream) {
        if self.http.hcm.head.proxy_100_continue {
            let codec = self.codec.clone();
            stream.set_informational(Rc::new(move |head| codec.queue_informational(&head)));
        }
    }

    /// Gets the answer to the stream's request and writes it.
    #[allow(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
    fn exchange(
        &mut self,
        stream: &mut Stream,
        deadline: &mut Deadline,
        persistence: Persistence,
    ) -> impl Future<Output = Next> {
        // Each future within is in a block of its own: their memory is the same, and none is moved.
        async move {
            let answered = {
                let work = pin!(stream.request_phase());
                self.guarded(work, deadline).await
            };
            let Some(reply) = self.reply(answered, stream) else { return Next::Gone };
            let responded = {
                let work = pin!(stream.respond(reply));
                self.guarded(work, deadline).await
            };
            let body = 'body: {
                let reply = match responded.map_err(|stopped| self.stopped(stopped, stream)) {
                    Ok(body) => break 'body body,
                    Err(None) => return Next::Gone,
                    Err(Some(reply)) => reply,
                };
                Box::pin(stream.respond(reply)).await
            };
            self.write(stream, body, deadline, persistence).await
        }
    }

    /// What to answer to a request that came to this end; `None` where nobody is left to be answered.
    fn reply(&self, answered: Result<Reply, Stopped>, stream: &Stream) -> Option<Reply> {
        match answered {
            Ok(reply) if reply.tells_of_lost_client() => {
                self.left(stream);
                None
            }
            Ok(reply) => Some(self.faulty(reply)),
            Err(stopped) => self.stopped(stopped, stream),
        }
    }

    /// A request body that was malformed is answered as such, whatever came of its stream.
    fn faulty(&self, reply: Reply) -> Reply {
        match self.codec.request_fault() {
            Some(bad) => {
                self.http.note_protocol_error();
                self.http.hcm.stats.http.downstream_cx_protocol_error().inc();
                bad_request(bad).into()
            }
            None => reply,
        }
    }

    /// What to answer, if anybody is left to be answered.
    fn stopped(&self, stopped: Stopped, stream: &Stream) -> Option<Reply> {
        match stopped {
            Stopped::Gone => {
                self.left(stream);
                None
            }
            Stopped::Expired(expired) => {
                self.http.hcm.stats.expired(expired);
                Some(expired.reply(self.codec.is_request_complete()).into())
            }
        }
    }

    /// The client left the stream.
    fn left(&self, stream: &Stream) {
        stream.downstream_gone(ResponseFlag::DownstreamConnectionTermination, "downstream_remote_disconnect");
        self.active.closed_by(Closed::Remote);
        self.active.ends_with_requests();
    }

    /// Runs `work` unless the client leaves or a time-out strikes first.
    fn guarded<T>(
        &self,
        mut work: Pin<&mut impl Future<Output = T>>,
        deadline: &mut Deadline,
    ) -> impl Future<Output = Result<T, Stopped>> {
        poll_fn(move |cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            // An error is found again by whoever reads or writes next.
            let _ = self.codec.poll_flush(cx);
            if self.codec.poll_disconnected(cx).is_ready() {
                return Poll::Ready(Err(Stopped::Gone));
            }
            deadline.poll_expired(cx).map(|e| Err(Stopped::Expired(e)))
        })
    }

    fn write(
        &mut self,
        stream: &mut Stream,
        body: Body,
        deadline: &mut Deadline,
        persistence: Persistence,
    ) -> impl Future<Output = Next> {
        let persistence = if stream.ends_connection() { Persistence::Close } else { persistence };
        let persistence = self.persistence(persistence == Persistence::KeepAlive);
        stream.info().times.response_start.set(Some(self.http.worker.clock.now()));
        let (this, stream) = (&*self, &*stream);
        let mut respond = this.codec.respond(stream.response_head(), body, persistence);
        async move {
            let written = poll_fn(|cx| {
                if let Poll::Ready(written) = Pin::new(&mut respond).poll(cx) {
                    return Poll::Ready(Ok(written));
                }
                deadline.poll_expired(cx).map(Err)
            })
            .await;
            this.written(written, stream)
        }
    }

    fn written(&self, written: Result<Result<Persistence, RespondError>, Expired>, stream: &Stream) -> Next {
        let info = stream.info();
        info.times.response_end.set(Some(self.http.worker.clock.now()));
        match written {
            Ok(Ok(Persistence::KeepAlive)) => {
                stream.completed();
                Next::KeepAlive
            }
            Ok(Ok(Persistence::Close)) => {
                self.active.closed_by(Closed::Local);
                let is_complete = self.codec.is_request_complete();
                if is_complete {
                    stream.completed();
                }
                Next::Close(if is_complete && !stream.ends_connection() { Closer::Us } else { Closer::First })
            }
            Ok(Err(error)) => {
                self.broken_off(stream, error);
                Next::Gone
            }
            Err(expired) => {
                self.http.hcm.stats.expired(expired);
                self.http.hcm.stats.http.downstream_rq_tx_reset().inc();
                expired.note(info);
                self.active.closed_by(Closed::Local);
                Next::Gone
            }
        }
    }

    fn broken_off(&self, stream: &Stream, error: RespondError) {
        let info = stream.info();
        match error {
            RespondError::Disconnected(_) => return self.left(stream),
            // In a tunnel the host's half is told of it first.
            RespondError::Body(error) if error.flags.has(ResponseFlag::DownstreamConnectionTermination) => {
                return self.left(stream);
            }
            RespondError::Body(error) => {
                info.flags.set(info.flags.get().union(error.flags));
                info.set_details(error.details);
            }
            RespondError::LengthMismatch | RespondError::UnexpectedUpgrade => {
                info.flag(ResponseFlag::UpstreamProtocolError);
                info.set_details("upstream_response_framing");
            }
        }
        self.http.hcm.stats.http.downstream_rq_tx_reset().inc();
        self.active.closed_by(Closed::Local);
    }

    fn persistence(&mut self, keep_alive: bool) -> Persistence {
        let stats = &self.http.hcm.stats.http;
        if !self.codec.is_request_complete() {
            stats.downstream_rq_response_before_rq_complete().inc();
            return Persistence::Close;
        }
        let age = self.age();
        if self.draining.is_none() && age.is_some_and(|age| Instant::now() >= age) {
            self.drain(age);
        }
        let stats = &self.http.hcm.stats.http;
        if self.http.is_draining() {
            stats.downstream_cx_drain_close().inc();
            return Persistence::Close;
        }
        if keep_alive && self.draining.is_none() && !self.is_aged { Persistence::KeepAlive } else { Persistence::Close }
    }

    /// Ends the connection so that the client can still read the response (RFC 9112 §9.6). Unlike Envoy we say at once
    /// that nothing more will come; then as there the client has `delayed_close_timeout` to close.
    async fn close(self, closer: Closer) {
        let (stats, timeout) = (&self.http.hcm.stats.http, self.http.hcm.timeouts.delayed_close);
        if !self.http.connection.flags.get().has(ResponseFlag::DownstreamProtocolError) {
            self.http.connection.local_close_reason.set(Some(CLOSED_WHEN_DRAINED));
        }
        if timeout.is_zero() || self.codec.shutdown().await.is_err() {
            return;
        }
        let dropped = Cell::new(0);
        match tokio::time::timeout(timeout, self.codec.closed_by_client(&dropped)).await {
            Ok(()) if closer == Closer::First => self.active.closed_by(Closed::Remote),
            Ok(()) => {}
            Err(_) => self.http.delayed_close(),
        }
        stats.downstream_cx_rx_bytes_total().add(dropped.get());
    }
}

/// The answer to a request that the codec refused; Envoy's body is the reason phrase.
fn bad_request(bad: BadRequest) -> LocalReply {
    let reason = bad.status.canonical_reason().unwrap_or_default();
    LocalReply::new(bad.status, bad.details).body(reason).flag(ResponseFlag::DownstreamProtocolError)
}
