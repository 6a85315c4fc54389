//! The ClientHello (RFC 8446 §4.1.2), as far as it is looked at before a handshake.

use std::borrow::Cow;

/// What the first bytes of a client are.
pub(super) enum Parsed<'a> {
    /// They may become a hello.
    More,
    /// No hello; the reason as BoringSSL names it.
    NotTls(&'static str),
    /// The client says that it closes.
    Closed,
    /// A hello, and how many bytes it takes with its records.
    Hello(Box<Hello<'a>>, usize),
}

/// What a client says first.
pub(super) struct Hello<'a> {
    message: Cow<'a, [u8]>,
    pub(super) version: u16,
    ciphers: std::ops::Range<usize>,
    extensions: std::ops::Range<usize>,
    pub(super) server_name: Option<Box<[u8]>>,
}

const WRONG_VERSION: &str = "TLS_error|error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end";
const HTTP_REQUEST: &str = "TLS_error|error:1000009c:SSL routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end";
const HTTPS_PROXY_REQUEST: &str =
    "TLS_error|error:1000009d:SSL routines:OPENSSL_internal:HTTPS_PROXY_REQUEST:TLS_error_end";
const TOO_LONG: &str = "TLS_error|error:10000092:SSL routines:OPENSSL_internal:DATA_LENGTH_TOO_LONG:TLS_error_end";
const EXCESSIVE: &str = "TLS_error|error:10000094:SSL routines:OPENSSL_internal:EXCESSIVE_MESSAGE_SIZE:TLS_error_end";
const UNEXPECTED: &str = "TLS_error|error:100000f4:SSL routines:OPENSSL_internal:UNEXPECTED_MESSAGE:TLS_error_end";
const DECODE: &str = "TLS_error|error:10000089:SSL routines:OPENSSL_internal:DECODE_ERROR:TLS_error_end";
const UNSUPPORTED: &str = "TLS_error|error:100000f0:SSL routines:OPENSSL_internal:UNSUPPORTED_PROTOCOL:TLS_error_end";

/// Type of a record that holds a handshake, and of its first message.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Type of a record that holds an alert.
const ALERT: u8 = 21;
/// Of a hello of SSLv2.
const MAX_V2_LENGTH: usize = 4 * 1024;
/// Of a record, and of a message before the client is known.
const MAX_LENGTH: usize = 16 * 1024;
/// Records without content, before somebody is taken to be playing.
const MAX_EMPTY: usize = 32;

pub(super) const SERVER_NAME: u16 = 0;
pub(super) const SUPPORTED_GROUPS: u16 = 10;
pub(super) const POINT_FORMATS: u16 = 11;
pub(super) const SIGNATURE_ALGORITHMS: u16 = 13;
pub(super) const ALPN: u16 = 16;
pub(super) const SUPPORTED_VERSIONS: u16 = 43;

/// Reads what is there of a hello.
pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let (mut rest, mut message, mut empty) = (bytes, Cow::Borrowed(&[][..]), 0);
    loop {
        let Some((header, body)) = rest.split_first_chunk::<5>() else { return Parsed::More };
        match header {
            // SSLv2 had a hello of its own, in which clients could ask for newer versions.
            [high @ 0x80..=0xff, _, CLIENT_HELLO, 3, _] if rest.len() == bytes.len() => {
                return parse_v2(bytes, u16::from_be_bytes([high & 0x7f, header[1]]).into());
            }
            [ALERT, 3, _, 0, 2] => match body {
                [1, 0, ..] => return Parsed::Closed,
                [_, _, ..] => return Parsed::NotTls(UNEXPECTED),
                _ => return Parsed::More,
            },
            _ => {}
        }
        if header[0] != HANDSHAKE || header[1] != 3 {
            return Parsed::NotTls(not_tls(header));
        }
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length > MAX_LENGTH {
            return Parsed::NotTls(TOO_LONG);
        }
        let Some((record, next)) = body.split_at_checked(length) else { return Parsed::More };
        empty += usize::from(record.is_empty());
        if empty > MAX_EMPTY {
            return Parsed::NotTls(UNEXPECTED);
        }
        match message.is_empty() {
            true => message = Cow::Borrowed(record),
            false => message.to_mut().extend_from_slice(record),
        }
        rest = next;
        let Some((kind, length)) = head(&message) else { continue };
        if length > MAX_LENGTH {
            return Parsed::NotTls(EXCESSIVE);
        }
        if message.len() < 4 + length {
            continue;
        }
        if kind != CLIENT_HELLO {
            return Parsed::NotTls(UNEXPECTED);
        }
        return match Hello::parse(message, 4 + length) {
            Ok(hello) => Parsed::Hello(Box::new(hello), bytes.len() - rest.len()),
            Err(reason) => Parsed::NotTls(reason),
        };
    }
}

