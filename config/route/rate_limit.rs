//! `rate_limits`: by which descriptors a request is counted against limits.

mod action;

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused, RequestHead};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::r#type::v3::RateLimitUnit;
use nuncio_telemetry::Metadata;
use nuncio_telemetry::format::{Format, FormatCx, Missing};
use proto::rate_limit::r#override::{DynamicMetadata, OverrideSpecifier, RateLimitOverride};
use serde_json::Value;

use super::RouteEntry;
use crate::matcher::MetadataKey;
use action::{Action, Made};

/// One rate limit of a route, a virtual host or a filter.
#[derive(Debug)]
pub struct RateLimit {
    /// Which filters ask about it: those of the same stage.
    pub stage: u32,
    /// Of the runtime, where set.
    pub disable_key: Option<Arc<str>>,
    /// Asked about once the stream is over.
    pub apply_on_stream_done: bool,
    /// `x_ratelimit_option`
    pub headers: RateLimitHeaders,
    actions: Box<[Action]>,
    limit: Option<Limit>,
    hits: Option<HitsAddend>,
}

/// Whether X-RateLimit headers tell clients of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimitHeaders {
    /// As the filter says.
    Inherited,
    /// None.
    Off,
    /// Those of draft 03.
    Draft03,
}

/// What a request is counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Keys and values in order.
    pub entries: Vec<(Arc<str>, String)>,
    /// In place of the limit that the service knows.
    pub limit: Option<LimitOverride>,
}

/// So many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitOverride {
    /// How many.
    pub requests: u32,
    /// In which time.
    pub unit: LimitUnit,
}

/// A span of time; the numbers are Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum LimitUnit {
    Unknown = 0,
    Second = 1,
    Minute = 2,
    Hour = 3,
    Day = 4,
    Month = 5,
    Year = 6,
}

/// By how much a request counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hits {
    /// How much.
    pub number: u64,
    /// It gives back instead of taking.
    pub is_negative: bool,
}

/// `hits_addend` gave no number: the descriptor does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHits;

/// What actions look at.
#[derive(Clone, Copy)]
pub struct RateLimitCx<'a> {
    /// The request.
    pub head: &'a RequestHead,
    /// Its route.
    pub entry: &'a RouteEntry,
    /// Name of the cluster that the route leads to.
    pub cluster: &'a str,
    /// What formats print, with the request.
    pub format: FormatCx<'a>,
}

/// `limit`
#[derive(Debug)]
enum Limit {
    Fixed(LimitOverride),
    Dynamic(MetadataKey),
}

/// `hits_addend`
#[derive(Debug)]
struct HitsAddend {
    number: Number,
    is_negative: bool,
}

#[derive(Debug)]
enum Number {
    Fixed(u64),
    Format(Format),
}

/// Envoy's greatest number of hits.
const MAX_HITS: u64 = 1_000_000_000;

// === impl RateLimit ===

impl RateLimit {
    /// Lowers the message.
    pub fn lower(message: proto::RateLimit, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::RateLimit {
            stage,
            disable_key,
            actions,
            limit,
            hits_addend,
            apply_on_stream_done,
            x_ratelimit_option,
        } = message;
        let actions = cx.each("actions", actions, Action::lower);
        let limit = cx.opt("limit", limit, Limit::lower);
        let hits = cx.opt("hits_addend", hits_addend, HitsAddend::lower);
        Ok(Self {
            stage: stage.map_or(0, |stage| stage.value),
            disable_key: (!disable_key.is_empty()).then(|| disable_key.into()),
            apply_on_stream_done,
            headers: match x_ratelimit_option {
                1 => RateLimitHeaders::Off,
                2 => RateLimitHeaders::Draft03,
                _ => RateLimitHeaders::Inherited,
            },
            actions: actions?.into(),
            limit: limit?,
            hits: hits?.flatten(),
        })
    }

