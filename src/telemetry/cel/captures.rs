//! `re.extract`, `re.capture` and `re.captureN`: what groups of a regular expression match.

use regex::bytes::Regex;

use super::attributes::Map;
use super::eval::NoValue;
use super::functions;
use super::value::Value;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capture {
    /// The first match, rewritten.
    Extract,
    /// The first group of a match of the whole.
    One,
    /// All groups of a match of the whole, by their names or numbers.
    All,
}

// === impl Capture ===

impl Capture {
    /// The function of this name, of those in the namespace `re`.
    pub(super) fn named(name: &str, arguments: usize) -> Option<Self> {
        match (name, arguments) {
            ("re.extract", 3) => Some(Self::Extract),
            ("re.capture", 2) => Some(Self::One),
            ("re.captureN", 2) => Some(Self::All),
            _ => None,
        }
    }

    /// Compiles a pattern; `None` where it is none, which Envoy finds out only when it evaluates.
    pub(super) fn pattern(self, pattern: &str) -> Option<Regex> {
        match self {
            Self::Extract => functions::pattern(pattern).ok(),
            Self::One | Self::All => {
                // It is one by itself, not only with what is put around it.
                functions::pattern(pattern).ok()?;
                functions::pattern(&format!(r"\A(?:{pattern})\z")).ok()
            }
        }
    }

    pub(super) fn of<'a>(self, text: &[u8], pattern: &Regex, rewrite: &[u8]) -> Result<Value<'a>, NoValue> {
        let groups = pattern.captures(text).ok_or(NoValue)?;
        let group = |at: usize| groups.get(at).map_or(&b""[..], |found| found.as_bytes());
        match self {
            Self::Extract => rewritten(rewrite, pattern.captures_len(), group).map(|text| Value::String(text.into())),
            Self::One if pattern.captures_len() < 2 => Err(NoValue),
            Self::One => Ok(Value::String(group(1).to_vec().into())),
            Self::All if pattern.captures_len() < 2 => Err(NoValue),
            Self::All => {
                let names = pattern.capture_names().enumerate().skip(1);
                let entries = names.map(|(at, name)| {
                    let name = name.map_or_else(|| at.to_string(), str::to_owned);
                    (Value::owned(name), Value::String(group(at).to_vec().into()))
                });
                Ok(Value::Map(Map::Literal(entries.collect())))
            }
        }
    }
}

/// `\0` to `\9` stand for groups, `\\` for a backslash; anything else after one, or a group that is not, is an error.
fn rewritten<'t>(rewrite: &[u8], groups: usize, group: impl Fn(usize) -> &'t [u8]) -> Result<Vec<u8>, NoValue> {
    let mut out = Vec::new();
    let mut bytes = rewrite.iter();
    while let Some(byte) = bytes.next() {
        match (byte, byte.eq(&b'\\').then(|| bytes.next())) {
            (byte, None) => out.push(*byte),
            (_, Some(Some(b'\\'))) => out.push(b'\\'),
            (_, Some(Some(digit @ b'0'..=b'9'))) if usize::from(digit - b'0') < groups => {
                out.extend_from_slice(group(usize::from(digit - b'0')));
            }
            _ => return Err(NoValue),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(how: Capture, pattern: &str, rewrite: &str, expected: Option<&str>) {
        let text = b"user-12 at host-7";
        let value = how.pattern(pattern).map(|pattern| how.of(text, &pattern, rewrite.as_bytes()));
        let Some(Ok(value)) = value else { return assert_eq!(expected, None, "{pattern}") };
        let Value::String(found) = value else { panic!("{value:?}") };
        assert_eq!(Some(&*String::from_utf8_lossy(&found)), expected, "{pattern}");
    }

    #[test]
    fn groups_are_told_as_envoy_tells_them() {
        check(Capture::Extract, "host-([0-9]+)", r"<\1>\0", Some("<7>host-7"));
        check(Capture::Extract, "host", r"\1", None);
        check(Capture::Extract, "host", r"\x", None);
        check(Capture::Extract, "ho(", "x", None);
        check(Capture::One, "user-([0-9]+) at", "", None);
        check(Capture::One, "user-(?P<u>[0-9]+) at.*", "", Some("12"));
        check(Capture::One, ".*", "", None);
    }

    #[test]
    fn groups_have_their_names_or_numbers() {
        let pattern = Capture::All.pattern("user-(?P<u>[0-9]+) at ([a-z]+).*").unwrap();
        let Ok(Value::Map(Map::Literal(entries))) = Capture::All.of(b"user-12 at host-7", &pattern, b"") else {
            panic!("it matches");
        };
        let text = |value: &Value<'_>| match value {
            Value::String(text) => String::from_utf8_lossy(text).into_owned(),
            other => panic!("{other:?}"),
        };
        let entries: Vec<_> = entries.iter().map(|(key, value)| (text(key), text(value))).collect();
        assert_eq!(entries, [("u".to_owned(), "12".to_owned()), ("2".to_owned(), "host".to_owned())]);
    }
}
