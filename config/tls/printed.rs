//! Names of subjects and issuers as people read them, in the way of BoringSSL: RFC 2253, the last part first.

use super::der::{self, Der, dotted};
use super::dn;

/// What attributes are called, by their identifiers. Others are told by number, with their value in DER.
const SHORT: [(&[u8], &str); 10] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 2], "unstructuredName"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 7], "challengePassword"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 8], "unstructuredAddress"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 20], "friendlyName"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 3], "mail"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x55, 0x04, 65], "pseudonym"),
    (&[0x55, 0x04, 72], "role"),
];

/// Those that begin with 2.5.4, from 2.5.4.3 on (X.520). There is none of 2.5.4.
const X520: [&str; 52] = [
    "CN",
    "SN",
    "serialNumber",
    "C",
    "L",
    "ST",
    "street",
    "O",
    "OU",
    "title",
    "description",
    "searchGuide",
    "businessCategory",
    "postalAddress",
    "postalCode",
    "postOfficeBox",
    "physicalDeliveryOfficeName",
    "telephoneNumber",
    "telexNumber",
    "teletexTerminalIdentifier",
    "facsimileTelephoneNumber",
    "x121Address",
    "internationaliSDNNumber",
    "registeredAddress",
    "destinationIndicator",
    "preferredDeliveryMethod",
    "presentationAddress",
    "supportedApplicationContext",
    "member",
    "owner",
    "roleOccupant",
    "seeAlso",
    "userPassword",
    "userCertificate",
    "cACertificate",
    "authorityRevocationList",
    "certificateRevocationList",
    "crossCertificatePair",
    "name",
    "GN",
    "initials",
    "generationQualifier",
    "x500UniqueIdentifier",
    "dnQualifier",
    "enhancedSearchGuide",
    "protocolInformation",
    "distinguishedName",
    "uniqueMember",
    "houseIdentifier",
    "supportedAlgorithms",
    "deltaRevocationList",
    "dmdName",
];

/// `CN=example.com,O=Example` of a name in DER; empty where it cannot be read.
pub(super) fn printed(name: &[u8]) -> String {
    parts(name).unwrap_or_default().join("")
}

/// Each attribute, with what stands before it.
fn parts(name: &[u8]) -> Option<Vec<String>> {
    let mut all = Vec::new();
    let mut sets = Der::new(name).inside(der::SEQUENCE)?;
    while !sets.is_empty() {
        let mut set = sets.inside(der::SET)?;
        let mut is_first = true;
        while !set.is_empty() {
            let mut pair = set.inside(der::SEQUENCE)?;
            // Several attributes of one part are joined by a plus sign.
            let separator = if std::mem::take(&mut is_first) { ',' } else { '+' };
            all.push((separator, attribute(pair.tagged(der::OID)?, pair.whole()?)));
        }
    }
    // What separates an attribute from the one before separates it, backwards, from the one behind.
    all.reverse();
    let mut before = None;
    let joined = all.into_iter().map(|(separator, text)| match before.replace(separator) {
        None => text,
        Some(separator) => format!("{separator}{text}"),
    });
    Some(joined.collect())
}

fn attribute(kind: &[u8], value: &[u8]) -> String {
    let known = SHORT.iter().find(|(known, _)| *known == kind).map(|(_, name)| *name);
    let of_x520 = || match kind {
        [0x55, 0x04, number] => X520.get(usize::from(*number).checked_sub(3)?).copied(),
        _ => None,
    };
    match known.or_else(of_x520) {
        Some(name) => format!("{name}={}", text(value).map_or_else(|| dumped(value), |text| escaped(&text))),
        None => format!("{}={}", dotted(kind).unwrap_or_default(), dumped(value)),
    }
}

fn text(value: &[u8]) -> Option<String> {
    let (tag, content) = Der::new(value).any()?;
    dn::text(tag, content)
}

fn dumped(value: &[u8]) -> String {
    let digits: String = value.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("#{digits}")
}

/// RFC 2253 §2.4, and bytes that are no letters of ASCII.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (i, byte) in value.bytes().enumerate() {
        let is_at_edge = (i == 0 && matches!(byte, b' ' | b'#')) || (i == last && byte == b' ');
        if !(b' '..0x7f).contains(&byte) {
            out.push_str(&format!("\\{byte:02X}"));
            continue;
        }
        if is_at_edge || matches!(byte, b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';') {
            out.push('\\');
        }
        out.push(char::from(byte));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::forged::{sequence, tlv};
    use super::*;

    fn pair(kind: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        sequence(&[&tlv(der::OID, &[kind]), &tlv(tag, &[value])])
    }

    fn check(sets: &[&[Vec<u8>]], expected: &str) {
        let sets: Vec<u8> = sets.iter().flat_map(|pairs| tlv(der::SET, &[&pairs.concat()])).collect();
        assert_eq!(printed(&sequence(&[&sets])), expected);
    }

    #[test]
    fn the_last_part_comes_first_and_what_means_something_is_escaped() {
        let (cn, o) = ([0x55, 4, 3], [0x55, 4, 10]);
        check(&[&[pair(&o, 0x13, b"a")], &[pair(&cn, 0x0c, b"b")]], "CN=b,O=a");
        check(&[&[pair(&o, 0x13, b"a"), pair(&cn, 0x0c, b"b")], &[pair(&cn, 0x0c, b"c")]], "CN=c,CN=b+O=a");
        check(&[&[pair(&cn, 0x0c, b" #a,b;c=d\"e\\f ")]], "CN=\\ #a\\,b\\;c=d\\\"e\\\\f\\ ");
        check(&[&[pair(&cn, 0x0c, b"#a")], &[pair(&o, 0x0c, "Ö ü\n".as_bytes())]], "O=\\C3\\96 \\C3\\BC\\0A,CN=\\#a");
        check(&[&[pair(&o, 0x1e, &[0, 0xd6])]], "O=\\C3\\96");
        check(&[], "");
        assert_eq!(printed(b"no name"), "");
    }

    #[test]
    fn kinds_have_the_short_names_of_boringssl_or_their_number() {
        check(&[&[pair(&[0x55, 4, 42], 0x0c, b"g")], &[pair(&[0x55, 4, 9], 0x0c, b"s")]], "street=s,GN=g");
        check(&[&[pair(&[0x55, 4, 54], 0x0c, b"d")], &[pair(&[0x55, 4, 46], 0x13, b"q")]], "dnQualifier=q,dmdName=d");
        check(&[&[pair(SHORT[0].0, 0x16, b"a@b")], &[pair(SHORT[5].0, 0x0c, b"u")]], "UID=u,emailAddress=a@b");
        check(&[&[pair(&[0x2a, 3, 4, 5], 0x0c, b"odd")]], "1.2.3.4.5=#0C036F6464");
        check(&[&[pair(&[0x55, 4, 97], 0x0c, b"o")]], "2.5.4.97=#0C016F");
        check(&[&[pair(&[0x55, 4, 3], der::INTEGER, &[1])]], "CN=#020101");
    }
}
