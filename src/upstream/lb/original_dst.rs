//! Requests go where their connection was going before it was redirected, or where they say themselves.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_config::cluster::{Endpoint, OriginalDst};
use nuncio_filter_api::filter_state::ORIGINAL_DST_ADDRESS;
use nuncio_telemetry::{Address, FilterValue, StreamInfo};
use serde_json::Value;

use super::{ClusterBalancer, PickContext};
use crate::dynamic::KnownHosts;
use crate::host::Host;
use crate::worker::{ClusterShare, WorkerHost};

/// The balancer of such a cluster, for one worker.
pub(super) struct OriginalDstBalancer {
    config: Arc<OriginalDst>,
    known: KnownHosts<SocketAddr>,
}

// === impl OriginalDstBalancer ===

impl OriginalDstBalancer {
    pub(super) fn new(config: Arc<OriginalDst>) -> Self {
        Self { config, known: KnownHosts::default() }
    }
}

impl ClusterBalancer for OriginalDstBalancer {
    fn pick(&self, cx: &PickContext<'_>, share: &Rc<ClusterShare>) -> Option<Rc<WorkerHost>> {
        let hosts = share.cluster.by_address.as_ref()?;
        let to = destination(&self.config, cx, share)?;
        Some(self.known.get(&to, hosts, share, |to| host(&share.cluster.config.name.name, *to)))
    }
}

fn destination(config: &OriginalDst, cx: &PickContext<'_>, share: &ClusterShare) -> Option<SocketAddr> {
    let invalid = || share.cluster.stats.original_dst_host_invalid().inc();
    let parse = |text: &str| text.parse::<SocketAddr>().inspect_err(|_| invalid()).ok();
    let restored = |info: &StreamInfo| info.connection.is_local_restored.then(|| info.connection.local.clone());
    let to = cx
        .info
        .and_then(left_by_filters)
        .or_else(|| metadata_text(config, cx.info?).as_deref().and_then(parse).map(Address::Ip))
        .or_else(|| config.header(cx.head?).and_then(parse).map(Address::Ip))
        .or_else(|| cx.info.and_then(restored));
    match to? {
        Address::Ip(mut to) => {
            if let Some(port) = config.port {
                to.set_port(port);
            }
            Some(to)
        }
        Address::Pipe(_) | Address::Internal(_) => None,
    }
}

fn left_by_filters(info: &StreamInfo) -> Option<Address> {
    match info.filter_state.borrow().get(ORIGINAL_DST_ADDRESS)? {
        FilterValue::Address(address) => Some(address.clone()),
        FilterValue::Text(text) => text.parse().ok().map(Address::Ip),
        FilterValue::Number(_)
        | FilterValue::Flag(_)
        | FilterValue::Fields(_)
        | FilterValue::Headers(_)
        | FilterValue::Object(_) => None,
    }
}

/// The text in the metadata of the request, or the first of a list there.
fn metadata_text(config: &OriginalDst, info: &StreamInfo) -> Option<String> {
    let metadata = info.metadata.borrow();
    match config.metadata.as_ref()?.find(metadata.as_ref()?)? {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => list.first().and_then(Value::as_str).map(str::to_owned),
        _ => None,
    }
}

/// Envoy calls it by its cluster and its address.
fn host(cluster: &str, to: SocketAddr) -> Host {
    let endpoint = Endpoint::found(to.into(), format!("{cluster}{to}").into());
    Host::new(&endpoint, to.into())
}

#[cfg(test)]
mod tests;
