//! What is logged of questions. The formats of these logs have six operators, and no others: they are put into the
//! words of common formats here, which find what they ask for among the metadata of a record.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_config::access_log::lower as lower_access_log;
use nuncio_config::protocol::{any_as, message_name};
use nuncio_config::value::data_source;
use nuncio_filter_api::{LowerCx, Refused, UdpCx};
use nuncio_proto::envoy::config::accesslog::v3 as proto;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::extensions::access_loggers::{file, stream};
use nuncio_proto::google::protobuf::{Any, Struct, Value, value};
use nuncio_telemetry::access_log::AccessLog;
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::{ConnectionInfo, Metadata, StreamInfo};
use prost::{Message, Name};
use proto::access_log::ConfigType;
use serde_json::Map;

use super::message::{Question, answers, response_code};

/// Where a record has what the operators print.
const NAMESPACE: &str = "envoy.filters.udp.dns_filter";

/// The operators of these logs.
const OPERATORS: [&str; 6] =
    ["QUERY_NAME", "QUERY_TYPE", "QUERY_CLASS", "ANSWER_COUNT", "RESPONSE_CODE", "PARSE_STATUS"];

/// Bytes of a format in a file.
const MAX_FORMAT: u64 = 1 << 20;

/// Lowers one access log.
pub(super) fn lower(message: proto::AccessLog, cx: &mut LowerCx<'_>) -> Result<AccessLog, Refused> {
    let proto::AccessLog { name, filter, config_type } = message;
    let config_type = match config_type {
        Some(ConfigType::TypedConfig(any)) => {
            Some(ConfigType::TypedConfig(cx.at("typed_config", |cx| translate_logger(any, cx))?))
        }
        None => None,
    };
    lower_access_log(proto::AccessLog { name, filter, config_type }, cx)
}

/// Writes a record of an answer, and of its question where there was one.
pub(super) fn write(
    logs: &[AccessLog],
    cx: &UdpCx,
    peer: SocketAddr,
    local: SocketAddr,
    question: Option<&Question>,
    answer: &[u8],
) {
    if logs.is_empty() {
        return;
    }
    let mut told = Map::new();
    let mut tell = |name: &str, value: String| drop(told.insert(name.to_owned(), value.into()));
    if let Some(question) = question {
        tell("QUERY_NAME", question.name.clone());
        tell("QUERY_TYPE", question.kind.number().to_string());
        // No other class is a question here.
        tell("QUERY_CLASS", "1".to_owned());
    }
    tell("ANSWER_COUNT", answers(answer).to_string());
    tell("RESPONSE_CODE", response_code(answer).to_string());
    tell("PARSE_STATUS", question.is_some().to_string());
    let (clock, now) = (&cx.worker.clock, cx.worker.clock.now());
    let connection = ConnectionInfo::new(0, peer.into(), local.into(), now);
    let info = StreamInfo::new(Rc::new(connection), now, clock.wall(now));
    info.times.complete.set(Some(now));
    *info.metadata.borrow_mut() = Some(Box::new(Metadata::from([(Arc::from(NAMESPACE), told)])));
    let record = FormatCx::new(&info, now, clock.wall(now));
    logs.iter().for_each(|log| log.log(&record));
}

/// A logger whose formats are common ones. Others than these have none, or are not known.
// Deprecated fields are configuration too.
#[allow(deprecated)]
fn translate_logger(any: Any, cx: &mut LowerCx<'_>) -> Result<Any, Refused> {
    let Any { type_url, value } = any.clone();
    let found = message_name(&any).to_owned();
    let value = if found == file::v3::FileAccessLog::full_name() {
        use file::v3::file_access_log::AccessLogFormat as Form;
        let file::v3::FileAccessLog { path, access_log_format } = any_as(&any, cx)?;
        let access_log_format = match access_log_format {
            None => None,
            Some(Form::Format(text)) => Some(Form::Format(cx.at("format", |cx| translate(&text, cx))?)),
            Some(Form::JsonFormat(object)) => {
                Some(Form::JsonFormat(cx.at("json_format", |cx| translate_object(object, cx))?))
            }
            Some(Form::TypedJsonFormat(object)) => {
                Some(Form::TypedJsonFormat(cx.at("typed_json_format", |cx| translate_object(object, cx))?))
            }
            Some(Form::LogFormat(format)) => {
                Some(Form::LogFormat(cx.at("log_format", |cx| translate_format(format, cx))?))
            }
        };
        file::v3::FileAccessLog { path, access_log_format }.encode_to_vec()
    } else if found == stream::v3::StdoutAccessLog::full_name() {
        use stream::v3::stdout_access_log::AccessLogFormat::LogFormat;
        let stream::v3::StdoutAccessLog { access_log_format } = any_as(&any, cx)?;
        let format = access_log_format.map(|LogFormat(format)| format);
        let format = cx.opt("log_format", format, translate_format)?;
        stream::v3::StdoutAccessLog { access_log_format: format.map(LogFormat) }.encode_to_vec()
    } else if found == stream::v3::StderrAccessLog::full_name() {
        use stream::v3::stderr_access_log::AccessLogFormat::LogFormat;
        let stream::v3::StderrAccessLog { access_log_format } = any_as(&any, cx)?;
        let format = access_log_format.map(|LogFormat(format)| format);
        let format = cx.opt("log_format", format, translate_format)?;
        stream::v3::StderrAccessLog { access_log_format: format.map(LogFormat) }.encode_to_vec()
    } else {
        value
    };
    Ok(Any { type_url, value })
}

