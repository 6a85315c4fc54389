//! `proxy_status_config`: the header Proxy-Status (RFC 9209), which tells a client what went wrong on the way.

use http::{HeaderName, HeaderValue, StatusCode};
use nuncio_filter_api::{LowerCx, Refused, ResponseHead};
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use nuncio_telemetry::{ResponseFlag, ResponseFlags, StreamInfo};
use pb::http_connection_manager::ProxyStatusConfig;
use pb::http_connection_manager::proxy_status_config::ProxyName;

use super::lower::header_value;
use super::request_head::append_list;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// `proxy_status_config`
#[derive(Clone, Debug)]
pub(crate) struct ProxyStatus {
    /// What the proxy is called; Envoy's, if that is `server_name`.
    name: Option<HeaderValue>,
    details: Details,
    sets_code: bool,
}

/// What the parameter `details` holds beside the response code's details.
#[derive(Clone, Copy, Debug)]
enum Details {
    Removed,
    With { termination: bool, flags: bool },
}

/// An error type of RFC 9209 §2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Error {
    name: &'static str,
    /// The status that the RFC recommends, where it recommends one.
    code: Option<StatusCode>,
}

const fn error(name: &'static str, code: StatusCode) -> Error {
    Error { name, code: Some(code) }
}

const UNAVAILABLE: Error = error("destination_unavailable", StatusCode::SERVICE_UNAVAILABLE);
const NOT_FOUND: Error = error("destination_not_found", StatusCode::INTERNAL_SERVER_ERROR);
const REFUSED: Error = error("connection_refused", StatusCode::BAD_GATEWAY);
const TERMINATED: Error = error("connection_terminated", StatusCode::BAD_GATEWAY);
const TIMEOUT: Error = error("connection_timeout", StatusCode::GATEWAY_TIMEOUT);
const LIMIT: Error = error("connection_limit_reached", StatusCode::SERVICE_UNAVAILABLE);
const RESPONSE_TIMEOUT: Error = error("http_response_timeout", StatusCode::GATEWAY_TIMEOUT);
const BAD_REQUEST: Error = Error { name: "http_request_error", code: None };
const PROTOCOL: Error = error("http_protocol_error", StatusCode::BAD_GATEWAY);
const CONFIGURATION: Error = error("proxy_configuration_error", StatusCode::INTERNAL_SERVER_ERROR);
const DNS: Error = error("dns_error", StatusCode::BAD_GATEWAY);

/// Which flag is which error; the first of these that a stream has decides, as in Envoy. What the
/// client sends against the protocol is flagged there after it was answered, so that nothing is told of it.
const ERRORS: [(ResponseFlag, Error); 19] = [
    (ResponseFlag::FailedLocalHealthCheck, UNAVAILABLE),
    (ResponseFlag::NoHealthyUpstream, UNAVAILABLE),
    (ResponseFlag::UpstreamRequestTimeout, RESPONSE_TIMEOUT),
    (ResponseFlag::LocalReset, TIMEOUT),
    (ResponseFlag::UpstreamRemoteReset, TERMINATED),
    (ResponseFlag::UpstreamConnectionFailure, REFUSED),
    (ResponseFlag::UpstreamConnectionTermination, TERMINATED),
    (ResponseFlag::UpstreamOverflow, LIMIT),
    (ResponseFlag::NoRouteFound, NOT_FOUND),
    (ResponseFlag::RateLimited, LIMIT),
    (ResponseFlag::RateLimitServiceError, LIMIT),
    (ResponseFlag::UpstreamRetryLimitExceeded, UNAVAILABLE),
    (ResponseFlag::StreamIdleTimeout, RESPONSE_TIMEOUT),
    (ResponseFlag::InvalidEnvoyRequestHeaders, BAD_REQUEST),
    (ResponseFlag::UpstreamMaxStreamDurationReached, RESPONSE_TIMEOUT),
    (ResponseFlag::NoFilterConfigFound, CONFIGURATION),
    (ResponseFlag::UpstreamProtocolError, PROTOCOL),
    (ResponseFlag::NoClusterFound, UNAVAILABLE),
    (ResponseFlag::DnsResolutionFailed, DNS),
];

