//! What certificates say of policies (RFC 5280 §4.2.1.4, 5 and 14). Nobody asks for one here, but BoringSSL believes no
//! certificate of which this cannot be read.

use x509_parser::oid_registry as oid;

use super::der::{self, Der};

/// 2.5.29.32.0
const ANY: [u8; 4] = [0x55, 0x1d, 0x20, 0x00];

/// Whether the content of an extension of this kind can be read; others than those of policies can.
pub(super) fn are_readable(kind: &oid::Oid<'_>, content: &[u8]) -> bool {
    if *kind == oid::OID_X509_EXT_CERTIFICATE_POLICIES {
        return read(content).is_some();
    }
    if *kind == oid::OID_X509_EXT_POLICY_MAPPINGS {
        return read_mappings(content).is_some();
    }
    *kind != oid::OID_X509_EXT_INHIBIT_ANY_POLICY || Der::new(content).tagged(der::INTEGER).is_some()
}

/// At least one, and none twice.
fn read(content: &[u8]) -> Option<()> {
    let mut policies = Der::new(content).inside(der::SEQUENCE)?;
    let mut all = Vec::new();
    while !policies.is_empty() {
        let mut policy = policies.inside(der::SEQUENCE)?;
        all.push(policy.tagged(der::OID).filter(|kind| !kind.is_empty())?);
        if let Some(mut qualifiers) = policy.inside(der::SEQUENCE) {
            while !qualifiers.is_empty() {
                qualifiers.inside(der::SEQUENCE)?.tagged(der::OID)?;
            }
        }
        if !policy.is_empty() {
            return None;
        }
    }
    all.sort_unstable();
    (!all.is_empty() && all.windows(2).all(|pair| pair[0] != pair[1])).then_some(())
}

/// At least one, and none of all policies.
fn read_mappings(content: &[u8]) -> Option<()> {
    let mut mappings = Der::new(content).inside(der::SEQUENCE).filter(|mappings| !mappings.is_empty())?;
    while !mappings.is_empty() {
        let mut mapping = mappings.inside(der::SEQUENCE)?;
        let pair = [mapping.tagged(der::OID)?, mapping.tagged(der::OID)?];
        if !mapping.is_empty() || pair.contains(&&ANY[..]) {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_a_list_without_the_same_twice() {
        let kind = oid::OID_X509_EXT_CERTIFICATE_POLICIES;
        for (content, is_readable) in [
            (&[0x30, 5, 0x30, 3, 6, 1, 0x2a][..], true),
            (&[0x30, 10, 0x30, 3, 6, 1, 0x2a, 0x30, 3, 6, 1, 0x2b], true),
            (&[0x30, 10, 0x30, 3, 6, 1, 0x2a, 0x30, 3, 6, 1, 0x2a], false),
            (&[0x30, 11, 0x30, 9, 6, 1, 0x2a, 0x30, 4, 0x30, 2, 6, 0], true),
            (&[0x30, 7, 0x30, 5, 6, 1, 0x2a, 5, 0], false),
            (&[0x30, 0], false),
            (&[5, 0], false),
            (&[], false),
        ] {
            assert_eq!(are_readable(&kind, content), is_readable, "{content:x?}");
        }
        assert!(are_readable(&oid::OID_X509_EXT_KEY_USAGE, &[5, 0]), "not of policies");
    }

    #[test]
    fn mappings_are_pairs_and_none_is_of_any_policy() {
        let kind = oid::OID_X509_EXT_POLICY_MAPPINGS;
        let pair = [0x30, 8, 0x30, 6, 6, 1, 0x2a, 6, 1, 0x2b];
        let any = [0x30, 11, 0x30, 9, 6, 1, 0x2a, 6, 4, 0x55, 0x1d, 0x20, 0];
        assert!(are_readable(&kind, &pair));
        assert!(!are_readable(&kind, &any) && !are_readable(&kind, &[0x30, 0]) && !are_readable(&kind, &pair[..5]));
        let kind = oid::OID_X509_EXT_INHIBIT_ANY_POLICY;
        assert!(are_readable(&kind, &[2, 1, 0]) && !are_readable(&kind, &[5, 0]));
    }
}
