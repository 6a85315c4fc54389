//! Which certificate a client is shown.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureAlgorithm};

use super::certificate::Certificate;
use super::ocsp::{Policy, Staple};
use super::parameters::Version;
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

    /// What becomes of a client that is shown this certificate, where it asks for an OCSP response.
    pub(super) fn staple(&self, shown: &Certificate) -> Staple {
        let policy = if shown.must_staple { Policy::Must } else { self.policy };
        policy.staple(shown.ocsp.as_ref())
    }

    /// The one that whoever says this hello is shown in this version.
    pub(super) fn choose(&self, hello: &ClientHello<'_>, version: Version) -> Option<&Arc<Certificate>> {
        let fitting = |certificates| self.fitting(certificates, hello, version);
        let Some(name) = hello.server_name().map(str::to_ascii_lowercase) else {
            return fitting(&self.all).or(self.all.first());
        };
        let parent = || self.wildcard.get(name.split_once('.')?.1);
        let exact = self.exact.get(&name).and_then(|certificates| fitting(certificates));
        let found = exact.or_else(|| fitting(parent()?));
        let found = found.or_else(|| self.scans_all.then(|| fitting(&self.all)).flatten());
        found.or(self.all.first())
    }

    /// The one of them for this client: with ECDSA for those that know it on the curve of the certificate, another where
    /// there is none. How the key may sign does not count, as with Envoy. Where what is stapled to that one holds no
    /// longer, another takes its place, if the client knows it.
    fn fitting<'a>(
        &self,
        certificates: &'a [Arc<Certificate>],
        hello: &ClientHello<'_>,
        version: Version,
    ) -> Option<&'a Arc<Certificate>> {
        // Suites of TLS 1.3 leave open what they are spoken with, and are no suites of older versions.
        let can_ecdsa = version == Version::Tls13 || hello.cipher_suites().iter().any(|suite| goes_with_ecdsa(*suite));
        let is_known = |certificate: &Certificate| certificate.can_sign(hello, version);
        let is_ecdsa = |certificate: &Certificate| kind(certificate) == SignatureAlgorithm::ECDSA;
        let holds = |certificate: &Certificate| self.staple(certificate) != Staple::Failed;
        let mut ecdsa = certificates.iter().filter(|it| can_ecdsa && is_ecdsa(it) && is_known(it));
        let first = ecdsa.next();
        let mut others = certificates.iter().filter(|it| !is_ecdsa(it));
        match first {
            Some(first) if !holds(first) => {
                let other = ecdsa.chain(others).find(|it| holds(it) && is_known(it));
                other.or(Some(first))
            }
            Some(first) => Some(first),
            None => others.clone().find(|it| holds(it)).or_else(|| others.next()),
        }
    }
}

fn kind(certificate: &Certificate) -> SignatureAlgorithm {
    certificate.certified.key.algorithm()
}

fn goes_with_ecdsa(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

/// The certificate of a handshake, as rustls asks for it.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) certificates: Arc<CertificatesByName>,
    pub(super) which: Which,
    /// That of the handshake.
    pub(super) version: Version,
}

/// How it was chosen.
#[derive(Clone, Debug)]
pub(super) enum Which {
    /// It is yet to be.
    ByHello,
    /// It is this one.
    This(Arc<Certificate>),
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = match &self.which {
            Which::ByHello => self.certificates.choose(&hello, self.version)?,
            Which::This(certificate) => certificate,
        };
        // Those who do not ask are shown no response either way.
        let certified = match self.certificates.staple(shown) {
            Staple::Shown => &shown.certified,
            Staple::Omitted | Staple::Failed => &shown.bare,
        };
        Some(match self.version {
            Version::Tls12 => shown.in_older(certified, hello.signature_schemes()),
            Version::Tls13 => certified.clone(),
        })
    }
}
