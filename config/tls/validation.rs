//! `CertificateValidationContext`: whom we believe.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::DataSource;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;
use nuncio_telemetry::CertificateInfo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use rustls::{CertificateError, DistinguishedName, Error};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use super::certificate::certificates;
use super::info::certificate_info;
use super::san::{Names, Parsed, SanMatcher};
use crate::refuse_set;
use crate::value::data_source;

/// Bytes that a file of authorities or of revocations may have.
const MAX_PEM: u64 = 16 << 20;

/// What a peer's certificate is held against.
#[derive(Debug, Default)]
pub(super) struct Validation {
    /// Authorities; `None`: chains are not looked at.
    authorities: Option<Authorities>,
    names: Vec<SanMatcher>,
    /// SHA-256 of certificates that will do.
    hashes: Vec<[u8; 32]>,
    /// SHA-256 of public keys that will do.
    keys: Vec<[u8; 32]>,
    accepts_expired: bool,
    /// `ACCEPT_UNTRUSTED`: the connection goes on, and only the streams learn of it.
    accepts_untrusted: bool,
    max_depth: Option<u32>,
    hides_authorities: bool,
}

#[derive(Debug)]
struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    /// What logs tell of each, once a client was issued a certificate by one, and its name in DER.
    told: OnceLock<Vec<(Box<[u8]>, Arc<CertificateInfo>)>>,
    anchors: Vec<TrustAnchor<'static>>,
    revocations: Vec<CertRevocationList<'static>>,
    only_leaf: bool,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
}

/// Why a peer is not believed whose chain is in order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbelieved {
    /// It has none of the names that it should have, but these.
    #[error("SAN matcher, certificate SANs are [{}]", .0.join(", "))]
    Names(Vec<String>),
    /// It has not the name that the request wants.
    #[error("verify SAN list, expected SANs: [{expected}], certificate SANs: [{}]", .names.join(", "))]
    Wanted {
        /// The name.
        expected: Box<str>,
        /// Those that it has.
        names: Vec<String>,
    },
    /// Neither its hash nor that of its key is known.
    #[error("cert hash and spki")]
    Hash,
}

impl From<Unbelieved> for Error {
    fn from(error: Unbelieved) -> Self {
        Self::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(error))))
    }
}

/// A DNS name or an address that a peer must have besides those that are configured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    /// It is what the handshake calls it.
    AsCalled(&'a str),
    /// The request wants it.
    ByRequest(&'a str),
}

/// Which side the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Client,
    Server,
}

impl Validation {
    pub(super) fn lower(proto: pb::CertificateValidationContext, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::CertificateValidationContext {
            trusted_ca,
            ca_certificate_provider_instance,
            system_root_certs,
            watched_directory,
            verify_certificate_spki,
            verify_certificate_hash,
            match_typed_subject_alt_names,
            match_subject_alt_names,
            require_signed_certificate_timestamp,
            crl,
            allow_expired_certificate,
            trust_chain_verification,
            custom_validator_config,
            only_verify_leaf_cert_crl,
            max_verify_depth,
            suppress_client_ca_list,
        } = proto;
        let refused = refuse_set!(cx; ca_certificate_provider_instance, system_root_certs, watched_directory,
            require_signed_certificate_timestamp, custom_validator_config);
        let authorities = cx.opt("trusted_ca", trusted_ca, lower_authorities);
        let revocations = cx.opt("crl", crl, lower_revocations);
        let keys = cx.each("verify_certificate_spki", verify_certificate_spki, |text, cx| spki(&text, cx));
        let hashes = cx.each("verify_certificate_hash", verify_certificate_hash, |text, cx| hash(&text, cx));
        let typed = cx.each("match_typed_subject_alt_names", match_typed_subject_alt_names, SanMatcher::lower);
        let untyped = cx.each("match_subject_alt_names", match_subject_alt_names, |proto, cx| {
            SanMatcher::lower_untyped(&proto, cx)
        });
        refused?;
        let (authorities, revocations) = (authorities?, revocations?.unwrap_or_default());
        // As in Envoy, the older field counts only where the newer one is not used.
        let (typed, untyped) = (typed?, untyped?.concat());
        let names = if typed.is_empty() { untyped } else { typed };
        if authorities.is_none() && !revocations.is_empty() {
            return Err(cx.at("crl", |cx| cx.invalid("needs trusted_ca")));
        }
        if authorities.is_none() && !names.is_empty() {
            let reason = "names are no proof without trusted_ca: anybody may claim them";
            return Err(cx.at("match_typed_subject_alt_names", |cx| cx.invalid(reason)));
        }
        Ok(Self {
            authorities: authorities.map(|(certificates, anchors)| Authorities {
                told: OnceLock::new(),
                certificates,
                anchors,
                revocations,
                only_leaf: only_verify_leaf_cert_crl,
                algorithms: rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
            }),
            names,
            hashes: hashes?,
            keys: keys?,
            accepts_expired: allow_expired_certificate,
            accepts_untrusted: trust_chain_verification == i32::from(TrustChainVerification::AcceptUntrusted),
            max_depth: max_verify_depth.map(|v| v.value),
            hides_authorities: suppress_client_ca_list,
        })
    }

