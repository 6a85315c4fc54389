//! A request head: its line, its target and how its body is framed.

use bytes::Bytes;
use http::Method;
use nuncio_filter_api::{Body, ByteStr, RequestHead, Scheme};
use nuncio_telemetry::Protocol;

use super::details::{
    BODY_DISALLOWED, BadRequest, CODEC_ERROR, INVALID_AUTHORITY, INVALID_TRANSFER_ENCODING, LENGTH_AND_CHUNKED,
    LOW_VERSION,
};
use super::field::{Coding, Fields, Side};
use super::head::Head;
use super::settings::ServerSettings;
use super::target;

/// A request whose head has arrived.
#[derive(Debug)]
pub struct IncomingRequest {
    /// The head, without the fields of the connection (Connection, Keep-Alive, Proxy-Connection, Transfer-Encoding,
    /// TE but `trailers`, and Upgrade). Connection and Upgrade stay where `upgrade` is set.
    pub head: RequestHead,
    /// The body; after an accepted upgrade or CONNECT the client's bytes.
    pub body: Body,
    /// Whether the client keeps the connection for further requests.
    pub keep_alive: bool,
    /// `Expect: 100-continue`; the field stays in the head.
    pub expects_continue: bool,
    /// The Upgrade value where the request asks for another protocol; it is for the connection manager to accept it.
    pub upgrade: Option<ByteStr>,
    /// Whether the request named an authority: by Host, even an empty one, or in its target.
    pub has_host: bool,
    /// Whether the target was in absolute form; the head's scheme is then the target's, otherwise http.
    pub absolute_form: bool,
    /// Bytes of the fields as Envoy counts them: names, values and 3 for each field.
    pub header_bytes: u64,
    /// All bytes of the head.
    pub wire_bytes: u64,
}

/// How the body of a request is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestFraming {
    None,
    Length(u64),
    Chunked,
}

/// What the connection becomes if the response agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tunnel {
    Connect,
    Upgrade,
    /// An upgrade to `connect-udp`, which may be granted without switching.
    ConnectUdp,
}

/// A parsed head and what follows from it for the connection.
#[derive(Debug)]
pub(super) struct ParsedRequest {
    pub(super) incoming: IncomingRequest,
    pub(super) framing: RequestFraming,
    pub(super) tunnel: Option<Tunnel>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http11,
    Http10,
    Other,
}

/// A request line, its parts as offsets into the head.
#[derive(Debug)]
pub(super) struct RequestLine {
    method: Method,
    target: std::ops::Range<usize>,
    version: Version,
}

/// The methods that Envoy's parser knows; others need `allow_custom_methods`.
const METHODS: &[&str] = &[
    "GET",
    "POST",
    "PUT",
    "HEAD",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "CONNECT",
    "TRACE",
    "ACL",
    "BIND",
    "CHECKOUT",
    "COPY",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "MSEARCH",
    "NOTIFY",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

impl RequestLine {
    /// Parses a line with its end. RFC 9112 §3: single spaces; what is lenient there is refused here.
    pub(super) fn parse(line: &[u8], settings: &ServerSettings) -> Result<Self, BadRequest> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let method_end = memchr::memchr(b' ', line).ok_or(CODEC_ERROR)?;
        let method = parse_method(&line[..method_end], settings)?;
        let start = method_end + 1;
        let end = memchr::memchr(b' ', &line[start..]).map_or(line.len(), |at| start + at);
        target::check_characters(&line[start..end])?;
        let version = match line.get(end + 1..) {
            // Envoy: the space before the version was lost, which makes no request of HTTP/0.9 of it.
            None if line.ends_with(b"HTTP/1.1") => Version::Http11,
            // HTTP/0.9 has no version at all.
            None => Version::Http10,
            Some(version) => parse_version(version)?,
        };
        let version = match version {
            Version::Http10 if !settings.accept_http_10 => Version::Other,
            version => version,
        };
        Ok(Self { method, target: start..end, version })
    }
}

fn parse_method(method: &[u8], settings: &ServerSettings) -> Result<Method, BadRequest> {
    let known = METHODS.iter().any(|m| m.as_bytes() == method);
    if !known && !settings.allow_custom_methods {
        return Err(CODEC_ERROR);
    }
    Method::from_bytes(method).map_err(|_| CODEC_ERROR)
}

fn parse_version(version: &[u8]) -> Result<Version, BadRequest> {
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" | b"HTTP/0.9" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Ok(Version::Other)
        }
        _ => Err(CODEC_ERROR),
    }
}

/// The length of the request of HTTP/0.9 that `buf` begins with, if it does: a line with a target and no version.
pub(super) fn simple_request(buf: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b'\n', buf)? + 1;
    let line = buf[..end].trim_ascii_end();
    (memchr::memchr_iter(b' ', line).count() == 1).then_some(end)
}

/// Parses a head into `parsed`.
pub(super) fn parse(
    head: Head<'_>,
    settings: &ServerSettings,
    parsed: &mut Option<ParsedRequest>,
) -> Result<(), BadRequest> {
    let line = RequestLine::parse(head.line(), settings)?;
    let mut request = Request { line, fields: Fields::default(), settings };
    request.fields.collect(&head, Side::Request, settings.header_format.keeps_names())?;
    *parsed = Some(request.finish(head.bytes)?);
    Ok(())
}

/// Line and fields on the way to a [`ParsedRequest`].
struct Request<'a> {
    line: RequestLine,
    fields: Fields,
    settings: &'a ServerSettings,
}

