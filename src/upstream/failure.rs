//! Why there is no response, and what the client is told of it. The words are those of Envoy 1.40.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use nuncio_filter_api::{LocalReply, UpstreamError};
use nuncio_http::h1::ExchangeFailure;
use nuncio_telemetry::ResponseFlag;

use crate::pool::connection::PoolFailure;

/// Why a request got no response from its cluster.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// There is no such cluster.
    NoCluster,
    /// It has no host that may be chosen.
    NoHealthyHost,
    /// The host that the request names was not found, for this reason.
    Unresolved(Cow<'static, str>),
    /// There is no connection.
    Pool(PoolFailure),
    /// `max_requests` is reached.
    RequestOverflow,
    /// The connection ended before the response.
    ConnectionTermination,
    /// What the host sent is no response.
    Protocol,
    /// The host reset the stream.
    RemoteReset,
    /// The host reset the stream and says that it did nothing.
    RefusedStream,
    /// The route's time-out.
    Timeout,
    /// The time-out of one attempt.
    PerTryTimeout,
    /// The time for which one attempt may do nothing.
    PerTryIdleTimeout,
    /// `max_stream_duration` of the cluster.
    MaxStreamDuration,
    /// The request's own body broke off: nobody is left to be answered, or the client is at fault.
    RequestBody(nuncio_filter_api::BodyError),
    /// A filter between the router and the host has answered.
    Answered(Box<LocalReply>),
}

const RESET: &str = "upstream connect error or disconnect/reset before headers. ";

pub(crate) static OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

// === impl Failure ===

impl Failure {
    /// The response flag.
    pub(crate) fn flag(&self) -> ResponseFlag {
        match self {
            Self::NoCluster => ResponseFlag::NoClusterFound,
            Self::NoHealthyHost | Self::Unresolved(_) => ResponseFlag::NoHealthyUpstream,
            Self::Pool(PoolFailure::Overflow) | Self::RequestOverflow => ResponseFlag::UpstreamOverflow,
            Self::Pool(PoolFailure::Local(_) | PoolFailure::Remote(_) | PoolFailure::Timeout) => {
                ResponseFlag::UpstreamConnectionFailure
            }
            Self::ConnectionTermination => ResponseFlag::UpstreamConnectionTermination,
            Self::Protocol => ResponseFlag::UpstreamProtocolError,
            Self::RemoteReset | Self::RefusedStream => ResponseFlag::UpstreamRemoteReset,
            Self::Timeout | Self::PerTryTimeout | Self::PerTryIdleTimeout => ResponseFlag::UpstreamRequestTimeout,
            Self::MaxStreamDuration => ResponseFlag::UpstreamMaxStreamDurationReached,
            // What flags there are is in the answer.
            Self::RequestBody(_) | Self::Answered(_) => ResponseFlag::DownstreamConnectionTermination,
        }
    }

