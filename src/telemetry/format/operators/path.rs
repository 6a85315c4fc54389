//! `%PATH%`, `%QUERY_PARAM%`, `%QUERY_PARAMS%` and `%REQ_WITHOUT_QUERY%`.

use http::HeaderName;

use crate::format::FormatCx;

use super::headers::{HeaderOp, Place};

/// The header in which the router keeps the path it rewrote.
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// `%PATH(QUERY:SOURCE)%`, and `%REQ_WITHOUT_QUERY(X?Y)%`, which is the same of any header.
#[derive(Debug)]
pub(super) struct PathOp {
    query: Query,
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Query {
    Kept,
    Cut,
}

#[derive(Debug)]
enum Source {
    Original,
    Path,
    OriginalOrPath,
    Header(HeaderOp),
}

impl PathOp {
    pub(super) fn parse(argument: &str) -> Result<Self, String> {
        let mut parts = argument.split(':');
        let query = match parts.next().unwrap_or_default() {
            "" | "WQ" => Query::Kept,
            "NQ" => Query::Cut,
            other => return Err(format!("{other:?} is not one of WQ, NQ")),
        };
        let source = match parts.next().unwrap_or_default() {
            "ORIG" => Source::Original,
            "PATH" => Source::Path,
            "" | "ORIG_OR_PATH" => Source::OriginalOrPath,
            other => return Err(format!("{other:?} is not one of ORIG, PATH, ORIG_OR_PATH")),
        };
        Ok(Self { query, source })
    }

    /// `%REQ_WITHOUT_QUERY(X?Y)%`.
    pub(super) fn without_query(argument: &str) -> Result<Self, String> {
        Ok(Self { query: Query::Cut, source: Source::Header(HeaderOp::parse(Place::Request, argument)?) })
    }

    pub(super) fn write(&self, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<()> {
        let from = out.len();
        match &self.source {
            Source::Original => out.extend_from_slice(original(cx)?),
            Source::Path => out.extend_from_slice(path(cx)?),
            Source::OriginalOrPath => out.extend_from_slice(original(cx).or_else(|| path(cx))?),
            Source::Header(op) => op.write(cx, out)?,
        }
        if self.query == Query::Cut
            && let Some(mark) = out[from..].iter().position(|c| *c == b'?')
        {
            out.truncate(from + mark);
        }
        Some(())
    }
}

fn original<'a>(cx: &FormatCx<'a>) -> Option<&'a [u8]> {
    Some(cx.request?.headers.get(ORIGINAL_PATH)?.as_bytes())
}

fn path<'a>(cx: &FormatCx<'a>) -> Option<&'a [u8]> {
    Some(cx.request?.path.as_bytes()).filter(|p| !p.is_empty())
}

fn query<'a>(cx: &FormatCx<'a>) -> Option<&'a [u8]> {
    let path = path(cx)?;
    let mark = path.iter().position(|c| *c == b'?')?;
    Some(&path[mark + 1..])
}

/// `%QUERY_PARAM(name)%`: the first parameter of that name, decoded.
pub(super) fn query_param(cx: &FormatCx<'_>, name: &str, out: &mut Vec<u8>) -> Option<()> {
    let from = out.len();
    for pair in query(cx)?.split(|c| *c == b'&') {
        let (key, value) = match pair.iter().position(|c| *c == b'=') {
            Some(mark) => (&pair[..mark], &pair[mark + 1..]),
            None => (pair, &b""[..]),
        };
        decode(key, |_| true, Invalid::Kept, out);
        let found = &out[from..] == name.as_bytes();
        out.truncate(from);
        if found {
            decode(value, |_| true, Invalid::Kept, out);
            return Some(());
        }
    }
    None
}

/// The argument of `%QUERY_PARAMS(...)%`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decoding {
    Original,
    Decoded,
}

impl Decoding {
    pub(super) fn parse(argument: &str) -> Result<Self, String> {
        match argument {
            "" | "ORIG" => Ok(Self::Original),
            "DECODED" => Ok(Self::Decoded),
            other => Err(format!("{other:?} is not one of ORIG, DECODED")),
        }
    }
}

/// `%QUERY_PARAMS%`. Decoding keeps what may not stand in a URL as it is, and drops a `%` that introduces nothing:
/// so does Envoy.
pub(super) fn query_params(cx: &FormatCx<'_>, decoding: Decoding, out: &mut Vec<u8>) -> Option<()> {
    let query = query(cx)?;
    match decoding {
        Decoding::Original => out.extend_from_slice(query),
        Decoding::Decoded => {
            let readable = |c: u8| (0x21..0x7f).contains(&c) && !b"\"<>\\^{|}".contains(&c);
            decode(query, readable, Invalid::Dropped, out);
        }
    }
    Some(())
}

/// What becomes of a `%` without two hex digits after it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Invalid {
    Kept,
    Dropped,
}

/// Percent-decodes the bytes that `wanted` accepts.
fn decode(text: &[u8], wanted: impl Fn(u8) -> bool, invalid: Invalid, out: &mut Vec<u8>) {
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let digit = |i: usize| tail.get(i).and_then(|c| char::from(*c).to_digit(16));
        match (digit(0), digit(1)) {
            (Some(high), Some(low)) => {
                let byte = (high * 16 + low) as u8;
                match wanted(byte) {
                    true => out.push(byte),
                    false => out.extend_from_slice(&[b'%', tail[0], tail[1]]),
                }
                rest = &tail[2..];
            }
            _ if invalid == Invalid::Kept => out.push(b'%'),
            _ => {}
        }
    }
}
