//! For which workload a peer is held against the bundles of SPIFFE (`workload_trust_domain`): filters say it of each
//! connection.
//!
//! A verifier of rustls knows nothing of the connection that it is asked for (see `witness`), so whoever makes the call in
//! which it is asked says it here.

use std::cell::RefCell;

thread_local! {
    // No state: it is there while a call is made.
    static CURRENT: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Forgets it, also after a panic.
struct Forget;

impl Drop for Forget {
    fn drop(&mut self) {
        CURRENT.take();
    }
}

/// Makes a call in which peers may be verified for a workload of this trust domain.
pub fn for_workload<R>(domain: Option<&str>, call: impl FnOnce() -> R) -> R {
    let Some(domain) = domain else { return call() };
    CURRENT.set(Some(domain.into()));
    let _forget = Forget;
    call()
}

/// Runs `look` with the trust domain of the workload; it is empty where there is none.
pub(super) fn with_current<R>(look: impl FnOnce(&str) -> R) -> R {
    CURRENT.with_borrow(|current| look(current.as_deref().unwrap_or_default()))
}
