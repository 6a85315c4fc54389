//! What is wrong with a chain of certificates.

use std::sync::Arc;

use rustls::CertificateError;

/// Why a chain is not believed. The text is BoringSSL's, which Envoy logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Nobody who is trusted has issued it.
    #[error("unable to get local issuer certificate")]
    UnknownIssuer,
    /// It has issued itself, and is not trusted.
    #[error("self signed certificate")]
    SelfSigned,
    /// The chain ends with one that has issued itself, and is not trusted.
    #[error("self signed certificate in certificate chain")]
    SelfSignedInChain,
    /// It is no more valid.
    #[error("certificate has expired")]
    Expired,
    /// It will be valid.
    #[error("certificate is not yet valid")]
    NotYetValid,
    /// Its issuer has not signed it, or in a way that is not spoken here.
    #[error("certificate signature failure")]
    Signature,
    /// It issues others, and is no authority.
    #[error("invalid CA certificate")]
    NoAuthority,
    /// An authority above it does not allow as many below.
    #[error("path length constraint exceeded")]
    PathLength,
    /// It is for other things than TLS, or for the other side.
    #[error("unsupported certificate purpose")]
    Purpose,
    /// It says something that counts, and that is not known.
    #[error("unhandled critical extension")]
    CriticalExtension,
    /// What it says cannot be read, or contradicts itself.
    #[error("invalid or inconsistent certificate extension")]
    Extension,
    /// It wants policies, which are not spoken here.
    #[error("no explicit policy")]
    Policy,
    /// What it says of policies cannot be read.
    #[error("invalid or inconsistent certificate policy extension")]
    PolicyExtension,
    /// An authority may not issue for its name.
    #[error("permitted subtree violation")]
    NotPermitted,
    /// The same, as that name is forbidden.
    #[error("excluded subtree violation")]
    Excluded,
    /// An authority says for how many levels of a name it may issue.
    #[error("name constraints minimum and maximum not supported")]
    SubtreeBounds,
    /// An authority may issue for names of a kind that is not known.
    #[error("unsupported name constraint type")]
    ConstraintKind,
    /// A name has no form that could be held against what an authority may issue for.
    #[error("unsupported or invalid name syntax")]
    NameSyntax,
    /// An authority is bound to names, and only a common name, which is not held against them, says which host it is.
    #[error("Issuer has name constraints but leaf has no SANs")]
    NoNames,
    /// So many names that nobody holds them against what an authority may issue for.
    #[error("unspecified certificate verification error")]
    TooMuch,
    /// No list says whether it is revoked.
    #[error("unable to get certificate CRL")]
    NoList,
    /// The list is too old.
    #[error("CRL has expired")]
    ListExpired,
    /// The list is too new.
    #[error("CRL is not yet valid")]
    ListNotYetValid,
    /// Its issuer has not signed the list.
    #[error("CRL signature failure")]
    ListSignature,
    /// Its issuer must not sign lists.
    #[error("key usage does not include CRL signing")]
    ListUsage,
    /// The list is about other certificates.
    #[error("Different CRL scope")]
    ListScope,
    /// The list says something that counts, and that is not known.
    #[error("unhandled critical CRL extension")]
    ListExtension,
    /// It is revoked.
    #[error("certificate revoked")]
    Revoked,
}

impl Flaw {
    /// Whether Envoy says that it is the lists of revocations that tell of it.
    fn is_of_lists(self) -> bool {
        matches!(self, Self::NoList | Self::ListExpired | Self::ListNotYetValid | Self::Revoked)
    }
}

/// A flaw, and where in the chain it is: the peer's own certificate is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlawAt {
    /// How many certificates stand before it.
    pub depth: usize,
    /// What is wrong with it.
    pub flaw: Flaw,
}

impl std::fmt::Display for FlawAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lists = match self.flaw.is_of_lists() {
            true => "certificate revocation check against provided CRLs failed: ",
            false => "",
        };
        write!(f, "X509_verify_cert: certificate verification error at depth {}: {lists}{}", self.depth, self.flaw)
    }
}

impl From<Flaw> for CertificateError {
    /// As rustls chooses alerts by it, the error whose alert BoringSSL sends.
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::UnknownIssuer | Flaw::SelfSigned | Flaw::SelfSignedInChain | Flaw::NoAuthority | Flaw::PathLength => {
                Self::UnknownIssuer
            }
            Flaw::NoList => Self::UnknownRevocationStatus,
            Flaw::Expired | Flaw::ListExpired => Self::Expired,
            Flaw::NotYetValid | Flaw::ListNotYetValid => Self::NotValidYet,
            Flaw::Signature | Flaw::ListSignature => Self::BadSignature,
            Flaw::Purpose => Self::InvalidPurpose,
            Flaw::Revoked => Self::Revoked,
            Flaw::CriticalExtension
            | Flaw::Extension
            | Flaw::Policy
            | Flaw::NotPermitted
            | Flaw::Excluded
            | Flaw::SubtreeBounds
            | Flaw::ConstraintKind
            | Flaw::NameSyntax
            | Flaw::NoNames
            | Flaw::TooMuch
            | Flaw::ListUsage
            | Flaw::ListScope
            | Flaw::ListExtension
            | Flaw::PolicyExtension => Self::Other(rustls::OtherError(Arc::new(flaw))),
        }
    }
}
