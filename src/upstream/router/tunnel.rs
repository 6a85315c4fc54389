//! Upgrades and CONNECT: what the client sends before the host has agreed is held back. A host that refuses would take
//! it for the next request (CVE-2026-73548).

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, StatusCode};
use http_body::{Body as HttpBody, Frame};
use nuncio_config::cluster::UpstreamPool;
use nuncio_config::route::{Forward, ProxyHeader};
use nuncio_filter_api::{Body, BodyError, LocalReply, Request, RequestHead, ResponseHead};
use nuncio_net::{ProxiedEnds, proxy_v1, proxy_v2};
use nuncio_telemetry::{Address, Protocol, StreamInfo};

/// Whether the request asks for a tunnel.
pub(super) fn asks_for_tunnel(head: &RequestHead) -> bool {
    head.protocol.is_some() || head.method == Method::CONNECT
}

/// A tunnel that ends here: the route sends what it carries over a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terminated {
    Tcp,
    Udp,
}

/// Whether the tunnel ends here that the request asks for: the route says so, unless the cluster knows better.
pub(super) fn terminated(head: &RequestHead, forward: &Forward, pool: UpstreamPool) -> Option<Terminated> {
    match pool {
        UpstreamPool::Generic => {}
        UpstreamPool::Http => return None,
        UpstreamPool::Tcp => return Some(Terminated::Tcp),
        UpstreamPool::Udp => return Some(Terminated::Udp),
    }
    match (&head.protocol, &head.method) {
        (None, &Method::CONNECT) => forward.upgrade("connect").filter(|u| u.terminate).map(|_| Terminated::Tcp),
        (None, &Method::POST) => forward.upgrade("connect").filter(|u| u.allow_post).map(|_| Terminated::Tcp),
        (Some(protocol), _) if protocol.eq_ignore_ascii_case("connect-udp") => {
            forward.upgrade("connect-udp").filter(|u| u.terminate).map(|_| Terminated::Udp)
        }
        _ => None,
    }
}

/// Envoy: a host that answers a WebSocket handshake otherwise than by 101 or an error has failed it. Its headers are
/// passed on, and nothing else.
pub(super) fn failed_handshake(
    head: &RequestHead,
    response: &ResponseHead,
    protocol: Option<Protocol>,
) -> Option<LocalReply> {
    let asked = head.protocol.as_ref()?.eq_ignore_ascii_case("websocket");
    let answered = response.status == StatusCode::SWITCHING_PROTOCOLS || response.status.as_u16() >= 400;
    if !asked || answered || protocol == Some(Protocol::Http2) {
        return None;
    }
    let mut reply = LocalReply::new(response.status, "websocket_handshake_unsuccessful");
    reply.headers = response.headers.clone();
    reply.headers.remove(CONTENT_LENGTH);
    reply.headers.remove(CONTENT_TYPE);
    Some(reply)
}

/// Holds the body of a tunnel's request back until its gate is opened.
pub(super) fn hold_back(request: &mut Request, terminated: Option<Terminated>) -> Gate {
    // What a datagram socket is sent is never taken for a request.
    if !asks_for_tunnel(&request.head) || terminated == Some(Terminated::Udp) {
        return Gate(None);
    }
    let is_open = Rc::new(Cell::new(false));
    let held = is_open.clone();
    request.wrap_body(|body| Body::stream(Held { body, is_open: held }));
    Gate(Some(is_open))
}

/// The payload of a terminated tunnel, and before it what the host is to be told of the client, if the route says so.
pub(super) fn introduced(body: Body, forward: &Forward, info: &StreamInfo) -> Body {
    let Some(version) = forward.upgrade("connect").and_then(|upgrade| upgrade.proxy_header) else { return body };
    let ends = match (&info.connection.remote, &info.connection.local) {
        (Address::Ip(source), Address::Ip(destination)) => {
            Some(ProxiedEnds { source: *source, destination: *destination })
        }
        _ => None,
    };
    let header = match version {
        ProxyHeader::V1 => proxy_v1(ends),
        ProxyHeader::V2 => proxy_v2(ends, &[]),
    };
    info.upstream.borrow_mut().header_bytes_sent += header.len() as u64;
    Body::stream(Introduced { header: Some(header.into()), body })
}

/// The gate before a body.
pub(super) struct Gate(Option<Rc<Cell<bool>>>);

struct Held {
    body: Body,
    is_open: Rc<Cell<bool>>,
}

struct Introduced {
    header: Option<Bytes>,
    body: Body,
}

// === impl Gate ===

impl Gate {
    /// Opens if `status` says that the tunnel is there. Whoever reads the response also sends the request, and so
    /// looks at the gate anew without being woken.
    pub(super) fn open_if_granted(&self, head: &RequestHead, status: StatusCode) {
        let is_granted = match head.protocol {
            Some(_) => status == StatusCode::SWITCHING_PROTOCOLS,
            None => status.is_success(),
        };
        if let Some(is_open) = &self.0 {
            is_open.set(is_granted);
        }
    }
}

// === impl Held ===

impl HttpBody for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_open.get() { self.body.poll_next(cx) } else { Poll::Pending }
    }
}

// === impl Introduced ===

impl HttpBody for Introduced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.header.take() {
            Some(header) => Poll::Ready(Some(Ok(Frame::data(header)))),
            None => self.body.poll_next(cx),
        }
    }
}
