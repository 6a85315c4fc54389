//! `SubstitutionFormatString`: how access logs and local replies print.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::extensions::formatter::cel::v3::Cel;
use nuncio_proto::envoy::extensions::formatter::metadata::v3::Metadata;
use nuncio_proto::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use nuncio_proto::google::protobuf;
use nuncio_telemetry::format::{Format, FormatError, JsonFormat, JsonFormatter, LineFormat, Missing};

use crate::matching::refuse_options;
use crate::protocol::{any_as, message_name};
use crate::value::data_source;

/// A body or line format with the content type that goes with it.
#[derive(Debug)]
pub struct FormatString {
    /// The format.
    pub format: LineFormat,
    /// `content_type`, where set.
    pub content_type: Option<http::HeaderValue>,
}

const CEL: &str = "envoy.extensions.formatter.cel.v3.Cel";
const METADATA: &str = "envoy.extensions.formatter.metadata.v3.Metadata";
const REQ_WITHOUT_QUERY: &str = "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery";

/// Bytes of a format file. Envoy has no limit; a format of this size is a mistake.
const MAX_FORMAT: u64 = 1 << 20;

impl FormatString {
    /// Lowers the message.
    pub fn lower(message: core::SubstitutionFormatString, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use core::substitution_format_string::Format as Kind;
        let core::SubstitutionFormatString { omit_empty_values, content_type, formatters, json_format_options, format } =
            message;
        cx.each("formatters", formatters, formatter)?;
        // Properties are always sorted, in Envoy too.
        let _: Option<core::JsonFormatOptions> = json_format_options;
        let missing = if omit_empty_values { Missing::Empty } else { Missing::Dash };
        let format = match format {
            None => return Err(cx.invalid("one of text_format, text_format_source and json_format is required")),
            Some(Kind::TextFormat(text)) => cx.at("text_format", |cx| text_format(&text, missing, cx))?,
            Some(Kind::TextFormatSource(source)) => cx.at("text_format_source", |cx| {
                let bytes = data_source(source, MAX_FORMAT, cx)?;
                let format = Format::parse_bytes(&bytes).map_err(|e| refused(&e, cx))?;
                Ok(LineFormat::Text(format, missing))
            })?,
            Some(Kind::JsonFormat(object)) => cx.at("json_format", |cx| json_format(object, missing, cx))?,
        };
        let content_type = match content_type.as_str() {
            "" => None,
            text => Some(
                http::HeaderValue::from_str(text)
                    .map_err(|_| cx.at("content_type", |cx| cx.invalid("is not a valid header value")))?,
            ),
        };
        Ok(Self { format, content_type })
    }
}

/// Lowers one of `formatters`: the operators of these are there without them, as most of them are in Envoy.
pub fn formatter(message: core::TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let core::TypedExtensionConfig { name: _, typed_config } = message;
    cx.at("typed_config", |cx| {
        let any = typed_config.ok_or_else(|| cx.invalid("is required"))?;
        match message_name(&any) {
            CEL => {
                let Cel { cel_config } = any_as(&any, cx)?;
                cx.opt("cel_config", cel_config, refuse_options).map(|_| ())
            }
            METADATA => any_as(&any, cx).map(|Metadata {}| ()),
            REQ_WITHOUT_QUERY => any_as(&any, cx).map(|ReqWithoutQuery {}| ()),
            message => {
                let known = [CEL, METADATA, REQ_WITHOUT_QUERY].into_iter();
                Err(crate::extension::refuse_unknown("formatter", message, known, cx))
            }
        }
    })
}

/// Lowers a format string that makes a path or a host.
pub fn format(text: &str, cx: &mut LowerCx<'_>) -> Result<Format, Refused> {
    Format::parse(text).map_err(|e| refused(&e, cx))
}

/// Lowers a format string of a log line.
pub(crate) fn text_format(text: &str, missing: Missing, cx: &mut LowerCx<'_>) -> Result<LineFormat, Refused> {
    Format::parse(text).map(|f| LineFormat::Text(f, missing)).map_err(|e| refused(&e, cx))
}

/// Lowers `json_format`.
pub(crate) fn json_format(
    object: protobuf::Struct,
    missing: Missing,
    cx: &mut LowerCx<'_>,
) -> Result<LineFormat, Refused> {
    let fields: Vec<_> = object.fields.into_iter().map(|(name, value)| (name, json_value(value))).collect();
    JsonFormatter::compile(&fields, missing).map(LineFormat::Json).map_err(|e| refused(&e, cx))
}

/// Loading bounds the depth of a Struct, so that this recursion is bounded too.
fn json_value(value: protobuf::Value) -> JsonFormat {
    use protobuf::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => JsonFormat::Null,
        Some(Kind::NumberValue(n)) => JsonFormat::Number(n),
        Some(Kind::StringValue(s)) => JsonFormat::String(s),
        Some(Kind::BoolValue(b)) => JsonFormat::Bool(b),
        Some(Kind::StructValue(s)) => {
            JsonFormat::Object(s.fields.into_iter().map(|(name, value)| (name, json_value(value))).collect())
        }
        Some(Kind::ListValue(l)) => JsonFormat::List(l.values.into_iter().map(json_value).collect()),
    }
}

fn refused(error: &FormatError, cx: &mut LowerCx<'_>) -> Refused {
    match &error.kind {
        nuncio_telemetry::format::FormatErrorKind::NotImplemented { .. } => {
            cx.record(nuncio_filter_api::InvalidKind::NotImplemented, error.to_string())
        }
        _ => cx.invalid(error.to_string()),
    }
}
