//! The body of a request that may be sent again: what is read of it is kept, as long as it is not too large.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_filter_api::{Body, BodyError};

/// A body that can be sent by one attempt after the other.
pub(super) struct Replay(Rc<RefCell<Kept>>);

struct Kept {
    source: Body,
    frames: Vec<Piece>,
    bytes: u64,
    /// Bytes that may be kept.
    limit: u64,
    is_abandoned: bool,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The body of one attempt.
struct Reader {
    kept: Rc<RefCell<Kept>>,
    next: usize,
}

// === impl Replay ===

impl Replay {
    /// Keeps what is read of `source`, up to `limit` bytes.
    pub(super) fn new(mut source: Body, limit: u64) -> Self {
        let mut frames = Vec::new();
        let mut bytes = 0;
        if let Some(whole) = source.take_full() {
            bytes = whole.len() as u64;
            frames.push(Piece::Data(whole));
            source = Body::empty();
        }
        Self(Rc::new(RefCell::new(Kept { source, frames, bytes, limit, is_abandoned: bytes > limit })))
    }

    /// The body from its beginning. Until its end was read, there may be only one.
    pub(super) fn body(&self) -> Body {
        let kept = self.0.borrow();
        if kept.frames.is_empty() && kept.source.is_end() {
            return Body::empty();
        }
        if let ([Piece::Data(whole)], true) = (kept.frames.as_slice(), kept.source.is_end()) {
            return Body::full(whole.clone());
        }
        Body::stream(Reader { kept: self.0.clone(), next: 0 })
    }

    /// All of the body, without trailers; `None` where it was not kept.
    pub(super) fn whole(&self) -> Option<Body> {
        let kept = self.0.borrow();
        if kept.is_abandoned {
            return None;
        }
        let data = |piece: &Piece| if let Piece::Data(data) = piece { Some(data.clone()) } else { None };
        Some(match kept.frames.as_slice() {
            [Piece::Data(whole)] => Body::full(whole.clone()),
            pieces => Body::full(pieces.iter().filter_map(data).collect::<Vec<_>>().concat()),
        })
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
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                self.bytes += data.len() as u64;
                Piece::Data(data.clone())
            }
            (_, Some(trailers)) => Piece::Trailers(trailers.clone()),
            _ => return,
        };
        if self.bytes > self.limit {
            self.is_abandoned = true;
            self.frames = Vec::new();
        } else {
            self.frames.push(piece);
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
        if let Some(piece) = kept.frames.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(match piece.clone() {
                Piece::Data(data) => Frame::data(data),
                Piece::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        let polled = kept.source.poll_next(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                kept.keep(frame);
                this.next = kept.frames.len();
            }
            // Another attempt may come to the end as well.
            Poll::Ready(None) => kept.source = Body::empty(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.borrow();
        self.next >= kept.frames.len() && kept.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.borrow();
        let ahead = kept.frames.iter().skip(self.next).map(|piece| match piece {
            Piece::Data(data) => data.len() as u64,
            Piece::Trailers(_) => 0,
        });
        match kept.source.remaining() {
            Some(rest) => SizeHint::with_exact(ahead.sum::<u64>() + rest),
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
        assert_eq!(read(replay.body(), 1).await, "a");
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
