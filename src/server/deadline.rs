//! Points in time that may not come.

use tokio::time::{Instant, sleep_until};

/// Waits until `at`; for ever where there is none.
pub(crate) async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
