//! Which certificate a client is shown.

use std::collections::HashMap;
use std::sync::Arc;

use nuncio_telemetry::CertificateInfo;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureAlgorithm};

use super::certificate::Certificate;
use super::ocsp::{Policy, Staple};
use super::san::Names;

/// Chooses the certificate that a client is shown, by the name that it asks for and the algorithms that it knows. A
/// certificate whose key the client does not know is passed over, even if it has the very name.
#[derive(Debug)]
pub(super) struct CertificatesByName {
    exact: HashMap<String, Vec<Arc<Certificate>>>,
    /// Of `*.example.com`: by `example.com`.
    wildcard: HashMap<String, Vec<Arc<Certificate>>>,
    all: Vec<Arc<Certificate>>,
    /// `full_scan_certs_on_sni_mismatch`
    scans_all: bool,
    policy: Policy,
}

impl CertificatesByName {
    pub(super) fn new(certificates: &[Arc<Certificate>], scans_all: bool, policy: Policy) -> Self {
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for shown in certificates {
            let names = shown.certified.cert.first().map(Names::of_server).unwrap_or_default();
            for name in names.dns {
                let name = name.to_ascii_lowercase();
                let same = match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()).or_default(),
                    None => exact.entry(name).or_default(),
                };
                // Of several with one name and one kind of key the first counts.
                if !same.iter().any(|other: &Arc<Certificate>| kind(other) == kind(shown)) {
                    same.push(shown.clone());
                }
            }
        }
        Self { exact, wildcard, all: certificates.to_vec(), scans_all, policy }
    }

    /// What is told of the certificate that whoever says this hello is shown.
    pub(super) fn info_for(&self, hello: &ClientHello<'_>) -> Option<Arc<CertificateInfo>> {
        self.choose(hello)?.info.clone()
    }

    /// What becomes of a client that says this hello, where it asks for an OCSP response.
    pub(super) fn staple_for(&self, hello: &ClientHello<'_>) -> Staple {
        self.choose(hello).map_or(Staple::Omitted, |shown| self.staple(shown))
    }

    fn staple(&self, shown: &Certificate) -> Staple {
        let policy = if shown.must_staple { Policy::Must } else { self.policy };
        policy.staple(shown.ocsp.as_ref())
    }

    fn choose(&self, hello: &ClientHello<'_>) -> Option<&Arc<Certificate>> {
        let Some(name) = hello.server_name().map(str::to_ascii_lowercase) else {
            return fitting(&self.all, hello).or(self.all.first());
        };
        let parent = || self.wildcard.get(name.split_once('.')?.1);
        let exact = self.exact.get(&name).and_then(|certificates| fitting(certificates, hello));
        let found = exact.or_else(|| fitting(parent()?, hello));
        let found = found.or_else(|| self.scans_all.then(|| fitting(&self.all, hello)).flatten());
        found.or(self.all.first())
    }
}

fn kind(certificate: &Certificate) -> SignatureAlgorithm {
    certificate.certified.key.algorithm()
}

/// The one of them for this client: with ECDSA for those that know it on the curve of the certificate, another where
/// there is none.
fn fitting<'a>(certificates: &'a [Arc<Certificate>], hello: &ClientHello<'_>) -> Option<&'a Arc<Certificate>> {
    let is_ecdsa = |certificate: &Arc<Certificate>| kind(certificate) == SignatureAlgorithm::ECDSA;
    let can_ecdsa = hello.cipher_suites().iter().any(|suite| goes_with_ecdsa(*suite));
    let knows = |certificate: &Arc<Certificate>| {
        can_ecdsa && certificate.certified.key.choose_scheme(hello.signature_schemes()).is_some()
    };
    let known = certificates.iter().find(|certificate| is_ecdsa(certificate) && knows(certificate));
    known.or_else(|| certificates.iter().find(|certificate| !is_ecdsa(certificate)))
}

/// Whether it can be spoken with a certificate of ECDSA: those of TLS 1.3 leave that open.
fn goes_with_ecdsa(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

impl ResolvesServerCert for CertificatesByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.choose(&hello)?;
        // Those who do not ask are shown no response either way.
        Some(match self.staple(shown) {
            Staple::Shown => shown.certified.clone(),
            Staple::Omitted | Staple::Failed => shown.bare.clone(),
        })
    }
}
