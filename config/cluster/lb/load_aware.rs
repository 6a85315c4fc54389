use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::load_balancing_policies::load_aware_locality::v3 as pb;

use super::client_weights::{Metric, OwnReports};
use super::{LocalityLb, LoweredLb};
use crate::cluster::Locality;
use crate::protocol::duration;

/// A locality gets as many requests as its hosts report that they can take.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadAware {
    /// Where this proxy stands.
    pub local: Option<Locality>,
    /// How often the shares are worked out.
    pub update_period: Duration,
    /// Metrics of which the greatest is the utilization.
    pub metrics: Box<[Metric]>,
    /// The local locality takes all while its utilization is no more above that of the others.
    pub variance_threshold: f64,
    /// How much of the utilization is that of the last period; the rest is what it was before.
    pub blend: f64,
    /// What the other localities get at least, so that they report.
    pub probe_fraction: f64,
    /// After so long without a report the last one counts no longer; `None`: it does.
    pub expiration: Option<Duration>,
    /// How hosts report by themselves, beside what their responses say; `None`: they do not.
    pub own_reports: Option<Box<OwnReports>>,
}

/// Envoy's `weight_update_period`.
const DEFAULT_UPDATE: Duration = Duration::from_secs(1);
/// Envoy's `utilization_variance_threshold`.
const DEFAULT_VARIANCE: f64 = 0.1;
/// Envoy's `smoothing_time_constant`.
const DEFAULT_SMOOTHING: Duration = Duration::from_secs(5);
/// Envoy's `remote_probe_fraction`.
const DEFAULT_PROBE: f64 = 0.03;
/// Envoy's `weight_expiration_period`.
const DEFAULT_EXPIRATION: Duration = Duration::from_secs(180);

// === impl LoadAware ===

impl LoadAware {
    /// The policy `LoadAwareLocality`.
    pub(super) fn lower(
        proto: pb::LoadAwareLocality,
        cluster: &str,
        cx: &mut LowerCx<'_>,
    ) -> Result<LoweredLb, Refused> {
        let pb::LoadAwareLocality {
            endpoint_picking_policy,
            weight_update_period,
            metric_names_for_computing_utilization: metrics,
            utilization_variance_threshold,
            smoothing_time_constant,
            remote_probe_fraction,
            weight_expiration_period,
            enable_oob_load_report,
            oob_reporting_period,
        } = proto;
        let list = endpoint_picking_policy.unwrap_or_default();
        let child = cx.at("endpoint_picking_policy", |cx| {
            let child =
                LoweredLb::lower_list(list, cluster, cx, |_| "No supported endpoint picking policy.".to_owned())?;
            refuse_child(&child, cx).map(|()| child)
        });
        let update_period = cx.opt("weight_update_period", weight_update_period, duration)?.unwrap_or(DEFAULT_UPDATE);
        let smoothing = cx.opt("smoothing_time_constant", smoothing_time_constant, duration)?;
        let expiration = cx.opt("weight_expiration_period", weight_expiration_period, duration)?;
        let own_period = cx.opt("oob_reporting_period", oob_reporting_period, duration)?.unwrap_or_default();
        let is_enabled = enable_oob_load_report.is_some_and(|enabled| enabled.value);
        let load_aware = Self {
            local: own_locality(cx),
            update_period,
            metrics: metrics.iter().filter_map(|name| Metric::lower(name)).collect(),
            variance_threshold: utilization_variance_threshold.map_or(DEFAULT_VARIANCE, |v| v.value),
            blend: 1.0 - (-update_period.as_secs_f64() / smoothing.unwrap_or(DEFAULT_SMOOTHING).as_secs_f64()).exp(),
            probe_fraction: remote_probe_fraction.map_or(DEFAULT_PROBE, |v| v.value),
            expiration: Some(expiration.unwrap_or(DEFAULT_EXPIRATION)).filter(|period| !period.is_zero()),
            own_reports: is_enabled.then(|| Box::new(OwnReports::every(own_period))),
        };
        Ok(LoweredLb { locality: LocalityLb::LoadAware(Box::new(load_aware)), ..child? })
    }
}

/// Envoy makes the policy for the hosts of each locality by itself.
fn refuse_child(child: &LoweredLb, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    match child {
        LoweredLb { locality: LocalityLb::LoadAware(_), .. } => {
            Err(cx.invalid("load_aware_locality cannot be its own endpoint_picking_policy"))
        }
        LoweredLb { policy: super::LbPolicy::ClusterProvided, .. } => Err(cx.invalid(
            "Unsupported endpoint picking policy for load_aware_locality: \
             envoy.load_balancing_policies.cluster_provided. Child load balancer could not be instantiated per locality.",
        )),
        LoweredLb { subset: Some(_), .. } => Err(cx.not_implemented("subsets within a locality")),
        LoweredLb { override_host: Some(_), .. } => Err(cx.not_implemented("override_host within a locality")),
        LoweredLb { locality: LocalityLb::Weighted, client_weights: Some(_), .. } => {
            Err(cx.not_implemented("wrr_locality within a locality"))
        }
        // How the policy itself treats localities counts for nothing where there is one alone.
        _ => Ok(()),
    }
}

fn own_locality(cx: &LowerCx<'_>) -> Option<Locality> {
    let node = &cx.env.node;
    let [region, _, sub_zone] = node.info.locality.clone().unwrap_or_default();
    Locality::new(region.into(), node.zone.as_str().into(), sub_zone.into())
}
