//! The time-outs of one stream, told apart when one strikes.

use std::rc::Rc;
use std::task::{Context, Poll};

use http::StatusCode;
use nuncio_filter_api::LocalReply;
use nuncio_telemetry::{ResponseFlag, StreamInfo};
use tokio::time::Instant;

use super::Http;
use crate::timer::{LazyTimer, earlier};

/// The status that gRPC clients are told.
const DEADLINE_EXCEEDED: u32 = 4;

/// Which time-out struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// `stream_idle_timeout` or a route's `idle_timeout`.
    Idle,
    /// `stream_flush_timeout` or a route's `flush_timeout`.
    Flush,
    /// `max_stream_duration`.
    Duration,
    /// `request_timeout`.
    Request,
    /// `request_headers_timeout`.
    Headers,
}

impl Expired {
    /// The answer if no response was begun: 408 while the request is still arriving, else 504.
    pub(crate) fn reply(self, request_complete: bool) -> LocalReply {
        let status = if request_complete { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
        let reply = LocalReply::new(status, self.details());
        match self {
            Self::Idle | Self::Flush => reply.body("stream timeout").flag(ResponseFlag::StreamIdleTimeout),
            // Envoy has a flag for it (DT), and does not set it.
            Self::Duration => {
                LocalReply { grpc_status: Some(DEADLINE_EXCEEDED), ..reply.body("downstream duration timeout") }
            }
            Self::Request => LocalReply::new(StatusCode::REQUEST_TIMEOUT, self.details()).body("request timeout"),
            Self::Headers => reply.body("request header timeout"),
        }
    }

    /// Notes in `info` that a response that was begun is broken off. Envoy: not of one that only its client has not got.
    pub(crate) fn note(self, info: &StreamInfo) {
        if self == Self::Flush {
            return;
        }
        info.set_details(self.details());
        match self {
            Self::Idle => info.flag(ResponseFlag::StreamIdleTimeout),
            Self::Flush | Self::Duration | Self::Request | Self::Headers => {}
        }
    }

    fn details(self) -> &'static str {
        match self {
            Self::Idle | Self::Flush => "stream_idle_timeout",
            Self::Duration => "max_duration_timeout",
            Self::Request => "request_overall_timeout",
            Self::Headers => "request_header_timeout",
        }
    }
}

/// Watches one stream's time-outs.
pub(crate) struct Deadline {
    http: Rc<Http>,
    info: Rc<StreamInfo>,
    is_flushing: bool,
    /// Body bytes moved when last looked at: the stream was active since if there are more now. Whoever moves bytes
    /// counts them anyway, and so reads no clock for each chunk.
    seen: u64,
    active: Instant,
    timer: LazyTimer,
}

impl Deadline {
    /// Starts at the stream's start; `timer` may have served earlier streams.
    pub(crate) fn new(http: &Rc<Http>, info: &Rc<StreamInfo>, timer: LazyTimer) -> Self {
        Self { http: http.clone(), info: info.clone(), is_flushing: false, seen: 0, active: info.start, timer }
    }

    /// Gives the timer back for the next stream.
    pub(crate) fn into_timer(self) -> LazyTimer {
        self.timer
    }

    /// All of the response is here: from now on, and anew with all that the client takes, its time runs.
    pub(crate) fn flush(&mut self) {
        self.is_flushing = true;
        self.active = Instant::now();
    }

    /// Ready with the time-out that struck. To be polled after the work it bounds.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        let moved = self.info.bytes_received.get() + self.info.bytes_sent.get();
        if moved != self.seen {
            self.seen = moved;
            self.active = Instant::now();
        }
        let (timeouts, start) = (&self.http.hcm.timeouts, self.info.start);
        // A route's time-outs take the place of the listener's.
        let idle = self.info.idle_timeout.get().unwrap_or(timeouts.stream_idle);
        let flush = || self.info.flush_timeout.get().or(timeouts.stream_flush).unwrap_or(idle);
        let idle = if self.is_flushing { flush() } else { idle }.map(|d| self.active + d);
        let request = timeouts.request.filter(|_| self.info.times.request_end.get().is_none()).map(|d| start + d);
        let duration = self.info.max_duration.get().unwrap_or(self.http.hcm.codec.common.max_stream_duration);
        let end = duration.map(|d| start + d);
        let deadline = earlier(earlier(idle, end), request);
        self.timer.poll_reached(deadline, cx).map(|()| {
            if deadline == request {
                Expired::Request
            } else if deadline == end {
                Expired::Duration
            } else if self.is_flushing {
                Expired::Flush
            } else {
                Expired::Idle
            }
        })
    }
}
