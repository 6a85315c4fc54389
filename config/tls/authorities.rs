//! The authorities that are trusted, and what they have revoked.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::DataSource;
use nuncio_telemetry::CertificateInfo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use rustls::{DistinguishedName, Error};

use super::certificate::path_of;
use super::chain::{Judge, When};
use super::info::certificate_info;
use super::link::Link;
use super::pem;
use super::revocation::{self, Revocations};
use super::san::Parsed;
use super::validation::{Peer, sha256};
use super::witness::Witness;
use crate::value::unwatched_data_source;

/// Bytes that a file of authorities or of revocations may have.
pub(super) const MAX_PEM: u64 = 16 << 20;
/// Where systems have their authorities.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[derive(Debug)]
pub(super) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    /// What logs tell of each, once somebody asks, and its name in DER.
    told: OnceLock<Vec<(Box<[u8]>, Arc<CertificateInfo>)>>,
    /// Where among them those of a name stand.
    by_subject: HashMap<Box<[u8]>, Vec<usize>>,
    /// What they have revoked: lists that come with them, and those of `crl`.
    pub(super) revocations: Vec<Revocations>,
    pub(super) only_leaf: bool,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    /// Of the file that they come from.
    pub(super) path: Arc<str>,
    /// Of what they were made from, revocations included.
    pub(super) digest: [u8; 32],
}

impl Authorities {
    pub(super) fn lower(source: DataSource, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let path = path_of(&source);
        let bytes = unwatched_data_source(source, MAX_PEM, cx)?;
        let certificates = pem::authorities(&bytes, cx)?;
        if let Some(i) = certificates.iter().position(|der| Link::read(der).is_none()) {
            return Err(cx.invalid(format!("holds what is no authority: certificate {}", i + 1)));
        }
        let revocations = revocation::read_all(&bytes, cx)?;
        Ok(Self { revocations, ..Self::new(certificates, &path, sha256(&bytes)) })
    }

    /// Those that this system trusts. What of them cannot be used is left out: nobody here chose it.
    pub(super) fn of_system(cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let named = std::env::var("SSL_CERT_FILE").ok();
        let path =
            named.or_else(|| SYSTEM_ROOTS.iter().find(|path| Path::new(path).exists()).map(|path| (*path).to_owned()));
        let Some(path) = path else { return Err(cx.invalid("this system has no file of authorities")) };
        let bytes = std::fs::read(&path).map_err(|e| cx.invalid(format!("cannot read {path:?}: {e}")))?;
        let all = CertificateDer::pem_slice_iter(&bytes).flatten();
        Ok(Self::new(all.filter(|der| Link::read(der).is_some()).collect(), &path, sha256(&bytes)))
    }

    pub(super) fn new(certificates: Vec<CertificateDer<'static>>, path: &str, digest: [u8; 32]) -> Self {
        let mut by_subject = HashMap::<_, Vec<usize>>::new();
        for (i, link) in certificates.iter().enumerate().filter_map(|(i, der)| Some((i, Link::read(der)?))) {
            by_subject.entry(link.subject().into()).or_default().push(i);
        }
        Self {
            by_subject,
            certificates,
            told: OnceLock::new(),
            revocations: Vec::new(),
            only_leaf: false,
            algorithms: rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
            path: path.into(),
            digest,
        }
    }

    /// The names of all, as clients are told them.
    pub(super) fn hints(&self) -> impl Iterator<Item = DistinguishedName> {
        let subject = |der: &CertificateDer<'_>| Some(Parsed::new(der).ok()?.0.subject().as_raw().to_vec());
        self.certificates.iter().filter_map(subject).map(DistinguishedName::from)
    }

    /// What each says.
    pub(super) fn told(&self) -> impl Iterator<Item = &Arc<CertificateInfo>> {
        self.all().iter().map(|(_, info)| info)
    }

    fn all(&self) -> &[(Box<[u8]>, Arc<CertificateInfo>)] {
        self.told.get_or_init(|| {
            let tell = |der: &CertificateDer<'_>| {
                let Parsed(parsed) = Parsed::new(der).ok()?;
                Some((parsed.subject().as_raw().into(), Arc::new(certificate_info(der)?)))
            };
            self.certificates.iter().filter_map(tell).collect()
        })
    }

    /// The authority of this name.
    pub(super) fn named(&self, name: &[u8]) -> Option<Arc<CertificateInfo>> {
        self.all().iter().find(|(subject, _)| **subject == *name).map(|(_, info)| info.clone())
    }

    /// The certificates among them with the name that this one calls its issuer.
    pub(super) fn issuers_of<'a>(&'a self, certificate: &Link<'_>) -> Vec<Link<'a>> {
        let found = self.by_subject.get(certificate.issuer()).into_iter().flatten();
        found.filter_map(|i| Link::read(&self.certificates[*i])).collect()
    }

    pub(super) fn holds(&self, der: &[u8]) -> bool {
        self.certificates.iter().any(|trusted| **trusted == *der)
    }

    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        when: When,
        peer: Peer,
        max_depth: Option<u32>,
    ) -> Result<(), Error> {
        let judge = Judge { trusted: self, when, peer, max_depth, known: self.algorithms };
        judge.check(leaf, intermediates).map_err(|at| {
            Witness::of_flaw(at);
            Error::InvalidCertificate(at.flaw.into())
        })
    }
}
