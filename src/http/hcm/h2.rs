//! A downstream HTTP/2 connection: a task for each stream, so that the panic of one is the end of one.

mod closing;
mod head;
mod interim;
mod keepalive;
mod lost;
mod request_body;
mod response_body;
mod streams;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, Waker, ready};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{Method, StatusCode};
use nuncio_config::protocol::UnderscoresAction;
use nuncio_filter_api::{Body, ByteStr, Io, Reply, RequestHead, ResponseHead, Scheme};
use nuncio_telemetry::{Protocol, ResponseFlag, StreamInfo};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use closing::{close, until};
use head::{host, join_cookies};
use interim::{Interim, send_interim};
use keepalive::KeepaliveState;
use lost::{loss, tells_of_lost_client};
use request_body::{Abandoned, RequestBody};
use response_body::Unsent;
use streams::{Active, Streams};

use super::deadline::{Deadline, Expired};
use super::request_head::has_underscore;
use super::stats::{ActiveConnection, Closed};
use super::stream::{Origin, Stream};
use super::{CLOSED_WHEN_DRAINED, Http};
use crate::h1::is_authority;
use crate::h2::{FloodKind, FrameMeter, FurtherSettings, H2Body, Limits, Metered, request_size, response_size};
use crate::timer::{LazyTimer, earlier};

/// Bytes of one stream that may wait for the peer's window before its body is no longer pulled.
const SEND_BUFFER: usize = 64 * 1024;

/// Bytes of a request that are read and dropped after its response was sent, at most.
const ABANDONED: usize = 256 * 1024;

/// RFC 9113 §6.5.2.
const MAX_CONCURRENT_STREAMS: u16 = 3;

/// Details of a request that breaks the rules of messages.
const MESSAGING: &str = "http2.violation.of.messaging.rule";

/// Serves the connection to its end.
pub(super) async fn serve(http: Rc<Http>, io: Io, active: ActiveConnection) {
    let options = &http.hcm.codec;
    let h2 = &options.http2;
    let metered = Metered::new(!http.hcm.logs.is_empty());
    let stats = &http.hcm.stats;
    let io = FurtherSettings::wrap(io, 0, &h2.further_settings);
    let io = FrameMeter::new(io, Limits::from(h2), metered.clone(), stats.http.clone(), stats.http2.clone());
    // What `custom_settings_parameters` tells the peer is what it is held to.
    let told = h2.further_settings.iter().find(|(id, _)| *id == MAX_CONCURRENT_STREAMS);
    let mut builder = Builder::new();
    builder
        .initial_window_size(h2.initial_stream_window_size)
        .initial_connection_window_size(h2.initial_connection_window_size)
        .max_concurrent_streams(told.map_or(h2.max_concurrent_streams, |(_, streams)| *streams))
        .max_header_list_size(u32::try_from(options.max_request_headers).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER);
    if let Some(size) = h2.max_frame_size {
        builder.max_frame_size(size);
    }
    if h2.allow_connect {
        builder.enable_connect_protocol();
    }
    let age = http.age(active.start());
    let idle = options.common.idle_timeout.map(|idle| Instant::now() + idle);
    let handshake = until(earlier(idle, age), builder.handshake::<_, Bytes>(io)).await;
    if metered.has_begun.get() {
        active.speaks(Protocol::Http2);
    }
    let connection = match handshake {
        Some(Ok(connection)) => connection,
        None => {
            active.closed_by(Closed::Local);
            http.hcm.stats.closed_in_time(&http.connection, age);
            return close(&http, &metered, &active).await;
        }
        Some(Err(error)) if error.is_io() && metered.flood.get().is_none() => return,
        Some(Err(_)) => {
            http.note_protocol_error();
            http.hcm.stats.protocol_error(&metered);
            return close(&http, &metered, &active).await;
        }
    };
    http.connection.protocol.set(Some(Protocol::Http2));
    let server = Rc::new(Server {
        http: http.clone(),
        metered: metered.clone(),
        accepted: Cell::new(0),
        active: Cell::new(0),
        answered: Cell::new(0),
        idle_since: Cell::new(Some(Instant::now())),
        waker: Cell::default(),
    });
    server.clone().run(connection, &active).await;
    server.count_unfinished(&active);
    close(&http, &metered, &active).await;
}

/// What the connection and its streams share.
struct Server {
    http: Rc<Http>,
    metered: Rc<Metered>,
    /// Requests that became streams, all and those under way.
    accepted: Cell<u64>,
    active: Cell<usize>,
    /// Those under way of which only the rest of the request is awaited.
    answered: Cell<usize>,
    idle_since: Cell<Option<Instant>>,
    /// The connection's task, to be told when the last stream ends: its idle time begins then.
    waker: Cell<Option<Waker>>,
}

