use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use nuncio_telemetry::StreamInfo;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::timer::Timer;
use crate::worker::ClusterShare;

/// When a stream has taken too long.
pub(super) struct Deadline {
    info: Rc<StreamInfo>,
    /// For the response, from the end of the request on; `None` for ever.
    timeout: Option<Duration>,
    /// `max_stream_duration` of the cluster.
    max_stream_duration: Option<Duration>,
    timer: Timer,
}

// === impl Deadline ===

impl Deadline {
    pub(super) fn new(share: &ClusterShare, info: &Rc<StreamInfo>, timeout: Option<Duration>) -> Self {
        let max_stream_duration = share.cluster.config.http.common.max_stream_duration;
        Self { info: info.clone(), timeout, max_stream_duration, timer: share.env.timers.timer() }
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

    fn next(&self) -> Option<(Instant, Failure)> {
        let times = &self.info.times;
        // Envoy: the time of the response begins when the request has been received to its end.
        let timeout = self.timeout.and_then(|t| Some((times.request_end.get()? + t, Failure::Timeout)));
        let duration = self
            .max_stream_duration
            .and_then(|d| Some((times.upstream_request_start.get()? + d, Failure::MaxStreamDuration)));
        timeout.into_iter().chain(duration).min_by_key(|(at, _)| *at)
    }
}
