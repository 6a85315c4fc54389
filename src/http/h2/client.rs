//! The client side of an HTTP/2 connection: exchanges that run beside each other on one connection.
//!
//! As on HTTP/1, an exchange is one future: whoever pulls the response body also drives what is left of the request.
//! Dropping the exchange or its response body resets the stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{PingPong, Reason, RecvStream};
use http::header::{CONNECTION, CONTENT_LENGTH, TE, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use nuncio_config::protocol::Http2Options;
use nuncio_filter_api::{Body, ByteStr, Io, RequestHead, Response, ResponseHead};
use nuncio_telemetry::StreamInfo;
use nuncio_telemetry::stats::catalogue::Http2Stats;

use super::body::H2Body;
use super::counts::Limits;
use super::faults::{Faults, is_senseless};
use super::host_meter::HostMeter;
pub use super::limits::ResponseLimits;
use super::limits::STATUS;
use super::response::{ResponseBody, ResponseEvents};
use super::settings::{FurtherSettings, PREFACE};
use super::upload::Upload;
use super::weights::{request_size, response_size};
use crate::h1::{ExchangeError, ExchangeFailure, RequestSent};

/// Bytes of one stream that may wait for the peer's window before its body is no longer pulled.
const SEND_BUFFER: usize = 64 * 1024;

/// RFC 8441 §3.
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// One HTTP/2 connection to an upstream; clones share it.
#[derive(Clone)]
pub struct H2Client {
    send: SendRequest<Bytes>,
    faults: Rc<Faults>,
    limits: ResponseLimits,
    /// What of one request may wait for the peer's window.
    buffer_limit: usize,
}

/// Drives a connection: to be polled by a task of its own until it ends.
pub struct Driver {
    connection: Connection<HostMeter, Bytes>,
    faults: Rc<Faults>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A message of the peer was malformed.
    #[error("malformed http2 message")]
    Malformed,
    /// What the h2 crate has found, or was told.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl DriverError {
    /// Whether the peer is to blame, and we have ended the connection.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Malformed => true,
            Self::Http2(error) => error.is_library(),
        }
    }

    /// Whether the peer has gone away.
    pub fn is_goodbye(&self) -> bool {
        matches!(self, Self::Http2(error) if error.is_go_away() && error.is_remote())
    }
}

impl Driver {
    /// Sends PINGs; there is one such.
    pub fn ping_pong(&mut self) -> Option<PingPong> {
        self.connection.ping_pong()
    }
}

impl Future for Driver {
    type Output = Result<(), DriverError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.faults.poll_broken(cx).is_ready() {
            return Poll::Ready(Err(DriverError::Malformed));
        }
        match Pin::new(&mut this.connection).poll(cx) {
            Poll::Ready(Err(_)) if this.faults.is_broken() => Poll::Ready(Err(DriverError::Malformed)),
            polled => polled.map_err(DriverError::Http2),
        }
    }
}

impl H2Client {
    /// Begins a connection over `io`. `buffer_limit` is in bytes: what of one request may wait for the peer's window
    /// (`per_connection_buffer_limit_bytes`). `stats` count what goes wrong.
    pub async fn handshake(
        io: Io,
        options: &Http2Options,
        limits: ResponseLimits,
        buffer_limit: usize,
        stats: Option<Http2Stats>,
    ) -> Result<(Self, Driver), h2::Error> {
        let mut builder = Builder::new();
        builder
            .initial_window_size(options.initial_stream_window_size)
            .initial_connection_window_size(options.initial_connection_window_size)
            .header_table_size(options.hpack_table_size)
            .max_header_list_size(limits.decoded())
            .max_send_buffer_size(SEND_BUFFER.min(buffer_limit))
            .enable_push(false);
        if let Some(size) = options.max_frame_size {
            builder.max_frame_size(size);
        }
        let mut further = options.further_settings.to_vec();
        // A client has no use for it. Envoy says it all the same.
        further.extend(options.allow_connect.then_some((ENABLE_CONNECT_PROTOCOL, 1)));
        let io = FurtherSettings::wrap(io, PREFACE, &further);
        let faults = Rc::new(Faults::new(options.spares_connection_of_malformed, stats));
        let io = HostMeter::new(io, Limits::from(options), faults.clone());
        let (send, connection) = builder.handshake(io).await?;
        let driver = Driver { connection, faults: faults.clone() };
        Ok((Self { send, faults, limits, buffer_limit }, driver))
    }

