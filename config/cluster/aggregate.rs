//! `envoy.clusters.aggregate`: clusters that stand in for each other.

use nuncio_filter_api::{ClusterName, LowerCx, Refused};
use nuncio_proto::envoy::extensions::clusters::aggregate::v3 as pb;

/// The clusters that an aggregate is made of. One that is not there, or has no hosts of its own, is passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// In order: the first that can takes it all.
    pub clusters: Box<[ClusterName]>,
}

impl Aggregate {
    pub(super) fn lower(proto: pb::ClusterConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::ClusterConfig { clusters } = proto;
        if clusters.is_empty() {
            return Err(cx.at("clusters", |cx| cx.invalid("needs at least one cluster")));
        }
        Ok(Self { clusters: clusters.iter().map(|name| cx.env.clusters.intern(name)).collect() })
    }
}
