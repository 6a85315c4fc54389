use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, StatusCode};
use nuncio_telemetry::{ResponseFlag, ResponseFlags};

use crate::{Request, RequestHead, Response, ResponseHead, StreamCx};

/// Go on, or answer here: a reply runs the response path of every filter.
pub type Verdict = Result<(), Reply>;

/// What a filter's hook returns. A future is allocated only where the filter really waits.
pub enum Step<'a> {
    /// Finished.
    Done(Verdict),
    /// Wait for the future; dropping it cancels what the filter started.
    Wait(LocalBoxFuture<'a, Verdict>),
}

impl Step<'_> {
    /// Go on with the next filter.
    pub const CONTINUE: Step<'static> = Step::Done(Ok(()));
}

/// An answer that does not come from the next filter.
#[derive(Debug)]
pub enum Reply {
    /// Made here; local-reply mapping and gRPC framing apply.
    Local(LocalReply),
    /// A whole response: what the router got from upstream.
    Response(Response),
    /// None: the request, as the filter left it, begins anew as if it had just come, and the filters with it. What is
    /// noted of it until then is logged with this head of a response, which the client is not sent.
    Again(Box<ResponseHead>),
}

impl Reply {
    /// Whether it is the answer to a client that is no longer there: its request broke off.
    pub fn tells_of_lost_client(&self) -> bool {
        let Self::Local(LocalReply { flags, .. }) = self else { return false };
        flags.has(ResponseFlag::DownstreamConnectionTermination) || flags.has(ResponseFlag::DownstreamRemoteReset)
    }
}

impl From<LocalReply> for Reply {
    fn from(reply: LocalReply) -> Self {
        Self::Local(reply)
    }
}

/// A response that nuncio makes itself.
#[derive(Clone, Debug)]
pub struct LocalReply {
    /// HTTP status; a gRPC client gets the status that `grpc_status` or Envoy's mapping gives.
    pub status: StatusCode,
    /// Body text.
    pub body: Bytes,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// Response flags to set.
    pub flags: ResponseFlags,
    /// Further headers.
    pub headers: HeaderMap,
    /// gRPC status for gRPC clients, where the mapping from the HTTP status is not wanted.
    pub grpc_status: Option<u32>,
}

impl LocalReply {
    /// A reply with an empty body.
    pub fn new(status: StatusCode, details: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            body: Bytes::new(),
            details: details.into(),
            flags: ResponseFlags::NONE,
            headers: HeaderMap::new(),
            grpc_status: None,
        }
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// With this response flag.
    pub fn flag(mut self, flag: ResponseFlag) -> Self {
        self.flags = self.flags.union(flag.into());
        self
    }
}

/// One filter of one stream. Hooks run in order of the chain for requests and in reverse for responses.
pub trait HttpFilter {
    /// Sees the request. `Err` in the verdict answers it here; the last filter of a chain always does.
    fn request<'a>(&'a mut self, _request: &'a mut Request, _cx: &'a mut StreamCx) -> Step<'a> {
        Step::CONTINUE
    }

    /// Sees the response, local replies included, and the head of the request it answers as the filters left it.
    /// `Err` in the verdict replaces the response; the filters that saw it already do not see the replacement.
    fn response<'a>(
        &'a mut self,
        _response: &'a mut Response,
        _request: &'a RequestHead,
        _cx: &'a mut StreamCx,
    ) -> Step<'a> {
        Step::CONTINUE
    }

    /// Called exactly once, when the stream ends in whatever way, before the access logs.
    fn complete(&mut self, _cx: &StreamCx) {}
}

/// A filter as configured: shared by all workers.
pub trait HttpFilterConfig: Send + Sync {
    /// The filter of one stream, made right before its first hook runs: `cx.route()` is the route that holds for it,
    /// also where a filter before it changed the route. `name` is its name in the chain, by which it finds its
    /// per-route configuration: `cx.route().filter_config(name)`. A filter that has nothing to do on the stream is a
    /// type without fields, whose box allocates nothing.
    fn instantiate(self: Arc<Self>, name: &Arc<str>, cx: &StreamCx) -> Box<dyn HttpFilter>;

    /// Whether it must be the last of its chain.
    fn is_terminal(&self) -> bool {
        false
    }
}