impl Server {
    async fn run(self: Rc<Self>, mut connection: Connection<FrameMeter, Bytes>, active: &ActiveConnection) {
        let mut streams = Streams::default();
        let mut timer = LazyTimer::default();
        let mut drain = pin!(self.drain());
        let mut draining: Option<Instant> = None;
        let mut keepalive = KeepaliveState::new(self.http.hcm.codec.http2.keepalive, connection.ping_pong());
        let age = self.http.age(active.start());
        loop {
            let next = poll_fn(|cx| {
                self.waker.set(Some(cx.waker().clone()));
                if draining.is_none() && drain.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Drain);
                }
                if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                    return Poll::Ready(Event::Accepted(accepted));
                }
                if keepalive.poll_failed(cx).is_ready() {
                    return Poll::Ready(Event::Dead);
                }
                let late = self.latest_headers();
                let deadline = earlier(self.deadline(age, draining), late);
                let is_late = deadline.is_some() && deadline == late;
                timer.poll_reached(deadline, cx).map(|()| if is_late { Event::Late } else { Event::Drain })
            })
            .await;
            match next {
                Event::Accepted(Some(Ok((request, respond)))) => {
                    streams.push(self.clone().accept(request, respond));
                    if self.http.count_request() && draining.is_none() {
                        draining = Some(Instant::now());
                        connection.graceful_shutdown();
                    }
                }
                Event::Accepted(Some(Err(e))) => return self.failed(&e, active),
                Event::Accepted(None) => return,
                Event::Dead => {
                    self.http.connection.local_close_reason.set(Some("http2_ping_timeout"));
                    self.http.hcm.stats.http2.keepalive_timeout().inc();
                    active.closed_by(Closed::Local);
                    return connection.abrupt_shutdown(Reason::NO_ERROR);
                }
                // What is awaited blocks all other streams too: there is no stream to answer, and none to come.
                Event::Late => {
                    self.metered.flood.set(Some(FloodKind::Late));
                    self.http.hcm.stats.http.downstream_rq_header_timeout().inc();
                    self.http.connection.local_close_reason.set(Some("request_header_timeout"));
                    return active.closed_by(Closed::Local);
                }
                // A connection that drained for as long as it may is closed with what it still carries.
                Event::Drain if draining.is_some() => {
                    self.http.connection.local_close_reason.set(Some(CLOSED_WHEN_DRAINED));
                    return active.closed_by(Closed::Local);
                }
                Event::Drain => {
                    // A listener that drains is no time-out.
                    if !self.http.is_draining() {
                        self.http.hcm.stats.timed_out(age);
                    }
                    draining = Some(Instant::now());
                    connection.graceful_shutdown();
                }
            }
        }
    }

    /// Waits until the listener drains.
    fn drain(self: &Rc<Self>) -> impl Future<Output = ()> + use<> {
        let drain = self.http.drain.clone();
        async move { drain.begun().await }
    }

    /// When the connection is to drain, or where it does, to be closed: the peer has had the drain time to see the
    /// GOAWAY, and no stream is left.
    fn deadline(&self, age: Option<Instant>, draining: Option<Instant>) -> Option<Instant> {
        if let Some(since) = draining {
            return (self.active.get() == 0).then(|| since + self.http.drain_timeout);
        }
        let idle_timeout = self.http.hcm.codec.common.idle_timeout;
        let idle = self.idle_since.get().zip(idle_timeout).map(|(since, t)| since + t);
        earlier(idle, age)
    }

    /// Counts what the end of the connection cuts off, and the heads that the h2 crate refused without telling.
    fn count_unfinished(&self, active: &ActiveConnection) {
        let refused = self.metered.opened.get().saturating_sub(self.accepted.get());
        self.http.hcm.stats.heads_refused(refused);
        if self.active.get() > self.answered.get() || (refused > 0 && active.is_closed_by(Closed::Local)) {
            active.ends_with_requests();
        }
        // What ends the connection is no stream's fault alone.
        let resets = if active.is_closed_by(Closed::Local) { refused.saturating_sub(1) } else { refused };
        self.http.hcm.stats.http2.rx_messaging_error().add(resets);
    }

    /// When a header block that has begun is to have ended.
    fn latest_headers(&self) -> Option<Instant> {
        let since = self.metered.awaited.get()?;
        self.http.hcm.timeouts.of_head().map(|(timeout, _)| since + timeout)
    }

    fn failed(&self, error: &h2::Error, active: &ActiveConnection) {
        if error.is_io() && self.metered.flood.get().is_none() {
            active.closed_by(Closed::Remote);
        } else {
            active.closed_by(Closed::Local);
            self.http.note_protocol_error();
            if self.accepted.get() == 0 {
                // Envoy: nothing that HTTP/2 would allow has come.
                self.http.connection.protocol.set(None);
            }
            self.http.hcm.stats.protocol_error(&self.metered);
        }
    }

    fn accept(self: Rc<Self>, request: http::Request<RecvStream>, respond: SendResponse<Bytes>) -> AbortHandle {
        let active = Active::new(self.clone());
        let http = self.http.clone();
        // Boxed: the runtime moves a task's future several times, and this one is large.
        let mut stream = Box::pin(self.stream(request, respond));
        tokio::task::spawn_local(async move {
            let _active = active;
            poll_fn(|cx| http.worker.clock.turn(|| stream.as_mut().poll(cx))).await;
        })
        .abort_handle()
    }

    async fn stream(self: Rc<Self>, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let http = &self.http;
        let now = http.worker.clock.now();
        let info = Rc::new(StreamInfo::new(http.connection.clone(), now, http.worker.clock.wall(now)));
        info.protocol.set(Some(Protocol::Http2));
        info.times.request_headers_end.set(Some(now));
        let is_sound = head::is_sound(request.method(), request.uri());
        let weights = self.metered.weights.as_ref();
        let followed = weights.map(|weights| weights.follow(respond.stream_id().as_u32(), &info));
        let (head, body, abandoned) = self.read(request, &info);
        let is_head = head.method == Method::HEAD;
        let fault = self.fault(&head, is_sound);
        let mut deadline = Deadline::new(http, &info, LazyTimer::default());
        let origin = Origin { has_host: !head.authority.is_empty(), has_scheme: true, is_known: true };
        let mut stream = Stream::new(http.clone(), head, body, info.clone(), origin);
        if let Some(details) = fault {
            // Envoy: the stream is reset; nothing of it is served.
            stream.downstream_gone(ResponseFlag::DownstreamRemoteReset, details);
            return respond.send_reset(if details == MESSAGING {
                Reason::PROTOCOL_ERROR
            } else {
                Reason::INTERNAL_ERROR
            });
        }
        let interim = self.expectation(&mut stream.request.head, &mut respond);
        if let Some(interim) = interim.clone() {
            stream.set_informational(Rc::new(move |head| interim.set(Some(head))));
        }
        // Each future in a block of its own: their memory is the same, and none is moved.
        let answered = {
            let work = pin!(stream.request_phase());
            guarded(work, &mut respond, &mut deadline, interim.as_deref()).await
        };
        let reply = match answered {
            Ok(reply) if reply.tells_of_lost_client() => {
                return self.gone(&stream, loss(|cx| respond.poll_reset(cx)).await);
            }
            Ok(reply) => reply,
            Err(Stopped::Gone) => return self.gone(&stream, loss(|cx| respond.poll_reset(cx)).await),
            Err(Stopped::Expired(expired)) => self.expired(expired, &info),
        };
        let responded = {
            let work = pin!(stream.respond(reply));
            guarded(work, &mut respond, &mut deadline, interim.as_deref()).await
        };
        let body = match responded {
            Ok(body) => body,
            Err(Stopped::Gone) => return self.gone(&stream, loss(|cx| respond.poll_reset(cx)).await),
            Err(Stopped::Expired(expired)) => stream.respond(self.expired(expired, &info)).await,
        };
        let send = self.send(&mut stream, respond, body, is_head, &mut deadline).await;
        if let Some(followed) = &followed {
            followed.settle().await;
        }
        stream.finish();
        drop(stream);
        if let Some(send) = send {
            self.answered.set(self.answered.get() + 1);
            let goes_on = self.receive_rest(abandoned).await;
            self.answered.set(self.answered.get() - 1);
            if goes_on {
                self.http.hcm.stats.http2.tx_reset().inc();
            }
            // Dropped here and not before: where the request goes on even now, this tells the peer to end it.
            drop(send);
        }
    }

    /// Why Envoy's codec would not take this head, if it would not; counts it.
    fn fault(&self, head: &RequestHead, is_sound: bool) -> Option<&'static str> {
        let (stats, common) = (&self.http.hcm.stats.http2, &self.http.hcm.codec.common);
        if head.headers.len() > common.max_headers_count {
            stats.header_overflow().inc();
            return Some("http2.too_many_headers");
        }
        if common.underscores == UnderscoresAction::RejectRequest && head.headers.keys().any(has_underscore) {
            stats.requests_rejected_with_underscores_in_headers().inc();
            return Some("http2.unexpected_underscore");
        }
        // RFC 9113 §8.3.1 forbids userinfo; all else that HTTP/1 has no host of goes the same way.
        if !is_sound || !is_authority(head.authority.as_bytes()) {
            stats.rx_messaging_error().inc();
            return Some(MESSAGING);
        }
        None
    }

    /// Answers `expect: 100-continue`, or gives the place for the upstream's interim response where it is left to it.
    fn expectation(&self, head: &mut RequestHead, respond: &mut SendResponse<Bytes>) -> Option<Rc<Interim>> {
        if self.http.hcm.head.proxy_100_continue {
            return Some(Rc::default());
        }
        // Envoy: repeated, it is another expectation, which is the upstream's to meet.
        let mut expects = head.headers.get_all(http::header::EXPECT).iter();
        if expects
            .next()
            .filter(|_| expects.next().is_none())
            .is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        {
            head.headers.remove(http::header::EXPECT);
            self.http.hcm.stats.stream_responds(StatusCode::CONTINUE.as_u16());
            send_interim(respond, ResponseHead::new(StatusCode::CONTINUE));
        }
        None
    }

    /// RFC 9113 §8.1: a response that is complete before its request asks for no more of it, by a reset. It is put off
    /// for as long as a connection's close is: most requests end by then, and some clients lose a response to a reset.
    /// Says whether the request goes on even then.
    async fn receive_rest(&self, abandoned: Option<Abandoned>) -> bool {
        let timeout = self.http.hcm.timeouts.delayed_close;
        let Some(mut rest) = abandoned.and_then(|abandoned| abandoned.take()) else { return false };
        if timeout.is_zero() {
            return true;
        }
        let mut dropped = 0;
        let receive = poll_fn(|cx| {
            while dropped < ABANDONED {
                let Some(Ok(data)) = ready!(rest.poll_data(cx)) else { return Poll::Ready(false) };
                dropped += data.len();
                // It fails only if the stream has ended meanwhile, and then there is no window to give back.
                let _ = rest.flow_control().release_capacity(data.len());
            }
            Poll::Ready(true)
        });
        tokio::time::timeout(timeout, receive).await.unwrap_or(true)
    }

    fn expired(&self, expired: Expired, info: &StreamInfo) -> Reply {
        self.http.hcm.stats.expired(expired);
        expired.reply(info.times.request_end.get().is_some()).into()
    }

    fn reset(&self, send: &mut SendStream<Bytes>, reason: Reason) {
        self.http.hcm.stats.http.downstream_rq_tx_reset().inc();
        self.http.hcm.stats.http2.tx_reset().inc();
        send.send_reset(reason);
    }

    /// The head and the body of a request, and where the body's stream goes if nobody wants it.
    fn read(
        &self,
        request: http::Request<RecvStream>,
        info: &Rc<StreamInfo>,
    ) -> (RequestHead, Body, Option<Abandoned>) {
        if self.metered.weights.is_some() {
            info.decompressed_header_bytes_received.set(request_size(&request));
        }
        let (mut parts, stream) = request.into_parts();
        let protocol = parts.extensions.remove::<h2::ext::Protocol>();
        let authority = match parts.uri.authority() {
            Some(authority) => authority.as_str().into(),
            None => host(&parts.headers),
        };
        parts.headers.remove(http::header::HOST);
        let path = parts.uri.path_and_query().map_or(ByteStr::EMPTY, |p| p.as_str().into());
        let scheme = parts.uri.scheme_str().and_then(|s| Scheme::parse(s.as_bytes())).unwrap_or(Scheme::Http);
        let mut head = RequestHead::new(parts.method, scheme, authority, path);
        head.version = Protocol::Http2;
        head.headers = parts.headers;
        if let Some(protocol) = protocol {
            // RFC 8441: an extended CONNECT is what HTTP/1.1 calls an upgrade.
            head.protocol = Some(protocol.as_str().into());
            head.method = Method::GET;
        }
        join_cookies(&mut head.headers);
        if stream.is_end_stream() {
            info.times.request_end.set(Some(info.start));
            return (head, Body::empty(), None);
        }
        let length = head.headers.get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let abandoned = Abandoned::default();
        let events = RequestBody { info: info.clone(), abandoned: abandoned.clone() };
        (head, Body::stream(H2Body::new(stream, length, events)), Some(abandoned))
    }

    /// Sends the response; returns what to hold where the request goes on after it.
    async fn send(
        &self,
        stream: &mut Stream,
        mut respond: SendResponse<Bytes>,
        mut body: Body,
        is_head: bool,
        deadline: &mut Deadline,
    ) -> Option<SendStream<Bytes>> {
        let mut response = http::Response::new(());
        *response.headers_mut() = stream.take_response_headers();
        let info = stream.info();
        let head = stream.response_head();
        *response.status_mut() = head.status;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 8441 §5: HTTP/2 has no 101; what accepts an extended CONNECT is 200.
            *response.status_mut() = StatusCode::OK;
            response.headers_mut().remove(http::header::CONNECTION);
            response.headers_mut().remove(http::header::UPGRADE);
        }
        note_fields(info, || response_size(response.headers()));
        info.times.response_start.set(Some(self.http.worker.clock.now()));
        let end = is_head || body.is_end();
        if info.times.request_end.get().is_none() {
            self.http.hcm.stats.http.downstream_rq_response_before_rq_complete().inc();
        }
        let Ok(mut send) = respond.send_response(response, end) else {
            self.gone(stream, loss(|cx| respond.poll_reset(cx)).await);
            return None;
        };
        if end {
            info.times.response_end.set(info.times.response_start.get());
            return self.ended(stream).then_some(send);
        }
        match self.send_body(&mut send, &mut body, info, deadline).await {
            Ok(()) => {
                info.times.response_end.set(Some(self.http.worker.clock.now()));
                return self.ended(stream).then_some(send);
            }
            Err(Unsent::Upstream(error)) if tells_of_lost_client(&error) => {
                self.gone(stream, loss(|cx| send.poll_reset(cx)).await);
            }
            Err(Unsent::Upstream(error)) => {
                info.flags.set(info.flags.get().union(error.flags));
                info.set_details(error.details);
                // A reset drops what is queued: what was received before goes first, as in Envoy.
                tokio::task::yield_now().await;
                // RFC 9113 §8.5: a tunnel whose other end broke off.
                let is_tunnel = stream.request.head.protocol.is_some() || stream.request.head.method == Method::CONNECT;
                self.reset(&mut send, if is_tunnel { Reason::CONNECT_ERROR } else { Reason::INTERNAL_ERROR });
            }
            Err(Unsent::Downstream) => self.gone(stream, loss(|cx| send.poll_reset(cx)).await),
            Err(Unsent::Expired(expired @ Expired::Flush)) => {
                self.http.hcm.stats.expired(expired);
                send.send_reset(Reason::INTERNAL_ERROR);
            }
            Err(Unsent::Expired(expired)) => {
                self.http.hcm.stats.expired(expired);
                expired.note(info);
                self.reset(&mut send, Reason::NO_ERROR);
            }
        }
        None
    }

    /// The response is complete: whether it is so before its request.
    fn ended(&self, stream: &Stream) -> bool {
        let is_early = stream.info().times.request_end.get().is_none();
        if !is_early {
            stream.completed();
        }
        is_early
    }
}

