//! Certificates and lists of revocations as tests want them, of whatever shape.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::CertificateDer;

use super::der;

/// 1.2.840.10045.2.1, 1.2.840.10045.3.1.7 and 1.2.840.10045.4.3.2
const EC_KEY: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const P256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const ECDSA: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// Kinds of extensions: the last byte of 2.5.29.
pub(super) const SUBJECT_KEY: u8 = 14;
pub(super) const KEY_USAGE: u8 = 15;
pub(super) const NAMES: u8 = 17;
pub(super) const BASIC: u8 = 19;
pub(super) const CONSTRAINTS: u8 = 30;
pub(super) const POINTS: u8 = 31;
pub(super) const POLICIES: u8 = 32;
pub(super) const ISSUER_KEY: u8 = 35;
pub(super) const PURPOSES: u8 = 37;

/// keyUsage: cRLSign and keyCertSign; the latter alone; digitalSignature.
pub(super) const SIGNS_ALL: [u8; 4] = [3, 2, 1, 0x06];
pub(super) const SIGNS_CERTIFICATES: [u8; 4] = [3, 2, 2, 0x04];
pub(super) const SIGNS: [u8; 4] = [3, 2, 7, 0x80];

pub(super) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let length = match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => vec![short],
        Ok(long) => vec![0x81, long],
        Err(_) => [&[0x82][..], &u16::try_from(length).expect("it is no longer").to_be_bytes()].concat(),
    };
    [&[tag][..], &length, &content].concat()
}

pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(der::SEQUENCE, parts)
}

/// `CN=name`
pub(super) fn called(name: &str) -> Vec<u8> {
    let pair = sequence(&[&[der::OID, 3, 0x55, 4, 3], &tlv(0x0c, &[name.as_bytes()])]);
    sequence(&[&tlv(der::SET, &[&pair])])
}

pub(super) fn time(text: &str) -> Vec<u8> {
    tlv(if text.len() > 13 { der::GENERALIZED_TIME } else { der::UTC_TIME }, &[text.as_bytes()])
}

pub(super) fn extension(kind: u8, is_critical: bool, content: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if is_critical { &[der::BOOLEAN, 1, 0xff] } else { &[] };
    sequence(&[&[der::OID, 3, 0x55, 0x1d, kind], critical, &tlv(der::OCTETS, &[content])])
}

/// Names of one kind each.
pub(super) fn names(all: &[(u8, &[u8])]) -> Vec<u8> {
    let all: Vec<u8> = all.iter().flat_map(|(kind, name)| tlv(*kind, &[name])).collect();
    sequence(&[&all])
}

pub(super) struct Key(EcdsaKeyPair);

impl Key {
    pub(super) fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("it makes a key"))
    }

    fn public(&self) -> Vec<u8> {
        let kind = sequence(&[&tlv(der::OID, &[&EC_KEY]), &tlv(der::OID, &[&P256])]);
        sequence(&[&kind, &tlv(der::BITS, &[&[0], self.0.public_key().as_ref()])])
    }

    fn sign(&self, content: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), content).expect("it signs");
        sequence(&[content, &algorithm(), &tlv(der::BITS, &[&[0], signature.as_ref()])])
    }
}

fn algorithm() -> Vec<u8> {
    sequence(&[&tlv(der::OID, &[&ECDSA])])
}

/// What a certificate says.
#[derive(Clone)]
pub(super) struct Shape {
    pub(super) version: Vec<u8>,
    pub(super) serial: Vec<u8>,
    pub(super) subject: Vec<u8>,
    pub(super) issuer: Vec<u8>,
    pub(super) validity: Vec<u8>,
    pub(super) extensions: Vec<Vec<u8>>,
}

impl Shape {
    /// A peer.
    pub(super) fn peer(subject: &str, issuer: &str) -> Self {
        Self {
            version: tlv(der::EXPLICIT_0, &[&[der::INTEGER, 1, 2]]),
            serial: vec![7],
            subject: called(subject),
            issuer: called(issuer),
            validity: sequence(&[&time("250101000000Z"), &time("20300101000000Z")]),
            extensions: vec![extension(NAMES, false, &names(&[(0x82, b"a.test")]))],
        }
    }

    /// An authority.
    pub(super) fn authority(subject: &str, issuer: &str) -> Self {
        let basic = extension(BASIC, true, &sequence(&[&[der::BOOLEAN, 1, 0xff]]));
        Self { extensions: vec![basic], ..Self::peer(subject, issuer) }
    }

    /// The same with another extension.
    pub(super) fn with(mut self, kind: u8, is_critical: bool, content: &[u8]) -> Self {
        self.extensions.retain(|known| known[6] != kind);
        self.extensions.push(extension(kind, is_critical, content));
        self
    }

    pub(super) fn from(mut self, start: &str, end: &str) -> Self {
        self.validity = sequence(&[&time(start), &time(end)]);
        self
    }

    pub(super) fn sign(&self, own: &Key, issuer: &Key) -> CertificateDer<'static> {
        let Self { version, serial, subject, issuer: by, validity, extensions } = self;
        let extensions = match extensions.is_empty() {
            true => Vec::new(),
            false => tlv(0xa3, &[&sequence(&[&extensions.concat()])]),
        };
        let serial = tlv(der::INTEGER, &[serial]);
        let content = sequence(&[version, &serial, &algorithm(), by, validity, subject, &own.public(), &extensions]);
        issuer.sign(&content).into()
    }
}

/// What a list of revocations says.
#[derive(Clone)]
pub(super) struct List {
    pub(super) version: Vec<u8>,
    pub(super) issuer: Vec<u8>,
    pub(super) times: Vec<u8>,
    /// Each with what follows the time.
    pub(super) revoked: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) extensions: Vec<Vec<u8>>,
}

impl List {
    /// One of the first version, which has no extensions.
    pub(super) fn of(issuer: &str) -> Self {
        let times = [time("250101000000Z"), time("20300101000000Z")].concat();
        Self { version: Vec::new(), issuer: called(issuer), times, revoked: Vec::new(), extensions: Vec::new() }
    }

    /// Of the second version.
    pub(super) fn with(mut self, kind: u8, is_critical: bool, content: &[u8]) -> Self {
        self.version = vec![der::INTEGER, 1, 1];
        self.extensions.push(extension(kind, is_critical, content));
        self
    }

    pub(super) fn revoking(mut self, serial: u8) -> Self {
        self.revoked.push((vec![serial], Vec::new()));
        self
    }

    pub(super) fn sign(&self, issuer: &Key) -> Vec<u8> {
        let Self { version, issuer: by, times, revoked, extensions } = self;
        let entry = |(serial, rest): &(Vec<u8>, Vec<u8>)| {
            sequence(&[&tlv(der::INTEGER, &[serial]), &time("250101000000Z"), rest])
        };
        let revoked = match revoked.is_empty() {
            true => Vec::new(),
            false => sequence(&[&revoked.iter().flat_map(entry).collect::<Vec<u8>>()]),
        };
        let extensions = match extensions.is_empty() {
            true => Vec::new(),
            false => tlv(der::EXPLICIT_0, &[&sequence(&[&extensions.concat()])]),
        };
        issuer.sign(&sequence(&[version, &algorithm(), by, times, &revoked, &extensions]))
    }
}
