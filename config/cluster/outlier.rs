//! Outlier detection: `envoy.config.cluster.v3.OutlierDetection`.

use std::sync::Arc;
use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused, RuntimeKey};
use nuncio_proto::envoy::config::cluster::v3::OutlierDetection as Proto;
use nuncio_proto::google::protobuf;

use crate::protocol::duration;
use crate::refuse_set;

/// Envoy's `interval`.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
/// Envoy's `base_ejection_time`.
const DEFAULT_BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
/// Envoy's `max_ejection_time`, where `base_ejection_time` is not longer.
const DEFAULT_MAX_EJECTION_TIME: Duration = Duration::from_secs(300);

/// When a host is taken for an outlier, and for how long it is then left out.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierDetection {
    /// Time between two looks at the hosts.
    pub interval: Duration,
    /// How long the first ejection in a row lasts; the others last so many times as long.
    pub base_ejection_time: Duration,
    /// The longest that an ejection lasts.
    pub max_ejection_time: Duration,
    /// A random time below this is added to each ejection.
    pub max_ejection_time_jitter: Duration,
    /// No more than this share of the hosts is ejected, in percent.
    pub max_ejection_percent: u32,
    /// Whether one host is ejected even if that is more than the share.
    pub always_eject_one_host: bool,
    /// Whether what goes wrong here or on the way is told apart from what hosts answer.
    pub split_errors: bool,
    /// Whether a good health check ends an ejection.
    pub health_check_ends_ejection: bool,
    /// Whether a host whose responses call it degraded is degraded for a while.
    pub detects_degraded: bool,
    /// Responses of 5xx in a row.
    pub consecutive_5xx: Consecutive,
    /// Responses of 502, 503 and 504 in a row.
    pub consecutive_gateway_failure: Consecutive,
    /// Failures of connections in a row, where errors are told apart.
    pub consecutive_local_origin_failure: Consecutive,
    /// Hosts whose share of good responses is far below the mean.
    pub success_rate: SuccessRate,
    /// Hosts whose share of failures is beyond a limit.
    pub failure_percentage: FailurePercentage,
    /// What the runtime may say otherwise.
    pub keys: Arc<OutlierKeys>,
}

/// The runtime's keys by the names of the fields, below `outlier_detection`.
#[derive(Debug, Default, PartialEq)]
pub struct OutlierKeys {
    interval: RuntimeKey,
    base_ejection_time: RuntimeKey,
    max_ejection_time: RuntimeKey,
    max_ejection_time_jitter: RuntimeKey,
    max_ejection_percent: RuntimeKey,
    consecutive_5xx: RuntimeKey,
    consecutive_gateway_failure: RuntimeKey,
    consecutive_local_origin_failure: RuntimeKey,
    enforcing_consecutive_5xx: RuntimeKey,
    enforcing_consecutive_gateway_failure: RuntimeKey,
    enforcing_consecutive_local_origin_failure: RuntimeKey,
    success_rate_minimum_hosts: RuntimeKey,
    success_rate_request_volume: RuntimeKey,
    success_rate_stdev_factor: RuntimeKey,
    enforcing_success_rate: RuntimeKey,
    enforcing_local_origin_success_rate: RuntimeKey,
    failure_percentage_minimum_hosts: RuntimeKey,
    failure_percentage_request_volume: RuntimeKey,
    failure_percentage_threshold: RuntimeKey,
    enforcing_failure_percentage: RuntimeKey,
    enforcing_failure_percentage_local_origin: RuntimeKey,
}

/// A number of failures in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consecutive {
    /// So many make an outlier; 0 never does.
    pub count: u32,
    /// How often an outlier is ejected, in percent.
    pub enforcing: u32,
}

/// Detection by distance from the mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SuccessRate {
    /// So many hosts must have had enough requests.
    pub minimum_hosts: u32,
    /// Requests in an interval that are enough.
    pub request_volume: u32,
    /// Distance in standard deviations.
    pub stdev_factor: f64,
    /// How often an outlier is ejected, in percent.
    pub enforcing: u32,
    /// The same for failures of connections, where errors are told apart.
    pub enforcing_local_origin: u32,
}

/// Detection by a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// So many hosts must have had enough requests.
    pub minimum_hosts: u32,
    /// Requests in an interval that are enough.
    pub request_volume: u32,
    /// The limit, in percent.
    pub threshold: u32,
    /// How often an outlier is ejected, in percent.
    pub enforcing: u32,
    /// The same for failures of connections, where errors are told apart.
    pub enforcing_local_origin: u32,
}

