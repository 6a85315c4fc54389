//! `%XFCC_VALUE(key)%`: what x-forwarded-client-cert says of the client's certificate.

use crate::format::FormatCx;

/// The key whose value is printed: that of the first certificate that has it.
#[derive(Debug)]
pub(super) struct XfccOp(&'static str);

const KEYS: [&str; 7] = ["By", "Hash", "Cert", "Chain", "Subject", "URI", "DNS"];

impl XfccOp {
    pub(super) fn parse(argument: &str) -> Result<Self, String> {
        let key = KEYS.into_iter().find(|key| key.eq_ignore_ascii_case(argument));
        key.map(Self).ok_or_else(|| format!("{argument:?} is no key of x-forwarded-client-cert"))
    }

    pub(super) fn write(&self, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<()> {
        let lines = cx.request?.headers.get_all("x-forwarded-client-cert").into_iter();
        let found = lines.map(|line| self.find(line.as_bytes())).find_map(Result::transpose)?;
        found.map(|value| unescape(value, out)).ok()
    }

    /// The value in one line; an error where its quotes do not match.
    fn find<'a>(&self, line: &'a [u8]) -> Result<Option<&'a [u8]>, Unmatched> {
        for certificate in unquoted_split(line, b',') {
            for pair in unquoted_split(certificate?, b';') {
                let pair = pair?;
                let equals = pair.iter().position(|b| *b == b'=');
                let (key, value) = equals.map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
                if key.trim_ascii().eq_ignore_ascii_case(self.0.as_bytes()) {
                    return Ok(Some(without_quotes(value.trim_ascii())));
                }
            }
        }
        Ok(None)
    }
}

/// A quote is opened and not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unmatched;

/// The parts of `text` between separators that are not in quotes.
fn unquoted_split(text: &[u8], separator: u8) -> impl Iterator<Item = Result<&[u8], Unmatched>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut is_quoted, mut at) = (false, 0);
        while at < text.len() {
            match text[at] {
                b'\\' if matches!(text.get(at + 1), Some(b'"' | b'\\')) => at += 1,
                b'"' => is_quoted = !is_quoted,
                b if b == separator && !is_quoted => break,
                _ => {}
            }
            at += 1;
        }
        let end = at.min(text.len());
        rest = text.get(end + 1..);
        Some(if is_quoted { Err(Unmatched) } else { Ok(&text[..end]) })
    })
}

fn without_quotes(value: &[u8]) -> &[u8] {
    let inner = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    inner.unwrap_or(value)
}

fn unescape(value: &[u8], out: &mut Vec<u8>) {
    let mut bytes = value.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escaped = if byte == b'\\' { bytes.next_if(|next| matches!(next, b'"' | b'\\')) } else { None };
        out.push(escaped.unwrap_or(byte));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(key: &str, line: &str) -> Option<String> {
        let found = XfccOp::parse(key).unwrap().find(line.as_bytes()).ok()??;
        let mut out = Vec::new();
        unescape(found, &mut out);
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_first_certificate_that_has_the_key_is_told_of() {
        assert_eq!(value("URI", "By=a,By=b;URI=u2;URI=u3").as_deref(), Some("u2"));
        assert_eq!(value("by", "URI=u , bY = a ").as_deref(), Some("a"));
        assert_eq!(value("Hash", "URI=u"), None);
        assert_eq!(value("URI", "junk;;URI").as_deref(), Some(""));
    }

    #[test]
    fn quotes_keep_separators_and_are_left_out() {
        assert_eq!(value("Subject", r#"Subject="CN=a,O=b;c";URI=z"#).as_deref(), Some("CN=a,O=b;c"));
        assert_eq!(value("URI", r#"URI="q\"t\\""#).as_deref(), Some(r#"q"t\"#));
        assert_eq!(value("URI", r#"URI="a"b"#).as_deref(), Some(r#""a"b"#));
        assert_eq!(value("URI", r#"URI=a"b"#), None);
    }

    #[test]
    fn another_key_is_refused() {
        assert!(XfccOp::parse("ab").is_err());
    }
}
