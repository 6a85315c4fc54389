//! `signature_algorithms`: how peers may sign handshakes, and how we do.

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme as Scheme};

use super::parameters::{Named, lower_names};

/// Schemes of both directions.
#[derive(Clone, Debug)]
pub(super) struct Schemes {
    /// How peers may sign, as they are told.
    accepted: Arc<[Scheme]>,
    /// How we sign, the best first.
    own: Arc<[Scheme]>,
    known: WebPkiSupportedAlgorithms,
}

/// A key that signs in certain ways alone, in their order, whatever order the peer has.
#[derive(Debug)]
struct Ordered {
    key: Arc<dyn SigningKey>,
    order: Arc<[Scheme]>,
}

/// By BoringSSL's names, of which the first is that of TLS 1.3. Those without a scheme are known there, and not spoken
/// here: SHA-1 is broken, and the others have no certificates that could be read.
const NAMES: [(&[&str], Option<Scheme>); 16] = [
    (&["rsa_pkcs1_sha256", "RSA+SHA256"], Some(Scheme::RSA_PKCS1_SHA256)),
    (&["rsa_pkcs1_sha384", "RSA+SHA384"], Some(Scheme::RSA_PKCS1_SHA384)),
    (&["rsa_pkcs1_sha512", "RSA+SHA512"], Some(Scheme::RSA_PKCS1_SHA512)),
    (&["ecdsa_secp256r1_sha256", "ECDSA+SHA256"], Some(Scheme::ECDSA_NISTP256_SHA256)),
    (&["ecdsa_secp384r1_sha384", "ECDSA+SHA384"], Some(Scheme::ECDSA_NISTP384_SHA384)),
    (&["ecdsa_secp521r1_sha512", "ECDSA+SHA512"], Some(Scheme::ECDSA_NISTP521_SHA512)),
    (&["rsa_pss_rsae_sha256", "PSS+SHA256", "RSA-PSS+SHA256"], Some(Scheme::RSA_PSS_SHA256)),
    (&["rsa_pss_rsae_sha384", "PSS+SHA384", "RSA-PSS+SHA384"], Some(Scheme::RSA_PSS_SHA384)),
    (&["rsa_pss_rsae_sha512", "PSS+SHA512", "RSA-PSS+SHA512"], Some(Scheme::RSA_PSS_SHA512)),
    (&["ed25519"], Some(Scheme::ED25519)),
    (&["rsa_pkcs1_sha1", "RSA+SHA1"], None),
    (&["ecdsa_sha1", "ECDSA+SHA1"], None),
    (&["rsa_pkcs1_sha256_legacy"], None),
    (&["mldsa44"], None),
    (&["mldsa65"], None),
    (&["mldsa87"], None),
];
/// How we sign where nothing is set: BoringSSL's order, without SHA-1.
const OWN: [Scheme; 10] = [
    Scheme::ED25519,
    Scheme::ECDSA_NISTP256_SHA256,
    Scheme::RSA_PSS_SHA256,
    Scheme::RSA_PKCS1_SHA256,
    Scheme::ECDSA_NISTP384_SHA384,
    Scheme::RSA_PSS_SHA384,
    Scheme::RSA_PKCS1_SHA384,
    Scheme::ECDSA_NISTP521_SHA512,
    Scheme::RSA_PSS_SHA512,
    Scheme::RSA_PKCS1_SHA512,
];

impl Default for Schemes {
    /// BoringSSL: peers may not sign in the two ways that few can verify.
    fn default() -> Self {
        let is_rare = |scheme: &Scheme| matches!(*scheme, Scheme::ED25519 | Scheme::ECDSA_NISTP521_SHA512);
        let accepted = OWN.into_iter().filter(|scheme| !is_rare(scheme)).collect();
        Self { accepted, ..Self::both(&OWN) }
    }
}

impl Schemes {
    /// The same ones in both directions.
    pub(super) fn both(schemes: &[Scheme]) -> Self {
        let known = default_provider().signature_verification_algorithms;
        Self { accepted: schemes.into(), own: schemes.into(), known }
    }

    /// Lowers the field; `None` where it names nothing. As with suites, what is not spoken is left out where others
    /// remain.
    pub(super) fn lower(entries: &[String], cx: &mut LowerCx<'_>) -> Result<Option<Self>, Refused> {
        let find = |name: &str| NAMES.iter().position(|(names, _)| names.contains(&name));
        let unknown = "is no signature algorithm that is known";
        let Some(named) = lower_names("signature_algorithms", entries, find, unknown, cx)? else { return Ok(None) };
        let schemes: Vec<Scheme> = named.iter().filter_map(|named| NAMES[named.known].1).collect();
        let left_out = || named.iter().filter(|named| NAMES[named.known].1.is_none());
        if let (true, Some(Named { name, entry, .. })) = (schemes.is_empty(), left_out().next()) {
            let reason = format!("{name:?} is not spoken, and nothing else is there");
            return Err(cx.at("signature_algorithms", |cx| cx.at_index(*entry, |cx| cx.invalid(reason))));
        }
        for Named { name, .. } in left_out() {
            tracing::warn!(path = cx.path(), name, "this signature algorithm is not spoken: it is left out");
        }
        Ok(Some(Self::both(&schemes)))
    }

    /// How peers may sign.
    pub(super) fn accepted(&self) -> Vec<Scheme> {
        self.accepted.to_vec()
    }

    /// What verifies such a signature, for each kind of key that may have made it; `None`: peers may not sign so.
    pub(super) fn algorithms(&self, scheme: Scheme) -> Option<&'static [&'static dyn SignatureVerificationAlgorithm]> {
        let known = || self.known.mapping.iter().find(|(known, _)| *known == scheme);
        if self.accepted.contains(&scheme) { known().map(|(_, all)| *all) } else { None }
    }

    /// The key, which signs as we do.
    pub(super) fn signing(&self, key: Arc<dyn SigningKey>) -> Arc<dyn SigningKey> {
        Arc::new(Ordered { key, order: self.own.clone() })
    }

    /// Tells keys that sign in one way from those that sign in another.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.own.iter().flat_map(|scheme| u16::from(*scheme).to_be_bytes()).collect()
    }
}

impl SigningKey for Ordered {
    fn choose_scheme(&self, offered: &[Scheme]) -> Option<Box<dyn Signer>> {
        let shared = self.order.iter().filter(|scheme| offered.contains(scheme));
        shared.map(|scheme| self.key.choose_scheme(&[*scheme])).find(Option::is_some).flatten()
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.key.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}