// === impl OutlierDetection ===

impl OutlierDetection {
    /// With what the runtime says now in place of what is configured.
    pub fn now(&self) -> Self {
        let keys = &*self.keys;
        Self {
            interval: millis(&keys.interval, self.interval),
            base_ejection_time: millis(&keys.base_ejection_time, self.base_ejection_time),
            max_ejection_time: millis(&keys.max_ejection_time, self.max_ejection_time),
            max_ejection_time_jitter: millis(&keys.max_ejection_time_jitter, self.max_ejection_time_jitter),
            max_ejection_percent: share(&keys.max_ejection_percent, self.max_ejection_percent),
            consecutive_5xx: Consecutive {
                count: self.limit_of_5xx(),
                enforcing: share(&keys.enforcing_consecutive_5xx, self.consecutive_5xx.enforcing),
            },
            consecutive_gateway_failure: Consecutive {
                count: self.limit_of_gateway_failures(),
                enforcing: share(
                    &keys.enforcing_consecutive_gateway_failure,
                    self.consecutive_gateway_failure.enforcing,
                ),
            },
            consecutive_local_origin_failure: Consecutive {
                count: self.limit_of_local_origin_failures(),
                enforcing: share(
                    &keys.enforcing_consecutive_local_origin_failure,
                    self.consecutive_local_origin_failure.enforcing,
                ),
            },
            success_rate: self.success_rate.now(keys),
            failure_percentage: self.failure_percentage.now(keys),
            keys: self.keys.clone(),
            ..*self
        }
    }

    /// So many responses of 5xx in a row make an outlier now.
    pub fn limit_of_5xx(&self) -> u32 {
        count(&self.keys.consecutive_5xx, self.consecutive_5xx.count)
    }

    /// So many responses of 502, 503 and 504 in a row make an outlier now.
    pub fn limit_of_gateway_failures(&self) -> u32 {
        count(&self.keys.consecutive_gateway_failure, self.consecutive_gateway_failure.count)
    }

    /// So many failures of connections in a row make an outlier now.
    pub fn limit_of_local_origin_failures(&self) -> u32 {
        count(&self.keys.consecutive_local_origin_failure, self.consecutive_local_origin_failure.count)
    }

    pub(super) fn lower(proto: Proto, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Proto {
            consecutive_5xx,
            interval,
            base_ejection_time,
            max_ejection_percent,
            enforcing_consecutive_5xx,
            enforcing_success_rate,
            success_rate_minimum_hosts,
            success_rate_request_volume,
            success_rate_stdev_factor,
            consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure,
            split_external_local_origin_errors,
            consecutive_local_origin_failure,
            enforcing_consecutive_local_origin_failure,
            enforcing_local_origin_success_rate,
            failure_percentage_threshold,
            enforcing_failure_percentage,
            enforcing_failure_percentage_local_origin,
            failure_percentage_minimum_hosts,
            failure_percentage_request_volume,
            max_ejection_time,
            max_ejection_time_jitter,
            successful_active_health_check_uneject_host,
            monitors,
            always_eject_one_host,
            detect_degraded_hosts,
        } = proto;
        let supported = refuse_set!(cx; monitors);
        let base = cx.opt("base_ejection_time", base_ejection_time, positive)?.unwrap_or(DEFAULT_BASE_EJECTION_TIME);
        let max = cx.opt("max_ejection_time", max_ejection_time, positive)?;
        if max.is_some_and(|max| max < base) {
            return Err(cx.at("max_ejection_time", |cx| cx.invalid("cannot be smaller than base_ejection_time")));
        }
        supported?;
        Ok(Self {
            interval: cx.opt("interval", interval, positive)?.unwrap_or(DEFAULT_INTERVAL),
            base_ejection_time: base,
            max_ejection_time: max.unwrap_or(DEFAULT_MAX_EJECTION_TIME.max(base)),
            max_ejection_time_jitter: cx
                .opt("max_ejection_time_jitter", max_ejection_time_jitter, duration)?
                .unwrap_or_default(),
            max_ejection_percent: percent("max_ejection_percent", max_ejection_percent, 10, cx)?,
            always_eject_one_host: always_eject_one_host.is_some_and(|v| v.value),
            split_errors: split_external_local_origin_errors,
            health_check_ends_ejection: successful_active_health_check_uneject_host.is_none_or(|v| v.value),
            detects_degraded: detect_degraded_hosts.is_some_and(|v| v.value),
            consecutive_5xx: Consecutive {
                count: number(consecutive_5xx, 5),
                enforcing: percent("enforcing_consecutive_5xx", enforcing_consecutive_5xx, 100, cx)?,
            },
            consecutive_gateway_failure: Consecutive {
                count: number(consecutive_gateway_failure, 5),
                enforcing: percent(
                    "enforcing_consecutive_gateway_failure",
                    enforcing_consecutive_gateway_failure,
                    0,
                    cx,
                )?,
            },
            consecutive_local_origin_failure: Consecutive {
                count: number(consecutive_local_origin_failure, 5),
                enforcing: percent(
                    "enforcing_consecutive_local_origin_failure",
                    enforcing_consecutive_local_origin_failure,
                    100,
                    cx,
                )?,
            },
            success_rate: SuccessRate {
                minimum_hosts: number(success_rate_minimum_hosts, 5),
                request_volume: number(success_rate_request_volume, 100),
                stdev_factor: f64::from(number(success_rate_stdev_factor, 1900)) / 1000.0,
                enforcing: percent("enforcing_success_rate", enforcing_success_rate, 100, cx)?,
                enforcing_local_origin: percent(
                    "enforcing_local_origin_success_rate",
                    enforcing_local_origin_success_rate,
                    100,
                    cx,
                )?,
            },
            failure_percentage: FailurePercentage {
                minimum_hosts: number(failure_percentage_minimum_hosts, 5),
                request_volume: number(failure_percentage_request_volume, 50),
                threshold: percent("failure_percentage_threshold", failure_percentage_threshold, 85, cx)?,
                enforcing: percent("enforcing_failure_percentage", enforcing_failure_percentage, 0, cx)?,
                enforcing_local_origin: percent(
                    "enforcing_failure_percentage_local_origin",
                    enforcing_failure_percentage_local_origin,
                    0,
                    cx,
                )?,
            },
            keys: Arc::new(OutlierKeys::lower(cx)),
        })
    }
}

