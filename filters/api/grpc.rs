//! Calls of gRPC services through clusters (gRPC over HTTP/2, PROTOCOL-HTTP2.md of gRPC).

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::{Body as HttpBody, Frame};
use nuncio_telemetry::stats::{CounterHandle, Scope};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::{Body, BodyError, ByteStr, ClusterName, Request, RequestHead, Response, Scheme, UpstreamError, Upstreams};

/// Bytes before each message: a flag for compression, and its length.
const PREFIX: usize = 5;
/// Messages that may wait for the connection to take them.
const OUTBOX: usize = 4;

/// Where a call goes and what goes with it.
#[derive(Clone, Debug)]
pub struct GrpcTarget {
    /// The cluster whose hosts offer the service.
    pub cluster: ClusterName,
    /// `:authority`
    pub authority: ByteStr,
    /// `initial_metadata`, lowered.
    pub metadata: Vec<(HeaderName, HeaderValue)>,
    /// Bytes that a message of the server may have; one that has more ends the call with RESOURCE_EXHAUSTED.
    pub max_message: usize,
    /// Where the service is at an address of its own: `cluster` stands for it, for as long as this is held.
    pub own: Option<Arc<dyn OwnCalls>>,
}

/// Told of the calls of a service at an address of its own, which is there for as long as somebody holds this.
pub trait OwnCalls: std::fmt::Debug + Send + Sync {
    /// A call begins.
    fn note_begin(&self);
    /// A call has ended.
    fn note_end(&self, status: &Status);
}

/// A service at an address of its own, rather than at the hosts of a cluster (`google_grpc`).
#[derive(Debug)]
pub struct OwnService {
    /// What is counted of calls.
    pub stats: OwnServiceStats,
    /// The configuration of the cluster that stands for it, for those who make clusters.
    pub cluster: Box<dyn Any + Send + Sync>,
}

/// `grpc.<stat_prefix>`
#[derive(Debug)]
pub struct OwnServiceStats {
    /// Held, so that it is told.
    _clients: CounterHandle,
    streams_total: CounterHandle,
    /// By the code of the status.
    streams_closed: [CounterHandle; CODES],
}

/// Codes that gRPC knows.
const CODES: usize = 17;

// === impl OwnServiceStats ===

impl OwnServiceStats {
    /// Of a service that is there now.
    pub fn new(scope: &Scope) -> Self {
        let clients = scope.counter("google_grpc_client_creation");
        // Envoy counts each client; here those of one service are one.
        clients.inc();
        Self {
            _clients: clients,
            streams_total: scope.counter("streams_total"),
            streams_closed: std::array::from_fn(|code| scope.counter(&format!("streams_closed_{code}"))),
        }
    }
}

impl OwnCalls for OwnService {
    fn note_begin(&self) {
        self.stats.streams_total.inc();
    }

    fn note_end(&self, status: &Status) {
        if let Some(closed) =
            usize::try_from(status.code() as i32).ok().and_then(|code| self.stats.streams_closed.get(code))
        {
            closed.inc();
        }
    }
}

/// A message as gRPC frames it, not compressed.
pub fn grpc_frame(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + message.len());
    bytes.put_u8(0);
    // Longer messages than 4 GiB cannot be told, and are not made.
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(message);
    bytes.freeze()
}

/// A call whose both sides may send any number of messages. Dropping it cancels the call.
pub struct GrpcStream {
    state: State,
    /// What is here of the messages that are not complete.
    received: BytesMut,
    max_message: usize,
    own: Option<Arc<dyn OwnCalls>>,
}

/// The end of a call that sends. Dropping it tells the server that no more messages follow.
pub type GrpcSender = mpsc::Sender<Bytes>;

enum State {
    Opening(LocalBoxFuture<'static, Result<Response, UpstreamError>>),
    Open(Body),
    Ended(Status),
}

impl GrpcStream {
    /// Calls `path` (`/package.Service/Method`). Messages can be sent at once, framed by [`grpc_frame`]; what becomes
    /// of the call is known from [`Self::next`].
    pub fn open(upstreams: &dyn Upstreams, target: &GrpcTarget, path: ByteStr) -> (GrpcSender, Self) {
        let (sender, receiver) = mpsc::channel(OUTBOX);
        let mut head = RequestHead::new(Method::POST, Scheme::Http, target.authority.clone(), path);
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
        for (name, value) in &target.metadata {
            head.headers.append(name, value.clone());
        }
        let request = Request { head, body: Body::stream(Outbox(receiver)) };
        let opening = upstreams.send(&target.cluster, request);
        let state = State::Opening(opening);
        let (max_message, own) = (target.max_message, target.own.clone());
        own.iter().for_each(|own| own.note_begin());
        (sender, Self { state, received: BytesMut::new(), max_message, own })
    }

