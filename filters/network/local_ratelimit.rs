//! `envoy.filters.network.local_ratelimit`: closes connections that come faster than a bucket fills.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use nuncio_config::protocol::duration;
use nuncio_filter_api::{
    Admission, Connection, Flow, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused, TokenBucket,
};
use nuncio_proto::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit as Proto;
use nuncio_proto::envoy::r#type::v3::TokenBucket as BucketProto;
use nuncio_telemetry::{ConnectionInfo, ResponseFlag};
use tokio::time::Instant;

use crate::RuntimeFlag;

pub(crate) const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.local_ratelimit",
    config: "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
    lower,
};

nuncio_telemetry::stats! {
    /// `local_rate_limit.<stat_prefix>`
    struct LocalRateLimitStats {
        rate_limited: Counter,
    }
}

/// Envoy's least `fill_interval`.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

struct LocalRateLimit {
    stats: LocalRateLimitStats,
    bucket: Arc<SharedBucket>,
    is_enabled: RuntimeFlag,
}

/// The bucket of a filter, or of several (`share_key`).
struct SharedBucket(TokenBucket);

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let Proto { stat_prefix, token_bucket, runtime_enabled, share_key } =
        prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    let encoded = token_bucket.as_ref().map(prost::Message::encode_to_vec).unwrap_or_default();
    let made = cx.opt("token_bucket", token_bucket, bucket)?;
    let made = SharedBucket(made.ok_or_else(|| cx.at("token_bucket", |cx| cx.invalid("is required")))?);
    // Envoy: those are one whose key and bucket are the same.
    let bucket = match share_key.is_empty() {
        true => Arc::new(made),
        false => cx.env.slots.share(&format!("{share_key} {encoded:?}"), || made),
    };
    let stats = LocalRateLimitStats::new(&cx.env.stats.scope("local_rate_limit").scope(&stat_prefix));
    Ok(Arc::new(LocalRateLimit { stats, bucket, is_enabled: RuntimeFlag::lower(runtime_enabled, cx) }))
}

/// Lowers `token_bucket`.
pub(crate) fn bucket(proto: BucketProto, cx: &mut LowerCx<'_>) -> Result<TokenBucket, Refused> {
    let BucketProto { max_tokens, tokens_per_fill, fill_interval } = proto;
    let interval = cx.opt("fill_interval", fill_interval, |interval, cx| match duration(interval, cx)? {
        interval if interval < MIN_INTERVAL => {
            Err(cx.invalid("local rate limit token bucket fill timer must be >= 50ms"))
        }
        interval => Ok(interval),
    })?;
    let interval = interval.ok_or_else(|| cx.at("fill_interval", |cx| cx.invalid("is required")))?;
    Ok(TokenBucket::new(max_tokens, tokens_per_fill.map_or(1, |tokens| tokens.value), interval, Instant::now()))
}

impl NetworkFilter for LocalRateLimit {
    fn admit(&self, info: &Rc<ConnectionInfo>, cx: &NetworkCx) -> Admission {
        if !self.is_enabled.is_set() || self.bucket.0.take(cx.worker.clock.now()) {
            return Admission::Pass;
        }
        self.stats.rate_limited().inc();
        // Envoy's flag for it.
        info.flags.set(ResponseFlag::UpstreamRetryLimitExceeded.into());
        info.local_close_reason.set(Some("local_ratelimit_close_over_limit"));
        Admission::Refuse
    }

    fn run(self: Arc<Self>, connection: Connection, _: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        Box::pin(std::future::ready(Flow::Next(connection)))
    }

    fn precedes_handshake(&self) -> bool {
        true
    }

    fn is_terminal(&self) -> bool {
        false
    }
}
