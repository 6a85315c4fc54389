//! A body that is read by a stream, and by the copies of its request.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_filter_api::{Body, BodyError};
use nuncio_http::ahead::Ahead;
use nuncio_telemetry::ResponseFlag;

/// A body that is read twice: what its reader takes is put into the queues of the copies.
pub(super) struct Tee {
    body: Body,
    copies: Vec<Rc<RefCell<Queue>>>,
}

/// What a copy has not read yet.
struct Queue {
    frames: Ahead,
    /// Most bytes in `frames`: the buffer limit of the stream.
    limit: u64,
    remaining: Option<u64>,
    state: State,
    reader: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    /// The body broke off, or the copy does not keep up.
    Broken,
}

struct Reader(Rc<RefCell<Queue>>);

// === impl Tee ===

impl Tee {
    pub(super) fn new(body: Body) -> Self {
        Self { body, copies: Vec::new() }
    }

    /// Another reader, for which up to `limit` bytes are kept.
    pub(super) fn copy(&mut self, limit: u64) -> Body {
        let queue = Queue::new(self.body.remaining(), limit);
        self.copies.push(queue.clone());
        Body::stream(Reader(queue))
    }

    /// The body of the stream.
    pub(super) fn into_body(mut self) -> Body {
        match self.copies.is_empty() {
            true => std::mem::take(&mut self.body),
            false => Body::stream(self),
        }
    }
}

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = std::task::ready!(this.body.poll_next(cx));
        match &polled {
            Some(Ok(frame)) => this.copies.iter().for_each(|copy| copy.borrow_mut().put(frame)),
            Some(Err(_)) => this.close(State::Broken),
            None => this.close(State::Ended),
        }
        if this.body.is_end() {
            this.close(State::Ended);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Tee {
    fn close(&mut self, state: State) {
        for copy in self.copies.drain(..) {
            copy.borrow_mut().close(state);
        }
    }
}

/// A body that is given up is given up for the copies too.
impl Drop for Tee {
    fn drop(&mut self) {
        self.close(State::Broken);
    }
}

// === impl Queue ===

impl Queue {
    fn new(remaining: Option<u64>, limit: u64) -> Rc<RefCell<Self>> {
        let frames = Ahead::default();
        Rc::new(RefCell::new(Self { frames, limit, remaining, state: State::Open, reader: None }))
    }

    fn put(&mut self, frame: &Frame<Bytes>) {
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Frame::data(data.clone()),
            (None, Some(trailers)) => Frame::trailers(HeaderMap::clone(trailers)),
            (None, None) => return,
        };
        if self.state != State::Open {
            return;
        }
        self.frames.push(Ok(copy));
        match self.frames.bytes() as u64 > self.limit {
            true => self.close(State::Broken),
            false => self.wake(),
        }
    }

    fn close(&mut self, state: State) {
        if self.state == State::Open {
            self.state = state;
        }
        if self.state == State::Broken {
            self.frames = Ahead::default();
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

// === impl Reader ===

impl HttpBody for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut queue = self.0.borrow_mut();
        if let Some(frame) = queue.frames.pop() {
            let length = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
            queue.remaining = queue.remaining.map(|left| left.saturating_sub(length));
            return Poll::Ready(Some(frame));
        }
        match queue.state {
            State::Ended => Poll::Ready(None),
            State::Broken => {
                let flag = ResponseFlag::DownstreamConnectionTermination;
                Poll::Ready(Some(Err(BodyError::new(flag, "mirrored_request_broke_off"))))
            }
            State::Open => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let queue = self.0.borrow();
        queue.frames.is_empty() && queue.state == State::Ended
    }

    fn size_hint(&self) -> SizeHint {
        self.0.borrow().remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts these pieces into a queue of `limit` bytes while nobody reads, and reads it then.
    async fn through(limit: u64, pieces: &[&'static str], end: State) -> Result<String, BodyError> {
        let queue = Queue::new(None, limit);
        for piece in pieces {
            queue.borrow_mut().put(&Frame::data(Bytes::from_static(piece.as_bytes())));
        }
        queue.borrow_mut().close(end);
        let mut body = Body::stream(Reader(queue));
        let mut text = String::new();
        while let Some(frame) = body.next().await {
            text += std::str::from_utf8(frame?.data_ref().expect("there are no trailers")).expect("it was text");
        }
        Ok(text)
    }

    #[tokio::test]
    async fn a_copy_reads_what_the_stream_read() {
        assert_eq!(through(10, &["ab", "c"], State::Ended).await.unwrap(), "abc");
    }

    #[tokio::test]
    async fn a_copy_that_does_not_keep_up_is_given_up() {
        assert!(through(2, &["ab", "c"], State::Ended).await.is_err());
    }

    #[tokio::test]
    async fn a_copy_of_a_body_that_broke_off_breaks_off() {
        assert!(through(10, &["ab"], State::Broken).await.is_err());
    }
}
