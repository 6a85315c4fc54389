//! What comes of a response after its head.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_filter_api::BodyError;
use nuncio_telemetry::{ResponseFlag, StreamInfo};
use tokio::time::Instant;

use super::body::{BodyEvents, H2Body};
use super::faults::{Faults, is_senseless};
use super::limits::{Extent, ResponseLimits};
use super::upload::Upload;
use super::weights::fields_size;
use crate::h1::ExchangeFailure;

/// The body of a response, which drives what is left of the request.
pub(super) struct ResponseBody {
    pub(super) body: H2Body<ResponseEvents>,
    pub(super) upload: Upload,
    pub(super) limits: ResponseLimits,
    /// RFC 9110 §15.3.5 and §15.4.5: a response with its status has none.
    pub(super) is_forbidden: bool,
}

impl ResponseBody {
    /// Why this frame is not to be had of a host, if it is not.
    fn fault(&self, frame: &Frame<Bytes>) -> Option<(Reason, ExchangeFailure)> {
        let faults = &self.body.events().faults;
        let Some(trailers) = frame.trailers_ref() else {
            let is_wrong = self.is_forbidden && frame.data_ref().is_some_and(|data| !data.is_empty());
            let fault = ExchangeFailure::Protocol("content of a response that has none");
            return is_wrong.then_some((Reason::PROTOCOL_ERROR, fault));
        };
        // Envoy: it belongs to no trailers.
        if trailers.contains_key(CONTENT_LENGTH) {
            return Some((Reason::PROTOCOL_ERROR, faults.malformed()));
        }
        let beyond = self.limits.fault(trailers, Extent::default())?;
        Some((Reason::INTERNAL_ERROR, faults.beyond(beyond)))
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Err(error) = this.upload.advance(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some((reason, fault)) = this.fault(frame)
        {
            this.upload.reset(reason);
            return Poll::Ready(Some(Err(broken_off(&fault))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response body, as its stream sees it.
pub(super) struct ResponseEvents {
    pub(super) info: Option<Rc<StreamInfo>>,
    pub(super) faults: Rc<Faults>,
    /// How much there is to be is known.
    pub(super) is_bounded: bool,
}

impl BodyEvents for ResponseEvents {
    fn trailers(&self, trailers: &HeaderMap) {
        if let Some(info) = &self.info {
            info.upstream.borrow_mut().decompressed_header_bytes_received += fields_size(trailers);
        }
    }

    fn ended(&self) {
        if let Some(info) = &self.info {
            info.times.upstream_response_end.set(Some(Instant::now()));
        }
    }

    fn error(&self, error: &h2::Error) -> BodyError {
        // Envoy: more or less data than there should be ends the stream alone, and that is taken for the reason where
        // it can be: the h2 crate tells none.
        broken_off(&match is_senseless(error) && !self.is_bounded {
            true => self.faults.malformed(),
            false => self.faults.failure(error),
        })
    }
}

fn broken_off(failure: &ExchangeFailure) -> BodyError {
    let (flag, reason) = match failure {
        ExchangeFailure::Reset
        | ExchangeFailure::Refused
        | ExchangeFailure::GoneAway
        | ExchangeFailure::TooManyHeaders
        | ExchangeFailure::HeadersTooLarge => (ResponseFlag::UpstreamRemoteReset, "remote reset"),
        ExchangeFailure::Protocol(_) => (ResponseFlag::UpstreamProtocolError, "protocol error"),
        _ => (ResponseFlag::UpstreamConnectionTermination, "connection termination"),
    };
    BodyError::new(flag, format!("upstream_reset_after_response_started{{{reason}}}"))
}
