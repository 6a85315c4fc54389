//! Durations between two points in the life of a stream.

use std::time::Duration;

use tokio::time::Instant;

use crate::format::FormatCx;

/// A point in time, by the names of `%COMMON_DURATION%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    ConnectionStart,
    Start,
    RequestHeadersEnd,
    RequestEnd,
    UpstreamConnectStart,
    UpstreamConnectEnd,
    UpstreamRequestStart,
    UpstreamRequestEnd,
    UpstreamResponseStart,
    UpstreamResponseBodyStart,
    UpstreamResponseEnd,
    ResponseStart,
    ResponseEnd,
    /// The stream's end, or now while it lives.
    Complete,
    /// A name that nothing sets on a cleartext HTTP stream: US_HS_END, DS_CX_END, or one that the user made up, which
    /// Envoy takes for a point that a filter may set.
    Never,
}

impl Point {
    fn named(name: &str) -> Self {
        match name {
            "DS_CX_BEG" => Self::ConnectionStart,
            "DS_RX_BEG" => Self::Start,
            "DS_RX_HDR_END" => Self::RequestHeadersEnd,
            "DS_RX_END" => Self::RequestEnd,
            "US_CX_BEG" => Self::UpstreamConnectStart,
            "US_CX_END" => Self::UpstreamConnectEnd,
            "US_TX_BEG" => Self::UpstreamRequestStart,
            "US_TX_END" => Self::UpstreamRequestEnd,
            "US_RX_BEG" => Self::UpstreamResponseStart,
            "US_RX_BODY_BEG" => Self::UpstreamResponseBodyStart,
            "US_RX_END" => Self::UpstreamResponseEnd,
            "DS_TX_BEG" => Self::ResponseStart,
            "DS_TX_END" => Self::ResponseEnd,
            _ => Self::Never,
        }
    }

    fn read(self, cx: &FormatCx<'_>) -> Option<Instant> {
        let times = &cx.info.times;
        match self {
            Self::ConnectionStart => Some(cx.info.connection.start),
            Self::Start => Some(cx.info.start),
            Self::RequestHeadersEnd => times.request_headers_end.get(),
            Self::RequestEnd => times.request_end.get(),
            Self::UpstreamConnectStart => times.upstream_connect_start.get(),
            Self::UpstreamConnectEnd => times.upstream_connect_end.get(),
            Self::UpstreamRequestStart => times.upstream_request_start.get(),
            Self::UpstreamRequestEnd => times.upstream_request_end.get(),
            Self::UpstreamResponseStart => times.upstream_response_start.get(),
            Self::UpstreamResponseBodyStart => times.upstream_response_body_start.get(),
            Self::UpstreamResponseEnd => times.upstream_response_end.get(),
            Self::ResponseStart => times.response_start.get(),
            Self::ResponseEnd => times.response_end.get(),
            Self::Complete => Some(times.complete.get().unwrap_or(cx.now)),
            Self::Never => None,
        }
    }
}

/// Milliseconds from one point to another; 0 if they are the other way round.
pub(super) fn millis(cx: &FormatCx<'_>, from: Point, to: Point) -> Option<u64> {
    let (from, to) = (from.read(cx)?, to.read(cx)?);
    u64::try_from(to.saturating_duration_since(from).as_millis()).ok()
}

/// `%COMMON_DURATION(START:END:PRECISION)%`.
#[derive(Debug)]
pub(super) struct CommonDuration {
    from: Point,
    to: Point,
    unit: Unit,
}

#[derive(Clone, Copy, Debug)]
enum Unit {
    Millis,
    Micros,
    Nanos,
}

impl CommonDuration {
    pub(super) fn parse(argument: &str) -> Result<Self, String> {
        let parts: Vec<_> = argument.split(':').collect();
        let (from, to, unit) = match parts[..] {
            [from, to] => (from, to, "ms"),
            [from, to, unit] => (from, to, unit),
            _ => return Err("expected START:END or START:END:PRECISION".to_owned()),
        };
        let unit = match unit {
            "ms" => Unit::Millis,
            "us" => Unit::Micros,
            "ns" => Unit::Nanos,
            _ => return Err(format!("precision {unit:?} is not one of ms, us, ns")),
        };
        Ok(Self { from: Point::named(from), to: Point::named(to), unit })
    }

    /// The duration; `None` if a point was not reached or they are the other way round.
    pub(super) fn measure(&self, cx: &FormatCx<'_>) -> Option<u64> {
        let elapsed: Duration = self.to.read(cx)?.checked_duration_since(self.from.read(cx)?)?;
        let count = match self.unit {
            Unit::Millis => elapsed.as_millis(),
            Unit::Micros => elapsed.as_micros(),
            Unit::Nanos => elapsed.as_nanos(),
        };
        u64::try_from(count).ok()
    }
}
