use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::cluster::PreconnectPolicy;

use crate::matcher::MetadataMatcher;

/// How connections are pooled, otherwise than as many as are needed, for all who come.
#[derive(Clone, Debug, Default)]
pub struct Pooling {
    /// `per_upstream_preconnect_ratio`: streams that are expected of a host for each that there is; at least 1.
    pub per_host: f64,
    /// `predictive_preconnect_ratio`: the same, of the cluster as a whole.
    pub predictive: f64,
    /// `preconnect_enabled_metadata`: hosts that connections may be made to before they are needed.
    pub eligible: Option<MetadataMatcher>,
    /// `connection_pool_per_downstream_connection`
    pub per_downstream_connection: bool,
}

// === impl Pooling ===

impl Pooling {
    /// `None` where the configuration asks for nothing of the kind.
    pub(super) fn lower(
        preconnect: Option<PreconnectPolicy>,
        per_downstream_connection: bool,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        if preconnect.is_none() && !per_downstream_connection {
            return Ok(None);
        }
        cx.at("preconnect_policy", |cx| {
            let PreconnectPolicy {
                per_upstream_preconnect_ratio,
                predictive_preconnect_ratio,
                preconnect_enabled_metadata,
            } = preconnect.unwrap_or_default();
            let eligible =
                cx.opt("preconnect_enabled_metadata", preconnect_enabled_metadata, MetadataMatcher::lower)?;
            Ok(Some(Self {
                per_host: per_upstream_preconnect_ratio.map_or(1.0, |v| v.value),
                predictive: predictive_preconnect_ratio.map_or(1.0, |v| v.value),
                eligible,
                per_downstream_connection,
            }))
        })
    }
}