    /// Sees whether a part of a context can be used, which another part may complete.
    pub(super) fn check_part(mut proto: pb::CertificateValidationContext, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        if proto.trusted_ca.is_none() {
            proto.match_typed_subject_alt_names.clear();
            #[allow(deprecated, reason = "users still write what Envoy deprecates")]
            proto.match_subject_alt_names.clear();
            proto.crl = None;
        }
        Self::lower(proto, cx).map(drop)
    }

    /// Whether a peer without certificate cannot be believed.
    pub(super) fn needs_certificate(&self) -> bool {
        !self.names.is_empty() || !self.hashes.is_empty() || !self.keys.is_empty()
    }

    /// Whether a peer that is not believed is served all the same.
    pub(super) fn accepts_untrusted(&self) -> bool {
        self.accepts_untrusted
    }

    /// Whether anything is looked at.
    pub(super) fn is_any(&self) -> bool {
        self.authorities.is_some() || self.needs_certificate()
    }

    /// The certificate of the authority that issued `leaf`: one that came with it, or one that is trusted.
    pub(super) fn issuer_of(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<Arc<CertificateInfo>> {
        let Parsed(parsed) = Parsed::new(leaf).ok()?;
        let name = parsed.issuer().as_raw();
        let is_issuer = |der: &&CertificateDer<'_>| Parsed::new(der).is_ok_and(|p| p.0.subject().as_raw() == name);
        match intermediates.iter().find(is_issuer) {
            Some(issuer) => certificate_info(issuer).map(Arc::new),
            None => self.authorities.as_ref()?.named(name),
        }
    }

    /// The names of the authorities, as clients are told them.
    pub(super) fn hints(&self) -> Vec<DistinguishedName> {
        let authorities = self.authorities.as_ref().filter(|_| !self.hides_authorities);
        let anchors = authorities.into_iter().flat_map(|a| &a.anchors);
        anchors.map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect()
    }

    /// Holds a peer's chain against all that is configured, and the leaf's names against `wanted`.
    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        peer: Peer,
        wanted: Option<Wanted<'_>>,
    ) -> Result<(), Error> {
        let unreadable = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let Parsed(parsed) = Parsed::new(leaf).map_err(unreadable)?;
        if let Some(authorities) = &self.authorities {
            let now = if self.accepts_expired { within(&parsed, now) } else { now };
            authorities.check(leaf, intermediates, now, peer, self.max_depth)?;
        }
        let names = Names::of(&parsed);
        let has_name =
            |name: &str| names.dns.iter().any(|n| super::san::covers(n, name)) || names.ip.iter().any(|ip| ip == name);
        let is_named = self.names.is_empty() || self.names.iter().any(|rule| rule.matches(&names));
        match wanted {
            Some(Wanted::ByRequest(name)) if !has_name(name) => {
                return Err(Unbelieved::Wanted { expected: name.into(), names: names.all }.into());
            }
            Some(Wanted::AsCalled(name)) if !has_name(name) => return Err(Unbelieved::Names(names.all).into()),
            _ if !is_named => return Err(Unbelieved::Names(names.all).into()),
            _ => {}
        }
        if self.hashes.is_empty() && self.keys.is_empty() {
            return Ok(());
        }
        let is_pinned = self.hashes.contains(&sha256(leaf)) || self.keys.contains(&sha256(parsed.public_key().raw));
        match is_pinned {
            true => Ok(()),
            false => Err(Unbelieved::Hash.into()),
        }
    }
}