impl ProxyStatus {
    pub(super) fn lower(config: ProxyStatusConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let ProxyStatusConfig {
            remove_details,
            remove_connection_termination_details,
            remove_response_flags,
            set_recommended_response_code,
            proxy_name,
        } = config;
        let name = match proxy_name {
            // Envoy: `false` chooses the node's id as `true` does.
            Some(ProxyName::UseNodeId(_)) => {
                let id = cx.env.node.id.clone();
                Some(header_value("use_node_id", &id, cx)?.unwrap_or(HeaderValue::from_static("")))
            }
            Some(ProxyName::LiteralProxyName(name)) => {
                Some(header_value("literal_proxy_name", &name, cx)?.unwrap_or(HeaderValue::from_static("")))
            }
            None => None,
        };
        let details = match remove_details {
            true => Details::Removed,
            false => {
                Details::With { termination: !remove_connection_termination_details, flags: !remove_response_flags }
            }
        };
        Ok(Self { name, details, sets_code: set_recommended_response_code })
    }

    /// Tells in `head` of the error that `info` has, if any.
    pub(super) fn apply(&self, head: &mut ResponseHead, server_name: &HeaderValue, info: &StreamInfo) {
        let Some(error) = error_of(info.flags.get()) else { return };
        if let Ok(value) = self.value(error, server_name, info) {
            append_list(&mut head.headers, PROXY_STATUS, &value);
        }
        if self.sets_code
            && let Some(code) = error.code
        {
            head.status = code;
        }
    }

    fn value(
        &self,
        error: Error,
        server_name: &HeaderValue,
        info: &StreamInfo,
    ) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
        let mut value = self.name.as_ref().unwrap_or(server_name).as_bytes().to_vec();
        value.extend_from_slice(b"; error=");
        value.extend_from_slice(error.name.as_bytes());
        if let Details::With { termination, flags } = self.details
            && let Some(details) = info.details.borrow().as_deref()
        {
            value.extend_from_slice(b"; details=\"");
            push_escaped(&mut value, details);
            if termination && let Some(details) = info.connection.termination_details.borrow().as_deref() {
                value.extend_from_slice(b"; ");
                push_escaped(&mut value, details);
            }
            if flags {
                value.extend_from_slice(b"; ");
                info.flags.get().write(ResponseFlag::short, &mut value);
            }
            value.push(b'"');
        }
        HeaderValue::from_bytes(&value)
    }
}

fn error_of(flags: ResponseFlags) -> Option<Error> {
    if flags.is_empty() {
        return None;
    }
    ERRORS.iter().find(|(flag, _)| flags.has(*flag)).map(|(_, error)| *error)
}

/// Envoy: a backslash is left as it is.
fn push_escaped(value: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'\n' => value.extend_from_slice(b"\\n"),
            b'\r' => value.extend_from_slice(b"\\r"),
            b'\t' => value.extend_from_slice(b"\\t"),
            b'"' => value.extend_from_slice(b"\\\""),
            byte => value.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_envoys_flags_decides_whatever_was_set_first() {
        let flags = ResponseFlags::one(ResponseFlag::UpstreamRetryLimitExceeded);
        assert_eq!(error_of(flags), Some(UNAVAILABLE));
        assert_eq!(error_of(flags.union(ResponseFlag::UpstreamConnectionFailure.into())), Some(REFUSED));
        assert_eq!(error_of(ResponseFlag::DelayInjected.into()), None);
        assert_eq!(error_of(ResponseFlags::NONE), None);
    }

    #[test]
    fn details_cannot_end_their_string() {
        let mut value = Vec::new();
        push_escaped(&mut value, "a\"b\r\n");
        assert_eq!(value, b"a\\\"b\\r\\n");
    }
}
