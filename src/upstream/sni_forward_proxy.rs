//! `envoy.filters.network.sni_dynamic_forward_proxy`: has the server that a client names in TLS resolved before its
//! connection goes on.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use futures_util::future::LocalBoxFuture;
use nuncio_config::cluster::DnsCacheConfig;
use nuncio_filter_api::filter_state::{DYNAMIC_HOST, DYNAMIC_PORT, UPSTREAM_ADDRESS};
use nuncio_filter_api::{Connection, Flow, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused};
use nuncio_proto::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3 as proto;
use nuncio_telemetry::{Address, ConnectionInfo, FilterValue, LifeSpan};
use prost::Message;

use crate::clusters::Clusters;
use crate::dns_cache::{DnsCache, Lookup, normalize};
use crate::worker::WorkerClusters;

/// The filter's row in the table of network filters.
pub const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.sni_dynamic_forward_proxy",
    config: "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
    lower,
};

struct SniForwardProxy {
    cache: Arc<DnsCacheConfig>,
    /// The cache itself, once a connection asked for it.
    made: OnceLock<Arc<DnsCache>>,
    /// 0: the port is that of the cluster.
    port: u16,
    saves_address: bool,
}

/// There is no room to ask for one more name.
struct Overflow;

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    use proto::filter_config::PortSpecifier;
    let message = proto::FilterConfig::decode(bytes).map_err(|e| cx.invalid(format!("does not decode: {e}")))?;
    let proto::FilterConfig { dns_cache_config, save_upstream_address, port_specifier } = message;
    let cache = cx.opt("dns_cache_config", dns_cache_config, DnsCacheConfig::lower)?;
    let cache = cache.ok_or_else(|| cx.at("dns_cache_config", |cx| cx.invalid("is required")))?;
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port).unwrap_or_default(),
        None => 0,
    };
    Ok(Arc::new(SniForwardProxy {
        cache: Arc::new(cache),
        made: OnceLock::new(),
        port,
        saves_address: save_upstream_address,
    }))
}

impl NetworkFilter for SniForwardProxy {
    fn run(self: Arc<Self>, connection: Connection, cx: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        Box::pin(async move {
            let clusters = WorkerClusters::of(&cx.worker);
            match self.resolve(&connection.info, &clusters.env().clusters).await {
                Ok(()) => Flow::Next(connection),
                Err(Overflow) => Flow::Refused(connection),
            }
        })
    }

    fn is_terminal(&self) -> bool {
        false
    }
}

impl SniForwardProxy {
    /// Waits until it is known whether the server has addresses. One that is named by nobody is not looked for.
    async fn resolve(&self, info: &ConnectionInfo, clusters: &Clusters) -> Result<(), Overflow> {
        let Some((host, port)) = self.named(info) else { return Ok(()) };
        let cache = self.made.get_or_init(|| clusters.dns_caches().cache(&self.cache));
        if !cache.may_wait() {
            return Err(Overflow);
        }
        let key = normalize(&host, port);
        let addresses = match cache.look_up(&key) {
            Lookup::Known(found) => found.addresses.clone(),
            Lookup::Overflow => return Err(Overflow),
            Lookup::Pending(name) => {
                let _pending = cache.wait();
                name.found().await.addresses.clone()
            }
        };
        if let Some(address) = addresses.first().filter(|_| self.saves_address) {
            let value = FilterValue::Object(std::rc::Rc::new(Address::Ip(*address)));
            info.filter_state.borrow_mut().set(UPSTREAM_ADDRESS, value, LifeSpan::Connection);
        }
        Ok(())
    }

    /// The server and its port. Envoy: where filters have left no port, the cluster is told of this one.
    fn named(&self, info: &ConnectionInfo) -> Option<(String, u16)> {
        let mut state = info.filter_state.borrow_mut();
        let left = state.get(DYNAMIC_HOST).and_then(FilterValue::text).map(Cow::into_owned);
        let host = left.or_else(|| info.server_name.borrow().as_deref().map(str::to_owned))?;
        if host.is_empty() {
            return None;
        }
        let port = match state.get(DYNAMIC_PORT) {
            Some(FilterValue::Number(port)) => u16::try_from(*port).ok().filter(|port| *port > 0),
            Some(FilterValue::Text(port)) => port.parse().ok().filter(|port| *port > 0),
            _ => None,
        };
        if port.is_none() {
            state.set(DYNAMIC_PORT, FilterValue::Number(self.port.into()), LifeSpan::Connection);
        }
        Some((host, port.unwrap_or(self.port)))
    }
}
