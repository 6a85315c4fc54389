//! Reads a list of revocations (RFC 5280 §5.1).

use super::super::constraints::Name;
use super::super::der::{self, Der};
use super::super::dn;
use super::super::link::{IssuerKey, Link, is_minimal};
use super::super::signature::Signed;
use super::Revocations;

/// The certificates that a list is about (RFC 5280 §5.2.5).
#[derive(Debug, Default)]
pub(super) struct Scope {
    only_users: bool,
    only_authorities: bool,
    only_attributes: bool,
    /// The list is one of several: that which is found by one of these names.
    names: Option<Vec<(u8, Box<[u8]>)>>,
    /// It contradicts itself, or is about some reasons alone, or about certificates of other issuers: nobody looks at it.
    pub(super) is_not_spoken: bool,
}

/// What an extension is, whether it counts, and its content.
type Extension<'a> = (&'a [u8], bool, &'a [u8]);

/// 2.5.29.35, 2.5.29.28 and 2.5.29.21
const AUTHORITY_KEY: [u8; 3] = [0x55, 0x1d, 0x23];
const ISSUING_POINT: [u8; 3] = [0x55, 0x1d, 0x1c];
const REASON: [u8; 3] = [0x55, 0x1d, 0x15];

/// What the entries say.
#[derive(Default)]
struct Entries {
    serials: Vec<(u32, u32)>,
    has_critical: bool,
}

impl Revocations {
    pub(in super::super) fn read(whole: &[u8]) -> Option<Self> {
        let mut outer = Der::new(whole);
        let mut list = outer.inside(der::SEQUENCE).filter(|_| outer.is_empty())?;
        let mut list = list.inside(der::SEQUENCE)?;
        let is_second = match list.optional(der::INTEGER) {
            None | Some([0]) => false,
            Some([1]) => true,
            Some(_) => return None,
        };
        let algorithm = list.tagged(der::SEQUENCE)?;
        let (issuer, this_update) = (dn::read(list.whole()?)?.into(), der::time(list.any()?)?);
        let next_update = [der::UTC_TIME, der::GENERALIZED_TIME]
            .into_iter()
            .find_map(|tag| list.optional(tag).map(|content| der::time((tag, content))));
        let next_update = match next_update {
            Some(time) => Some(time?),
            None => None,
        };
        let entries =
            list.inside(der::SEQUENCE).map_or_else(|| Some(Entries::default()), |list| Entries::read(list, whole));
        let Entries { mut serials, mut has_critical } = entries?;
        let extensions = match list.inside(der::EXPLICIT_0) {
            // RFC 5280 §5.1.2.1: the first version has none.
            Some(mut inside) if is_second => extensions(inside.inside(der::SEQUENCE).filter(|_| inside.is_empty())?)?,
            Some(_) => return None,
            None => Vec::new(),
        };
        if !list.is_empty() {
            return None;
        }
        let scope = only(&extensions, &ISSUING_POINT)?.map(Scope::read).unwrap_or_else(|| Some(Scope::default()))?;
        let issuer_key = only(&extensions, &AUTHORITY_KEY)?;
        if issuer_key.is_some_and(|extension| !IssuerKey::is_readable(extension)) {
            return None;
        }
        has_critical |= extensions.iter().any(|(kind, is_critical, _)| *is_critical && *kind != ISSUING_POINT);
        let at = |(start, length): (u32, u32)| &whole[start as usize..][..length as usize];
        serials.sort_unstable_by(|a, b| at(*a).cmp(at(*b)));
        Some(Self {
            issuer,
            issuer_key: issuer_key.map(Into::into),
            this_update,
            next_update,
            scope,
            has_critical,
            is_consistent: Signed::read(whole)?.is_of(algorithm),
            serials: serials.into(),
            whole: whole.into(),
        })
    }

    /// The bytes at this place.
    pub(in super::super) fn at(&self, (start, length): (u32, u32)) -> &[u8] {
        &self.whole[start as usize..][..length as usize]
    }
}

