use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use nuncio_config::route::{EnvoyHeaders, Forward, Hedging, RouteEntry, grpc_timeout_value};
use nuncio_filter_api::{LocalReply, RequestHead};
use nuncio_telemetry::{ResponseFlag, StreamInfo};

use super::Config;
use super::numbers::LastNumber;

static RQ_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
static EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// An internal client that sends it takes a time-out for an answer: 204 instead of 504.
static ALT_RESPONSE: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response");
static STREAM_DURATION: HeaderName = HeaderName::from_static("x-envoy-upstream-stream-duration-ms");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static HEDGE: HeaderName = HeaderName::from_static("x-envoy-hedge-on-per-try-timeout");
static PER_TRY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");

/// Headers by which an internal client steers the router, and which end here.
const STEERING: [&str; 6] = [
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-max-retries",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
];

/// How long a response may take; `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeouts {
    /// The whole of it.
    pub(super) response: Option<Duration>,
    /// Its head, from one attempt.
    pub(super) per_try: Option<Duration>,
    /// Any part of it, from one attempt, after the part before.
    pub(super) per_try_idle: Option<Duration>,
    /// What becomes of an attempt that takes too long.
    pub(super) hedging: Hedging,
    /// All of it, from one attempt, where the request goes before the cluster's `max_stream_duration`.
    pub(super) stream: Option<Option<Duration>>,
    /// A time-out is answered with 204.
    pub(super) is_tolerated: bool,
}

impl Config {
    /// Refuses values that are no numbers in the headers of `strict_check_headers`.
    pub(super) fn check_strict_headers(&self, head: &RequestHead) -> Result<(), LocalReply> {
        for name in &self.strict {
            let Some(value) = head.headers.get(name) else { continue };
            if number(value).is_none() {
                let details = format!("request_headers_failed_strict_check{{{name}}}");
                let body = format!("invalid header '{name}' with value '{}'", value.as_bytes().escape_ascii());
                let reply = LocalReply::new(StatusCode::BAD_REQUEST, details).body(body);
                return Err(reply.flag(ResponseFlag::InvalidEnvoyRequestHeaders));
            }
        }
        Ok(())
    }

    /// The time-outs of the route, or those that an internal client asks for. Takes out of the request what was meant
    /// for this proxy alone, and tells the host what is expected of it.
    pub(super) fn timeouts(
        &self,
        entry: &RouteEntry,
        forward: &Forward,
        head: &mut RequestHead,
        info: &StreamInfo,
        numbers: &LastNumber,
    ) -> Timeouts {
        let policy = entry.retry_policy();
        // Most requests have none of these headers, and one look at all names is cheaper than to look one up.
        let is_steered = head.headers.keys().any(|name| name.as_str().starts_with("x-envoy-"));
        let asked = if is_steered { head.headers.remove(&STREAM_DURATION) } else { None };
        let mut timeouts = Timeouts {
            response: forward.timeout(head),
            per_try: policy.and_then(|policy| policy.per_try_timeout),
            per_try_idle: policy.and_then(|policy| policy.per_try_idle_timeout),
            hedging: entry.hedging(),
            // Envoy: whoever the client is.
            stream: asked.as_ref().and_then(number).map(millis),
            is_tolerated: false,
        };
        // Requests from outside have lost these headers already.
        let mut is_expected = false;
        if is_steered && info.internal.get() {
            let expected =
                head.headers.get(&EXPECTED_TIMEOUT).and_then(number).filter(|_| self.respect_expected_timeout);
            timeouts.read(head, expected);
            is_expected = expected.is_some();
        }
        timeouts.bound_attempts();
        if !is_expected {
            self.tell_expected(timeouts.expected(Duration::ZERO), head, numbers);
        }
        timeouts.tell_grpc(forward, Duration::ZERO, head, info);
        timeouts
    }

    /// Tells the host of another attempt how long that may take, now that `elapsed` is over.
    pub(super) fn tell_again(
        &self,
        forward: &Forward,
        timeouts: Timeouts,
        elapsed: Duration,
        head: &mut RequestHead,
        info: &StreamInfo,
        numbers: &LastNumber,
    ) {
        self.tell_expected(timeouts.expected(elapsed), head, numbers);
        timeouts.tell_grpc(forward, elapsed, head, info);
    }

    /// Tells the host how long it may take.
    pub(super) fn tell_expected(&self, expected: Option<Duration>, head: &mut RequestHead, numbers: &LastNumber) {
        if let (Some(timeout), EnvoyHeaders::Add) = (expected, self.envoy_headers) {
            let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let _ = head.headers.try_insert(&EXPECTED_TIMEOUT, numbers.value(millis));
        }
    }
}

/// Zero is for ever.
fn millis(n: u64) -> Option<Duration> {
    Some(Duration::from_millis(n)).filter(|t| !t.is_zero())
}

impl Timeouts {
    /// What is expected of an attempt that begins when `elapsed` is over.
    fn expected(&self, elapsed: Duration) -> Option<Duration> {
        let left = self.response.map(|whole| whole.saturating_sub(elapsed).max(Duration::from_millis(1)));
        // An attempt that goes on beside the next has the time of the whole.
        let per_try = self.per_try.filter(|_| self.hedging == Hedging::Off);
        per_try.into_iter().chain(left).min()
    }

    fn tell_grpc(&self, forward: &Forward, elapsed: Duration, head: &mut RequestHead, info: &StreamInfo) {
        if !head.is_grpc() {
            return;
        }
        match forward.told_grpc_timeout(self.expected(elapsed), info.max_duration.get().flatten()) {
            None => {}
            Some(None) => drop(head.headers.remove(&GRPC_TIMEOUT)),
            Some(Some(timeout)) => {
                let _ = head.headers.try_insert(&GRPC_TIMEOUT, grpc_timeout_value(timeout));
            }
        }
    }

    /// Envoy: an attempt that may take as long as the whole has no time-out of its own.
    fn bound_attempts(&mut self) {
        self.per_try = self.per_try.filter(|t| self.response.is_none_or(|whole| *t < whole));
    }

    /// Reads what an internal client asks for.
    fn read(&mut self, head: &mut RequestHead, expected: Option<u64>) {
        if let Some(asked) = expected.or_else(|| head.headers.get(&RQ_TIMEOUT).and_then(number)) {
            self.response = millis(asked);
        }
        if let Some(asked) = head.headers.get(&PER_TRY_TIMEOUT).and_then(number) {
            self.per_try = millis(asked);
        }
        if let Some(asked) = head.headers.remove(&HEDGE) {
            match asked.as_bytes() {
                b"true" => self.hedging = Hedging::OnPerTryTimeout,
                b"false" => self.hedging = Hedging::Off,
                _ => {}
            }
        }
        self.is_tolerated = head.headers.remove(&ALT_RESPONSE).is_some();
        head.headers.remove(&RQ_TIMEOUT);
        head.headers.remove(&PER_TRY_TIMEOUT);
        for name in STEERING {
            head.headers.remove(name);
        }
    }
}

fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}
