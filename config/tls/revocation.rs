//! Lists of certificates that their authorities have revoked (RFC 5280 §5), read and chosen as BoringSSL does.

mod list;
#[cfg(test)]
mod tests;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::DataSource;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateRevocationListDer, SignatureVerificationAlgorithm};

use self::list::Scope;
use super::authorities::MAX_PEM;
use super::chain::When;
use super::flaw::Flaw;
use super::link::{IssuerKey, Link};
use super::signature::Signed;
use super::validation::sha256;
use crate::value::unwatched_data_source;

/// What an authority has revoked.
#[derive(Debug)]
pub(super) struct Revocations {
    /// The list as it was signed.
    whole: Box<[u8]>,
    /// As names are compared.
    issuer: Box<[u8]>,
    /// The extension that tells which key of the issuer has signed.
    issuer_key: Option<Box<[u8]>>,
    this_update: i64,
    next_update: Option<i64>,
    scope: Scope,
    /// The list, or one of its entries, says something that counts and that is not known.
    has_critical: bool,
    /// Whether both places that tell how it was signed say the same.
    is_consistent: bool,
    /// Where in it the serial numbers stand, in order of the numbers' bytes.
    serials: Box<[(u32, u32)]>,
}

/// How well a list says what became of a certificate: what comes first counts most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    is_understood: bool,
    is_in_scope: bool,
    is_in_time: bool,
    /// The issuer of the certificate has signed it, and not another of that name further up.
    is_of_issuer: bool,
}

/// The lists in a file, and its digest.
pub(super) fn lower(source: DataSource, cx: &mut LowerCx<'_>) -> Result<(Vec<Revocations>, [u8; 32]), Refused> {
    let bytes = unwatched_data_source(source, MAX_PEM, cx)?;
    let all = read_all(&bytes, cx)?;
    match all.is_empty() {
        true => Err(cx.invalid("has no list of revocations in PEM")),
        false => Ok((all, sha256(&bytes))),
    }
}

/// The lists in a PEM file, among whatever else it has.
pub(super) fn read_all(pem: &[u8], cx: &mut LowerCx<'_>) -> Result<Vec<Revocations>, Refused> {
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| cx.invalid(format!("is no PEM: {e}")))?;
    let all: Option<Vec<_>> = all.iter().map(|der| Revocations::read(der)).collect();
    all.ok_or_else(|| cx.invalid("holds a list of revocations that cannot be read"))
}

/// Whether the certificate at `depth` of a chain is among those that its issuer has revoked. There has to be a list that
/// says it is not.
pub(super) fn check(
    lists: &[Revocations],
    links: &[Link<'_>],
    depth: usize,
    when: When,
    known: &[&dyn SignatureVerificationAlgorithm],
) -> Result<(), Flaw> {
    let mut best: Option<(Fit, &Revocations, &Link<'_>)> = None;
    for list in lists {
        let Some((fit, issuer)) = list.fit(links, depth, when) else { continue };
        // The newest of those that are as good.
        let is_better =
            best.is_none_or(|(other, than, _)| fit > other || (fit == other && list.this_update > than.this_update));
        if is_better {
            best = Some((fit, list, issuer));
        }
    }
    let (fit, list, issuer) = best.ok_or(Flaw::NoList)?;
    list.check(fit, issuer, when, known)?;
    match list.names(links[depth].serial()) {
        true => Err(Flaw::Revoked),
        false => Ok(()),
    }
}

impl Revocations {
    /// How well it says what became of the certificate at `depth`, and whose list it is; `None`: not at all.
    fn fit<'a, 'b>(&self, links: &'a [Link<'b>], depth: usize, when: When) -> Option<(Fit, &'a Link<'b>)> {
        if self.scope.is_not_spoken || *self.issuer != *links[depth].issuer() {
            return None;
        }
        let key = self.issuer_key.as_deref().map(IssuerKey::read).unwrap_or_default();
        // Nobody stands above the last: it answers for itself, or there is no list of whoever issued it.
        let next = (depth + 1).min(links.len() - 1);
        let (is_of_issuer, issuer) = match key.fits(&links[next]) {
            true => (true, &links[next]),
            false => {
                let is_issuer = |link: &&Link<'_>| *link.subject() == *self.issuer && key.fits(link);
                (false, links[next + 1..].iter().find(is_issuer)?)
            }
        };
        let fit = Fit {
            is_understood: !self.has_critical,
            is_in_scope: self.scope.includes(&links[depth]),
            is_in_time: self.check_time(when).is_ok(),
            is_of_issuer,
        };
        Some((fit, issuer))
    }

    /// Whether the list can be believed now.
    fn check(
        &self,
        fit: Fit,
        issuer: &Link<'_>,
        when: When,
        known: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<(), Flaw> {
        if !issuer.may_sign_lists() {
            return Err(Flaw::ListUsage);
        }
        if !fit.is_in_scope {
            return Err(Flaw::ListScope);
        }
        self.check_time(when)?;
        let is_signed = || Signed::read(&self.whole).is_some_and(|signed| issuer.has_signed(signed, known));
        if !self.is_consistent || !is_signed() {
            return Err(Flaw::ListSignature);
        }
        match fit.is_understood {
            true => Ok(()),
            false => Err(Flaw::ListExtension),
        }
    }

    fn check_time(&self, when: When) -> Result<(), Flaw> {
        if when.is_ignored {
            return Ok(());
        }
        if self.this_update > when.now {
            return Err(Flaw::ListNotYetValid);
        }
        match self.next_update.is_some_and(|next| next < when.now) {
            true => Err(Flaw::ListExpired),
            false => Ok(()),
        }
    }

    /// Whether it has this serial number.
    fn names(&self, serial: &[u8]) -> bool {
        self.serials.binary_search_by(|place| self.at(*place).cmp(serial)).is_ok()
    }
}
