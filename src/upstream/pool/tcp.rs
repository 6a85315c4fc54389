//! Connections for tunnels: each carries one, and is never lent again.

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use nuncio_config::cluster::Priority;
use nuncio_filter_api::{Body, BodyError, Io};
use nuncio_http::h1::ClientConnection;
use nuncio_telemetry::ResponseFlag;

use super::connection::{Carries, ConnectionRecord, PoolFailure};
use super::http1::Http1Pool;
use super::queue::Queue;
use super::transport::TransportOptions;
use crate::host::{Host, Signal};
use crate::worker::ClusterShare;

/// Makes a connection to `host`. Counts as a pool would that has no other.
pub(crate) async fn dial(
    share: &Rc<ClusterShare>,
    host: &Arc<Host>,
    priority: Priority,
    options: Option<Rc<TransportOptions>>,
) -> Result<(ClientConnection, Rc<ConnectionRecord>), PoolFailure> {
    let (io, record) = dial_raw(share, host, priority, options).await?;
    Ok((ClientConnection::new(io, share.http1_settings().clone()), record))
}

/// As `dial`, for bytes that are no HTTP.
pub(crate) async fn dial_raw(
    share: &Rc<ClusterShare>,
    host: &Arc<Host>,
    priority: Priority,
    options: Option<Rc<TransportOptions>>,
) -> Result<(Io, Rc<ConnectionRecord>), PoolFailure> {
    // A queue of one, for what is counted of a request that waits for its connection.
    let queue = Queue::new();
    let waiting = queue.join(share, host, priority)?;
    let nobody = Weak::<Http1Pool>::new();
    let record = ConnectionRecord::open(share, host, priority, Carries::Bytes, nobody, true, options);
    let record = record.ok_or(PoolFailure::Overflow)?;
    let record = Rc::new(record);
    match record.dial().await {
        Ok(io) => {
            queue.serve(|| (io, record));
        }
        Err(failure) => queue.fail(&failure),
    }
    waiting.await
}

/// What comes from the host of a tunnel, where the tunnel ends with the health of the host.
struct Watched {
    body: Body,
    record: Rc<ConnectionRecord>,
    signal: Arc<Signal>,
}

/// Ends `body`, which comes over the connection of `record`, when its host fails, if the cluster says so.
pub(crate) fn end_with_host(body: Body, record: &Rc<ConnectionRecord>) -> Body {
    match record.share.cluster.config.close_connections_on_host_health_failure {
        false => body,
        true => Body::stream(Watched { body, record: record.clone(), signal: record.host.signal() }),
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.signal.register(cx.waker());
        if self.record.is_given_up() {
            self.body = Body::empty();
            let details = "upstream_reset_after_response_started{connection termination}";
            return Poll::Ready(Some(Err(BodyError::new(ResponseFlag::UpstreamConnectionTermination, details))));
        }
        self.body.poll_next(cx)
    }
}
