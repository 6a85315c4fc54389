//! The names that an authority may issue certificates for (RFC 5280 §4.2.1.10).

use super::der::{self, Der};
use super::dn;
use super::flaw::Flaw;

/// Kinds of names (RFC 5280 §4.2.1.6), as they are tagged.
const MAIL: u8 = 0x81;
const DNS: u8 = 0x82;
pub(super) const DIRECTORY: u8 = 0xa4;
const URI: u8 = 0x86;
/// All kinds: others, also these in another form, are not read by all alike.
const KINDS: [u8; 9] = [0xa0, MAIL, DNS, 0xa3, DIRECTORY, 0xa5, URI, 0x87, 0x88];
/// `emailAddress` in the name of a subject: 1.2.840.113549.1.9.1
const EMAIL_ADDRESS: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01];
/// Comparisons that a certificate may cost: as many as with BoringSSL.
const MOST: usize = 1 << 20;

/// A name, and what it is.
pub(super) type Name<'a> = (u8, &'a [u8]);

/// What an authority is bound to.
#[derive(Debug, Default)]
pub(super) struct NameConstraints<'a> {
    permitted: Vec<Subtree<'a>>,
    excluded: Vec<Subtree<'a>>,
}

#[derive(Debug)]
struct Subtree<'a> {
    base: Name<'a>,
    has_bounds: bool,
}

/// The names that the extension for them holds.
pub(super) fn names_of(extension: &[u8]) -> Option<Vec<Name<'_>>> {
    let mut names = Der::new(extension).inside(der::SEQUENCE)?;
    let mut all = Vec::new();
    while !names.is_empty() {
        all.push(names.any().filter(|(kind, _)| KINDS.contains(kind))?);
    }
    Some(all)
}

