//! What a certificate says of its subject.

use std::net::{Ipv4Addr, Ipv6Addr};

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use nuncio_proto::envoy::r#type::matcher::v3 as matcher;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::der::{self, Der};
use super::dn;
use crate::matcher::StringMatcher;

/// A certificate that was read.
pub(super) struct Parsed<'a>(pub(super) X509Certificate<'a>);

impl<'a> Parsed<'a> {
    pub(super) fn new(der: &'a CertificateDer<'_>) -> Result<Self, String> {
        X509Certificate::from_der(der).map(|(_, parsed)| Self(parsed)).map_err(|e| e.to_string())
    }
}

/// The subject alternative names of a certificate, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) dns: Vec<String>,
    pub(super) uri: Vec<String>,
    pub(super) email: Vec<String>,
    pub(super) ip: Vec<String>,
    /// What `otherName` calls the type of each, and the name.
    pub(super) other: Vec<(String, String)>,
    /// All of them, in the order of the certificate.
    pub(super) all: Vec<String>,
}

impl Names {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let mut names = Self::default();
        let Ok(Some(extension)) = certificate.subject_alternative_name() else { return names };
        for name in &extension.value.general_names {
            let (of, text) = match name {
                GeneralName::DNSName(name) => (&mut names.dns, Some((*name).to_owned())),
                GeneralName::URI(name) => (&mut names.uri, Some((*name).to_owned())),
                GeneralName::RFC822Name(name) => (&mut names.email, Some((*name).to_owned())),
                GeneralName::IPAddress(bytes) => (&mut names.ip, address(bytes)),
                GeneralName::OtherName(oid, value) => {
                    let Some(text) = other_name(value) else { continue };
                    names.all.push(text.clone());
                    names.other.push((oid.to_id_string(), text));
                    continue;
                }
                _ => continue,
            };
            of.extend(text.clone());
            names.all.extend(text);
        }
        names
    }

    /// The names that a server's certificate is for: its common name where it has no others.
    pub(super) fn of_server(der: &CertificateDer<'_>) -> Self {
        let Ok(Parsed(certificate)) = Parsed::new(der) else { return Self::default() };
        let mut names = Self::of(&certificate);
        if names == Self::default() {
            let common = certificate.subject().iter_common_name().filter_map(|cn| cn.as_str().ok());
            names.dns = common.map(str::to_owned).collect();
        }
        names
    }

    fn of_type(&self, of: SanType) -> &[String] {
        match of {
            SanType::Dns => &self.dns,
            SanType::Uri => &self.uri,
            SanType::Email => &self.email,
            SanType::IpAddress => &self.ip,
            SanType::OtherName | SanType::Unspecified => &[],
        }
    }

    /// The names of types that only their identifier tells.
    pub(super) fn others(&self) -> impl Iterator<Item = &str> {
        self.other.iter().map(|(_, text)| text.as_str())
    }
}

/// The value of an `otherName` as text, as Envoy has it.
fn other_name(value: &[u8]) -> Option<String> {
    let mut inner = Der::new(value).inside(der::EXPLICIT_0)?;
    let (tag, content) = inner.clone().any()?;
    Some(match tag {
        der::NULL => String::new(),
        der::BOOLEAN => if content.iter().any(|b| *b != 0) { "true" } else { "false" }.to_owned(),
        der::INTEGER | der::ENUMERATED => {
            let content: [u8; 16] = sign_extended(content)?;
            i128::from_be_bytes(content).to_string()
        }
        der::OID => der::dotted(content)?,
        dn::BMP => dn::text(tag, content)?,
        der::SEQUENCE | der::SET => String::from_utf8_lossy(inner.whole()?).into_owned(),
        // Other constructed values are no text.
        constructed if constructed & 0x20 != 0 => return None,
        _ => String::from_utf8_lossy(content).into_owned(),
    })
}

fn sign_extended(content: &[u8]) -> Option<[u8; 16]> {
    let fill = if content.first()? & 0x80 == 0 { 0 } else { 0xff };
    let mut whole = [fill; 16];
    whole.get_mut(16_usize.checked_sub(content.len())?..)?.copy_from_slice(content);
    Some(whole)
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).to_string())
}

/// A rule for one type of names.
#[derive(Clone, Debug)]
pub(super) struct SanMatcher {
    of: SanType,
    matcher: StringMatcher,
    /// A DNS name given exactly, which names with a wildcard cover.
    exact: Option<String>,
    /// What identifies the type of an `otherName`.
    oid: String,
}

