//! What an operator may look at while it is evaluated.

use std::time::SystemTime;

use http::HeaderMap;
use tokio::time::Instant;

use crate::StreamInfo;
use crate::cel::Activation;

/// The request head as the operators see it; pseudo-headers are fields, whatever the HTTP version.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// `:method`.
    pub method: &'a str,
    /// `:scheme`; empty if there is none.
    pub scheme: &'a str,
    /// `:authority`, which is also `host`; empty if there is none.
    pub authority: &'a str,
    /// `:path` with its query; empty if there is none.
    pub path: &'a str,
    /// `:protocol` of an extended CONNECT.
    pub protocol: Option<&'a str>,
    /// The other headers.
    pub headers: &'a HeaderMap,
}

/// The response head as the operators see it.
#[derive(Clone, Copy, Debug)]
pub struct ResponseView<'a> {
    /// `:status`.
    pub status: u16,
    /// The other headers.
    pub headers: &'a HeaderMap,
}

/// When a record is written (`%ACCESS_LOG_TYPE%`); the numbers are those of `envoy.data.accesslog.v3.AccessLogType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are Envoy's and say it all")]
pub enum AccessLogType {
    #[default]
    NotSet = 0,
    TcpUpstreamConnected = 1,
    TcpPeriodic = 2,
    TcpConnectionEnd = 3,
    DownstreamStart = 4,
    DownstreamPeriodic = 5,
    DownstreamEnd = 6,
    UpstreamPoolReady = 7,
    UpstreamPeriodic = 8,
    UpstreamEnd = 9,
    DownstreamTunnelSuccessfullyEstablished = 10,
    UdpTunnelUpstreamConnected = 11,
    UdpPeriodic = 12,
    UdpSessionEnd = 13,
    TcpConnectionStart = 14,
}

impl AccessLogType {
    /// Whether the record is of an attempt to get a response from a host.
    pub(crate) fn is_of_attempt(self) -> bool {
        matches!(self, Self::UpstreamPoolReady | Self::UpstreamPeriodic | Self::UpstreamEnd)
    }

    /// The form of `%ACCESS_LOG_TYPE%`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotSet => "NotSet",
            Self::TcpUpstreamConnected => "TcpUpstreamConnected",
            Self::TcpPeriodic => "TcpPeriodic",
            Self::TcpConnectionEnd => "TcpConnectionEnd",
            Self::DownstreamStart => "DownstreamStart",
            Self::DownstreamPeriodic => "DownstreamPeriodic",
            Self::DownstreamEnd => "DownstreamEnd",
            Self::UpstreamPoolReady => "UpstreamPoolReady",
            Self::UpstreamPeriodic => "UpstreamPeriodic",
            Self::UpstreamEnd => "UpstreamEnd",
            Self::DownstreamTunnelSuccessfullyEstablished => "DownstreamTunnelSuccessfullyEstablished",
            Self::UdpTunnelUpstreamConnected => "UdpTunnelUpstreamConnected",
            Self::UdpPeriodic => "UdpPeriodic",
            Self::UdpSessionEnd => "UdpSessionEnd",
            Self::TcpConnectionStart => "TcpConnectionStart",
        }
    }
}

/// Everything a format is evaluated on. Heads that do not exist (yet) are `None`; their operators have no value.
#[derive(Clone, Copy)]
pub struct FormatCx<'a> {
    /// The stream.
    pub info: &'a StreamInfo,
    /// The request head, as it now is.
    pub request: Option<RequestView<'a>>,
    /// The response head, as it now is.
    pub response: Option<ResponseView<'a>>,
    /// The response's trailers.
    pub trailers: Option<&'a HeaderMap>,
    /// `%LOCAL_REPLY_BODY%`: set while a local reply is formatted, empty in access logs, as in Envoy.
    pub local_reply_body: &'a [u8],
    /// Monotonic time: the end of `%DURATION%` while the stream lives.
    pub now: Instant,
    /// Wall-clock time: `%EMIT_TIME%`.
    pub now_wall: SystemTime,
    /// Why the record is written.
    pub log_type: AccessLogType,
    /// Source of `%UNIQUE_ID%`; a test gives a constant.
    pub random: fn() -> u128,
}

impl<'a> FormatCx<'a> {
    /// A context of the stream alone; the caller sets the heads it has.
    pub fn new(info: &'a StreamInfo, now: Instant, now_wall: SystemTime) -> Self {
        Self {
            info,
            request: None,
            response: None,
            trailers: None,
            local_reply_body: b"",
            now,
            now_wall,
            log_type: AccessLogType::NotSet,
            random: || fastrand::u128(..),
        }
    }

    /// What expressions may look at.
    pub(crate) fn activation(&self) -> Activation<'a> {
        Activation { info: self.info, request: self.request, response: self.response, trailers: self.trailers }
    }
}
