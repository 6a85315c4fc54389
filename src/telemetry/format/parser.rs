//! Format string -> parts. The grammar is Envoy's: `%NAME%`, `%NAME(argument)%`, `%NAME(argument):length%`, and `%%`.

use super::operators::{Op, table};
use super::{FormatError, FormatErrorKind, Part};

/// One operator as written, before its name is looked up.
#[derive(Debug, PartialEq)]
pub(super) struct Command<'a> {
    pub(super) name: &'a str,
    pub(super) argument: &'a str,
    pub(super) length: Option<usize>,
}

/// Splits `text` into literals and operators.
pub(super) fn parse(text: &str) -> Result<Vec<Part>, FormatError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find('%') {
        literal.push_str(&text[at..at + found]);
        at += found;
        if text[at + 1..].starts_with('%') {
            literal.push('%');
            at += 2;
            continue;
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal).into()));
        }
        let error = |kind| FormatError { position: at, kind };
        let (command, length) = command(&text[at..]).ok_or_else(|| error(FormatErrorKind::NoOperator))?;
        parts.push(Part::Operator(build(&command).map_err(error)?));
        at += length;
    }
    literal.push_str(&text[at..]);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(parts)
}

/// Looks the operator up and compiles its argument.
pub(super) fn build(command: &Command<'_>) -> Result<Op, FormatErrorKind> {
    table::build(command)
}

/// Reads one operator at the start of `text`, which begins with `%`; gives it and its length in bytes.
fn command(text: &str) -> Option<(Command<'_>, usize)> {
    let bytes = text.as_bytes();
    let name_end = 1 + bytes[1..].iter().take_while(|b| matches!(b, b'A'..=b'Z' | b'0'..=b'9' | b'_')).count();
    if name_end == 1 {
        return None;
    }
    let name = &text[1..name_end];
    if bytes.get(name_end) != Some(&b'(') {
        let (length, end) = tail(text, name_end)?;
        return Some((Command { name, argument: "", length }, end));
    }
    // The argument ends at the first `)` after which the operator can end: `%START_TIME(a)b)%` has the argument `a)b`.
    let argument = &text[name_end + 1..];
    let line = argument.find('\n').unwrap_or(argument.len());
    for (close, _) in argument[..line].match_indices(')') {
        if let Some((length, end)) = tail(text, name_end + 1 + close + 1) {
            return Some((Command { name, argument: &argument[..close], length }, end));
        }
    }
    None
}

/// Reads the optional `:length` and the closing `%` at `at`; gives the length and the end of the operator.
fn tail(text: &str, at: usize) -> Option<(Option<usize>, usize)> {
    let rest = text.as_bytes().get(at..)?;
    if rest.first() == Some(&b'%') {
        return Some((None, at + 1));
    }
    if rest.first() != Some(&b':') {
        return None;
    }
    let digits = rest[1..].iter().take_while(|b| b.is_ascii_digit()).count();
    if rest.get(1 + digits) != Some(&b'%') {
        return None;
    }
    let length = text[at + 1..at + 1 + digits].parse().ok()?;
    Some((Some(length), at + 1 + digits + 1))
}

/// Rewrites the forms that only header values know: `%UPSTREAM_METADATA(["ns", "key"])%`,
/// `%DYNAMIC_METADATA(["ns", "key"])%` become `(ns:key)`, and `%PER_REQUEST_STATE(key)%` becomes
/// `%FILTER_STATE(key:PLAIN)%`.
pub(super) fn translate_legacy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match command(rest) {
            Some((c, length)) => {
                match legacy(&c) {
                    Some(now) => out.push_str(&now),
                    None => out.push_str(&rest[..length]),
                }
                length
            }
            None => {
                let pair = if rest[1..].starts_with('%') { 2 } else { 1 };
                out.push_str(&rest[..pair]);
                pair
            }
        };
        rest = &rest[taken..];
    }
    out.push_str(rest);
    out
}

fn legacy(c: &Command<'_>) -> Option<String> {
    match c.name {
        "UPSTREAM_METADATA" | "DYNAMIC_METADATA" if c.argument.trim_start().starts_with('[') => {
            let path: Vec<String> = serde_json::from_str(c.argument).ok()?;
            Some(format!("%{}({})%", c.name, path.join(":")))
        }
        "PER_REQUEST_STATE" => Some(format!("%FILTER_STATE({}:PLAIN)%", c.argument)),
        _ => None,
    }
}
