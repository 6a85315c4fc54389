//! The authorities that are trusted, and what they have revoked.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::DataSource;
use nuncio_telemetry::CertificateInfo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use rustls::{CertificateError, DistinguishedName, Error};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use super::certificate::{certificates, path_of};
use super::info::certificate_info;
use super::san::Parsed;
use super::validation::{Peer, sha256};
use crate::value::data_source;

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
    anchors: Vec<TrustAnchor<'static>>,
    /// What they have revoked: lists that come with them, and those of `crl`.
    pub(super) revocations: Vec<CertRevocationList<'static>>,
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
        let bytes = data_source(source, MAX_PEM, cx)?;
        let certificates = certificates(&bytes, cx)?;
        let anchor = |certificate| anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned());
        let anchors = certificates.iter().map(anchor).collect::<Result<Vec<_>, _>>();
        let anchors = anchors.map_err(|e| cx.invalid(format!("holds what is no authority: {e}")))?;
        let revocations = revocations(&bytes, cx)?;
        Ok(Self { revocations, ..Self::new(certificates.clone(), anchors, &path, sha256(&bytes)) })
    }

    /// Those that this system trusts. What of them cannot be used is left out: nobody here chose it.
    pub(super) fn of_system(cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let named = std::env::var("SSL_CERT_FILE").ok();
        let path =
            named.or_else(|| SYSTEM_ROOTS.iter().find(|path| Path::new(path).exists()).map(|path| (*path).to_owned()));
        let Some(path) = path else { return Err(cx.invalid("this system has no file of authorities")) };
        let bytes = std::fs::read(&path).map_err(|e| cx.invalid(format!("cannot read {path:?}: {e}")))?;
        let mut both = (Vec::new(), Vec::new());
        for certificate in CertificateDer::pem_slice_iter(&bytes).flatten() {
            if let Ok(anchor) = anchor_from_trusted_cert(&certificate) {
                both.1.push(anchor.to_owned());
                both.0.push(certificate);
            }
        }
        Ok(Self::new(both.0, both.1, &path, sha256(&bytes)))
    }

    fn new(
        certificates: Vec<CertificateDer<'static>>,
        anchors: Vec<TrustAnchor<'static>>,
        path: &str,
        digest: [u8; 32],
    ) -> Self {
        Self {
            certificates,
            told: OnceLock::new(),
            anchors,
            revocations: Vec::new(),
            only_leaf: false,
            algorithms: rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
            path: path.into(),
            digest,
        }
    }

    /// The names of all, as clients are told them.
    pub(super) fn hints(&self) -> impl Iterator<Item = DistinguishedName> {
        self.anchors.iter().map(|anchor| DistinguishedName::in_sequence(&anchor.subject))
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

    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        peer: Peer,
        max_depth: Option<u32>,
    ) -> Result<(), Error> {
        // A certificate that is trusted itself needs no chain: self-signed ones mostly say that they are authorities,
        // which no server's certificate may say in a chain.
        if self.certificates.iter().any(|trusted| trusted == leaf) {
            return is_in_time(leaf, now);
        }
        let leaf = EndEntityCert::try_from(leaf).map_err(pki_error)?;
        let usage = match peer {
            Peer::Client => KeyUsage::client_auth(),
            Peer::Server => KeyUsage::server_auth(),
        };
        let lists: Vec<&CertRevocationList<'_>> = self.revocations.iter().collect();
        let depth = if self.only_leaf { RevocationCheckDepth::EndEntity } else { RevocationCheckDepth::Chain };
        let revocation = RevocationOptionsBuilder::new(&lists)
            .ok()
            .map(|builder| builder.with_depth(depth).with_status_policy(UnknownStatusPolicy::Deny))
            .map(|builder| {
                // What is revoked since is not in a list that is too old.
                builder.with_expiration_policy(ExpirationPolicy::Enforce).build()
            });
        let path = |path: &webpki::VerifiedPath<'_>| {
            let length = path.intermediate_certificates().count();
            match max_depth.is_some_and(|max| length > max as usize) {
                true => Err(webpki::Error::MaximumPathDepthExceeded),
                false => Ok(()),
            }
        };
        leaf.verify_for_usage(self.algorithms, &self.anchors, intermediates, now, usage, revocation, Some(&path))
            .map(drop)
            .map_err(pki_error)
    }
}

/// Lists of revocations, and the digest of their file.
pub(super) fn lower_revocations(
    source: DataSource,
    cx: &mut LowerCx<'_>,
) -> Result<(Vec<CertRevocationList<'static>>, [u8; 32]), Refused> {
    let bytes = data_source(source, MAX_PEM, cx)?;
    let all = revocations(&bytes, cx)?;
    match all.is_empty() {
        true => Err(cx.invalid("has no list of revocations in PEM")),
        false => Ok((all, sha256(&bytes))),
    }
}

/// The lists in a PEM file, among whatever else it has.
fn revocations(pem: &[u8], cx: &mut LowerCx<'_>) -> Result<Vec<CertRevocationList<'static>>, Refused> {
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| cx.invalid(format!("is no PEM: {e}")))?;
    let owned = |der: &CertificateRevocationListDer<'_>| -> Result<OwnedCertRevocationList, webpki::Error> {
        BorrowedCertRevocationList::from_der(der)?.to_owned()
    };
    let all: Result<Vec<_>, _> = all.iter().map(|der| owned(der).map(CertRevocationList::from)).collect();
    all.map_err(|e| cx.invalid(format!("holds a list of revocations that cannot be read: {e}")))
}

fn is_in_time(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let unreadable = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
    let Parsed(parsed) = Parsed::new(leaf).map_err(unreadable)?;
    let (validity, now) = (parsed.validity(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    if now < validity.not_before.timestamp() {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    if now > validity.not_after.timestamp() {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    Ok(())
}

/// The time of the certificate's life, and of that of those that vouch for it, that is next to now.
pub(super) fn within(
    parsed: &x509_parser::certificate::X509Certificate<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> UnixTime {
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let life =
        |validity: &x509_parser::certificate::Validity| (seconds(validity.not_before), seconds(validity.not_after));
    let (start, end) = life(parsed.validity());
    let others = intermediates.iter().filter_map(|der| Some(life(Parsed::new(der).ok()?.0.validity())));
    let common = others.fold((start, end), |(from, to), other| (from.max(other.0), to.min(other.1)));
    // Where they never lived at one time, its own life counts.
    let (start, end) = if common.0 <= common.1 { common } else { (start, end) };
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().min(end).max(start)))
}

fn pki_error(error: webpki::Error) -> Error {
    use webpki::Error as Pki;
    let error = match error {
        Pki::BadDer | Pki::BadDerTime | Pki::TrailingData(_) => CertificateError::BadEncoding,
        Pki::CertNotValidYet { .. } => CertificateError::NotValidYet,
        Pki::CertExpired { .. } => CertificateError::Expired,
        Pki::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        Pki::UnknownIssuer => CertificateError::UnknownIssuer,
        Pki::CertRevoked => CertificateError::Revoked,
        Pki::CrlExpired { .. } => CertificateError::ExpiredRevocationList,
        Pki::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        Pki::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(error)
}