/// Notes, where it is logged, that the client is sent fields of so many bytes.
fn note_fields(info: &StreamInfo, size: impl FnOnce() -> u64) {
    if info.is_logged.get() {
        let fields = &info.decompressed_header_bytes_sent;
        fields.set(fields.get() + size());
    }
}

enum Event {
    Accepted(Option<Result<(http::Request<RecvStream>, SendResponse<Bytes>), h2::Error>>),
    Drain,
    Dead,
    /// A header block has begun and does not end.
    Late,
}

enum Stopped {
    Gone,
    Expired(Expired),
}

/// Runs `work` unless the client resets the stream or a time-out strikes first.
fn guarded<T>(
    mut work: Pin<&mut impl Future<Output = T>>,
    respond: &mut SendResponse<Bytes>,
    deadline: &mut Deadline,
    interim: Option<&Interim>,
) -> impl Future<Output = Result<T, Stopped>> {
    poll_fn(move |cx| {
        let polled = work.as_mut().poll(cx);
        if let Some(head) = interim.and_then(Cell::take) {
            send_interim(respond, head);
        }
        if let Poll::Ready(done) = polled {
            return Poll::Ready(Ok(done));
        }
        if respond.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Stopped::Gone));
        }
        deadline.poll_expired(cx).map(|e| Err(Stopped::Expired(e)))
    })
}
