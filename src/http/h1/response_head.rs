//! A response head: its status line and how its body is framed.

use std::ops::Range;

use http::StatusCode;
use nuncio_filter_api::{ByteStr, OriginalResponse, ResponseHead};

use super::details::{BadRequest, CODEC_ERROR, INVALID_TRANSFER_ENCODING, LENGTH_AND_CHUNKED};
use super::field::{Coding, Fields, Side};
use super::head::{Head, is_control};
use super::settings::ClientSettings;

/// What the reading of a response must know of its request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) head: bool,
    pub(super) connect: bool,
    /// The CONNECT is not a client's: its tunnel carries a connection without HTTP.
    pub(super) for_bytes: bool,
    pub(super) upgrade: bool,
}

/// How the body of a response is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseFraming {
    /// A 1xx: the response itself is still to come.
    Interim,
    None,
    Length(u64),
    Chunked,
    UntilEof,
    /// A 101 or the 2xx of a CONNECT: another protocol from here on.
    Tunnel,
}

#[derive(Debug)]
pub(super) struct ParsedResponse {
    pub(super) head: ResponseHead,
    pub(super) framing: ResponseFraming,
    pub(super) keep_alive: bool,
    /// Bytes of the fields as Envoy counts them.
    pub(super) header_bytes: u64,
    pub(super) wire_bytes: u64,
}

/// A status line, its reason as offsets into the head.
pub(super) struct StatusLine {
    status: StatusCode,
    is_http_10: bool,
    reason: Range<usize>,
}

/// How every response begins.
const BEGIN: &[u8] = b"HTTP/1.";

/// Refuses at its first bytes what cannot become a response.
pub(super) fn check_begin(buf: &[u8]) -> Result<(), BadRequest> {
    let known = BEGIN.len().min(buf.len());
    if buf[..known] == BEGIN[..known] { Ok(()) } else { Err(CODEC_ERROR) }
}

impl StatusLine {
    /// Parses a line with its end: single spaces and three digits (RFC 9112 §4); the reason may be missing with its
    /// space, as many servers send it.
    pub(super) fn parse(line: &[u8]) -> Result<Self, BadRequest> {
        let line = line.strip_suffix(b"\r\n").ok_or(CODEC_ERROR)?;
        let rest = line.strip_prefix(BEGIN).ok_or(CODEC_ERROR)?;
        let (minor, code, reason) = match rest {
            [minor, b' ', a, b, c] => (*minor, [*a, *b, *c], line.len()..line.len()),
            [minor, b' ', a, b, c, b' ', ..] => (*minor, [*a, *b, *c], BEGIN.len() + 6..line.len()),
            _ => return Err(CODEC_ERROR),
        };
        let reason_is_text = line[reason.clone()].iter().all(|b| !is_control(*b) && *b != b'\r');
        if !minor.is_ascii_digit() || !reason_is_text {
            return Err(CODEC_ERROR);
        }
        // 100 to 999: what has fewer or more digits, or no class, is no status.
        let status = StatusCode::from_bytes(&code).map_err(|_| CODEC_ERROR)?;
        Ok(Self { status, is_http_10: minor == b'0', reason })
    }
}

/// Parses a head into `parsed`.
pub(super) fn parse(
    head: Head<'_>,
    asked: Asked,
    settings: &ClientSettings,
    parsed: &mut Option<ParsedResponse>,
) -> Result<(), BadRequest> {
    let line = StatusLine::parse(head.line())?;
    let mut fields = Fields::default();
    fields.collect(&head, Side::Response, settings.header_format.keeps_names())?;
    let framing = framing(&mut fields, &line, asked, settings)?;
    if line.status == StatusCode::SWITCHING_PROTOCOLS
        && let Some(upgrade) = fields.upgrade.take()
    {
        fields.keep_upgrade_fields(&upgrade);
    }
    // Envoy: what Connection nominates in a response stays.
    let original = fields.names.take().map(|names| {
        // A reason that is not UTF-8 is not forwarded.
        let reason = ByteStr::from_utf8(head.bytes.slice(line.reason.clone())).unwrap_or_default();
        Box::new(OriginalResponse { reason, names })
    });
    *parsed = Some(ParsedResponse {
        head: ResponseHead { status: line.status, headers: std::mem::take(&mut fields.map), original },
        framing,
        keep_alive: framing != ResponseFraming::Tunnel && keep_alive(&fields, &line),
        header_bytes: fields.bytes,
        wire_bytes: head.bytes.len() as u64,
    });
    Ok(())
}

fn keep_alive(fields: &Fields, line: &StatusLine) -> bool {
    let connection = &fields.connection;
    match line.is_http_10 {
        false => !connection.close,
        // RFC 9112 §6.1: Transfer-Encoding in HTTP/1.0 means faulty framing; nothing may follow such a message.
        true => connection.keep_alive && !connection.close && fields.coding == Coding::Absent,
    }
}

/// RFC 9112 §6.3, without the lenient readings.
fn framing(
    fields: &mut Fields,
    line: &StatusLine,
    asked: Asked,
    settings: &ClientSettings,
) -> Result<ResponseFraming, BadRequest> {
    let status = line.status;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        // CVE-2024-23326: nobody switches who was not asked to, and who does says to what (RFC 9110 §15.2.2).
        return match asked.upgrade && fields.is_upgrade() {
            true => Ok(ResponseFraming::Tunnel),
            // Envoy: an answer as any other that refuses. A client that asks for a tunnel itself would wait for more.
            false if asked.for_bytes => Ok(ResponseFraming::None),
            false => Err(CODEC_ERROR),
        };
    }
    if status.is_informational() {
        return Ok(ResponseFraming::Interim);
    }
    if asked.connect && status.is_success() {
        fields.map.remove(http::header::CONTENT_LENGTH);
        return Ok(ResponseFraming::Tunnel);
    }
    if fields.coding != Coding::Absent && fields.content_length.is_some() {
        if !(fields.coding == Coding::Chunked && settings.allow_chunked_length) {
            return Err(LENGTH_AND_CHUNKED);
        }
        fields.content_length = None;
        fields.map.remove(http::header::CONTENT_LENGTH);
    }
    if fields.coding == Coding::Other {
        return Err(INVALID_TRANSFER_ENCODING);
    }
    if status == StatusCode::NO_CONTENT {
        if fields.coding != Coding::Absent || fields.content_length.is_some_and(|length| length != 0) {
            return Err(CODEC_ERROR);
        }
        fields.map.remove(http::header::CONTENT_LENGTH);
        return Ok(ResponseFraming::None);
    }
    if asked.head || status == StatusCode::NOT_MODIFIED {
        return Ok(ResponseFraming::None);
    }
    Ok(match (fields.coding, fields.content_length) {
        (Coding::Chunked, _) => ResponseFraming::Chunked,
        (_, Some(0)) => ResponseFraming::None,
        (_, Some(length)) => ResponseFraming::Length(length),
        (_, None) => ResponseFraming::UntilEof,
    })
}