impl Entries {
    fn read(mut list: Der<'_>, whole: &[u8]) -> Option<Self> {
        let mut all = Self::default();
        while !list.is_empty() {
            let mut entry = list.inside(der::SEQUENCE)?;
            let serial = entry.tagged(der::INTEGER).filter(|serial| is_minimal(serial))?;
            der::time(entry.any()?)?;
            let extensions = entry.inside(der::SEQUENCE).map_or_else(|| Some(Vec::new()), extensions)?;
            let reason = only(&extensions, &REASON)?;
            if !entry.is_empty() || reason.is_some_and(|reason| Der::new(reason).tagged(der::ENUMERATED).is_none()) {
                return None;
            }
            all.has_critical |= extensions.iter().any(|(_, is_critical, _)| *is_critical);
            let start = serial.as_ptr().addr() - whole.as_ptr().addr();
            all.serials.push((u32::try_from(start).ok()?, u32::try_from(serial.len()).ok()?));
        }
        Some(all)
    }
}

fn extensions(mut list: Der<'_>) -> Option<Vec<Extension<'_>>> {
    let mut all = Vec::new();
    while !list.is_empty() {
        let mut extension = list.inside(der::SEQUENCE)?;
        let kind = extension.tagged(der::OID)?;
        let is_critical = extension.optional(der::BOOLEAN).is_some_and(|content| content != [0]);
        all.push((kind, is_critical, extension.tagged(der::OCTETS)?));
        if !extension.is_empty() {
            return None;
        }
    }
    Some(all)
}

/// The content of the extension of this kind, where there is one; two are none that can be read.
fn only<'a>(extensions: &[Extension<'a>], kind: &[u8]) -> Option<Option<&'a [u8]>> {
    let mut found = extensions.iter().filter(|(known, ..)| *known == kind).map(|(.., content)| *content);
    let first = found.next();
    found.next().is_none().then_some(first)
}

impl Scope {
    fn read(extension: &[u8]) -> Option<Self> {
        /// `[0]` to `[5]` of the extension, and `fullName` and `nameRelativeToCRLIssuer` of the first.
        const POINT: u8 = 0xa0;
        const ONLY_USERS: u8 = 0x81;
        const ONLY_AUTHORITIES: u8 = 0x82;
        const ONLY_REASONS: u8 = 0x83;
        const INDIRECT: u8 = 0x84;
        const ONLY_ATTRIBUTES: u8 = 0x85;
        const FULL_NAME: u8 = 0xa0;
        const RELATIVE_NAME: u8 = 0xa1;
        let mut outer = Der::new(extension);
        let mut parts = outer.inside(der::SEQUENCE).filter(|_| outer.is_empty())?;
        let (mut scope, mut last) = (Self::default(), None);
        while !parts.is_empty() {
            let (tag, content) = parts.any()?;
            // Each stands in its place, and once.
            let number = tag & 0x1f;
            if last.replace(number).is_some_and(|last| number <= last) {
                return None;
            }
            let is_set = content.iter().any(|byte| *byte != 0);
            match tag {
                POINT => {
                    let mut point = Der::new(content);
                    let names = match point.any()? {
                        (FULL_NAME, names) => names_of(Der::new(names))?,
                        // What is found by such a name, which nobody uses, is held for another list.
                        (RELATIVE_NAME, _) => Vec::new(),
                        _ => return None,
                    };
                    if !point.is_empty() {
                        return None;
                    }
                    scope.names = Some(names);
                }
                ONLY_USERS => scope.only_users = is_set,
                ONLY_AUTHORITIES => scope.only_authorities = is_set,
                ONLY_ATTRIBUTES => scope.only_attributes = is_set,
                ONLY_REASONS => scope.is_not_spoken = true,
                INDIRECT => scope.is_not_spoken |= is_set,
                _ => return None,
            }
        }
        let kinds = [scope.only_users, scope.only_authorities, scope.only_attributes];
        scope.is_not_spoken |= kinds.into_iter().filter(|is_set| *is_set).count() > 1;
        Some(scope)
    }

    pub(super) fn includes(&self, certificate: &Link<'_>) -> bool {
        let is_of_kind = match certificate.is_authority() {
            true => !self.only_users,
            false => !self.only_authorities,
        };
        let is_named = self.names.as_ref().is_none_or(|names| {
            // A list for those that name it says nothing of one that names none.
            certificate.list_names().iter().any(|point: &Name<'_>| names.iter().any(|(k, n)| (*k, &n[..]) == *point))
        });
        is_of_kind && !self.only_attributes && is_named
    }
}

fn names_of(mut names: Der<'_>) -> Option<Vec<(u8, Box<[u8]>)>> {
    let mut all = Vec::new();
    while !names.is_empty() {
        let (kind, name) = names.any()?;
        all.push((kind, name.into()));
    }
    Some(all)
}
