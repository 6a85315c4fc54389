//! `envoy.filters.listener.local_ratelimit`: closes sockets that come faster than a bucket fills.

use std::sync::Arc;

use nuncio_filter_api::{
    Incoming, Inspection, ListenerFilter, ListenerFilterRow, LowerCx, Refused, Rejected, TokenBucket,
};
use nuncio_proto::envoy::extensions::filters::listener::local_ratelimit::v3::LocalRateLimit as Proto;
use tokio::time::Instant;

use crate::RuntimeFlag;
use crate::local_ratelimit::bucket;

pub(crate) const ROW: ListenerFilterRow = ListenerFilterRow {
    name: "envoy.filters.listener.local_ratelimit",
    config: "envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit",
    lower,
};

nuncio_telemetry::stats! {
    /// `listener_local_ratelimit.<stat_prefix>`
    struct LocalRateLimitStats {
        rate_limited: Counter,
    }
}

struct LocalRateLimit {
    stats: LocalRateLimitStats,
    bucket: TokenBucket,
    is_enabled: RuntimeFlag,
}

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn ListenerFilter>, Refused> {
    let Proto { stat_prefix, token_bucket, runtime_enabled } =
        prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    let bucket = cx.opt("token_bucket", token_bucket, bucket)?;
    let bucket = bucket.ok_or_else(|| cx.at("token_bucket", |cx| cx.invalid("is required")))?;
    let stats = LocalRateLimitStats::new(&cx.env.stats.scope("listener_local_ratelimit").scope(&stat_prefix));
    Ok(Arc::new(LocalRateLimit { stats, bucket, is_enabled: RuntimeFlag::lower(runtime_enabled, cx) }))
}

impl ListenerFilter for LocalRateLimit {
    fn inspect<'a>(&'a self, _: &'a mut Incoming) -> Inspection<'a> {
        // A listener filter knows of no worker, whose clock this is.
        if !self.is_enabled.is_set() || self.bucket.take(Instant::now()) {
            return Inspection::Done(Ok(()));
        }
        self.stats.rate_limited().inc();
        Inspection::Done(Err(Rejected::Refused("comes too fast")))
    }
}
