//! Access logs: `envoy.config.accesslog.v3.AccessLog` to a log that is open and ready to write.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::accesslog::v3 as proto;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::extensions::access_loggers::{file, stream};
use nuncio_proto::google::protobuf::Any;
use nuncio_telemetry::access_log::{AccessLog, Destination};
use nuncio_telemetry::format::{LineFormat, Missing};
use prost::{Message, Name};

use crate::extension;
use crate::format::{FormatString, json_format, text_format};
use crate::protocol::{any_as, message_name};

mod filter;

pub use filter::lower as lower_filter;

/// Lowers one access log. Its file is opened: a log that cannot be written is refused, not found out about later.
pub fn lower(message: proto::AccessLog, cx: &mut LowerCx<'_>) -> Result<AccessLog, Refused> {
    let proto::AccessLog { name: _, filter, config_type } = message;
    let filter = cx.opt("filter", filter, filter::lower);
    let logger = match config_type {
        Some(proto::access_log::ConfigType::TypedConfig(any)) => cx.at("typed_config", |cx| logger(&any, cx)),
        None => Err(cx.invalid("typed_config is required")),
    };
    let (format, destination) = logger?;
    let log = cx.env.files.open(&destination).map_err(|e| cx.invalid(e.to_string()))?;
    Ok(AccessLog::new(filter?, format, log))
}

/// The file that a log is written to, if it is one.
pub(crate) fn file_path(message: &proto::AccessLog) -> Option<String> {
    let Some(proto::access_log::ConfigType::TypedConfig(any)) = &message.config_type else { return None };
    let is_file = message_name(any) == file::v3::FileAccessLog::full_name();
    is_file.then(|| file::v3::FileAccessLog::decode(&*any.value).ok()).flatten().map(|log| log.path)
}

fn logger(any: &Any, cx: &mut LowerCx<'_>) -> Result<(LineFormat, Destination), Refused> {
    let found = message_name(any);
    if found == file::v3::FileAccessLog::full_name() {
        let file::v3::FileAccessLog { path, access_log_format } = any_as(any, cx)?;
        let format = access_log_format.map(|f| file_format(f, cx)).transpose()?;
        Ok((format.unwrap_or_else(LineFormat::default_http), Destination::from_path(path)))
    } else if found == stream::v3::StdoutAccessLog::full_name() {
        let stream::v3::StdoutAccessLog { access_log_format } = any_as(any, cx)?;
        let format = access_log_format.map(|stream::v3::stdout_access_log::AccessLogFormat::LogFormat(f)| f);
        Ok((stream_format(format, cx)?, Destination::Stdout))
    } else if found == stream::v3::StderrAccessLog::full_name() {
        let stream::v3::StderrAccessLog { access_log_format } = any_as(any, cx)?;
        let format = access_log_format.map(|stream::v3::stderr_access_log::AccessLogFormat::LogFormat(f)| f);
        Ok((stream_format(format, cx)?, Destination::Stderr))
    } else {
        let known = [
            file::v3::FileAccessLog::full_name(),
            stream::v3::StdoutAccessLog::full_name(),
            stream::v3::StderrAccessLog::full_name(),
        ];
        Err(extension::refuse_unknown("access logger", found, known.iter().map(String::as_str), cx))
    }
}

fn file_format(
    format: file::v3::file_access_log::AccessLogFormat,
    cx: &mut LowerCx<'_>,
) -> Result<LineFormat, Refused> {
    use file::v3::file_access_log::AccessLogFormat;
    match format {
        AccessLogFormat::Format(text) => cx.at("format", |cx| text_format(&text, Missing::Dash, cx)),
        AccessLogFormat::JsonFormat(object) => cx.at("json_format", |cx| json_format(object, Missing::Dash, cx)),
        AccessLogFormat::TypedJsonFormat(object) => {
            cx.at("typed_json_format", |cx| json_format(object, Missing::Dash, cx))
        }
        AccessLogFormat::LogFormat(format) => stream_format(Some(format), cx),
    }
}

fn stream_format(format: Option<core::SubstitutionFormatString>, cx: &mut LowerCx<'_>) -> Result<LineFormat, Refused> {
    let format = cx.opt("log_format", format, FormatString::lower)?;
    Ok(format.map_or_else(LineFormat::default_http, |f| f.format))
}