    /// What is found wrong with the connection.
    pub fn faults(&self) -> &Rc<Faults> {
        &self.faults
    }

    /// Streams that the peer lets us have at once (its SETTINGS_MAX_CONCURRENT_STREAMS).
    pub fn max_streams(&self) -> usize {
        self.send.current_max_send_streams()
    }

    /// Whether the peer takes extended CONNECT (RFC 8441).
    pub fn takes_extended_connect(&self) -> bool {
        self.send.is_extended_connect_protocol_enabled()
    }

    /// Ready with `Ok` once another stream can be begun; `Err` once none ever can: the peer has gone away.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.send.poll_ready(cx)
    }

    /// Sends a request and waits for the head of its response; interim responses go to `informational`, if it is there.
    pub fn exchange(
        &self,
        head: &RequestHead,
        body: Body,
        info: Option<Rc<StreamInfo>>,
        informational: Option<Rc<dyn Fn(ResponseHead)>>,
    ) -> impl Future<Output = Result<Response, ExchangeError>> + use<> {
        let request = request(head);
        let upgrade = head.protocol.clone();
        let to_head = head.method == Method::HEAD;
        let Self { mut send, faults, limits, buffer_limit } = self.clone();
        async move {
            if let Err(error) = poll_fn(|cx| send.poll_ready(cx)).await {
                return Err(unsent(faults.failure(&error), body));
            }
            let Some(request) = request else {
                return Err(unsent(ExchangeFailure::Protocol("the target cannot be written in HTTP/2"), body));
            };
            let end = body.is_end();
            let size = info.as_ref().filter(|info| info.is_logged.get()).map(|_| request_size(&request));
            let (response, stream) = match send.send_request(request, end) {
                Ok(begun) => begun,
                Err(error) => return Err(unsent(faults.failure(&error), body)),
            };
            drop(send);
            faults.sent.streams.set(faults.sent.streams.get() + 1);
            if let (Some(info), true) = (&info, end) {
                info.times.upstream_request_end.set(info.times.upstream_request_start.get());
            }
            let upload = Upload::new(stream, body, end, info.clone(), buffer_limit, faults.clone());
            upload.note_fields(size.unwrap_or(0));
            let had_interim = false;
            Exchange { response, upload, faults, limits, info, to_head, upgrade, informational, had_interim }
                .run()
                .await
        }
    }
}

fn unsent(failure: ExchangeFailure, body: Body) -> ExchangeError {
    ExchangeError { failure, response_started: false, sent: RequestSent::Nothing, body: Some(body) }
}

/// The request as the h2 crate writes it; `None` if its target has characters that no URI has.
fn request(head: &RequestHead) -> Option<http::Request<()>> {
    let mut uri = http::uri::Parts::default();
    let tunnel = head.method == Method::CONNECT && head.protocol.is_none();
    if !head.authority.is_empty() {
        uri.authority = Some(Authority::from_maybe_shared(head.authority.bytes().clone()).ok()?);
    }
    if !tunnel {
        uri.scheme = Some(UriScheme::try_from(head.scheme.as_str()).ok()?);
        uri.path_and_query = Some(PathAndQuery::from_maybe_shared(head.path.bytes().clone()).ok()?);
    }
    let mut request = http::Request::new(());
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.method_mut() = head.method.clone();
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = end_to_end(&head.headers);
    if let Some(protocol) = &head.protocol {
        // RFC 8441: what HTTP/1.1 calls an upgrade is an extended CONNECT.
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(h2::ext::Protocol::from(&**protocol));
    }
    Some(request)
}

/// `headers` without those of an HTTP/1 connection, which a host would refuse (RFC 9113 §8.2.2).
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    const HOP_BY_HOP: [&str; 5] = ["connection", "upgrade", "keep-alive", "proxy-connection", "transfer-encoding"];
    let mut headers = headers.clone();
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if headers.get(TE).is_some_and(|te| !te.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        headers.remove(TE);
    }
    headers
}

