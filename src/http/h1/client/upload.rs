//! The sending half of an exchange.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use nuncio_filter_api::{Body, BodyError, ByteStr, Io, RequestHead};
use nuncio_telemetry::{BackedUp, ResponseFlag, StreamInfo};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::h1::encode::{self, BodySender, LengthMismatch, NameCase, RequestForm, SendFraming};
use crate::h1::settings::{ClientSettings, HeaderFormat};
use crate::h1::turn::Turn;
use crate::h1::write::WriteQueue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sending,
    /// All is queued; in a tunnel the upstream is told once it is written.
    Queued,
    Done,
    /// The upstream takes no more: it may still answer.
    Refused,
}

/// A request on its way.
pub(super) struct Upload {
    /// Header names as received, where a formatter wants them: for trailers.
    names: Option<Vec<ByteStr>>,
    body: Body,
    /// The body, where it was wholly in memory.
    full: Option<Bytes>,
    /// Some of the body was taken that cannot be given back.
    consumed: bool,
    sender: BodySender,
    tunnel: bool,
    state: State,
    format: HeaderFormat,
    /// `per_connection_buffer_limit_bytes`
    limit: usize,
    /// No more of the body is pulled for now: the upstream takes no more.
    backed_up: Option<BackedUp>,
}

impl Upload {
    /// Queues the head, and the body where it is in memory.
    pub(super) fn begin(
        head: &RequestHead,
        mut body: Body,
        queue: &mut WriteQueue,
        settings: &ClientSettings,
        info: Option<&Rc<StreamInfo>>,
    ) -> Self {
        let full = body.take_full();
        let without_body = full.is_none() && body.is_end();
        let form = RequestForm {
            case: NameCase { format: settings.header_format, original: head.original_case.as_deref().map(|n| &n[..]) },
            fully_qualified: settings.send_fully_qualified_url,
            without_body,
        };
        let (framing, size) = queue.encode(|out| encode::request_head(head, &form, out));
        if let Some(info) = info {
            let mut upstream = info.upstream.borrow_mut();
            upstream.header_bytes_sent += size.fields;
            upstream.wire_bytes_sent += size.wire;
        }
        let state = if framing == SendFraming::None { State::Queued } else { State::Sending };
        if let (Some(info), State::Queued) = (info, state) {
            info.times.upstream_request_end.set(info.times.upstream_request_start.get());
        }
        Self {
            names: head.original_case.as_deref().cloned(),
            // Taken by the same path as every other body.
            body: full.clone().map_or(body, Body::full),
            full,
            consumed: false,
            sender: BodySender::new(framing, settings.enable_trailers),
            tunnel: framing == SendFraming::Raw,
            state,
            format: settings.header_format,
            limit: settings.buffer_limit,
            backed_up: None,
        }
    }

    /// Sends `body` as it is, and no head.
    pub(super) fn raw(body: Body, settings: &ClientSettings) -> Self {
        Self {
            names: None,
            body,
            full: None,
            consumed: true,
            sender: BodySender::new(SendFraming::Raw, false),
            tunnel: true,
            state: State::Sending,
            format: HeaderFormat::Lower,
            limit: settings.buffer_limit,
            backed_up: None,
        }
    }

    /// Whether all of the request was written.
    pub(super) fn is_done(&self, queue: &WriteQueue) -> bool {
        matches!(self.state, State::Queued | State::Done) && queue.is_empty()
    }

    /// The body as it was, if none of it is lost.
    pub(super) fn into_body(self) -> Option<Body> {
        if self.consumed {
            return None;
        }
        Some(self.full.map_or(self.body, Body::full))
    }

    /// Sends what can be sent now.
    pub(super) fn advance(
        &mut self,
        io: &mut Io,
        queue: &mut WriteQueue,
        cx: &mut Context<'_>,
        info: Option<&Rc<StreamInfo>>,
    ) -> Result<(), BodyError> {
        if matches!(self.state, State::Done | State::Refused) {
            return Ok(());
        }
        let mut turn = Turn::default();
        loop {
            if let Err(error) = self.pull(queue, cx, info) {
                // What a client sent into a tunnel before it left is still the host's; a request that breaks off is not.
                if self.tunnel {
                    let _ = queue.poll_write(io, cx);
                }
                return Err(error);
            }
            if queue.is_empty() {
                self.finish(io, cx);
                return Ok(());
            }
            let queued = queue.len();
            match queue.poll_write(io, cx) {
                Poll::Pending => {
                    if self.state == State::Sending && self.backed_up.is_none() && self.has_enough(queue) {
                        self.backed_up = info.map(BackedUp::new);
                    }
                    return Ok(());
                }
                Poll::Ready(Ok(())) => {
                    self.backed_up = None;
                    if self.state == State::Sending && turn.is_over(queued, cx) {
                        return Ok(());
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.refused(queue, &error);
                    return Ok(());
                }
            }
        }
    }

    /// Whether no more of the body is to be pulled before some of it is written.
    fn has_enough(&self, queue: &WriteQueue) -> bool {
        queue.is_full() || queue.holds(self.limit)
    }

    /// Takes from the body what is there, up to what the queue should hold.
    fn pull(
        &mut self,
        queue: &mut WriteQueue,
        cx: &mut Context<'_>,
        info: Option<&Rc<StreamInfo>>,
    ) -> Result<(), BodyError> {
        while self.state == State::Sending && !self.has_enough(queue) {
            let wire = match self.body.poll_next(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => self.end(None, queue)?,
                Poll::Ready(Some(frame)) => {
                    // A body in memory is kept beside; any other is lost with its first frame.
                    self.consumed |= self.full.is_none();
                    match frame?.into_data() {
                        Ok(data) => self.data(data, queue)?,
                        Err(frame) => self.end(frame.into_trailers().ok().as_ref(), queue)?,
                    }
                }
            };
            if let Some(info) = info {
                info.upstream.borrow_mut().wire_bytes_sent += wire;
                if self.state == State::Queued {
                    info.times.upstream_request_end.set(Some(Instant::now()));
                }
            }
        }
        Ok(())
    }

    fn data(&mut self, data: Bytes, queue: &mut WriteQueue) -> Result<u64, BodyError> {
        let wire = self.sender.data(data, queue).map_err(length_mismatch)?;
        Ok(if self.body.is_end() { wire + self.end(None, queue)? } else { wire })
    }

    fn end(&mut self, trailers: Option<&HeaderMap>, queue: &mut WriteQueue) -> Result<u64, BodyError> {
        let case = NameCase { format: self.format, original: self.names.as_deref() };
        self.state = State::Queued;
        self.sender.end(trailers, case, queue).map_err(length_mismatch)
    }

    /// All that is queued is written: in a tunnel the upstream learns that nothing more comes.
    fn finish(&mut self, io: &mut Io, cx: &mut Context<'_>) {
        if self.state == State::Queued && !(self.tunnel && Pin::new(io).poll_shutdown(cx).is_pending()) {
            self.state = State::Done;
        }
    }

    /// An upstream that answers early and closes (413) is still heard out.
    fn refused(&mut self, queue: &mut WriteQueue, error: &io::Error) {
        tracing::debug!(%error, "upstream takes no more of the request");
        self.state = State::Refused;
        queue.clear();
        if self.consumed {
            // Nobody will read the rest of it.
            self.body = Body::empty();
        }
    }
}

/// What would be sent is not what the head promised: another message could be read out of the rest.
fn length_mismatch(_: LengthMismatch) -> BodyError {
    BodyError::new(ResponseFlag::DownstreamProtocolError, "request_body_does_not_match_content_length")
}
