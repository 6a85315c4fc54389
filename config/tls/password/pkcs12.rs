//! PKCS#12 (RFC 7292): a certificate, its key and perhaps authorities in one file.

use aws_lc_rs::{digest, hmac};

use super::{Closed, MAX_ROUNDS, decrypt, decrypt_info};
use crate::tls::der::{Der, EXPLICIT_0, IMPLICIT_0, OCTETS, OID, SEQUENCE};

/// `1.2.840.113549.1.7.1` and `.6`: what holds bags, plain and encrypted.
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x06];
/// `1.2.840.113549.1.12.10.1`, under which are the kinds of bags.
const BAGS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01];
const KEY: u8 = 1;
const SHROUDED_KEY: u8 = 2;
const CERTIFICATE: u8 = 3;
/// `1.3.14.3.2.26`, and `2.16.840.1.101.3.4.2`, under which is SHA-2.
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// What such a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::tls) struct Opened {
    /// In PKCS#8.
    pub(in crate::tls) key: Vec<u8>,
    /// As they come, which tells nothing of whose is which.
    pub(in crate::tls) certificates: Vec<Vec<u8>>,
}

/// Opens a file.
pub(in crate::tls) fn open(der: &[u8], password: &str) -> Result<Opened, Closed> {
    let mut file = Der::new(der).inside(SEQUENCE).ok_or(Closed::Unreadable)?;
    let (version, content) = (file.number(), content(&mut file));
    let (Some(3), Some((DATA, mut content))) = (version, content) else { return Err(Closed::Unreadable) };
    let content = content.tagged(OCTETS).ok_or(Closed::Unreadable)?;
    if let Some(proof) = file.optional(SEQUENCE) {
        check(proof, content, password)?;
    }
    let mut opened = Opened::default();
    let mut parts = Der::new(content).inside(SEQUENCE).ok_or(Closed::Unreadable)?;
    while !parts.is_empty() {
        let (kind, mut part) = self::content(&mut parts).ok_or(Closed::Unreadable)?;
        match kind {
            DATA => opened.take(part.tagged(OCTETS).ok_or(Closed::Unreadable)?, password)?,
            ENCRYPTED_DATA => opened.take(&decrypt_content(part, password)?, password)?,
            _ => return Err(Closed::Scheme),
        }
    }
    match opened.key.is_empty() || opened.certificates.is_empty() {
        true => Err(Closed::Empty),
        false => Ok(opened),
    }
}

impl Opened {
    /// Takes the bags of one part.
    fn take(&mut self, bags: &[u8], password: &str) -> Result<(), Closed> {
        let mut bags = Der::new(bags).inside(SEQUENCE).ok_or(Closed::Unreadable)?;
        while !bags.is_empty() {
            // Kinds that are not known hold what is not asked for.
            let before = bags;
            let Some((kind, mut value)) = bag(&mut bags) else {
                bags = before;
                bags.any().ok_or(Closed::Unreadable)?;
                continue;
            };
            match kind {
                KEY => self.key = value.whole().ok_or(Closed::Unreadable)?.to_vec(),
                SHROUDED_KEY => {
                    let info = value.inside(SEQUENCE).ok_or(Closed::Unreadable)?;
                    self.key = decrypt_info(info, password.as_bytes())?;
                }
                CERTIFICATE => self.certificates.push(certificate(value).ok_or(Closed::Unreadable)?),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The kind and the value of a bag; `None`: it is of a kind that is not known.
fn bag<'a>(bags: &mut Der<'a>) -> Option<(u8, Der<'a>)> {
    let mut bag = bags.inside(SEQUENCE)?;
    Some((*bag.tagged(OID)?.strip_prefix(BAGS)?.first()?, bag.inside(EXPLICIT_0)?))
}

/// `ContentInfo`
fn content<'a>(der: &mut Der<'a>) -> Option<(&'a [u8], Der<'a>)> {
    let mut info = der.inside(SEQUENCE)?;
    Some((info.tagged(OID)?, info.inside(EXPLICIT_0)?))
}

/// `EncryptedData`
fn decrypt_content(mut part: Der<'_>, password: &str) -> Result<Vec<u8>, Closed> {
    let mut read = || {
        let mut data = part.inside(SEQUENCE)?;
        data.number()?;
        let mut info = data.inside(SEQUENCE)?;
        info.tagged(OID)?;
        Some((info.inside(SEQUENCE)?, info.tagged(IMPLICIT_0)?))
    };
    let (scheme, sealed) = read().ok_or(Closed::Unreadable)?;
    decrypt(scheme, sealed, password.as_bytes())
}

/// `CertBag`
fn certificate(mut value: Der<'_>) -> Option<Vec<u8>> {
    let mut bag = value.inside(SEQUENCE)?;
    bag.tagged(OID)?;
    bag.inside(EXPLICIT_0)?.tagged(OCTETS).map(<[u8]>::to_vec)
}

/// Whether the file is as whoever knows the password wrote it.
fn check(proof: &[u8], content: &[u8], password: &str) -> Result<(), Closed> {
    let read = |mut proof: Der<'_>| {
        let mut told = proof.inside(SEQUENCE)?;
        let algorithm = told.inside(SEQUENCE)?.tagged(OID)?.to_vec();
        let (mac, salt) = (told.tagged(OCTETS)?.to_vec(), proof.tagged(OCTETS)?.to_vec());
        let rounds = if proof.is_empty() { Some(1) } else { proof.number() };
        Some((algorithm, mac, salt, rounds?))
    };
    let (algorithm, mac, salt, rounds) = read(Der::new(proof)).ok_or(Closed::Unreadable)?;
    let (hash, function, block) = match (&algorithm[..], algorithm.strip_prefix(SHA2)) {
        (SHA1, _) => (&digest::SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, 64),
        (_, Some([1])) => (&digest::SHA256, hmac::HMAC_SHA256, 64),
        (_, Some([2])) => (&digest::SHA384, hmac::HMAC_SHA384, 128),
        (_, Some([3])) => (&digest::SHA512, hmac::HMAC_SHA512, 128),
        _ => return Err(Closed::Scheme),
    };
    if rounds > MAX_ROUNDS {
        return Err(Closed::Scheme);
    }
    let utf16: Vec<u8> = password.encode_utf16().chain([0]).flat_map(u16::to_be_bytes).collect();
    // No password is written as an empty one, and as none.
    let ways = [Some(&utf16[..]), password.is_empty().then_some(&[][..])];
    let is_proven = ways.into_iter().flatten().any(|password| {
        let key = hmac::Key::new(function, &mac_key(hash, block, password, &salt, rounds));
        hmac::verify(&key, content, &mac).is_ok()
    });
    is_proven.then_some(()).ok_or(Closed::Password)
}

/// The key of the proof (RFC 7292 appendix B.2), which is as long as what the hash makes.
fn mac_key(hash: &'static digest::Algorithm, block: usize, password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
    /// Of what the key is for.
    const MAC: u8 = 3;
    let filled = |part: &[u8]| -> Vec<u8> {
        let length = part.len().div_ceil(block) * block;
        part.iter().copied().cycle().take(length).collect()
    };
    let mut key = [vec![MAC; block], filled(salt), filled(password)].concat();
    for _ in 0..rounds.max(1) {
        key = digest::digest(hash, &key).as_ref().to_vec();
    }
    key
}