// === impl SuccessRate ===

impl SuccessRate {
    fn now(&self, keys: &OutlierKeys) -> Self {
        Self {
            minimum_hosts: count(&keys.success_rate_minimum_hosts, self.minimum_hosts),
            request_volume: count(&keys.success_rate_request_volume, self.request_volume),
            stdev_factor: keys.success_rate_stdev_factor.set_integer().map_or(self.stdev_factor, |n| n as f64 / 1000.0),
            enforcing: share(&keys.enforcing_success_rate, self.enforcing),
            enforcing_local_origin: share(&keys.enforcing_local_origin_success_rate, self.enforcing_local_origin),
        }
    }
}

// === impl FailurePercentage ===

impl FailurePercentage {
    fn now(&self, keys: &OutlierKeys) -> Self {
        let local_origin = &keys.enforcing_failure_percentage_local_origin;
        Self {
            minimum_hosts: count(&keys.failure_percentage_minimum_hosts, self.minimum_hosts),
            request_volume: count(&keys.failure_percentage_request_volume, self.request_volume),
            threshold: count(&keys.failure_percentage_threshold, self.threshold),
            enforcing: share(&keys.enforcing_failure_percentage, self.enforcing),
            enforcing_local_origin: share(local_origin, self.enforcing_local_origin),
        }
    }
}

// === impl OutlierKeys ===

impl OutlierKeys {
    fn lower(cx: &LowerCx<'_>) -> Self {
        let key = |name: &str| cx.runtime(&format!("outlier_detection.{name}"));
        Self {
            interval: key("interval_ms"),
            base_ejection_time: key("base_ejection_time_ms"),
            max_ejection_time: key("max_ejection_time_ms"),
            max_ejection_time_jitter: key("max_ejection_time_jitter_ms"),
            max_ejection_percent: key("max_ejection_percent"),
            consecutive_5xx: key("consecutive_5xx"),
            consecutive_gateway_failure: key("consecutive_gateway_failure"),
            consecutive_local_origin_failure: key("consecutive_local_origin_failure"),
            enforcing_consecutive_5xx: key("enforcing_consecutive_5xx"),
            enforcing_consecutive_gateway_failure: key("enforcing_consecutive_gateway_failure"),
            enforcing_consecutive_local_origin_failure: key("enforcing_consecutive_local_origin_failure"),
            success_rate_minimum_hosts: key("success_rate_minimum_hosts"),
            success_rate_request_volume: key("success_rate_request_volume"),
            success_rate_stdev_factor: key("success_rate_stdev_factor"),
            enforcing_success_rate: key("enforcing_success_rate"),
            enforcing_local_origin_success_rate: key("enforcing_local_origin_success_rate"),
            failure_percentage_minimum_hosts: key("failure_percentage_minimum_hosts"),
            failure_percentage_request_volume: key("failure_percentage_request_volume"),
            failure_percentage_threshold: key("failure_percentage_threshold"),
            enforcing_failure_percentage: key("enforcing_failure_percentage"),
            enforcing_failure_percentage_local_origin: key("enforcing_failure_percentage_local_origin"),
        }
    }
}

