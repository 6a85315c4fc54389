use std::sync::atomic::{AtomicU64, Ordering};

/// Requests that no host was to see, for load reports.
#[derive(Debug, Default)]
pub struct Drops {
    all: AtomicU64,
    overload: AtomicU64,
}

impl Drops {
    /// One that a limit, the assignment or the runtime kept from the hosts.
    #[cold]
    pub(crate) fn note(&self) {
        self.all.fetch_add(1, Ordering::Relaxed);
    }

    /// One of those that the assignment kept from them.
    pub(crate) fn note_overload(&self) {
        self.overload.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were ever.
    pub fn all(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }

    /// How many of them the assignment dropped (`drop_overloads`).
    pub fn by_assignment(&self) -> u64 {
        self.overload.load(Ordering::Relaxed)
    }
}
