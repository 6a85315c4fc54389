use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

/// Wakes a task that looks after connections, which may not have run yet: something happened to one of them, or to
/// their host.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    task: AtomicWaker,
    /// Something happened that the task has not looked at yet.
    is_raised: AtomicBool,
}

// === impl Signal ===

impl Signal {
    /// Something happened.
    pub(crate) fn raise(&self) {
        self.is_raised.store(true, Ordering::Release);
        self.task.wake();
    }

    /// Wakes the task though nothing happened.
    pub(crate) fn wake_task(&self) {
        self.task.wake();
    }

    /// The task to wake.
    pub(crate) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// Whether something happened that was not looked at yet.
    pub(crate) fn is_raised(&self) -> bool {
        self.is_raised.load(Ordering::Acquire)
    }

    /// It is looked at now.
    pub(crate) fn lower(&self) {
        self.is_raised.store(false, Ordering::Release);
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.raise();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.raise();
    }
}
