//! State of a server connection and its receiving half.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use http::{Method, StatusCode};
use http_body::Frame;
use nuncio_filter_api::{BodyError, Io, ResponseHead};
use nuncio_telemetry::stats::GaugePart;
use nuncio_telemetry::{Protocol, StreamInfo};
use tokio::io::AsyncWrite;

use super::Readiness;
use crate::h1::chunked::{Chunked, Piece, TrailerLimits};
use crate::h1::decoder::{Decoder, take};
use crate::h1::details::{self, BadRequest, CODEC_ERROR};
use crate::h1::encode::{self, NameCase, ResponseForm};
use crate::h1::head::{Head, HeadLimits, HeadScan, LineEnds};
use crate::h1::reader::Reader;
use crate::h1::request_head::{self, ParsedRequest, RequestFraming, RequestLine, Tunnel};
use crate::h1::settings::ServerSettings;
use crate::h1::write::WriteQueue;

/// Bytes read ahead of a request that nobody pulls, to notice a disconnect (CVE-2020-8661).
const READ_AHEAD: usize = 16 * 1024;
/// Bytes of empty lines before a request line that are ignored (RFC 9112 §2.2).
const MAX_BLANK: usize = 64;

/// Where the receiving half stands.
///
/// ```text
/// Head -> Body -> Done -> Head         a request, with or without body
///          \-> Held -> Raw             an upgrade or CONNECT, once the response accepts it
/// Head, Body -> Fault                  Body, Held, Raw -> Gone
/// ```
#[derive(Debug)]
pub(super) enum Recv {
    Head,
    Body(Decoder),
    /// Bytes for the other protocol wait until it is accepted (CVE-2025-64763, CVE-2026-73548).
    Held,
    Raw,
    Done,
    Fault(BadRequest),
    Gone,
}

/// What the response must know of the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub(super) to_head: bool,
    pub(super) version: Protocol,
    pub(super) keep_alive: bool,
    pub(super) tunnel: Option<Tunnel>,
    header_bytes: u64,
    wire_bytes: u64,
}

impl Current {
    /// No request: what a refused one is answered as.
    const NONE: Self = Self {
        to_head: false,
        version: Protocol::Http11,
        keep_alive: false,
        tunnel: None,
        header_bytes: 0,
        wire_bytes: 0,
    };
}

pub(super) struct Inner {
    io: Io,
    pub(super) settings: Arc<ServerSettings>,
    reader: Reader,
    pub(super) queue: WriteQueue,
    scan: HeadScan,
    /// A head that was read; kept here because handing it up through every poll would copy it each time.
    pub(super) parsed: Option<ParsedRequest>,
    blank: usize,
    recv: Recv,
    /// The client closed its side.
    eof: bool,
    /// The response accepted the tunnel.
    tunnel_accepted: bool,
    /// A response is being written, or one broke off.
    pub(super) busy: bool,
    pub(super) current: Current,
    pub(super) info: Option<Rc<StreamInfo>>,
    /// Who waits for a held body.
    held: Option<Waker>,
    /// Counts requests, so that a body kept beyond its stream reads nothing of the next.
    pub(super) stream: u64,
    /// Bytes of the last read. Envoy: they count as buffered until the next one.
    received: GaugePart,
    /// Bytes that the client has not taken.
    waiting: GaugePart,
}

impl Inner {
    pub(super) fn new(io: Io, settings: Arc<ServerSettings>, initial: BytesMut) -> Self {
        let initially = initial.len();
        let mut inner = Self {
            io,
            settings,
            reader: Reader::with(initial),
            queue: WriteQueue::default(),
            scan: HeadScan::default(),
            parsed: None,
            blank: 0,
            recv: Recv::Head,
            eof: false,
            tunnel_accepted: false,
            busy: false,
            current: Current::NONE,
            info: None,
            held: None,
            stream: 0,
            received: GaugePart::default(),
            waiting: GaugePart::default(),
        };
        inner.note_received(initially);
        inner
    }

