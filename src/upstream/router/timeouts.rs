use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use nuncio_config::route::{EnvoyHeaders, Forward};
use nuncio_filter_api::{LocalReply, RequestHead};
use nuncio_telemetry::ResponseFlag;

use super::Config;
use super::numbers::LastNumber;

static RQ_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
static EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// Headers by which an internal client steers the router, and which end here.
const STEERING: [&str; 8] = [
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-max-retries",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
];

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

    /// How long the response may take, by the route or by what an internal client asks for. Takes out of the request
    /// what was meant for this proxy alone, and tells the host what is expected of it.
    pub(super) fn timeout(
        &self,
        forward: &Forward,
        head: &mut RequestHead,
        is_internal: bool,
        numbers: &LastNumber,
    ) -> Option<Duration> {
        let mut timeout = forward.timeout(head);
        // Requests from outside have lost these headers already.
        if is_internal {
            let expected = head.headers.get(&EXPECTED_TIMEOUT).and_then(number);
            let asked = head.headers.get(&RQ_TIMEOUT).and_then(number);
            let millis = if self.respect_expected_timeout { expected.or(asked) } else { asked };
            if let Some(millis) = millis {
                timeout = Some(Duration::from_millis(millis)).filter(|t| !t.is_zero());
            }
            head.headers.remove(&RQ_TIMEOUT);
            for name in STEERING {
                head.headers.remove(name);
            }
            if self.respect_expected_timeout && expected.is_some() {
                return timeout;
            }
        }
        if let (Some(timeout), EnvoyHeaders::Add) = (timeout, self.envoy_headers) {
            let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let _ = head.headers.try_insert(&EXPECTED_TIMEOUT, numbers.value(millis));
        }
        timeout
    }
}

fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}
