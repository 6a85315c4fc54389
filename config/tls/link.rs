//! A certificate as a link of a chain: what of it counts there (RFC 5280 §4).

use rustls::pki_types::SignatureVerificationAlgorithm;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{KeyUsage, ParsedExtension};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::constraints::{self, Name, NameConstraints};
use super::der::{self, Der};
use super::dn;
use super::policies;
use super::signature::{PublicKey, Signed};
use super::validation::Peer;

#[derive(Debug)]
pub(super) struct Link<'a> {
    pub(super) der: &'a [u8],
    parsed: X509Certificate<'a>,
    signed: Signed<'a>,
    key: PublicKey<'a>,
    says: Extensions<'a>,
    /// Seconds since 1970 between which it is valid.
    validity: (i64, i64),
    /// Names as they are compared.
    subject: Vec<u8>,
    issuer: Vec<u8>,
}

/// What the extensions say.
#[derive(Debug, Default)]
struct Extensions<'a> {
    /// Whether it is an authority, and how many may follow it.
    basic: Option<(bool, Option<u32>)>,
    usage: Option<KeyUsage>,
    /// For clients and for servers.
    purposes: Option<(bool, bool)>,
    subject_key: Option<&'a [u8]>,
    issuer_key: IssuerKey<'a>,
    names: Vec<Name<'a>>,
    constraints: Option<NameConstraints<'a>>,
    list_names: Vec<Name<'a>>,
    wants_policy: bool,
    has_bad_policies: bool,
    has_unknown: bool,
    /// What counts cannot be read, or stands here twice.
    is_invalid: bool,
}

/// How a certificate tells which of several keys or certificates of its issuer is meant (RFC 5280 §4.2.1.1).
#[derive(Debug, Default)]
pub(super) struct IssuerKey<'a> {
    id: Option<&'a [u8]>,
    serial: Option<&'a [u8]>,
    issuer: Option<&'a [u8]>,
}

impl<'a> Link<'a> {
    pub(super) fn read(der: &'a [u8]) -> Option<Self> {
        let (rest, parsed) = X509Certificate::from_der(der).ok()?;
        let signed = Signed::read(der)?;
        // RFC 5280 §4.1.1.2: both places say the same.
        let tbs = &parsed.tbs_certificate;
        if !rest.is_empty() || parsed.signature_algorithm != tbs.signature {
            return None;
        }
        // RFC 5280 §4.1.2.1: older ones have no extensions.
        if tbs.version.0 > X509Version::V3.0 || (tbs.version != X509Version::V3 && !tbs.extensions().is_empty()) {
            return None;
        }
        // What one reader takes for a name, and another does not, is none.
        let (subject, issuer) = (dn::read(tbs.subject.as_raw())?, dn::read(tbs.issuer.as_raw())?);
        let key = PublicKey::read(tbs.subject_pki.raw)?;
        let validity = validity(signed.content)?;
        if !is_minimal(parsed.raw_serial()) {
            return None;
        }
        let says = Extensions::read(&parsed);
        Some(Self { der, parsed, signed, key, says, validity, subject, issuer })
    }

    /// The name of its subject, as names are compared.
    pub(super) fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// The name of its issuer, as names are compared.
    pub(super) fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// Subject and issuer are one.
    pub(super) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    pub(super) fn serial(&self) -> &[u8] {
        self.parsed.raw_serial()
    }

    /// Seconds since 1970 between which it is valid.
    pub(super) fn validity(&self) -> (i64, i64) {
        self.validity
    }

    pub(super) fn is_self_signed(&self) -> bool {
        self.is_self_issued() && self.is_issued_by(self)
    }

    /// Whether it says that this is who issued it. The signature proves it.
    pub(super) fn is_issued_by(&self, issuer: &Link<'_>) -> bool {
        self.issuer == issuer.subject && self.says.issuer_key.fits(issuer) && issuer.may_sign_certificates()
    }

    /// Whether it was signed by that key.
    pub(super) fn is_signed_by(&self, issuer: &Link<'_>, known: &[&dyn SignatureVerificationAlgorithm]) -> bool {
        issuer.has_signed(self.signed, known)
    }

    pub(super) fn has_signed(&self, signed: Signed<'_>, known: &[&dyn SignatureVerificationAlgorithm]) -> bool {
        signed.is_by(self.key, known)
    }

    fn may_sign_certificates(&self) -> bool {
        self.says.usage.as_ref().is_none_or(KeyUsage::key_cert_sign)
    }

    pub(super) fn may_sign_lists(&self) -> bool {
        self.says.usage.as_ref().is_none_or(KeyUsage::crl_sign)
    }

    pub(super) fn is_authority(&self) -> bool {
        self.says.basic.is_some_and(|(is_authority, _)| is_authority)
    }

    /// How many authorities may follow it.
    pub(super) fn most_below(&self) -> Option<usize> {
        self.says.basic.and_then(|(_, most)| most).and_then(|most| usize::try_from(most).ok())
    }

