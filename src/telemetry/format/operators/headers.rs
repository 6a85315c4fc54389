//! Operators that print a header, or count headers' bytes.

use http::{HeaderMap, HeaderName};

use crate::format::FormatCx;
use crate::format::escape::push_int;

/// Which headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Request,
    Response,
    Trailers,
}

/// `%REQ(main?alternative)%` and its kin.
#[derive(Debug)]
pub(super) struct HeaderOp {
    place: Place,
    main: Option<Key>,
    alternative: Option<Key>,
}

/// A header's name, resolved when the format is loaded.
#[derive(Debug)]
enum Key {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    Named(HeaderName),
    /// A pseudo-header that this place does not have.
    Never,
}

impl HeaderOp {
    pub(super) fn parse(place: Place, argument: &str) -> Result<Self, String> {
        let mut names = argument.split('?');
        let main = names.next().unwrap_or_default();
        let alternative = names.next().unwrap_or_default();
        if names.next().is_some() {
            return Err("more than one alternative header".to_owned());
        }
        Ok(Self { place, main: Key::parse(place, main)?, alternative: Key::parse(place, alternative)? })
    }

    /// Appends the first value of the main header, or else of the alternative; `None` if neither is there.
    pub(super) fn write(&self, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<()> {
        let find = |key: &Option<Key>, out: &mut Vec<u8>| self.place.write(key.as_ref()?, cx, out);
        find(&self.main, out).or_else(|| find(&self.alternative, out))
    }
}

impl Key {
    /// `None` for an empty name.
    fn parse(place: Place, name: &str) -> Result<Option<Self>, String> {
        let lower = name.to_ascii_lowercase();
        Ok(Some(match (place, lower.as_str()) {
            (_, "") => return Ok(None),
            (Place::Request, ":method") => Self::Method,
            (Place::Request, ":scheme") => Self::Scheme,
            (Place::Request, ":authority" | "host") => Self::Authority,
            (Place::Request, ":path") => Self::Path,
            (Place::Request, ":protocol") => Self::Protocol,
            (Place::Response, ":status") => Self::Status,
            (_, other) => {
                let (pseudo, bare) = match other.strip_prefix(':') {
                    Some(bare) => (true, bare),
                    None => (false, other),
                };
                let parsed = HeaderName::from_bytes(bare.as_bytes());
                let parsed = parsed.map_err(|_| format!("{name:?} is not a valid header name"))?;
                if pseudo { Self::Never } else { Self::Named(parsed) }
            }
        }))
    }
}

impl Place {
    fn headers<'a>(self, cx: &FormatCx<'a>) -> Option<&'a HeaderMap> {
        match self {
            Self::Request => cx.request.map(|r| r.headers),
            Self::Response => cx.response.map(|r| r.headers),
            Self::Trailers => cx.trailers,
        }
    }

    fn write(self, key: &Key, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<()> {
        let value = match key {
            Key::Method => cx.request?.method,
            Key::Scheme => cx.request?.scheme,
            Key::Authority => cx.request?.authority,
            Key::Path => cx.request?.path,
            Key::Protocol => cx.request?.protocol?,
            Key::Status => {
                push_int(out, cx.response?.status);
                return Some(());
            }
            Key::Named(name) => {
                out.extend_from_slice(self.headers(cx)?.get(name)?.as_bytes());
                return Some(());
            }
            Key::Never => return None,
        };
        // An empty pseudo-header stands for one that was not sent.
        if value.is_empty() {
            return None;
        }
        out.extend_from_slice(value.as_bytes());
        Some(())
    }

    /// Bytes of all names and values, pseudo-headers included, without separators.
    pub(super) fn bytes(self, cx: &FormatCx<'_>) -> u64 {
        let pseudo: usize = match self {
            Self::Request => cx.request.map_or(0, |r| {
                let of = |name: &str, value: &str| if value.is_empty() { 0 } else { name.len() + value.len() };
                of(":method", r.method)
                    + of(":scheme", r.scheme)
                    + of(":authority", r.authority)
                    + of(":path", r.path)
                    + of(":protocol", r.protocol.unwrap_or_default())
            }),
            Self::Response => cx.response.map_or(0, |_| ":status".len() + 3),
            Self::Trailers => 0,
        };
        let named: usize =
            self.headers(cx).map_or(0, |h| h.iter().map(|(name, value)| name.as_str().len() + value.len()).sum());
        (pseudo + named) as u64
    }
}
