//! The records that a hello comes in (RFC 8446 §5.1), read as BoringSSL reads them.

use std::borrow::Cow;
use std::fmt;

use nuncio_config::tls::{ALERTS, alert_name};

/// What the records of a client hold.
pub(super) enum Records<'a> {
    /// They may hold more.
    More,
    /// The client says that it closes.
    Closed,
    /// A handshake message of `end` bytes, perhaps with more behind it, and how many bytes its records take.
    Message { message: Cow<'a, [u8]>, end: usize, taken: usize },
    /// A hello of SSLv2 of so many bytes, behind the two that tell of them.
    V2 { length: usize },
    /// No handshake.
    Trouble(Trouble),
}

/// Why there is no hello, as BoringSSL tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    reason: u32,
    name: Cow<'static, str>,
}

pub(super) const BAD_ALERT: Trouble = Trouble::new(102, "BAD_ALERT");
pub(super) const PARSE_FAILED: Trouble = Trouble::new(131, "CLIENTHELLO_PARSE_FAILED");
pub(super) const REJECTED: Trouble = Trouble::new(133, "CONNECTION_REJECTED");
pub(super) const DECODE: Trouble = Trouble::new(137, "DECODE_ERROR");
pub(super) const TOO_LONG: Trouble = Trouble::new(146, "ENCRYPTED_LENGTH_TOO_LONG");
pub(super) const BAD_EXTENSION: Trouble = Trouble::new(149, "ERROR_PARSING_EXTENSION");
pub(super) const EXCESSIVE: Trouble = Trouble::new(150, "EXCESSIVE_MESSAGE_SIZE");
pub(super) const HTTPS_PROXY_REQUEST: Trouble = Trouble::new(157, "HTTPS_PROXY_REQUEST");
pub(super) const HTTP_REQUEST: Trouble = Trouble::new(156, "HTTP_REQUEST");
pub(super) const TOO_LARGE: Trouble = Trouble::new(200, "RECORD_TOO_LARGE");
pub(super) const MANY_EMPTY: Trouble = Trouble::new(219, "TOO_MANY_EMPTY_FRAGMENTS");
pub(super) const MANY_WARNINGS: Trouble = Trouble::new(220, "TOO_MANY_WARNING_ALERTS");
pub(super) const UNEXPECTED_MESSAGE: Trouble = Trouble::new(223, "UNEXPECTED_MESSAGE");
pub(super) const UNEXPECTED_RECORD: Trouble = Trouble::new(225, "UNEXPECTED_RECORD");
pub(super) const UNKNOWN_ALERT: Trouble = Trouble::new(227, "UNKNOWN_ALERT_TYPE");
pub(super) const WRONG_VERSION: Trouble = Trouble::new(247, "WRONG_VERSION_NUMBER");
pub(super) const MORE_HANDSHAKE: Trouble = Trouble::new(255, "EXCESS_HANDSHAKE_DATA");

/// Number of BoringSSL's errors of TLS, to which the reason is added.
const SSL: u32 = 16 << 24;

/// Type of a record that holds a handshake, and of its first message.
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const CLIENT_HELLO: u8 = 1;
/// Type of a record that holds an alert.
pub(super) const ALERT: u8 = 21;
/// Levels of alerts.
const WARNING: u8 = 1;
const FATAL: u8 = 2;
/// Of a hello of SSLv2.
const MAX_V2_LENGTH: usize = 4 * 1024;
/// Of a record, with all that encryption may add to its content.
const MAX_RECORD: usize = 16 * 1024 + 256 + 64;
/// Of a message before the client is known.
const MAX_MESSAGE: usize = 16 * 1024;
/// Records without content, and warnings, in a row, before somebody is taken to be playing.
pub(super) const MAX_EMPTY: usize = 32;
const MAX_WARNINGS: usize = 4;