/// All names of a certificate: that of its subject, mail addresses in it, and the alternative ones.
pub(super) fn all_names<'a>(subject: &'a [u8], alternative: &[Name<'a>]) -> Vec<Name<'a>> {
    let has_subject = Der::new(subject).inside(der::SEQUENCE).is_some_and(|name| !name.is_empty());
    let directory = has_subject.then_some((DIRECTORY, subject));
    let mail = mail_addresses(subject).into_iter().map(|address| (MAIL, address));
    directory.into_iter().chain(mail).chain(alternative.iter().copied()).collect()
}

fn mail_addresses(subject: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let Some(mut names) = Der::new(subject).inside(der::SEQUENCE) else { return found };
    while let Some(mut set) = names.inside(der::SET) {
        while let Some(mut pair) = set.inside(der::SEQUENCE) {
            if pair.tagged(der::OID) == Some(&EMAIL_ADDRESS) {
                found.extend(pair.any().map(|(_, value)| value));
            }
        }
    }
    found
}

impl<'a> NameConstraints<'a> {
    /// Reads the extension.
    pub(super) fn read(extension: &'a [u8]) -> Option<Self> {
        let mut parts = Der::new(extension).inside(der::SEQUENCE)?;
        let permitted = parts.inside(der::EXPLICIT_0).map_or_else(|| Some(Vec::new()), subtrees)?;
        let excluded = parts.inside(der::EXPLICIT_1).map_or_else(|| Some(Vec::new()), subtrees)?;
        parts.is_empty().then_some(Self { permitted, excluded })
    }

    /// Whether a certificate below this authority may have these names.
    pub(super) fn allow(&self, names: &[Name<'_>]) -> Result<(), Flaw> {
        let all = self.permitted.len() + self.excluded.len();
        if all.checked_mul(names.len()).is_none_or(|all| all > MOST) {
            return Err(Flaw::TooMuch);
        }
        names.iter().try_for_each(|name| self.allows(*name))
    }

    fn allows(&self, name: Name<'_>) -> Result<(), Flaw> {
        let mut permitted = None;
        for tree in self.permitted.iter().filter(|tree| tree.base.0 == name.0) {
            permitted = Some(permitted == Some(true) || tree.covers(name, false)?);
        }
        if permitted == Some(false) {
            return Err(Flaw::NotPermitted);
        }
        for tree in self.excluded.iter().filter(|tree| tree.base.0 == name.0) {
            if tree.covers(name, true)? {
                return Err(Flaw::Excluded);
            }
        }
        Ok(())
    }
}

fn subtrees(mut list: Der<'_>) -> Option<Vec<Subtree<'_>>> {
    let mut all = Vec::new();
    while !list.is_empty() {
        let mut tree = list.inside(der::SEQUENCE)?;
        let base = tree.any().filter(|(kind, _)| KINDS.contains(kind))?;
        all.push(Subtree { base, has_bounds: !tree.is_empty() });
    }
    Some(all)
}

impl Subtree<'_> {
    /// Whether a name of the same kind is in it.
    fn covers(&self, (kind, name): Name<'_>, excludes: bool) -> Result<bool, Flaw> {
        if self.has_bounds {
            return Err(Flaw::SubtreeBounds);
        }
        let base = self.base.1;
        match kind {
            DIRECTORY => dn::is_within(name, base).ok_or(Flaw::NameSyntax),
            DNS => Ok(covers_host(base, name) || (excludes && stands_for(name, base))),
            MAIL => covers_mail(base, name, excludes).ok_or(Flaw::NameSyntax),
            URI => covers_uri(base, name).ok_or(Flaw::NameSyntax),
            _ => Err(Flaw::ConstraintKind),
        }
    }
}

fn covers_host(base: &[u8], name: &[u8]) -> bool {
    if base.is_empty() {
        return true;
    }
    let (base, name) = (base.strip_suffix(b".").unwrap_or(base), name.strip_suffix(b".").unwrap_or(name));
    let Some(before) = name.len().checked_sub(base.len()) else { return false };
    let is_at_label = before == 0 || base.starts_with(b".") || name[before - 1] == b'.';
    is_at_label && name[before..].eq_ignore_ascii_case(base)
}

/// Whether a name with a wildcard stands for this host among others.
fn stands_for(name: &[u8], host: &[u8]) -> bool {
    let [name, host] = [name, host].map(|text| text.strip_suffix(b".").unwrap_or(text));
    let parent = host.iter().position(|byte| *byte == b'.').map(|dot| &host[dot + 1..]);
    name.strip_prefix(b"*.").zip(parent).is_some_and(|(rest, parent)| rest.eq_ignore_ascii_case(parent))
}

/// A host, or all hosts below one.
fn covers_exactly(base: &[u8], host: &[u8]) -> bool {
    match base.starts_with(b".") {
        true => host.len() > base.len() && host[host.len() - base.len()..].eq_ignore_ascii_case(base),
        false => host.eq_ignore_ascii_case(base),
    }
}

fn covers_mail(base: &[u8], address: &[u8], excludes: bool) -> Option<bool> {
    let at = |text: &[u8]| text.iter().position(|byte| *byte == b'@');
    let here = at(address)?;
    let (user, host) = (&address[..here], &address[here + 1..]);
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_user = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(byte);
    if user.is_empty() || host.is_empty() || !user.iter().all(is_user) || !host.iter().all(is_host) {
        return None;
    }
    // In what is forbidden capitals do not count: nobody says whether they do.
    let is_user = |base: &[u8]| if excludes { base.eq_ignore_ascii_case(user) } else { base == user };
    Some(match at(base) {
        Some(there) => (there == 0 || is_user(&base[..there])) && host.eq_ignore_ascii_case(&base[there + 1..]),
        None => covers_exactly(base, host),
    })
}

fn covers_uri(base: &[u8], uri: &[u8]) -> Option<bool> {
    let scheme = uri.iter().position(|byte| *byte == b':')?;
    let rest = uri[scheme + 1..].strip_prefix(b"//")?;
    let end = rest.iter().position(|byte| matches!(byte, b':' | b'/')).unwrap_or(rest.len());
    (end > 0).then(|| covers_exactly(base, &rest[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constraints<'a>(permitted: &[Name<'a>], excluded: &[Name<'a>]) -> NameConstraints<'a> {
        let trees = |names: &[Name<'a>]| names.iter().map(|base| Subtree { base: *base, has_bounds: false }).collect();
        NameConstraints { permitted: trees(permitted), excluded: trees(excluded) }
    }

    #[test]
    fn a_base_covers_what_is_below_it() {
        for (kind, base, name, covers) in [
            (DNS, "", "a.b", true),
            (DNS, "b", "a.B.", true),
            (DNS, "b", "b", true),
            (DNS, ".b", "a.b", true),
            (DNS, ".b", "b", false),
            (DNS, "b", "ab", false),
            (DNS, "a.b", "b", false),
            (MAIL, "b.c", "a@B.c", true),
            (MAIL, "b.c", "a@x.b.c", false),
            (MAIL, ".b.c", "a@x.b.c", true),
            (MAIL, "a@b.c", "a@b.C", true),
            (URI, "td", "spiffe://td/a", true),
            (URI, "td", "spiffe://x.td/a", false),
            (URI, ".td", "spiffe://x.td:80", true),
            (URI, ".td", "spiffe://td/a", false),
        ] {
            let allowed = constraints(&[(kind, base.as_bytes())], &[]).allow(&[(kind, name.as_bytes())]);
            assert_eq!(allowed, if covers { Ok(()) } else { Err(Flaw::NotPermitted) }, "{base} {name}");
            let allowed = constraints(&[], &[(kind, base.as_bytes())]).allow(&[(kind, name.as_bytes())]);
            assert_eq!(allowed, if covers { Err(Flaw::Excluded) } else { Ok(()) }, "{base} {name}");
        }
    }

    #[test]
    fn what_is_excluded_is_so_in_any_spelling() {
        let permitted = |base: &str, kind, name: &str| {
            constraints(&[(kind, base.as_bytes())], &[]).allow(&[(kind, name.as_bytes())])
        };
        let excluded = |base: &str, kind, name: &str| {
            constraints(&[], &[(kind, base.as_bytes())]).allow(&[(kind, name.as_bytes())])
        };
        assert_eq!(permitted("a@b.c", MAIL, "A@b.c"), Err(Flaw::NotPermitted));
        assert_eq!(excluded("a@b.c", MAIL, "A@b.c"), Err(Flaw::Excluded));
        assert_eq!(excluded("evil.com", DNS, "*.com"), Err(Flaw::Excluded));
        assert_eq!(excluded("evil.com", DNS, "*.org"), Ok(()));
        assert_eq!(permitted("evil.com", DNS, "*.com"), Err(Flaw::NotPermitted));
        assert_eq!(permitted("good.com", MAIL, "x@evil.com@good.com"), Err(Flaw::NameSyntax));
    }

    #[test]
    fn names_of_kinds_in_another_form_are_none() {
        let names = |tag: u8| names_of(&[0x30, 3, tag, 1, b'b']).map(|names| names.len()).unwrap_or_default();
        assert_eq!([DNS, 0xa2, 0x02].map(names), [1, 0, 0]);
    }

    #[test]
    fn names_of_other_kinds_are_not_bound() {
        let bound = constraints(&[(DNS, b"b")], &[]);
        assert_eq!(bound.allow(&[(URI, b"spiffe://x/y"), (MAIL, b"a@c"), (DIRECTORY, &[])]), Ok(()));
        assert_eq!(bound.allow(&[(URI, b"spiffe://x/y"), (DNS, b"c")]), Err(Flaw::NotPermitted));
    }

    #[test]
    fn what_cannot_be_held_against_a_base_is_refused() {
        for name in ["td", "spiffe:td", "spiffe:///a", "spiffe://:80"] {
            let allowed = constraints(&[(URI, b"td")], &[]).allow(&[(URI, name.as_bytes())]);
            assert_eq!(allowed, Err(Flaw::NameSyntax), "{name}");
        }
        assert_eq!(constraints(&[(MAIL, b"b")], &[]).allow(&[(MAIL, b"b")]), Err(Flaw::NameSyntax));
        let (ip, bounded) = (0x87, Subtree { base: (DNS, b"b"), has_bounds: true });
        let range = [127, 0, 0, 1, 255, 0, 0, 0];
        assert_eq!(constraints(&[(ip, &range)], &[]).allow(&[(ip, &[127, 0, 0, 1])]), Err(Flaw::ConstraintKind));
        let bounded = NameConstraints { permitted: vec![bounded], excluded: Vec::new() };
        assert_eq!(bounded.allow(&[(DNS, b"b")]), Err(Flaw::SubtreeBounds));
        let many = vec![(DNS, &b"b"[..]); MOST + 1];
        assert_eq!(constraints(&[(DNS, b"b")], &[]).allow(&many), Err(Flaw::TooMuch));
    }
}
