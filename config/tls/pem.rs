//! Certificates in PEM, by all the labels that BoringSSL knows them by.

use std::borrow::Cow;

use nuncio_filter_api::{LowerCx, Refused};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::der::{self, Der};
use super::san::Parsed;

/// What certificates are usually labelled.
const LABEL: &[u8] = b"CERTIFICATE";
/// What they once were.
const OLD_LABEL: &[u8] = b"X509 CERTIFICATE";
/// Those with what OpenSSL holds them good for.
const TRUSTED_LABEL: &[u8] = b"TRUSTED CERTIFICATE";

/// Whose certificates they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Our own: of them, the first alone may be one with more than a certificate, and others like that are passed over.
    Us,
    Authorities,
}

/// All certificates of a chain of our own: at least one.
pub(super) fn chain(pem: &[u8], cx: &mut LowerCx<'_>) -> Result<Vec<CertificateDer<'static>>, Refused> {
    read(pem, Owner::Us, cx)
}

/// All certificates of authorities: at least one.
pub(super) fn authorities(pem: &[u8], cx: &mut LowerCx<'_>) -> Result<Vec<CertificateDer<'static>>, Refused> {
    read(pem, Owner::Authorities, cx)
}

/// Whether all of them can be read.
pub(super) fn check_readable(all: &[CertificateDer<'_>], cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    for (i, certificate) in all.iter().enumerate() {
        Parsed::new(certificate).map_err(|e| cx.invalid(format!("certificate {} cannot be read: {e}", i + 1)))?;
    }
    Ok(())
}

fn read(pem: &[u8], owner: Owner, cx: &mut LowerCx<'_>) -> Result<Vec<CertificateDer<'static>>, Refused> {
    let (text, trusted) = relabel(pem, owner);
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let mut all = all.map_err(|e| cx.invalid(format!("is no PEM: {e}")))?;
    if all.is_empty() {
        return Err(cx.invalid("has no certificate in PEM"));
    }
    for i in trusted {
        let Some(der) = all.get_mut(i) else { continue };
        let (certificate, rejects) = split(der).ok_or_else(|| {
            cx.invalid(format!("certificate {} cannot be read: no settings of trust come after it", i + 1))
        })?;
        if rejects && owner == Owner::Authorities {
            return Err(cx.not_implemented(format!("certificate {}, which is rejected for some uses,", i + 1)));
        }
        *der = certificate.to_vec().into();
    }
    check_readable(&all, cx)?;
    Ok(all)
}

/// The text with the usual label for all that counts, and the numbers of those that may come with settings of trust.
fn relabel(pem: &[u8], owner: Owner) -> (Vec<u8>, Vec<usize>) {
    let (mut text, mut trusted, mut count) = (Vec::with_capacity(pem.len()), Vec::new(), 0_usize);
    let mut counts = false;
    for line in pem.split_inclusive(|byte| *byte == b'\n') {
        let mut line = Cow::Borrowed(line);
        if let Some((word, label)) = boundary(&line)
            && [LABEL, OLD_LABEL, TRUSTED_LABEL].contains(&label)
        {
            if word == b"BEGIN" {
                let is_trusted = label == TRUSTED_LABEL;
                counts = !is_trusted || owner == Owner::Authorities || count == 0;
                trusted.extend((is_trusted && counts).then_some(count));
                count += usize::from(counts);
            }
            if counts {
                line = Cow::Owned([b"-----", word, b" ", LABEL, b"-----\n"].concat());
            }
        }
        text.extend_from_slice(&line);
    }
    (text, trusted)
}

/// `BEGIN` or `END`, and the label, of a line that is such.
fn boundary(line: &[u8]) -> Option<(&'static [u8], &[u8])> {
    let inner = line.trim_ascii_end().strip_prefix(b"-----")?.strip_suffix(b"-----")?;
    let word: &'static [u8] = if inner.starts_with(b"BEGIN ") { b"BEGIN" } else { b"END" };
    Some((word, inner.strip_prefix(word)?.strip_prefix(b" ")?))
}

/// The certificate alone, and whether the settings that come after it reject some use. They are a list of uses that are
/// trusted, one of those that are rejected (`[0]`), and names.
fn split(der: &[u8]) -> Option<(&[u8], bool)> {
    let mut all = Der::new(der);
    let certificate = all.whole()?;
    if all.is_empty() {
        return Some((certificate, false));
    }
    let mut settings = all.inside(der::SEQUENCE)?;
    settings.optional(der::SEQUENCE);
    let rejected = settings.optional(der::EXPLICIT_0);
    Some((certificate, rejected.is_some_and(|list| !list.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_where_boringssl_reads_them() {
        let of = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        let text =
            ["TRUSTED CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE", "EC PRIVATE KEY"].map(of).concat();
        let check = |owner, expected: [&str; 4], trusted: &[usize]| {
            let (read, found) = relabel(text.as_bytes(), owner);
            assert_eq!((String::from_utf8(read).unwrap(), &*found), (expected.map(of).concat(), trusted));
        };
        check(Owner::Authorities, ["CERTIFICATE", "CERTIFICATE", "CERTIFICATE", "EC PRIVATE KEY"], &[0, 2]);
        check(Owner::Us, ["CERTIFICATE", "CERTIFICATE", "TRUSTED CERTIFICATE", "EC PRIVATE KEY"], &[0]);
        let text = ["CERTIFICATE", "TRUSTED CERTIFICATE"].map(of).concat();
        assert_eq!(relabel(text.as_bytes(), Owner::Us), (text.into_bytes(), vec![]));
    }

    #[test]
    fn settings_of_trust_are_cut_off_and_those_that_reject_are_seen() {
        let certificate = [0x30, 2, 5, 0];
        let check = |settings: &[u8], expected: Option<bool>| {
            let der = [&certificate[..], settings].concat();
            assert_eq!(split(&der), expected.map(|rejects| (&certificate[..], rejects)), "{settings:02x?}");
        };
        check(&[], Some(false));
        check(&[0x30, 0], Some(false));
        check(&[0x30, 4, 0x30, 2, 6, 0], Some(false));
        check(&[0x30, 8, 0x30, 2, 6, 0, 0xa0, 2, 6, 0], Some(true));
        check(&[0x30, 4, 0xa0, 2, 6, 0], Some(true));
        check(&[0x31, 0], None);
        check(&[0x30], None);
    }
}
