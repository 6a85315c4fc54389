//! CONNECT-UDP that ends here: the capsules of the request become datagrams to the host, and its datagrams capsules of
//! the response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body::{Body as HttpBody, Frame};
use nuncio_filter_api::{Body, BodyError, Response, ResponseHead};
use nuncio_telemetry::ResponseFlag;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use crate::capsule::{CapsuleError, Capsules, datagram};

/// Bytes of the longest datagram.
const LONGEST: usize = 1 << 16;

static CAPSULE_PROTOCOL: HeaderName = HeaderName::from_static("capsule-protocol");

/// The body of the response. Whoever pulls it also sends what the request brings.
struct Tunnel {
    socket: UdpSocket,
    request: Body,
    capsules: Capsules,
    /// A datagram that the socket has not taken yet.
    waiting: Option<Bytes>,
    request_ended: bool,
    buffer: Box<[u8]>,
}

/// Envoy: to the client the socket is a host that grants its request.
pub(crate) fn respond(socket: UdpSocket, request: Body) -> Response {
    let mut head = ResponseHead::new(StatusCode::OK);
    head.headers.insert(&CAPSULE_PROTOCOL, HeaderValue::from_static("?1"));
    let tunnel = Tunnel {
        socket,
        request,
        capsules: Capsules::default(),
        waiting: None,
        request_ended: false,
        buffer: vec![0; LONGEST].into(),
    };
    Response { head, body: Body::stream(tunnel) }
}

impl Tunnel {
    /// Sends what the request has brought. Pending where there is no more of it now.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        loop {
            if let Some(payload) = &self.waiting {
                // Envoy: a datagram that cannot be sent is lost, as it may be anywhere.
                let _ = ready!(self.socket.poll_send(cx, payload));
                self.waiting = None;
            }
            match self.capsules.next() {
                Ok(Some(payload)) => {
                    self.waiting = Some(payload);
                    continue;
                }
                Ok(None) if self.request_ended => return Poll::Pending,
                Ok(None) => {}
                Err(error) => return Poll::Ready(malformed(error)),
            }
            match ready!(self.request.poll_next(cx)) {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.capsules.push(data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(error),
                None => {
                    self.request_ended = true;
                    if let Err(error) = self.capsules.end() {
                        return Poll::Ready(malformed(error));
                    }
                }
            }
        }
    }

    /// The next datagram of the host.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        loop {
            let mut buffer = ReadBuf::new(&mut self.buffer);
            // An error tells of a datagram that was sent, say that nobody took it: Envoy takes no notice.
            if ready!(self.socket.poll_recv(cx, &mut buffer)).is_ok() {
                return Poll::Ready(datagram(buffer.filled()));
            }
        }
    }
}

fn malformed(error: CapsuleError) -> BodyError {
    let details = format!("upstream_reset_after_response_started{{protocol_error|{error}}}").replace(' ', "_");
    BodyError::new(ResponseFlag::UpstreamProtocolError, details)
}

impl HttpBody for Tunnel {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(error) = this.poll_send(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        this.poll_receive(cx).map(|capsule| Some(Ok(Frame::data(capsule))))
    }
}
