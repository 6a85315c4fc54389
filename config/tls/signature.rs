//! Who has signed what: certificates, lists of revocations and handshakes.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};

use super::der::{self, Der};
use super::san::Parsed;
use super::schemes::Schemes;

/// Something that was signed, as certificates and lists of revocations are (RFC 5280 §4.1.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed<'a> {
    /// What was signed.
    pub(super) content: &'a [u8],
    /// How it was signed.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

/// A public key (RFC 5280 §4.1.2.7).
#[derive(Clone, Copy, Debug)]
pub(super) struct PublicKey<'a> {
    algorithm: &'a [u8],
    bits: &'a [u8],
}

impl<'a> Signed<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut parts = Der::new(bytes).inside(der::SEQUENCE)?;
        let (content, algorithm) = (parts.whole()?, parts.tagged(der::SEQUENCE)?);
        Some(Self { content, algorithm, signature: whole_bytes(parts.tagged(der::BITS)?)? })
    }

    /// Whether it tells that it was signed in this way.
    pub(super) fn is_of(&self, algorithm: &[u8]) -> bool {
        self.algorithm == algorithm
    }

    /// Whether the owner of this key has signed it.
    pub(super) fn is_by(&self, key: PublicKey<'_>, algorithms: &[&dyn SignatureVerificationAlgorithm]) -> bool {
        let fits = |known: &&&dyn SignatureVerificationAlgorithm| {
            *known.signature_alg_id() == *self.algorithm && *known.public_key_alg_id() == *key.algorithm
        };
        let known = algorithms.iter().find(fits);
        known.is_some_and(|known| known.verify_signature(key.bits, self.content, self.signature).is_ok())
    }
}

impl<'a> PublicKey<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut parts = Der::new(bytes).inside(der::SEQUENCE)?;
        Some(Self { algorithm: parts.tagged(der::SEQUENCE)?, bits: whole_bytes(parts.tagged(der::BITS)?)? })
    }
}

/// The bits of a string that has no odd ones.
fn whole_bytes(content: &[u8]) -> Option<&[u8]> {
    match content {
        [0, bytes @ ..] => Some(bytes),
        _ => None,
    }
}

/// Whether the owner of a certificate has signed a handshake of TLS 1.2. rustls has the same, for certificates that it
/// would believe itself.
pub(super) fn verify_tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    schemes: &Schemes,
) -> Result<HandshakeSignatureValid, Error> {
    verify(message, certificate, signed, algorithms(signed.scheme, schemes)?)
}

/// The same of TLS 1.3, where the scheme says which curve the key is of, and RSA has one padding (RFC 8446 §4.2.3).
pub(super) fn verify_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    schemes: &Schemes,
) -> Result<HandshakeSignatureValid, Error> {
    use SignatureScheme as Scheme;
    let is_old = matches!(
        signed.scheme,
        Scheme::RSA_PKCS1_SHA1 | Scheme::RSA_PKCS1_SHA256 | Scheme::RSA_PKCS1_SHA384 | Scheme::RSA_PKCS1_SHA512
    );
    if is_old {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    let all = algorithms(signed.scheme, schemes)?;
    verify(message, certificate, signed, &all[..all.len().min(1)])
}

/// Envoy: a scheme that the peer was not told of is none.
fn algorithms(
    scheme: SignatureScheme,
    schemes: &Schemes,
) -> Result<&'static [&'static dyn SignatureVerificationAlgorithm], Error> {
    schemes.algorithms(scheme).ok_or_else(|| PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
}

fn verify(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> Result<HandshakeSignatureValid, Error> {
    let unreadable = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let Parsed(parsed) = Parsed::new(certificate).map_err(|_| unreadable())?;
    let key = PublicKey::read(parsed.public_key().raw).ok_or_else(unreadable)?;
    let known = algorithms.iter().find(|known| *known.public_key_alg_id() == *key.algorithm);
    match known.is_some_and(|known| known.verify_signature(key.bits, message, signed.signature()).is_ok()) {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(Error::InvalidCertificate(CertificateError::BadSignature)),
    }
}
