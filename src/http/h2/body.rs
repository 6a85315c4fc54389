//! An HTTP/2 message body as one of ours.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_filter_api::BodyError;

/// Pulls DATA and trailers; window is given back for what was pulled, which is the back-pressure.
pub(crate) struct H2Body<E: BodyEvents> {
    /// There until drop.
    stream: Option<RecvStream>,
    remaining: Option<u64>,
    data_done: bool,
    events: E,
}

/// Who is told what happens to a body.
pub(crate) trait BodyEvents: Unpin + 'static {
    /// Data was pulled, so many bytes.
    fn data(&self, _len: usize) {}
    /// The trailers are here.
    fn trailers(&self, _trailers: &HeaderMap) {}
    /// Nothing more will come: the body ended, or broke off.
    fn ended(&self);
    /// What an error means on this side.
    fn error(&self, error: &h2::Error) -> BodyError;
    /// Nobody will pull more of a body that has not ended.
    fn abandoned(&self, _stream: RecvStream) {}
}

impl<E: BodyEvents> H2Body<E> {
    /// A body whose happenings `events` is told; `content_length` as declared.
    pub(crate) fn new(stream: RecvStream, content_length: Option<u64>, events: E) -> Self {
        Self { stream: Some(stream), remaining: content_length, data_done: false, events }
    }

    pub(crate) fn events(&self) -> &E {
        &self.events
    }

    fn stream(&mut self) -> &mut RecvStream {
        self.stream.as_mut().expect("only drop takes it")
    }

    fn data(&mut self, data: Bytes) -> Frame<Bytes> {
        let len = data.len();
        self.remaining = self.remaining.map(|r| r.saturating_sub(len as u64));
        // It fails only if the stream has ended meanwhile, and then there is no window to give back.
        let _ = self.stream().flow_control().release_capacity(len);
        self.events.data(len);
        if self.stream().is_end_stream() {
            self.events.ended();
        }
        Frame::data(data)
    }

    fn failed(&self, error: &h2::Error) -> BodyError {
        self.events.ended();
        self.events.error(error)
    }
}

impl<E: BodyEvents> Drop for H2Body<E> {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take_if(|s| !s.is_end_stream()) {
            self.events.abandoned(stream);
        }
    }
}

impl<E: BodyEvents> HttpBody for H2Body<E> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if !this.data_done {
            match ready!(this.stream().poll_data(cx)) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(this.data(data)))),
                Some(Err(e)) => return Poll::Ready(Some(Err(this.failed(&e)))),
                None => this.data_done = true,
            }
        }
        let trailers = ready!(this.stream().poll_trailers(cx));
        this.events.ended();
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|t| {
                this.events.trailers(&t);
                Ok(Frame::trailers(t))
            }),
            Err(e) => Some(Err(this.failed(&e))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
