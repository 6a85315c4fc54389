//! `envoy.transport_sockets.upstream_proxy_protocol`

use nuncio_filter_api::filter_state::ProxyTlv;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::ProxyProtocolConfig;
use nuncio_proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;

use super::TransportSocket;
use crate::proxy_tlv::{PassThrough, lower_fixed};
use crate::route::ProxyHeader;

/// A header that tells of the client, before all else.
#[derive(Debug)]
pub struct ProxyProtocolSocket {
    /// What the header looks like.
    pub version: ProxyHeader,
    /// Which values of the client's own header it has too.
    pub passed: PassThrough,
    /// `added_tlvs`
    pub added: Box<[ProxyTlv]>,
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
        cx.unsupported("allow_unspecified_address", &allow_unspecified_address)?;
        let ProxyProtocolConfig { version, pass_through_tlvs, added_tlvs } = config.unwrap_or_default();
        let added = cx.at("config", |cx| cx.each("added_tlvs", added_tlvs, lower_fixed));
        let inner = cx.opt("transport_socket", transport_socket, TransportSocket::lower)?;
        Ok(Self {
            version: if version == 1 { ProxyHeader::V2 } else { ProxyHeader::V1 },
            passed: PassThrough::lower(pass_through_tlvs),
            added: added?.into(),
            inner: inner.unwrap_or_default(),
        })
    }
}
