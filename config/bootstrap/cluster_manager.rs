//! `bootstrap.v3.ClusterManager`: what all clusters share.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::bootstrap::v3 as proto;

use crate::refuse_set;
use crate::socket::BindConfig;

/// What all clusters share.
#[derive(Clone, Debug)]
pub struct ClusterManagerConfig {
    /// How upstream sockets are bound where the cluster does not say.
    pub upstream_bind_config: Option<BindConfig>,
}

impl ClusterManagerConfig {
    pub(super) fn lower(
        manager: proto::ClusterManager,
        without_effect: &mut Vec<String>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let proto::ClusterManager {
            local_cluster_name,
            outlier_detection,
            upstream_bind_config,
            load_stats_config,
            enable_deferred_cluster_creation,
        } = manager;
        if enable_deferred_cluster_creation {
            // A worker makes its state of a cluster at first use in any case.
            without_effect.push(format!("{}.enable_deferred_cluster_creation", cx.path()));
        }
        let refused = refuse_set!(cx; local_cluster_name, outlier_detection, load_stats_config);
        let bind = cx.opt("upstream_bind_config", upstream_bind_config, BindConfig::lower);
        refused?;
        Ok(Self { upstream_bind_config: bind? })
    }
}
