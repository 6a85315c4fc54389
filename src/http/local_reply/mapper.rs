//! `local_reply_config`: what an operator makes of our own responses.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use nuncio_config::format::FormatString;
use nuncio_config::header_rules::{HeaderRules, Side};
use nuncio_config::{access_log, value};
use nuncio_filter_api::{LowerCx, Refused, RequestHead, ResponseHead};
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use nuncio_telemetry::StreamInfo;
use nuncio_telemetry::access_log::LogFilter;
use nuncio_telemetry::format::{FormatCx, LineFormat};

/// Bytes of a mapper's body; Envoy reads a data source without limit.
const MAX_BODY: u64 = 1 << 20;

/// The mappers and the body format, lowered.
#[derive(Debug, Default)]
pub(crate) struct LocalReplies {
    mappers: Vec<Mapper>,
    format: Option<FormatString>,
}

/// One `ResponseMapper`.
#[derive(Debug)]
struct Mapper {
    filter: LogFilter,
    status: Option<StatusCode>,
    body: Option<Bytes>,
    format: Option<FormatString>,
    headers: HeaderRules,
}

/// A body ready to be sent.
pub(crate) struct Mapped {
    pub(crate) body: Bytes,
    pub(crate) content_type: HeaderValue,
}

impl LocalReplies {
    /// Lowers the message.
    pub(crate) fn lower(message: proto::LocalReplyConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::LocalReplyConfig { mappers, body_format } = message;
        let mappers = cx.each("mappers", mappers, Mapper::lower);
        let format = cx.opt("body_format", body_format, FormatString::lower);
        Ok(Self { mappers: mappers?, format: format? })
    }

    /// Applies the first mapper that matches, then its format or the common one.
    pub(crate) fn apply(
        &self,
        head: &mut ResponseHead,
        mut body: Bytes,
        request: &RequestHead,
        info: &StreamInfo,
    ) -> Mapped {
        let text = HeaderValue::from_static("text/plain");
        if self.mappers.is_empty() && self.format.is_none() {
            return Mapped { body, content_type: text };
        }
        let matching = self.mappers.iter().find(|m| {
            let cx = context(head, request, info, &body);
            m.filter.accepts(&cx)
        });
        if let Some(mapper) = matching {
            if let Some(own) = &mapper.body {
                body = own.clone();
            }
            let view = head.clone();
            mapper.headers.apply_response(head, request, &context(&view, request, info, &body));
            if let Some(status) = mapper.status {
                head.status = status;
                info.response_code.set(status.as_u16());
            }
        }
        let Some(format) = matching.and_then(|m| m.format.as_ref()).or(self.format.as_ref()) else {
            return Mapped { body, content_type: text };
        };
        let mut out = Vec::new();
        format.format.write(&context(head, request, info, &body), &mut out);
        let json = HeaderValue::from_static("application/json");
        let default = if matches!(format.format, LineFormat::Json(_)) { json } else { text };
        Mapped { body: out.into(), content_type: format.content_type.clone().unwrap_or(default) }
    }
}

fn context<'a>(
    head: &'a ResponseHead,
    request: &'a RequestHead,
    info: &'a StreamInfo,
    body: &'a Bytes,
) -> FormatCx<'a> {
    let mut cx = FormatCx::new(info, info.start, info.start_wall);
    cx.request = Some(request.view());
    cx.response = Some(head.view());
    cx.local_reply_body = body;
    cx
}

impl Mapper {
    fn lower(message: proto::ResponseMapper, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::ResponseMapper { filter, status_code, body, body_format_override, headers_to_add } = message;
        let filter = cx.opt("filter", filter, access_log::lower_filter);
        let status = cx.opt("status_code", status_code, |code, cx| {
            let code = u16::try_from(code.value).ok().and_then(|c| StatusCode::from_u16(c).ok());
            code.ok_or_else(|| cx.invalid("is not an HTTP status"))
        });
        let body = cx.opt("body", body, |source, cx| value::data_source(source, MAX_BODY, cx));
        let format = cx.opt("body_format_override", body_format_override, FormatString::lower);
        let headers = HeaderRules::lower_additions(Side::Response, "headers_to_add", headers_to_add, cx);
        let filter = filter?.ok_or_else(|| cx.at("filter", |cx| cx.invalid("is required")))?;
        Ok(Self { filter, status: status?, body: body?, format: format?, headers: headers? })
    }
}
