//! Lists of cipher suites of TLS 1.2, as OpenSSL writes them.

use nuncio_filter_api::{LowerCx, Refused};
use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite as suite;

/// A suite by BoringSSL's name, whose parts are the words that stand for it among others.
struct Known {
    name: &'static str,
    suite: SupportedCipherSuite,
}

/// In the order of preference there.
const KNOWN: [Known; 6] = [
    Known { name: "ECDHE-ECDSA-AES128-GCM-SHA256", suite: suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 },
    Known { name: "ECDHE-RSA-AES128-GCM-SHA256", suite: suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 },
    Known { name: "ECDHE-ECDSA-AES256-GCM-SHA384", suite: suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 },
    Known { name: "ECDHE-RSA-AES256-GCM-SHA384", suite: suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 },
    Known { name: "ECDHE-ECDSA-CHACHA20-POLY1305", suite: suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 },
    Known { name: "ECDHE-RSA-CHACHA20-POLY1305", suite: suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 },
];
/// What is offered where nothing is named: Envoy's list.
const DEFAULT: &str = "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]:[ECDHE-RSA-AES128-GCM-SHA256|\
ECDHE-RSA-CHACHA20-POLY1305]:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384";

const WEAK: &str = "CBC or RSA key exchange, which are broken and not spoken";

/// Suites in order of preference; those of a group are equally good.
#[derive(Clone, Debug)]
pub(super) struct Suites {
    groups: Vec<Vec<&'static str>>,
    /// Those that never come back.
    killed: Vec<&'static str>,
}

impl Default for Suites {
    fn default() -> Self {
        Self::of(DEFAULT)
    }
}

impl Suites {
    /// Those of a list that holds nothing else.
    pub(super) fn of(list: &str) -> Self {
        let mut suites = Self { groups: Vec::new(), killed: Vec::new() };
        list.split(':').filter(|rule| !rule.is_empty()).for_each(|rule| drop(suites.apply(rule)));
        suites
    }

    /// Lowers the field; `None` where it names nothing. Those that are not spoken are left out where others remain: who lists them, as Istio does,
    /// offers them to clients that know no better. `is_needed`: there has to be one.
    pub(super) fn lower(entries: &[String], is_needed: bool, cx: &mut LowerCx<'_>) -> Result<Option<Self>, Refused> {
        if entries.iter().all(|entry| entry.trim_matches([':', ',', ' ', ';']).is_empty()) {
            return Ok(None);
        }
        let mut suites = Self::of("");
        let mut left_out = Vec::new();
        cx.each("cipher_suites", entries.iter().enumerate(), |(i, entry), cx| {
            // Envoy joins the entries with colons.
            for rule in entry.split([':', ',', ' ', ';']).filter(|rule| !rule.is_empty()) {
                for unknown in suites.apply(rule) {
                    if !is_weak(&unknown) {
                        let reason = format!("{unknown:?} is not a cipher suite of TLS 1.2 that is spoken here");
                        return Err(cx.invalid(reason));
                    }
                    left_out.push((i, unknown));
                }
            }
            Ok(())
        })?;
        let is_empty = suites.groups.iter().all(Vec::is_empty);
        match left_out.first() {
            Some((i, name)) if is_empty && is_needed => {
                let reason = format!("{name:?} has {WEAK}");
                Err(cx.at("cipher_suites", |cx| cx.at_index(*i, |cx| cx.invalid(reason))))
            }
            None if is_empty && is_needed => {
                Err(cx.at("cipher_suites", |cx| cx.invalid("none of them is spoken here")))
            }
            _ => {
                for (_, name) in &left_out {
                    tracing::warn!(path = cx.path(), name, "{WEAK}: this cipher suite is left out");
                }
                Ok(Some(suites))
            }
        }
    }

    /// Those that are offered, in order.
    pub(super) fn all(&self) -> Vec<SupportedCipherSuite> {
        self.groups.iter().flatten().filter_map(|name| find(name)).collect()
    }

    /// The same for those who would rather have ChaCha20, where there is a group that leaves it to them.
    pub(super) fn with_chacha_first(&self) -> Option<Vec<SupportedCipherSuite>> {
        let is_chacha = |name: &str| name.contains("CHACHA20");
        let is_choice = |group: &&Vec<&str>| group.iter().position(|name| is_chacha(name)).is_some_and(|at| at > 0);
        self.groups.iter().find(is_choice)?;
        let sorted = self.groups.iter().flat_map(|group| {
            let mut group = group.clone();
            group.sort_by_key(|name| !is_chacha(name));
            group
        });
        Some(sorted.filter_map(find).collect())
    }

    /// Applies one rule of a list; gives names that stand for nothing that is spoken.
    fn apply(&mut self, rule: &str) -> Vec<String> {
        if let Some(group) = rule.strip_prefix('[').and_then(|rule| rule.strip_suffix(']')) {
            let (found, unknown) = names_of_all(group.split('|').filter(|name| !name.is_empty()));
            let new = self.new_of(found);
            self.groups.push(new);
            return unknown;
        }
        if rule.starts_with('@') {
            // By strength: all that are spoken are strong.
            return Vec::new();
        }
        let (operator, words) = match rule.chars().next() {
            Some(operator @ ('!' | '-' | '+')) => (Some(operator), &rule[1..]),
            _ => (None, rule),
        };
        let (found, unknown) = names_of_all([words].into_iter());
        match operator {
            None => {
                let new = self.new_of(found);
                self.groups.extend(new.into_iter().map(|name| vec![name]));
                return unknown;
            }
            Some('+') => {
                let is_there = |name: &&'static str| self.groups.iter().flatten().any(|known| known == name);
                let moved: Vec<&'static str> = found.into_iter().filter(is_there).collect();
                self.remove(&moved);
                self.groups.extend(moved.into_iter().map(|name| vec![name]));
            }
            Some(operator) => {
                self.remove(&found);
                if operator == '!' {
                    self.killed.extend(found);
                }
            }
        }
        // What is taken away need not be known.
        Vec::new()
    }

