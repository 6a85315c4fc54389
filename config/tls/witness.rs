//! What rustls has its verifier see of a peer and tells nobody else: how it has signed, and what it has shown that was
//! not believed.
//!
//! A verifier is asked within a call that works on one connection, and knows nothing of it. So it leaves here what it
//! has seen, and whoever has made that call takes it before the thread does anything else.

use std::cell::RefCell;

use rustls::pki_types::CertificateDer;
use rustls::{Error, SignatureScheme};

use super::flaw::FlawAt;
use super::made::Made;

/// What was seen of a peer.
#[derive(Debug, Default)]
pub struct Witness {
    /// How it has signed the handshake, and the group, where whoever makes the call says it.
    pub made: Made,
    /// What a session says of itself that is to be resumed.
    pub recalled: Made,
    /// Its certificates, where they were not believed.
    pub refused: Vec<CertificateDer<'static>>,
    /// What is wrong with them, where it is their chain.
    pub flaw: Option<FlawAt>,
    /// Whether it has shown any.
    pub has_certificate: bool,
    /// Why they are not believed, where it is served all the same.
    pub unbelieved: Option<Error>,
}

thread_local! {
    // No state: it is taken by the call that has it filled.
    static SEEN: RefCell<Witness> = const { RefCell::new(Witness::NOTHING) };
}

impl Witness {
    const NOTHING: Self = Self {
        made: Made::UNKNOWN,
        recalled: Made::UNKNOWN,
        refused: Vec::new(),
        flaw: None,
        has_certificate: false,
        unbelieved: None,
    };

    /// What was seen since it was taken last.
    #[must_use]
    pub fn take() -> Self {
        SEEN.take()
    }

    /// Says what was seen before, for those who keep it with a session.
    pub fn give(self) {
        SEEN.set(self);
    }

    /// Adds what was seen later.
    pub fn add(&mut self, later: Self) {
        self.made = later.made.or(self.made);
        self.recalled = later.recalled.or(self.recalled);
        self.flaw = later.flaw.or(self.flaw);
        self.has_certificate |= later.has_certificate;
        self.unbelieved = later.unbelieved.or(self.unbelieved.take());
        if !later.refused.is_empty() {
            self.refused = later.refused;
        }
    }

    pub(super) fn of_signature(scheme: SignatureScheme) {
        SEEN.with_borrow_mut(|seen| seen.made.scheme = Some(scheme));
    }

    pub(super) fn of_recalled(made: Made) {
        SEEN.with_borrow_mut(|seen| seen.recalled = made);
    }

    /// How the session that is at work was made.
    pub(super) fn made_now() -> Made {
        SEEN.with_borrow(|seen| seen.made.or(seen.recalled))
    }

    pub(super) fn of_unbelieved(error: Error) {
        SEEN.with_borrow_mut(|seen| seen.unbelieved = Some(error));
    }

    pub(super) fn of_certificate() {
        SEEN.with_borrow_mut(|seen| seen.has_certificate = true);
    }

    pub(super) fn of_flaw(flaw: FlawAt) {
        SEEN.with_borrow_mut(|seen| seen.flaw = Some(flaw));
    }

    pub(super) fn of_refused(leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) {
        let all = std::iter::once(leaf).chain(others).map(|der| der.clone().into_owned()).collect();
        SEEN.with_borrow_mut(|seen| seen.refused = all);
    }
}
