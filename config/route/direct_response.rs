use bytes::Bytes;
use http::StatusCode;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::route::v3 as proto;

/// `DirectResponseAction`: the answer is in the configuration.
#[derive(Debug)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// Empty if there is none.
    pub body: Bytes,
}

impl DirectResponse {
    /// Lowers the action, whose body may have `max_body` bytes.
    pub(super) fn lower(
        action: proto::DirectResponseAction,
        max_body: u64,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let proto::DirectResponseAction { status, body, body_format } = action;
        let supported = cx.unsupported("body_format", &body_format);
        let status = cx.at("status", |cx| match u16::try_from(status).map(StatusCode::from_u16) {
            Ok(Ok(code)) if (200..600).contains(&status) => Ok(code),
            _ => Err(cx.invalid(format!("{status} is not in the range [200, 600)"))),
        });
        let body = cx.opt("body", body, |body, cx| crate::value::data_source(body, max_body, cx));
        supported?;
        Ok(Self { status: status?, body: body?.unwrap_or_default() })
    }
}
