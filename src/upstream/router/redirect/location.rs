//! Where a redirect leads: the absolute URL of its Location. Hosts are as Envoy takes them, which is narrower than
//! RFC 3986: letters, digits, `.` and `-`, or an address in brackets.

use std::net::IpAddr;

/// A Location that can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location<'a> {
    pub(super) scheme: &'a str,
    /// Host and port, without user.
    pub(super) authority: &'a str,
    /// Path and query, without fragment; `/` where there is neither.
    pub(super) path: &'a str,
}

impl<'a> Location<'a> {
    /// `None`: it is no absolute URL.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_graphic()))?;
        let (scheme, rest) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme))?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let authority = match authority.split_once('@') {
            None => authority,
            Some((user, host)) => Some(host).filter(|_| user.bytes().all(is_of_user))?,
        };
        // Envoy: a fragment follows a path.
        if !is_authority(authority) || path.starts_with('#') {
            return None;
        }
        let path = path.split_once('#').map_or(path, |(path, _)| path);
        Some(Self { scheme, authority, path: if path.is_empty() { "/" } else { path } })
    }

    /// Whether it is to be asked for without TLS.
    pub(super) fn is_http(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("http")
    }
}

/// RFC 3986 §3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

fn is_of_user(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_.!~*'()%;:&=+$,".contains(&b)
}

fn is_authority(text: &str) -> bool {
    let (is_host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => (host.parse::<IpAddr>().is_ok(), port),
            None => return false,
        },
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (!host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b)), port)
        }
    };
    is_host && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u64>().is_ok_and(|port| port <= u16::MAX.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(&str, &str, &str)>) {
        let location = Location::parse(text.as_bytes());
        assert_eq!(location.map(|l| (l.scheme, l.authority, l.path)), expected, "{text}");
    }

    #[test]
    fn an_absolute_url_falls_into_its_parts() {
        for (text, scheme, authority, path) in [
            ("http://a", "http", "a", "/"),
            ("HTTPS://A.b:080/x?y#z", "HTTPS", "A.b:080", "/x?y"),
            ("http://u:p@a/?#", "http", "a", "/?"),
            ("http://@a/", "http", "a", "/"),
            ("ht-tp://-a?q", "ht-tp", "-a", "?q"),
            ("http://[fe80::1]:1/??", "http", "[fe80::1]:1", "/??"),
            ("http://[1.2.3.4]", "http", "[1.2.3.4]", "/"),
        ] {
            check(text, Some((scheme, authority, path)));
        }
    }

    #[test]
    fn all_else_is_no_location() {
        for text in [
            "",
            "/a",
            "//a/b",
            "a/b",
            "*",
            "http:/a",
            "http:a",
            "1http://a",
            "://a",
            "http://",
            "http:///a",
            "http://a_b/",
            "http://a:/",
            "http://:80/",
            "http://a:65536/",
            "http://a:99999999999999999999999/",
            "http://a:+1/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[]/",
            "http://[a]/",
            "http://[fe80::1%eth0]/",
            "http://a#f",
            "http://a b/",
            "http://a@b@c/",
            "http://a@/",
            "http://a%20b/",
            "http://a/\u{e9}",
            "http://a/\u{7f}",
            "http://a/\n",
        ] {
            check(text, None);
        }
        assert_eq!(Location::parse(b"http://a/\xff"), None);
    }
}