/// A hello of `length` bytes behind the two that tell of them.
fn parse_v2(bytes: &[u8], length: usize) -> Parsed<'_> {
    if length > MAX_V2_LENGTH {
        return Parsed::NotTls(TOO_LONG);
    }
    let Some(body) = bytes.get(2..2 + length) else { return Parsed::More };
    let read = || {
        let mut reader = Reader(body.get(1..)?);
        let version = reader.u16()?;
        let (ciphers, session, challenge) = (reader.u16()?, reader.u16()?, reader.u16()?);
        let ciphers = reader.take(ciphers.into()).filter(|ciphers| ciphers.len() % 3 == 0)?;
        reader.take(session.into())?;
        reader.take(challenge.into()).filter(|_| reader.0.is_empty())?;
        // Those whose first byte is not 0 are of SSLv2.
        let ciphers: Vec<u8> = ciphers.chunks_exact(3).filter(|c| c[0] == 0).flat_map(|c| [c[1], c[2]]).collect();
        let length = u16::try_from(ciphers.len()).ok()?;
        let mut message = vec![CLIENT_HELLO, 0, 0, 0];
        message.extend(version.to_be_bytes());
        message.extend([0; 33]);
        message.extend(length.to_be_bytes());
        message.extend(ciphers);
        message.extend([1, 0]);
        Some(message)
    };
    let Some(message) = read() else { return Parsed::NotTls(DECODE) };
    let end = message.len();
    match Hello::parse(Cow::Owned(message), end) {
        Ok(hello) => Parsed::Hello(Box::new(hello), 2 + length),
        Err(reason) => Parsed::NotTls(reason),
    }
}

/// Type and length of a handshake message.
fn head(message: &[u8]) -> Option<(u8, usize)> {
    let [kind, high, mid, low, ..] = *message else { return None };
    Some((kind, usize::from(high) << 16 | usize::from(mid) << 8 | usize::from(low)))
}

/// What BoringSSL says of whoever speaks something else.
fn not_tls(header: &[u8; 5]) -> &'static str {
    match header {
        [b'G', b'E', b'T', b' ', _] | [b'H', b'E', b'A', b'D', b' '] | b"POST " | [b'P', b'U', b'T', b' ', _] => {
            HTTP_REQUEST
        }
        b"CONNE" => HTTPS_PROXY_REQUEST,
        [HANDSHAKE, ..] => WRONG_VERSION,
        [0x14 | 0x15 | 0x17, 3, ..] => UNEXPECTED,
        _ => WRONG_VERSION,
    }
}

/// Takes values from the front.
#[derive(Clone, Copy)]
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes whose count is told by one byte before them.
    fn short(&mut self) -> Option<&'b [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// The same with two bytes.
    fn long(&mut self) -> Option<&'b [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

