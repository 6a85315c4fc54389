//! `envoy.filters.network.sni_cluster`: the server that a client names is the cluster that tcp_proxy sends it to.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use nuncio_filter_api::filter_state::TCP_PROXY_CLUSTER as CLUSTER;
use nuncio_filter_api::{Admission, Connection, Flow, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused};
use nuncio_proto::envoy::extensions::filters::network::sni_cluster::v3::SniCluster as Proto;
use nuncio_telemetry::{ConnectionInfo, FilterValue, LifeSpan};

pub(crate) const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.sni_cluster",
    config: "envoy.extensions.filters.network.sni_cluster.v3.SniCluster",
    lower,
};

struct SniCluster;

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let Proto {} = prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    Ok(Arc::new(SniCluster))
}

impl NetworkFilter for SniCluster {
    fn admit(&self, info: &Rc<ConnectionInfo>, _: &NetworkCx) -> Admission {
        if let Some(name) = &*info.server_name.borrow()
            && !name.is_empty()
        {
            let value = FilterValue::Text(name.clone());
            info.filter_state.borrow_mut().set(CLUSTER, value, LifeSpan::Connection);
        }
        Admission::Pass
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

#[cfg(test)]
mod tests {
    use super::*;
    use nuncio_filter_api::{Drain, DrainState, Rng, Worker};
    use nuncio_telemetry::Address;
    use tokio::time::Instant;

    #[test]
    fn the_name_of_the_server_is_the_cluster() {
        let address = Address::Ip(([127, 0, 0, 1], 1).into());
        let info = Rc::new(ConnectionInfo::new(1, address.clone(), address, Instant::now()));
        let worker = Rc::new(Worker::new(0, Rng::seeded(1), Arc::default()));
        let (_drain, receiver) = tokio::sync::watch::channel(DrainState::Serving);
        let drain = Rc::new(Drain::new(receiver, worker.clone()));
        let cx = NetworkCx { worker, drain, buffer_limit: 1 };
        let cluster = || info.filter_state.borrow().get(CLUSTER).and_then(|v| v.text().map(|t| t.into_owned()));
        SniCluster.admit(&info, &cx);
        assert_eq!(cluster(), None);
        *info.server_name.borrow_mut() = Some("a.test".into());
        SniCluster.admit(&info, &cx);
        assert_eq!(cluster().as_deref(), Some("a.test"));
    }
}
