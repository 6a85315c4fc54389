use http::{HeaderName, HeaderValue, StatusCode};
use nuncio_config::route::EnvoyHeaders;
use nuncio_filter_api::LocalReply;
use nuncio_telemetry::ResponseFlag;

use super::forward::Forwarding;
use crate::failure::OVERLOADED;

static DROPPED: HeaderName = HeaderName::from_static("x-envoy-drop-overload");
static ALL_DROPPED: HeaderName = HeaderName::from_static("x-envoy-unconditional-drop-overload");

const MILLION: u32 = 1_000_000;

// === impl Forwarding ===

impl Forwarding<'_> {
    /// The answer to a request that no host is to see, as the runtime (`upstream.maintenance_mode`) or the assignment
    /// of its cluster (`drop_overloads`) has it.
    #[inline]
    pub(super) fn dropped(&self) -> Option<LocalReply> {
        let cluster = &self.cluster.shared.cluster;
        match (cluster.maintenance(), cluster.dropped()) {
            (0, 0) => None,
            (maintenance, share) => self.maintained(maintenance).or_else(|| self.drop_share(share)),
        }
    }

    #[cold]
    fn maintained(&self, percent: u8) -> Option<LocalReply> {
        if self.cluster.shared.env.rng.below(100) >= percent.into() {
            return None;
        }
        self.cluster.shared.cluster.stats.upstream_rq_maintenance_mode().inc();
        self.count_drop();
        let mut reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "maintenance_mode")
            .flag(ResponseFlag::UpstreamOverflow)
            .body("maintenance mode");
        if self.config.envoy_headers == EnvoyHeaders::Add {
            reply.headers.insert(&OVERLOADED, HeaderValue::from_static("true"));
        }
        Some(reply)
    }

    #[cold]
    fn drop_share(&self, share: u32) -> Option<LocalReply> {
        let (details, flag, header, body) = if share >= MILLION {
            let flag = ResponseFlag::UnconditionalDropOverload;
            ("unconditional_drop_overload", flag, &ALL_DROPPED, "unconditional drop overload")
        } else if self.cluster.shared.env.rng.below(MILLION.into()) < share.into() {
            ("drop_overload", ResponseFlag::DropOverload, &DROPPED, "drop overload")
        } else {
            return None;
        };
        self.count_drop();
        self.cluster.shared.cluster.drops.note_overload();
        let mut reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, details).flag(flag).body(body);
        reply.headers.insert(header, HeaderValue::from_static("true"));
        Some(reply)
    }

    /// Counts the answer to a request that no host is to see.
    fn count_drop(&self) {
        self.count_status(StatusCode::SERVICE_UNAVAILABLE.as_u16(), self.origin(None));
        if self.config.dynamic_stats {
            self.cluster.shared.cluster.drops.note();
        }
    }
}
