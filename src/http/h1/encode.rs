//! Heads and chunks as bytes.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use nuncio_filter_api::{ByteStr, RequestHead, ResponseHead};
use nuncio_telemetry::Protocol;

use super::field::{Field, parse_length};
use super::settings::{HeaderFormat, OwnHeaderCase};
use super::write::WriteQueue;

/// How the body of a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendFraming {
    /// There is none; what a body holds is not sent.
    None,
    /// Content-Length: bytes still owed.
    Length(u64),
    Chunked,
    /// As it comes, until the connection is closed.
    Raw,
}

/// A head's size on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadSize {
    /// Field lines alone, as Envoy counts header bytes.
    pub(super) fields: u64,
    /// All of it.
    pub(super) wire: u64,
}

/// The case of names in one message.
#[derive(Clone, Copy)]
pub(super) struct NameCase<'a> {
    pub(super) format: HeaderFormat,
    /// Names as received, where they were kept.
    pub(super) original: Option<&'a [ByteStr]>,
}

impl NameCase<'_> {
    fn write(&self, name: &[u8], out: &mut Vec<u8>) {
        match self.format {
            HeaderFormat::Lower => out.extend_from_slice(name),
            HeaderFormat::ProperCase => write_proper_case(name, out),
            HeaderFormat::PreserveCase { own, .. } => {
                let received = self.original.unwrap_or_default();
                match (received.iter().find(|n| n.as_bytes().eq_ignore_ascii_case(name)), own) {
                    (Some(name), _) => out.extend_from_slice(name.as_bytes()),
                    (None, OwnHeaderCase::Lower) => out.extend_from_slice(name),
                    (None, OwnHeaderCase::ProperCase) => write_proper_case(name, out),
                }
            }
        }
    }

    fn line(&self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        if matches!(self.format, HeaderFormat::Lower) {
            return write_parts([name, b": ", value, b"\r\n"], out);
        }
        out.reserve(name.len() + value.len() + 4);
        self.write(name, out);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends `parts`, whose room is looked for once. A head is some forty parts.
fn write_parts<const N: usize>(parts: [&[u8]; N], out: &mut Vec<u8>) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(len);
    let mut end = out.len();
    for part in parts {
        // SAFETY: all parts together fit behind the old length, and none of them lies there.
        unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), out.as_mut_ptr().add(end), part.len()) };
        end += part.len();
    }
    // SAFETY: everything up to here was written.
    unsafe { out.set_len(end) };
}

/// Upper case after everything that is no letter or digit.
fn write_proper_case(name: &[u8], out: &mut Vec<u8>) {
    let mut upper = true;
    out.extend(name.iter().map(|b| {
        let written = if upper { b.to_ascii_uppercase() } else { *b };
        upper = !b.is_ascii_alphanumeric();
        written
    }));
}

// === requests ===

/// What a request head is written for.
pub(super) struct RequestForm<'a> {
    pub(super) case: NameCase<'a>,
    pub(super) fully_qualified: bool,
    /// The body will be empty for certain.
    pub(super) without_body: bool,
}

/// Writes the head of `request`, Host first as RFC 9110 §7.2 advises.
pub(super) fn request_head(
    request: &RequestHead,
    form: &RequestForm<'_>,
    out: &mut Vec<u8>,
) -> (SendFraming, HeadSize) {
    let start = out.len();
    write_request_line(request, form.fully_qualified, out);
    let fields_start = out.len();
    let case = &form.case;
    if !request.omits_host || !request.authority.is_empty() {
        case.line(b"host", request.authority.as_bytes(), out);
    }
    let mut length = None;
    let mut has_upgrade = false;
    for (name, value) in &request.headers {
        let name = name.as_str().as_bytes();
        match Field::of(name) {
            Field::ContentLength => length = parse_length(value.as_bytes()),
            // Only an upgrade that was accepted is passed on (RFC 9110 §7.8).
            Field::Upgrade | Field::Connection if request.protocol.is_none() => continue,
            Field::Upgrade => has_upgrade = true,
            Field::KeepAlive | Field::ProxyConnection | Field::TransferEncoding => continue,
            _ => {}
        }
        case.line(name, value.as_bytes(), out);
    }
    if let Some(protocol) = &request.protocol {
        if !request.headers.contains_key(http::header::CONNECTION) {
            case.line(b"connection", b"upgrade", out);
        }
        if !has_upgrade {
            case.line(b"upgrade", protocol.as_bytes(), out);
        }
    }
    let framing = request_framing(request, length, form, out);
    end_head(out, start, fields_start, framing)
}

