//! What the tests of this crate share.

use std::sync::Arc;

use nuncio_filter_api::{ClusterNames, LowerEnv, NodeNames, Registry};
use nuncio_telemetry::stats::Store;

/// An environment without extensions.
pub(crate) fn env() -> LowerEnv {
    LowerEnv {
        registry: Registry::default(),
        clusters: Arc::new(ClusterNames::default()),
        stats: Store::new(),
        concurrency: 1,
        local_ip: std::net::Ipv4Addr::LOCALHOST.into(),
        node: NodeNames::default(),
    }
}
