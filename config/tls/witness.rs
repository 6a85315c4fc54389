//! What rustls has its verifier see of a peer and tells nobody else: how it has signed, and what it has shown that was
//! not believed.
//!
//! A verifier is asked within a call that works on one connection, and knows nothing of it. So it leaves here what it
//! has seen, and whoever has made that call takes it before the thread does anything else.

use std::cell::RefCell;

use rustls::SignatureScheme;
use rustls::pki_types::CertificateDer;

use super::flaw::FlawAt;

/// What was seen of a peer.
#[derive(Debug, Default)]
pub struct Witness {
    /// How it has signed the handshake.
    pub scheme: Option<SignatureScheme>,
    /// Its certificates, where they were not believed.
    pub refused: Vec<CertificateDer<'static>>,
    /// What is wrong with them, where it is their chain.
    pub flaw: Option<FlawAt>,
    /// Whether it has shown any.
    pub has_certificate: bool,
}

thread_local! {
    // No state: it is taken by the call that has it filled.
    static SEEN: RefCell<Witness> = const { RefCell::new(Witness::NOTHING) };
}

impl Witness {
    const NOTHING: Self = Self { scheme: None, refused: Vec::new(), flaw: None, has_certificate: false };

    /// What was seen since it was taken last.
    #[must_use]
    pub fn take() -> Self {
        SEEN.take()
    }

    /// Adds what was seen later.
    pub fn add(&mut self, later: Self) {
        self.scheme = later.scheme.or(self.scheme);
        self.flaw = later.flaw.or(self.flaw);
        self.has_certificate |= later.has_certificate;
        if !later.refused.is_empty() {
            self.refused = later.refused;
        }
    }

    pub(super) fn of_signature(scheme: SignatureScheme) {
        SEEN.with_borrow_mut(|seen| seen.scheme = Some(scheme));
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
