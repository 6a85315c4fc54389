//! Datagrams of a session in the body of a request (RFC 9298): what carries them instead of a socket.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body::{Body as HttpBody, Frame};
use nuncio_config::cluster::Priority;
use nuncio_config::format::format;
use nuncio_config::header_rules::{HeaderRules, Side};
use nuncio_filter_api::{Body, BodyError, LowerCx, Refused, RequestHead, Response, Scheme};
use nuncio_proto::envoy::extensions::filters::udp::udp_proxy::v3::udp_proxy_config::{
    UdpTunnelingConfig, udp_tunneling_config,
};
use nuncio_telemetry::format::{Format, FormatCx, Missing};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use udp_tunneling_config::{BufferOptions, RetryOptions};

use crate::attempt::{ActiveRequest, Answered, Attempt};
use crate::failure::Failure;
use crate::tcp_proxy::{Backoff, propagate};
use crate::worker::WorkerHost;

/// `tunneling_config`
pub(super) struct TunnelConfig {
    proxy_host: Format,
    proxy_port: Option<u16>,
    target_host: Format,
    target_port: u16,
    /// The path of a POST; `None`: it is a CONNECT-UDP.
    post_path: Option<String>,
    headers: HeaderRules,
    /// What may wait until the tunnel is there; `None`: nothing.
    pub(super) buffer: Option<BufferLimits>,
    pub(super) max_attempts: u32,
    pub(super) backoff: Option<Backoff>,
    /// What the host answers is left for logs.
    propagates_headers: bool,
    /// The same of its trailers.
    pub(super) propagates_trailers: bool,
}

/// `buffer_options`
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferLimits {
    datagrams: usize,
    bytes: usize,
}

/// What a session has sent into its tunnel, and the tunnel has not taken yet.
#[derive(Default)]
pub(super) struct Upload {
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// The host has granted the tunnel: before, nothing is sent.
    is_open: bool,
    has_ended: bool,
    reader: Option<Waker>,
}

/// The body of the request.
struct Uploaded(Rc<RefCell<Upload>>);

/// Where logs find what the host answered.
const RESPONSE_HEADERS: &str = "envoy.udp_proxy.propagate_response_headers";
pub(super) const RESPONSE_TRAILERS: &str = "envoy.udp_proxy.propagate_response_trailers";

static CAPSULE_PROTOCOL: HeaderName = HeaderName::from_static("capsule-protocol");

// === impl TunnelConfig ===

impl TunnelConfig {
    pub(super) fn lower(proto: UdpTunnelingConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let UdpTunnelingConfig {
            proxy_host,
            proxy_port,
            target_host,
            default_target_port,
            use_post,
            post_path,
            retry_options,
            headers_to_add,
            buffer_options,
            propagate_response_headers,
            propagate_response_trailers,
        } = proto;
        let proxy_host = cx.at("proxy_host", |cx| format(&proxy_host, cx));
        let target_host = cx.at("target_host", |cx| format(&target_host, cx));
        let headers = HeaderRules::lower_additions(Side::Request, "headers_to_add", headers_to_add, cx);
        let proxy_port = cx.opt("proxy_port", proxy_port, |port, cx| lower_port(port.value, cx));
        let target_port = cx.at("default_target_port", |cx| lower_port(default_target_port, cx));
        let RetryOptions { max_connect_attempts, backoff_options } = retry_options.unwrap_or_default();
        let backoff = cx.at("retry_options", |cx| cx.opt("backoff_options", backoff_options, Backoff::lower));
        if !use_post && !post_path.is_empty() {
            let reason = "Can't set a post path when POST method isn't used";
            return Err(cx.at("post_path", |cx| cx.invalid(reason)));
        }
        let post_path = if post_path.is_empty() { "/".to_owned() } else { post_path };
        Ok(Self {
            proxy_host: proxy_host?,
            proxy_port: proxy_port?,
            target_host: target_host?,
            target_port: target_port?,
            post_path: use_post.then_some(post_path),
            headers: headers?,
            buffer: buffer_options.map(BufferLimits::new),
            max_attempts: max_connect_attempts.map_or(1, |most| most.value),
            backoff: backoff?,
            propagates_headers: propagate_response_headers,
            propagates_trailers: propagate_response_trailers,
        })
    }

