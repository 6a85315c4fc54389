//! `/tap`: what connections carry, told to whoever asks for it for as long as they listen.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use nuncio_config::load::{Format, Loader, Source, UnknownFields};
use nuncio_config::tap::{AttachedTap, has_admin_taps};
use nuncio_filter_api::LowerCx;
use nuncio_proto::envoy::admin::v3::TapRequest;
use tokio::time::{Sleep, sleep};

use super::{Admin, Reply};

/// The body of an answer: what is tapped, message by message.
pub(super) struct Tapped {
    tap: AttachedTap,
    /// Messages until it ends, where it does.
    left: Option<u64>,
    timeout: Option<Pin<Box<Sleep>>>,
}

/// Whether there is a tap to be configured.
pub(super) fn is_there(admin: &Admin) -> bool {
    has_admin_taps(&admin.env)
}

/// Turns the tap on that a request asks for.
pub(super) fn attach(admin: &Admin, body: &[u8]) -> Result<Tapped, Reply> {
    if body.is_empty() {
        return Err(Reply::bad_request("/tap requires a JSON/YAML body"));
    }
    let source = Source::new("the request", Format::Yaml, body.to_vec());
    let loaded = Loader::new(UnknownFields::Reject).load::<TapRequest>(vec![source]);
    let request = loaded.map_err(|problems| refusal(problems.iter().map(ToString::to_string)))?.message;
    LowerCx::whole(&admin.env, |cx| AttachedTap::attach(request, cx)).map(Tapped::new).map_err(|invalid| {
        // What is wrong with the request as a whole is told as Envoy does.
        refusal(invalid.into_iter().map(|i| if i.path.is_empty() { i.reason } else { i.to_string() }))
    })
}

fn refusal(reasons: impl Iterator<Item = String>) -> Reply {
    Reply::bad_request(reasons.collect::<Vec<_>>().join("\n"))
}

// === impl Tapped ===

impl Tapped {
    fn new(tap: AttachedTap) -> Self {
        let left = tap.end.map(|end| end.after);
        let timeout = tap.end.and_then(|end| end.timeout).map(|timeout| Box::pin(sleep(timeout)));
        Self { tap, left, timeout }
    }
}

impl Body for Tapped {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == Some(0) {
            return Poll::Ready(None);
        }
        if self.timeout.as_mut().is_some_and(|timeout| timeout.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(None);
        }
        let message = ready!(self.tap.messages.poll_recv(cx));
        self.left = self.left.map(|left| left - 1);
        Poll::Ready(message.map(|message| Ok(Frame::data(message))))
    }
}
