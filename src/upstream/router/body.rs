use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_config::header_rules::join_repeated_trailers;
use nuncio_filter_api::{Body, BodyError, Request, ResponseHead};
use nuncio_http::ahead::Ahead;
use nuncio_telemetry::{Protocol, ResponseFlag, StreamInfo};
use tokio::time::Instant;

use super::Config;
use super::counts::Counts;
use super::deadline::Deadline;
use super::watch;
use crate::attempt::ActiveRequest;
use crate::codes::Origin;
use crate::failure::Failure;
use crate::pool::connection::millis;
use crate::worker::ClusterShare;

/// The body of a response, which notes its end and is bounded by the time-outs of its stream.
///
/// A client that takes nothing for a while does not keep its host waiting: what fits into the buffers is read, so that a
/// response that does is complete, and any other is bounded by its time-outs.
pub(super) struct UpstreamBody {
    body: Body,
    stream: Option<Stream>,
    /// Since when the client takes nothing.
    paused: Option<Instant>,
    /// What was read meanwhile.
    ahead: Option<Box<ReadAhead>>,
    /// Bytes that may be read so.
    limit: usize,
    /// Frames since the time was last looked at: a host that always has more never lets the timer have its turn.
    unchecked: u8,
}

/// What was read of a response while its client took nothing.
struct ReadAhead {
    info: Rc<StreamInfo>,
    frames: Ahead,
}

struct Stream {
    counted: Counted,
    active: ActiveRequest,
    deadline: Deadline,
}

/// What is counted of a response, and where.
pub(super) struct Counted {
    pub(super) config: Arc<Config>,
    /// The cluster that was asked, which is not that of the host where it is made of others.
    pub(super) share: Rc<ClusterShare>,
    pub(super) counts: Counts,
    /// Whether its host is a canary, or it says so itself.
    pub(super) is_canary: bool,
    pub(super) success: Success,
    /// All that the response may take.
    pub(super) timeout: Option<Duration>,
}

/// Whether a response is a success of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Success {
    Yes,
    No,
    /// Its trailers will tell: it is gRPC.
    Later,
}

// === impl Success ===

impl Success {
    pub(super) fn of(request: &Request, response: &ResponseHead) -> Self {
        match response.status.is_server_error() {
            true => Self::No,
            false if !request.head.is_grpc() => Self::Yes,
            false => Self::of_grpc(&response.headers).unwrap_or(Self::Later),
        }
    }

    /// By grpc-status, if it is there. Envoy: the statuses that stand for faults of a server are errors of its host.
    fn of_grpc(headers: &HeaderMap) -> Option<Self> {
        /// Unknown, deadline exceeded, unimplemented, internal, unavailable, data loss.
        const FAULTS: [&[u8]; 6] = [b"2", b"4", b"12", b"13", b"14", b"15"];
        let status = headers.get("grpc-status")?.as_bytes();
        Some(if FAULTS.contains(&status) { Self::No } else { Self::Yes })
    }
}

// === impl UpstreamBody ===

impl UpstreamBody {
    /// Follows `body` to its end. A body that is here as a whole has ended.
    pub(super) fn wrap(
        mut body: Body,
        counted: Counted,
        active: ActiveRequest,
        deadline: Deadline,
        limit: usize,
    ) -> Body {
        let mut stream = Stream { counted, active, deadline };
        let full = body.take_full();
        if let (Some(watch), Some(full)) = (&mut stream.active.watch, &full) {
            watch.received(full.len());
        }
        let times = &stream.deadline.info().times;
        times.upstream_response_body_start.set(full.as_ref().and(times.upstream_response_start.get()));
        if full.is_some() || body.is_end() {
            stream.end();
            return full.map_or(body, Body::full);
        }
        Body::stream(Self { body, stream: Some(stream), paused: None, ahead: None, limit, unchecked: 0 })
    }

    fn expire(&mut self, failure: &Failure) -> BodyError {
        self.body = Body::empty();
        self.ahead = None;
        if let Some(stream) = self.stream.take() {
            stream.expire(failure);
        }
        BodyError::new(failure.flag(), failure.details())
    }

    /// The next frame of the host, of which is noted what is to be noted.
    fn poll_host(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let mut frame = match self.body.poll_next(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                if let Some(watch) = &mut stream.active.watch {
                    watch.poll(cx);
                }
                return Poll::Pending;
            }
        };
        stream.deadline.progressed(&stream.active.share.env.clock);
        let times = &stream.deadline.info().times;
        if times.upstream_response_body_start.get().is_none() && matches!(&frame, Some(Ok(f)) if f.is_data()) {
            times.upstream_response_body_start.set(Some(stream.active.share.env.clock.now()));
        }
        if let (Some(watch), Some(Ok(frame))) = (&mut stream.active.watch, &frame) {
            watch.received(frame.data_ref().map_or(0, Bytes::len));
        }
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            stream.note_trailers(trailers);
        }
        if let Some(Err(error)) = &frame {
            if let Some(stream) = self.stream.take() {
                stream.fail(error);
            }
        } else if (frame.is_none() || self.body.is_end())
            && let Some(stream) = self.stream.take()
        {
            stream.end();
        }
        Poll::Ready(frame)
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        stream.deadline.poll_expired(cx).map(|failure| self.expire(&failure))
    }

    /// Looks at the time after every so many frames.
    fn check_time(&mut self) -> Option<BodyError> {
        const FRAMES: u8 = 32;
        self.unchecked = (self.unchecked + 1) % FRAMES;
        if self.unchecked != 0 {
            return None;
        }
        let stream = self.stream.as_ref()?;
        let failure = stream.deadline.passed(stream.active.share.env.clock.now())?;
        Some(self.expire(&failure))
    }

    /// Ready where time ran out while the client takes nothing.
    fn poll_paused(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        /// A client that is only slower than its host takes something within this.
        const PATIENCE: Duration = Duration::from_millis(100);
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        let now = stream.active.share.env.clock.now();
        let until = *self.paused.get_or_insert(now) + PATIENCE;
        if now < until
            && let Some(failure) = ready!(stream.deadline.poll_expired_or(until, cx))
        {
            return Poll::Ready(self.expire(&failure));
        }
        let info = stream.deadline.info();
        let new = || Box::new(ReadAhead { info: info.clone(), frames: Ahead::default() });
        let mut ahead = self.ahead.take().unwrap_or_else(new);
        while ahead.frames.cost() < self.limit
            && let Poll::Ready(Some(frame)) = self.poll_host(cx)
        {
            ahead.frames.push(frame);
        }
        self.ahead = Some(ahead);
        self.poll_expired(cx)
    }
}