struct Exchange {
    response: ResponseFuture,
    upload: Upload,
    faults: Rc<Faults>,
    limits: ResponseLimits,
    info: Option<Rc<StreamInfo>>,
    to_head: bool,
    /// The protocol asked for by an extended CONNECT.
    upgrade: Option<ByteStr>,
    informational: Option<Rc<dyn Fn(ResponseHead)>>,
    /// An interim response has come.
    had_interim: bool,
}

impl Exchange {
    async fn run(mut self) -> Result<Response, ExchangeError> {
        let answered = poll_fn(|cx| self.poll_answered(cx)).await;
        let answered = answered.and_then(|response| {
            self.check_limits(response.headers())?;
            self.note_fields(response.headers());
            Ok(response)
        });
        match answered {
            Ok(response) => Ok(self.respond(response)),
            Err(failure) => Err(ExchangeError {
                failure,
                response_started: false,
                sent: self.upload.sent(),
                body: self.upload.into_body(),
            }),
        }
    }

    fn poll_answered(&mut self, cx: &mut Context<'_>) -> Poll<Result<http::Response<RecvStream>, ExchangeFailure>> {
        self.upload.advance(cx).map_err(ExchangeFailure::RequestBody)?;
        self.pass_informational(cx)?;
        Pin::new(&mut self.response).poll(cx).map_err(|error| match is_senseless(&error) {
            true => self.faults.malformed(),
            false => self.faults.failure(&error),
        })
    }

    /// Notes the interim responses that are here, and passes them on.
    fn pass_informational(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeFailure> {
        while let Poll::Ready(Some(Ok(response))) = self.response.poll_informational(cx) {
            let (parts, ()) = response.into_parts();
            self.check_limits(&parts.headers)?;
            self.note_fields(&parts.headers);
            // RFC 9113 §8.6: there is no such thing in HTTP/2.
            if parts.status == StatusCode::SWITCHING_PROTOCOLS {
                self.upload.reset(Reason::PROTOCOL_ERROR);
                return Err(self.faults.malformed());
            }
            // Envoy: of those of one response the first counts, over HTTP/2.
            if let Some(info) = self.info.as_ref().filter(|_| !std::mem::replace(&mut self.had_interim, true)) {
                info.upstream.borrow_mut().note_interim(parts.status.as_u16());
            }
            if let Some(informational) = &self.informational {
                let mut head = ResponseHead::new(parts.status);
                head.headers = parts.headers;
                informational(head);
            }
        }
        Ok(())
    }

    /// Notes the size of the head of a response.
    fn note_fields(&self, headers: &HeaderMap) {
        if let Some(info) = self.info.as_ref().filter(|info| info.is_logged.get()) {
            info.upstream.borrow_mut().decompressed_header_bytes_received += response_size(headers);
        }
    }

    fn check_limits(&mut self, headers: &HeaderMap) -> Result<(), ExchangeFailure> {
        let Some(fault) = self.limits.fault(headers, STATUS) else { return Ok(()) };
        self.upload.reset(Reason::INTERNAL_ERROR);
        Err(self.faults.beyond(fault))
    }

    fn respond(self, response: http::Response<RecvStream>) -> Response {
        let (parts, stream) = response.into_parts();
        let mut head = ResponseHead::new(parts.status);
        head.headers = parts.headers;
        if let Some(protocol) = &self.upgrade {
            switch_protocols(&mut head, protocol);
        }
        if stream.is_end_stream() && self.upload.is_done() {
            return Response { head, body: Body::empty() };
        }
        let length = content_length(&head.headers);
        let events =
            ResponseEvents { info: self.info, faults: self.faults, is_bounded: self.to_head || length.is_some() };
        let body = H2Body::new(stream, length, events);
        let is_forbidden = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = ResponseBody { body, upload: self.upload, limits: self.limits, is_forbidden };
        Response { head, body: Body::stream(body) }
    }
}

/// RFC 8441: what HTTP/2 answers with 200 is the 101 of HTTP/1.1, in which a response is held on its way.
fn switch_protocols(head: &mut ResponseHead, protocol: &ByteStr) {
    if head.status != StatusCode::OK {
        return;
    }
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    if let Ok(protocol) = HeaderValue::from_maybe_shared(protocol.bytes().clone()) {
        head.headers.insert(UPGRADE, protocol);
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
