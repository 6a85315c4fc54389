//! `envoy.filters.http.buffer`: holds a request back until its body has arrived whole.

use std::sync::Arc;

use http::StatusCode;
use http::header::{CONTENT_LENGTH, Entry, HeaderValue, TRANSFER_ENCODING};
use nuncio_filter_api::{
    Buffered, HttpFilter, HttpFilterConfig, HttpFilterRow, LocalReply, LowerCx, PerRoute, Refused, Request, Sides,
    Step, StreamCx,
};
use nuncio_proto::envoy::extensions::filters::http::buffer::v3 as proto;

/// The filter's row in the table.
pub(crate) const ROW: HttpFilterRow = HttpFilterRow {
    name: "envoy.filters.http.buffer",
    config: "envoy.extensions.filters.http.buffer.v3.Buffer",
    lower,
    per_route: Some(("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", lower_route)),
    sides: Sides::Both,
};

/// What the listener, or a route, asks for.
#[derive(Clone, Copy, Debug)]
enum Config {
    /// Bodies up to this many bytes are buffered; larger ones are refused with 413.
    Limit(usize),
    /// Not on this route.
    Disabled,
}

impl Config {
    fn lower(message: proto::Buffer, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::Buffer { max_request_bytes } = message;
        let limit = max_request_bytes.ok_or_else(|| cx.at("max_request_bytes", |cx| cx.invalid("is required")))?;
        Ok(Self::Limit(limit.value as usize))
    }
}

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Refused> {
    let message = crate::decode::<proto::Buffer>(bytes, cx)?;
    Ok(Arc::new(Config::lower(message, cx)?))
}

fn lower_route(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<PerRoute, Refused> {
    use proto::buffer_per_route::Override;
    let proto::BufferPerRoute { r#override } = crate::decode(bytes, cx)?;
    let config = match r#override {
        Some(Override::Disabled(_)) => Config::Disabled,
        Some(Override::Buffer(buffer)) => cx.at("buffer", |cx| Config::lower(buffer, cx))?,
        None => return Err(cx.invalid("one of disabled and buffer is required")),
    };
    Ok(Arc::new(config))
}

impl HttpFilterConfig for Config {
    fn instantiate(self: Arc<Self>, name: &Arc<str>, cx: &StreamCx) -> Box<dyn HttpFilter> {
        let own = cx.route().and_then(|r| r.filter_config::<Self>(name));
        Box::new(Filter(own.map_or(*self, |c| *c)))
    }
}

struct Filter(Config);

impl HttpFilter for Filter {
    fn request<'a>(&'a mut self, request: &'a mut Request, _cx: &'a mut StreamCx) -> Step<'a> {
        let Config::Limit(limit) = self.0 else { return Step::CONTINUE };
        // A tunnel's bytes have no end to wait for.
        if request.body.is_end() || request.head.protocol.is_some() || request.head.method == http::Method::CONNECT {
            return Step::CONTINUE;
        }
        Step::Wait(Box::pin(async move {
            match request.body.buffer(limit).await {
                Ok(()) => {
                    set_length(request);
                    Ok(())
                }
                Err(Buffered::TooLarge) => Err(too_large().into()),
                Err(Buffered::Broken(error)) => {
                    let mut reply = LocalReply::new(StatusCode::BAD_REQUEST, error.details);
                    reply.flags = error.flags;
                    Err(reply.into())
                }
            }
        }))
    }
}

/// A whole body has a length: without chunks a server need not parse any.
fn set_length(request: &mut Request) {
    if let Some(length) = request.body.remaining()
        && let Entry::Vacant(v) = request.head.headers.entry(CONTENT_LENGTH)
    {
        v.insert(HeaderValue::from(length));
    }
    request.head.headers.remove(TRANSFER_ENCODING);
}

fn too_large() -> LocalReply {
    LocalReply::new(StatusCode::PAYLOAD_TOO_LARGE, "request_payload_too_large").body("Payload Too Large")
}

#[cfg(test)]
mod tests {
    use http::Method;
    use nuncio_filter_api::testing::{self, Harness, Outcome};
    use nuncio_filter_api::{Body, BodyError};
    use nuncio_proto::google::protobuf::UInt32Value;
    use nuncio_telemetry::ResponseFlag;
    use prost::Message;

    use super::*;

    fn up_to(bytes: u32) -> proto::Buffer {
        proto::Buffer { max_request_bytes: Some(UInt32Value { value: bytes }) }
    }

    fn harness() -> Harness {
        Harness::new(&ROW, &up_to(10).encode_to_vec())
    }

    async fn post(harness: &Harness, body: Body, lines: &[&str]) -> Outcome {
        let mut request = testing::request(Method::POST, "/", lines);
        request.body = body;
        harness.run(request, testing::response(200, &[])).await
    }

    #[tokio::test]
    async fn a_body_arrives_whole_and_gains_a_length() {
        let trailers = testing::headers(&["x-t: 1"]);
        let body = testing::chunks(&["01234", "56789"], Some(trailers.clone()));
        let request = post(&harness(), body, &["transfer-encoding: chunked"]).await.request.unwrap();
        assert_eq!(request.data, "0123456789");
        assert_eq!(request.trailers, Some(trailers));
        assert_eq!(testing::lines(&request.head.headers), ["content-length: 10"]);
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_is_refused() {
        let outcome = post(&harness(), testing::chunks(&["0123456789", "a"], None), &[]).await;
        assert!(outcome.request.is_none());
        assert_eq!(outcome.response.head.status, 413);
        assert_eq!(outcome.response.data, "Payload Too Large");
        assert_eq!(outcome.local_reply.unwrap().details, "request_payload_too_large");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_answered_with_its_reason() {
        let error = BodyError::new(ResponseFlag::DownstreamProtocolError, "http1.invalid_chunk");
        let outcome = post(&harness(), testing::broken(&["0"], error), &[]).await;
        let reply = outcome.local_reply.unwrap();
        assert_eq!((reply.status, &*reply.details), (StatusCode::BAD_REQUEST, "http1.invalid_chunk"));
        assert!(reply.flags.has(ResponseFlag::DownstreamProtocolError));
    }

    #[tokio::test]
    async fn a_request_without_body_and_a_tunnel_pass() {
        let outcome = post(&harness(), Body::empty(), &[]).await;
        assert!(outcome.request.unwrap().head.headers.is_empty());
        let mut request = testing::request(Method::CONNECT, "", &[]);
        request.body = testing::chunks(&["0123456789", "a"], None);
        let outcome = harness().run(request, testing::response(200, &[])).await;
        assert_eq!(outcome.request.unwrap().data, "0123456789a");
    }

    #[tokio::test]
    async fn a_route_may_switch_it_off_or_have_a_limit_of_its_own() {
        use proto::buffer_per_route::Override;
        let route = |o| proto::BufferPerRoute { r#override: Some(o) }.encode_to_vec();
        let long = || testing::chunks(&["0123456789", "a"], None);
        let off = harness().per_route(&route(Override::Disabled(true)));
        assert!(post(&off, long(), &[]).await.request.is_some());
        let more = harness().per_route(&route(Override::Disabled(true))).per_route(&route(Override::Buffer(up_to(11))));
        let request = post(&more, long(), &[]).await.request.unwrap();
        assert_eq!(testing::lines(&request.head.headers), ["content-length: 11"]);
    }
}
