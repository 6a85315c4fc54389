//! Lists of certificates that their authorities have revoked (RFC 5280 §5).

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::DataSource;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateRevocationListDer, SignatureVerificationAlgorithm};
use webpki::OwnedCertRevocationList;

use super::authorities::MAX_PEM;
use super::der::{self, Der};
use super::dn;
use super::flaw::Flaw;
use super::link::Link;
use super::signature::Signed;
use super::validation::sha256;
use crate::value::data_source;

/// What an authority has revoked.
#[derive(Debug)]
pub(super) struct Revocations {
    /// Finds serial numbers.
    list: webpki::CertRevocationList<'static>,
    /// The list as it was signed.
    whole: Box<[u8]>,
    /// As names are compared.
    issuer: Box<[u8]>,
    this_update: i64,
    next_update: Option<i64>,
    scope: Scope,
}

/// The certificates that a list is about (RFC 5280 §5.2.5). What is about some reasons alone, or about certificates of
/// other issuers, was refused when it was read.
#[derive(Debug, Default)]
struct Scope {
    only_users: bool,
    only_authorities: bool,
    /// The list is one of several: that which is found by one of these names.
    names: Option<Vec<(u8, Box<[u8]>)>>,
}

/// The lists in a file, and its digest.
pub(super) fn lower(source: DataSource, cx: &mut LowerCx<'_>) -> Result<(Vec<Revocations>, [u8; 32]), Refused> {
    let bytes = data_source(source, MAX_PEM, cx)?;
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
    let all: Result<Vec<_>, _> = all.iter().map(|der| Revocations::read(der)).collect();
    all.map_err(|e| cx.invalid(format!("holds a list of revocations that cannot be read: {e}")))
}

impl Revocations {
    fn read(whole: &[u8]) -> Result<Self, webpki::Error> {
        let list = OwnedCertRevocationList::from_der(whole)?.into();
        let mut head = Der::new(whole).inside(der::SEQUENCE).and_then(|mut list| list.inside(der::SEQUENCE));
        let head = head.as_mut().ok_or(webpki::Error::BadDer)?;
        Self::of_parts(list, whole, head).ok_or(webpki::Error::BadDer)
    }

    /// Reads the head of the list, which is in order: it was read before.
    fn of_parts(list: webpki::CertRevocationList<'static>, whole: &[u8], head: &mut Der<'_>) -> Option<Self> {
        // Version and algorithm.
        head.optional(der::INTEGER);
        head.tagged(der::SEQUENCE)?;
        let (issuer, this_update) = (dn::canonical(head.whole()?).into(), der::time(head.any()?)?);
        let next_update = [der::UTC_TIME, der::GENERALIZED_TIME]
            .into_iter()
            .find_map(|tag| head.optional(tag).map(|content| der::time((tag, content))));
        let scope = list.issuing_distribution_point().map_or_else(|| Some(Scope::default()), Scope::read)?;
        Some(Self { list, whole: whole.into(), issuer, this_update, next_update: next_update.flatten(), scope })
    }

    fn is_about(&self, certificate: &Link<'_>) -> bool {
        *self.issuer == *certificate.issuer() && self.scope.includes(certificate)
    }

    /// Whether the list can be believed now.
    fn check(&self, issuer: &Link<'_>, now: i64, known: &[&dyn SignatureVerificationAlgorithm]) -> Result<(), Flaw> {
        if !issuer.may_sign_lists() {
            return Err(Flaw::ListUsage);
        }
        if self.this_update > now {
            return Err(Flaw::ListNotYetValid);
        }
        if self.next_update.is_some_and(|next| next < now) {
            return Err(Flaw::ListExpired);
        }
        match Signed::read(&self.whole).is_some_and(|signed| issuer.has_signed(signed, known)) {
            true => Ok(()),
            false => Err(Flaw::ListSignature),
        }
    }
}

/// Whether a certificate is among those that its issuer has revoked. There has to be a list that says it is not.
pub(super) fn check(
    lists: &[Revocations],
    certificate: &Link<'_>,
    issuer: &Link<'_>,
    now: i64,
    known: &[&dyn SignatureVerificationAlgorithm],
) -> Result<(), Flaw> {
    let mut about: Vec<&Revocations> = lists.iter().filter(|list| list.is_about(certificate)).collect();
    // The newest counts; among several of one name there may be those of others that have the same.
    about.sort_by_key(|list| std::cmp::Reverse(list.this_update));
    let mut flaw = None;
    for list in about {
        match list.check(issuer, now, known) {
            Ok(()) => {
                return match list.list.find_serial(certificate.serial()) {
                    Ok(None) => Ok(()),
                    Ok(Some(_)) | Err(_) => Err(Flaw::Revoked),
                };
            }
            Err(found) => flaw = flaw.or(Some(found)),
        }
    }
    Err(flaw.unwrap_or(Flaw::NoList))
}

impl Scope {
    fn read(point: &[u8]) -> Option<Self> {
        /// `[0]`, `[1]` and `[2]` of the extension, and `fullName` of the first.
        const POINT: u8 = 0xa0;
        const ONLY_USERS: u8 = 0x81;
        const ONLY_AUTHORITIES: u8 = 0x82;
        const FULL_NAME: u8 = 0xa0;
        let mut parts = Der::new(point);
        // Some give the content alone.
        if let Some(inside) = parts.inside(der::SEQUENCE) {
            parts = inside;
        }
        let mut scope = Self::default();
        while !parts.is_empty() {
            let (tag, content) = parts.any()?;
            let is_set = content.iter().any(|byte| *byte != 0);
            match tag {
                POINT => {
                    let mut names = Der::new(content).inside(FULL_NAME)?;
                    let mut all = Vec::new();
                    while !names.is_empty() {
                        let (kind, name) = names.any()?;
                        all.push((kind, name.into()));
                    }
                    scope.names = Some(all);
                }
                ONLY_USERS => scope.only_users = is_set,
                ONLY_AUTHORITIES => scope.only_authorities = is_set,
                _ => return None,
            }
        }
        Some(scope)
    }

    fn includes(&self, certificate: &Link<'_>) -> bool {
        let is_of_kind = match certificate.is_authority() {
            true => !self.only_users,
            false => !self.only_authorities,
        };
        let is_named = self.names.as_ref().is_none_or(|names| {
            // A list for those that name it says nothing of one that names none.
            certificate.list_names().iter().any(|point| names.iter().any(|(k, n)| (*k, &n[..]) == *point))
        });
        is_of_kind && is_named
    }
}
