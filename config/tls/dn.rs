//! Names of subjects and issuers (X.501), compared as RFC 5280 §7.1 wants it: however their text is encoded.

use std::borrow::Cow;

use super::der::{self, Der};

/// Kinds of text (X.680 §8.4).
const UTF8: u8 = 0x0c;
const NUMERIC: u8 = 0x12;
const PRINTABLE: u8 = 0x13;
const TELETEX: u8 = 0x14;
const IA5: u8 = 0x16;
const VISIBLE: u8 = 0x1a;
const UNIVERSAL: u8 = 0x1c;
pub(super) const BMP: u8 = 0x1e;

/// A name in DER, such that names that are the same have the same bytes. Of a name that cannot be read it is that
/// name.
pub(super) fn canonical(name: &[u8]) -> Cow<'_, [u8]> {
    read(name).map_or(Cow::Borrowed(name), Cow::Owned)
}

/// The same of a name that can be read.
pub(super) fn read(name: &[u8]) -> Option<Vec<u8>> {
    parts(name).map(|parts| parts.concat())
}

/// Whether `name` is `base` or stands below it.
pub(super) fn is_within(name: &[u8], base: &[u8]) -> Option<bool> {
    Some(parts(name)?.starts_with(&parts(base)?))
}

/// The relative names of which a name is made, each so that those that are the same have the same bytes.
fn parts(name: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    let mut names = Der::new(name).inside(der::SEQUENCE)?;
    while !names.is_empty() {
        let mut set = names.inside(der::SET)?;
        let mut attributes = Vec::new();
        while !set.is_empty() {
            let mut pair = set.inside(der::SEQUENCE)?;
            let (kind, (tag, value)) = (pair.tagged(der::OID)?, pair.any()?);
            let (tag, value) = match is_text(tag) {
                true => (UTF8, folded(&text(tag, value)?)),
                false => (tag, value.to_vec()),
            };
            attributes.push([&lengthy(kind), &[tag][..], &lengthy(&value)].concat());
        }
        attributes.sort();
        all.push(lengthy(&attributes.concat()));
    }
    Some(all)
}

/// The bytes behind their number, so that what follows cannot be taken for a part of them.
fn lengthy(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()[..], bytes].concat()
}

fn is_text(tag: u8) -> bool {
    [UTF8, PRINTABLE, TELETEX, IA5, VISIBLE, UNIVERSAL, BMP].contains(&tag)
}

/// The value as text, of kinds that are some. Of what has one byte for a letter BoringSSL takes each for the letter of that number.
pub(super) fn text(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        UTF8 => std::str::from_utf8(value).ok().map(str::to_owned),
        NUMERIC | PRINTABLE | IA5 | VISIBLE | TELETEX | der::UTC_TIME | der::GENERALIZED_TIME => {
            Some(value.iter().map(|byte| char::from(*byte)).collect())
        }
        BMP => {
            let (units, []) = value.as_chunks::<2>() else { return None };
            char::decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit))).collect::<Result<_, _>>().ok()
        }
        UNIVERSAL => {
            let (units, []) = value.as_chunks::<4>() else { return None };
            units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit))).collect()
        }
        _ => None,
    }
}

/// Without capitals, and with one space where there are several or at no end.
fn folded(text: &str) -> Vec<u8> {
    let words: Vec<String> = text.split_ascii_whitespace().map(str::to_ascii_lowercase).collect();
    words.join(" ").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `CN=value`, of one kind of text.
    fn name(tag: u8, value: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
        let pair = [&[der::OID, 3, 0x55, 4, 3, tag, length(value)][..], value].concat();
        let pair = [&[der::SEQUENCE, length(&pair)][..], &pair].concat();
        let set = [&[der::SET, length(&pair)][..], &pair].concat();
        [&[der::SEQUENCE, length(&set)][..], &set].concat()
    }

    #[test]
    fn names_are_the_same_however_their_text_is_encoded() {
        let ca = name(UTF8, b"Test CA");
        for other in [
            name(PRINTABLE, b"test ca"),
            name(TELETEX, b"  TEST   CA "),
            name(BMP, b"\0T\0e\0s\0t\0 \0C\0A"),
            name(UNIVERSAL, &"Test CA".chars().flat_map(|c| u32::from(c).to_be_bytes()).collect::<Vec<u8>>()),
        ] {
            assert_eq!(canonical(&ca), canonical(&other));
        }
        for other in [name(UTF8, b"TestCA"), name(UTF8, b"Test CB"), name(der::OCTETS, b"Test CA"), Vec::new()] {
            assert_ne!(canonical(&ca), canonical(&other));
        }
    }

    #[test]
    fn a_name_is_within_those_that_it_begins_with() {
        let (ca, none) = (name(UTF8, b"Test CA"), [der::SEQUENCE, 0]);
        assert_eq!(is_within(&ca, &none), Some(true));
        assert_eq!(is_within(&ca, &name(PRINTABLE, b"test ca")), Some(true));
        assert_eq!(is_within(&none, &ca), Some(false));
        assert_eq!(is_within(&ca, b"no name"), None);
    }
}
