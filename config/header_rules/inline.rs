use http::HeaderName;

use super::Side;

/// Whether Envoy keeps the header as one line, so that a value added to it comes after a comma.
pub(super) fn is_inline(side: Side, name: &HeaderName) -> bool {
    let name = name.as_str();
    let own = match side {
        Side::Request => REQUEST,
        Side::Response => RESPONSE,
    };
    BOTH.contains(&name) || own.contains(&name)
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
];
