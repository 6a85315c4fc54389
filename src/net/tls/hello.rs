//! The bytes of a client that should begin with TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nuncio_filter_api::{Io, Transport, forward_write};
use tokio::io::{AsyncRead, ReadBuf};

/// First byte of a record that holds a handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// Bytes of a record before its content.
const RECORD: usize = 5;
/// First bytes that are kept to see what a client asks for; what asks in later ones is not seen.
const MOST: usize = 16 << 10;
/// The extension by which a client asks for what an OCSP responder says (RFC 6066 §8).
const STATUS_REQUEST: u16 = 5;

/// A connection whose first bytes are looked at: whoever does not speak TLS is not answered in it, as by Envoy.
pub(super) struct Hello {
    io: Io,
    is_checked: bool,
    /// What came before the handshake began in earnest.
    first: Vec<u8>,
    is_open: bool,
}

impl Hello {
    pub(super) fn new(io: Io) -> Self {
        Self { io, is_checked: false, first: Vec::new(), is_open: true }
    }

    pub(super) fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }

    /// Whether the client asks for what an OCSP responder says. From now on nothing is kept.
    pub(super) fn asks_for_status(&mut self) -> bool {
        self.is_open = false;
        has_extension(&std::mem::take(&mut self.first), STATUS_REQUEST).unwrap_or(false)
    }
}

/// Whether the ClientHello that these records hold has an extension; `None` where they end before.
fn has_extension(records: &[u8], wanted: u16) -> Option<bool> {
    let mut hello = Vec::with_capacity(records.len());
    let mut rest = records;
    while let Some((head, content)) = rest.split_at_checked(RECORD) {
        let length = usize::from(u16::from_be_bytes([head[3], head[4]])).min(content.len());
        hello.extend_from_slice(&content[..length]);
        rest = &content[length..];
    }
    // Of the message: type and length, version, random; then session, cipher suites, compression.
    let mut rest = hello.get(4 + 2 + 32..)?;
    for width in [1, 2, 1] {
        (_, rest) = prefixed(rest, width)?;
    }
    let (mut extensions, _) = prefixed(rest, 2)?;
    while let Some((kind, after)) = extensions.split_first_chunk::<2>() {
        if u16::from_be_bytes(*kind) == wanted {
            return Some(true);
        }
        (_, extensions) = prefixed(after, 2)?;
    }
    Some(false)
}

/// What stands behind its length of `width` bytes, and the rest.
fn prefixed(bytes: &[u8], width: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(width)?;
    rest.split_at_checked(length.iter().fold(0, |all, byte| all << 8 | usize::from(*byte)))
}

/// What BoringSSL says of whoever begins otherwise; methods of HTTP are told by their first letter.
fn what_it_is(first: u8) -> &'static str {
    match first {
        b'G' | b'H' | b'P' => "268435612:SSL routines:OPENSSL_internal:HTTP_REQUEST",
        b'C' => "268435613:SSL routines:OPENSSL_internal:HTTPS_PROXY_REQUEST",
        _ => "268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER",
    }
}

impl Transport for Hello {
    fn reset_on_drop(&mut self) {
        self.io.reset_on_drop();
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_closed(cx)
    }
}

impl AsyncRead for Hello {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if !self.is_checked
            && let Some(first) = buf.filled().get(before)
        {
            if *first != HANDSHAKE {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what_it_is(*first))));
            }
            self.is_checked = true;
        }
        if self.is_open {
            let room = MOST - self.first.len();
            let came = &buf.filled()[before..];
            self.first.extend_from_slice(&came[..came.len().min(room)]);
        }
        Poll::Ready(Ok(()))
    }
}

forward_write!(Hello, io);

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello with these extensions, in records of `piece` bytes.
    fn hello(extensions: &[u16], piece: usize) -> Vec<u8> {
        let extensions: Vec<u8> =
            extensions.iter().flat_map(|kind| [&kind.to_be_bytes()[..], &[0, 1, 7]].concat()).collect();
        let length = u16::try_from(extensions.len()).unwrap().to_be_bytes();
        let message =
            [&[1, 0, 0, 0, 3, 3][..], &[0; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &length, &extensions].concat();
        let record = |part: &[u8]| [&[22, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat();
        message.chunks(piece).flat_map(record).collect()
    }

    #[test]
    fn a_client_is_seen_to_ask_however_its_records_are_cut() {
        for piece in [1, 7, 200] {
            assert_eq!(has_extension(&hello(&[0, 43, 5, 10], piece), STATUS_REQUEST), Some(true), "{piece}");
            assert_eq!(has_extension(&hello(&[0, 43, 10], piece), STATUS_REQUEST), Some(false), "{piece}");
        }
        let whole = hello(&[0, 43, 10], 200);
        for end in 0..whole.len() {
            assert_ne!(has_extension(&whole[..end], STATUS_REQUEST), Some(true), "{end}");
        }
    }
}
