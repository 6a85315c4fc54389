//! Message bodies: pulled frame by frame, so that back-pressure is not polling.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_telemetry::{ResponseFlag, ResponseFlags};

/// Why a body ended before its end. The details become `%RESPONSE_CODE_DETAILS%` where the stream has no better ones.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{details}")]
pub struct BodyError {
    /// Response flags to set on the stream.
    pub flags: ResponseFlags,
    /// Envoy's detail string, such as `upstream_reset_after_response_started{connection termination}`.
    pub details: Cow<'static, str>,
}

impl BodyError {
    /// An error with one flag.
    pub fn new(flag: ResponseFlag, details: impl Into<Cow<'static, str>>) -> Self {
        Self { flags: flag.into(), details: details.into() }
    }
}

/// A body made elsewhere. Not `Send`: it belongs to one worker.
pub type BoxBody = Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError>>>;

/// A message body: data frames, then perhaps one frame of trailers.
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Buffered(Bytes, Option<Box<HeaderMap>>),
    Stream(BoxBody),
}

impl Body {
    /// No body, no trailers.
    pub const fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// A body of known bytes; empty bytes make an empty body.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self(Kind::Empty) } else { Self(Kind::Full(bytes)) }
    }

    /// A body of known bytes followed by trailers.
    pub fn with_trailers(bytes: Bytes, trailers: HeaderMap) -> Self {
        Self(Kind::Buffered(bytes, Some(Box::new(trailers))))
    }

    /// A body that is produced while it is pulled.
    pub fn stream(body: impl HttpBody<Data = Bytes, Error = BodyError> + 'static) -> Self {
        Self(Kind::Stream(Box::pin(body)))
    }

    /// Polls for the next frame; `None` is the end. Nobody polls who cannot pass the frame on (back-pressure).
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Buffered(bytes, trailers) if bytes.is_empty() => {
                let trailers = trailers.take();
                self.0 = Kind::Empty;
                Poll::Ready(trailers.map(|t| Ok(Frame::trailers(*t))))
            }
            Kind::Buffered(bytes, _) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Stream(body) => body.as_mut().poll_frame(cx),
        }
    }

    /// The next frame; `None` is the end.
    pub async fn next(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Whether the end is known to have been reached without polling: no data, no trailers follow.
    pub fn is_end(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) | Kind::Buffered(..) => false,
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    /// Whether trailers may follow: not where all of the body is known.
    pub fn may_have_trailers(&self) -> bool {
        match &self.0 {
            Kind::Empty | Kind::Full(_) => false,
            Kind::Buffered(_, trailers) => trailers.is_some(),
            Kind::Stream(body) => !body.is_end_stream(),
        }
    }

    /// Bytes that remain, where known: exact for content-length framing and for buffered bodies.
    pub fn remaining(&self) -> Option<u64> {
        match &self.0 {
            Kind::Empty => Some(0),
            Kind::Full(bytes) | Kind::Buffered(bytes, _) => Some(bytes.len() as u64),
            Kind::Stream(body) => body.size_hint().exact(),
        }
    }

    /// Takes the bytes of a body that is wholly in memory and has no trailers: the codec writes them with the head.
    pub fn take_full(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Some(bytes)
            }
            _ => None,
        }
    }

    /// Pulls the whole body into memory. `Err(Buffered::TooLarge)` beyond `limit` bytes; what was read is lost then,
    /// for the stream is refused.
    pub async fn buffer(&mut self, limit: usize) -> Result<(), Buffered> {
        let mut data = BytesMut::new();
        let mut trailers = None;
        let mut body = std::mem::take(self);
        while let Some(frame) = body.next().await {
            match frame.map_err(Buffered::Broken)?.into_data() {
                Ok(bytes) if data.len() + bytes.len() > limit => return Err(Buffered::TooLarge),
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => trailers = frame.into_trailers().ok().map(Box::new),
            }
        }
        self.0 = match (data.is_empty(), trailers) {
            (true, None) => Kind::Empty,
            (_, trailers @ Some(_)) => Kind::Buffered(data.freeze(), trailers),
            (false, None) => Kind::Full(data.freeze()),
        };
        Ok(())
    }
}

/// Why a body could not be buffered.
#[derive(Debug, thiserror::Error)]
pub enum Buffered {
    /// It is larger than the limit.
    #[error("body exceeds the buffer limit")]
    TooLarge,
    /// It broke off.
    #[error("{0}")]
    Broken(BodyError),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.get_mut().poll_next(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::Empty => "Body::Empty",
            Kind::Full(_) | Kind::Buffered(..) => "Body::Full",
            Kind::Stream(_) => "Body::Stream",
        })
    }
}
