//! When the points in the life of a stream were reached.

use std::cell::Cell;

use tokio::time::Instant;

/// Points in the life of a stream; Envoy's `%COMMON_DURATION%` names are given for each. `None`: not reached.
#[derive(Debug, Default)]
pub struct Timeline {
    /// End of the request headers received from downstream (DS_RX_HDR_END).
    pub request_headers_end: Cell<Option<Instant>>,
    /// Last byte of the request received from downstream (DS_RX_END).
    pub request_end: Cell<Option<Instant>>,
    /// Upstream connect began (US_CX_BEG).
    pub upstream_connect_start: Cell<Option<Instant>>,
    /// Upstream connect ended (US_CX_END).
    pub upstream_connect_end: Cell<Option<Instant>>,
    /// First byte of the request sent upstream (US_TX_BEG).
    pub upstream_request_start: Cell<Option<Instant>>,
    /// Last byte of the request sent upstream (US_TX_END).
    pub upstream_request_end: Cell<Option<Instant>>,
    /// First byte of the response received from upstream (US_RX_BEG).
    pub upstream_response_start: Cell<Option<Instant>>,
    /// First byte of the response's body received from upstream (US_RX_BODY_BEG).
    pub upstream_response_body_start: Cell<Option<Instant>>,
    /// Last byte of the response received from upstream (US_RX_END).
    pub upstream_response_end: Cell<Option<Instant>>,
    /// First byte of the response sent downstream (DS_TX_BEG).
    pub response_start: Cell<Option<Instant>>,
    /// Last byte of the response sent downstream (DS_TX_END).
    pub response_end: Cell<Option<Instant>>,
    /// The stream was given up or completed: the end of `%DURATION%`.
    pub complete: Cell<Option<Instant>>,
}

impl Timeline {
    /// Takes over all that `other` has of the upstream side.
    pub fn copy_upstream(&self, other: &Self) {
        self.adopt_upstream(other);
        self.upstream_response_start.set(other.upstream_response_start.get());
        self.upstream_response_body_start.set(other.upstream_response_body_start.get());
        self.upstream_response_end.set(other.upstream_response_end.get());
    }

    pub(crate) fn adopt_upstream(&self, other: &Self) {
        for (mine, theirs) in [
            (&self.upstream_connect_start, &other.upstream_connect_start),
            (&self.upstream_connect_end, &other.upstream_connect_end),
            (&self.upstream_request_start, &other.upstream_request_start),
            (&self.upstream_request_end, &other.upstream_request_end),
        ] {
            mine.set(theirs.get());
        }
    }

    /// Forgets all but when the head of the request was there; the whole of it is there at `now`.
    pub(crate) fn begin_again(&self, now: Instant) {
        self.request_end.set(Some(now));
        for point in [
            &self.upstream_connect_start,
            &self.upstream_connect_end,
            &self.upstream_request_start,
            &self.upstream_request_end,
            &self.upstream_response_start,
            &self.upstream_response_body_start,
            &self.upstream_response_end,
            &self.response_start,
            &self.response_end,
            &self.complete,
        ] {
            point.set(None);
        }
    }
}