// Deprecated fields are configuration too.
#[allow(deprecated)]
fn translate_format(
    message: core::SubstitutionFormatString,
    cx: &mut LowerCx<'_>,
) -> Result<core::SubstitutionFormatString, Refused> {
    use core::substitution_format_string::Format;
    let format = match message.format {
        None => None,
        Some(Format::TextFormat(text)) => Some(Format::TextFormat(cx.at("text_format", |cx| translate(&text, cx))?)),
        Some(Format::TextFormatSource(source)) => Some(cx.at("text_format_source", |cx| {
            let bytes = data_source(source, MAX_FORMAT, cx)?;
            let text = std::str::from_utf8(&bytes).map_err(|e| cx.invalid(format!("is not UTF-8: {e}")))?;
            let inline = core::data_source::Specifier::InlineString(translate(text, cx)?);
            Ok(Format::TextFormatSource(core::DataSource { watched_directory: None, specifier: Some(inline) }))
        })?),
        Some(Format::JsonFormat(object)) => {
            Some(Format::JsonFormat(cx.at("json_format", |cx| translate_object(object, cx))?))
        }
    };
    Ok(core::SubstitutionFormatString { format, ..message })
}

/// Loading bounds the depth of a Struct, so that this recursion is bounded too.
fn translate_object(object: Struct, cx: &mut LowerCx<'_>) -> Result<Struct, Refused> {
    let Struct { fields } = object;
    let fields = fields.into_iter().map(|(name, value)| Ok((name, translate_value(value, cx)?)));
    Ok(Struct { fields: fields.collect::<Result<_, Refused>>()? })
}

fn translate_value(value: Value, cx: &mut LowerCx<'_>) -> Result<Value, Refused> {
    use value::Kind;
    let kind = match value.kind {
        Some(Kind::StringValue(text)) => Some(Kind::StringValue(translate(&text, cx)?)),
        Some(Kind::StructValue(object)) => Some(Kind::StructValue(translate_object(object, cx)?)),
        Some(Kind::ListValue(mut list)) => {
            let values = std::mem::take(&mut list.values).into_iter().map(|value| translate_value(value, cx));
            list.values = values.collect::<Result<_, _>>()?;
            Some(Kind::ListValue(list))
        }
        other => other,
    };
    Ok(Value { kind })
}

/// A format in the words of common ones. Envoy: arguments and lengths of these operators are passed over.
fn translate(text: &str, cx: &mut LowerCx<'_>) -> Result<String, Refused> {
    let (mut common, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('%') {
        common.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            common.push_str("%%");
            rest = after;
            continue;
        }
        let end = after.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(after.len());
        let (name, mut tail) = after.split_at(end);
        if !OPERATORS.contains(&name) {
            return Err(cx.invalid(format!("{name:?} is no operator here: there are {}", OPERATORS.join(", "))));
        }
        if let Some(arguments) = tail.strip_prefix('(') {
            tail = arguments.split_once(')').map_or("", |(_, tail)| tail);
        }
        if let Some(length) = tail.strip_prefix(':') {
            tail = length.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        let Some(tail) = tail.strip_prefix('%') else {
            return Err(cx.invalid(format!("the operator {name} does not end in %")));
        };
        common.push_str(&format!("%DYNAMIC_METADATA({NAMESPACE}:{name})%"));
        rest = tail;
    }
    common.push_str(rest);
    Ok(common)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(text: &str) -> Result<String, String> {
        let env = nuncio_filter_api::testing::env();
        let mut cx = LowerCx::new(&env);
        translate(text, &mut cx).map_err(|Refused| cx.finish()[0].to_string())
    }

    #[test]
    fn operators_look_among_the_metadata() {
        let name = "%DYNAMIC_METADATA(envoy.filters.udp.dns_filter:QUERY_NAME)%";
        assert_eq!(translated("100%% %QUERY_NAME%."), Ok(format!("100%% {name}.")));
        assert_eq!(translated("%QUERY_NAME(x):3%%QUERY_NAME%"), Ok(format!("{name}{name}")));
        assert_eq!(translated("none"), Ok("none".to_owned()));
    }

    #[test]
    fn other_operators_are_refused() {
        for (text, reason) in [
            ("%DURATION%", "\"DURATION\" is no operator here"),
            ("%", "\"\" is no operator here"),
            ("%QUERY_NAME", "the operator QUERY_NAME does not end in %"),
            ("%QUERY_NAME(%", "the operator QUERY_NAME does not end in %"),
        ] {
            let refused = translated(text).expect_err("is refused");
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
