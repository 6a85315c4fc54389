//! What lies between the bytes of a connection to a host and its socket: `core.v3.TransportSocket`.

mod proxy_protocol;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::core::v3::transport_socket::ConfigType;
use nuncio_proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use prost::Name;

pub use proxy_protocol::ProxyProtocolSocket;

use crate::protocol::{any_as, message_name};
use crate::tls::UpstreamTls;

const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// The transport socket of connections to a host.
#[derive(Debug, Default)]
pub enum TransportSocket {
    /// Nothing.
    #[default]
    RawBuffer,
    /// TLS.
    Tls(Box<UpstreamTls>),
    /// A header that tells of the client, before all else.
    ProxyProtocol(Box<ProxyProtocolSocket>),
}

impl TransportSocket {
    /// Lowers the message.
    pub fn lower(proto: core::TransportSocket, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let core::TransportSocket { name, config_type } = proto;
        let any = match config_type {
            Some(ConfigType::TypedConfig(any)) => any,
            None if name == "envoy.transport_sockets.raw_buffer" => return Ok(Self::RawBuffer),
            None => return Err(cx.invalid("a typed_config is required")),
        };
        cx.at("typed_config", |cx| match message_name(&any) {
            RAW_BUFFER => Ok(Self::RawBuffer),
            message if message == UpstreamTlsContext::full_name() => {
                Ok(Self::Tls(Box::new(UpstreamTls::lower(any_as(&any, cx)?, cx)?)))
            }
            message if message == ProxyProtocolUpstreamTransport::full_name() => {
                Ok(Self::ProxyProtocol(Box::new(ProxyProtocolSocket::lower(any_as(&any, cx)?, cx)?)))
            }
            message => Err(cx.not_implemented(format_args!("the transport socket {message}"))),
        })
    }

    /// Whether a handshake can tell which protocol is spoken.
    pub fn knows_alpn(&self) -> bool {
        match self {
            Self::RawBuffer => false,
            Self::Tls(_) => true,
            Self::ProxyProtocol(socket) => socket.inner.knows_alpn(),
        }
    }

    /// Whether hosts are told of clients.
    pub fn tells_of_clients(&self) -> bool {
        match self {
            Self::RawBuffer | Self::Tls(_) => false,
            Self::ProxyProtocol(_) => true,
        }
    }
}
