use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use nuncio_filter_api::{LowerCx, Refused, RequestHead};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_telemetry::format::{FormatCx, LineFormat};

use crate::format::FormatString;

/// `DirectResponseAction`: the answer is in the configuration.
#[derive(Debug)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    body: Bytes,
    format: Option<FormatString>,
}

impl DirectResponse {
    /// Lowers the action, whose body may have `max_body` bytes.
    pub(super) fn lower(
        action: proto::DirectResponseAction,
        max_body: u64,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let proto::DirectResponseAction { status, body, body_format } = action;
        let format = cx.opt("body_format", body_format, FormatString::lower);
        let status = cx.at("status", |cx| match u16::try_from(status).map(StatusCode::from_u16) {
            Ok(Ok(code)) if (200..600).contains(&status) => Ok(code),
            _ => Err(cx.invalid(format!("{status} is not in the range [200, 600)"))),
        });
        let body = cx.opt("body", body, |body, cx| crate::value::data_source(body, max_body, cx));
        Ok(Self { status: status?, body: body?.unwrap_or_default(), format: format? })
    }

    /// The body of the answer to `request`; empty if there is none. `cx` is that of the stream.
    pub fn body(&self, request: &RequestHead, cx: &FormatCx<'_>) -> Bytes {
        let Some(format) = &self.format else { return self.body.clone() };
        let mut out = Vec::new();
        let cx = FormatCx { request: Some(request.view()), local_reply_body: &self.body, ..*cx };
        format.format.write(&cx, &mut out);
        out.into()
    }

    /// Content-type of the body, where no header rule sets another; `None`: the default of local replies.
    pub fn content_type(&self) -> Option<HeaderValue> {
        match self.format.as_ref()? {
            FormatString { content_type: Some(value), .. } => Some(value.clone()),
            FormatString { format: LineFormat::Json(_), .. } => Some(HeaderValue::from_static("application/json")),
            FormatString { format: LineFormat::Text(..), .. } => None,
        }
    }
}
