//! `envoy.transport_sockets.upstream_proxy_protocol`

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::{ProxyProtocolConfig, TlvEntry};
use nuncio_proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;

use super::TransportSocket;
use crate::route::ProxyHeader;

/// A header that tells of the client, before all else.
#[derive(Debug)]
pub struct ProxyProtocolSocket {
    /// What the header looks like.
    pub version: ProxyHeader,
    /// `added_tlvs`
    pub added: Box<[AddedTlv]>,
    /// What carries the header, and the bytes after it.
    pub inner: TransportSocket,
}

/// A value for the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedTlv {
    /// Its type.
    pub kind: u8,
    /// What it says.
    pub value: Box<[u8]>,
}

// === impl ProxyProtocolSocket ===

impl ProxyProtocolSocket {
    pub(super) fn lower(proto: ProxyProtocolUpstreamTransport, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let ProxyProtocolUpstreamTransport {
            config,
            transport_socket,
            allow_unspecified_address,
            // The listener filter refuses to keep values for hosts: no stream has some that others do not have.
            tlv_as_pool_key: _,
        } = proto;
        cx.unsupported("allow_unspecified_address", &allow_unspecified_address)?;
        // As above: there are no values to pass on.
        let ProxyProtocolConfig { version, pass_through_tlvs: _, added_tlvs } = config.unwrap_or_default();
        let added = cx.at("config", |cx| cx.each("added_tlvs", added_tlvs, AddedTlv::lower));
        let inner = cx.opt("transport_socket", transport_socket, TransportSocket::lower)?;
        Ok(Self {
            version: if version == 1 { ProxyHeader::V2 } else { ProxyHeader::V1 },
            added: added?.into(),
            inner: inner.unwrap_or_default(),
        })
    }
}

// === impl AddedTlv ===

impl AddedTlv {
    fn lower(proto: TlvEntry, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let TlvEntry { r#type: kind, value, format_string } = proto;
        cx.unsupported("format_string", &format_string)?;
        if value.is_empty() {
            return Err(cx.invalid("one of value and format_string must be set"));
        }
        // The rule of the field holds it below 256.
        Ok(Self { kind: kind as u8, value: value.into() })
    }
}
