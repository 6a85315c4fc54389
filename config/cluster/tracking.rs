use nuncio_proto::envoy::config::cluster::v3::TrackClusterStats;

/// What is counted of a cluster besides what always is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracking {
    /// How much of their time-outs requests take.
    pub timeout_budgets: bool,
    /// How large requests and responses are.
    pub sizes: bool,
    /// What each host does.
    pub endpoints: bool,
}

// === impl Tracking ===

impl Tracking {
    /// `track_timeout_budgets` is the older of two ways to say the same.
    pub(super) fn lower(track_timeout_budgets: bool, proto: Option<TrackClusterStats>) -> Self {
        let TrackClusterStats { timeout_budgets, request_response_sizes, per_endpoint_stats } =
            proto.unwrap_or_default();
        Self {
            timeout_budgets: timeout_budgets || track_timeout_budgets,
            sizes: request_response_sizes,
            endpoints: per_endpoint_stats,
        }
    }
}