    /// Status of the reply.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Protocol => StatusCode::BAD_GATEWAY,
            Self::Timeout | Self::PerTryTimeout | Self::PerTryIdleTimeout | Self::MaxStreamDuration => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::RequestBody(_) => StatusCode::BAD_REQUEST,
            Self::Answered(reply) => reply.status,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether it took too long, all in all or one attempt.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout | Self::PerTryTimeout | Self::PerTryIdleTimeout)
    }

    /// Whether a limit of the cluster kept it from its hosts.
    pub(crate) fn is_overflow(&self) -> bool {
        matches!(self, Self::Pool(PoolFailure::Overflow) | Self::RequestOverflow)
    }

    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`
    pub(crate) fn transport_failure(&self) -> Option<&Arc<str>> {
        match self {
            Self::Pool(failure) => failure.transport_failure(),
            _ => None,
        }
    }

    /// Why the stream was reset, in Envoy's words; `None` where it never was one.
    fn reset_reason(&self) -> Option<&'static str> {
        Some(match self {
            Self::Pool(failure) => failure.reset_reason(),
            Self::RequestOverflow => "overflow",
            Self::ConnectionTermination => "connection termination",
            Self::Protocol => "protocol error",
            Self::RemoteReset => "remote reset",
            Self::RefusedStream => "remote refused stream reset",
            Self::NoCluster
            | Self::NoHealthyHost
            | Self::Unresolved(_)
            | Self::Timeout
            | Self::PerTryTimeout
            | Self::PerTryIdleTimeout
            | Self::MaxStreamDuration
            | Self::RequestBody(_)
            | Self::Answered(_) => return None,
        })
    }

    /// `%RESPONSE_CODE_DETAILS%`
    pub(crate) fn details(&self) -> Cow<'static, str> {
        if let Some(reason) = self.reset_reason() {
            let transport = self.transport_failure().map(|t| format!("|{t}")).unwrap_or_default();
            return Cow::Owned(
                format!("upstream_reset_before_response_started{{{reason}{transport}}}").replace(' ', "_"),
            );
        }
        match self {
            Self::NoCluster => "cluster_not_found".into(),
            Self::NoHealthyHost => "no_healthy_upstream".into(),
            Self::Unresolved(details) => details.clone(),
            Self::Timeout => "response_timeout".into(),
            Self::PerTryTimeout => "upstream_per_try_timeout".into(),
            Self::PerTryIdleTimeout => "upstream_per_try_idle_timeout".into(),
            Self::MaxStreamDuration => "upstream_max_stream_duration_reached".into(),
            Self::RequestBody(error) => error.details.clone(),
            Self::Answered(reply) => reply.details.clone(),
            _ => "upstream_reset_before_response_started".into(),
        }
    }

    /// The reply to the client, after so many attempts.
    pub(crate) fn reply_after(&self, attempts: u32) -> LocalReply {
        match self.reset_reason() {
            Some(reason) if attempts > 1 => {
                self.reply().body(format!("{RESET}retried and the latest reset reason: {reason}"))
            }
            _ => self.reply(),
        }
    }

    /// The reply to the client.
    pub(crate) fn reply(&self) -> LocalReply {
        if let Self::Answered(reply) = self {
            return LocalReply::clone(reply);
        }
        let mut reply = LocalReply::new(self.status(), self.details());
        reply.flags = match self {
            Self::RequestBody(error) => error.flags,
            _ => self.flag().into(),
        };
        if self.is_overflow() {
            reply.headers.insert(&OVERLOADED, HeaderValue::from_static("true"));
        }
        reply.body(self.body())
    }

    fn body(&self) -> String {
        if let Some(reason) = self.reset_reason() {
            return format!("{RESET}reset reason: {reason}");
        }
        match self {
            Self::NoHealthyHost | Self::Unresolved(_) => "no healthy upstream",
            Self::Timeout | Self::PerTryTimeout | Self::PerTryIdleTimeout => "upstream request timeout",
            Self::MaxStreamDuration => "upstream max stream duration reached",
            _ => "",
        }
        .to_owned()
    }
}

impl From<ExchangeFailure> for Failure {
    fn from(failure: ExchangeFailure) -> Self {
        match failure {
            ExchangeFailure::Closed | ExchangeFailure::Io(_) => Self::ConnectionTermination,
            ExchangeFailure::Protocol(_) => Self::Protocol,
            ExchangeFailure::Reset | ExchangeFailure::TooManyHeaders | ExchangeFailure::HeadersTooLarge => {
                Self::RemoteReset
            }
            ExchangeFailure::Refused | ExchangeFailure::GoneAway => Self::RefusedStream,
            ExchangeFailure::RequestBody(error) => Self::RequestBody(error),
        }
    }
}

impl From<Failure> for UpstreamError {
    fn from(failure: Failure) -> Self {
        Self { flag: failure.flag(), reason: failure.body(), details: failure.details() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(failure: Failure, status: u16, flag: &str, details: &str, body: &str) {
        let reply = failure.reply();
        let flags: Vec<&str> = reply.flags.iter().map(ResponseFlag::short).collect();
        assert_eq!((reply.status.as_u16(), &*flags.join(","), &*reply.details), (status, flag, details));
        assert_eq!(reply.body, body);
    }

    #[test]
    fn replies_are_envoys_word_for_word() {
        let reset =
            |reason| format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}");
        let remote = PoolFailure::Remote("delayed connect error: Connection refused".into());
        check(
            Failure::Pool(remote),
            503,
            "UF",
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
            &reset("remote connection failure"),
        );
        check(
            Failure::Pool(PoolFailure::Local("failed to bind to 10.9.9.9:0: Cannot assign requested address".into())),
            503,
            "UF",
            "upstream_reset_before_response_started{local_connection_failure|failed_to_bind_to_10.9.9.9:0:_Cannot_assign_\
             requested_address}",
            &reset("local connection failure"),
        );
        check(
            Failure::Pool(PoolFailure::Timeout),
            503,
            "UF",
            "upstream_reset_before_response_started{connection_timeout}",
            &reset("connection timeout"),
        );
        let overflow = "upstream_reset_before_response_started{overflow}";
        check(Failure::Pool(PoolFailure::Overflow), 503, "UO", overflow, &reset("overflow"));
        check(Failure::RequestOverflow, 503, "UO", overflow, &reset("overflow"));
        check(
            Failure::ConnectionTermination,
            503,
            "UC",
            "upstream_reset_before_response_started{connection_termination}",
            &reset("connection termination"),
        );
        check(
            Failure::Protocol,
            502,
            "UPE",
            "upstream_reset_before_response_started{protocol_error}",
            &reset("protocol error"),
        );
        check(Failure::NoHealthyHost, 503, "UH", "no_healthy_upstream", "no healthy upstream");
        check(Failure::NoCluster, 503, "NC", "cluster_not_found", "");
        check(Failure::Timeout, 504, "UT", "response_timeout", "upstream request timeout");
    }

    #[test]
    fn who_calls_by_itself_is_told_the_same() {
        assert_eq!(
            UpstreamError::from(Failure::ConnectionTermination).to_string(),
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination\
             {upstream_reset_before_response_started{connection_termination}}"
        );
    }

    #[test]
    fn an_overflow_says_so_in_a_header() {
        assert_eq!(Failure::RequestOverflow.reply().headers.get("x-envoy-overloaded").unwrap(), "true");
        assert!(Failure::Protocol.reply().headers.is_empty());
    }
}
