//! The one place where a refusal becomes a response: local-reply mapping, gRPC framing, status and details.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use nuncio_filter_api::{Body, LocalReply, RequestHead, Response, ResponseHead};
use nuncio_telemetry::{ResponseFlag, ResponseFlags, StreamInfo};

mod mapper;

pub(crate) use mapper::LocalReplies;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Makes the response of `reply`, notes it in `info`, and applies `local_reply_config`.
pub(crate) fn render(
    mut reply: LocalReply,
    replies: &LocalReplies,
    request: &RequestHead,
    is_grpc: bool,
    info: &StreamInfo,
) -> Response {
    info.local_reply.set(true);
    info.flags.set(info.flags.get().union(reply.flags));
    info.set_details(std::mem::take(&mut reply.details));
    info.response_code.set(reply.status.as_u16());
    let mut head = ResponseHead::new(reply.status);
    head.headers = std::mem::take(&mut reply.headers);
    let mapped = replies.apply(&mut head, reply.body, request, info);
    if is_grpc {
        return grpc(head, &mapped.body, reply.grpc_status, info.flags.get());
    }
    if mapped.body.is_empty() {
        return Response { head, body: Body::empty() };
    }
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(mapped.body.len()));
    head.headers.entry(CONTENT_TYPE).or_insert(mapped.content_type);
    Response { head, body: Body::full(mapped.body) }
}

/// A trailers-only response (gRPC over HTTP/2): the status goes where a gRPC client looks for it.
fn grpc(mut head: ResponseHead, message: &Bytes, status: Option<u32>, flags: ResponseFlags) -> Response {
    let status = status.unwrap_or_else(|| grpc_status(head.status, flags));
    head.status = StatusCode::OK;
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers.insert(GRPC_STATUS, HeaderValue::from(status));
    if !message.is_empty() {
        head.headers.insert(GRPC_MESSAGE, percent_encoded(message));
    }
    Response { head, body: Body::empty() }
}

/// gRPC's mapping of HTTP status codes.
fn grpc_status(status: StatusCode, flags: ResponseFlags) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        // A limit was reached here, not upstream: RESOURCE_EXHAUSTED.
        429 if flags.has(ResponseFlag::RateLimited) => 8,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// grpc-message: bytes outside visible ASCII and `%` are percent-encoded.
fn percent_encoded(message: &[u8]) -> HeaderValue {
    let mut out = Vec::with_capacity(message.len());
    for &b in message {
        if (0x20..0x7f).contains(&b) && b != b'%' {
            out.push(b);
        } else {
            out.extend_from_slice(format!("%{b:02X}").as_bytes());
        }
    }
    HeaderValue::from_bytes(&out).expect("visible ASCII is a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_status_follows_the_http_status() {
        let none = ResponseFlags::NONE;
        let mapped =
            [400, 401, 403, 404, 429, 503, 504, 200, 500].map(|s| grpc_status(StatusCode::from_u16(s).unwrap(), none));
        assert_eq!(mapped, [13, 16, 7, 12, 14, 14, 14, 2, 2]);
        assert_eq!(grpc_status(StatusCode::TOO_MANY_REQUESTS, ResponseFlag::RateLimited.into()), 8);
    }

    #[test]
    fn grpc_messages_are_percent_encoded() {
        assert_eq!(percent_encoded("a b%ü\n".as_bytes()), "a b%25%C3%BC%0A");
    }
}
