//! The body of a request, pulled out of its connection.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_filter_api::{Body, BodyError};

use super::inner::Inner;
use crate::h1::details;
use crate::h1::request_head::IncomingRequest;

/// Begins the stream of the request that was read, if one was, and gives it its body.
pub(super) fn begin(connection: &Rc<RefCell<Inner>>) -> Option<IncomingRequest> {
    let mut inner = connection.borrow_mut();
    let mut parsed = inner.parsed.take()?;
    if inner.begin(&parsed) {
        let stream = inner.stream;
        parsed.incoming.body = Body::stream(RequestBody { inner: connection.clone(), stream });
    }
    Some(parsed.incoming)
}

struct RequestBody {
    inner: Rc<RefCell<Inner>>,
    stream: u64,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut inner = self.inner.borrow_mut();
        if inner.stream != self.stream {
            return Poll::Ready(Some(Err(details::downstream_gone())));
        }
        inner.poll_body(cx)
    }

    fn is_end_stream(&self) -> bool {
        let inner = self.inner.borrow();
        inner.stream == self.stream && inner.is_body_end()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.borrow();
        match inner.body_remaining() {
            Some(bytes) if inner.stream == self.stream => SizeHint::with_exact(bytes),
            _ => SizeHint::default(),
        }
    }
}
