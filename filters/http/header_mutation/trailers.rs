//! Trailers are frames of the body: they are changed when they come by.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_filter_api::{Body, BodyError, RequestHead, ResponseHead, StreamCx, Worker};
use nuncio_telemetry::StreamInfo;
use nuncio_telemetry::format::FormatCx;

use super::Layers;

/// The body with its trailers changed by `mutate`.
pub(super) fn wrap(body: Body, mutate: impl FnMut(&mut HeaderMap) + Unpin + 'static) -> Body {
    Body::stream(Wrapped { body, mutate })
}

/// What changes the trailers of a request.
pub(super) fn of_request(layers: Layers, head: &RequestHead, cx: &StreamCx) -> impl FnMut(&mut HeaderMap) + use<> {
    let has_formats = layers.iter().any(|layer| layer.request_trailers.has_formats());
    let stream = Stream::new(cx, has_formats.then(|| head.clone()), None);
    move |trailers| {
        for layer in &layers {
            layer.request_trailers.apply_request_trailers(trailers, &stream.format());
        }
    }
}

/// What changes the trailers of a response.
pub(super) fn of_response(
    layers: Layers,
    request: &RequestHead,
    head: &ResponseHead,
    cx: &StreamCx,
) -> impl FnMut(&mut HeaderMap) + use<> {
    let has_formats = layers.iter().any(|layer| layer.response_trailers.has_formats());
    let stream = Stream::new(cx, has_formats.then(|| request.clone()), has_formats.then(|| head.clone()));
    move |trailers| {
        for layer in &layers {
            layer.response_trailers.apply_response_trailers(trailers, &stream.format());
        }
    }
}

/// What formats see of a stream once its heads are on their way; copies, made only where there are formats.
struct Stream {
    info: Rc<StreamInfo>,
    worker: Rc<Worker>,
    request: Option<RequestHead>,
    response: Option<ResponseHead>,
}

impl Stream {
    fn new(cx: &StreamCx, request: Option<RequestHead>, response: Option<ResponseHead>) -> Self {
        Self { info: cx.info.clone(), worker: cx.worker.clone(), request, response }
    }

    fn format(&self) -> FormatCx<'_> {
        let now = self.worker.clock.now();
        FormatCx {
            request: self.request.as_ref().map(RequestHead::view),
            response: self.response.as_ref().map(ResponseHead::view),
            ..FormatCx::new(&self.info, now, self.worker.clock.wall(now))
        }
    }
}

struct Wrapped<F> {
    body: Body,
    mutate: F,
}

impl<F: FnMut(&mut HeaderMap) + Unpin> HttpBody for Wrapped<F> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut polled = self.body.poll_next(cx);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            (self.mutate)(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
