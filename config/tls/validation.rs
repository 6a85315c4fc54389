//! `CertificateValidationContext`: whom we believe.

use std::sync::Arc;

use base64::Engine;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::TypedExtensionConfig;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;
use nuncio_telemetry::CertificateInfo;
use prost::{Message, Name};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, DistinguishedName, Error};

use super::authorities::Authorities;
use super::chain::When;
use super::info::{certificate_info, from_hex};
use super::revocation;
use super::san::{Names, Parsed, SanMatcher};
use super::spiffe::TrustDomains;
use crate::protocol::message_name;
use crate::{extension, refuse_set};

/// The name of the validator that Envoy has besides its own.
const SPIFFE: &str = "envoy.tls.cert_validator.spiffe";

/// What a peer's certificate is held against.
#[derive(Debug, Default)]
pub(super) struct Validation {
    /// Authorities; `None`: chains are not looked at.
    authorities: Option<Arc<Authorities>>,
    /// Authorities of SPIFFE, in place of all but the names of peers.
    domains: Option<TrustDomains>,
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

/// Why a peer is not believed whose chain is in order.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
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
    /// It has none of the URIs that it should have, by SPIFFE.
    #[error("SAN match")]
    Identity,
    /// It is no workload of a trust domain that is known.
    #[error("no trust bundle store")]
    NoTrustDomain,
    /// The authorities of its trust domain do not vouch for it. Envoy tells it less than it would without SPIFFE.
    #[error("{0}")]
    NotOfDomain(CertificateError),
    /// Its key is not for signatures.
    #[error("key usage")]
    KeyUsage,
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
    /// The request wants it, or another of these.
    ByRequest(&'a [Box<str>]),
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
            watched_directory: _,
            verify_certificate_spki,
            verify_certificate_hash,
            match_typed_subject_alt_names,
            match_subject_alt_names,
            // Envoy does not implement it either.
            require_signed_certificate_timestamp: _,
            crl,
            allow_expired_certificate,
            trust_chain_verification,
            custom_validator_config,
            only_verify_leaf_cert_crl,
            max_verify_depth,
            suppress_client_ca_list,
        } = proto;
        // watched_directory: as with certificates, Envoy watches for what comes from discovery alone.
        let refused = refuse_set!(cx; ca_certificate_provider_instance);
        let domains = cx.opt("custom_validator_config", custom_validator_config, lower_custom);
        let authorities = match (cx.opt("trusted_ca", trusted_ca, Authorities::lower), system_root_certs) {
            (Ok(None), Some(pb::certificate_validation_context::SystemRootCerts {})) => {
                cx.at("system_root_certs", Authorities::of_system).map(Some)
            }
            (given, _) => given,
        };
        let revocations = cx.opt("crl", crl, revocation::lower);
        let keys = cx.each("verify_certificate_spki", verify_certificate_spki, |text, cx| spki(&text, cx));
        let hashes = cx.each("verify_certificate_hash", verify_certificate_hash, |text, cx| hash(&text, cx));
        let typed = cx.each("match_typed_subject_alt_names", match_typed_subject_alt_names, SanMatcher::lower);
        let untyped = cx.each("match_subject_alt_names", match_subject_alt_names, |proto, cx| {
            SanMatcher::lower_untyped(&proto, cx)
        });
        refused?;
        let (mut authorities, domains) = (authorities?, domains?);
        let accepts_untrusted = trust_chain_verification == i32::from(TrustChainVerification::AcceptUntrusted);
        let (revocations, revoked) = revocations?.unwrap_or_default();
        // As in Envoy, the older field counts only where the newer one is not used.
        let (typed, untyped) = (typed?, untyped?.concat());
        let mut names = if typed.is_empty() { untyped } else { typed };
        if domains.is_some() {
            // Envoy: it is SPIFFE alone that decides, by URIs and with nothing else of this message but the times.
            let ignored = [
                ("trusted_ca", authorities.is_some()),
                ("crl", !revocations.is_empty()),
                ("verify_certificate_hash", hashes.is_ok_and(|hashes| !hashes.is_empty())),
                ("verify_certificate_spki", keys.is_ok_and(|keys| !keys.is_empty())),
                ("max_verify_depth", max_verify_depth.is_some()),
                ("trust_chain_verification", accepts_untrusted),
            ];
            for (field, _) in ignored.into_iter().filter(|(_, is_set)| *is_set) {
                tracing::warn!(path = cx.path(), field, "has no effect beside custom_validator_config");
            }
            names.retain(SanMatcher::is_of_uri);
            return Ok(Self { domains, names, accepts_expired: allow_expired_certificate, ..Self::default() });
        }
        if authorities.is_none() && !revocations.is_empty() {
            return Err(cx.at("crl", |cx| cx.invalid("needs trusted_ca")));
        }
        if authorities.is_none() && !names.is_empty() {
            let reason = "names are no proof without trusted_ca: anybody may claim them";
            return Err(cx.at("match_typed_subject_alt_names", |cx| cx.invalid(reason)));
        }
        if authorities.is_none() && allow_expired_certificate {
            let reason = "times are never looked at without trusted_ca";
            return Err(cx.at("allow_expired_certificate", |cx| cx.invalid(reason)));
        }
        if let Some(authorities) = &mut authorities {
            authorities.only_leaf = only_verify_leaf_cert_crl;
            authorities.revocations.extend(revocations);
            authorities.digest = sha256(&[authorities.digest, revoked].concat());
        }
        Ok(Self {
            authorities: authorities.map(Arc::new),
            domains: None,
            names,
            hashes: hashes?,
            keys: keys?,
            accepts_expired: allow_expired_certificate,
            accepts_untrusted,
            // Envoy: the authority itself counts, and 0 is as 1.
            max_depth: max_verify_depth.map(|v| v.value.saturating_sub(1)),
            hides_authorities: suppress_client_ca_list,
        })
    }

    /// Sees whether a part of a context can be used, which another part may complete.
    pub(super) fn check_part(mut proto: pb::CertificateValidationContext, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        if proto.trusted_ca.is_none() && proto.custom_validator_config.is_none() {
            proto.match_typed_subject_alt_names.clear();
            #[allow(deprecated, reason = "users still write what Envoy deprecates")]
            proto.match_subject_alt_names.clear();
            proto.crl = None;
            proto.allow_expired_certificate = false;
        }
        Self::lower(proto, cx).map(drop)
    }

    /// Whether a peer without certificate cannot be believed.
    pub(super) fn needs_certificate(&self) -> bool {
        self.domains.is_some() || !self.names.is_empty() || !self.hashes.is_empty() || !self.keys.is_empty()
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
            None => match &self.domains {
                Some(domains) => domains.bundles().named(name),
                None => self.authorities.as_ref()?.named(name),
            },
        }
    }

    /// The names of the authorities, as clients are told them.
    pub(super) fn hints(&self) -> Vec<DistinguishedName> {
        if self.hides_authorities {
            return Vec::new();
        }
        self.trusted().iter().flat_map(|authorities| authorities.hints()).collect()
    }

    /// All that is trusted, of whatever trust domain.
    pub(super) fn trusted(&self) -> Vec<Arc<Authorities>> {
        match &self.domains {
            Some(domains) => domains.bundles().all().cloned().collect(),
            None => self.authorities.iter().cloned().collect(),
        }
    }

    /// Of all that it was made from and the message does not say.
    pub(super) fn digest(&self) -> [u8; 32] {
        let domains = self.domains.as_ref().map(|domains| domains.bundles().digest());
        sha256(&[self.authorities.as_ref().map(|a| a.digest).unwrap_or_default(), domains.unwrap_or_default()].concat())
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
        check_key_usage(&parsed, peer)?;
        let names = Names::of(&parsed);
        let now = When { now: i64::try_from(now.as_secs()).unwrap_or(i64::MAX), is_ignored: self.accepts_expired };
        if let Some(domains) = &self.domains {
            domains.check(leaf, (&parsed, &names), intermediates, now, peer)?;
        } else if let Some(authorities) = &self.authorities {
            authorities.check(leaf, intermediates, now, peer, self.max_depth)?;
        }
        let has_name =
            |name: &str| names.dns.iter().any(|n| super::san::covers(n, name)) || names.ip.iter().any(|ip| ip == name);
        let is_named = self.names.is_empty() || self.names.iter().any(|rule| rule.matches(&names));
        match wanted {
            Some(Wanted::ByRequest(wanted))
                if !wanted.iter().any(|name| has_name(name) || names.uri.iter().any(|uri| **uri == **name)) =>
            {
                return Err(Unbelieved::Wanted { expected: wanted.join(", ").into(), names: names.all }.into());
            }
            Some(Wanted::AsCalled(name)) if !has_name(name) => return Err(Unbelieved::Names(names.all).into()),
            _ if !is_named && self.domains.is_some() => return Err(Unbelieved::Identity.into()),
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

/// Base64 of a SHA-256.
fn spki(text: &str, cx: &mut LowerCx<'_>) -> Result<[u8; 32], Refused> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok();
    bytes.and_then(|b| b.try_into().ok()).ok_or_else(|| cx.invalid("is no base64 of a SHA-256"))
}

/// Hex of a SHA-256, perhaps with colons.
fn hash(text: &str, cx: &mut LowerCx<'_>) -> Result<[u8; 32], Refused> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
    let bytes = from_hex(&digits);
    bytes.and_then(|b| b.try_into().ok()).ok_or_else(|| cx.invalid("is no SHA-256 in hexadecimal digits"))
}

/// Every suite here has peers sign, which is not for every key. What BoringSSL says of it differs by side.
fn check_key_usage(parsed: &x509_parser::certificate::X509Certificate<'_>, peer: Peer) -> Result<(), Error> {
    let usage = parsed.key_usage().ok().flatten();
    match (usage.is_none_or(|usage| usage.value.digital_signature()), peer) {
        (true, _) => Ok(()),
        (false, Peer::Server) => Err(Unbelieved::KeyUsage.into()),
        (false, Peer::Client) => Err(Error::InvalidCertificate(CertificateError::InvalidPurpose)),
    }
}

/// The only validator that Envoy has besides its own.
fn lower_custom(proto: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<TrustDomains, Refused> {
    let TypedExtensionConfig { name, typed_config } = proto;
    // Envoy finds it by its name.
    if name != SPIFFE {
        return Err(cx.at("name", |cx| extension::refuse_unknown("validator", &name, [SPIFFE], cx)));
    }
    let Some(any) = typed_config else { return Err(cx.at("typed_config", |cx| cx.invalid("is required"))) };
    cx.at("typed_config", |cx| {
        let (found, known) = (message_name(&any), pb::SpiffeCertValidatorConfig::full_name());
        if found != known {
            return Err(extension::refuse_unknown("validator", found, [known.as_str()], cx));
        }
        let proto = pb::SpiffeCertValidatorConfig::decode(&any.value[..]);
        let proto = proto.map_err(|e| cx.invalid(format!("does not decode: {e}")))?;
        TrustDomains::lower(proto, cx)
    })
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}