    /// The descriptor of a request; `None` where one of the actions finds nothing to say.
    pub fn descriptor(&self, cx: &RateLimitCx<'_>) -> Option<Descriptor> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            match action.make(cx) {
                Made::Entry(key, value) => entries.push((key, value)),
                Made::Skipped => {}
                Made::Nothing => return None,
            }
        }
        // A service takes no descriptor without entries.
        (!entries.is_empty()).then(|| Descriptor { entries, limit: self.limit.as_ref().and_then(|l| l.of(cx)) })
    }

    /// By how much a request counts, where that is said. Envoy: of the rate limits of filters alone.
    pub fn hits(&self, cx: &RateLimitCx<'_>) -> Result<Option<Hits>, NoHits> {
        self.hits.as_ref().map(|hits| hits.of(cx)).transpose()
    }
}

// === impl Limit ===

impl Limit {
    fn lower(message: proto::rate_limit::Override, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        match message.override_specifier {
            None => Err(cx.invalid("override_specifier is required")),
            Some(OverrideSpecifier::RateLimit(RateLimitOverride { requests_per_unit, unit })) => {
                let unit = RateLimitUnit::try_from(unit).unwrap_or(RateLimitUnit::Unknown);
                Ok(Self::Fixed(LimitOverride { requests: requests_per_unit, unit: unit.into() }))
            }
            Some(OverrideSpecifier::DynamicMetadata(DynamicMetadata { metadata_key })) => {
                cx.at("dynamic_metadata", |cx| MetadataKey::lower(metadata_key, cx)).map(Self::Dynamic)
            }
        }
    }

    fn of(&self, cx: &RateLimitCx<'_>) -> Option<LimitOverride> {
        match self {
            Self::Fixed(limit) => Some(*limit),
            Self::Dynamic(key) => {
                let metadata = cx.format.info.metadata.borrow();
                let fields = key.find(metadata.as_deref()?)?.as_object()?;
                let requests = fields.get("requests_per_unit")?.as_f64()?;
                let unit = RateLimitUnit::from_str_name(fields.get("unit")?.as_str()?)?;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "what is too much is as much as can be"
                )]
                Some(LimitOverride { requests: requests as u32, unit: unit.into() })
            }
        }
    }
}

// === impl HitsAddend ===

impl HitsAddend {
    /// `None` where it says nothing.
    fn lower(message: proto::rate_limit::HitsAddend, cx: &mut LowerCx<'_>) -> Result<Option<Self>, Refused> {
        let proto::rate_limit::HitsAddend { number, format, is_negative_hits } = message;
        let number = match (number, format.is_empty()) {
            (Some(_), false) => return Err(cx.invalid("only one of number and format may be set")),
            (None, true) => return Ok(None),
            (Some(number), true) => Number::Fixed(number.value),
            (None, false) => Number::Format(cx.at("format", |cx| {
                let format = crate::format::format(&format, cx)?;
                match format.is_one_operator() {
                    true => Ok(format),
                    false => Err(cx.invalid("must be one operator and nothing else")),
                }
            })?),
        };
        Ok(Some(Self { number, is_negative: is_negative_hits }))
    }

    fn of(&self, cx: &RateLimitCx<'_>) -> Result<Hits, NoHits> {
        let number = match &self.number {
            Number::Fixed(number) => *number,
            Number::Format(format) => {
                let mut text = Vec::new();
                format.write(&cx.format, Missing::Empty, &mut text);
                let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
                number.filter(|number| *number <= MAX_HITS).ok_or(NoHits)?
            }
        };
        Ok(Hits { number, is_negative: self.is_negative })
    }
}

// === impl LimitUnit ===

impl LimitUnit {
    /// Its name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown unit",
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

impl From<RateLimitUnit> for LimitUnit {
    fn from(unit: RateLimitUnit) -> Self {
        match unit {
            RateLimitUnit::Unknown => Self::Unknown,
            RateLimitUnit::Second => Self::Second,
            RateLimitUnit::Minute => Self::Minute,
            RateLimitUnit::Hour => Self::Hour,
            RateLimitUnit::Day => Self::Day,
            RateLimitUnit::Month => Self::Month,
            RateLimitUnit::Year => Self::Year,
        }
    }
}

/// The text at `key`; nothing else counts.
fn text_at<'a>(key: &MetadataKey, metadata: Option<&'a Metadata>) -> Option<&'a str> {
    metadata.and_then(|metadata| key.find(metadata)).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
