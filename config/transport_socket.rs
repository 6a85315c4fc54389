//! What lies between the bytes of a connection to a host and its socket: `core.v3.TransportSocket`.

mod http_proxy;
mod internal;
mod proxy_protocol;
mod tcp_stats;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::core::v3::transport_socket::ConfigType;
use nuncio_proto::envoy::extensions::transport_sockets::http_11_proxy::v3::Http11ProxyUpstreamTransport;
use nuncio_proto::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use nuncio_proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use nuncio_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use nuncio_proto::envoy::extensions::transport_sockets::starttls::v3::UpstreamStartTlsConfig;
use nuncio_proto::envoy::extensions::transport_sockets::tap::v3::Tap as TapProto;
use nuncio_proto::envoy::extensions::transport_sockets::tcp_stats::v3::Config as TcpStatsProto;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use nuncio_proto::google::protobuf::Any;
use prost::Name;

pub use http_proxy::HttpProxySocket;
pub(crate) use http_proxy::take_proxy;
pub use internal::InternalSocket;
pub use proxy_protocol::ProxyProtocolSocket;
pub use tcp_stats::{TcpStats, TcpStatsConfig};

use crate::protocol::{any_as, message_name};
use crate::tap::SocketTap;
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
    /// A proxy on the way to the host.
    HttpProxy(Box<HttpProxySocket>),
    /// What the kernel knows of the connection is counted.
    TcpStats(Box<(TcpStatsConfig, TransportSocket)>),
    /// The bytes are copied to traces.
    Tap(Box<(SocketTap, TransportSocket)>),
    /// A listener of this process is told of the host.
    Internal(Box<InternalSocket>),
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
        cx.at("typed_config", |cx| Self::lower_any(&any, cx))
    }

    fn lower_any(any: &Any, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        Ok(match message_name(any) {
            RAW_BUFFER => Self::RawBuffer,
            message if message == UpstreamTlsContext::full_name() => {
                Self::Tls(Box::new(UpstreamTls::lower(any_as(any, cx)?, cx)?))
            }
            message if message == ProxyProtocolUpstreamTransport::full_name() => {
                Self::ProxyProtocol(Box::new(ProxyProtocolSocket::lower(any_as(any, cx)?, cx)?))
            }
            message if message == Http11ProxyUpstreamTransport::full_name() => {
                Self::HttpProxy(Box::new(HttpProxySocket::lower(any_as(any, cx)?, cx)?))
            }
            message if message == InternalUpstreamTransport::full_name() => {
                Self::Internal(Box::new(InternalSocket::lower(any_as(any, cx)?, cx)?))
            }
            message if message == TapProto::full_name() => {
                let (tap, inner) = SocketTap::lower(any_as(any, cx)?, cx)?;
                let inner = cx.opt("transport_socket", inner, Self::lower)?;
                Self::Tap(Box::new((tap, inner.unwrap_or_default())))
            }
            message if message == TcpStatsProto::full_name() => {
                let TcpStatsProto { transport_socket, update_period } = any_as(any, cx)?;
                let inner = cx.opt("transport_socket", transport_socket, Self::lower)?;
                let scope = cx.scope().clone();
                let config = TcpStatsConfig::lower(update_period, &scope, cx)?;
                Self::TcpStats(Box::new((config, inner.unwrap_or_default())))
            }
            message if message == UpstreamStartTlsConfig::full_name() => {
                // It is for filters to tell when TLS begins. None does: not one of Envoy's own, nor of ours.
                let UpstreamStartTlsConfig { cleartext_socket_config, tls_socket_config } = any_as(any, cx)?;
                let RawBuffer {} = cleartext_socket_config.unwrap_or_default();
                cx.opt("tls_socket_config", tls_socket_config, UpstreamTls::lower)?;
                tracing::warn!(
                    path = cx.path(),
                    "there is no filter that starts TLS: these connections stay in clear text"
                );
                Self::RawBuffer
            }
            message => return Err(cx.not_implemented(format_args!("the transport socket {message}"))),
        })
    }

    /// The one that it wraps.
    pub fn inner(&self) -> Option<&Self> {
        match self {
            Self::RawBuffer | Self::Tls(_) => None,
            Self::ProxyProtocol(socket) => Some(&socket.inner),
            Self::HttpProxy(socket) => Some(&socket.inner),
            Self::TcpStats(socket) => Some(&socket.1),
            Self::Tap(socket) => Some(&socket.1),
            Self::Internal(socket) => Some(&socket.inner),
        }
    }

    /// It and all that it wraps, from the outermost.
    pub fn layers(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |socket| socket.inner())
    }

    /// Whether a handshake can tell which protocol is spoken, because there is one.
    pub fn knows_alpn(&self) -> bool {
        self.layers().any(|socket| matches!(socket, Self::Tls(_)))
    }

    /// Whether hosts are told of clients.
    pub fn tells_of_clients(&self) -> bool {
        self.layers().any(|socket| matches!(socket, Self::ProxyProtocol(_)))
    }

    /// The proxy of hosts that have none of their own.
    pub fn default_proxy(&self) -> Option<&nuncio_telemetry::Address> {
        self.layers().find_map(|socket| match socket {
            Self::HttpProxy(socket) => socket.default.as_ref(),
            _ => None,
        })
    }

    /// What internal listeners learn of who connects.
    pub fn internal(&self) -> Option<&InternalSocket> {
        self.layers().find_map(|socket| match socket {
            Self::Internal(socket) => Some(&**socket),
            _ => None,
        })
    }
}
