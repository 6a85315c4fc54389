//! Headers that Envoy keeps one value of: those that a request repeats become one line, wherever it looks at them.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Their names, sorted. All others keep their lines, as Envoy's own responses show.
const JOINED: [&str; 53] = [
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "access-control-request-private-network",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-type",
    "expect",
    "grpc-accept-encoding",
    "grpc-timeout",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "x-client-trace-id",
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-external-address",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-is-timeout-retry",
    "x-envoy-max-retries",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-envoy-original-url",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

/// Joins the lines of each of them with commas. A request that repeats no header pays for two numbers.
pub(crate) fn join(headers: &mut HeaderMap) {
    if headers.len() == headers.keys_len() {
        return;
    }
    let is_repeated = |name: &&HeaderName| {
        JOINED.binary_search(&name.as_str()).is_ok() && headers.get_all(*name).iter().nth(1).is_some()
    };
    let repeated: Vec<HeaderName> = headers.keys().filter(is_repeated).cloned().collect();
    for name in repeated {
        let lines: Vec<_> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(lines.join(&b","[..]))) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_to_be_found() {
        assert!(JOINED.is_sorted());
    }

    #[test]
    fn only_those_that_envoy_keeps_once_become_one_line() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("user-agent", "a"), ("x-a", "1"), ("user-agent", "b"), ("x-a", "2"), ("via", "c")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        join(&mut headers);
        let all: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(all, ["user-agent: a,b", "x-a: 1", "x-a: 2", "via: c"]);
    }
}
