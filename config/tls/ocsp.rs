//! What an OCSP responder said of a certificate (RFC 6960), and when it is shown to clients.

use std::time::SystemTime;

use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::OcspStaplePolicy as Proto;

use super::der::{self, Der, ENUMERATED, EXPLICIT_0, GENERALIZED_TIME, INTEGER, OCTETS, OID, SEQUENCE};
use super::in_use::seconds_since;
use super::info::strip_sign;

/// An answer, as far as it matters here: whether a peer believes it is the peer's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OcspResponse {
    /// As it is sent.
    pub(super) bytes: Vec<u8>,
    serial: Vec<u8>,
    /// Seconds since 1970 from which on it holds.
    pub(super) valid_from: i64,
    /// Seconds since 1970 at which it ends to hold; `None`: it does not say, and is not shown.
    pub(super) expires: Option<i64>,
}

/// What becomes of a certificate whose answer is missing or old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Policy {
    /// It is shown without.
    #[default]
    Lenient,
    /// It is shown without where there is none, and not shown with one that is old.
    Strict,
    /// It is shown with one that holds, or not at all.
    Must,
}

/// What a client that asks for an answer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staple {
    /// The answer.
    Shown,
    /// The certificate alone.
    Omitted,
    /// Nothing: the handshake fails.
    Failed,
}

/// Why bytes are no answer that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("is no OCSP response in DER")]
    Unreadable,
    #[error("is the response of an OCSP responder that could not answer")]
    Unsuccessful,
    #[error("is an OCSP response for another number of certificates than one")]
    NotOne,
}

impl OcspResponse {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unusable> {
        let mut all = Der::new(bytes);
        let mut response = all.inside(SEQUENCE).filter(|_| all.is_empty()).ok_or(Unusable::Unreadable)?;
        if response.tagged(ENUMERATED).ok_or(Unusable::Unreadable)? != [0] {
            return Err(Unusable::Unsuccessful);
        }
        let mut single = responses(response).ok_or(Unusable::Unreadable)?;
        let read = |single: &mut Der<'_>| -> Option<Self> {
            let mut one = single.inside(SEQUENCE)?;
            let mut id = one.inside(SEQUENCE)?;
            // The hash function, and the hashes of the issuer's name and key.
            for _ in 0..3 {
                id.any()?;
            }
            let serial = strip_sign(id.tagged(INTEGER)?).to_vec();
            one.any()?;
            let valid_from = der::generalized_time(one.tagged(GENERALIZED_TIME)?)?;
            let next = one.optional(EXPLICIT_0).map(|next| Der::new(next).tagged(GENERALIZED_TIME));
            let expires = match next {
                Some(next) => Some(der::generalized_time(next?)?),
                None => None,
            };
            Some(Self { bytes: bytes.to_vec(), serial, valid_from, expires })
        };
        if single.is_empty() {
            return Err(Unusable::NotOne);
        }
        let response = read(&mut single).ok_or(Unusable::Unreadable)?;
        single.is_empty().then_some(response).ok_or(Unusable::NotOne)
    }

    /// Whether it is about the certificate of this serial number.
    pub(super) fn is_about(&self, serial: &[u8]) -> bool {
        self.serial == strip_sign(serial)
    }

    fn holds(&self) -> bool {
        let now = seconds_since(SystemTime::now());
        self.expires.is_some_and(|end| i64::try_from(now).is_ok_and(|now| now < end))
    }
}

impl Policy {
    pub(super) fn lower(value: i32) -> Self {
        match Proto::try_from(value) {
            Ok(Proto::StrictStapling) => Self::Strict,
            Ok(Proto::MustStaple) => Self::Must,
            // The rules of the message let no other value through.
            Ok(Proto::LenientStapling) | Err(_) => Self::Lenient,
        }
    }

    /// What a client that asks is given.
    pub(super) fn staple(self, response: Option<&OcspResponse>) -> Staple {
        match (self, response) {
            (_, Some(response)) if response.holds() => Staple::Shown,
            (Self::Lenient, _) | (Self::Strict, None) => Staple::Omitted,
            (Self::Strict, Some(_)) | (Self::Must, _) => Staple::Failed,
        }
    }
}

/// The answers of `BasicOCSPResponse`.
fn responses(mut response: Der<'_>) -> Option<Der<'_>> {
    let mut held = response.inside(EXPLICIT_0)?.inside(SEQUENCE)?;
    held.tagged(OID)?;
    let mut data = Der::new(held.tagged(OCTETS)?).inside(SEQUENCE)?.inside(SEQUENCE)?;
    // The version, the responder and the time.
    data.optional(EXPLICIT_0);
    data.any()?;
    data.tagged(GENERALIZED_TIME)?;
    data.inside(SEQUENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str) -> Result<OcspResponse, Unusable> {
        let path = format!("{}/../tests/support/certificates/{name}", env!("CARGO_MANIFEST_DIR"));
        OcspResponse::read(&std::fs::read(path).unwrap())
    }

    #[test]
    fn an_answer_tells_of_one_certificate_and_of_its_time() {
        let response = read("server.ocsp").unwrap();
        assert!(response.is_about(&[0x10, 0x01]) && !response.is_about(&[0x10, 0x02]));
        assert!(response.holds() && response.valid_from < response.expires.unwrap());
        assert!(!read("server-late.ocsp").unwrap().holds());
        assert_eq!(read("server.pem"), Err(Unusable::Unreadable));
        for end in 0..response.bytes.len() {
            assert!(OcspResponse::read(&response.bytes[..end]).is_err(), "{end}");
        }
        // A responder that has no answer says so and nothing else: unauthorized.
        assert_eq!(OcspResponse::read(&[0x30, 3, 0x0a, 1, 6]), Err(Unusable::Unsuccessful));
    }

    #[test]
    fn each_policy_has_its_own_idea_of_what_is_missing() {
        let (fresh, old) = (read("server.ocsp").unwrap(), read("server-late.ocsp").unwrap());
        for (policy, response, staple) in [
            (Policy::Lenient, Some(&fresh), Staple::Shown),
            (Policy::Lenient, Some(&old), Staple::Omitted),
            (Policy::Lenient, None, Staple::Omitted),
            (Policy::Strict, Some(&fresh), Staple::Shown),
            (Policy::Strict, Some(&old), Staple::Failed),
            (Policy::Strict, None, Staple::Omitted),
            (Policy::Must, Some(&fresh), Staple::Shown),
            (Policy::Must, Some(&old), Staple::Failed),
            (Policy::Must, None, Staple::Failed),
        ] {
            assert_eq!(policy.staple(response), staple, "{policy:?}");
        }
    }
}