/// Reads what is there of the first message.
pub(super) fn read(bytes: &[u8]) -> Records<'_> {
    let (mut rest, mut message) = (bytes, Cow::Borrowed(&[][..]));
    let (mut empty, mut warnings) = (0, 0);
    loop {
        let Some((header, body)) = rest.split_first_chunk::<5>() else { return Records::More };
        if rest.len() == bytes.len()
            && let Some(found) = without_records(header)
        {
            return found;
        }
        if header[1] != 3 {
            return Records::Trouble(WRONG_VERSION);
        }
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length > MAX_RECORD {
            return Records::Trouble(TOO_LONG);
        }
        let Some((record, next)) = body.split_at_checked(length) else { return Records::More };
        rest = next;
        empty = if record.is_empty() { empty + 1 } else { 0 };
        match header[0] {
            _ if empty > MAX_EMPTY => return Records::Trouble(MANY_EMPTY),
            HANDSHAKE => {}
            ALERT => match alert(record) {
                Ok(()) if warnings == MAX_WARNINGS => return Records::Trouble(MANY_WARNINGS),
                Ok(()) => {
                    warnings += 1;
                    continue;
                }
                Err(found) => return found,
            },
            _ => return Records::Trouble(UNEXPECTED_RECORD),
        }
        if !record.is_empty() {
            warnings = 0;
        }
        match message.is_empty() {
            true => message = Cow::Borrowed(record),
            false => message.to_mut().extend_from_slice(record),
        }
        let Some((kind, length)) = head(&message) else { continue };
        if length > MAX_MESSAGE {
            return Records::Trouble(EXCESSIVE);
        }
        let end = 4 + length;
        if message.len() < end {
            continue;
        }
        return match kind {
            CLIENT_HELLO => Records::Message { message, end, taken: bytes.len() - rest.len() },
            _ => Records::Trouble(UNEXPECTED_MESSAGE),
        };
    }
}

/// What stands where the first record should, if that is known not to be one.
fn without_records(header: &[u8; 5]) -> Option<Records<'static>> {
    Some(match header {
        // SSLv2 had a hello of its own, in which clients could ask for newer versions.
        [high @ 0x80..=0xff, low, CLIENT_HELLO, 3, _] => match usize::from(u16::from_be_bytes([high & 0x7f, *low])) {
            length if length > MAX_V2_LENGTH => Records::Trouble(TOO_LARGE),
            length => Records::V2 { length },
        },
        [b'G', b'E', b'T', b' ', _] | [b'H', b'E', b'A', b'D', b' '] | b"POST " | [b'P', b'U', b'T', b' ', _] => {
            Records::Trouble(HTTP_REQUEST)
        }
        b"CONNE" => Records::Trouble(HTTPS_PROXY_REQUEST),
        _ => return None,
    })
}

/// A warning is passed over; any other alert is the end.
fn alert(record: &[u8]) -> Result<(), Records<'static>> {
    match *record {
        [WARNING, 0] => Err(Records::Closed),
        [WARNING, _] => Ok(()),
        [FATAL, alert] => {
            Err(Records::Trouble(Trouble { reason: ALERTS + u32::from(alert), name: alert_name(alert).into() }))
        }
        [_, _] => Err(Records::Trouble(UNKNOWN_ALERT)),
        _ => Err(Records::Trouble(BAD_ALERT)),
    }
}

/// Type and length of a handshake message.
fn head(message: &[u8]) -> Option<(u8, usize)> {
    let [kind, high, mid, low, ..] = *message else { return None };
    Some((kind, usize::from(high) << 16 | usize::from(mid) << 8 | usize::from(low)))
}

// === impl Trouble ===

impl Trouble {
    const fn new(reason: u32, name: &'static str) -> Self {
        Self { reason, name: Cow::Borrowed(name) }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, name } = self;
        write!(f, "TLS_error|error:{:08x}:SSL routines:OPENSSL_internal:{name}:TLS_error_end", SSL + reason)
    }
}
