//! `envoy.transport_sockets.upstream_proxy_protocol`

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::ProxyProtocolConfig;
use nuncio_proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;

use super::TransportSocket;
use crate::proxy_tlv::{AddedTlv, PassThrough};
use crate::route::ProxyHeader;

/// A header that tells of the client, before all else.
#[derive(Debug)]
pub struct ProxyProtocolSocket {
    /// What the header looks like.
    pub version: ProxyHeader,
    /// Which values of the client's own header it has too.
    pub passed: PassThrough,
    /// `added_tlvs`, those that are the same for all connections first.
    pub added: Box<[AddedTlv]>,
    /// What carries the header, and the bytes after it.
    pub inner: TransportSocket,
}

// === impl ProxyProtocolSocket ===

impl ProxyProtocolSocket {
    pub(super) fn lower(proto: ProxyProtocolUpstreamTransport, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let ProxyProtocolUpstreamTransport {
            config,
            transport_socket,
            allow_unspecified_address,
            // Clients with other values never share connections here.
            tlv_as_pool_key: _,
        } = proto;
        if allow_unspecified_address {
            // Only code that is linked into Envoy can leave a header without addresses for it there.
            tracing::info!(path = cx.path(), "allow_unspecified_address has no effect: clients have addresses");
        }
        let ProxyProtocolConfig { version, pass_through_tlvs, added_tlvs } = config.unwrap_or_default();
        let added = cx.at("config", |cx| cx.each("added_tlvs", added_tlvs, AddedTlv::lower));
        let inner = cx.opt("transport_socket", transport_socket, TransportSocket::lower)?;
        // Envoy: those that are made for each connection follow the others.
        let mut added = added?;
        added.sort_by_key(|tlv| !tlv.is_fixed());
        Ok(Self {
            version: if version == 1 { ProxyHeader::V2 } else { ProxyHeader::V1 },
            passed: PassThrough::lower(pass_through_tlvs),
            added: added.into(),
            inner: inner.unwrap_or_default(),
        })
    }
}
