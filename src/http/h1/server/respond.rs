//! The sending half: one response.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use nuncio_filter_api::{Body, BodyError, ByteStr, OriginalResponse, ResponseHead};
use nuncio_telemetry::Protocol;

use super::inner::Inner;
use crate::h1::encode::{self, BodySender, LengthMismatch, NameCase, ResponseForm, SendFraming};
use crate::h1::request_head::Tunnel;
use crate::h1::turn::Turn;

/// Whether a connection is kept for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It is kept if the client and the framing allow.
    KeepAlive,
    /// It is closed, and the response says so.
    Close,
}

/// Why a response was not written to its end. The connection can only be closed.
#[derive(Debug, thiserror::Error)]
pub enum RespondError {
    /// The client is gone.
    #[error("client disconnected: {0}")]
    Disconnected(#[source] io::Error),
    /// The response body broke off after the head was written.
    #[error("response body broke off: {0}")]
    Body(#[source] BodyError),
    /// The body is longer or shorter than its Content-Length.
    #[error("response body does not match its content-length")]
    LengthMismatch,
    /// A 101 to a request that asked for no upgrade (CVE-2024-23326); nothing was written.
    #[error("101 without a request for it")]
    UnexpectedUpgrade,
}

impl From<LengthMismatch> for RespondError {
    fn from(_: LengthMismatch) -> Self {
        Self::LengthMismatch
    }
}

/// A response on its way.
pub struct Sending<'a> {
    inner: &'a RefCell<Inner>,
    body: Body,
    sender: BodySender,
    original: Option<Box<OriginalResponse>>,
    /// Closing would look like the end of the body.
    close_delimited: bool,
    tunnel: bool,
    persistence: Persistence,
    /// The body has been queued to its end, or as far as it came.
    ended: Option<Result<(), RespondError>>,
    /// No more of the body is pulled for now: the client takes no more.
    is_paused: bool,
    /// A piece of the body was taken all the same.
    is_overdrawn: bool,
}

impl Future for Sending<'_> {
    type Output = Result<Persistence, RespondError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_sent(cx)
    }
}

impl<'a> Sending<'a> {
    /// Queues the head.
    pub(super) fn begin(
        inner: &'a RefCell<Inner>,
        head: &ResponseHead,
        mut body: Body,
        persistence: Persistence,
    ) -> Self {
        let mut connection = inner.borrow_mut();
        connection.busy = true;
        let current = connection.current;
        let tunnel = accepts_tunnel(current.tunnel, head.status);
        if head.status == StatusCode::SWITCHING_PROTOCOLS && !tunnel {
            drop(connection);
            return Self::refused(inner, RespondError::UnexpectedUpgrade);
        }
        let without_body = body.is_end();
        let close_delimited = tunnel || (current.version == Protocol::Http10 && !is_delimited(head, without_body));
        let keep = persistence == Persistence::KeepAlive
            && current.keep_alive
            && connection.is_request_complete()
            && (current.to_head || !close_delimited);
        let form = ResponseForm {
            case: NameCase { format: connection.settings.header_format, original: received_names(&head.original) },
            version: current.version,
            to_head: current.to_head,
            to_connect: current.tunnel == Some(Tunnel::Connect),
            connection: match (tunnel, keep, current.version) {
                (true, ..) | (_, true, Protocol::Http11) => None,
                (_, true, _) => Some(b"keep-alive"),
                (_, false, _) => Some(b"close"),
            },
            without_body,
        };
        let (framing, size) = connection.queue.encode(|out| encode::response_head(head, &form, out));
        if tunnel || accepts_capsules(current.tunnel, head) {
            connection.accept_tunnel();
        }
        if let Some(info) = &connection.info {
            info.header_bytes_sent.set(size.fields);
            info.wire_bytes_sent.set(info.wire_bytes_sent.get() + size.wire);
        }
        let trailers = connection.settings.enable_trailers;
        // What is not sent is waited for all the same: its host is not to be told that nobody wants it.
        let has_ended = framing == SendFraming::None && (body.is_end() || body.take_full().is_some());
        Self {
            inner,
            body,
            sender: BodySender::new(framing, trailers),
            original: head.original.clone(),
            close_delimited: framing == SendFraming::Raw,
            tunnel,
            persistence: if keep { Persistence::KeepAlive } else { Persistence::Close },
            ended: has_ended.then_some(Ok(())),
            is_paused: false,
            is_overdrawn: false,
        }
    }

