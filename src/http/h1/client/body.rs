//! The body of a response, which pulls itself out of its exchange.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_filter_api::{Body, BodyError, Response};

use super::exchange::Exchange;
use crate::h1::chunked::{Chunked, Piece, TrailerLimits};
use crate::h1::decoder::{self, Decoder};
use crate::h1::details;
use crate::h1::response_head::ResponseFraming;

/// What comes out of a connection that carries no HTTP: see [`ClientConnection::tunnel`].
pub(super) fn raw(exchange: Box<Exchange>) -> Body {
    Body::stream(ResponseBody { kind: Kind::Raw, ..ResponseBody::new(exchange, Decoder::UntilEof) })
}

/// The response whose head `exchange` has read. What is wholly in the buffer needs no exchange any more: that is
/// completed here.
pub(super) fn response(mut exchange: Box<Exchange>) -> Response {
    let parsed = exchange.parsed.take().expect("poll_head was ready");
    let head = parsed.head;
    exchange.keep_alive = parsed.keep_alive;
    if !parsed.keep_alive
        && parsed.framing != ResponseFraming::Tunnel
        && let Some(on_idle) = &exchange.options.on_idle
    {
        on_idle.on_close_notify();
    }
    let body = match parsed.framing {
        ResponseFraming::None | ResponseFraming::Interim => {
            exchange.complete();
            Body::empty()
        }
        ResponseFraming::Length(length) if length <= exchange.reader.buf.len() as u64 => {
            let data = decoder::take(&mut exchange.reader.buf, length as usize);
            exchange.count(length);
            exchange.complete();
            Body::full(data)
        }
        ResponseFraming::Length(length) => stream(exchange, Decoder::Length(length)),
        ResponseFraming::Chunked => chunked(exchange),
        ResponseFraming::UntilEof => stream(exchange, Decoder::UntilEof),
        ResponseFraming::Tunnel => {
            Body::stream(ResponseBody { kind: Kind::Tunnel, ..ResponseBody::new(exchange, Decoder::UntilEof) })
        }
    };
    Response { head, body }
}

fn stream(exchange: Box<Exchange>, decoder: Decoder) -> Body {
    Body::stream(ResponseBody::new(exchange, decoder))
}

/// A chunked body; one that is a single piece in the buffer is given as such.
fn chunked(exchange: Box<Exchange>) -> Body {
    let decoder = Decoder::Chunked(Chunked::new(trailer_limits(&exchange)));
    let mut body = ResponseBody::new(exchange, decoder);
    body.next = body.decode();
    if matches!(body.next, Some(Ok(Piece::Data(_)))) {
        body.after = body.look_ahead();
    }
    let is_whole = body.exchange.is_none() && body.after.is_none();
    match body.next {
        Some(Ok(Piece::Data(data))) if is_whole => Body::full(data),
        Some(Ok(Piece::End)) => Body::empty(),
        _ => Body::stream(body),
    }
}

fn trailer_limits(exchange: &Exchange) -> TrailerLimits {
    let settings = &exchange.settings;
    TrailerLimits {
        enabled: settings.enable_trailers,
        max_bytes: settings.max_headers_bytes,
        max_count: settings.max_headers_count,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Message,
    /// Bytes of another protocol. Envoy: its end is its breaking off, whatever the host meant by it.
    Tunnel,
    /// Bytes of a connection that never carried HTTP: the host may end them.
    Raw,
}

struct ResponseBody {
    /// `None` once the response has ended.
    exchange: Option<Box<Exchange>>,
    decoder: Decoder,
    kind: Kind,
    /// Decoded already, to be given out next.
    next: Option<Result<Piece, BodyError>>,
    /// Decoded already as well, to be given out then.
    after: Option<Result<Piece, BodyError>>,
}

impl ResponseBody {
    fn new(exchange: Box<Exchange>, decoder: Decoder) -> Self {
        Self { exchange: Some(exchange), decoder, kind: Kind::Message, next: None, after: None }
    }

    /// The next piece in the buffer; what ends the response completes the exchange.
    fn decode(&mut self) -> Option<Result<Piece, BodyError>> {
        let exchange = self.exchange.as_mut()?;
        let before = exchange.reader.buf.len();
        let decoded = self.decoder.decode(&mut exchange.reader.buf);
        let wire = (before - exchange.reader.buf.len()) as u64;
        exchange.count(wire);
        let piece = match decoded {
            Ok(piece) => piece?,
            Err(_) => {
                self.exchange = None;
                return Some(Err(details::upstream_protocol_error()));
            }
        };
        if self.decoder.is_done()
            && let Some(exchange) = self.exchange.take()
        {
            exchange.complete();
        }
        Some(Ok(piece))
    }

    /// Looks whether the end lies behind the last piece, so that its reader learns of it with the piece.
    fn look_ahead(&mut self) -> Option<Result<Piece, BodyError>> {
        match self.decoder {
            Decoder::Chunked(_) => self.decode().filter(|piece| !matches!(piece, Ok(Piece::End))),
            _ => None,
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, BodyError>>> {
        if let Some(next) = self.next.take() {
            self.next = self.after.take();
            return Poll::Ready(Some(next));
        }
        loop {
            let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
            if let Err(error) = exchange.advance(cx) {
                self.exchange = None;
                return Poll::Ready(Some(Err(error)));
            }
            if let Some(piece) = self.decode() {
                return Poll::Ready(Some(piece));
            }
            ready!(self.poll_read(cx))?;
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(Ok(())) };
        let limit = exchange.settings.buffer_limit;
        let expected = match self.decoder.remaining() {
            Some(remaining) => Some(remaining.min(limit as u64)),
            None => (limit < exchange.reader.unknown_read()).then_some(limit as u64),
        };
        let error = match ready!(exchange.reader.poll_read_body(&mut exchange.io, cx, expected)) {
            Ok(0) if self.kind == Kind::Tunnel => details::upstream_gone(),
            Err(_) if self.kind != Kind::Message => details::upstream_gone(),
            Ok(0) if matches!(self.decoder, Decoder::UntilEof) => {
                self.exchange = None;
                return Poll::Ready(Ok(()));
            }
            Ok(0) | Err(_) => details::upstream_protocol_error(),
            Ok(_) => return Poll::Ready(Ok(())),
        };
        self.exchange = None;
        Poll::Ready(Err(error))
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        let piece = match ready!(body.poll_piece(cx)) {
            None | Some(Ok(Piece::End)) => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            Some(Ok(piece)) => piece,
        };
        Poll::Ready(match piece {
            Piece::Data(data) => {
                if body.next.is_none() {
                    body.next = body.look_ahead();
                }
                Some(Ok(Frame::data(data)))
            }
            Piece::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            Piece::End => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none() && self.next.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let held = match &self.next {
            None => Some(0),
            Some(Ok(Piece::Data(data))) if self.after.is_none() => Some(data.len() as u64),
            Some(_) => None,
        };
        match (held, self.decoder.remaining()) {
            (Some(held), Some(left)) => SizeHint::with_exact(left.saturating_add(held)),
            _ => SizeHint::default(),
        }
    }
}