    /// Whether it may stand for such a peer, or before one that does.
    pub(super) fn is_for(&self, peer: Peer) -> bool {
        self.says.purposes.is_none_or(|(client, server)| match peer {
            Peer::Client => client,
            Peer::Server => server,
        })
    }

    /// Whether its key is for what such a peer does with it.
    pub(super) fn has_key_for(&self, peer: Peer) -> bool {
        self.says.usage.as_ref().is_none_or(|usage| {
            let signs = usage.digital_signature() || usage.key_agreement();
            signs || (peer == Peer::Server && usage.key_encipherment())
        })
    }

    /// Whether it may issue certificates for such peers.
    pub(super) fn may_issue(&self) -> bool {
        self.is_authority() && self.may_sign_certificates()
    }

    pub(super) fn is_invalid(&self) -> bool {
        self.says.is_invalid
    }

    pub(super) fn has_unknown(&self) -> bool {
        self.says.has_unknown
    }

    pub(super) fn wants_policy(&self) -> bool {
        self.says.wants_policy
    }

    /// Whether what it says of policies cannot be read.
    pub(super) fn has_bad_policies(&self) -> bool {
        self.says.has_bad_policies
    }

    pub(super) fn constraints(&self) -> Option<&NameConstraints<'a>> {
        self.says.constraints.as_ref()
    }

    /// All names of its subject.
    pub(super) fn names(&self) -> Vec<Name<'_>> {
        constraints::all_names(self.parsed.subject().as_raw(), &self.says.names)
    }

    /// Whether it has no alternative names, and a common one that could be a host's.
    pub(super) fn is_host_by_common_name(&self) -> bool {
        let is_host = |name: &[u8]| {
            let name = name.strip_suffix(b".").unwrap_or(name);
            let name = name.strip_prefix(b"*.").unwrap_or(name);
            let is_label = |label: &[u8]| {
                let is_fine = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':');
                !label.is_empty() && label[0] != b'-' && label.iter().all(is_fine)
            };
            name.split(|byte| *byte == b'.').all(is_label)
        };
        let has_names = self.parsed.extensions().iter().any(|e| e.oid == oid::OID_X509_EXT_SUBJECT_ALT_NAME);
        !has_names && self.parsed.subject().iter_common_name().any(|name| is_host(name.as_slice()))
    }

    /// Where lists are found that are about it.
    pub(super) fn list_names(&self) -> &[Name<'a>] {
        &self.says.list_names
    }
}

impl<'a> Extensions<'a> {
    fn read(parsed: &X509Certificate<'a>) -> Self {
        let mut says = Self::default();
        let all = parsed.extensions();
        let mut kinds: Vec<&[u8]> = all.iter().map(|extension| extension.oid.as_bytes()).collect();
        kinds.sort_unstable();
        says.is_invalid = kinds.windows(2).any(|pair| pair[0] == pair[1]);
        for extension in all {
            let taken = says.take(&extension.oid, extension.parsed_extension(), extension.value);
            says.is_invalid |= taken == Some(false);
            let mut value = Der::new(extension.value);
            let is_one = value.any().is_some() && value.is_empty();
            says.is_invalid |= !is_one && (taken.is_some() || is_read_anyway(&extension.oid));
            says.has_bad_policies |= !policies::are_readable(&extension.oid, extension.value);
            // Those that BoringSSL looks at; of policies nothing comes where none is asked for.
            let is_known = taken.is_some_and(|known| known)
                || extension.oid == oid::OID_X509_EXT_CERTIFICATE_POLICIES
                || extension.oid == oid::OID_X509_EXT_POLICY_MAPPINGS
                || extension.oid == oid::OID_X509_EXT_INHIBIT_ANY_POLICY;
            says.has_unknown |= extension.critical && !is_known;
        }
        says
    }