impl SanMatcher {
    pub(super) fn lower(proto: pb::SubjectAltNameMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::SubjectAltNameMatcher { san_type, matcher, oid } = proto;
        let of = match SanType::try_from(san_type) {
            Ok(SanType::OtherName) if oid.is_empty() => {
                return Err(cx.at("oid", |cx| cx.invalid("is required for OTHER_NAME")));
            }
            Ok(SanType::OtherName) if !is_oid(&oid) => {
                return Err(
                    cx.at("oid", |cx| cx.invalid(format!("{oid:?} is no object identifier, as 1.2.840 is one")))
                );
            }
            Ok(of @ (SanType::OtherName | SanType::Dns | SanType::Uri | SanType::Email | SanType::IpAddress)) => of,
            Ok(SanType::Unspecified) | Err(_) => {
                return Err(
                    cx.at("san_type", |cx| cx.invalid("one of EMAIL, DNS, URI, IP_ADDRESS and OTHER_NAME is required"))
                );
            }
        };
        let Some(matcher) = matcher else { return Err(cx.at("matcher", |cx| cx.invalid("is required"))) };
        // Envoy: with other types it is not looked at.
        cx.at("matcher", |cx| Self::new(of, matcher, cx)).map(|rule| Self { oid, ..rule })
    }

    /// The rules of the older field, which looks at names of every type.
    pub(super) fn lower_untyped(proto: &matcher::StringMatcher, cx: &mut LowerCx<'_>) -> Result<Vec<Self>, Refused> {
        let types = [SanType::Dns, SanType::Uri, SanType::Email, SanType::IpAddress];
        types.into_iter().map(|of| Self::new(of, proto.clone(), cx)).collect()
    }

    fn new(of: SanType, proto: matcher::StringMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use matcher::string_matcher::MatchPattern;
        let exact = match &proto.match_pattern {
            Some(MatchPattern::Exact(name)) if of == SanType::Dns => Some(name.clone()),
            _ => None,
        };
        Ok(Self { of, matcher: StringMatcher::lower(proto, cx)?, exact, oid: String::new() })
    }

    pub(super) fn is_of_uri(&self) -> bool {
        self.of == SanType::Uri
    }

    pub(super) fn matches(&self, names: &Names) -> bool {
        if self.of == SanType::OtherName {
            return names.other.iter().any(|(oid, text)| *oid == self.oid && self.matcher.matches(text.as_bytes()));
        }
        names.of_type(self.of).iter().any(|name| match &self.exact {
            Some(exact) => covers(name, exact),
            None => self.matcher.matches(name.as_bytes()),
        })
    }
}

/// Whether this is an object identifier in numbers (X.660): the first is 0, 1 or 2, and below the others are less than
/// 40 in the second place.
fn is_oid(text: &str) -> bool {
    let mut arcs = text.split('.').map(|arc| {
        let is_number = !arc.is_empty() && arc.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| arc.parse::<u128>().unwrap_or(u128::MAX))
    });
    match (arcs.next().flatten(), arcs.next().flatten()) {
        (Some(0 | 1), Some(second)) => second < 40 && arcs.all(|arc| arc.is_some()),
        (Some(2), Some(_)) => arcs.all(|arc| arc.is_some()),
        _ => false,
    }
}

/// Whether a certificate's DNS name, whose first label may have a wildcard, is the name that is wanted
/// (RFC 6125 §6.4.3).
pub(super) fn covers(pattern: &str, name: &str) -> bool {
    if pattern.eq_ignore_ascii_case(name) {
        return true;
    }
    let (Some((pattern, parent)), Some((label, rest))) = (pattern.split_once('.'), name.split_once('.')) else {
        return false;
    };
    let Some((start, end)) = pattern.split_once('*') else { return false };
    let (pattern, label) = (pattern.to_ascii_lowercase(), label.to_ascii_lowercase());
    // Of a name in punycode no part stands for letters.
    let is_wildcard = !end.contains('*') && !pattern.starts_with("xn--");
    let (start, end) = (start.to_ascii_lowercase(), end.to_ascii_lowercase());
    is_wildcard
        && rest.eq_ignore_ascii_case(parent)
        && label.len() >= pattern.len().saturating_sub(1).max(1)
        && label.starts_with(&start)
        && label.ends_with(&end)
}
