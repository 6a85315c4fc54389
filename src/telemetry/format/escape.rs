//! Bytes and numbers into JSON text, in the forms that Envoy's access logs have.

use serde_json::Value;

/// The bytes that never stand in a JSON string as they are, and those that need a look at the encoding.
fn plain(b: u8) -> bool {
    (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\'
}

/// Escapes `out[from..]` in place, so that it may stand between quotes. Envoy's rule: valid UTF-8 keeps its
/// characters and the short escapes are used; otherwise each byte that is not plain ASCII becomes `\u00XX`.
pub(super) fn escape_tail(out: &mut Vec<u8>, from: usize) {
    // A fold and not `all`, which would stop early and so be compiled to a loop of single bytes.
    if out[from..].iter().fold(true, |all, b| all & plain(*b)) {
        return;
    }
    let valid = std::str::from_utf8(&out[from..]).is_ok();
    let grown: usize = out[from..].iter().map(|b| escaped(*b, valid).0).sum();
    let mut read = out.len();
    out.resize(from + grown, 0);
    let mut write = out.len();
    // From the back, so that nothing is overwritten before it is read: an escape is never shorter than its byte.
    while read > from {
        read -= 1;
        let (length, text) = escaped(out[read], valid);
        write -= length;
        out[write..write + length].copy_from_slice(&text[..length]);
    }
}

/// The escape of one byte: its length and text.
fn escaped(b: u8, valid: bool) -> (usize, [u8; 6]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = |c: u8| (2, [b'\\', c, 0, 0, 0, 0]);
    let long = (6, [b'\\', b'u', b'0', b'0', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
    match b {
        _ if plain(b) => (1, [b, 0, 0, 0, 0, 0]),
        _ if !valid => long,
        b'"' => short(b'"'),
        b'\\' => short(b'\\'),
        b'\n' => short(b'n'),
        b'\r' => short(b'r'),
        b'\t' => short(b't'),
        0x08 => short(b'b'),
        0x0c => short(b'f'),
        0..0x20 => long,
        _ => (1, [b, 0, 0, 0, 0, 0]),
    }
}

/// Appends `text` as a JSON string with its quotes.
pub(super) fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let from = out.len();
    out.extend_from_slice(text);
    escape_tail(out, from);
    out.push(b'"');
}

/// Appends an integer.
pub(crate) fn push_int(out: &mut Vec<u8>, n: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Appends a number of a Struct, with or without an exponent of at least two digits, whichever is shorter: as C++'s
/// `to_chars` does, and so Envoy. What JSON has no form for is `null`.
pub(super) fn push_number(out: &mut Vec<u8>, n: f64) {
    if !n.is_finite() {
        out.extend_from_slice(b"null");
        return;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is a whole number of few digits")]
    if n.fract() == 0.0 && n.abs() < 1e5 {
        push_int(out, n as i64);
        return;
    }
    let text = format!("{n:e}");
    let (digits, exponent) = text.split_once('e').expect("LowerExp always prints an exponent");
    let (sign, size) = match exponent.strip_prefix('-') {
        Some(size) => ('-', size),
        None => ('+', exponent),
    };
    let scientific = format!("{digits}e{sign}{size:0>2}");
    // A whole number has all of its digits, also those behind the ones that tell it apart.
    let fixed = if n.fract() == 0.0 { format!("{n:.0}") } else { format!("{n}") };
    let shorter = if scientific.len() < fixed.len() { scientific } else { fixed };
    out.extend_from_slice(shorter.as_bytes());
}

/// Appends a metadata value as JSON without spaces, the keys of objects sorted.
pub(super) fn push_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Number(n) => push_number(out, n.as_f64().unwrap_or(f64::NAN)),
        Value::String(s) => push_string(out, s.as_bytes()),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                push_value(out, item);
            }
            out.push(b']');
        }
        Value::Object(fields) => push_object(out, fields),
    }
}

/// Appends a metadata object; see [`push_value`].
pub(super) fn push_object(out: &mut Vec<u8>, fields: &serde_json::Map<String, Value>) {
    // Sorted here, because serde_json's map keeps the order of insertion if any crate of the build asks it to.
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_unstable_by_key(|(key, _)| *key);
    out.push(b'{');
    for (i, (key, value)) in fields.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push_string(out, key.as_bytes());
        out.push(b':');
        push_value(out, value);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: f64) -> String {
        let mut out = Vec::new();
        push_number(&mut out, n);
        String::from_utf8(out).unwrap()
    }

    fn string(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push_string(&mut out, text);
        out
    }

    #[test]
    fn numbers_print_as_envoy_prints_them() {
        for (n, expected) in [
            (0.0, "0"),
            (-0.0, "0"),
            (3.0, "3"),
            (-3.0, "-3"),
            (1.25, "1.25"),
            (0.1, "0.1"),
            (0.001, "0.001"),
            (0.0001, "1e-04"),
            (99999.0, "99999"),
            (100_000.0, "1e+05"),
            (120_000.0, "120000"),
            (-1e6, "-1e+06"),
            (123_456_789.0, "123456789"),
            (1e10, "1e+10"),
            (1e22, "1e+22"),
            (-9_223_372_036_854_775_808.0, "-9223372036854775808"),
            (0.00001, "1e-05"),
            (-1.5e-7, "-1.5e-07"),
            (1e300, "1e+300"),
            (1234567.125, "1234567.125"),
            (12345678901234567890.0, "12345678901234567168"),
            (f64::NAN, "null"),
            (f64::INFINITY, "null"),
        ] {
            assert_eq!(number(n), expected);
        }
    }

    #[test]
    fn valid_utf8_keeps_its_characters() {
        let expected = "\"\u{e9}\\\"\\t\\n\\u0001/<>&\u{7f}\u{2028}\u{1f600}\\\\\\b\\f\\r\"";
        assert_eq!(
            string("\u{e9}\"\t\n\u{1}/<>&\u{7f}\u{2028}\u{1f600}\\\u{8}\u{c}\r".as_bytes()),
            expected.as_bytes()
        );
    }

    #[test]
    fn invalid_utf8_is_escaped_byte_by_byte() {
        // Seen with Envoy 1.40 for such a user-agent.
        assert_eq!(
            string(b"u\"a\tb\\c\x80\xff\xe2\x82\xac"),
            br#""u\u0022a\u0009b\u005cc\u0080\u00ff\u00e2\u0082\u00ac""#
        );
    }
}
