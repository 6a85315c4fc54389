//! Keys of session tickets that several processes share.

use std::fmt;

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::server::ProducesTickets;

use crate::value::unwatched_data_source;

/// A key is its name, a key to sign with and a key to encrypt with, as Envoy has it.
const NAME: usize = 16;
const HALF: usize = 32;
const KEY: usize = NAME + 2 * HALF;
const IV: usize = 16;
/// Seconds that a ticket is good for: those of BoringSSL.
const LIFETIME: u32 = 2 * 60 * 60;

/// Makes tickets with the first of its keys and takes those of all of them, in the form that RFC 5077 §4 recommends.
pub struct TicketKeys {
    keys: Vec<Key>,
    /// Of their bytes.
    digest: [u8; 32],
}

struct Key {
    name: [u8; NAME],
    sign: hmac::Key,
    encrypt: PaddedBlockEncryptingKey,
    decrypt: PaddedBlockDecryptingKey,
}

impl TicketKeys {
    /// One key that nobody else has; `None` where the system has no random bytes.
    pub(crate) fn random() -> Option<Self> {
        let mut bytes = [0; KEY];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        Key::new(&bytes).map(|key| Self { keys: vec![key], digest: digest(&bytes) })
    }

    /// Tells these from others.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Lowers the message.
    pub fn lower(proto: pb::TlsSessionTicketKeys, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::TlsSessionTicketKeys { keys } = proto;
        if keys.is_empty() {
            return Err(cx.at("keys", |cx| cx.invalid("must not be empty")));
        }
        let mut all = Vec::new();
        let keys = cx.each("keys", keys, |source, cx| {
            let bytes = unwatched_data_source(source, KEY as u64, cx)?;
            let reason = || format!("a key of session tickets has {KEY} bytes, this one {}", bytes.len());
            all.extend_from_slice(&bytes);
            Key::new(&bytes).ok_or_else(|| cx.invalid(reason()))
        });
        Ok(Self { keys: keys?, digest: digest(&all) })
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys of tickets", self.keys.len())
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.first()?.seal(plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        self.keys.iter().find(|key| key.name == *name)?.open(name, rest)
    }
}

impl Key {
    /// `None` where the bytes are too few or too many.
    fn new(bytes: &[u8]) -> Option<Self> {
        let (name, keys) = bytes.split_first_chunk::<NAME>()?;
        let (sign, encrypt) = keys.split_first_chunk::<HALF>()?;
        // Which takes keys of the right length only.
        let cipher = || UnboundCipherKey::new(&AES_256, encrypt).ok();
        Some(Self {
            name: *name,
            sign: hmac::Key::new(hmac::HMAC_SHA256, sign),
            encrypt: PaddedBlockEncryptingKey::cbc_pkcs7(cipher()?).ok()?,
            decrypt: PaddedBlockDecryptingKey::cbc_pkcs7(cipher()?).ok()?,
        })
    }

    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let context = self.encrypt.encrypt(&mut sealed).ok()?;
        let iv: &[u8] = (&context).try_into().ok()?;
        let mut ticket = [&self.name, iv, &sealed].concat();
        let tag = hmac::sign(&self.sign, &ticket);
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, name: &[u8; NAME], rest: &[u8]) -> Option<Vec<u8>> {
        let (signed, tag) = rest.split_last_chunk::<HALF>()?;
        hmac::verify(&self.sign, &[name, signed].concat(), tag).ok()?;
        let (iv, sealed) = signed.split_first_chunk::<IV>()?;
        let mut sealed = sealed.to_vec();
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        Some(self.decrypt.decrypt(&mut sealed, context).ok()?.to_vec())
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> TicketKeys {
        TicketKeys { keys: bytes.iter().map(|b| Key::new(&[*b; KEY]).unwrap()).collect(), digest: [0; 32] }
    }

    #[test]
    fn a_ticket_is_good_for_whoever_has_its_key() {
        let (old, both, new) = (keys(&[1]), keys(&[2, 1]), keys(&[2]));
        let ticket = old.encrypt(b"a session").unwrap();
        assert_eq!(both.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(new.decrypt(&ticket), None);
        assert_eq!(new.decrypt(&both.encrypt(b"other").unwrap()).as_deref(), Some(&b"other"[..]));
    }

    #[test]
    fn a_ticket_that_was_changed_or_cut_is_none() {
        let keys = keys(&[1]);
        let ticket = keys.encrypt(b"a session").unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(keys.decrypt(&changed), None, "{at}");
            assert_eq!(keys.decrypt(&ticket[..at]), None, "{at}");
        }
        assert!(Key::new(&[0; KEY - 1]).is_none() && Key::new(&[0; KEY + 1]).is_none());
    }
}