    /// Takes what an extension says: whether it could be read, or `None` where it is not known.
    fn take(&mut self, kind: &oid::Oid<'_>, parsed: &ParsedExtension<'a>, value: &'a [u8]) -> Option<bool> {
        if *kind == oid::OID_X509_EXT_NAME_CONSTRAINTS {
            self.constraints = NameConstraints::read(value);
            return Some(self.constraints.is_some());
        }
        if *kind == oid::OID_X509_EXT_SUBJECT_ALT_NAME {
            let names = constraints::names_of(value);
            let is_read = names.is_some();
            self.names = names.unwrap_or_default();
            return Some(is_read);
        }
        if *kind == oid::OID_X509_EXT_CRL_DISTRIBUTION_POINTS {
            let names = list_names(value);
            let is_unreadable = names.is_none();
            self.list_names = names.unwrap_or_default();
            return is_unreadable.then_some(false);
        }
        match parsed {
            ParsedExtension::BasicConstraints(basic) => {
                self.basic = Some((basic.ca, basic.path_len_constraint));
                Some(basic.ca || basic.path_len_constraint.is_none())
            }
            ParsedExtension::KeyUsage(usage) => {
                self.usage = Some(*usage);
                Some(true)
            }
            // RFC 5280 §4.2.1.12: any purpose is none of these, as BoringSSL has it.
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.purposes = Some((usage.client_auth, usage.server_auth));
                Some(true)
            }
            ParsedExtension::PolicyConstraints(policy) => {
                self.wants_policy = policy.require_explicit_policy.is_some();
                Some(policy.require_explicit_policy.is_some() || policy.inhibit_policy_mapping.is_some())
            }
            // They are never critical.
            ParsedExtension::SubjectKeyIdentifier(id) => {
                self.subject_key = Some(id.0);
                None
            }
            ParsedExtension::AuthorityKeyIdentifier(_) => {
                self.issuer_key = IssuerKey::read(value);
                None
            }
            ParsedExtension::ParseError { .. } => is_read_anyway(kind).then_some(false),
            _ => None,
        }
    }
}

/// Whether an extension counts, so that what cannot be read of it makes the certificate one that cannot be used.
fn is_read_anyway(kind: &oid::Oid<'_>) -> bool {
    [
        oid::OID_X509_EXT_BASIC_CONSTRAINTS,
        oid::OID_X509_EXT_KEY_USAGE,
        oid::OID_X509_EXT_EXTENDED_KEY_USAGE,
        oid::OID_X509_EXT_POLICY_CONSTRAINTS,
        oid::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
        oid::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
    ]
    .contains(kind)
}

impl<'a> IssuerKey<'a> {
    /// What of the extension can be read.
    pub(super) fn read(extension: &'a [u8]) -> Self {
        /// `[0]`, `[1]` and `[2]` of the extension.
        const ISSUER: u8 = 0xa1;
        const SERIAL: u8 = 0x82;
        let mut key = Self::default();
        let Some(mut parts) = Der::new(extension).inside(der::SEQUENCE) else { return key };
        while let Some((tag, content)) = parts.any() {
            match tag {
                der::IMPLICIT_0 => key.id = Some(content),
                ISSUER => {
                    let mut names = Der::new(content);
                    key.issuer = std::iter::from_fn(|| names.any())
                        .find(|name| name.0 == constraints::DIRECTORY)
                        .map(|name| name.1);
                }
                SERIAL => key.serial = Some(content),
                _ => {}
            }
        }
        key
    }

    /// Whether the extension holds nothing else.
    pub(super) fn is_readable(extension: &[u8]) -> bool {
        let mut outer = Der::new(extension);
        let Some(mut parts) = outer.inside(der::SEQUENCE).filter(|_| outer.is_empty()) else { return false };
        parts.optional(der::IMPLICIT_0);
        parts.optional(der::EXPLICIT_1);
        parts.optional(0x82);
        parts.is_empty()
    }

    /// Whether it may mean this issuer.
    pub(super) fn fits(&self, issuer: &Link<'_>) -> bool {
        let Self { id, serial, issuer: named } = self;
        (id.is_none() || issuer.says.subject_key.is_none() || *id == issuer.says.subject_key)
            && serial.is_none_or(|serial| serial == issuer.serial())
            && named.is_none_or(|named| *dn::canonical(named) == *issuer.issuer)
    }
}

/// Between when a certificate is valid, of what of it is signed. x509-parser takes times that have no seconds, or that are
/// not in UTC (RFC 5280 §4.1.2.5).
fn validity(content: &[u8]) -> Option<(i64, i64)> {
    let mut parts = Der::new(content).inside(der::SEQUENCE)?;
    parts.optional(der::EXPLICIT_0);
    // Serial number, algorithm and issuer.
    for _ in 0..3 {
        parts.any()?;
    }
    let mut times = parts.inside(der::SEQUENCE)?;
    let validity = (der::time(times.any()?)?, der::time(times.any()?)?);
    times.is_empty().then_some(validity)
}

/// Whether the content of an integer is as short as it can be (X.690 §8.3.2).
pub(super) fn is_minimal(integer: &[u8]) -> bool {
    !matches!(integer, [] | [0, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..])
}

/// The full names of all points where lists are found (RFC 5280 §4.2.1.13).
fn list_names(extension: &[u8]) -> Option<Vec<Name<'_>>> {
    let mut points = Der::new(extension).inside(der::SEQUENCE)?;
    let mut all = Vec::new();
    while !points.is_empty() {
        let mut point = points.inside(der::SEQUENCE)?;
        let full = point.inside(der::EXPLICIT_0).and_then(|mut name| name.inside(der::EXPLICIT_0));
        // What is about some reasons alone, or comes from somebody else, is no such list.
        if let Some(mut names) = full.filter(|_| point.is_empty()) {
            all.extend(std::iter::from_fn(|| names.any()));
        }
    }
    Some(all)
}
