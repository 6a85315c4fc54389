//! `envoy.filters.network.connection_limit`: closes connections beyond a number of them.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use nuncio_config::protocol::{duration, non_zero};
use nuncio_filter_api::{Admission, Connection, Flow, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused};
use nuncio_proto::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit as Proto;
use nuncio_telemetry::ConnectionInfo;

use crate::RuntimeFlag;

pub(crate) const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.connection_limit",
    config: "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
    lower,
};

nuncio_telemetry::stats! {
    /// `connection_limit.<stat_prefix>`
    struct ConnectionLimitStats {
        active_connections: Gauge,
        limited_connections: Counter,
    }
}

struct ConnectionLimit(Arc<Shared>);

/// What all workers count in.
struct Shared {
    stats: ConnectionLimitStats,
    max: u64,
    active: AtomicU64,
    delay: Option<Duration>,
    is_enabled: RuntimeFlag,
}

/// A connection that is counted.
struct Place(Arc<Shared>);

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let Proto { stat_prefix, max_connections, delay, runtime_enabled } =
        prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    let delay = cx.opt("delay", delay, duration)?.and_then(non_zero);
    let max = max_connections.ok_or_else(|| cx.at("max_connections", |cx| cx.invalid("is required")))?.value;
    Ok(Arc::new(ConnectionLimit(Arc::new(Shared {
        stats: ConnectionLimitStats::new(&cx.env.stats.scope("connection_limit").scope(&stat_prefix)),
        max,
        active: AtomicU64::new(0),
        delay,
        is_enabled: RuntimeFlag::lower(runtime_enabled, cx),
    }))))
}

impl NetworkFilter for ConnectionLimit {
    fn admit(&self, info: &Rc<ConnectionInfo>, _: &NetworkCx) -> Admission {
        let shared = &self.0;
        if !shared.is_enabled.is_set() {
            return Admission::Pass;
        }
        let take = |active: u64| (active < shared.max).then_some(active + 1);
        if shared.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            shared.stats.limited_connections().inc();
            info.local_close_reason.set(Some("over_connection_limit"));
            return shared.delay.map_or(Admission::Refuse, Admission::RefuseAfter);
        }
        shared.stats.active_connections().inc();
        Admission::Hold(Box::new(Place(shared.clone())))
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

impl Drop for Place {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        self.0.stats.active_connections().dec();
    }
}
