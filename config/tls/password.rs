//! Keys and certificates that a password protects: PKCS#8, the older PEM of OpenSSL, and PKCS#12.

mod pkcs12;

pub(super) use pkcs12::open;

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;
use base64::Engine;
use md5::{Digest, Md5};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

use super::der::{Der, INTEGER, OCTETS, OID, SEQUENCE};
use super::info::from_hex;

/// `1.2.840.113549.1.5.13` and `.12`
const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
/// `1.2.840.113549.2`, under which are the functions of PBKDF2.
const HMACS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02];
/// `2.16.840.1.101.3.4.1`, under which is AES.
const AES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01];
/// Rounds that a password may be hashed for: some seconds.
const MAX_ROUNDS: u32 = 10_000_000;

/// Why something stays closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Closed {
    #[error("the password is wrong")]
    Password,
    #[error("is protected by what is broken or not known: AES-CBC with PBKDF2 is, as `openssl` makes it by default")]
    Scheme,
    #[error("cannot be read")]
    Unreadable,
    #[error("holds no certificate with its key")]
    Empty,
}

/// The key of a PEM file in which it is encrypted; `None`: it is not.
pub(super) fn decrypt_pem(pem: &[u8], password: &[u8]) -> Option<Result<PrivateKeyDer<'static>, Closed>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (label, body) = text.match_indices("-----BEGIN ").find_map(|(at, begin)| {
        let (label, rest) = text[at + begin.len()..].split_once("-----")?;
        let body = rest.split_once(&format!("-----END {label}-----"))?.0;
        (label.ends_with("PRIVATE KEY") && (label.starts_with("ENCRYPTED") || body.contains("ENCRYPTED")))
            .then_some((label, body))
    })?;
    Some(match label {
        "ENCRYPTED PRIVATE KEY" => from_base64(body).and_then(|der| decrypt_pkcs8(&der, password)),
        _ => decrypt_legacy(label, body, password),
    })
}

/// `EncryptedPrivateKeyInfo` (RFC 5958 §3).
fn decrypt_pkcs8(der: &[u8], password: &[u8]) -> Result<PrivateKeyDer<'static>, Closed> {
    let plain = decrypt_info(Der::new(der).inside(SEQUENCE).ok_or(Closed::Unreadable)?, password)?;
    // What a wrong password makes mostly ends in no padding; where it does by chance, it is no key.
    let is_key = Der::new(&plain).inside(SEQUENCE).and_then(|mut key| key.number()).is_some();
    is_key.then(|| PrivatePkcs8KeyDer::from(plain).into()).ok_or(Closed::Password)
}

/// An algorithm, and what was encrypted by it.
fn decrypt_info(mut info: Der<'_>, password: &[u8]) -> Result<Vec<u8>, Closed> {
    let scheme = info.inside(SEQUENCE).ok_or(Closed::Unreadable)?;
    decrypt(scheme, info.tagged(OCTETS).ok_or(Closed::Unreadable)?, password)
}

/// PBES2 (RFC 8018 §6.2): the only scheme that is not broken.
fn decrypt(mut scheme: Der<'_>, sealed: &[u8], password: &[u8]) -> Result<Vec<u8>, Closed> {
    if scheme.tagged(OID).ok_or(Closed::Unreadable)? != PBES2 {
        return Err(Closed::Scheme);
    }
    let Pbes2 { derivation, cipher } = Pbes2::read(scheme).ok_or(Closed::Unreadable)?;
    let (algorithm, length) = cipher.algorithm().ok_or(Closed::Scheme)?;
    let mut key = vec![0; length];
    derivation.run(password, &mut key)?;
    decrypt_cbc(algorithm, &key, cipher.iv, sealed)
}

/// What `PBES2-params` says.
struct Pbes2<'a> {
    derivation: Derivation<'a>,
    cipher: Cipher<'a>,
}

struct Derivation<'a> {
    id: &'a [u8],
    salt: &'a [u8],
    rounds: u32,
    /// Of the function; HMAC with SHA-1 where none is said.
    function: Option<&'a [u8]>,
}

struct Cipher<'a> {
    id: &'a [u8],
    iv: &'a [u8],
}

