//! Keys of ECDSA in TLS 1.2, where each signs over any hash (RFC 5246 §7.4.1.4.1). rustls has each curve sign over the one
//! hash that TLS 1.3 has for it.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{self, Digest, SHA256, SHA384, SHA512, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, NamedGroup, SignatureAlgorithm, SignatureScheme as Scheme};

/// Curves, with the hash that each has of its own.
const CURVES: [(NamedGroup, &EcdsaSigningAlgorithm, &digest::Algorithm); 3] = [
    (NamedGroup::secp256r1, &ECDSA_P256_SHA256_ASN1_SIGNING, &SHA256),
    (NamedGroup::secp384r1, &ECDSA_P384_SHA384_ASN1_SIGNING, &SHA384),
    (NamedGroup::secp521r1, &ECDSA_P521_SHA512_ASN1_SIGNING, &SHA512),
];
/// What schemes are called that are hashes alone in TLS 1.2.
const HASHES: [(Scheme, &digest::Algorithm); 3] = [
    (Scheme::ECDSA_NISTP256_SHA256, &SHA256),
    (Scheme::ECDSA_NISTP384_SHA384, &SHA384),
    (Scheme::ECDSA_NISTP521_SHA512, &SHA512),
];

/// A key that signs over any hash.
#[derive(Debug)]
struct AnyHash {
    pair: Arc<EcdsaKeyPair>,
    /// That of its curve.
    own: &'static digest::Algorithm,
}

struct OverHash {
    pair: Arc<EcdsaKeyPair>,
    own: &'static digest::Algorithm,
    scheme: Scheme,
    hash: &'static digest::Algorithm,
}

/// A key as it signs in TLS 1.2.
#[derive(Clone, Debug)]
pub(super) struct OlderKey {
    pub(super) key: Arc<dyn SigningKey>,
    /// Who does not know it cannot verify what it has signed (RFC 8422 §5.1.1).
    curve: NamedGroup,
}

impl OlderKey {
    /// `None`: it signs as it does in TLS 1.3.
    pub(super) fn of(key: &PrivateKeyDer<'_>) -> Option<Self> {
        CURVES.into_iter().find_map(|(curve, algorithm, own)| {
            let pair = EcdsaKeyPair::from_private_key_der(algorithm, key.secret_der()).ok()?;
            Some(Self { key: Arc::new(AnyHash { pair: Arc::new(pair), own }), curve })
        })
    }

    /// Whether who knows these groups, or does not say which, knows its curve.
    pub(super) fn is_known_to(&self, groups: Option<&[NamedGroup]>) -> bool {
        groups.is_none_or(|groups| groups.contains(&self.curve))
    }
}

impl SigningKey for AnyHash {
    fn choose_scheme(&self, offered: &[Scheme]) -> Option<Box<dyn Signer>> {
        let (scheme, hash) = HASHES.into_iter().find(|(scheme, _)| offered.contains(scheme))?;
        Some(Box::new(OverHash { pair: self.pair.clone(), own: self.own, scheme, hash }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for OverHash {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |_| Error::General("signing failed".into());
        let digest = as_if_of(self.own, digest(self.hash, message).as_ref()).map_err(failed)?;
        self.pair.sign_digest(&digest).map(|signature| signature.as_ref().to_vec()).map_err(failed)
    }

    fn scheme(&self) -> Scheme {
        self.scheme
    }
}

impl fmt::Debug for OverHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverHash").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

/// What stands for this digest where one of another length is signed: the leftmost bytes of a longer one, and a shorter
/// one as the number that it is (FIPS 186-5 §6.4.1).
fn as_if_of(own: &'static digest::Algorithm, digest: &[u8]) -> Result<Digest, aws_lc_rs::error::Unspecified> {
    let length = own.output_len();
    let taken = &digest[..digest.len().min(length)];
    let mut bytes = vec![0; length - taken.len()];
    bytes.extend_from_slice(taken);
    Digest::import_less_safe(&bytes, own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA512_ASN1,
        ECDSA_P521_SHA256_ASN1, EcdsaVerificationAlgorithm, KeyPair, UnparsedPublicKey,
    };

    fn check(curve: &'static EcdsaSigningAlgorithm, scheme: Scheme, verifies: &'static EcdsaVerificationAlgorithm) {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new()).unwrap();
        let public = EcdsaKeyPair::from_pkcs8(curve, pkcs8.as_ref()).unwrap().public_key().as_ref().to_vec();
        let OlderKey { key, .. } = OlderKey::of(&PrivateKeyDer::Pkcs8(pkcs8.as_ref().into())).unwrap();
        let signer = key.choose_scheme(&[Scheme::RSA_PSS_SHA256, scheme]).unwrap();
        let signature = signer.sign(b"message").unwrap();
        assert_eq!(signer.scheme(), scheme);
        UnparsedPublicKey::new(verifies, public).verify(b"message", &signature).unwrap();
    }

    #[test]
    fn a_key_of_any_curve_signs_over_any_hash() {
        check(&ECDSA_P256_SHA256_ASN1_SIGNING, Scheme::ECDSA_NISTP384_SHA384, &ECDSA_P256_SHA384_ASN1);
        check(&ECDSA_P256_SHA256_ASN1_SIGNING, Scheme::ECDSA_NISTP521_SHA512, &ECDSA_P256_SHA512_ASN1);
        check(&ECDSA_P384_SHA384_ASN1_SIGNING, Scheme::ECDSA_NISTP256_SHA256, &ECDSA_P384_SHA256_ASN1);
        check(&ECDSA_P384_SHA384_ASN1_SIGNING, Scheme::ECDSA_NISTP521_SHA512, &ECDSA_P384_SHA512_ASN1);
        check(&ECDSA_P521_SHA512_ASN1_SIGNING, Scheme::ECDSA_NISTP256_SHA256, &ECDSA_P521_SHA256_ASN1);
    }
}
