//! From the text of an expression to its words.

use super::{Fault, Syntax};
use crate::cel::Constant;

/// One word and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Ident(Box<str>),
    /// A number without sign, a text or bytes.
    Literal(Constant),
    /// An integer that only fits with a minus before it.
    LeastInt,
    /// A sign or two.
    Sign(&'static str),
}

/// Longer signs before those that they begin with.
const SIGNS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ",", ".", "(", ")", "[", "]",
    "{", "}",
];

/// Splits the text into words.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at += blank(&text[at..]);
        let rest = &text[at..];
        if rest.is_empty() {
            return Ok(tokens);
        }
        let (kind, length) = token(rest).map_err(|what| Fault::syntax(at, what))?;
        tokens.push(Token { at, kind });
        at += length;
    }
}

/// Bytes of white space and comments.
fn blank(text: &str) -> usize {
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']);
        rest = match trimmed.strip_prefix("//") {
            Some(comment) => comment.find('\n').map_or("", |end| &comment[end..]),
            None => return text.len() - trimmed.len(),
        };
    }
}

fn token(rest: &str) -> Result<(Kind, usize), Syntax> {
    let first = rest.as_bytes()[0];
    if let Some((constant, length)) = string(rest)? {
        return Ok((Kind::Literal(constant), length));
    }
    if first.is_ascii_digit() || (first == b'.' && rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit)) {
        return number(rest);
    }
    if first.is_ascii_alphabetic() || first == b'_' {
        let is_part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
        let length = rest.bytes().take_while(|b| is_part(b)).count();
        let kind = match &rest[..length] {
            "true" => Kind::Literal(Constant::Bool(true)),
            "false" => Kind::Literal(Constant::Bool(false)),
            "null" => Kind::Literal(Constant::Null),
            name => Kind::Ident(name.into()),
        };
        return Ok((kind, length));
    }
    let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign)).ok_or(Syntax::Character)?;
    Ok((Kind::Sign(sign), sign.len()))
}

fn number(rest: &str) -> Result<(Kind, usize), Syntax> {
    let digits = |from: usize, is: fn(&u8) -> bool| rest.as_bytes()[from..].iter().take_while(|b| is(b)).count();
    if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
        let length = digits(2, u8::is_ascii_hexdigit);
        return integer(u64::from_str_radix(&hex[..length], 16), rest, 2 + length);
    }
    let whole = digits(0, u8::is_ascii_digit);
    let mut end = whole;
    if rest[end..].starts_with('.') && digits(end + 1, u8::is_ascii_digit) > 0 {
        end += 1 + digits(end + 1, u8::is_ascii_digit);
    }
    if rest[end..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
        let exponent = digits(end + 1 + sign, u8::is_ascii_digit);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    if end == whole {
        return integer(rest[..whole].parse(), rest, whole);
    }
    let number = rest[..end].parse().map_err(|_| Syntax::Number)?;
    Ok((Kind::Literal(Constant::Double(number)), end))
}

fn integer(number: Result<u64, std::num::ParseIntError>, rest: &str, length: usize) -> Result<(Kind, usize), Syntax> {
    let number = number.map_err(|_| Syntax::Number)?;
    if rest[length..].starts_with(['u', 'U']) {
        return Ok((Kind::Literal(Constant::Uint(number)), length + 1));
    }
    match i64::try_from(number) {
        Ok(number) => Ok((Kind::Literal(Constant::Int(number)), length)),
        Err(_) if number == i64::MIN.unsigned_abs() => Ok((Kind::LeastInt, length)),
        Err(_) => Err(Syntax::Number),
    }
}

/// A literal text or bytes, if `rest` begins with one.
fn string(rest: &str) -> Result<Option<(Constant, usize)>, Syntax> {
    let prefix = rest.bytes().take_while(|b| matches!(b, b'r' | b'R' | b'b' | b'B')).take(2).count();
    let (prefix, quoted) = rest.split_at(prefix);
    let Some(quote) = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| quoted.starts_with(quote)) else {
        return Ok(None);
    };
    let has = |letter: u8| prefix.bytes().filter(|b| b.eq_ignore_ascii_case(&letter)).count();
    if has(b'r') > 1 || has(b'b') > 1 {
        return Ok(None);
    }
    let (is_raw, is_bytes) = (has(b'r') == 1, has(b'b') == 1);
    let body = &quoted[quote.len()..];
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        let left = &body[at..];
        if left.starts_with(quote) {
            break;
        }
        let c = left.chars().next().ok_or(Syntax::OpenString)?;
        if quote.len() == 1 && matches!(c, '\n' | '\r') {
            return Err(Syntax::OpenString);
        }
        at += match c {
            '\\' if !is_raw => escape(left, is_bytes, &mut out)?,
            c => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                c.len_utf8()
            }
        };
    }
    let length = prefix.len() + 2 * quote.len() + at;
    let constant = match is_bytes {
        true => Constant::Bytes(out.into()),
        false => Constant::String(String::from_utf8(out).map_err(|_| Syntax::Escape)?.into()),
    };
    Ok(Some((constant, length)))
}

/// Reads an escape and gives its length.
fn escape(text: &str, is_bytes: bool, out: &mut Vec<u8>) -> Result<usize, Syntax> {
    let kind = *text.as_bytes().get(1).ok_or(Syntax::Escape)?;
    let simple = match kind {
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b'\\' | b'?' | b'"' | b'\'' | b'`' => kind,
        _ => 0,
    };
    if simple != 0 {
        out.push(simple);
        return Ok(2);
    }
    let (from, digits, radix) = match kind {
        b'x' | b'X' => (2, 2, 16),
        b'u' if !is_bytes => (2, 4, 16),
        b'U' if !is_bytes => (2, 8, 16),
        b'0'..=b'3' => (1, 3, 8),
        _ => return Err(Syntax::Escape),
    };
    let digits = text.get(from..from + digits).ok_or(Syntax::Escape)?;
    let code = u32::from_str_radix(digits, radix).map_err(|_| Syntax::Escape)?;
    match (is_bytes, u8::try_from(code)) {
        (true, Ok(byte)) => out.push(byte),
        (true, Err(_)) => return Err(Syntax::Escape),
        (false, _) => {
            let c = char::from_u32(code).ok_or(Syntax::Escape)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(from + digits.len())
}
