use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::filters::network::thrift_proxy::v3::{ProtocolType, TransportType};
use nuncio_proto::envoy::extensions::health_checkers::thrift::v3 as pb;

/// A call of Thrift without arguments, which a healthy host does not answer with an exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThriftHealthCheck {
    /// What is called.
    pub method: Arc<str>,
    /// How messages are delimited.
    pub transport: ThriftTransport,
    /// How they are written.
    pub protocol: ThriftProtocol,
}

/// How messages of Thrift are delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThriftTransport {
    /// By a length before each.
    Framed,
    /// Not at all.
    Unframed,
    /// By a length and a header.
    Header,
}

/// How messages of Thrift are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThriftProtocol {
    /// In binary, with a version.
    Binary,
    /// In binary, without one.
    LaxBinary,
    /// In few bytes.
    Compact,
}

// === impl ThriftHealthCheck ===

impl ThriftHealthCheck {
    pub(super) fn lower(proto: pb::Thrift, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::Thrift { method_name, transport, protocol } = proto;
        let transport = match TransportType::try_from(transport) {
            Ok(TransportType::Framed) => ThriftTransport::Framed,
            Ok(TransportType::Unframed) => ThriftTransport::Unframed,
            Ok(TransportType::Header) => ThriftTransport::Header,
            Ok(TransportType::AutoTransport) | Err(_) => {
                return Err(cx.at("transport", |cx| cx.invalid("must be one of FRAMED, UNFRAMED and HEADER")));
            }
        };
        let protocol = match ProtocolType::try_from(protocol) {
            Ok(ProtocolType::Binary) => ThriftProtocol::Binary,
            Ok(ProtocolType::LaxBinary) if transport == ThriftTransport::Header => {
                return Err(cx.at("protocol", |cx| cx.invalid("the HEADER transport does not carry LAX_BINARY")));
            }
            Ok(ProtocolType::LaxBinary) => ThriftProtocol::LaxBinary,
            Ok(ProtocolType::Compact) => ThriftProtocol::Compact,
            Ok(ProtocolType::AutoProtocol | ProtocolType::Twitter) | Err(_) => {
                return Err(cx.at("protocol", |cx| cx.invalid("must be one of BINARY, LAX_BINARY and COMPACT")));
            }
        };
        Ok(Self { method: method_name.into(), transport, protocol })
    }
}
