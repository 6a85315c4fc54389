//! The bytes of a session as a tunnel through HTTP: a request whose body they are, and a response whose body comes back.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::{Body as HttpBody, Frame};
use nuncio_config::format::{format, formatter};
use nuncio_config::header_rules::{HeaderRules, Side};
use nuncio_config::protocol::any_as;
use nuncio_filter_api::{
    Body, BodyError, Io, LowerCx, Refused, RequestHead, Response, Scheme, Transport, filter_state,
};
use nuncio_http::request_id;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3::RequestIdExtension;
use nuncio_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::TunnelingConfig;
use nuncio_proto::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use nuncio_telemetry::format::{Format, FormatCx, Missing};
use nuncio_telemetry::{FilterState, FilterValue, LifeSpan, Protocol, ResponseFlag, StreamInfo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::attempt::{ActiveRequest, Attempt};
use crate::failure::Failure;
use crate::pool::connection::PoolFailure;

use super::session::Session;

/// `tunneling_config`
pub(super) struct TunnelConfig {
    hostname: Format,
    /// The path of a POST; `None`: it is a CONNECT.
    post_path: Option<String>,
    headers: HeaderRules,
    propagate_headers: bool,
    propagate_trailers: bool,
    request_id: Option<RequestId>,
}

/// Where the number of a request goes.
struct RequestId {
    header: HeaderName,
    key: Arc<str>,
}

/// A tunnel as a byte stream.
struct Tunnel {
    upload: Rc<RefCell<Upload>>,
    response: Body,
    /// What has come and nobody has read yet.
    chunk: Bytes,
    end: Option<Result<(), BodyError>>,
    /// Where trailers go, if anywhere.
    trailers: Option<Rc<StreamInfo>>,
}

/// What waits to be sent.
#[derive(Default)]
struct Upload {
    bytes: BytesMut,
    has_ended: bool,
    /// The request has been told that it has ended.
    is_taken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The body of the request.
struct Uploaded(Rc<RefCell<Upload>>);

/// Bytes that may wait to be sent. Whoever writes them reads no more until they are.
const MOST: usize = 64 << 10;

/// Where filters find what the host answered.
const RESPONSE_HEADERS: &str = "envoy.tcp_proxy.propagate_response_headers";
const RESPONSE_TRAILERS: &str = "envoy.tcp_proxy.propagate_response_trailers";

/// Where logs find the number of the request.
const NAMESPACE: &str = "envoy.filters.network.tcp_proxy";

// === impl TunnelConfig ===

impl TunnelConfig {
    pub(super) fn lower(proto: TunnelingConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let TunnelingConfig {
            hostname,
            use_post,
            headers_to_add,
            propagate_response_headers,
            post_path,
            propagate_response_trailers,
            request_id_extension,
            request_id_header,
            request_id_metadata_key,
            formatters,
        } = proto;
        let hostname = cx.at("hostname", |cx| format(&hostname, cx));
        let headers = HeaderRules::lower_additions(Side::Request, "headers_to_add", headers_to_add, cx);
        let formatters = cx.each("formatters", formatters, formatter);
        if !use_post && !post_path.is_empty() {
            let reason = "Can't set a post path when POST method isn't used";
            return Err(cx.at("post_path", |cx| cx.invalid(reason)));
        }
        let path = if post_path.is_empty() { "/".to_owned() } else { post_path };
        let request_id = match request_id_extension {
            None => Ok(None),
            Some(extension) => RequestId::lower(extension, &request_id_header, &request_id_metadata_key, cx).map(Some),
        };
        formatters?;
        Ok(Self {
            hostname: hostname?,
            post_path: use_post.then_some(path),
            headers: headers?,
            propagate_headers: propagate_response_headers,
            propagate_trailers: propagate_response_trailers,
            request_id: request_id?,
        })
    }

    /// Whether a filter has said that there is to be no tunnel.
    pub(super) fn is_disabled(state: &FilterState) -> bool {
        match state.get(filter_state::TCP_PROXY_DISABLE_TUNNELING) {
            Some(FilterValue::Flag(is_disabled)) => *is_disabled,
            Some(FilterValue::Text(text)) => **text == *"true",
            _ => false,
        }
    }

    fn head(&self, session: &Session, scheme: Scheme) -> RequestHead {
        let now = session.worker.clock.now();
        let cx = FormatCx::new(&session.info, now, session.worker.clock.wall(now));
        let mut authority = Vec::new();
        self.hostname.write(&cx, Missing::Dash, &mut authority);
        let authority = String::from_utf8_lossy(&authority).into_owned();
        let (method, path) = match &self.post_path {
            Some(path) => (Method::POST, path.as_str()),
            None => (Method::CONNECT, ""),
        };
        let mut head = RequestHead::new(method, scheme, authority.into(), path.into());
        if let Some(RequestId { header, key }) = &self.request_id {
            let id = request_id::generate(&session.worker.rng);
            if let Ok(text) = id.to_str() {
                let mut metadata = session.info.connection.metadata.borrow_mut();
                let values = metadata.get_or_insert_default().entry(NAMESPACE.into()).or_default();
                values.insert(key.to_string(), text.into());
            }
            head.headers.insert(header.clone(), id);
        }
        self.headers.apply_own(&mut head.headers, &cx);
        head
    }

    /// Asks the host of `attempt` for a tunnel.
    pub(super) async fn open(&self, session: &Session, attempt: &Attempt<'_>) -> Result<(Io, ActiveRequest), Failure> {
        let is_secure = attempt.host.host.transport().is_some_and(|socket| socket.knows_alpn());
        let head = self.head(session, if is_secure { Scheme::Https } else { Scheme::Http });
        let upload = Rc::new(RefCell::new(Upload::default()));
        let mut body = Body::stream(Uploaded(upload.clone()));
        let asked = attempt.run(&head, &mut body).await;
        // Envoy: for logs there is no HTTP.
        let protocol = session.info.upstream.borrow_mut().protocol.take();
        let answered = asked.inspect_err(|failure| {
            forget_connection(&session.info);
            // An HTTP/2 connection counts what ends it by itself.
            if matches!(failure, Failure::Protocol) && protocol != Some(Protocol::Http2) {
                attempt.host.share.cluster.stats.upstream_cx_protocol_error().inc();
            }
        })?;
        let Response { head, body } = answered.response;
        let is_granted = match protocol {
            // RFC 9110 §9.3.6.
            Some(protocol) if protocol <= Protocol::Http11 => head.status.is_success(),
            _ => head.status == StatusCode::OK,
        };
        if self.propagate_headers {
            propagate(&session.info, RESPONSE_HEADERS, Some(head.status), &head.headers);
        }
        // Envoy: an answer that ends with its head grants nothing either.
        if !is_granted || body.is_end() {
            forget_connection(&session.info);
            let reason = format!("tunnel_response:{}", head.status.as_u16());
            return Err(Failure::Pool(PoolFailure::Remote(reason.into())));
        }
        let trailers = self.propagate_trailers.then(|| session.info.clone());
        let tunnel = Tunnel { upload, response: body, chunk: Bytes::new(), end: None, trailers };
        Ok((Io::new(tunnel), answered.active))
    }
}

/// Envoy: which connection was asked for a tunnel is known to logs only once there is a tunnel, but for its number.
fn forget_connection(info: &StreamInfo) {
    let mut upstream = info.upstream.borrow_mut();
    (upstream.remote, upstream.local, upstream.tls) = (None, None, None);
}

/// Leaves for logs what a host has answered.
pub(crate) fn propagate(info: &StreamInfo, name: &'static str, status: Option<StatusCode>, fields: &HeaderMap) {
    let status = status.map(|status| (":status".into(), status.as_str().into()));
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into();
    let fields = fields.iter().map(|(name, value)| (name.as_str().into(), text(value)));
    let value = FilterValue::Headers(status.into_iter().chain(fields).collect());
    info.filter_state.borrow_mut().set(name, value, LifeSpan::Connection);
}

// === impl RequestId ===

impl RequestId {
    fn lower(extension: RequestIdExtension, header: &str, key: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let RequestIdExtension { typed_config } = extension;
        let known = cx.at("request_id_extension", |cx| {
            cx.at("typed_config", |cx| {
                let any = typed_config.ok_or_else(|| cx.invalid("is required"))?;
                // What they say is of traces, and nobody makes one of a tunnel.
                let UuidRequestIdConfig { pack_trace_reason: _, use_request_id_for_trace_sampling: _ } =
                    any_as(&any, cx)?;
                Ok(())
            })
        });
        let header = if header.is_empty() { "x-request-id" } else { header };
        let header = HeaderName::from_bytes(header.as_bytes())
            .map_err(|_| cx.at("request_id_header", |cx| cx.invalid("is not a valid header name")));
        known?;
        let header = header?;
        Ok(Self { header, key: if key.is_empty() { "tunnel_request_id" } else { key }.into() })
    }
}

// === impl Tunnel ===

/// What breaks off a tunnel, as an error of its bytes. Envoy: a stream that the host resets is a connection that it
/// resets; one that ends with its connection has just ended.
fn broken(error: &BodyError) -> io::Error {
    let kind = match error.flags.has(ResponseFlag::UpstreamRemoteReset) {
        true => io::ErrorKind::ConnectionReset,
        false => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.clone())
}

impl Tunnel {
    /// Sends what waits, and takes in the next piece of the response where there is room for it.
    fn drive(&mut self, cx: &mut Context<'_>) {
        while self.chunk.is_empty() && self.end.is_none() {
            match self.response.poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Ready(Some(Err(error))) => self.end = Some(Err(error)),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.chunk = data,
                    Err(frame) => {
                        if let (Some(info), Ok(trailers)) = (&self.trailers, frame.into_trailers()) {
                            propagate(info, RESPONSE_TRAILERS, None, &trailers);
                        }
                    }
                },
            }
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.drive(cx);
        if self.chunk.is_empty() {
            return match &self.end {
                None => Poll::Pending,
                Some(Ok(())) => Poll::Ready(Ok(())),
                Some(Err(error)) => Poll::Ready(Err(broken(error))),
            };
        }
        let count = self.chunk.len().min(buf.remaining());
        buf.put_slice(&self.chunk[..count]);
        self.chunk.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.drive(cx);
        if let Some(Err(error)) = &self.end {
            return Poll::Ready(Err(broken(error)));
        }
        let count = {
            let mut upload = self.upload.borrow_mut();
            let count = bytes.len().min(MOST.saturating_sub(upload.bytes.len()));
            if count == 0 && !bytes.is_empty() {
                upload.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            upload.bytes.extend_from_slice(&bytes[..count]);
            upload.wake_reader();
            count
        };
        self.drive(cx);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.drive(cx);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        {
            let mut upload = self.upload.borrow_mut();
            upload.has_ended = true;
            upload.wake_reader();
        }
        self.drive(cx);
        let mut upload = self.upload.borrow_mut();
        if upload.is_taken || self.end.is_some() {
            return Poll::Ready(Ok(()));
        }
        upload.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Transport for Tunnel {}

// === impl Upload ===

impl Upload {
    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.bytes.is_empty() && !self.has_ended {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
        if self.bytes.is_empty() {
            self.is_taken = true;
            return Poll::Ready(None);
        }
        Poll::Ready(Some(self.bytes.split().freeze()))
    }
}

impl HttpBody for Uploaded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let bytes = ready!(self.0.borrow_mut().poll_take(cx));
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
