//! The end of a connection, and what is waited for no longer than a time.

use std::time::Duration;

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

pub(super) async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}
