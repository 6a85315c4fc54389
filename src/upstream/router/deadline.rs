use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use nuncio_filter_api::{Clock, RequestHead};
use nuncio_telemetry::StreamInfo;
use tokio::time::Instant;

use super::timeouts::Timeouts;
use super::tunnel::asks_for_tunnel;
use crate::failure::Failure;
use crate::timer::Timer;
use crate::worker::ClusterShare;

/// When a stream has taken too long.
pub(super) struct Deadline {
    info: Rc<StreamInfo>,
    /// From the end of the request on.
    timeouts: Timeouts,
    /// A tunnel was asked for and is not yet granted: its request has no end, and time runs from its beginning.
    is_asking: bool,
    /// `max_stream_duration` of the cluster, or what the request asks for.
    max_stream_duration: Option<Duration>,
    /// When the attempt last got any further, where it may not be idle for long.
    progress: Option<Instant>,
    timer: Timer,
}

// === impl Deadline ===

impl Deadline {
    pub(super) fn new(share: &ClusterShare, info: &Rc<StreamInfo>, timeouts: Timeouts, head: &RequestHead) -> Self {
        let max_stream_duration = timeouts.stream.unwrap_or(share.cluster.config.http.common.max_stream_duration);
        let timer = share.env.timers.timer();
        let is_asking = asks_for_tunnel(head);
        Self { info: info.clone(), timeouts, is_asking, max_stream_duration, progress: None, timer }
    }

    /// The head of the response has come.
    pub(super) fn answered(&mut self, clock: &Clock) {
        self.is_asking = false;
        self.timeouts.per_try = None;
        self.progressed(clock);
    }

    /// A part of the response has come.
    pub(super) fn progressed(&mut self, clock: &Clock) {
        if self.timeouts.per_try_idle.is_some() {
            self.progress = Some(clock.now());
        }
    }

    /// Another attempt begins, which may take as long as the first.
    pub(super) fn try_again(&mut self, per_try: Option<Duration>) {
        self.timeouts.per_try = per_try;
        self.progress = None;
        self.info.times.upstream_request_start.set(None);
    }

    /// What one attempt may take.
    pub(super) fn max_stream_duration(&self) -> Option<Duration> {
        self.max_stream_duration
    }

    /// From here on attempts may take as long as the whole.
    pub(super) fn spare_attempts(&mut self) {
        self.timeouts.per_try = None;
        self.timeouts.per_try_idle = None;
    }

    /// The stream it bounds.
    pub(super) fn info(&self) -> &Rc<StreamInfo> {
        &self.info
    }

    /// Ready with the reason once the time is over. To be polled after what it bounds.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        match self.next() {
            Some((at, failure)) => self.timer.poll_reached(at, cx).map(|()| failure),
            None => Poll::Pending,
        }
    }

    /// As `poll_expired`, and ready with `None` at `earlier`, where that is earlier.
    pub(super) fn poll_expired_or(&mut self, earlier: Instant, cx: &mut Context<'_>) -> Poll<Option<Failure>> {
        match self.next() {
            Some((at, failure)) if at <= earlier => self.timer.poll_reached(at, cx).map(|()| Some(failure)),
            _ => self.timer.poll_reached(earlier, cx).map(|()| None),
        }
    }

    /// What the time is over for by `now`, if it is.
    pub(super) fn passed(&self, now: Instant) -> Option<Failure> {
        self.next().filter(|(at, _)| *at <= now).map(|(_, failure)| failure)
    }

    fn next(&self) -> Option<(Instant, Failure)> {
        let times = &self.info.times;
        // Envoy: the time of the response begins when the request has been received to its end.
        let begin = if self.is_asking { Some(self.info.start) } else { times.request_end.get() };
        let timeout = self.timeouts.response.and_then(|t| Some(begin? + t));
        // Mostly that is all.
        if self.timeouts.per_try.is_none() && self.timeouts.per_try_idle.is_none() && self.max_stream_duration.is_none()
        {
            return timeout.map(|at| (at, Failure::Timeout));
        }
        let attempt = times.upstream_request_start.get();
        let per_try = self.timeouts.per_try.and_then(|t| Some((begin?.max(attempt?) + t, Failure::PerTryTimeout)));
        let idle = self.timeouts.per_try_idle.and_then(|t| {
            let since = begin?.max(attempt?);
            Some((self.progress.map_or(since, |progress| since.max(progress)) + t, Failure::PerTryIdleTimeout))
        });
        let duration = self.max_stream_duration.and_then(|d| Some((attempt? + d, Failure::MaxStreamDuration)));
        let timeout = timeout.map(|at| (at, Failure::Timeout));
        timeout.into_iter().chain(per_try).chain(idle).chain(duration).min_by_key(|(at, _)| *at)
    }
}
