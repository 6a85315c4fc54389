//! Path normalisation before routing: escaped slashes, dot segments, merged slashes.
//!
//! What is done here is what Envoy does with `path_with_escaped_slashes_action`, `normalize_path` and `merge_slashes`,
//! in that order; the query is never touched.

use std::borrow::Cow;

/// `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// `%2F` and `%5C` stay as they are.
    #[default]
    Keep,
    /// A path that has one is refused with 400.
    Reject,
    /// They are unescaped, and the client is redirected to the result with 307.
    UnescapeAndRedirect,
    /// They are unescaped.
    UnescapeAndForward,
}

/// Which steps of normalisation are on.
#[derive(Clone, Copy, Debug, Default)]
pub struct PathOptions {
    /// What to do with escaped slashes.
    pub escaped_slashes: EscapedSlashes,
    /// `normalize_path`: RFC 3986 §6.2.2, dot segments removed.
    pub normalize: bool,
    /// `merge_slashes`.
    pub merge_slashes: bool,
}

/// What normalisation found.
#[derive(Debug, PartialEq, Eq)]
pub enum Normalized {
    /// The path is as it should be.
    Unchanged,
    /// This path, with query, takes its place.
    Changed(String),
    /// The client is to ask for this path instead.
    Redirect(String),
    /// The path is refused.
    Rejected,
}

/// Normalises `path` (with query) as configured.
pub fn normalize(path: &str, options: PathOptions) -> Normalized {
    let (only, query) = match path.find('?') {
        Some(at) => path.split_at(at),
        None => (path, ""),
    };
    let mut now = Cow::Borrowed(only);
    let mut redirect = false;
    if options.escaped_slashes != EscapedSlashes::Keep
        && let Some(unescaped) = unescape_slashes(&now)
    {
        match options.escaped_slashes {
            EscapedSlashes::Reject => return Normalized::Rejected,
            EscapedSlashes::UnescapeAndRedirect => redirect = true,
            EscapedSlashes::Keep | EscapedSlashes::UnescapeAndForward => {}
        }
        now = Cow::Owned(unescaped);
    }
    if options.normalize && !is_canonical(&now) {
        match canonical(&now) {
            Some(canonical) => now = Cow::Owned(canonical),
            None => return Normalized::Rejected,
        }
    }
    if options.merge_slashes && now.contains("//") {
        now = Cow::Owned(merge_slashes(&now));
    }
    match now {
        Cow::Borrowed(_) => Normalized::Unchanged,
        Cow::Owned(p) if redirect => Normalized::Redirect(p + query),
        Cow::Owned(p) => Normalized::Changed(p + query),
    }
}

