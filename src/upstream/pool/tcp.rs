//! Connections for tunnels: each carries one, and is never lent again.

use std::rc::{Rc, Weak};
use std::sync::Arc;

use nuncio_config::cluster::Priority;
use nuncio_http::h1::ClientConnection;

use super::connection::{ConnectionRecord, PoolFailure};
use super::http1::Http1Pool;
use super::queue::Queue;
use crate::host::Host;
use crate::worker::ClusterShare;

/// Makes a connection to `host`. Counts as a pool would that has no other.
pub(crate) async fn dial(
    share: &Rc<ClusterShare>,
    host: &Arc<Host>,
    priority: Priority,
) -> Result<(ClientConnection, Rc<ConnectionRecord>), PoolFailure> {
    // A queue of one, for what is counted of a request that waits for its connection.
    let queue = Queue::new();
    let waiting = queue.join(share, host, priority)?;
    let nobody = Weak::<Http1Pool>::new();
    let record = ConnectionRecord::open(share, host, priority, None, nobody, true).ok_or(PoolFailure::Overflow)?;
    let record = Rc::new(record);
    match record.dial().await {
        Ok(io) => {
            queue.serve(|| (ClientConnection::new(io, share.http1_settings().clone()), record));
        }
        Err(failure) => queue.fail(&failure),
    }
    waiting.await
}
