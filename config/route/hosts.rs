//! From `:authority` to the virtual host.

use std::collections::HashMap;

use nuncio_filter_api::{LowerCx, Refused};
use smallvec::SmallVec;

use super::trie::{Fold, Trie};

/// The domains of all virtual hosts. Exact ones win over `*suffix`, these over `prefix*`, these over `*`; of several
/// the longest wins.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    exact: HashMap<Box<[u8]>, u32>,
    /// The domains after their `*`, read backwards.
    suffixes: Wildcards,
    /// The domains before their `*`.
    prefixes: Wildcards,
    any: Option<u32>,
    port: Port,
}

#[derive(Debug, Default)]
struct Wildcards {
    trie: Trie,
    /// The virtual host of each key of the trie.
    hosts: Vec<u32>,
}

/// What becomes of the port of an authority.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Port {
    /// It is part of the name.
    #[default]
    Matched,
    /// `ignore_port_in_host_matching`
    Ignored,
}

/// Length up to which a host is folded to lower case without allocation.
const INLINE_HOST: usize = 256;

impl Hosts {
    /// Finds the virtual host.
    pub(super) fn find(&self, authority: &str) -> Option<u32> {
        if self.exact.is_empty() && self.suffixes.hosts.is_empty() && self.prefixes.hosts.is_empty() {
            return self.any;
        }
        let host = match self.port {
            Port::Matched => authority,
            Port::Ignored => without_port(authority),
        };
        let mut lower: SmallVec<[u8; INLINE_HOST]> = SmallVec::from_slice(host.as_bytes());
        lower.make_ascii_lowercase();
        if let Some(host) = self.exact.get(&*lower) {
            return Some(*host);
        }
        // Prefixes need the host as it reads, suffixes backwards, and suffixes come first.
        lower.reverse();
        if let Some(host) = self.suffixes.longest(&lower) {
            return Some(host);
        }
        lower.reverse();
        self.prefixes.longest(&lower).or(self.any)
    }
}

impl Wildcards {
    fn new(mut domains: Vec<(Vec<u8>, u32)>) -> Self {
        domains.sort_unstable();
        let (keys, hosts): (Vec<_>, _) = domains.into_iter().unzip();
        Self { trie: Trie::new(&keys), hosts }
    }

    /// The host of the longest key that begins `name` and leaves something for the `*`.
    fn longest(&self, name: &[u8]) -> Option<u32> {
        if self.hosts.is_empty() {
            return None;
        }
        let mut found = None;
        self.trie.walk(name, Fold::Exact, |len, key| {
            if len < name.len() {
                found = Some(self.hosts[key as usize]);
            }
        });
        found
    }
}

/// `host` without the port, if it has one. Colons within brackets are those of an IPv6 address.
pub(super) fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if host.rfind(']').is_none_or(|bracket| bracket < colon) => &host[..colon],
        _ => host,
    }
}

/// Collects domains and sees that none is given twice.
#[derive(Default)]
pub(super) struct HostsBuilder {
    exact: HashMap<Box<[u8]>, u32>,
    suffixes: HashMap<Vec<u8>, u32>,
    prefixes: HashMap<Vec<u8>, u32>,
    any: Option<u32>,
}

impl HostsBuilder {
    /// Adds a domain of virtual host `host`.
    pub(super) fn add(&mut self, domain: &str, host: u32, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        let lower = domain.to_ascii_lowercase().into_bytes();
        let taken = match lower.as_slice() {
            b"*" => {
                if self.any.replace(host).is_some() {
                    return Err(cx.invalid("only a single wildcard domain (`*`) is permitted"));
                }
                return Ok(());
            }
            [b'*', suffix @ ..] => self.suffixes.insert(suffix.iter().rev().copied().collect(), host),
            [prefix @ .., b'*'] => self.prefixes.insert(prefix.to_vec(), host),
            exact => self.exact.insert(exact.into(), host),
        };
        match taken {
            None => Ok(()),
            Some(_) => Err(cx.invalid(format!("duplicate entry of domain {domain}; domains must be unique"))),
        }
    }

    pub(super) fn build(self, port: Port) -> Hosts {
        Hosts {
            exact: self.exact,
            suffixes: Wildcards::new(self.suffixes.into_iter().collect()),
            prefixes: Wildcards::new(self.prefixes.into_iter().collect()),
            any: self.any,
            port,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::env;

    fn hosts(domains: &[&str], port: Port) -> Hosts {
        let env = env();
        let mut cx = LowerCx::new(&env);
        let mut builder = HostsBuilder::default();
        for (i, domain) in domains.iter().enumerate() {
            builder.add(domain, i as u32, &mut cx).unwrap();
        }
        builder.build(port)
    }

    #[track_caller]
    fn check(domains: &[&str], port: Port, cases: &[(&str, Option<&str>)]) {
        let hosts = hosts(domains, port);
        for (authority, expected) in cases {
            assert_eq!(hosts.find(authority).map(|i| domains[i as usize]), *expected, "{authority}");
        }
    }

    #[test]
    fn exact_wins_over_suffix_over_prefix_over_any() {
        let domains = ["*", "a.com", "*.com", "*-b.a.com", "*.a.com", "a.*", "a.co*", "A.NET:80"];
        check(
            &domains,
            Port::Matched,
            &[
                ("a.com", Some("a.com")),
                ("A.Com", Some("a.com")),
                ("x.com", Some("*.com")),
                ("x.a.com", Some("*.a.com")),
                ("x-b.a.com", Some("*-b.a.com")),
                ("-b.a.com", Some("*.a.com")),
                (".com", Some("*")),
                ("a.org", Some("a.*")),
                ("a.com:80", Some("a.co*")),
                ("a.co", Some("a.*")),
                ("a.net:80", Some("A.NET:80")),
                ("a.", Some("*")),
                ("", Some("*")),
            ],
        );
        check(&domains[1..], Port::Matched, &[("zzz", None), ("", None)]);
    }

    #[test]
    fn a_lone_wildcard_takes_everything() {
        check(&["*"], Port::Matched, &[("", Some("*")), ("x", Some("*"))]);
        check(&[], Port::Matched, &[("x", None)]);
    }

    #[test]
    fn the_port_can_be_ignored() {
        check(
            &["a.com", "[::1]", "b.com:80"],
            Port::Ignored,
            &[("a.com:81", Some("a.com")), ("[::1]:80", Some("[::1]")), ("[::1]", Some("[::1]")), ("b.com:80", None)],
        );
    }

    #[test]
    fn a_long_host_is_found() {
        let long = "a".repeat(5000);
        check(&[&long, "*a"], Port::Matched, &[(&long, Some(&long)), (&"A".repeat(6000), Some("*a"))]);
    }

    #[test]
    fn a_domain_given_twice_is_refused() {
        let env = env();
        for domain in ["*", "a.com", "*.com", "a.*"] {
            let mut cx = LowerCx::new(&env);
            let mut builder = HostsBuilder::default();
            assert!(builder.add(domain, 0, &mut cx).is_ok());
            assert!(builder.add(&domain.to_uppercase(), 1, &mut cx).is_err());
        }
    }
}
