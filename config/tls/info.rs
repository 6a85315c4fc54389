//! What logs tell of certificates.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nuncio_telemetry::CertificateInfo;
use rustls::pki_types::CertificateDer;
use x509_parser::time::ASN1Time;

use super::printed::printed;
use super::san::{Names, Parsed};
use super::validation::sha256;

/// Reads a certificate; `None` where it cannot be read, which no handshake lets through.
pub fn certificate_info(der: &CertificateDer<'_>) -> Option<CertificateInfo> {
    let Parsed(parsed) = Parsed::new(der).ok()?;
    let names = Names::of(&parsed);
    let other_sans = names.others().map(str::to_owned).collect();
    let Names { dns, uri, email, ip, other: _, all: _ } = names;
    Some(CertificateInfo {
        subject: printed(parsed.subject().as_raw()),
        issuer: printed(parsed.issuer().as_raw()),
        serial: hex(strip_sign(parsed.raw_serial())),
        fingerprint_1: hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref()),
        fingerprint_256: hex(&sha256(der)),
        der: der.as_ref().into(),
        dns_sans: dns,
        uri_sans: uri,
        ip_sans: ip,
        email_sans: email,
        other_sans,
        not_before: time(parsed.validity().not_before),
        not_after: time(parsed.validity().not_after),
    })
}

/// The octet that keeps a number from being negative is no part of its digits.
pub(super) fn strip_sign(serial: &[u8]) -> &[u8] {
    match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of pairs of hexadecimal digits.
pub(super) fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    match u64::try_from(seconds) {
        Ok(after) => UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()),
    }
}