fn unescape_slashes(path: &str) -> Option<String> {
    let is_slash = |e: &[u8]| e[0] == b'%' && matches!([e[1], e[2] | 0x20], [b'2', b'f'] | [b'5', b'c']);
    if !path.as_bytes().windows(3).any(is_slash) {
        return None;
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.as_bytes().windows(3).position(is_slash) {
        out.push_str(&rest[..at]);
        out.push(if rest.as_bytes()[at + 1] == b'2' { '/' } else { '\\' });
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Some(out)
}

/// Whether normalisation would change nothing: the common path is only looked at once.
fn is_canonical(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.iter().enumerate().all(|(i, &b)| match b {
        b'.' => i > 0 && bytes[i - 1] != b'/',
        b'%' => false,
        _ => !must_escape(b) && b != b'\\',
    })
}

/// The path with unreserved characters unescaped, unsafe ones escaped, `\` as `/`, and dot segments removed; `None` if
/// it cannot be normalised (an escaped NUL). A segment `..;x` is a dot segment with a path parameter
/// (CVE-2026-73551).
fn canonical(path: &str) -> Option<String> {
    let unescaped = canonical_characters(path)?;
    let mut out: Vec<&str> = Vec::new();
    let mut segments = unescaped.strip_prefix('/').unwrap_or(&unescaped).split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment.split_once(';').map_or(segment, |(name, _)| name) {
            "." => {
                if last {
                    out.push("");
                }
            }
            ".." => {
                out.pop();
                if last {
                    out.push("");
                }
            }
            _ => out.push(segment),
        }
    }
    let mut path = String::with_capacity(unescaped.len());
    for segment in out {
        path.push('/');
        path.push_str(segment);
    }
    if path.is_empty() {
        path.push('/');
    }
    Some(path)
}

fn canonical_characters(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path.as_bytes();
    // Where the last `%` stands that begins no escape.
    let mut bare = None;
    while let [b, tail @ ..] = rest {
        let b = *b;
        rest = tail;
        match b {
            b'%' => match escaped(rest) {
                Some(0) => return None,
                Some(c) if is_unreserved(c) => {
                    out.push(char::from(c));
                    rest = &rest[2..];
                    if let Some(bare) = bare {
                        hide_nested(&mut out, bare, rest.first());
                    }
                }
                Some(_) => out.push('%'),
                None => {
                    bare = Some(out.len());
                    out.push('%');
                }
            },
            b'\\' => out.push('/'),
            _ if must_escape(b) => {
                out.push('%');
                out.push(char::from(HEX[usize::from(b >> 4)]));
                out.push(char::from(HEX[usize::from(b & 15)]));
            }
            _ => out.push(char::from(b)),
        }
    }
    Some(out)
}

/// Escapes the `%` at `bare` if what was decoded after it would make an escape of it: `/%%32e%%32e` must not become
/// `/%2e%2e`, which a host would decode once more.
fn hide_nested(out: &mut String, bare: usize, next: Option<&u8>) {
    let is_escape = match &out.as_bytes()[bare + 1..] {
        [high] => high.is_ascii_hexdigit() && next.is_some_and(u8::is_ascii_hexdigit),
        [high, low] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
        _ => false,
    };
    if is_escape {
        out.insert_str(bare + 1, "25");
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The byte that the two hex digits at the start of `rest` stand for.
fn escaped(rest: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    match rest {
        [high, low, ..] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

/// RFC 3986 §2.3.
fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

fn must_escape(b: u8) -> bool {
    b <= b' ' || b >= 0x7f || matches!(b, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if !(c == '/' && out.ends_with('/')) {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: PathOptions =
        PathOptions { escaped_slashes: EscapedSlashes::UnescapeAndRedirect, normalize: true, merge_slashes: true };

    #[track_caller]
    fn check(path: &str, expected: &str) {
        let got = match normalize(path, EDGE) {
            Normalized::Unchanged => path.to_owned(),
            Normalized::Changed(p) => p,
            Normalized::Redirect(p) => format!("307 {p}"),
            Normalized::Rejected => "400".to_owned(),
        };
        assert_eq!(got, expected, "for {path}");
    }

    #[test]
    fn edge_paths_become_what_envoy_makes_of_them() {
        check("/a/../b", "/b");
        check("/a/%2e%2e/b", "/b");
        check("/a/.%2E/b", "/b");
        check("/../../etc/passwd", "/etc/passwd");
        check("/..%2f..%2fetc", "307 /etc");
        check("/a%2fb", "307 /a/b");
        check("/a%5cb", "307 /a/b");
        check("/a\\b", "/a/b");
        check("/a\\..\\b", "/b");
        check("//a///b", "/a/b");
        check("/a/.", "/a/");
        check("/a/..", "/");
        check("/a/..;/b", "/b");
        check("/a/..;x=y/b", "/b");
        check("/a/.;/b", "/a/b");
        check("/a;p=1/b", "/a;p=1/b");
        check("/%61", "/a");
        check("/a%00b", "400");
        check("/a%0d%0ab", "/a%0d%0ab");
        check("/a%zz", "/a%zz");
        check("/%252e%252e/b", "/%252e%252e/b");
        check("/a%c0%af", "/a%c0%af");
        check("/a?../../b", "/a?../../b");
        check("/|{}\"<>^`", "/%7C%7B%7D%22%3C%3E%5E%60");
        check("/", "/");
        check("/..", "/");
    }

    #[test]
    fn nothing_changes_unless_it_is_asked_for() {
        assert_eq!(normalize("/a/../b//c%2fd", PathOptions::default()), Normalized::Unchanged);
    }

    #[test]
    fn merging_slashes_leaves_the_query() {
        let options = PathOptions { merge_slashes: true, ..PathOptions::default() };
        assert_eq!(normalize("//a//b?x=//", options), Normalized::Changed("/a/b?x=//".to_owned()));
    }

    #[test]
    fn decoding_makes_no_new_escapes() {
        let normalized = |path: &str| match normalize(path, PathOptions { normalize: true, ..PathOptions::default() }) {
            Normalized::Changed(changed) => Some(changed),
            Normalized::Unchanged => Some(path.to_owned()),
            _ => None,
        };
        assert_eq!(normalized("/%%333/.").as_deref(), Some("/%2533/"));
        assert_eq!(normalized("/%%32e%%32e/a").as_deref(), Some("/%252e%252e/a"));
        assert_eq!(normalized("/%3%33").as_deref(), Some("/%2533"));
        assert_eq!(normalized("/%%30%30").as_deref(), Some("/%2500"));
        let letters = b"%235e/.";
        for number in 0..letters.len().pow(7) {
            let digits = (0..7).map(|place| letters[number / letters.len().pow(place) % letters.len()]);
            let path: String = std::iter::once('/').chain(digits.map(char::from)).collect();
            let Some(once) = normalized(&path) else { continue };
            assert_eq!(normalized(&once).as_ref(), Some(&once), "{path}");
        }
    }
}
