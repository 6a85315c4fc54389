//! `RetryPolicy`: when a request is sent again, how often, and after which wait.

use std::time::Duration;

use http::HeaderName;
use nuncio_filter_api::{InvalidKind, LowerCx, Refused, RuntimeKey};
use nuncio_proto::envoy::config::core::v3::TypedExtensionConfig;
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::extensions::retry::host::omit_canary_hosts::v3::OmitCanaryHostsPredicate;
use nuncio_proto::envoy::extensions::retry::host::omit_host_metadata::v3::OmitHostMetadataConfig;
use nuncio_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use nuncio_proto::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use proto::retry_policy as pb;

use crate::matcher::HeaderMatcher;
use crate::metadata::MetadataMatch;
use crate::protocol::{any_as, duration, message_name, non_zero};
use crate::value::header_name;

/// What `RetryPolicy` says.
#[derive(Debug)]
pub struct RetryPolicy {
    /// `retry_on`
    pub on: RetryOn,
    /// `num_retries`, default 1.
    pub num_retries: u32,
    /// `per_try_timeout`
    pub per_try_timeout: Option<Duration>,
    /// `per_try_idle_timeout`
    pub per_try_idle_timeout: Option<Duration>,
    /// `retriable_status_codes`
    pub status_codes: Box<[u32]>,
    /// `retry_back_off`
    pub back_off: BackOff,
    /// `rate_limited_retry_back_off`
    pub rate_limited: Option<RateLimitedBackOff>,
    /// `retriable_headers` of responses; one that matches is enough.
    pub response_headers: Box<[HeaderMatcher]>,
    /// `retriable_request_headers`: unless one matches, or there are none, nothing is sent again.
    pub request_headers: Box<[HeaderMatcher]>,
    /// `retry_host_predicate`: hosts that a retry rather not goes to.
    pub avoided_hosts: Box<[AvoidedHosts]>,
    /// `retry_priority`: after so many attempts at a time, priorities that were tried are left out.
    pub previous_priorities: Option<u32>,
    /// `host_selection_retry_max_attempts`: how often another host is asked for instead.
    pub host_selections: u32,
    /// `refresh_cluster_on_retry`: a retry may go to another cluster than the attempts before it.
    pub refresh_cluster: bool,
}

/// What is retried: a set of the words of `retry_on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

/// The wait between attempts: a random part of the interval, which doubles each time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    /// `base_interval`, at least 1 ms; without it the runtime or Envoy's default says it.
    base: Option<Duration>,
    /// `max_interval`, default ten times the base.
    max: Option<Duration>,
}

/// The wait that a response asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitedBackOff {
    /// The headers to look at, in order.
    pub headers: Box<[ResetHeader]>,
    /// A longer wait than this is not obeyed. Default 5 min.
    pub max: Duration,
}

/// A header that tells how long to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetHeader {
    /// Its name.
    pub name: HeaderName,
    /// What its number counts.
    pub format: ResetFormat,
}

/// `ResetHeaderFormat`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetFormat {
    /// Seconds from now.
    Seconds,
    /// Seconds since 1970.
    UnixTimestamp,
}

/// A `retry_host_predicate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AvoidedHosts {
    /// Hosts that were tried already.
    Previous,
    /// Hosts whose metadata `envoy.lb` has `canary: true`.
    Canary,
    /// Hosts with this metadata.
    WithMetadata(MetadataMatch),
}

/// Envoy's default of `base_interval`, in milliseconds.
const BASE_INTERVAL: u64 = 25;
/// Envoy's default of `rate_limited_retry_back_off.max_interval`.
const MAX_RESET_INTERVAL: Duration = Duration::from_secs(300);
const MILLISECOND: Duration = Duration::from_millis(1);