fn millis(key: &RuntimeKey, configured: Duration) -> Duration {
    key.set_integer().map_or(configured, Duration::from_millis)
}

fn count(key: &RuntimeKey, configured: u32) -> u32 {
    u32::try_from(key.integer(configured.into())).unwrap_or(u32::MAX)
}

/// No more than all, in percent.
fn share(key: &RuntimeKey, configured: u32) -> u32 {
    count(key, configured).min(100)
}

fn positive(proto: protobuf::Duration, cx: &mut LowerCx<'_>) -> Result<Duration, Refused> {
    let value = duration(proto, cx)?;
    if value.is_zero() { Err(cx.invalid("must be greater than 0s")) } else { Ok(value) }
}

fn number(proto: Option<protobuf::UInt32Value>, default: u32) -> u32 {
    proto.map_or(default, |v| v.value)
}

fn percent(
    field: &str,
    proto: Option<protobuf::UInt32Value>,
    default: u32,
    cx: &mut LowerCx<'_>,
) -> Result<u32, Refused> {
    match number(proto, default) {
        value @ 0..=100 => Ok(value),
        _ => Err(cx.at(field, |cx| cx.invalid("must be no more than 100"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower(proto: Proto) -> Result<OutlierDetection, String> {
        let env = crate::testing::env();
        let mut cx = LowerCx::new(&env);
        let lowered = OutlierDetection::lower(proto, &mut cx);
        lowered.map_err(|_| cx.finish().iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn detection_that_says_nothing_has_envoys_defaults() {
        let seconds = Duration::from_secs;
        let lowered = lower(Proto::default()).unwrap();
        assert_eq!((lowered.interval, lowered.base_ejection_time), (seconds(10), seconds(30)));
        assert_eq!((lowered.max_ejection_time, lowered.max_ejection_time_jitter), (seconds(300), seconds(0)));
        assert_eq!((lowered.max_ejection_percent, lowered.always_eject_one_host), (10, false));
        assert!(lowered.health_check_ends_ejection && !lowered.split_errors);
        assert_eq!(lowered.consecutive_5xx, Consecutive { count: 5, enforcing: 100 });
        assert_eq!(lowered.consecutive_gateway_failure, Consecutive { count: 5, enforcing: 0 });
        assert_eq!(lowered.consecutive_local_origin_failure, Consecutive { count: 5, enforcing: 100 });
        let SuccessRate { minimum_hosts, request_volume, stdev_factor, enforcing, enforcing_local_origin } =
            lowered.success_rate;
        assert_eq!((minimum_hosts, request_volume, stdev_factor), (5, 100, 1.9));
        assert_eq!((enforcing, enforcing_local_origin), (100, 100));
        let expected = FailurePercentage {
            minimum_hosts: 5,
            request_volume: 50,
            threshold: 85,
            enforcing: 0,
            enforcing_local_origin: 0,
        };
        assert_eq!(lowered.failure_percentage, expected);
    }

    #[test]
    fn the_longest_ejection_is_no_shorter_than_the_first() {
        let time = |seconds| Some(protobuf::Duration { seconds, nanos: 0 });
        let long = Proto { base_ejection_time: time(400), ..Proto::default() };
        assert_eq!(lower(long).unwrap().max_ejection_time, Duration::from_secs(400));
        let wrong = Proto { base_ejection_time: time(400), max_ejection_time: time(100), ..Proto::default() };
        assert_eq!(lower(wrong).unwrap_err(), "max_ejection_time: cannot be smaller than base_ejection_time");
    }

    #[test]
    fn what_is_out_of_range_or_not_implemented_is_refused_by_name() {
        let value = |value| Some(protobuf::UInt32Value { value });
        let beyond = Proto { enforcing_success_rate: value(101), ..Proto::default() };
        assert_eq!(lower(beyond).unwrap_err(), "enforcing_success_rate: must be no more than 100");
        let monitors = Proto { monitors: vec![Default::default()], ..Proto::default() };
        assert_eq!(lower(monitors).unwrap_err(), "monitors: not implemented yet");
    }
}