impl<'a> Pbes2<'a> {
    fn read(mut scheme: Der<'a>) -> Option<Self> {
        let mut both = scheme.inside(SEQUENCE)?;
        let mut derivation = both.inside(SEQUENCE)?;
        let id = derivation.tagged(OID)?;
        let mut parameters = derivation.inside(SEQUENCE)?;
        let (salt, rounds) = (parameters.tagged(OCTETS)?, parameters.number()?);
        // The length of the key is that of the cipher.
        parameters.optional(INTEGER);
        let function = parameters.optional(SEQUENCE).map(|function| Der::new(function).tagged(OID));
        let mut cipher = both.inside(SEQUENCE)?;
        Some(Self {
            derivation: Derivation { id, salt, rounds, function: function.unwrap_or(None) },
            cipher: Cipher { id: cipher.tagged(OID)?, iv: cipher.tagged(OCTETS)? },
        })
    }
}

impl Derivation<'_> {
    fn run(&self, password: &[u8], key: &mut [u8]) -> Result<(), Closed> {
        let function = match self.function.map(|id| id.strip_prefix(HMACS)) {
            None | Some(Some([7])) => pbkdf2::PBKDF2_HMAC_SHA1,
            Some(Some([9])) => pbkdf2::PBKDF2_HMAC_SHA256,
            Some(Some([10])) => pbkdf2::PBKDF2_HMAC_SHA384,
            Some(Some([11])) => pbkdf2::PBKDF2_HMAC_SHA512,
            Some(_) => return Err(Closed::Scheme),
        };
        let rounds = NonZeroU32::new(self.rounds).filter(|rounds| rounds.get() <= MAX_ROUNDS);
        let rounds = rounds.filter(|_| self.id == PBKDF2).ok_or(Closed::Scheme)?;
        pbkdf2::derive(function, rounds, self.salt, password, key);
        Ok(())
    }
}

impl Cipher<'_> {
    /// With the length of its key.
    fn algorithm(&self) -> Option<(&'static Algorithm, usize)> {
        match self.id.strip_prefix(AES)? {
            [2] => Some((&AES_128, 16)),
            [22] => Some((&AES_192, 24)),
            [42] => Some((&AES_256, 32)),
            _ => None,
        }
    }
}

fn decrypt_cbc(algorithm: &'static Algorithm, key: &[u8], iv: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Closed> {
    let iv: [u8; 16] = iv.try_into().map_err(|_| Closed::Unreadable)?;
    let key = UnboundCipherKey::new(algorithm, key).and_then(PaddedBlockDecryptingKey::cbc_pkcs7);
    let mut plain = sealed.to_vec();
    let opened = key.and_then(|key| {
        key.decrypt(&mut plain, DecryptionContext::Iv128(FixedLength::from(iv))).map(|opened| opened.to_vec())
    });
    opened.map_err(|_| Closed::Password)
}

/// A key as OpenSSL wrote it before PKCS#8: headers tell of the cipher (RFC 1421 §4.6), MD5 makes the key.
fn decrypt_legacy(label: &str, body: &str, password: &[u8]) -> Result<PrivateKeyDer<'static>, Closed> {
    let (headers, sealed) =
        body.split_once("\n\n").or_else(|| body.split_once("\r\n\r\n")).ok_or(Closed::Unreadable)?;
    let info = headers.lines().find_map(|line| line.strip_prefix("DEK-Info:")).ok_or(Closed::Unreadable)?;
    let (cipher, iv) = info.trim().split_once(',').ok_or(Closed::Unreadable)?;
    let (algorithm, length) = match cipher {
        "AES-128-CBC" => (&AES_128, 16),
        "AES-192-CBC" => (&AES_192, 24),
        "AES-256-CBC" => (&AES_256, 32),
        _ => return Err(Closed::Scheme),
    };
    let iv = from_hex(iv.as_bytes()).ok_or(Closed::Unreadable)?;
    let salt = iv.get(..8).ok_or(Closed::Unreadable)?;
    let mut key = Vec::new();
    let mut last: Vec<u8> = Vec::new();
    while key.len() < length {
        last = Md5::digest([&last[..], password, salt].concat()).to_vec();
        key.extend_from_slice(&last);
    }
    let plain = decrypt_cbc(algorithm, &key[..length], &iv, &from_base64(sealed)?)?;
    // As with PKCS#8.
    Der::new(&plain).inside(SEQUENCE).and_then(|mut key| key.number()).ok_or(Closed::Password)?;
    match label {
        "RSA PRIVATE KEY" => Ok(PrivatePkcs1KeyDer::from(plain).into()),
        "EC PRIVATE KEY" => Ok(PrivateSec1KeyDer::from(plain).into()),
        _ => Err(Closed::Scheme),
    }
}

fn from_base64(text: &str) -> Result<Vec<u8>, Closed> {
    let text: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| Closed::Unreadable)
}

#[cfg(test)]
mod tests;
