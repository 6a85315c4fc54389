//! gRPC for the admin server: calls whose messages are answered one by one.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Response, header};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use nuncio_filter_api::grpc_frame;
use tonic::Status;

use super::{Admin, csds};

/// Bytes before each message: a flag for compression, and its length.
const PREFIX: usize = 5;
/// Longest request in bytes.
const MAX_MESSAGE: usize = 64 * 1024;

/// The answers to the messages of a call.
pub(super) struct Answers {
    admin: Rc<Admin>,
    requests: Incoming,
    received: BytesMut,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Any number of messages is answered.
    Many,
    /// One message is.
    One,
    /// It was, and the status follows.
    Answered,
    Ended,
}

/// The response to a call of a method that there is.
pub(super) fn respond(admin: &Rc<Admin>, path: &str, requests: Incoming) -> Result<Response<Answers>, Incoming> {
    let state = match path {
        csds::FETCH => State::One,
        csds::STREAM => State::Many,
        _ => return Err(requests),
    };
    let mut response = Response::new(Answers { admin: admin.clone(), requests, received: BytesMut::new(), state });
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    Ok(response)
}

// === impl Answers ===

impl Answers {
    /// What is to be sent next with what is here.
    fn next(&mut self) -> Option<Frame<Bytes>> {
        if self.state == State::Answered {
            return Some(self.end(&Status::ok("")));
        }
        let answered = take_message(&mut self.received)
            .and_then(|message| message.map(|message| csds::answer(&self.admin, &message)).transpose());
        match answered {
            Ok(None) => None,
            Ok(Some(answer)) => {
                if self.state == State::One {
                    self.state = State::Answered;
                }
                Some(Frame::data(grpc_frame(&answer)))
            }
            Err(status) => Some(self.end(&status)),
        }
    }

    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.state = State::Ended;
        let mut trailers = HeaderMap::new();
        // A message that no header may hold is left out with the status; the client then makes up its own.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }

    /// No more messages follow.
    fn finish(&mut self) -> Frame<Bytes> {
        let status = match (self.state, self.received.is_empty()) {
            (State::Many, true) => Status::ok(""),
            _ => Status::internal("the call ended within a message"),
        };
        self.end(&status)
    }
}

impl Body for Answers {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if self.state == State::Ended {
                return Poll::Ready(None);
            }
            if let Some(frame) = self.next() {
                return Poll::Ready(Some(Ok(frame)));
            }
            let frame = match ready!(Pin::new(&mut self.requests).poll_frame(cx)) {
                None => self.finish(),
                Some(Err(error)) => self.end(&Status::cancelled(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received.extend_from_slice(&data);
                    }
                    continue;
                }
            };
            return Poll::Ready(Some(Ok(frame)));
        }
    }
}

/// A complete message, if there is one.
fn take_message(received: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some(&[flag, a, b, c, d]) = received.first_chunk::<PREFIX>() else { return Ok(None) };
    if flag != 0 {
        return Err(Status::unimplemented("no compression was offered"));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MAX_MESSAGE {
        return Err(Status::resource_exhausted(format!("a message may have {MAX_MESSAGE} bytes")));
    }
    if received.len() - PREFIX < length {
        return Ok(None);
    }
    received.advance(PREFIX);
    Ok(Some(received.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let mut received = BytesMut::from(&grpc_frame(b"one")[..]);
        received.extend_from_slice(&grpc_frame(b"two")[..6]);
        assert_eq!(take_message(&mut received).unwrap().unwrap(), "one");
        assert_eq!(take_message(&mut received).unwrap(), None);
        received.extend_from_slice(b"wo");
        assert_eq!(take_message(&mut received).unwrap().unwrap(), "two");
    }

    #[test]
    fn what_is_compressed_or_too_long_ends_the_call() {
        let code = |bytes: &[u8]| take_message(&mut BytesMut::from(bytes)).unwrap_err().code();
        assert_eq!(code(&[1, 0, 0, 0, 0]), Code::Unimplemented);
        assert_eq!(code(&[0, 1, 0, 0, 0]), Code::ResourceExhausted);
    }
}
