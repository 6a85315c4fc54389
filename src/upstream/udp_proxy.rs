//! `envoy.filters.udp_listener.udp_proxy`: sends the datagrams of clients to hosts, and those of hosts back.
//!
//! In: datagrams. Out: nothing; no other filter gets them. Invariants: a session stands for one client, as long as
//! datagrams pass; there are no more of them than the cluster may have connections, whoever claims to send. Start reading
//! at [`Proxy::receive`](UdpFilter::receive): it finds the [`Session`](session::Session) or makes it (`sessions.rs`), and a
//! socket (`direct.rs`) or a tunnel (`tunnelled.rs`) carries on what it brings.

mod config;
mod direct;
mod filters;
mod log;
mod session;
mod sessions;
mod tunnel;
mod tunnelled;

use std::rc::Rc;
use std::sync::Arc;

use nuncio_filter_api::{Datagrams, LowerCx, Refused, UdpCx, UdpFilter, UdpFilterRow, UdpFlow, UdpListenerFilter};
use nuncio_proto::envoy::extensions::filters::udp::udp_proxy::v3 as proto;
use prost::Message;

use config::Config;
use sessions::Sessions;

/// The filter's row in the table of UDP listener filters.
pub const ROW: UdpFilterRow = UdpFilterRow {
    name: "envoy.filters.udp_listener.udp_proxy",
    config: "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig",
    lower,
};

/// The filter as configured; shared by all workers.
struct UdpProxy(Arc<Config>);

/// The filter as one worker runs it on one address.
struct Proxy(Rc<Sessions>);

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn UdpListenerFilter>, Refused> {
    let message = proto::UdpProxyConfig::decode(bytes).map_err(|e| cx.invalid(format!("does not decode: {e}")))?;
    Ok(Arc::new(UdpProxy(Arc::new(Config::lower(message, cx)?))))
}

impl UdpListenerFilter for UdpProxy {
    fn start(self: Arc<Self>, cx: UdpCx) -> Box<dyn UdpFilter> {
        Box::new(Proxy(Rc::new(Sessions::new(self.0.clone(), cx))))
    }
}

impl UdpFilter for Proxy {
    fn receive(&mut self, datagrams: &Datagrams<'_>) -> UdpFlow {
        self.0.receive(datagrams);
        UdpFlow::Done
    }

    fn receive_failed(&mut self) {
        self.0.config.stats.downstream_sess_rx_errors().inc();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Sessions hold what this holds: it is told to let go.
        self.0.end();
    }
}