    // --- heads ---

    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<Readiness> {
        if self.busy || !self.is_request_complete() {
            // A response broke off, or a body was left unread: what follows is no request.
            return Poll::Ready(Readiness::Closed);
        }
        self.recv = Recv::Head;
        self.info = None;
        self.reader.release();
        loop {
            self.skip_blank_lines();
            if !self.reader.buf.is_empty() || self.blank > MAX_BLANK {
                return Poll::Ready(Readiness::Request);
            }
            if self.eof || ready!(self.poll_read(cx, usize::MAX)) == 0 {
                return Poll::Ready(Readiness::Closed);
            }
        }
    }

    /// Puts the next head into `parsed`; `Ok(false)`: the client closed.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, BadRequest>> {
        self.current = Current::NONE;
        loop {
            self.skip_blank_lines();
            let received = self.reader.buf.len();
            match self.take_head() {
                Ok(true) => return Poll::Ready(Ok(true)),
                Ok(false) => {}
                Err(bad) => {
                    self.give_up(received, Recv::Fault(bad));
                    return Poll::Ready(Err(bad));
                }
            }
            if self.eof || ready!(self.poll_read(cx, usize::MAX)) == 0 {
                self.give_up(received, Recv::Gone);
                return Poll::Ready(Ok(false));
            }
        }
    }

    /// No head will come of the bytes received: they count as those of the request that was none.
    fn give_up(&mut self, received: usize, state: Recv) {
        self.current.wire_bytes = received as u64;
        self.reader.buf.clear();
        self.recv = state;
    }

    fn skip_blank_lines(&mut self) {
        let buf = &mut self.reader.buf;
        if buf.first().is_none_or(|b| *b > b'\r') {
            return;
        }
        while self.scan.first_line == 0 && self.blank <= MAX_BLANK {
            let count = match buf.get(..2).unwrap_or(buf) {
                b"\r\n" => 2,
                [b'\n', ..] => 1,
                _ => return,
            };
            buf.advance(count);
            self.blank += count;
        }
    }

    /// Whether the buffer held a whole head.
    fn take_head(&mut self) -> Result<bool, BadRequest> {
        let buf = &mut self.reader.buf;
        let Some(first) = buf.first() else { return Ok(false) };
        // No method begins so: TLS or another protocol is told at once.
        if self.blank > MAX_BLANK || !(first.is_ascii_graphic() || &buf[..] == b"\r") {
            return Err(CODEC_ERROR);
        }
        let limits = HeadLimits {
            ends: LineEnds::Any,
            max_bytes: self.settings.max_headers_bytes,
            max_count: self.settings.max_headers_count,
        };
        // Envoy: where HTTP/1.0 is accepted, so is HTTP/0.9, whose whole request is a line.
        if self.settings.accept_http_10
            && self.scan.first_line == 0
            && let Some(end) = request_head::simple_request(buf)
            && end <= limits.max_bytes
        {
            let line = buf.split_to(end).freeze();
            return request_head::parse(Head::of_line(&line), &self.settings, &mut self.parsed).map(|()| true);
        }
        let check_line = |line: &[u8]| RequestLine::parse(line, &self.settings).map(drop);
        let parse = |head: Head<'_>| request_head::parse(head, &self.settings, &mut self.parsed);
        let taken = self.scan.take(buf, &limits, check_line, parse)?;
        if taken {
            self.blank = 0;
        }
        Ok(taken)
    }

    /// Begins the stream of a request; whether it has a body object.
    pub(super) fn begin(&mut self, parsed: &ParsedRequest) -> bool {
        let ParsedRequest { incoming, framing, tunnel } = parsed;
        self.stream += 1;
        self.tunnel_accepted = false;
        self.current = Current {
            to_head: incoming.head.method == Method::HEAD,
            version: incoming.head.version,
            keep_alive: incoming.keep_alive,
            tunnel: *tunnel,
            header_bytes: incoming.header_bytes,
            wire_bytes: incoming.wire_bytes,
        };
        self.recv = match framing {
            RequestFraming::Length(length) => Recv::Body(Decoder::Length(*length)),
            RequestFraming::Chunked => Recv::Body(Decoder::Chunked(Chunked::new(self.trailer_limits()))),
            RequestFraming::None if tunnel.is_some() => Recv::Held,
            RequestFraming::None => Recv::Done,
        };
        !matches!(self.recv, Recv::Done)
    }

    fn trailer_limits(&self) -> TrailerLimits {
        TrailerLimits {
            enabled: self.settings.enable_trailers,
            max_bytes: self.settings.max_headers_bytes,
            max_count: self.settings.max_headers_count,
        }
    }

    pub(super) fn track(&mut self, info: Rc<StreamInfo>) {
        info.header_bytes_received.set(self.current.header_bytes);
        info.wire_bytes_received.set(self.current.wire_bytes);
        self.info = Some(info);
    }

    // --- bodies ---

    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, BodyError>>> {
        loop {
            match &mut self.recv {
                Recv::Head | Recv::Done => return Poll::Ready(None),
                Recv::Fault(bad) => return Poll::Ready(Some(Err(bad.body_error()))),
                Recv::Gone => return Poll::Ready(Some(Err(details::downstream_gone()))),
                Recv::Held => {
                    self.held = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Recv::Raw if !self.reader.buf.is_empty() => {
                    let held = self.reader.buf.len();
                    let data = take(&mut self.reader.buf, held);
                    self.count(data.len() as u64, data.len() as u64);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // Envoy: a client that closes its half of a tunnel has left it.
                Recv::Raw if self.eof => self.recv = Recv::Gone,
                Recv::Raw => {
                    ready!(self.poll_read_body(cx, None));
                }
                Recv::Body(_) => {
                    if let Some(frame) = self.decode() {
                        return Poll::Ready(Some(frame));
                    }
                    let Recv::Body(decoder) = &self.recv else { continue };
                    let expected = decoder.remaining();
                    if self.eof || ready!(self.poll_read_body(cx, expected)) == 0 {
                        self.recv = Recv::Gone;
                    }
                }
            }
        }
    }

    /// The next frame of a framed body in the buffer. `None`: the state changed, or more bytes are needed.
    fn decode(&mut self) -> Option<Result<Frame<bytes::Bytes>, BodyError>> {
        let Recv::Body(decoder) = &mut self.recv else { return None };
        let before = self.reader.buf.len();
        let piece = match decoder.decode(&mut self.reader.buf) {
            Ok(piece) => piece,
            Err(bad) => {
                self.count(0, (before - self.reader.buf.len()) as u64);
                self.recv = Recv::Fault(bad);
                return Some(Err(bad.body_error()));
            }
        };
        if decoder.is_done() {
            self.recv = match (self.current.tunnel, self.tunnel_accepted) {
                (None, _) => Recv::Done,
                (Some(_), false) => Recv::Held,
                (Some(_), true) => Recv::Raw,
            };
        }
        if matches!(self.recv, Recv::Done)
            && let Some(info) = &self.info
        {
            info.times.request_end.set(Some(tokio::time::Instant::now()));
        }
        let wire = (before - self.reader.buf.len()) as u64;
        let (frame, data) = match piece {
            Some(Piece::Data(data)) => {
                let len = data.len() as u64;
                (Some(Ok(Frame::data(data))), len)
            }
            Some(Piece::Trailers(trailers)) => (Some(Ok(Frame::trailers(trailers))), 0),
            Some(Piece::End) | None => (None, 0),
        };
        self.count(data, wire);
        frame
    }

    fn count(&self, data: u64, wire: u64) {
        if let Some(info) = &self.info {
            info.bytes_received.set(info.bytes_received.get() + data);
            info.wire_bytes_received.set(info.wire_bytes_received.get() + wire);
        }
    }

    pub(super) fn is_body_end(&self) -> bool {
        matches!(self.recv, Recv::Head | Recv::Done)
    }

    pub(super) fn body_remaining(&self) -> Option<u64> {
        match &self.recv {
            Recv::Body(decoder) if self.current.tunnel.is_none() => decoder.remaining(),
            Recv::Head | Recv::Done => Some(0),
            _ => None,
        }
    }

    pub(super) fn is_request_complete(&self) -> bool {
        matches!(self.recv, Recv::Head | Recv::Done)
    }

    pub(super) fn fault(&self) -> Option<BadRequest> {
        match self.recv {
            Recv::Fault(bad) => Some(bad),
            _ => None,
        }
    }

    /// Lets the bytes behind the request flow.
    pub(super) fn accept_tunnel(&mut self) {
        self.tunnel_accepted = true;
        if matches!(self.recv, Recv::Held) {
            self.recv = Recv::Raw;
        }
        if let Some(waker) = self.held.take() {
            waker.wake();
        }
    }

    // --- transport ---

    /// Reads through the scratch buffer. 0: the client is gone, whether in order or not.
    fn poll_read(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<usize> {
        let read = ready!(self.reader.poll_read(&mut self.io, cx, limit)).unwrap_or(0);
        self.eof = read == 0;
        self.note_received(read);
        Poll::Ready(read)
    }

    fn poll_read_body(&mut self, cx: &mut Context<'_>, expected: Option<u64>) -> Poll<usize> {
        let read = ready!(self.reader.poll_read_body(&mut self.io, cx, expected)).unwrap_or(0);
        self.eof = read == 0;
        self.note_received(read);
        Poll::Ready(read)
    }

    pub(super) fn poll_disconnected(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.tunnel_accepted {
                return Poll::Pending;
            }
            if self.eof {
                return Poll::Ready(());
            }
            let room = READ_AHEAD.saturating_sub(self.reader.buf.len());
            if room == 0 {
                return self.io.poll_closed(cx);
            }
            ready!(self.poll_read(cx, room));
        }
    }

    pub(super) fn poll_discard(&mut self, dropped: &Cell<u64>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            dropped.set(dropped.get() + self.reader.buf.len() as u64);
            self.reader.buf.clear();
            if self.eof {
                return Poll::Ready(());
            }
            ready!(self.poll_read(cx, usize::MAX));
        }
    }

    pub(super) fn queue_informational(&mut self, head: &ResponseHead) {
        let sendable = head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS;
        if !sendable || self.current.version == Protocol::Http10 || self.queue.is_full() {
            return;
        }
        let form = ResponseForm {
            case: NameCase { format: self.settings.header_format, original: None },
            version: self.current.version,
            to_head: false,
            to_connect: false,
            connection: None,
            without_body: true,
        };
        let (_, size) = self.queue.encode(|out| encode::response_head(head, &form, out));
        if let Some(info) = &self.info {
            info.wire_bytes_sent.set(info.wire_bytes_sent.get() + size.wire);
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.queue.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let written = self.queue.poll_write(&mut self.io, cx);
        if let Some(stats) = &self.settings.stats {
            self.waiting.set(stats.downstream_cx_tx_bytes_buffered(), self.queue.len());
        }
        written
    }

    fn note_received(&mut self, read: usize) {
        if let Some(stats) = &self.settings.stats {
            self.received.set(stats.downstream_cx_rx_bytes_buffered(), read);
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Makes the client see that what it has is not all, where closing would look like an end.
    pub(super) fn reset(&mut self) {
        self.io.reset_on_drop();
    }

    #[cfg(test)]
    pub(in crate::h1) fn holds_no_memory(&self) -> bool {
        self.reader.buf.capacity() == 0 && self.queue.holds_no_memory()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.note_received(0);
        if let Some(stats) = &self.settings.stats {
            self.waiting.set(stats.downstream_cx_tx_bytes_buffered(), 0);
        }
    }
}
