//! Clients that leave their streams.

use std::future::poll_fn;
use std::task::{Context, Poll};

use h2::Reason;
use nuncio_filter_api::BodyError;
use nuncio_telemetry::ResponseFlag;

use super::Server;
use crate::hcm::stream::{DISCONNECTED, Stream};

/// How a client has ended a stream: by a reset, or with its connection; `None` where it has not.
pub(super) type Loss = Option<Result<Reason, h2::Error>>;

impl Server {
    /// The client has reset the stream, or left with its connection.
    pub(super) fn gone(&self, stream: &Stream, loss: Loss) {
        if let Some(Err(_)) = loss {
            return stream.downstream_gone(ResponseFlag::DownstreamConnectionTermination, DISCONNECTED);
        }
        let details = reset_details(loss.and_then(Result::ok));
        stream.downstream_gone(ResponseFlag::DownstreamRemoteReset, details);
        self.http.hcm.stats.http2.rx_reset().inc();
    }
}

/// What `poll_reset` of a stream knows now.
pub(super) async fn loss(mut poll_reset: impl FnMut(&mut Context<'_>) -> Poll<Result<Reason, h2::Error>>) -> Loss {
    poll_fn(|cx| match poll_reset(cx) {
        Poll::Ready(reset) => Poll::Ready(Some(reset)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Envoy: what is told of a stream that its client has reset.
pub(super) fn reset_details(reason: Option<Reason>) -> &'static str {
    match reason {
        Some(Reason::REFUSED_STREAM) => "http2.remote_refuse",
        _ => "http2.remote_reset",
    }
}

/// In a tunnel the host's half may be told first that the client's broke off.
pub(super) fn tells_of_lost_client(error: &BodyError) -> bool {
    error.flags.has(ResponseFlag::DownstreamRemoteReset)
        || error.flags.has(ResponseFlag::DownstreamConnectionTermination)
}
