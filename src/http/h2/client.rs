//! The client side of an HTTP/2 connection: exchanges that run beside each other on one connection.
//!
//! As on HTTP/1, an exchange is one future: whoever pulls the response body also drives what is left of the request.
//! Dropping the exchange or its response body resets the stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use http::header::{CONNECTION, TE, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_config::protocol::{CommonOptions, Http2Options};
use nuncio_filter_api::{Body, BodyError, ByteStr, Io, RequestHead, Response, ResponseHead};
use nuncio_telemetry::{ResponseFlag, StreamInfo};
use tokio::time::Instant;

use super::body::{BodyEvents, H2Body};
use super::upload::Upload;
use crate::h1::{ExchangeError, ExchangeFailure, RequestSent};

/// Bytes of one stream that may wait for the peer's window before its body is no longer pulled.
const SEND_BUFFER: usize = 64 * 1024;

/// One HTTP/2 connection to an upstream; clones share it.
#[derive(Clone)]
pub struct H2Client {
    send: SendRequest<Bytes>,
    limits: ResponseLimits,
    /// What of one request may wait for the peer's window.
    buffer_limit: usize,
}

/// How large the head of a response may be.
#[derive(Clone, Copy, Debug)]
pub struct ResponseLimits {
    /// Bytes of names and values (`max_response_headers_kb`).
    pub bytes: usize,
    /// Fields (`max_headers_count`).
    pub count: usize,
}

impl From<&CommonOptions> for ResponseLimits {
    fn from(options: &CommonOptions) -> Self {
        /// Envoy's limit of a response's headers.
        const DEFAULT_BYTES: usize = 60 * 1024;
        Self { bytes: options.max_response_headers.unwrap_or(DEFAULT_BYTES), count: options.max_headers_count }
    }
}

impl Default for ResponseLimits {
    fn default() -> Self {
        (&CommonOptions::default()).into()
    }
}

impl ResponseLimits {
    /// What the h2 crate is to decode before it gives up. It does not tell why it does: what is beyond a limit by less
    /// than this is found here.
    fn decoded(self) -> u32 {
        const MORE: usize = 64 * 1024;
        u32::try_from(self.bytes.saturating_mul(2).saturating_add(MORE)).unwrap_or(u32::MAX)
    }

    /// Why Envoy's codec would not take this head, if it would not.
    fn fault(self, headers: &HeaderMap) -> Option<ExchangeFailure> {
        // Envoy: `:status` is one of them, and comes first.
        const STATUS: usize = ":status200".len();
        if headers.len() + 1 > self.count {
            return Some(ExchangeFailure::TooManyHeaders);
        }
        let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        (bytes + STATUS > self.bytes).then_some(ExchangeFailure::HeadersTooLarge)
    }
}

/// Drives a connection: to be polled by a task of its own until it ends.
pub type Driver = Connection<Io, Bytes>;

