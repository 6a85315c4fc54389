//! From the syntax of RE2 to that of the regex crate, where both read a pattern differently.
//!
//! Both take each byte for a character, of patterns and inputs: RE2 is so configured in Envoy, and the regex crate does
//! it without its Unicode mode.

use regex_syntax::hir::{Class, HirKind};

/// Rewrites `pattern` so that the regex crate gives it RE2's meaning: Perl classes and word boundaries are ASCII, a
/// brace that is no repetition is a literal, `\Q..\E` quotes, and `[`, `&&`, `--`, `~~` mean nothing inside brackets.
/// What is not ASCII becomes the escapes of its bytes.
pub(super) fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = match c {
            '\\' => escape(&mut out, &rest[1..], Place::Outside),
            '[' => class(&mut out, &rest[1..]),
            '{' if !is_repetition(rest) => literal(&mut out, rest, 1),
            '\u{80}'.. => bytes(&mut out, rest, c.len_utf8()),
            _ => copy(&mut out, rest, c.len_utf8()),
        };
    }
    out
}

/// The last character that there is, each being a byte.
const LAST: u32 = 0xff;
/// What the regex crate refuses as well.
const NOTHING: &str = r"\x{110000}";

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Outside,
    Class,
}

fn copy<'a>(out: &mut String, rest: &'a str, len: usize) -> &'a str {
    out.push_str(&rest[..len]);
    &rest[len..]
}

fn bytes<'a>(out: &mut String, rest: &'a str, len: usize) -> &'a str {
    rest[..len].bytes().for_each(|byte| out.push_str(&format!(r"\x{byte:02x}")));
    &rest[len..]
}

fn literal<'a>(out: &mut String, rest: &'a str, len: usize) -> &'a str {
    out.push('\\');
    copy(out, rest, len)
}

/// `{n}`, `{n,}` or `{n,m}`.
fn is_repetition(rest: &str) -> bool {
    let Some((inside, _)) = rest[1..].split_once('}') else { return false };
    let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    match inside.split_once(',') {
        Some((least, most)) => number(least) && (most.is_empty() || number(most)),
        None => number(inside),
    }
}

/// What follows a backslash.
fn escape<'a>(out: &mut String, rest: &'a str, place: Place) -> &'a str {
    let Some(c) = rest.chars().next() else {
        out.push('\\');
        return rest;
    };
    let after = &rest[c.len_utf8()..];
    let ascii = match c {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        's' => r"[\t\n\f\r ]",
        'S' => r"[^\t\n\f\r ]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        'b' if place == Place::Outside => r"(?-u:\b)",
        'B' if place == Place::Outside => r"(?-u:\B)",
        'C' if place == Place::Outside => "(?s-u:.)",
        'Q' if place == Place::Outside => return quoted(out, after),
        '<' | '>' => return copy(out, rest, 1),
        '0'..='7' => return octal(out, rest),
        'x' if let Some((code, after)) = code_in_braces(after) => {
            character(out, code);
            return after;
        }
        'p' | 'P' => return property(out, rest),
        'u' | 'U' => {
            out.push_str(NOTHING);
            return after;
        }
        _ => {
            out.push('\\');
            return copy(out, rest, c.len_utf8());
        }
    };
    out.push_str(ascii);
    after
}

/// `\Q` up to `\E` or the end.
fn quoted<'a>(out: &mut String, rest: &'a str) -> &'a str {
    let (quoted, after) = rest.split_once(r"\E").unwrap_or((rest, ""));
    let mut rest = &*regex_syntax::escape(quoted);
    while let Some(c) = rest.chars().next() {
        rest = if c.is_ascii() { copy(out, rest, 1) } else { bytes(out, rest, c.len_utf8()) };
    }
    after
}

/// `pL`, `p{Greek}`, `PL`: those of its characters that are bytes.
fn property<'a>(out: &mut String, rest: &'a str) -> &'a str {
    let mut chars = rest.char_indices().skip(1);
    let end = match chars.next() {
        Some((_, '{')) => rest.find('}').map_or(rest.len(), |at| at + 1),
        Some((at, c)) => at + c.len_utf8(),
        None => rest.len(),
    };
    let (property, after) = rest.split_at(end);
    let hir = regex_syntax::parse(&format!(r"\{property}")).map(regex_syntax::hir::Hir::into_kind);
    let Ok(HirKind::Class(Class::Unicode(class))) = hir else {
        // Not known: whoever parses the whole says so.
        out.push('\\');
        return copy(out, rest, end);
    };
    let all: Vec<_> = class.iter().filter(|range| u32::from(range.start()) <= LAST).collect();
    out.push_str(if all.is_empty() { r"[^\x00-\xff" } else { "[" });
    for range in all {
        let (first, last) = (u32::from(range.start()), u32::from(range.end()).min(LAST));
        out.push_str(&format!(r"\x{first:02x}-\x{last:02x}"));
    }
    out.push(']');
    after
}

/// The number of a character as in `{e9}`, and what follows it.
fn code_in_braces(rest: &str) -> Option<(u32, &str)> {
    let (code, after) = rest.strip_prefix('{')?.split_once('}')?;
    Some((u32::from_str_radix(code, 16).ok()?, after))
}

/// The character of this number, if there is one.
fn character(out: &mut String, code: u32) {
    match code {
        0..=LAST => out.push_str(&format!(r"\x{code:02x}")),
        _ => out.push_str(NOTHING),
    }
}

/// `\0`, `\01`, `\012`, `\12`, `\123`; a single digit other than 0 is a back-reference, which RE2 has not either.
fn octal<'a>(out: &mut String, rest: &'a str) -> &'a str {
    let len = rest.bytes().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
    if len == 1 && !rest.starts_with('0') {
        out.push('\\');
        return copy(out, rest, 1);
    }
    let code = rest[..len].bytes().fold(0u32, |code, b| code * 8 + u32::from(b - b'0'));
    character(out, code);
    &rest[len..]
}

/// A bracket expression, from after its `[`.
fn class<'a>(out: &mut String, rest: &'a str) -> &'a str {
    out.push('[');
    let mut rest = rest;
    if rest.starts_with('^') {
        rest = copy(out, rest, 1);
    }
    let mut first = true;
    // Whether the last thing written was a `-` that forms a range.
    let mut dash = false;
    while let Some(c) = rest.chars().next() {
        let was_dash = std::mem::take(&mut dash);
        rest = match c {
            ']' if !first => return copy(out, rest, 1),
            '\\' => escape(out, &rest[1..], Place::Class),
            '[' if rest.starts_with("[:") && rest.contains(":]") => {
                let end = rest.find(":]").map_or(rest.len(), |at| at + 2);
                copy(out, rest, end)
            }
            '-' if !first && !was_dash && !rest.starts_with("-]") => {
                dash = true;
                copy(out, rest, 1)
            }
            '[' | ']' | '&' | '~' | '-' => literal(out, rest, 1),
            '\u{80}'.. => bytes(out, rest, c.len_utf8()),
            _ => copy(out, rest, c.len_utf8()),
        };
        first = false;
    }
    rest
}
