//! The well-known formats that a string rule may ask for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Email,
    Hostname,
    Ip,
    Ipv4,
    Ipv6,
    Uri,
    UriRef,
    Address,
    Uuid,
    HeaderName,
    HeaderValue,
    /// A header's name or value where only what breaks framing is refused.
    HeaderLoose,
}

impl Format {
    pub(super) fn check(self, value: &str) -> Result<(), String> {
        let (holds, what) = match self {
            Self::Email => (is_email(value), "value must be a valid email address"),
            Self::Hostname => (is_hostname(value), "value must be a valid hostname"),
            Self::Ip => (value.parse::<IpAddr>().is_ok(), "value must be a valid IP address"),
            Self::Ipv4 => (value.parse::<Ipv4Addr>().is_ok(), "value must be a valid IPv4 address"),
            Self::Ipv6 => (value.parse::<Ipv6Addr>().is_ok(), "value must be a valid IPv6 address"),
            Self::Uri => (has_scheme(value) && is_uri_text(value), "value must be a valid absolute URI"),
            Self::UriRef => (is_uri_text(value), "value must be a valid URI"),
            Self::Address => {
                (is_hostname(value) || value.parse::<IpAddr>().is_ok(), "value must be a valid hostname, or ip address")
            }
            Self::Uuid => (is_uuid(value), "value must be a valid UUID"),
            Self::HeaderName => (is_header_name(value), "value must be a valid HTTP header name"),
            Self::HeaderValue => (
                value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f)),
                "value must be a valid HTTP header value",
            ),
            Self::HeaderLoose => {
                (!value.bytes().any(|b| matches!(b, 0 | b'\r' | b'\n')), "value must not contain NUL, CR or LF")
            }
        };
        if holds { Ok(()) } else { Err(what.to_owned()) }
    }
}

/// A token of RFC 9110 §5.6.2, and the comma, which the rule's pattern lets in by a range it writes; `:` may lead, for
/// pseudo headers.
fn is_header_name(value: &str) -> bool {
    let name = value.strip_prefix(':').unwrap_or(value);
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(&b))
}

fn is_hostname(value: &str) -> bool {
    let name = value.strip_suffix('.').unwrap_or(value);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn is_email(value: &str) -> bool {
    let address = match (value.rfind('<'), value.strip_suffix('>')) {
        (Some(start), Some(inner)) => &inner[start + 1..],
        _ => value,
    };
    match address.rsplit_once('@') {
        Some((local, host)) => {
            let is_local = |b: u8| b.is_ascii_graphic() && b != b'@';
            (1..=64).contains(&local.len()) && local.bytes().all(is_local) && is_hostname(host)
        }
        None => false,
    }
}

fn has_scheme(value: &str) -> bool {
    value.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

/// Whether `value` is made of the characters of RFC 3986, percent signs followed by two digits.
fn is_uri_text(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.iter().enumerate().all(|(at, b)| match b {
        b'%' => bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
        _ => b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(b),
    })
}

fn is_uuid(value: &str) -> bool {
    value.len() == 36
        && value.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}