impl HttpBody for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.stream.as_ref().is_some_and(|stream| stream.deadline.info().is_response_paused.get()) {
            return this.poll_paused(cx).map(|error| Some(Err(error)));
        }
        this.paused = None;
        if let Some(ahead) = &mut this.ahead {
            if ahead.info.is_response_paused.get() {
                return Poll::Pending;
            }
            match ahead.frames.pop() {
                Some(frame) => return Poll::Ready(Some(frame)),
                None => this.ahead = None,
            }
        }
        match this.poll_host(cx) {
            Poll::Pending => this.poll_expired(cx).map(|error| Some(Err(error))),
            Poll::Ready(frame) => Poll::Ready(match this.check_time() {
                None => frame,
                Some(error) => Some(Err(error)),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.as_ref().is_none_or(|ahead| ahead.frames.is_empty()) && self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.ahead, self.body.remaining()) {
            (None, _) => self.body.size_hint(),
            (Some(ahead), Some(left)) => SizeHint::with_exact(left.saturating_add(ahead.frames.bytes() as u64)),
            (Some(_), None) => SizeHint::default(),
        }
    }
}

// === impl Stream ===

impl Stream {
    /// The response has ended as it should.
    fn end(self) {
        // A gRPC response without trailers is none.
        if self.counted.success == Success::Later {
            self.active.host.stats.rq_error.inc();
        }
        let info = self.deadline.info();
        let env = &self.active.share.env;
        let now = env.clock.now();
        info.times.upstream_response_end.set(Some(now));
        self.active.end();
        let Some(begin) = info.times.request_end.get() else { return };
        let time = now.saturating_duration_since(begin);
        watch::count_budget(&self.counted.share, time, self.counted.timeout);
        if !self.counted.config.dynamic_stats {
            return;
        }
        let time = millis(time);
        let Counted { config, share, counts, .. } = &self.counted;
        share.cluster.stats.upstream_rq_time().record(time);
        counts.each(|stats| stats.counts.upstream_rq_time().record(time));
        let origin = config.origin(Some(&self.active.host), info.internal.get());
        share.codes.record(time, Origin { is_canary: self.counted.is_canary, ..origin });
    }

    /// The response broke off.
    fn fail(mut self, error: &BodyError) {
        self.abort();
        if let Some(watch) = &mut self.active.watch {
            watch.broke_off(error);
        }
        if let Some(health) = self.active.share.cluster.health() {
            health.note_break(&self.active.host);
        }
        if error.flags.has(ResponseFlag::UpstreamRemoteReset) {
            self.active.end_by_reset();
        }
        if error.flags.has(ResponseFlag::UpstreamProtocolError)
            && self.active.record.protocol() != Some(Protocol::Http2)
        {
            self.active.share.cluster.stats.upstream_cx_protocol_error().inc();
        }
    }

    fn note_trailers(&mut self, trailers: &mut HeaderMap) {
        join_repeated_trailers(trailers);
        self.active.note_load(trailers);
        if self.counted.success == Success::Later {
            self.counted.success = Success::of_grpc(trailers).unwrap_or(Success::No);
            match self.counted.success {
                Success::Yes => self.active.host.stats.rq_success.inc(),
                _ => self.active.host.stats.rq_error.inc(),
            }
        }
    }

    /// Envoy: a host whose success was counted with the head of its response keeps it.
    fn abort(&self) {
        if self.counted.success == Success::Later {
            self.active.host.stats.rq_error.inc();
            self.counted.config.stats.rq_reset_after_downstream_response_started().inc();
        }
    }

    /// The response took too long.
    fn expire(mut self, failure: &Failure) {
        if let Some(watch) = &mut self.active.watch {
            watch.failed(failure);
        }
        let stats = &self.counted.share.cluster.stats;
        self.abort();
        match failure {
            Failure::MaxStreamDuration => stats.upstream_rq_max_duration_reached().inc(),
            Failure::PerTryIdleTimeout => {
                stats.upstream_rq_per_try_idle_timeout().inc();
                self.active.host.stats.rq_timeout.inc();
            }
            _ => {
                stats.upstream_rq_timeout().inc();
                self.active.host.stats.rq_timeout.inc();
            }
        }
    }
}

/// Reads what there is of a body that goes nowhere, up to about `limit` bytes: a client whose request is complete keeps
/// its connection.
pub(super) async fn read_what_came(body: &mut Body, limit: usize) {
    let mut left = limit;
    poll_fn(|task| {
        while left > 0 && !body.is_end() {
            let Poll::Ready(Some(Ok(frame))) = body.poll_next(task) else { break };
            left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len()));
        }
        Poll::Ready(())
    })
    .await;
}
