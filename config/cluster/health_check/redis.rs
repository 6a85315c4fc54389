use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::health_checkers::redis::v3 as pb;

/// A command of Redis, and its answer: PONG to PING, or 0 to EXISTS.
#[derive(Debug)]
pub struct RedisHealthCheck {
    /// A host that has this key is not to be used; empty asks with PING.
    pub key: Arc<str>,
}

// === impl RedisHealthCheck ===

impl RedisHealthCheck {
    pub(super) fn lower(proto: pb::Redis, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::Redis { key, aws_iam } = proto;
        cx.unsupported("aws_iam", &aws_iam)?;
        Ok(Self { key: key.into() })
    }
}
