//! The body of a request that may be sent again: what is read of it is kept, as long as it is not too large.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_filter_api::{Body, BodyError};
use nuncio_http::pieces::{Pieces, Place};

/// A body that can be sent by one attempt after the other.
pub(super) struct Replay(Rc<RefCell<Kept>>);

struct Kept {
    source: Body,
    data: Pieces,
    trailers: Option<HeaderMap>,
    /// Bytes that may be kept.
    limit: u64,
    is_abandoned: bool,
}

/// The body of one attempt.
struct Reader {
    kept: Rc<RefCell<Kept>>,
    place: Place,
    /// The trailers are still to be read.
    lacks_trailers: bool,
}

// === impl Replay ===

impl Replay {
    /// Keeps what is read of `source`, up to `limit` bytes.
    pub(super) fn new(mut source: Body, limit: u64) -> Self {
        let mut data = Pieces::default();
        if let Some(whole) = source.take_full() {
            data = whole.into();
            source = Body::empty();
        }
        let is_abandoned = data.bytes() as u64 > limit;
        Self(Rc::new(RefCell::new(Kept { source, data, trailers: None, limit, is_abandoned })))
    }

    /// The body from its beginning. Until its end was read, there may be only one.
    pub(super) fn body(&self) -> Body {
        let kept = self.0.borrow();
        let is_data_alone = kept.source.is_end() && kept.trailers.is_none();
        match kept.data.single().filter(|_| is_data_alone) {
            Some(whole) => Body::full(whole),
            None => Body::stream(Reader { kept: self.0.clone(), place: Place::default(), lacks_trailers: true }),
        }
    }

    /// All of the body, without trailers; `None` where it was not kept.
    pub(super) fn whole(&self) -> Option<Body> {
        let kept = self.0.borrow();
        (!kept.is_abandoned).then(|| Body::full(kept.data.concat()))
    }

    /// More than the limit was read: what was sent cannot be sent again.
    pub(super) fn is_abandoned(&self) -> bool {
        self.0.borrow().is_abandoned
    }
}

// === impl Kept ===

impl Kept {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.is_abandoned {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.data.push(data.clone());
        }
        self.trailers = frame.trailers_ref().cloned();
        if self.data.bytes() as u64 > self.limit {
            self.is_abandoned = true;
            self.data = Pieces::default();
        }
    }
}

// === impl Reader ===

impl HttpBody for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut kept = this.kept.borrow_mut();
        if let Some(data) = kept.data.read(&mut this.place) {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = kept.trailers.as_ref().filter(|_| std::mem::take(&mut this.lacks_trailers)) {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
        }
        let polled = kept.source.poll_next(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                kept.keep(frame);
                this.place = kept.data.end();
                this.lacks_trailers = frame.is_data();
            }
            // Another attempt may come to the end as well.
            Poll::Ready(None) => kept.source = Body::empty(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.borrow();
        let has_trailers = self.lacks_trailers && kept.trailers.is_some();
        kept.data.bytes_from(self.place) == 0 && !has_trailers && kept.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.borrow();
        match kept.source.remaining() {
            Some(rest) => SizeHint::with_exact(kept.data.bytes_from(self.place) as u64 + rest),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of these pieces.
    struct Pieces(Vec<&'static str>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            if self.0.is_empty() {
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.0.remove(0).as_bytes())))))
        }
    }

    async fn read(mut body: Body, frames: usize) -> String {
        let mut text = String::new();
        for _ in 0..frames {
            let Some(Ok(frame)) = body.next().await else { break };
            text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
        }
        text
    }

    #[tokio::test]
    async fn what_was_read_is_read_again_and_the_rest_after_it() {
        let replay = Replay::new(Body::stream(Pieces(vec!["a", "b", "c"])), 10);
        assert_eq!(read(replay.body(), 2).await, "ab");
        assert_eq!(read(replay.body(), 1).await, "ab");
        assert_eq!(read(replay.body(), 9).await, "abc");
        assert_eq!(read(replay.body(), 9).await, "abc");
        assert!(!replay.is_abandoned());
    }

    #[tokio::test]
    async fn a_body_that_was_read_to_its_end_has_several_readers() {
        let replay = Replay::new(Body::stream(Pieces(vec!["a", "b"])), 10);
        let mut first = replay.body();
        while first.next().await.is_some() {}
        let (second, third) = (replay.body(), replay.body());
        assert_eq!(read(second, 9).await, "ab");
        assert_eq!(read(third, 9).await, "ab");
        assert!(first.next().await.is_none());
        assert_eq!(replay.whole().unwrap().take_full().unwrap(), "ab");
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_sent_but_not_kept() {
        let replay = Replay::new(Body::stream(Pieces(vec!["ab", "cd", "ef"])), 3);
        assert_eq!(read(replay.body(), 9).await, "abcdef");
        assert!(replay.is_abandoned() && replay.whole().is_none());
    }

    #[tokio::test]
    async fn a_body_in_memory_stays_whole() {
        let replay = Replay::new(Body::full("abc"), 10);
        assert_eq!(replay.body().take_full().unwrap(), "abc");
        assert_eq!(replay.body().take_full().unwrap(), "abc");
        assert!(Replay::new(Body::empty(), 0).body().is_end());
    }
}
