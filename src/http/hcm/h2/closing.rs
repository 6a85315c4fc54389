//! The end of a connection, and what is waited for until some time.

use tokio::time::Instant;

use super::{ActiveConnection, Closed, Http};
use crate::h2::Metered;

/// Lets the peer close first, for as long as `delayed_close_timeout` allows.
pub(super) async fn close(http: &Http, metered: &Metered, active: &ActiveConnection) {
    let timeout = http.hcm.timeouts.delayed_close;
    if timeout.is_zero() {
        return;
    }
    match tokio::time::timeout(timeout, metered.close()).await {
        Ok(_) => active.closed_by(Closed::Remote),
        Err(_) => http.delayed_close(),
    }
}

pub(super) async fn until<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}
