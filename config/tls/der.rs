//! Reads DER (X.690), as far as it is needed for what no crate here reads.

/// Elements that follow each other.
#[derive(Clone, Copy)]
pub(super) struct Der<'a>(&'a [u8]);

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BITS: u8 = 0x03;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT`
pub(super) const EXPLICIT_0: u8 = 0xa0;
/// `[1] EXPLICIT`
pub(super) const EXPLICIT_1: u8 = 0xa1;
/// `[0] IMPLICIT` of something primitive.
pub(super) const IMPLICIT_0: u8 = 0x80;

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag and the content of the next element. Lengths are definite, as DER has them.
    pub(super) fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let (length, rest) = match *first {
            short @ 0..=0x7f => (usize::from(short), rest),
            // Four bytes of length are more than any file here has.
            long @ 0x81..=0x84 => {
                let (length, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                (length.iter().fold(0, |all, byte| all << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// The content of the next element, which is of this tag.
    pub(super) fn tagged(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.optional(tag)
    }

    /// The content of the next element, where it is of this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let (found, content) = ahead.any()?;
        (found == tag).then(|| {
            *self = ahead;
            content
        })
    }

    /// The elements of the next element, which is of this tag.
    pub(super) fn inside(&mut self, tag: u8) -> Option<Der<'a>> {
        self.tagged(tag).map(Der)
    }

    /// The next element as it is, tag and length included.
    pub(super) fn whole(&mut self) -> Option<&'a [u8]> {
        let before = self.0;
        self.any()?;
        Some(&before[..before.len() - self.0.len()])
    }

    /// A number that is small and not negative.
    pub(super) fn number(&mut self) -> Option<u32> {
        let content = self.tagged(INTEGER)?;
        let is_negative = content.first().is_none_or(|b| b & 0x80 != 0);
        (!is_negative && content.len() <= 5)
            .then(|| content.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte)))
            .and_then(|n| u32::try_from(n).ok())
    }
}

/// `2.5.29.17` of the content of an object identifier.
pub(super) fn dotted(content: &[u8]) -> Option<String> {
    let mut numbers = Vec::new();
    let mut number = 0_u64;
    for byte in content {
        number = number.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            numbers.push(std::mem::take(&mut number));
        }
    }
    let (first, rest) = numbers.split_first()?;
    let (top, second) = ((first / 40).min(2), first - (first / 40).min(2) * 40);
    let rest: String = rest.iter().map(|n| format!(".{n}")).collect();
    Some(format!("{top}.{second}{rest}"))
}

/// Seconds since 1970 of `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5.2).
pub(super) fn generalized_time(content: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    if text.len() != 14 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |at: std::ops::Range<usize>| text[at].parse::<i64>().ok();
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let (hour, minute, second) = (part(8..10)?, part(10..12)?, part(12..14)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=12).contains(&month) || !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Seconds since 1970 of a time in either form (RFC 5280 §4.1.2.5); the older has two digits for the year.
pub(super) fn time((tag, content): (u8, &[u8])) -> Option<i64> {
    match tag {
        GENERALIZED_TIME => generalized_time(content),
        UTC_TIME => {
            let century = if *content.first()? >= b'5' { b"19" } else { b"20" };
            generalized_time(&[&century[..], content].concat())
        }
        _ => None,
    }
}

/// In the Gregorian calendar, with years that begin in March so that the leap day is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_one_after_the_other_and_never_beyond_the_end() {
        let bytes = [0x30, 0x07, 0x02, 0x01, 0x05, 0x04, 0x02, b'a', b'b', 0x05, 0x00];
        let mut der = Der::new(&bytes);
        let mut inside = der.inside(SEQUENCE).unwrap();
        assert_eq!((inside.number(), inside.optional(OID), inside.tagged(OCTETS)), (Some(5), None, Some(&b"ab"[..])));
        assert!(inside.is_empty() && der.whole() == Some(&[0x05, 0x00][..]) && der.any().is_none());
        for end in 0..9 {
            assert!(Der::new(&bytes[..end]).any().is_none(), "{end}");
        }
        assert!(Der::new(&[0x04, 0x84, 0xff, 0xff, 0xff, 0xff, 0]).any().is_none());
        assert!(Der::new(&[0x30, 0x80, 0, 0]).any().is_none(), "of no definite length");
        assert_eq!(Der::new(&[0x02, 0x01, 0x80]).number(), None, "negative");
    }

    #[test]
    fn identifiers_and_times_are_as_people_write_them() {
        assert_eq!(dotted(&[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37]).unwrap(), "1.3.6.1.4.1.311");
        assert_eq!(dotted(&[0x55, 0x1d, 0x11]).unwrap(), "2.5.29.17");
        for (text, seconds) in
            [("19700101000000Z", 0), ("20000301000001Z", 951_868_801), ("21260101000000Z", 4_922_899_200)]
        {
            assert_eq!(generalized_time(text.as_bytes()), Some(seconds), "{text}");
        }
        assert_eq!(time((UTC_TIME, b"000301000001Z")), Some(951_868_801));
        assert_eq!(time((UTC_TIME, b"600101000000Z")), Some(-315_619_200));
        for text in [
            "",
            "20010229000000Z",
            "20000431000000Z",
            "20000101000060Z",
            "20001301000000Z",
            "20000101000000",
            "2000010100000aZ",
            "19700101000000.1Z",
        ] {
            assert_eq!(generalized_time(text.as_bytes()), None, "{text}");
        }
    }
}