    /// Nothing of the response is queued.
    fn refused(inner: &'a RefCell<Inner>, error: RespondError) -> Self {
        Self {
            inner,
            body: Body::empty(),
            sender: BodySender::new(SendFraming::None, false),
            original: None,
            close_delimited: false,
            tunnel: false,
            persistence: Persistence::Close,
            ended: Some(Err(error)),
            is_paused: false,
            is_overdrawn: false,
        }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<Persistence, RespondError>> {
        let mut turn = Turn::default();
        loop {
            let pulled = self.pull(cx);
            let mut connection = self.inner.borrow_mut();
            if connection.queue.is_empty() {
                if let Some(ended) = self.ended.take() {
                    return Poll::Ready(self.finish(&mut connection, ended));
                }
                // Nothing to write: while the body is waited for, the client may leave.
                ready!(connection.poll_disconnected(cx));
                return Poll::Ready(Err(RespondError::Disconnected(io::ErrorKind::ConnectionReset.into())));
            }
            let queued = connection.queue.len();
            if let Poll::Ready(flushed) = connection.poll_flush(cx) {
                flushed.map_err(RespondError::Disconnected)?;
                if std::mem::take(&mut self.is_paused) {
                    connection.info.iter().for_each(|info| info.resume_response());
                }
                if self.ended.is_none() && turn.is_over(queued, cx) {
                    return Poll::Pending;
                }
                continue;
            }
            if self.ended.is_none() && pulled.is_ready() {
                // A part of it was written: whoever waits for the client waits with a full queue, or for the body too.
                if !connection.queue.is_full() {
                    continue;
                }
                self.pause(&connection);
                // The record tells the body that it is paused: without one it would go on.
                if connection.info.is_some() {
                    drop(connection);
                    self.look_at_paused(cx)?;
                    connection = self.inner.borrow_mut();
                }
            }
            // A client that takes nothing may have left as well: no write would tell of its orderly end.
            ready!(connection.poll_disconnected(cx));
            return Poll::Ready(Err(RespondError::Disconnected(io::ErrorKind::ConnectionReset.into())));
        }
    }

    /// Takes from the body what is there, up to what the queue should hold. Pending where the body has no more for now.
    fn pull(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.ended.is_none() && self.has_room() {
            // Not borrowed here: the body may pull the request through this connection.
            let polled = ready!(self.body.poll_next(cx));
            self.take(polled);
        }
        Poll::Ready(())
    }

    fn has_room(&mut self) -> bool {
        let connection = self.inner.borrow();
        let has_room = !connection.queue.is_full();
        if has_room && self.is_paused {
            connection.info.iter().for_each(|info| info.is_response_paused.set(false));
            self.is_overdrawn = false;
        }
        has_room
    }

    fn pause(&mut self, connection: &Inner) {
        let is_first = !std::mem::replace(&mut self.is_paused, true);
        if let Some(info) = &connection.info {
            match is_first {
                true => info.pause_response(),
                false => info.is_response_paused.set(true),
            }
        }
    }

    /// Lets the body end while the client takes nothing: what has time-outs of its own gives out nothing else then.
    /// From any other body one piece is taken at most.
    fn look_at_paused(&mut self, cx: &mut Context<'_>) -> Result<(), RespondError> {
        if self.is_overdrawn {
            return Ok(());
        }
        let Poll::Ready(polled) = self.body.poll_next(cx) else { return Ok(()) };
        self.is_overdrawn = true;
        self.take(polled);
        match self.ended.take_if(|ended| ended.is_err()) {
            // What is queued is given up: nobody knows when it would be written.
            Some(ended) => self.finish(&mut self.inner.borrow_mut(), ended).map(drop),
            None => Ok(()),
        }
    }

    fn take(&mut self, polled: Option<Result<Frame<Bytes>, BodyError>>) {
        self.ended = match polled {
            None => Some(self.end(None)),
            Some(Err(error)) => Some(Err(RespondError::Body(error))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.data(data),
                Err(frame) => Some(self.end(frame.into_trailers().ok().as_ref())),
            },
        };
    }

    fn data(&mut self, data: Bytes) -> Option<Result<(), RespondError>> {
        let len = if self.sender.is_silent() { 0 } else { data.len() as u64 };
        let mut connection = self.inner.borrow_mut();
        let wire = match self.sender.data(data, &mut connection.queue) {
            Ok(wire) => wire,
            Err(mismatch) => return Some(Err(mismatch.into())),
        };
        if let Some(info) = &connection.info {
            info.bytes_sent.set(info.bytes_sent.get() + len);
            info.wire_bytes_sent.set(info.wire_bytes_sent.get() + wire);
        }
        drop(connection);
        if self.body.is_end() { Some(self.end(None)) } else { None }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), RespondError> {
        let mut connection = self.inner.borrow_mut();
        let format = connection.settings.header_format;
        let case = NameCase { format, original: received_names(&self.original) };
        let wire = self.sender.end(trailers, case, &mut connection.queue)?;
        if let Some(info) = &connection.info {
            info.wire_bytes_sent.set(info.wire_bytes_sent.get() + wire);
            trailers.inspect(|trailers| info.note_trailers(trailers));
        }
        Ok(())
    }

    fn finish(&self, connection: &mut Inner, ended: Result<(), RespondError>) -> Result<Persistence, RespondError> {
        if let Err(error) = ended {
            // Envoy: a tunnel has no end that could be mistaken.
            if self.close_delimited && !self.tunnel {
                connection.reset();
            }
            return Err(error);
        }
        if self.tunnel || self.persistence == Persistence::Close {
            return Ok(Persistence::Close);
        }
        connection.busy = false;
        Ok(Persistence::KeepAlive)
    }
}

fn received_names(original: &Option<Box<OriginalResponse>>) -> Option<&[ByteStr]> {
    original.as_deref().map(|o| &o.names[..])
}

fn accepts_tunnel(tunnel: Option<Tunnel>, status: StatusCode) -> bool {
    match tunnel {
        Some(Tunnel::Connect) => status.is_success(),
        Some(Tunnel::Upgrade | Tunnel::ConnectUdp) => status == StatusCode::SWITCHING_PROTOCOLS,
        None => false,
    }
}

/// Envoy: a CONNECT-UDP that ends here is answered as a request is, by a body of capsules, while its own go on.
fn accepts_capsules(tunnel: Option<Tunnel>, head: &ResponseHead) -> bool {
    tunnel == Some(Tunnel::ConnectUdp) && head.status == StatusCode::OK && head.headers.contains_key("capsule-protocol")
}

/// Whether the client can tell the end of the body without chunks.
fn is_delimited(head: &ResponseHead, without_body: bool) -> bool {
    without_body
        || head.headers.contains_key(http::header::CONTENT_LENGTH)
        || head.status == StatusCode::NO_CONTENT
        || head.status == StatusCode::NOT_MODIFIED
}
