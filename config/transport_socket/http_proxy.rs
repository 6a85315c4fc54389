//! `envoy.transport_sockets.http_11_proxy`

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::extensions::transport_sockets::http_11_proxy::v3::Http11ProxyUpstreamTransport;
use nuncio_proto::google::protobuf::Any;
use nuncio_telemetry::Address;
use prost::{Message, Name};

use super::TransportSocket;
use crate::address::ListenAddress;
use crate::protocol::message_name;

/// A proxy that is asked by CONNECT for a connection to the host.
#[derive(Debug)]
pub struct HttpProxySocket {
    /// The proxy of hosts that have none of their own. Envoy asks it by CONNECT where TLS follows, and else leaves it
    /// the requests as they are.
    pub default: Option<Address>,
    /// What carries the bytes once the proxy has connected.
    pub inner: TransportSocket,
}

/// Where the metadata of endpoints and localities has their proxy.
const KEY: &str = "envoy.http11_proxy_transport_socket.proxy_address";

// === impl HttpProxySocket ===

impl HttpProxySocket {
    pub(super) fn lower(proto: Http11ProxyUpstreamTransport, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Http11ProxyUpstreamTransport { transport_socket, default_proxy_address } = proto;
        let inner = cx.opt("transport_socket", transport_socket, TransportSocket::lower);
        let default = cx.opt("default_proxy_address", default_proxy_address, ListenAddress::lower);
        Ok(Self { default: default?.map(|address| address.address), inner: inner?.unwrap_or_default() })
    }
}

/// Takes the proxy out of metadata. Envoy: a value of another kind names none.
pub(crate) fn take_proxy(
    metadata: Option<&mut core::Metadata>,
    cx: &mut LowerCx<'_>,
) -> Result<Option<Address>, Refused> {
    let any = metadata.and_then(|metadata| metadata.typed_filter_metadata.remove(KEY));
    let Some(address) = any.as_ref().and_then(address_in) else { return Ok(None) };
    let lowered = cx.at("metadata", |cx| {
        cx.at("typed_filter_metadata", |cx| cx.at_key(KEY, |cx| ListenAddress::lower(address, cx)))
    });
    Ok(Some(lowered?.address))
}

fn address_in(any: &Any) -> Option<core::Address> {
    (message_name(any) == core::Address::full_name()).then(|| core::Address::decode(&any.value[..]).ok()).flatten()
}
