//! The fields of a head that mean something to the codec, and the collection of all others.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use nuncio_filter_api::ByteStr;

use super::connection_field::ConnectionField;
use super::details::{BadRequest, CODEC_ERROR, INVALID_AUTHORITY, TOO_MANY_HEADERS};
use super::head::{Head, HeadField};

/// A field that the codec reads; all others pass through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    ProxyConnection,
    Upgrade,
    Te,
    Expect,
    Other,
}

impl Field {
    /// Looks at length and first letter before the rest: most fields differ from all of these by them.
    pub(super) fn of(name: &[u8]) -> Self {
        let Some(first) = name.first() else { return Self::Other };
        let (known, field) = match (name.len(), first | 0x20) {
            (2, b't') => ("te", Self::Te),
            (4, b'h') => ("host", Self::Host),
            (6, b'e') => ("expect", Self::Expect),
            (7, b'u') => ("upgrade", Self::Upgrade),
            (10, b'c') => ("connection", Self::Connection),
            (10, b'k') => ("keep-alive", Self::KeepAlive),
            (14, b'c') => ("content-length", Self::ContentLength),
            (16, b'p') => ("proxy-connection", Self::ProxyConnection),
            (17, b't') => ("transfer-encoding", Self::TransferEncoding),
            _ => return Self::Other,
        };
        if is_name(name, known.as_bytes()) { field } else { Self::Other }
    }

    /// Whether trailers may not carry the field: it frames, routes, modifies or authenticates (RFC 9110 §6.5.1).
    pub(super) fn is_forbidden_in_trailers(name: &[u8]) -> bool {
        const FORBIDDEN: &[&str] = &[
            "age",
            "authorization",
            "cache-control",
            "content-encoding",
            "content-range",
            "content-type",
            "cookie",
            "date",
            "expires",
            "http2-settings",
            "location",
            "max-forwards",
            "proxy-authenticate",
            "proxy-authorization",
            "range",
            "retry-after",
            "set-cookie",
            "trailer",
            "vary",
            "warning",
            "www-authenticate",
        ];
        Self::of(name) != Self::Other
            || name.first() == Some(&b':')
            || FORBIDDEN.iter().any(|f| name.eq_ignore_ascii_case(f.as_bytes()))
    }
}

/// Whether `name`, a token, is `known`, which is lower case and of the same length. Eight bytes at a time: in a token no
/// byte other than its upper case becomes a letter or hyphen by setting bit 5.
fn is_name(name: &[u8], known: &[u8]) -> bool {
    const LOWER: u64 = 0x2020_2020_2020_2020;
    let (name_words, name_rest) = name.as_chunks::<8>();
    let (known_words, known_rest) = known.as_chunks::<8>();
    name_words.iter().zip(known_words).all(|(n, k)| u64::from_le_bytes(*n) | LOWER == u64::from_le_bytes(*k))
        && name_rest.iter().zip(known_rest).all(|(n, k)| n | 0x20 == *k)
}

/// Whether a wrong reading of the field lets a message be split otherwise than its sender meant.
pub(super) fn is_framing_field(name: &[u8]) -> bool {
    matches!(Field::of(name), Field::Host | Field::ContentLength | Field::TransferEncoding | Field::Connection)
}

/// What Transfer-Encoding said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Coding {
    #[default]
    Absent,
    Chunked,
    /// Another coding, several, or an empty list.
    Other,
}

/// The direction of the message that fields belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

/// All fields of a head: those of the connection read and taken out, the others in a map.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// End-to-end fields, Host excepted in requests.
    pub(super) map: HeaderMap,
    pub(super) host: Option<Bytes>,
    pub(super) content_length: Option<u64>,
    pub(super) coding: Coding,
    pub(super) connection: ConnectionField,
    pub(super) upgrade: Option<Bytes>,
    pub(super) expects_continue: bool,
    /// Bytes of names and values plus 3 for each field, as Envoy counts `%DOWNSTREAM_HEADER_BYTES_RECEIVED%`.
    pub(super) bytes: u64,
    /// Names as received, where a formatter wants them.
    pub(super) names: Option<Vec<ByteStr>>,
}

impl Side {
    /// Room for the fields that the proxy adds to most messages beyond those that it takes out, so that the map does not
    /// grow on the way. A map of up to 6 fields comes from the allocator's fast path.
    fn added_fields(self) -> usize {
        match self {
            // Without Host.
            Self::Request => 4,
            Self::Response => 1,
        }
    }
}

