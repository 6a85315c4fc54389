use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::cluster as pb;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::extensions::load_balancing_policies::common::v3 as common;
use nuncio_proto::envoy::r#type::v3::Percent;
use nuncio_proto::google::protobuf::Duration as ProtoDuration;

use super::RuntimeNumber;
use crate::protocol::duration;

/// A host that is new, or that passes its checks again, gets its share of the load little by little.
#[derive(Clone, Debug, PartialEq)]
pub struct SlowStart {
    /// How long it takes.
    pub window: Duration,
    /// See [`SlowStart::aggression`].
    pub aggression: RuntimeNumber,
    /// The part of its share that a host gets at least.
    pub min_share: f64,
}

/// Envoy's `min_weight_percent`.
const DEFAULT_MIN_PERCENT: f64 = 10.0;

// === impl SlowStart ===

impl SlowStart {
    /// The share grows with the time in the window to the power of 1 through this.
    pub fn aggression(&self) -> f64 {
        // Envoy: a value that makes no sense is passed over.
        Some(self.aggression.get()).filter(|aggression| *aggression > 0.0).unwrap_or(1.0)
    }

    /// That of `lb_policy`. `None` where there is none.
    pub(super) fn lower_config(
        proto: Option<pb::SlowStartConfig>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Box<Self>>, Refused> {
        let Some(pb::SlowStartConfig { slow_start_window, aggression, min_weight_percent }) = proto else {
            return Ok(None);
        };
        cx.at("slow_start_config", |cx| Self::new(slow_start_window, aggression, min_weight_percent, cx))
    }

    /// That of a policy. `None` where there is none.
    pub(super) fn lower(
        proto: Option<common::SlowStartConfig>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Box<Self>>, Refused> {
        let Some(common::SlowStartConfig { slow_start_window, aggression, min_weight_percent }) = proto else {
            return Ok(None);
        };
        cx.at("slow_start_config", |cx| Self::new(slow_start_window, aggression, min_weight_percent, cx))
    }

    fn new(
        window: Option<ProtoDuration>,
        aggression: Option<core::RuntimeDouble>,
        min_percent: Option<Percent>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Box<Self>>, Refused> {
        let window = cx.opt("slow_start_window", window, duration)?.unwrap_or_default();
        let slow_start = Self {
            window,
            aggression: RuntimeNumber::lower(aggression, cx),
            min_share: min_percent.map_or(DEFAULT_MIN_PERCENT, |percent| percent.value) / 100.0,
        };
        // Envoy counts in milliseconds.
        Ok((window >= Duration::from_millis(1)).then(|| Box::new(slow_start)))
    }
}
