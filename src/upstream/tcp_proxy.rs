//! `envoy.filters.network.tcp_proxy`: sends what a connection brings over a connection to a host, and back.
//!
//! In: a connection. Out: nothing; it is served to its end. Start reading at [`TcpProxy::run`](NetworkFilter::run):
//! a [`Session`](session::Session) chooses a host (`connect.rs`), then its bytes pass both ways (`relay.rs`).

mod config;
mod connect;
mod direction;
mod flow;
mod on_demand;
mod relay;
mod session;
mod tunnel;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use nuncio_filter_api::{Connection, Flow, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused, TurnedAway};
use nuncio_proto::envoy::extensions::filters::network::tcp_proxy::v3 as proto;
use nuncio_telemetry::ConnectionInfo;
use prost::Message;

use config::Config;
pub(crate) use config::{Backoff, log_interval};
use session::Session;
pub(crate) use tunnel::propagate;

/// The filter's row in the table of network filters.
pub const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.tcp_proxy",
    config: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    lower,
};

/// The filter as configured; shared by all workers.
struct TcpProxy(Arc<Config>);

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let message = proto::TcpProxy::decode(bytes).map_err(|e| cx.invalid(format!("does not decode: {e}")))?;
    Ok(Arc::new(TcpProxy(Arc::new(Config::lower(message, cx)?))))
}

impl NetworkFilter for TcpProxy {
    fn turned_away(&self, info: Rc<ConnectionInfo>, why: TurnedAway, cx: &NetworkCx) {
        // Envoy counts and logs it as one of its own.
        let session = Session::new(self.0.clone(), info, cx);
        if let (TurnedAway::TooSlow, Some((_, expired))) = (why, self.0.patience()) {
            session.expire(expired);
        }
    }

    fn run(self: Arc<Self>, connection: Connection, cx: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        let session = Session::new(self.0.clone(), connection.info, &cx);
        Box::pin(async move {
            session.serve(connection.io).await;
            Flow::Done
        })
    }

    fn precedes_handshake(&self) -> bool {
        true
    }

    fn patience(&self) -> Option<Duration> {
        self.0.patience().map(|(time, _)| time)
    }

    fn is_terminal(&self) -> bool {
        true
    }
}