impl Fields {
    /// Adds the fields of `head`. In place, since moving so large a value costs as much as some fields.
    pub(super) fn collect(&mut self, head: &Head<'_>, side: Side, keep_names: bool) -> Result<(), BadRequest> {
        self.map = HeaderMap::with_capacity(head.len() + side.added_fields());
        if keep_names {
            self.names = Some(head.fields().filter_map(|f| ByteStr::from_utf8(f.shared_name()).ok()).collect());
        }
        let mut te_trailers = false;
        for field in head.fields() {
            self.bytes += (field.name.len() + field.value.len() + 3) as u64;
            match (Field::of(field.name), side) {
                (Field::Other, _) => self.append(field)?,
                (Field::Te, Side::Request) => te_trailers |= accepts_trailers(field.value),
                (kind, side) => self.add(kind, side, field)?,
            }
        }
        if te_trailers {
            self.map.insert(http::header::TE, HeaderValue::from_static("trailers"));
        }
        // Envoy counts the end of the head as one more line where there is no field at self.
        self.bytes = self.bytes.max(3);
        Ok(())
    }

    fn add(&mut self, kind: Field, side: Side, field: HeadField<'_>) -> Result<(), BadRequest> {
        match (kind, side) {
            (Field::Host, Side::Request) => {
                // RFC 9112 §3.2: more than one Host is refused, even where they agree.
                if self.host.replace(field.shared_value()).is_some() {
                    return Err(INVALID_AUTHORITY);
                }
            }
            (Field::ContentLength, _) => return self.add_length(field),
            (Field::TransferEncoding, _) => {
                let chunked = field.value.eq_ignore_ascii_case(b"chunked") && self.coding == Coding::Absent;
                self.coding = if chunked { Coding::Chunked } else { Coding::Other };
            }
            (Field::Connection, _) => self.connection.add(field),
            (Field::ProxyConnection, _) => self.connection.add_proxy(field.value),
            (Field::KeepAlive, _) => {}
            (Field::Upgrade, _) => self.upgrade = Some(joined(self.upgrade.take(), field.shared_value())),
            (Field::Expect, Side::Request) => {
                // Envoy: repeated, it is another expectation, which is the upstream's to meet.
                let is_first = !self.map.contains_key(http::header::EXPECT);
                self.expects_continue = is_first && field.value.eq_ignore_ascii_case(b"100-continue");
                self.append(field)?;
            }
            (Field::Host | Field::Te | Field::Expect | Field::Other, _) => self.append(field)?,
        }
        Ok(())
    }

    fn add_length(&mut self, field: HeadField<'_>) -> Result<(), BadRequest> {
        let length = parse_length(field.value).ok_or(CODEC_ERROR)?;
        if self.content_length.replace(length).is_some() {
            return Err(CODEC_ERROR);
        }
        // `005` is 5 and goes on as 5: no peer may read it as octal.
        let canonical = field.value.len() == 1 || field.value[0] != b'0';
        let value = if canonical { field.header_value() } else { HeaderValue::from(length) };
        self.map.try_append(http::header::CONTENT_LENGTH, value).map_err(|_| TOO_MANY_HEADERS)?;
        Ok(())
    }

    fn append(&mut self, field: HeadField<'_>) -> Result<(), BadRequest> {
        let name = HeaderName::from_bytes(field.name).map_err(|_| CODEC_ERROR)?;
        self.map.try_append(name, field.header_value()).map_err(|_| TOO_MANY_HEADERS)?;
        Ok(())
    }

    /// Whether the message asks for another protocol (RFC 9110 §7.8).
    pub(super) fn is_upgrade(&self) -> bool {
        self.upgrade.is_some() && self.connection.upgrade
    }

    /// Puts Connection and Upgrade back as received: an upgrade request or a 101 is passed on with them.
    pub(super) fn keep_upgrade_fields(&mut self, upgrade: &[u8]) {
        if let Some(connection) = &self.connection.raw
            && let Ok(value) = HeaderValue::from_maybe_shared(connection.clone())
        {
            self.map.insert(http::header::CONNECTION, value);
        }
        if let Ok(value) = HeaderValue::from_bytes(upgrade) {
            self.map.insert(http::header::UPGRADE, value);
        }
    }
}

/// 1*DIGIT that fits 64 bits: no sign, no list, no space (RFC 9112 §6.3).
pub(super) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |length, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { length.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// `trailers` is all that a proxy passes on of TE.
fn accepts_trailers(te: &[u8]) -> bool {
    te.split(|b| *b == b',').any(|coding| {
        let name = coding.split(|b| *b == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"trailers")
    })
}

/// Two lines of one list field as one line.
pub(super) fn joined(first: Option<Bytes>, second: Bytes) -> Bytes {
    match first {
        None => second,
        Some(first) => [&first[..], b",", &second].concat().into(),
    }
}