impl H2Client {
    /// Begins a connection over `io`. `buffer_limit` is in bytes: what of one request may wait for the peer's window
    /// (`per_connection_buffer_limit_bytes`).
    pub async fn handshake(
        io: Io,
        options: &Http2Options,
        limits: ResponseLimits,
        buffer_limit: usize,
    ) -> Result<(Self, Driver), h2::Error> {
        let mut builder = Builder::new();
        builder
            .initial_window_size(options.initial_stream_window_size)
            .initial_connection_window_size(options.initial_connection_window_size)
            .header_table_size(options.hpack_table_size)
            .max_header_list_size(limits.decoded())
            .max_send_buffer_size(SEND_BUFFER.min(buffer_limit))
            .enable_push(false);
        let (send, driver) = builder.handshake(io).await?;
        Ok((Self { send, limits, buffer_limit }, driver))
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
        let Self { mut send, limits, buffer_limit } = self.clone();
        async move {
            if let Err(error) = poll_fn(|cx| send.poll_ready(cx)).await {
                return Err(unsent(failure(&error), body));
            }
            let Some(request) = request else {
                return Err(unsent(ExchangeFailure::Protocol("the target cannot be written in HTTP/2"), body));
            };
            let end = body.is_end();
            let (response, stream) = match send.send_request(request, end) {
                Ok(begun) => begun,
                Err(error) => return Err(unsent(failure(&error), body)),
            };
            drop(send);
            if let (Some(info), true) = (&info, end) {
                info.times.upstream_request_end.set(info.times.upstream_request_start.get());
            }
            let upload = Upload::new(stream, body, end, info.clone(), buffer_limit);
            Exchange { response, upload, limits, info, upgrade, informational, had_interim: false }.run().await
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

fn failure(error: &h2::Error) -> ExchangeFailure {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_remote() => ExchangeFailure::Refused,
        _ if error.is_reset() && error.is_remote() => ExchangeFailure::Reset,
        // What we found wrong ourselves: the peer's bytes are no HTTP/2.
        _ if error.is_library() => ExchangeFailure::Protocol("http2 protocol error"),
        _ if error.is_go_away() && error.is_remote() => ExchangeFailure::GoneAway,
        _ if error.is_go_away() || error.is_io() => ExchangeFailure::Closed,
        Some(Reason::PROTOCOL_ERROR) => ExchangeFailure::Protocol("http2 protocol error"),
        _ => ExchangeFailure::Closed,
    }
}

struct Exchange {
    response: ResponseFuture,
    upload: Upload,
    limits: ResponseLimits,
    info: Option<Rc<StreamInfo>>,
    /// The protocol asked for by an extended CONNECT.
    upgrade: Option<ByteStr>,
    informational: Option<Rc<dyn Fn(ResponseHead)>>,
    /// An interim response has come.
    had_interim: bool,
}

impl Exchange {
    async fn run(mut self) -> Result<Response, ExchangeError> {
        let answered = poll_fn(|cx| {
            if let Err(error) = self.upload.advance(cx) {
                return Poll::Ready(Err(ExchangeFailure::RequestBody(error)));
            }
            self.pass_informational(cx);
            Pin::new(&mut self.response).poll(cx).map_err(|e| failure(&e))
        })
        .await;
        let answered = answered.and_then(|response| match self.limits.fault(response.headers()) {
            None => Ok(response),
            Some(fault) => {
                self.upload.reset(Reason::INTERNAL_ERROR);
                Err(fault)
            }
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

    /// Notes the interim responses that are here, and passes them on.
    fn pass_informational(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(Ok(response))) = self.response.poll_informational(cx) {
            let (parts, ()) = response.into_parts();
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
    }

    fn respond(self, response: http::Response<h2::RecvStream>) -> Response {
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
        let body = H2Body::new(stream, length, ResponseEvents(self.info));
        Response { head, body: Body::stream(ResponseBody { body, upload: self.upload }) }
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
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

struct ResponseBody {
    body: H2Body<ResponseEvents>,
    upload: Upload,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Err(error) = this.upload.advance(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response body, as its stream sees it.
struct ResponseEvents(Option<Rc<StreamInfo>>);

impl BodyEvents for ResponseEvents {
    fn data(&self, len: usize) {
        if let Some(info) = &self.0 {
            info.upstream.borrow_mut().wire_bytes_received += len as u64;
        }
    }

    fn ended(&self) {
        if let Some(info) = &self.0 {
            info.times.upstream_response_end.set(Some(Instant::now()));
        }
    }

    fn error(&self, error: &h2::Error) -> BodyError {
        let (flag, reason) = match failure(error) {
            ExchangeFailure::Reset | ExchangeFailure::Refused | ExchangeFailure::GoneAway => {
                (ResponseFlag::UpstreamRemoteReset, "remote reset")
            }
            ExchangeFailure::Protocol(_) => (ResponseFlag::UpstreamProtocolError, "protocol error"),
            _ => (ResponseFlag::UpstreamConnectionTermination, "connection termination"),
        };
        BodyError::new(flag, format!("upstream_reset_after_response_started{{{reason}}}"))
    }
}