impl<'a> Hello<'a> {
    fn parse(message: Cow<'a, [u8]>, end: usize) -> Result<Self, &'static str> {
        let body = &message[4..end];
        let mut reader = Reader(body);
        let place = |part: &[u8]| {
            let start = part.as_ptr() as usize - message.as_ptr() as usize;
            start..start + part.len()
        };
        let mut read = || {
            let version = reader.u16()?;
            reader.take(32)?;
            let session = reader.short().filter(|id| id.len() <= 32);
            let ciphers = session.and_then(|_| reader.long()).filter(|c| c.len() >= 2 && c.len() % 2 == 0)?;
            let compression = reader.short().filter(|methods| !methods.is_empty())?;
            let extensions = if reader.0.is_empty() { &reader.0[..0] } else { reader.long()? };
            reader.0.is_empty().then_some((version, ciphers, compression, extensions))
        };
        let (version, ciphers, compression, extensions) = read().ok_or(DECODE)?;
        let all = list(extensions).ok_or(DECODE)?;
        let server_name = server_name(&all)?;
        let versions = find(&all, SUPPORTED_VERSIONS);
        let is_known = match versions {
            Some(versions) => numbers(Reader(versions).short().ok_or(DECODE)?).any(|v| (0x301..=0x304).contains(&v)),
            None => version >= 0x301,
        };
        match () {
            () if !is_known => Err(UNSUPPORTED),
            () if !compression.contains(&0) => Err(DECODE),
            () => {
                let (ciphers, extensions) = (place(ciphers), place(extensions));
                Ok(Self { version, ciphers, extensions, server_name, message })
            }
        }
    }

    /// The cipher suites offered.
    pub(super) fn ciphers(&self) -> impl Iterator<Item = u16> {
        numbers(&self.message[self.ciphers.clone()])
    }

    /// Type and content of each extension.
    pub(super) fn extensions(&self) -> Vec<(u16, &[u8])> {
        list(&self.message[self.extensions.clone()]).unwrap_or_default()
    }

    /// The content of the extension of this type.
    pub(super) fn extension(&self, kind: u16) -> Option<&[u8]> {
        find(&self.extensions(), kind)
    }

    /// The protocols of ALPN; `None` where there are none, or none that can be read: the handshake will tell.
    pub(super) fn protocols(&self) -> Option<Vec<&[u8]>> {
        let mut wire = Reader(self.extension(ALPN)?);
        let mut list = Reader(wire.long().filter(|list| wire.0.is_empty() && list.len() >= 2)?);
        let mut all = Vec::new();
        while !list.0.is_empty() {
            all.push(list.short().filter(|name| !name.is_empty())?);
        }
        Some(all)
    }
}

fn find<'b>(all: &[(u16, &'b [u8])], kind: u16) -> Option<&'b [u8]> {
    all.iter().find(|(known, _)| *known == kind).map(|(_, content)| *content)
}

/// Type and content of each extension; `None` where they cannot be read, or one is there twice.
fn list(bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut reader = Reader(bytes);
    let mut all: Vec<(u16, &[u8])> = Vec::new();
    let mut known = std::collections::HashSet::new();
    while !reader.0.is_empty() {
        let extension = (reader.u16()?, reader.long()?);
        if !known.insert(extension.0) {
            return None;
        }
        all.push(extension);
    }
    Some(all)
}

/// Numbers of two bytes each.
pub(super) fn numbers(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// RFC 6066 §3: one host name, without zero bytes.
fn server_name(all: &[(u16, &[u8])]) -> Result<Option<Box<[u8]>>, &'static str> {
    let Some(content) = find(all, SERVER_NAME) else { return Ok(None) };
    let mut reader = Reader(content);
    let mut read = || {
        let mut names = Reader(reader.long()?);
        let (kind, name) = (names.u8()?, names.long()?);
        (reader.0.is_empty() && names.0.is_empty()).then_some((kind, name))
    };
    match read() {
        Some((0, name)) if (1..=255).contains(&name.len()) && !name.contains(&0) => Ok(Some(name.into())),
        _ => Err(DECODE),
    }
}

#[cfg(test)]
mod tests;
