use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3 as pb;
use nuncio_proto::envoy::extensions::load_balancing_policies::common::v3::OrcaOobReportingConfig;
use serde_json::{Map, Value};

use super::{LbPolicy, LocalityLb, LoweredLb, SlowStart};
use crate::metadata::object;
use crate::protocol::duration;

/// Hosts have the weights that follow from what they report of their load.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientWeights {
    /// A host must have reported for so long before what it reports counts.
    pub blackout: Duration,
    /// After so long without a report the last one counts no longer.
    pub expiration: Duration,
    /// How often weights are worked out.
    pub update_period: Duration,
    /// How much the share of requests that fail adds to the utilization.
    pub error_penalty: f64,
    /// Metrics of which the greatest is the utilization.
    pub metrics: Box<[Metric]>,
    /// How hosts report by themselves, beside what their responses say; `None`: they do not.
    pub own_reports: Option<Box<OwnReports>>,
}

/// How hosts report by themselves, out of band.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnReports {
    /// How often they are asked to.
    pub period: Duration,
    /// Where they do, if it is not where they serve.
    pub port: Option<u16>,
    /// The authority of the request; empty: the name of the host.
    pub authority: Box<str>,
    /// What chooses the transport socket.
    pub transport_criteria: Map<String, Value>,
    /// What TLS offers, whatever the transport socket says: HTTP/2.
    pub alpn: Box<[Box<[u8]>]>,
}

/// One number of a load report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metric {
    /// `cpu_utilization`
    Cpu,
    /// `mem_utilization`
    Memory,
    /// `application_utilization`
    Application,
    /// `eps`
    Errors,
    /// `rps_fractional`
    Requests,
    /// A key of `named_metrics`.
    Named(Box<str>),
    /// A key of `utilization`.
    Utilization(Box<str>),
    /// A key of `request_cost`.
    Cost(Box<str>),
}

/// Envoy's `blackout_period`.
const DEFAULT_BLACKOUT: Duration = Duration::from_secs(10);
/// Envoy's `weight_expiration_period`.
const DEFAULT_EXPIRATION: Duration = Duration::from_secs(180);
/// Envoy's `weight_update_period`.
const DEFAULT_UPDATE: Duration = Duration::from_secs(1);
/// Envoy's `oob_reporting_period`.
const DEFAULT_OWN_PERIOD: Duration = Duration::from_secs(10);
/// Envoy: weights are worked out no more often.
const MIN_UPDATE: Duration = Duration::from_millis(100);

// === impl ClientWeights ===

impl ClientWeights {
    /// The policy `ClientSideWeightedRoundRobin`.
    pub(super) fn lower(proto: pb::ClientSideWeightedRoundRobin, cx: &mut LowerCx<'_>) -> Result<LoweredLb, Refused> {
        let pb::ClientSideWeightedRoundRobin {
            enable_oob_load_report,
            oob_reporting_period,
            oob_reporting_config,
            blackout_period,
            weight_expiration_period,
            weight_update_period,
            error_utilization_penalty,
            metric_names_for_computing_utilization: metrics,
            slow_start_config,
        } = proto;
        let is_enabled = enable_oob_load_report.is_some_and(|enabled| enabled.value);
        let own_period = cx.opt("oob_reporting_period", oob_reporting_period, duration)?;
        let own_reports = OwnReports::lower(own_period, oob_reporting_config);
        let blackout = cx.opt("blackout_period", blackout_period, duration)?;
        let expiration = cx.opt("weight_expiration_period", weight_expiration_period, duration)?;
        let update_period = cx.opt("weight_update_period", weight_update_period, duration)?;
        let weights = Self {
            blackout: blackout.unwrap_or(DEFAULT_BLACKOUT),
            expiration: expiration.unwrap_or(DEFAULT_EXPIRATION),
            update_period: update_period.unwrap_or(DEFAULT_UPDATE).max(MIN_UPDATE),
            // Envoy: none where it is not given, whatever its documentation says.
            error_penalty: error_utilization_penalty.map_or(0.0, |penalty| penalty.value.into()),
            metrics: metrics.iter().filter_map(|name| Metric::lower(name)).collect(),
            own_reports: is_enabled.then(|| Box::new(own_reports)),
        };
        let slow_start = SlowStart::lower(slow_start_config, cx)?;
        Ok(LoweredLb {
            slow_start,
            client_weights: Some(Box::new(weights)),
            ..LoweredLb::new(LbPolicy::RoundRobin, LocalityLb::default())
        })
    }
}

// === impl OwnReports ===

impl OwnReports {
    /// Where they serve.
    pub(super) fn every(period: Duration) -> Self {
        Self::lower(Some(period), None)
    }

    fn lower(period: Option<Duration>, config: Option<OrcaOobReportingConfig>) -> Self {
        let OrcaOobReportingConfig { port_value, authority, transport_socket_match_criteria } =
            config.unwrap_or_default();
        Self {
            period: period.filter(|period| !period.is_zero()).unwrap_or(DEFAULT_OWN_PERIOD),
            // Held against 65535 already.
            port: u16::try_from(port_value).ok().filter(|port| *port > 0),
            authority: authority.into(),
            transport_criteria: transport_socket_match_criteria.map(object).unwrap_or_default(),
            alpn: [b"h2"[..].into()].into(),
        }
    }
}

// === impl Metric ===

impl Metric {
    /// `None` for a name that no report has.
    pub(in crate::cluster) fn lower(name: &str) -> Option<Self> {
        Some(match name {
            "cpu_utilization" => Self::Cpu,
            "mem_utilization" => Self::Memory,
            "application_utilization" => Self::Application,
            "eps" => Self::Errors,
            "rps_fractional" => Self::Requests,
            _ => match name.split_once('.')? {
                ("named_metrics", key) => Self::Named(key.into()),
                ("utilization", key) => Self::Utilization(key.into()),
                ("request_cost", key) => Self::Cost(key.into()),
                _ => return None,
            },
        })
    }

    /// Its place in a map, where it has one.
    pub(in crate::cluster) fn key(&self) -> Option<&str> {
        match self {
            Self::Named(key) | Self::Utilization(key) | Self::Cost(key) => Some(key),
            Self::Cpu | Self::Memory | Self::Application | Self::Errors | Self::Requests => None,
        }
    }
}
