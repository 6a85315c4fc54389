//! The ClientHello (RFC 8446 §4.1.2), as far as it is looked at before a handshake.

use std::borrow::Cow;

use super::records::{self, BAD_EXTENSION, CLIENT_HELLO, DECODE, MORE_HANDSHAKE, PARSE_FAILED, Records, Trouble};

/// What the first bytes of a client are.
pub(super) enum Parsed<'a> {
    /// They may become a hello.
    More,
    /// No hello.
    NotTls(Trouble),
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

pub(super) const SERVER_NAME: u16 = 0;
pub(super) const SUPPORTED_GROUPS: u16 = 10;
pub(super) const POINT_FORMATS: u16 = 11;
pub(super) const SIGNATURE_ALGORITHMS: u16 = 13;
pub(super) const ALPN: u16 = 16;
pub(super) const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_HELLO: u16 = 0xfe0d;

/// Reads what is there of a hello.
pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    match records::read(bytes) {
        Records::More => Parsed::More,
        Records::Closed => Parsed::Closed,
        Records::V2 { length } => parse_v2(bytes, length),
        Records::Message { message, end, taken } => Parsed::of(Hello::parse(message, end), taken),
        Records::Trouble(trouble) => Parsed::NotTls(trouble),
    }
}

/// A hello of `length` bytes behind the two that tell of them.
fn parse_v2(bytes: &[u8], length: usize) -> Parsed<'_> {
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
    Parsed::of(Hello::parse(Cow::Owned(message), end), 2 + length)
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

// === impl Parsed ===

impl<'a> Parsed<'a> {
    /// A hello that takes so many bytes, if it is one.
    fn of(hello: Result<Hello<'a>, Trouble>, taken: usize) -> Self {
        match hello {
            Ok(hello) => Self::Hello(Box::new(hello), taken),
            Err(trouble) => Self::NotTls(trouble),
        }
    }
}

// === impl Hello ===

impl<'a> Hello<'a> {
    fn parse(message: Cow<'a, [u8]>, end: usize) -> Result<Self, Trouble> {
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
            reader.short().filter(|compression| !compression.is_empty())?;
            let extensions = if reader.0.is_empty() { &reader.0[..0] } else { reader.long()? };
            reader.0.is_empty().then_some((version, ciphers, extensions))
        };
        let (version, ciphers, extensions) = read().ok_or(PARSE_FAILED)?;
        let all = list(extensions).ok_or(PARSE_FAILED)?;
        if end < message.len() {
            return Err(MORE_HANDSHAKE);
        }
        if find(&all, ENCRYPTED_HELLO).is_some_and(|content| !is_encrypted_hello(content)) {
            return Err(DECODE);
        }
        let server_name = server_name(&all)?;
        let (ciphers, extensions) = (place(ciphers), place(extensions));
        Ok(Self { version, ciphers, extensions, server_name, message })
    }

    /// Whether its version is one of TLS. Envoy: what the extension of versions says is the handshake's affair.
    pub(super) fn is_of_known_version(&self) -> bool {
        (0x301..=0x304).contains(&self.version)
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
fn server_name(all: &[(u16, &[u8])]) -> Result<Option<Box<[u8]>>, Trouble> {
    let Some(content) = find(all, SERVER_NAME) else { return Ok(None) };
    let mut reader = Reader(content);
    let mut read = || {
        let mut names = Reader(reader.long()?);
        let (kind, name) = (names.u8()?, names.long()?);
        (reader.0.is_empty() && names.0.is_empty()).then_some((kind, name))
    };
    match read() {
        Some((0, name)) if (1..=255).contains(&name.len()) && !name.contains(&0) => Ok(Some(name.into())),
        _ => Err(BAD_EXTENSION),
    }
}

/// RFC 9849 §5: of the outer kind with all that it has, or of the other.
fn is_encrypted_hello(content: &[u8]) -> bool {
    const OUTER: u8 = 0;
    let mut reader = Reader(content);
    match reader.u8() {
        // Two identifiers of ciphers and one of the configuration, a key and what it encrypts.
        Some(OUTER) => {
            reader.take(5).is_some() && reader.long().is_some() && reader.long().is_some() && reader.0.is_empty()
        }
        other => other.is_some(),
    }
}

#[cfg(test)]
mod tests;
