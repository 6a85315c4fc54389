//! Values of PROXY headers: which are passed on, and which are added.

use nuncio_filter_api::filter_state::ProxyTlv;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::proxy_protocol_pass_through_tl_vs::PassTlVsMatchType;
use nuncio_proto::envoy::config::core::v3::{ProxyProtocolPassThroughTlVs, TlvEntry};
use nuncio_telemetry::format::{FormatCx, LineFormat};

use crate::format::FormatString;

/// `pass_through_tlvs`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PassThrough {
    /// None are passed on.
    #[default]
    Nothing,
    /// All are.
    All,
    /// Those of these types are.
    Only(Box<[u8]>),
}

/// A value that is added.
#[derive(Debug)]
pub struct AddedTlv {
    kind: u8,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Fixed(Box<[u8]>),
    Format(Box<LineFormat>),
}

// === impl PassThrough ===

impl PassThrough {
    /// Lowers the message, where there is one.
    pub fn lower(proto: Option<ProxyProtocolPassThroughTlVs>) -> Self {
        let Some(ProxyProtocolPassThroughTlVs { match_type, tlv_type }) = proto else { return Self::Nothing };
        match PassTlVsMatchType::try_from(match_type) {
            // The rule of the field holds them below 256.
            Ok(PassTlVsMatchType::Include) => Self::Only(tlv_type.into_iter().map(|kind| kind as u8).collect()),
            Ok(PassTlVsMatchType::IncludeAll) | Err(_) => Self::All,
        }
    }

    /// Whether values of this type are passed on.
    pub fn has(&self, kind: u8) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Only(kinds) => kinds.contains(&kind),
        }
    }
}

// === impl AddedTlv ===

impl AddedTlv {
    /// Lowers a value that may be made for each connection.
    pub fn lower(proto: TlvEntry, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let TlvEntry { r#type: kind, value, format_string } = proto;
        let value = match (value.is_empty(), format_string) {
            (false, Some(_)) => return Err(cx.invalid("only one of value and format_string may be set")),
            (true, Some(format)) => {
                let format = cx.at("format_string", |cx| FormatString::lower(format, cx))?;
                Value::Format(Box::new(format.format))
            }
            (true, None) => return Err(cx.invalid("one of value and format_string must be set")),
            (false, None) => Value::Fixed(value.into()),
        };
        // The rule of the field holds it below 256.
        Ok(Self { kind: kind as u8, value })
    }

    /// Its type.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// Whether it is the same for all connections.
    pub fn is_fixed(&self) -> bool {
        matches!(self.value, Value::Fixed(_))
    }

    /// The value, where it is the same for all connections.
    pub fn fixed(&self) -> Option<ProxyTlv> {
        match &self.value {
            Value::Fixed(value) => Some(ProxyTlv { kind: self.kind, value: value.clone() }),
            Value::Format(_) => None,
        }
    }

    /// The value for the connection of `cx`.
    pub fn of(&self, cx: &FormatCx<'_>) -> ProxyTlv {
        let value = match &self.value {
            Value::Fixed(value) => value.clone(),
            Value::Format(format) => {
                let mut text = Vec::new();
                format.write(cx, &mut text);
                text.into()
            }
        };
        ProxyTlv { kind: self.kind, value }
    }
}

/// Lowers a value of a host, which is the same for all connections.
pub fn lower_of_host(proto: TlvEntry, cx: &mut LowerCx<'_>) -> Result<ProxyTlv, Refused> {
    let TlvEntry { r#type: kind, value, format_string } = proto;
    if format_string.is_some() {
        // Envoy: the value is what `value` says, be it nothing.
        tracing::info!(
            path = cx.path(),
            "format_string has no effect: values of hosts are not made for each connection"
        );
    }
    // The rule of the field holds it below 256.
    Ok(ProxyTlv { kind: kind as u8, value: value.into() })
}