    fn head(&self, cx: &FormatCx<'_>, scheme: Scheme) -> RequestHead {
        let mut authority = text(&self.proxy_host, cx);
        if let Some(port) = self.proxy_port {
            authority = format!("{authority}:{port}");
        }
        let (method, path) = match &self.post_path {
            Some(path) => (Method::POST, path.clone()),
            None => {
                let target = text(&self.target_host, cx);
                // RFC 9298 §3: the colons of an IPv6 address are encoded, and what else a path does not have.
                let target = match target.contains(':') {
                    true => utf8_percent_encode(&target, NON_ALPHANUMERIC).to_string(),
                    false => target,
                };
                (Method::CONNECT, format!("/.well-known/masque/udp/{target}/{}/", self.target_port))
            }
        };
        let mut head = RequestHead::new(method, scheme, authority.into(), path.into());
        if self.post_path.is_none() {
            head.protocol = Some("connect-udp".into());
            // HTTP/2 leaves it out; to HTTP/1 it is said in Envoy's words.
            head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            head.headers.insert(&CAPSULE_PROTOCOL, HeaderValue::from_static("?1"));
        }
        self.headers.apply_request(&mut head, cx);
        head
    }

    /// Asks `host` for a tunnel that `upload` goes into.
    pub(super) async fn open(
        &self,
        host: &Rc<WorkerHost>,
        cx: &FormatCx<'_>,
        upload: &Rc<RefCell<Upload>>,
    ) -> Result<(Body, ActiveRequest), Failure> {
        let is_secure = host.host.transport().is_some_and(|socket| socket.knows_alpn());
        let head = self.head(cx, if is_secure { Scheme::Https } else { Scheme::Http });
        let mut body = Body::stream(Uploaded(upload.clone()));
        let attempt = Attempt { host, priority: Priority::Default, info: None, informational: None };
        let Answered { response: Response { head, body }, active } = attempt.run(&head, &mut body).await?;
        if self.propagates_headers {
            propagate(cx.info, RESPONSE_HEADERS, Some(head.status), &head.headers);
        }
        // To an upgrade 101 is the consent, whatever the version of HTTP has instead.
        let consent = if self.post_path.is_some() { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS };
        match head.status == consent {
            true => Ok((body, active)),
            false => Err(Failure::ConnectionTermination),
        }
    }
}

fn text(format: &Format, cx: &FormatCx<'_>) -> String {
    let mut bytes = Vec::new();
    format.write(cx, Missing::Dash, &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lower_port(port: u32, cx: &mut LowerCx<'_>) -> Result<u16, Refused> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(cx.invalid("must be from 1 to 65535")),
    }
}

// === impl BufferLimits ===

impl BufferLimits {
    fn new(options: BufferOptions) -> Self {
        let BufferOptions { max_buffered_datagrams, max_buffered_bytes } = options;
        Self {
            datagrams: max_buffered_datagrams.map_or(1024, |most| most.value as usize),
            bytes: max_buffered_bytes.map_or(16_384, |most| usize::try_from(most.value).unwrap_or(usize::MAX)),
        }
    }
}

impl BufferLimits {
    /// Those of a tunnel that is there, whose connection takes so many bytes.
    pub(super) fn of_open(bytes: usize) -> Self {
        Self { datagrams: usize::MAX, bytes }
    }
}

// === impl Upload ===

impl Upload {
    /// Adds a datagram. False where it is lost: there is no tunnel yet, or it takes no more, and the buffer is full.
    pub(super) fn push(&mut self, datagram: Bytes, limits: BufferLimits) -> bool {
        if self.queue.len() >= limits.datagrams || self.bytes + datagram.len() > limits.bytes {
            return false;
        }
        self.bytes += datagram.len();
        self.queue.push_back(datagram);
        if let Some(reader) = self.reader.take().filter(|_| self.is_open) {
            reader.wake();
        }
        true
    }

    /// Whether what is added is sent as soon as the host takes it.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// The host has granted the tunnel.
    pub(super) fn open(&mut self) {
        self.is_open = true;
        self.wake();
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl HttpBody for Uploaded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut upload = self.0.borrow_mut();
        if upload.is_open
            && let Some(datagram) = upload.queue.pop_front()
        {
            upload.bytes -= datagram.len();
            return Poll::Ready(Some(Ok(Frame::data(datagram))));
        }
        if upload.has_ended {
            return Poll::Ready(None);
        }
        upload.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}
