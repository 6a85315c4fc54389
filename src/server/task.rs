//! Tasks that end with whoever began them.

use std::future::Future;

use tokio::task::{AbortHandle, spawn_local};

/// A task on this thread. Dropping it ends the task.
pub(crate) struct Task(AbortHandle);

impl Task {
    /// Begins it, within a `LocalSet`.
    pub(crate) fn spawn(work: impl Future<Output = ()> + 'static) -> Self {
        Self(spawn_local(work).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
