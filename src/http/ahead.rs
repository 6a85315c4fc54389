//! What was read of a body while nobody takes it, in order.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use nuncio_filter_api::BodyError;

use crate::pieces::Pieces;

/// The part of a body that was read and is not yet passed on. How much that is, is for the caller to bound by
/// [`Self::cost`]: by the buffer limit of a cluster or listener.
#[derive(Default)]
pub struct Ahead {
    data: Pieces,
    /// Trailers or an error, after all data. Boxed, as there hardly ever are any.
    end: Option<Result<Box<HeaderMap>, BodyError>>,
}

impl Ahead {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.end.is_none()
    }

    /// Bytes of data that wait.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }

    /// The same, with what it costs to keep them.
    pub fn cost(&self) -> usize {
        self.data.cost()
    }

    /// Keeps what was read. Nothing comes after trailers or an error.
    pub fn push(&mut self, frame: Result<Frame<Bytes>, BodyError>) {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => self.data.push(data),
            Ok(Err(frame)) => self.end = frame.into_trailers().ok().map(|trailers| Ok(Box::new(trailers))),
            Err(error) => self.end = Some(Err(error)),
        }
    }

    /// What comes next of it.
    pub fn pop(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        match self.data.pop() {
            Some(data) => Some(Ok(Frame::data(data))),
            None => self.end.take().map(|end| end.map(|trailers| Frame::trailers(*trailers))),
        }
    }
}

#[cfg(test)]
mod tests {
    use nuncio_telemetry::ResponseFlag;

    use super::*;

    #[test]
    fn trailers_and_errors_come_after_the_data() {
        let mut ahead = Ahead::default();
        for piece in ["a", "", "b"] {
            ahead.push(Ok(Frame::data(Bytes::from_static(piece.as_bytes()))));
        }
        ahead.push(Ok(Frame::trailers(HeaderMap::new())));
        assert_eq!((ahead.bytes(), ahead.is_empty()), (2, false));
        assert_eq!(ahead.pop().unwrap().unwrap().into_data().unwrap(), "ab");
        assert!(!ahead.is_empty() && ahead.pop().unwrap().unwrap().is_trailers());
        assert!(ahead.is_empty() && ahead.pop().is_none());
        ahead.push(Err(BodyError::new(ResponseFlag::UpstreamRemoteReset, "broke off")));
        assert!(!ahead.is_empty() && ahead.pop().unwrap().is_err() && ahead.is_empty());
    }
}