macro_rules! retry_on {
    ($($name:ident $bit:literal $word:literal)*) => {
        impl RetryOn {
            $(#[doc = concat!("`", $word, "`")]
            pub const $name: Self = Self(1 << $bit);)*

            /// The words.
            pub fn words(self) -> impl Iterator<Item = &'static str> {
                [$((Self::$name, $word)),*].into_iter().filter(move |(on, _)| self.has(*on)).map(|(_, word)| word)
            }

            /// The word's bit.
            fn of(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

retry_on! {
    SERVER_ERROR 0 "5xx"
    GATEWAY_ERROR 1 "gateway-error"
    RESET 2 "reset"
    RESET_BEFORE_REQUEST 3 "reset-before-request"
    CONNECT_FAILURE 4 "connect-failure"
    ENVOY_RATELIMITED 5 "envoy-ratelimited"
    RETRIABLE_4XX 6 "retriable-4xx"
    REFUSED_STREAM 7 "refused-stream"
    RETRIABLE_STATUS_CODES 8 "retriable-status-codes"
    RETRIABLE_HEADERS 9 "retriable-headers"
    HTTP3_POST_CONNECT_FAILURE 10 "http3-post-connect-failure"
    GRPC_CANCELLED 11 "cancelled"
    GRPC_DEADLINE_EXCEEDED 12 "deadline-exceeded"
    GRPC_INTERNAL 13 "internal"
    GRPC_RESOURCE_EXHAUSTED 14 "resource-exhausted"
    GRPC_UNAVAILABLE 15 "unavailable"
}

/// The first bit that stands for a gRPC status.
const FIRST_GRPC: u32 = 11;

// === impl RetryOn ===

impl RetryOn {
    /// All words of `retry_on`, those of gRPC included. Envoy: an unknown word is passed over.
    pub fn parse(text: &str) -> Self {
        Self(text.split(',').filter_map(|word| Self::of(word.trim())).fold(0, |all, one| all | one.0))
    }

    /// The words of x-envoy-retry-on.
    pub fn parse_http(text: &str) -> Self {
        Self(Self::parse(text).0 & ((1 << FIRST_GRPC) - 1))
    }

    /// The words of x-envoy-retry-grpc-on.
    pub fn parse_grpc(text: &str) -> Self {
        Self(Self::parse(text).0 & !((1 << FIRST_GRPC) - 1))
    }

    /// Both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any of `other` is among them.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing is retried.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

// === impl BackOff ===

impl BackOff {
    /// The interval of the first wait and the longest; what the runtime says counts where the policy says nothing.
    pub fn intervals(self, runtime: &RuntimeKey) -> (Duration, Duration) {
        let base = self.base.unwrap_or_else(|| Duration::from_millis(runtime.integer(BASE_INTERVAL)));
        (base, self.max.unwrap_or_else(|| base.saturating_mul(10)))
    }

    fn lower(message: pb::RetryBackOff, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::RetryBackOff { base_interval, max_interval } = message;
        let base = cx.opt("base_interval", base_interval, duration);
        let max = cx.opt("max_interval", max_interval, duration);
        let base = base?.map(|base| base.max(MILLISECOND));
        let max = max?.map(|max| max.max(MILLISECOND));
        if max.is_some_and(|max| max < base.unwrap_or(Duration::from_millis(BASE_INTERVAL))) {
            return Err(cx.at("max_interval", |cx| cx.invalid("must not be less than base_interval")));
        }
        Ok(Self { base, max })
    }
}

// === impl RateLimitedBackOff ===

impl RateLimitedBackOff {
    fn lower(message: pb::RateLimitedRetryBackOff, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::RateLimitedRetryBackOff { reset_headers, max_interval } = message;
        let headers = cx.each("reset_headers", reset_headers, |header, cx| {
            let pb::ResetHeader { name, format } = header;
            let name = cx.at("name", |cx| header_name(&name, cx))?;
            let format = if format == 1 { ResetFormat::UnixTimestamp } else { ResetFormat::Seconds };
            Ok(ResetHeader { name, format })
        });
        let max = cx.opt("max_interval", max_interval, duration);
        Ok(Self { headers: headers?.into(), max: max?.map_or(MAX_RESET_INTERVAL, |max| max.max(MILLISECOND)) })
    }
}

// === impl RetryPolicy ===

impl RetryPolicy {
    pub(crate) fn lower(message: proto::RetryPolicy, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::RetryPolicy {
            retry_on,
            num_retries,
            per_try_timeout,
            per_try_idle_timeout,
            retry_priority,
            retry_host_predicate,
            retry_options_predicates,
            host_selection_retry_max_attempts,
            retriable_status_codes,
            retry_back_off,
            rate_limited_retry_back_off,
            retriable_headers,
            retriable_request_headers,
            refresh_cluster_on_retry,
        } = message;
        let options = cx.each("retry_options_predicates", retry_options_predicates, options_predicate);
        let per_try_timeout = cx.opt("per_try_timeout", per_try_timeout, duration);
        let per_try_idle = cx.opt("per_try_idle_timeout", per_try_idle_timeout, duration);
        let avoided = cx.each("retry_host_predicate", retry_host_predicate, AvoidedHosts::lower);
        let previous_priorities = cx.opt("retry_priority", retry_priority, update_frequency);
        let back_off = cx.opt("retry_back_off", retry_back_off, BackOff::lower);
        let rate_limited =
            cx.opt("rate_limited_retry_back_off", rate_limited_retry_back_off, RateLimitedBackOff::lower);
        let response_headers = cx.each("retriable_headers", retriable_headers, HeaderMatcher::lower);
        let request_headers = cx.each("retriable_request_headers", retriable_request_headers, HeaderMatcher::lower);
        options?;
        Ok(Self {
            on: RetryOn::parse(&retry_on),
            num_retries: num_retries.map_or(1, |n| n.value),
            per_try_timeout: per_try_timeout?.and_then(non_zero),
            per_try_idle_timeout: per_try_idle?.and_then(non_zero),
            status_codes: retriable_status_codes.into(),
            back_off: back_off?.unwrap_or_default(),
            rate_limited: rate_limited?,
            response_headers: response_headers?.into(),
            request_headers: request_headers?.into(),
            avoided_hosts: avoided?.into(),
            previous_priorities: previous_priorities?,
            host_selections: u32::try_from(host_selection_retry_max_attempts).ok().filter(|n| *n > 0).unwrap_or(1),
            refresh_cluster: refresh_cluster_on_retry,
        })
    }
}

/// Envoy has the category, and nothing in it: it knows none either.
fn options_predicate(predicate: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let TypedExtensionConfig { name: _, typed_config } = predicate;
    cx.at("typed_config", |cx| {
        let any = typed_config.ok_or_else(|| cx.invalid("is required"))?;
        Err(cx.record(InvalidKind::UnknownType, format!("{:?} is no retry options predicate", message_name(&any))))
    })
}

/// `update_frequency` of the one priority predicate that there is.
fn update_frequency(message: pb::RetryPriority, cx: &mut LowerCx<'_>) -> Result<u32, Refused> {
    let pb::RetryPriority { name: _, config_type } = message;
    let Some(pb::retry_priority::ConfigType::TypedConfig(any)) = config_type else {
        return Err(cx.invalid("typed_config is required"));
    };
    cx.at("typed_config", |cx| {
        let PreviousPrioritiesConfig { update_frequency } = any_as(&any, cx)?;
        let frequency = u32::try_from(update_frequency).ok().filter(|n| *n > 0);
        frequency.ok_or_else(|| cx.at("update_frequency", |cx| cx.invalid("must be greater than 0")))
    })
}

impl AvoidedHosts {
    fn lower(message: pb::RetryHostPredicate, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::RetryHostPredicate { name: _, config_type } = message;
        let Some(pb::retry_host_predicate::ConfigType::TypedConfig(any)) = config_type else {
            return Err(cx.invalid("typed_config is required"));
        };
        cx.at("typed_config", |cx| match message_name(&any).rsplit('.').next() {
            Some("PreviousHostsPredicate") => any_as(&any, cx).map(|PreviousHostsPredicate {}| Self::Previous),
            Some("OmitHostMetadataConfig") => any_as(&any, cx).map(|OmitHostMetadataConfig { metadata_match }| {
                Self::WithMetadata(metadata_match.and_then(MetadataMatch::lower).unwrap_or_default())
            }),
            _ => any_as(&any, cx).map(|OmitCanaryHostsPredicate {}| Self::Canary),
        })
    }
}

/// What `HedgePolicy` says. Envoy itself does nothing with its other fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hedging {
    /// An attempt that takes too long is given up for the next.
    Off,
    /// `hedge_on_per_try_timeout`: it goes on beside the next.
    OnPerTryTimeout,
}

impl Hedging {
    pub(super) fn lower(message: proto::HedgePolicy) -> Self {
        let proto::HedgePolicy { initial_requests: _, additional_request_chance: _, hedge_on_per_try_timeout } =
            message;
        if hedge_on_per_try_timeout { Self::OnPerTryTimeout } else { Self::Off }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_trimmed_and_unknown_ones_passed_over() {
        let on = RetryOn::parse("5xx, reset,bogus,cancelled");
        assert!(on.has(RetryOn::SERVER_ERROR) && on.has(RetryOn::RESET) && on.has(RetryOn::GRPC_CANCELLED));
        assert!(!on.has(RetryOn::GATEWAY_ERROR));
        assert_eq!(RetryOn::parse_http("5xx,cancelled"), RetryOn::SERVER_ERROR);
        assert_eq!(RetryOn::parse_grpc("5xx,cancelled"), RetryOn::GRPC_CANCELLED);
        assert!(RetryOn::parse("").is_empty());
    }
}
