use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use nuncio_config::cluster::Endpoint;
use nuncio_filter_api::filter_state::ProxyTlv;
use nuncio_telemetry::{Metadata, UpstreamInfo};

use super::Host;

/// What is said of a host that stays the same host when something else is said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Description {
    /// Metadata of the endpoint.
    pub(crate) metadata: Option<Arc<Metadata>>,
    /// What it is told of clients besides what others are.
    pub(crate) tlvs: Arc<[ProxyTlv]>,
    /// Where it has several: all of its addresses, in the order in which they are tried.
    pub(crate) addresses: Option<Arc<[SocketAddr]>>,
}

impl Description {
    /// Whether it is what `endpoint` says.
    pub(crate) fn is_of(&self, endpoint: &Endpoint) -> bool {
        let Endpoint { metadata, tlvs, addresses, .. } = endpoint;
        self.metadata == *metadata && self.tlvs == *tlvs && self.addresses == *addresses
    }

    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        let Endpoint { metadata, tlvs, addresses, .. } = endpoint;
        Self { metadata: metadata.clone(), tlvs: tlvs.clone(), addresses: addresses.clone() }
    }

    /// Whether its metadata calls the host a canary.
    pub(super) fn is_canary(&self) -> bool {
        let metadata = self.metadata.as_ref().and_then(|metadata| metadata.get("envoy.lb"));
        metadata.and_then(|m| m.get("canary")).and_then(|canary| canary.as_bool()).unwrap_or(false)
    }

    /// Hosts of which nothing is said share that.
    pub(super) fn shared(self) -> Arc<Self> {
        static NOTHING: LazyLock<Arc<Description>> = LazyLock::new(Arc::default);
        if self == **NOTHING { NOTHING.clone() } else { Arc::new(self) }
    }
}

// === impl Host ===

impl Host {
    /// Leaves in a record that it was chosen.
    pub(crate) fn note_in(&self, upstream: &mut UpstreamInfo) {
        upstream.host = Some(self.address());
        upstream.host_name = (!self.hostname.is_empty()).then(|| self.hostname.clone());
        upstream.host_metadata = self.metadata();
    }
}
