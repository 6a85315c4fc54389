//! `%GRPC_STATUS(...)%` and `%GRPC_STATUS_NUMBER%`.

use http::{HeaderMap, HeaderName, header};

use crate::format::FormatCx;
use crate::format::escape::push_int;

use super::Written;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The names of the codes 0 to 16, as `CAMEL_STRING` and `SNAKE_STRING` print them.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// How the status is printed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    Camel,
    Snake,
    Number,
}

impl Style {
    pub(super) fn parse(argument: &str) -> Result<Self, String> {
        match argument {
            "" | "CAMEL_STRING" => Ok(Self::Camel),
            "SNAKE_STRING" => Ok(Self::Snake),
            "NUMBER" => Ok(Self::Number),
            other => Err(format!("{other:?} is not one of CAMEL_STRING, SNAKE_STRING, NUMBER")),
        }
    }

    /// Missing unless the request was gRPC. A code without a name is printed as a number, in JSON as a string of it.
    pub(super) fn write(self, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Written {
        if !cx.request.is_some_and(|r| is_grpc(r.headers)) {
            return Written::Missing;
        }
        let code = status(cx);
        let names = usize::try_from(code).ok().and_then(|i| NAMES.get(i));
        match (self, names) {
            (Self::Camel, Some((camel, _))) => out.extend_from_slice(camel.as_bytes()),
            (Self::Snake, Some((_, snake))) => out.extend_from_slice(snake.as_bytes()),
            (Self::Camel | Self::Snake, None) => push_int(out, code),
            (Self::Number, _) => {
                push_int(out, code);
                return Written::Json;
            }
        }
        Written::Text
    }
}

/// Whether the content type is that of gRPC, which that of gRPC-Web is not.
fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map(|v| v.as_bytes());
    let rest = value.and_then(|v| v.strip_prefix(b"application/grpc"));
    matches!(rest, Some([] | [b'+', ..]))
}

/// The status of the trailers, of the headers, or the one that gRPC assigns to the HTTP status; -1 if it was sent and
/// is no number.
pub(crate) fn status(cx: &FormatCx<'_>) -> i64 {
    let sent = [cx.trailers, cx.response.map(|r| r.headers)].into_iter().flatten().find_map(|headers| {
        let value = headers.get(GRPC_STATUS)?;
        let text = value.to_str().unwrap_or("?").trim();
        (!text.is_empty()).then(|| text.parse::<u32>().map_or(-1, i64::from))
    });
    sent.unwrap_or_else(|| from_http(cx.info.response_code.get()))
}

/// The table of the gRPC project's http-grpc-status-mapping.
fn from_http(code: u16) -> i64 {
    match code {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
