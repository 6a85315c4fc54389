//! What lies between the bytes of a connection to a host and its socket: `core.v3.TransportSocket`.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::core::v3::transport_socket::ConfigType;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use prost::Name;

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
            message => Err(cx.not_implemented(format_args!("the transport socket {message}"))),
        })
    }
}
