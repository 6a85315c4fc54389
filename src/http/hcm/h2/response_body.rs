//! The body of a response on its way to a peer that says how much of it it takes.

use std::future::poll_fn;
use std::mem;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use http_body::Frame;
use nuncio_filter_api::{Body, BodyError};
use nuncio_telemetry::StreamInfo;

use super::{Server, note_fields};
use crate::h2::fields_size;
use crate::hcm::deadline::{Deadline, Expired};

/// Why a body was not sent to its end.
pub(super) enum Unsent {
    Upstream(BodyError),
    Downstream,
    Expired(Expired),
}

/// The body of a response that is being sent.
struct Pulled<'a> {
    body: &'a mut Body,
    /// What was taken of it while the peer took nothing: a frame, or its end.
    ahead: Option<Option<Frame<Bytes>>>,
}

impl Server {
    /// Sends a body to its end, unless it breaks off, the peer leaves or a time-out strikes.
    pub(super) async fn send_body(
        &self,
        send: &mut SendStream<Bytes>,
        body: &mut Body,
        info: &StreamInfo,
        deadline: &mut Deadline,
    ) -> Result<(), Unsent> {
        let mut body = Pulled { body, ahead: None };
        loop {
            let frame = poll_fn(|cx| {
                if let Poll::Ready(frame) = body.poll_next(cx) {
                    return Poll::Ready(frame.transpose().map_err(Unsent::Upstream));
                }
                poll_stopped(send, deadline, cx)
            })
            .await?;
            let Some(frame) = frame else {
                return send.send_data(Bytes::new(), true).map_err(|_| Unsent::Downstream);
            };
            match frame.into_data() {
                Ok(data) => {
                    info.bytes_sent.set(info.bytes_sent.get() + data.len() as u64);
                    let end = body.is_end();
                    self.send_data(send, data, &mut body, info, deadline).await?;
                    if end {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    info.note_trailers(&trailers);
                    note_fields(info, || fields_size(&trailers));
                    return send.send_trailers(trailers).map_err(|_| Unsent::Downstream);
                }
            }
        }
    }

    /// Sends `data`, after which comes what is left of `body`, as the peer's windows allow.
    async fn send_data(
        &self,
        send: &mut SendStream<Bytes>,
        mut data: Bytes,
        body: &mut Pulled<'_>,
        info: &StreamInfo,
        deadline: &mut Deadline,
    ) -> Result<(), Unsent> {
        let end = body.is_end();
        if data.is_empty() && !end {
            return Ok(());
        }
        let mut is_paused = false;
        loop {
            if !data.is_empty() {
                send.reserve_capacity(data.len());
            }
            if data.is_empty() || send.capacity() >= data.len() {
                self.metered.count_data(data.len());
                if is_paused {
                    info.resume_response();
                }
                return send.send_data(data, end).map_err(|_| Unsent::Downstream);
            }
            if end {
                deadline.flush();
            }
            let granted = poll_fn(|cx| match send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(n))) => Poll::Ready(Ok(n)),
                Poll::Ready(Some(Err(_))) => Poll::Ready(Err(Unsent::Downstream)),
                Poll::Ready(None) => Poll::Ready(Err(Unsent::Downstream)),
                Poll::Pending => {
                    if !end && !mem::replace(&mut is_paused, true) {
                        info.pause_response();
                    }
                    if is_paused && let Err(error) = body.look_at_paused(cx) {
                        return Poll::Ready(Err(Unsent::Upstream(error)));
                    }
                    poll_stopped(send, deadline, cx)
                }
            })
            .await?;
            if granted > 0 && granted < data.len() {
                let part = data.split_to(granted);
                self.metered.count_data(part.len());
                send.send_data(part, false).map_err(|_| Unsent::Downstream)?;
            }
        }
    }
}

// === impl Pulled ===

impl Pulled<'_> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.ahead.take() {
            Some(frame) => Poll::Ready(frame.map(Ok)),
            None => self.body.poll_next(cx),
        }
    }

    fn is_end(&self) -> bool {
        self.ahead.is_none() && self.body.is_end()
    }

    /// Lets the body end while the peer takes nothing: what has time-outs of its own gives out nothing else then.
    fn look_at_paused(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        if self.ahead.is_none()
            && let Poll::Ready(frame) = self.body.poll_next(cx)
        {
            self.ahead = Some(frame.transpose()?);
        }
        Ok(())
    }
}

/// Whether the peer or a time-out ends the sending.
fn poll_stopped<T>(
    send: &mut SendStream<Bytes>,
    deadline: &mut Deadline,
    cx: &mut Context<'_>,
) -> Poll<Result<T, Unsent>> {
    if send.poll_reset(cx).is_ready() {
        return Poll::Ready(Err(Unsent::Downstream));
    }
    deadline.poll_expired(cx).map(|e| Err(Unsent::Expired(e)))
}