fn write_request_line(request: &RequestHead, fully_qualified: bool, out: &mut Vec<u8>) {
    let connect = request.method == Method::CONNECT;
    // An extended CONNECT (RFC 8441) is an upgrade of a GET in HTTP/1.
    let method = if connect && request.protocol.is_some() { "GET" } else { request.method.as_str() };
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    if connect && request.protocol.is_none() {
        out.extend_from_slice(request.authority.as_bytes());
    } else {
        if fully_qualified {
            out.extend_from_slice(request.scheme.as_str().as_bytes());
            out.extend_from_slice(b"://");
            out.extend_from_slice(request.authority.as_bytes());
        }
        let path = if request.path.is_empty() { b"/" } else { request.path.as_bytes() };
        out.extend_from_slice(path);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

fn request_framing(
    request: &RequestHead,
    length: Option<u64>,
    form: &RequestForm<'_>,
    out: &mut Vec<u8>,
) -> SendFraming {
    if request.method == Method::CONNECT || request.protocol.is_some() {
        return SendFraming::Raw;
    }
    if let Some(length) = length {
        return if length == 0 { SendFraming::None } else { SendFraming::Length(length) };
    }
    if form.without_body {
        let expected = ![Method::GET, Method::HEAD, Method::DELETE, Method::TRACE].contains(&request.method);
        if expected {
            form.case.line(b"content-length", b"0", out);
        }
        return SendFraming::None;
    }
    form.case.line(b"transfer-encoding", b"chunked", out);
    SendFraming::Chunked
}

// === responses ===

/// What a response head is written for.
pub(super) struct ResponseForm<'a> {
    pub(super) case: NameCase<'a>,
    pub(super) version: Protocol,
    pub(super) to_head: bool,
    pub(super) to_connect: bool,
    /// What Connection says, if anything.
    pub(super) connection: Option<&'static [u8]>,
    /// The body is empty for certain.
    pub(super) without_body: bool,
}

/// Writes the head of `response`.
pub(super) fn response_head(
    response: &ResponseHead,
    form: &ResponseForm<'_>,
    out: &mut Vec<u8>,
) -> (SendFraming, HeadSize) {
    let start = out.len();
    write_status_line(response, form, out);
    let fields_start = out.len();
    let status = response.status;
    let tunnel = status == StatusCode::SWITCHING_PROTOCOLS || (form.to_connect && status.is_success());
    let lengthless = tunnel || status.is_informational() || status == StatusCode::NO_CONTENT;
    let mut length = None;
    for (name, value) in &response.headers {
        let name = name.as_str().as_bytes();
        match Field::of(name) {
            Field::ContentLength => {
                length = parse_length(value.as_bytes());
                if lengthless || length.is_none() {
                    continue;
                }
            }
            Field::Connection if !tunnel => continue,
            Field::KeepAlive | Field::ProxyConnection | Field::TransferEncoding => continue,
            _ => {}
        }
        form.case.line(name, value.as_bytes(), out);
    }
    if let Some(connection) = form.connection {
        form.case.line(b"connection", connection, out);
    }
    let framing = if tunnel { SendFraming::Raw } else { response_framing(status, length, form, out) };
    end_head(out, start, fields_start, framing)
}

fn write_status_line(response: &ResponseHead, form: &ResponseForm<'_>, out: &mut Vec<u8>) {
    let version: &[u8] = if form.version == Protocol::Http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    out.extend_from_slice(version);
    out.extend_from_slice(response.status.as_str().as_bytes());
    out.push(b' ');
    let received = response.original.as_deref().map(|o| &o.reason);
    match (form.case.format, received) {
        (HeaderFormat::PreserveCase { forward_reason_phrase: true, .. }, Some(reason)) => {
            out.extend_from_slice(reason.as_bytes());
        }
        _ => out.extend_from_slice(reason(response.status).as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
}

/// RFC 9110 §6.4.1 and §8.6, with Envoy's choices where they leave one.
fn response_framing(
    status: StatusCode,
    length: Option<u64>,
    form: &ResponseForm<'_>,
    out: &mut Vec<u8>,
) -> SendFraming {
    let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if bodiless {
        return SendFraming::None;
    }
    match length {
        Some(_) if form.to_head => return SendFraming::None,
        Some(0) => return SendFraming::None,
        Some(length) => return SendFraming::Length(length),
        None => {}
    }
    if form.without_body && !form.to_head {
        form.case.line(b"content-length", b"0", out);
        return SendFraming::None;
    }
    if form.version == Protocol::Http10 {
        return if form.to_head { SendFraming::None } else { SendFraming::Raw };
    }
    form.case.line(b"transfer-encoding", b"chunked", out);
    if form.to_head { SendFraming::None } else { SendFraming::Chunked }
}

/// The reason phrase that Envoy gives a status.
pub(super) fn reason(status: StatusCode) -> &'static str {
    match status.as_u16() {
        418 | 451 => "Unknown",
        425 => "Too Early",
        599 => "Last Unassigned Server Error Code",
        _ => status.canonical_reason().unwrap_or("Unknown"),
    }
}

// === both ===

fn end_head(out: &mut Vec<u8>, start: usize, fields_start: usize, framing: SendFraming) -> (SendFraming, HeadSize) {
    let fields = (out.len() - fields_start) as u64;
    out.extend_from_slice(b"\r\n");
    (framing, HeadSize { fields, wire: (out.len() - start) as u64 })
}

/// The body on its way out: frames it and holds it to the length that the head promised.
#[derive(Debug)]
pub(super) struct BodySender {
    framing: SendFraming,
    trailers: bool,
}

/// The body is not as long as its head says.
#[derive(Debug)]
pub(super) struct LengthMismatch;

impl BodySender {
    pub(super) fn new(framing: SendFraming, trailers: bool) -> Self {
        Self { framing, trailers }
    }

    /// Nothing of the body is sent.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self.framing, SendFraming::None)
    }

    /// Queues `data`; returns its bytes on the wire.
    pub(super) fn data(&mut self, data: Bytes, queue: &mut WriteQueue) -> Result<u64, LengthMismatch> {
        let len = data.len() as u64;
        if len == 0 {
            return Ok(0);
        }
        match &mut self.framing {
            SendFraming::None => return Ok(0),
            SendFraming::Length(left) => *left = left.checked_sub(len).ok_or(LengthMismatch)?,
            SendFraming::Raw => {}
            SendFraming::Chunked => {
                let size = queue.encode(|out| write_chunk_size(len, out));
                queue.push(data);
                queue.encode(|out| out.extend_from_slice(b"\r\n"));
                return Ok(size + len + 2);
            }
        }
        queue.push(data);
        Ok(len)
    }

    /// Queues the end, with `trailers` if they can be sent; returns its bytes on the wire.
    pub(super) fn end(
        &mut self,
        trailers: Option<&HeaderMap>,
        case: NameCase<'_>,
        queue: &mut WriteQueue,
    ) -> Result<u64, LengthMismatch> {
        let framing = std::mem::replace(&mut self.framing, SendFraming::None);
        match framing {
            SendFraming::Length(left) if left > 0 => Err(LengthMismatch),
            SendFraming::Chunked => Ok(queue.encode(|out| {
                let start = out.len();
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.filter(|_| self.trailers).into_iter().flatten() {
                    case.line(name.as_str().as_bytes(), value.as_bytes(), out);
                }
                out.extend_from_slice(b"\r\n");
                (out.len() - start) as u64
            })),
            _ => Ok(0),
        }
    }
}

fn write_chunk_size(size: u64, out: &mut Vec<u8>) -> u64 {
    let digits = (16 - size.leading_zeros() as usize / 4).max(1);
    for at in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(size >> (4 * at)) as usize & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
    digits as u64 + 2
}