impl Request<'_> {
    fn finish(&mut self, head: &Bytes) -> Result<ParsedRequest, BadRequest> {
        let framing = self.framing()?;
        let upgrade = self.upgrade(framing);
        let connect = self.line.method == Method::CONNECT;
        match &upgrade {
            Some(upgrade) => self.fields.keep_upgrade_fields(upgrade.as_bytes()),
            None if connect => {}
            None => {
                let drops_host = self.fields.connection.sanitize_request(&mut self.fields.map)?;
                self.fields.host.take_if(|_| drops_host);
            }
        }
        let target = head.slice(self.line.target.clone());
        let target = target::parse(&self.line.method, target, self.settings.allow_absolute_url)?;
        let has_host = self.fields.host.is_some() || target.authority.is_some();
        let absolute_form = target.scheme.is_some();
        let tunnel = match &upgrade {
            _ if connect => Some(Tunnel::Connect),
            Some(protocol) if protocol.eq_ignore_ascii_case("connect-udp") => Some(Tunnel::ConnectUdp),
            Some(_) => Some(Tunnel::Upgrade),
            None => None,
        };
        let incoming = IncomingRequest {
            keep_alive: self.keep_alive(),
            head: RequestHead {
                authority: self.authority(target.authority)?,
                omits_host: false,
                method: std::mem::take(&mut self.line.method),
                scheme: target.scheme.unwrap_or(Scheme::Http),
                path: target.path,
                protocol: None,
                version: if self.line.version == Version::Http11 { Protocol::Http11 } else { Protocol::Http10 },
                headers: std::mem::take(&mut self.fields.map),
                original_case: self.fields.names.take().map(Box::new),
            },
            body: Body::empty(),
            expects_continue: self.fields.expects_continue,
            upgrade,
            has_host: has_host || self.has_default_host(),
            absolute_form,
            header_bytes: self.fields.bytes,
            wire_bytes: head.len() as u64,
        };
        Ok(ParsedRequest { incoming, framing, tunnel })
    }

    /// RFC 9112 §6.3, without the lenient readings.
    fn framing(&mut self) -> Result<RequestFraming, BadRequest> {
        let coding = self.fields.coding;
        if coding != Coding::Absent && self.fields.content_length.is_some() {
            if !(coding == Coding::Chunked && self.settings.allow_chunked_length) {
                return Err(LENGTH_AND_CHUNKED);
            }
            self.fields.content_length = None;
            self.fields.map.remove(http::header::CONTENT_LENGTH);
        }
        if self.line.version == Version::Other {
            return Err(LOW_VERSION);
        }
        if self.line.method == Method::CONNECT {
            return self.connect_framing();
        }
        match (coding, self.fields.content_length) {
            (Coding::Other, _) => Err(INVALID_TRANSFER_ENCODING),
            // RFC 9112 §6.1: HTTP/1.0 with Transfer-Encoding has faulty framing.
            (Coding::Chunked, _) if self.line.version == Version::Http10 => Err(CODEC_ERROR),
            (Coding::Chunked, _) => Ok(RequestFraming::Chunked),
            (Coding::Absent, Some(0) | None) => Ok(RequestFraming::None),
            (Coding::Absent, Some(length)) => Ok(RequestFraming::Length(length)),
        }
    }

    fn has_default_host(&self) -> bool {
        self.line.version == Version::Http10 && !self.settings.default_host_for_http_10.is_empty()
    }

    fn connect_framing(&mut self) -> Result<RequestFraming, BadRequest> {
        if self.fields.coding != Coding::Absent {
            return Err(INVALID_TRANSFER_ENCODING);
        }
        if self.fields.content_length.is_some_and(|length| length != 0) {
            return Err(BODY_DISALLOWED);
        }
        self.fields.map.remove(http::header::CONTENT_LENGTH);
        Ok(RequestFraming::None)
    }

    /// The protocol asked for, where the request may ask. h2c is never upgraded to, as in Envoy. Upgrade counts
    /// neither in HTTP/1.0 (RFC 9110 §7.8) nor with a chunked body, which would have to end before the protocol begins.
    fn upgrade(&mut self, framing: RequestFraming) -> Option<ByteStr> {
        if !self.fields.is_upgrade() {
            return None;
        }
        let value = self.fields.upgrade.clone()?;
        if value.eq_ignore_ascii_case(b"h2c") {
            self.fields.map.remove("http2-settings");
            return None;
        }
        if self.line.version != Version::Http11 || framing == RequestFraming::Chunked {
            return None;
        }
        // What is no text is no protocol that anybody could have allowed, and asked for all the same.
        let value = ByteStr::from_utf8(value.clone())
            .unwrap_or_else(|_| ByteStr::from(String::from_utf8_lossy(&value).into_owned()));
        let Some(ignore) = &self.settings.ignore_upgrade else { return Some(value) };
        let kept: Vec<&str> = value.split(',').map(str::trim).filter(|v| !v.is_empty() && !ignore(v)).collect();
        if kept.is_empty() { None } else { Some(ByteStr::from(kept.join(","))) }
    }

    fn keep_alive(&self) -> bool {
        let connection = &self.fields.connection;
        match self.line.version {
            Version::Http11 => !connection.close,
            Version::Http10 | Version::Other => connection.keep_alive && !connection.close,
        }
    }

    /// The authority of the target wins over Host (RFC 9112 §3.2.2); Host must be sound even then.
    fn authority(&mut self, of_target: Option<ByteStr>) -> Result<ByteStr, BadRequest> {
        let host = match self.fields.host.take() {
            None if self.line.version == Version::Http10 => self.settings.default_host_for_http_10.clone(),
            None => ByteStr::EMPTY,
            Some(host) if target::is_authority(&host) => ByteStr::from_utf8(host).map_err(|_| INVALID_AUTHORITY)?,
            Some(_) => return Err(INVALID_AUTHORITY),
        };
        Ok(of_target.unwrap_or(host))
    }
}
