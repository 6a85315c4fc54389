//! Which certificate a client is shown.

use std::collections::HashMap;
use std::sync::Arc;

use nuncio_telemetry::CertificateInfo;
use rustls::SignatureAlgorithm;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::ocsp::{Policy, Staple};
use super::san::Names;

/// Chooses the certificate that a client is shown, by the name that it asks for and the algorithms that it knows.
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
        let mut all = certificates.to_vec();
        // Envoy shows ECDSA to those who know it.
        all.sort_by_key(|c| c.certified.key.algorithm() != SignatureAlgorithm::ECDSA);
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for shown in &all {
            let names = shown.certified.cert.first().map(Names::of_server).unwrap_or_default();
            for name in names.dns {
                let name = name.to_ascii_lowercase();
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()).or_default().push(shown.clone()),
                    None => exact.entry(name).or_default().push(shown.clone()),
                }
            }
        }
        // Whoever asks for no name that is known is shown the first, and another one only for its algorithm.
        if let Some(default) = certificates.first()
            && let Some(at) = all.iter().position(|c| Arc::ptr_eq(c, default))
        {
            all[..=at].rotate_right(1);
        }
        Self { exact, wildcard, all, scans_all, policy }
    }

    fn by_name(&self, name: &str) -> Option<&[Arc<Certificate>]> {
        let found = self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1));
        found.map(Vec::as_slice)
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
        let named = hello.server_name().and_then(|name| self.by_name(&name.to_ascii_lowercase()));
        let candidates = match named {
            Some(named) => named,
            None if self.scans_all || hello.server_name().is_none() => &self.all,
            None => &self.all[..self.all.len().min(1)],
        };
        let knows = |c: &&Arc<Certificate>| c.certified.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(knows).or_else(|| candidates.first())
    }
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