    fn new_of(&self, found: Vec<&'static str>) -> Vec<&'static str> {
        let is_new =
            |name: &&str| !self.killed.contains(name) && !self.groups.iter().flatten().any(|known| known == name);
        found.into_iter().filter(is_new).collect()
    }

    fn remove(&mut self, names: &[&str]) {
        self.groups.iter_mut().for_each(|group| group.retain(|name| !names.contains(name)));
    }
}

/// What these words stand for, and those that stand for nothing.
fn names_of_all<'a>(all: impl Iterator<Item = &'a str>) -> (Vec<&'static str>, Vec<String>) {
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for words in all {
        match names_of(words) {
            Some(names) => found.extend(names),
            None => unknown.push(words.to_owned()),
        }
    }
    (found, unknown)
}

/// The suites that all of these words stand for, which plus signs join.
fn names_of(words: &str) -> Option<Vec<&'static str>> {
    let iana = |known: &Known| format!("{:?}", known.suite.suite());
    if let Some(known) = KNOWN.iter().find(|known| known.name == words || iana(known) == words) {
        return Some(vec![known.name]);
    }
    let mut all: Vec<&Known> = KNOWN.iter().collect();
    for word in words.split('+') {
        let part = part_of(word)?;
        all.retain(|known| known.name.split('-').any(|of_name| of_name == part));
    }
    Some(all.into_iter().map(|known| known.name).collect())
}

/// The part of names that a word of BoringSSL's stands for; none has an empty one.
fn part_of(word: &str) -> Option<&str> {
    Some(match word {
        "ALL" | "HIGH" | "TLSv1.2" | "ECDHE" | "EECDH" | "kECDHE" | "kEECDH" => "ECDHE",
        "ECDSA" | "aECDSA" => "ECDSA",
        "aRSA" => "RSA",
        "AES" | "AESGCM" => "GCM",
        "AES128" | "AES256" | "CHACHA20" => word,
        // Those that use RSA for both exchange and signature, passwords or SHA-1: none is spoken.
        "RSA" | "kRSA" | "kPSK" | "aPSK" | "PSK" | "SHA" | "SHA1" | "SSLv3" | "TLSv1" | "3DES" => "",
        _ => return None,
    })
}

fn find(name: &'static str) -> Option<SupportedCipherSuite> {
    KNOWN.iter().find(|known| known.name == name).map(|known| known.suite)
}

fn is_weak(name: &str) -> bool {
    let is_listed = name.ends_with("-SHA") || name.contains("CBC") || name.starts_with("AES") || name.contains("3DES");
    is_listed || name.starts_with("TLS_RSA_WITH_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &str, expected: &[&str]) {
        let mut suites = Suites::of("");
        let unknown: Vec<String> = list.split(':').flat_map(|rule| suites.apply(rule)).collect();
        assert!(unknown.is_empty(), "{list}: {unknown:?}");
        let short =
            |name: &&str| name.trim_start_matches("ECDHE-").replace("-GCM-SHA256", "").replace("-GCM-SHA384", "");
        let found: Vec<String> = suites.groups.iter().flatten().map(short).collect();
        assert_eq!(found, expected, "{list}");
    }

    #[test]
    fn words_stand_for_several_suites() {
        let gcm = ["ECDSA-AES128", "RSA-AES128", "ECDSA-AES256", "RSA-AES256"];
        check("ECDHE+AESGCM", &gcm);
        check("ECDHE+AESGCM:!ECDSA", &["RSA-AES128", "RSA-AES256"]);
        check("CHACHA20+aRSA:ALL:!AES", &["RSA-CHACHA20-POLY1305", "ECDSA-CHACHA20-POLY1305"]);
        check("AES256:AES128:+ECDSA", &["RSA-AES256", "RSA-AES128", "ECDSA-AES128", "ECDSA-AES256"]);
        check("!ECDHE-RSA-AES256-GCM-SHA384:ECDHE+AES256:RSA:@STRENGTH:!nothing", &["ECDSA-AES256"]);
        check("ECDHE-RSA-AES256-GCM-SHA384:-ALL:AES128+aRSA", &["RSA-AES128"]);
    }

    #[test]
    fn those_of_a_group_are_the_clients_choice() {
        let suites = Suites::default();
        let names = |all: Vec<SupportedCipherSuite>| all.iter().map(|s| format!("{:?}", s.suite())).collect::<Vec<_>>();
        let (ours, theirs) = (names(suites.all()), names(suites.with_chacha_first().expect("there is a group")));
        assert_eq!((ours.len(), &ours[0], &ours[1]), (6, &theirs[1], &theirs[0]));
        assert_eq!((&ours[2], &ours[3], &ours[4..]), (&theirs[3], &theirs[2], &theirs[4..]));
        assert!(Suites::of("ALL").with_chacha_first().is_none());
    }
}
