//! The sending half of an exchange.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Frame;
use nuncio_filter_api::{Body, BodyError};
use nuncio_telemetry::{BackedUp, StreamInfo};
use tokio::time::Instant;

use super::faults::Faults;
use super::weights::{Followed, fields_size};
use crate::ahead::Ahead;
use crate::h1::RequestSent;

/// A request body on its way.
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    body: Body,
    /// Data that waits for the peer's window.
    pending: Bytes,
    /// The pending data is the last.
    last: bool,
    consumed: bool,
    done: bool,
    info: Option<Rc<StreamInfo>>,
    /// What comes after the pending data: read although the peer does not take it, so that a request that fits into the
    /// buffers is complete, and time-outs run, whatever the peer does.
    ahead: Ahead,
    /// Bytes that may wait so.
    limit: usize,
    /// No more of the body is pulled for now: as much as may wait does. Envoy: until half of it is sent.
    is_backed_up: bool,
    counted: Option<BackedUp>,
    faults: Rc<Faults>,
    /// Where the stream is logged.
    followed: Option<Followed>,
}

impl Upload {
    /// Sends `body`, unless it is `done`, of which `limit` bytes may wait for the peer.
    pub(super) fn new(
        stream: SendStream<Bytes>,
        body: Body,
        done: bool,
        info: Option<Rc<StreamInfo>>,
        limit: usize,
        faults: Rc<Faults>,
    ) -> Self {
        let logged = info.as_ref().filter(|info| info.is_logged.get());
        let followed = logged.map(|info| faults.weights.follow(stream.stream_id().as_u32(), info));
        Self {
            stream,
            body,
            pending: Bytes::new(),
            last: false,
            consumed: false,
            done,
            info,
            ahead: Ahead::default(),
            limit,
            is_backed_up: false,
            counted: None,
            faults,
            followed,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    pub(super) fn sent(&self) -> RequestSent {
        if self.done { RequestSent::Whole } else { RequestSent::Partly }
    }

    pub(super) fn into_body(self) -> Option<Body> {
        (!self.consumed).then_some(self.body)
    }

    /// Ends the stream, in both directions.
    pub(super) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
        self.done = true;
    }

    /// Sends what can be sent now. A peer that takes no more may still answer, so that is no error.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        while !self.done {
            if !self.pending.is_empty() {
                if self.send_pending(cx).is_pending() {
                    return self.read_ahead(cx);
                }
                continue;
            }
            let Poll::Ready(frame) = self.poll_next(cx) else { return Ok(()) };
            self.consumed = true;
            match frame.transpose()? {
                None => self.end(|stream| stream.send_data(Bytes::new(), true)),
                Some(frame) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        self.last = self.is_end();
                        self.pending = data;
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.note_fields(fields_size(&trailers));
                        self.end(|stream| stream.send_trailers(trailers));
                    }
                },
            }
        }
        Ok(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.ahead.pop() {
            if self.ahead.cost() <= self.limit / 2 {
                self.is_backed_up = false;
                self.counted = None;
            }
            return Poll::Ready(Some(frame));
        }
        self.body.poll_next(cx)
    }

    fn is_end(&self) -> bool {
        self.ahead.is_empty() && self.body.is_end()
    }

    /// Reads what is there of the body, as much as may wait for the peer.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        while !self.is_backed_up && !self.last && !self.body.is_end() {
            if self.ahead.cost() >= self.limit {
                self.is_backed_up = true;
                self.counted = self.info.as_ref().map(BackedUp::new);
                return Ok(());
            }
            let Poll::Ready(frame) = self.body.poll_next(cx) else { return Ok(()) };
            match frame.transpose()? {
                // It may not have known of its end before.
                None => self.body = Body::empty(),
                Some(frame) => self.ahead.push(Ok(frame)),
            }
        }
        Ok(())
    }

    /// Ready once something was sent, or nothing can be any more.
    fn send_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.reserve_capacity(self.pending.len());
        let granted = match self.stream.capacity() {
            0 => match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(n)) => n,
                Some(Err(_)) | None => {
                    self.done = true;
                    return Poll::Ready(());
                }
            },
            n => n,
        };
        let part = self.pending.split_to(granted.min(self.pending.len()));
        let last = self.last && self.pending.is_empty();
        self.faults.sent.count_data(part.len());
        let sent = self.stream.send_data(part, last);
        if last {
            self.note_end();
        }
        self.done = last || sent.is_err();
        Poll::Ready(())
    }

    fn end(&mut self, send: impl FnOnce(&mut SendStream<Bytes>) -> Result<(), h2::Error>) {
        // It fails only if the peer has reset the stream, which the response tells better.
        let _ = send(&mut self.stream);
        self.done = true;
        self.note_end();
    }

    /// Notes that fields of so many bytes are sent.
    pub(super) fn note_fields(&self, bytes: u64) {
        if let Some(info) = self.info.as_ref().filter(|_| self.followed.is_some()) {
            info.upstream.borrow_mut().decompressed_header_bytes_sent += bytes;
        }
    }

    fn note_end(&self) {
        if let Some(info) = &self.info {
            info.times.upstream_request_end.set(Some(Instant::now()));
        }
    }
}