impl Authorities {
    /// The authority of this name.
    fn named(&self, name: &[u8]) -> Option<Arc<CertificateInfo>> {
        let told = self.told.get_or_init(|| {
            let tell = |der: &CertificateDer<'_>| {
                let Parsed(parsed) = Parsed::new(der).ok()?;
                Some((parsed.subject().as_raw().into(), Arc::new(certificate_info(der)?)))
            };
            self.certificates.iter().filter_map(tell).collect()
        });
        told.iter().find(|(subject, _)| **subject == *name).map(|(_, info)| info.clone())
    }

    fn check(
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
            .map(|builder| builder.with_depth(depth).with_status_policy(UnknownStatusPolicy::Deny).build());
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

fn lower_authorities(
    source: DataSource,
    cx: &mut LowerCx<'_>,
) -> Result<(Vec<CertificateDer<'static>>, Vec<TrustAnchor<'static>>), Refused> {
    let bytes = data_source(source, MAX_PEM, cx)?;
    let certificates = certificates(&bytes, cx)?;
    let anchor = |certificate| anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned());
    let anchors = certificates.iter().map(anchor).collect::<Result<Vec<_>, _>>();
    Ok((certificates.clone(), anchors.map_err(|e| cx.invalid(format!("holds what is no authority: {e}")))?))
}

fn lower_revocations(source: DataSource, cx: &mut LowerCx<'_>) -> Result<Vec<CertRevocationList<'static>>, Refused> {
    let bytes = data_source(source, MAX_PEM, cx)?;
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(|e| cx.invalid(format!("is no PEM: {e}")))?;
    if all.is_empty() {
        return Err(cx.invalid("has no list of revocations in PEM"));
    }
    let owned = |der: &CertificateRevocationListDer<'_>| -> Result<OwnedCertRevocationList, webpki::Error> {
        BorrowedCertRevocationList::from_der(der)?.to_owned()
    };
    let all: Result<Vec<_>, _> = all.iter().map(|der| owned(der).map(CertRevocationList::from)).collect();
    all.map_err(|e| cx.invalid(format!("holds a list that cannot be read: {e}")))
}

/// Base64 of a SHA-256.
fn spki(text: &str, cx: &mut LowerCx<'_>) -> Result<[u8; 32], Refused> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok();
    bytes.and_then(|b| b.try_into().ok()).ok_or_else(|| cx.invalid("is no base64 of a SHA-256"))
}

/// Hex of a SHA-256, perhaps with colons.
fn hash(text: &str, cx: &mut LowerCx<'_>) -> Result<[u8; 32], Refused> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect();
    bytes.and_then(|b| b.try_into().ok()).ok_or_else(|| cx.invalid("is no SHA-256 in hexadecimal digits"))
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
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

/// The time of the certificate's life that is next to now.
fn within(parsed: &x509_parser::certificate::X509Certificate<'_>, now: UnixTime) -> UnixTime {
    let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().min(end)))
}

fn pki_error(error: webpki::Error) -> Error {
    use webpki::Error as Pki;
    let error = match error {
        Pki::BadDer | Pki::BadDerTime | Pki::TrailingData(_) => CertificateError::BadEncoding,
        Pki::CertNotValidYet { .. } => CertificateError::NotValidYet,
        Pki::CertExpired { .. } => CertificateError::Expired,
        Pki::UnknownIssuer => CertificateError::UnknownIssuer,
        Pki::CertRevoked => CertificateError::Revoked,
        Pki::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        Pki::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(error)
}
