//! Headers that Envoy keeps one line of: what comes twice, or is added to one, comes after a comma.

use bytes::Bytes;
use http::header::TE;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Side;

/// Whether Envoy keeps the header as one line, so that a value added to it comes after a comma. Besides the headers
/// that its core knows, these are those that any of its extensions registers (found by appending to each in Envoy 1.40).
pub(crate) fn is_inline(side: Side, name: &HeaderName) -> bool {
    let name = name.as_str();
    let own = match side {
        Side::Request => REQUEST,
        Side::Response => RESPONSE,
    };
    BOTH.contains(&name) || own.contains(&name)
}

/// Whether Envoy keeps it as one line among the trailers of a response. Those of requests have no such names.
pub(super) fn is_inline_trailer(name: &HeaderName) -> bool {
    matches!(name.as_str(), "grpc-status" | "grpc-message")
}

/// Makes one line of each header that came in several and that Envoy keeps once. A head that repeats no header pays for
/// two numbers.
#[inline]
pub fn join_repeated(side: Side, headers: &mut HeaderMap) {
    if headers.len() != headers.keys_len() {
        join(headers, |name| is_inline(side, name));
    }
}

/// The same for trailers of a response.
#[inline]
pub fn join_repeated_trailers(trailers: &mut HeaderMap) {
    if trailers.len() != trailers.keys_len() {
        join(trailers, is_inline_trailer);
    }
}

#[cold]
fn join(headers: &mut HeaderMap, is_joined: impl Fn(&HeaderName) -> bool) {
    let is_repeated = |name: &&HeaderName| headers.get_all(*name).iter().nth(1).is_some() && is_joined(name);
    let repeated: Vec<HeaderName> = headers.keys().filter(is_repeated).cloned().collect();
    for name in repeated {
        // Envoy leaves of it what it may say end to end, which is one word.
        if name == TE {
            if let Some(first) = headers.get(TE).cloned() {
                headers.insert(TE, first);
            }
            continue;
        }
        let lines: Vec<_> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(lines.join(&b","[..]))) {
            headers.insert(name, value);
        }
    }
}

const BOTH: &[&str] = &[
    "connection",
    "content-length",
    "content-type",
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "keep-alive",
    "proxy-connection",
    "proxy-status",
    "x-request-id",
    "transfer-encoding",
    "upgrade",
    "via",
];

const REQUEST: &[&str] = &[
    "x-client-trace-id",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-external-address",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-original-path",
    "x-envoy-original-url",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-alt-response",
    "expect",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "grpc-timeout",
    "grpc-accept-encoding",
    "x-forwarded-port",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-is-timeout-retry",
    "x-envoy-original-host",
    "x-envoy-max-retries",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "access-control-request-private-network",
    "authorization",
    "cache-control",
    "cdn-loop",
    "content-encoding",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "origin",
    "pragma",
    "referer",
    "te",
    "user-agent",
];

const RESPONSE: &[&str] = &[
    "x-envoy-upstream-service-time",
    "grpc-status",
    "grpc-message",
    "date",
    "x-envoy-degraded",
    "x-envoy-immediate-health-check-fail",
    "x-envoy-ratelimited",
    "x-envoy-upstream-canary",
    "x-envoy-upstream-healthchecked-cluster",
    "location",
    "server",
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-allow-private-network",
    "access-control-expose-headers",
    "access-control-max-age",
    "age",
    "cache-control",
    "content-encoding",
    "etag",
    "expires",
    "last-modified",
    "vary",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(join: impl Fn(&mut HeaderMap), lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        join(&mut headers);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn only_those_that_envoy_keeps_once_become_one_line() {
        let lines = [("user-agent", "a"), ("x-a", "1"), ("user-agent", "b"), ("x-a", "2"), ("via", "c")];
        let request = joined(|headers| join_repeated(Side::Request, headers), &lines);
        assert_eq!(request, ["user-agent: a,b", "x-a: 1", "x-a: 2", "via: c"]);
        let lines = [("etag", "a"), ("user-agent", "a"), ("etag", "b"), ("user-agent", "b")];
        let response = joined(|headers| join_repeated(Side::Response, headers), &lines);
        assert_eq!(response, ["etag: a,b", "user-agent: a", "user-agent: b"]);
    }

    #[test]
    fn of_trailers_those_of_grpc_become_one_line() {
        let lines = [("grpc-status", "0"), ("etag", "a"), ("grpc-status", "1"), ("etag", "b")];
        assert_eq!(joined(join_repeated_trailers, &lines), ["grpc-status: 0,1", "etag: a", "etag: b"]);
    }
}