    /// The next message of the server, or the status with which the call ended. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Bytes, Status> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// See [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        let ended = match ready!(self.poll_message(cx)) {
            Ok(message) => return Poll::Ready(Ok(message)),
            Err(status) => status,
        };
        if !matches!(self.state, State::Ended(_)) {
            self.own.iter().for_each(|own| own.note_end(&ended));
        }
        self.state = State::Ended(ended.clone());
        Poll::Ready(Err(ended))
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        loop {
            if let Some(message) = self.take_message()? {
                return Poll::Ready(Ok(message));
            }
            match &mut self.state {
                State::Ended(status) => return Poll::Ready(Err(status.clone())),
                State::Opening(opening) => {
                    let opened = ready!(Pin::new(opening).poll(cx));
                    let failed = |error: UpstreamError| match self.own {
                        None => Status::unavailable(error.to_string()),
                        // Envoy's other library: a call that did not get as far as its server.
                        Some(_) => Status::internal(error.to_string()),
                    };
                    let Response { head, body, .. } = opened.map_err(failed)?;
                    check_head(head.status, &head.headers)?;
                    self.state = State::Open(body);
                }
                State::Open(body) => match ready!(body.poll_next(cx)).map(|frame| frame.map(Frame::into_data)) {
                    None => return Poll::Ready(Err(Status::unknown("the server ended the call without a status"))),
                    Some(Err(error)) => return Poll::Ready(Err(Status::unavailable(error.to_string()))),
                    Some(Ok(Ok(data))) => self.received.extend_from_slice(&data),
                    Some(Ok(Err(trailers))) => {
                        let trailers = trailers.into_trailers().unwrap_or_default();
                        return Poll::Ready(Err(status_of(&trailers)));
                    }
                },
            }
        }
    }

    /// A complete message, if there is one.
    fn take_message(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(&[flag, a, b, c, d]) = self.received.first_chunk::<PREFIX>() else { return Ok(None) };
        if flag != 0 {
            return Err(Status::unimplemented("the server compresses, which it was not offered"));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.max_message {
            let reason = format!("a message of {length} bytes is more than the {} that may be", self.max_message);
            return Err(Status::resource_exhausted(reason));
        }
        if self.received.len() - PREFIX < length {
            return Ok(None);
        }
        self.received.advance(PREFIX);
        Ok(Some(self.received.split_to(length).freeze()))
    }
}

/// Whether a call was taken up: else the status is in the head (a response of trailers only), or the server knows no
/// gRPC.
fn check_head(status: StatusCode, headers: &HeaderMap) -> Result<(), Status> {
    if headers.contains_key("grpc-status") {
        return Err(status_of(headers));
    }
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    match status {
        StatusCode::OK if is_grpc => Ok(()),
        _ => Err(Status::new(code_of(status), format!("the server answers with HTTP status {}", status.as_u16()))),
    }
}

fn status_of(headers: &HeaderMap) -> Status {
    Status::from_header_map(headers).unwrap_or_else(|| Status::unknown("the server gave no grpc-status"))
}

/// gRPC's http-grpc-status-mapping.md.
fn code_of(status: StatusCode) -> Code {
    match status {
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// The request's body: messages as they are sent.
struct Outbox(mpsc::Receiver<Bytes>);

impl HttpBody for Outbox {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.poll_recv(cx).map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(frames: Vec<Bytes>, trailers: &[(&'static str, &'static str)], max_message: usize) -> GrpcStream {
        let mut map = HeaderMap::new();
        for (name, value) in trailers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        let body = Body::with_trailers(frames.concat().into(), map);
        GrpcStream { state: State::Open(body), received: BytesMut::new(), max_message, own: None }
    }

    #[tokio::test]
    async fn messages_come_one_by_one_and_then_the_status_for_ever() {
        let frames = vec![grpc_frame(b"one"), grpc_frame(b""), grpc_frame(b"three")];
        let mut stream = stream(frames, &[("grpc-status", "8"), ("grpc-message", "too%20much")], 100);
        for expected in ["one", "", "three"] {
            assert_eq!(stream.next().await.unwrap(), expected);
        }
        for _ in 0..2 {
            let status = stream.next().await.unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too much"));
        }
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_ends_the_call_before_it_is_here() {
        let mut stream = stream(vec![grpc_frame(b"four")], &[], 3);
        assert_eq!(stream.next().await.unwrap_err().code(), Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn a_compressed_message_that_was_not_offered_ends_the_call() {
        let mut stream = stream(vec![Bytes::from_static(&[1, 0, 0, 0, 0])], &[], 3);
        assert_eq!(stream.next().await.unwrap_err().code(), Code::Unimplemented);
    }

    #[test]
    fn a_head_without_grpc_is_a_status_of_its_own() {
        let mut headers = HeaderMap::new();
        assert_eq!(check_head(StatusCode::OK, &headers).unwrap_err().code(), Code::Unknown);
        assert_eq!(check_head(StatusCode::NOT_FOUND, &headers).unwrap_err().code(), Code::Unimplemented);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        assert!(check_head(StatusCode::OK, &headers).is_ok());
        headers.insert("grpc-status", HeaderValue::from_static("16"));
        assert_eq!(check_head(StatusCode::OK, &headers).unwrap_err().code(), Code::Unauthenticated);
    }
}
