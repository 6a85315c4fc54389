//! The bytes of a client that should begin with TLS.

use std::future::poll_fn;
use std::io;

use nuncio_filter_api::Io;
use rustls::server::{Accepted, Acceptor};
use rustls::{AlertDescription, Error, HandshakeType, InvalidMessage, PeerIncompatible};
use tokio::io::AsyncWriteExt;

use super::buffer::Buffer;

/// First byte of a record that holds a handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// Bytes of a record before its content.
const RECORD: usize = 5;
/// The extension by which a client names the server (RFC 6066 §3).
const SERVER_NAME: u16 = 0;
/// The extension by which a client says which versions it speaks (RFC 8446 §4.2.1).
const SUPPORTED_VERSIONS: u16 = 43;
/// The extension by which a client asks for what an OCSP responder says (RFC 6066 §8).
const STATUS_REQUEST: u16 = 5;
/// The extension by which a server promises a ticket (RFC 5077 §3.2).
const SESSION_TICKET: u16 = 35;

/// Reads the ClientHello; its bytes stay in `incoming`. Whoever speaks HTTP instead is not answered, as by Envoy.
pub(super) async fn read(io: &mut Io, incoming: &mut Buffer) -> io::Result<Accepted> {
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        let before = incoming.filled().len();
        if poll_fn(|cx| incoming.poll_fill(io, cx)).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof"));
        }
        if before < RECORD {
            // Of fewer bytes nobody can tell what they begin.
            let Some(start) = incoming.filled().first_chunk() else { continue };
            if let Some((reason, alert)) = no_handshake(start) {
                if let Some(alert) = alert {
                    let _ = io.write_all(&first_alert(alert)).await;
                }
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
        }
        let mut came = &incoming.filled()[fed..];
        fed = incoming.filled().len();
        while !came.is_empty() {
            let (error, told) = match acceptor.read_tls(&mut came).map(|_| acceptor.accept()) {
                Ok(Ok(Some(accepted))) => return Ok(accepted),
                Ok(Ok(None)) => continue,
                Ok(Err((error, mut alert))) => {
                    let mut told = Vec::new();
                    alert.write_all(&mut told)?;
                    (error, told)
                }
                // More than a ClientHello may have.
                Err(_) => (Error::PeerSentOversizedRecord, Vec::new()),
            };
            let error = of_kind(incoming.filled(), error);
            if is_outdated(incoming.filled()) && unread(&error).is_none() {
                let _ = io.write_all(&first_alert(AlertDescription::ProtocolVersion)).await;
                let reason = Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled);
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            let told = match unread(&error) {
                Some(alert) => first_alert(alert).to_vec(),
                None if told.is_empty() => fatal_alert(description(&error)).to_vec(),
                None => told,
            };
            // Whoever does not take it learns by the end of the connection.
            let _ = io.write_all(&told).await;
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
    }
}

/// A record of an alert, while nothing is encrypted (RFC 8446 §6).
pub(super) fn fatal_alert(description: AlertDescription) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description.into()]
}

/// The same before it is known which version is spoken.
fn first_alert(description: AlertDescription) -> [u8; 7] {
    [21, 3, 1, 0, 2, 2, description.into()]
}

/// The error of a first message. BoringSSL looks at its kind before it is read, so that of another is what it complains of.
fn of_kind(bytes: &[u8], error: Error) -> Error {
    match bytes {
        [_, _, _, l0, l1, kind, ..] if [*l0, *l1] != [0, 0] && unread(&error).is_none() => {
            let got_type = HandshakeType::from(*kind);
            match got_type {
                HandshakeType::ClientHello => error,
                _ => Error::InappropriateHandshakeMessage { expect_types: vec![HandshakeType::ClientHello], got_type },
            }
        }
        _ => error,
    }
}

/// What BoringSSL tells a client whose first message it does not even read.
fn unread(error: &Error) -> Option<AlertDescription> {
    match error {
        Error::InvalidMessage(InvalidMessage::MessageTooLarge) => Some(AlertDescription::RecordOverflow),
        Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => Some(AlertDescription::IllegalParameter),
        Error::InappropriateHandshakeMessage { .. } => Some(AlertDescription::UnexpectedMessage),
        _ => None,
    }
}

/// What is told a client whose first message is none, of which rustls says nothing.
fn description(error: &Error) -> AlertDescription {
    match error {
        Error::InappropriateMessage { .. } => AlertDescription::UnexpectedMessage,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::PeerMisbehaved(_) => AlertDescription::IllegalParameter,
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        _ => AlertDescription::HandshakeFailure,
    }
}

/// Whether the client that has begun so says whom it wants to speak to.
pub(super) fn names_server(records: &[u8]) -> bool {
    has_extension(records, SERVER_NAME).unwrap_or(false)
}

/// Whether the client that has begun so asks for what an OCSP responder says.
pub(super) fn asks_for_status(records: &[u8]) -> bool {
    has_extension(records, STATUS_REQUEST).unwrap_or(false)
}

/// Whether the client that has begun so speaks TLS 1.3, whichever suites it lists.
pub(super) fn speaks_latest(records: &[u8]) -> bool {
    const TLS13: [u8; 2] = [3, 4];
    let versions = extension(records, SUPPORTED_VERSIONS).flatten();
    let versions = versions.as_deref().and_then(|content| prefixed(content, 1));
    versions.is_some_and(|(versions, _)| versions.chunks_exact(2).any(|version| version == TLS13))
}

/// Whether the client that has begun so speaks nothing later than TLS 1.1: rustls finds something else to refuse.
fn is_outdated(records: &[u8]) -> bool {
    // The version stands behind type and length of the message.
    let version = records.get(RECORD + 4..).and_then(|rest| rest.first_chunk());
    version.is_some_and(|version| u16::from_be_bytes(*version) < 0x0303)
        && has_extension(records, SUPPORTED_VERSIONS) != Some(true)
}

/// The name of a session, as we give it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SessionId {
    pub(super) id: Box<str>,
    /// The client gets a ticket too, by which it will ask for the session.
    pub(super) has_ticket: bool,
}

/// The name of the session in a ServerHello at the beginning of these records of ours.
pub(super) fn session_id(records: &[u8]) -> Option<SessionId> {
    /// Type of the message (RFC 5246 §7.4).
    const SERVER_HELLO: u8 = 2;
    let (head, message) = records.split_at_checked(RECORD)?;
    if head[0] != HANDSHAKE || *message.first()? != SERVER_HELLO {
        return None;
    }
    // Type and length, version, random.
    let (id, rest) = prefixed(message.get(4 + 2 + 32..)?, 1)?;
    if id.is_empty() {
        return None;
    }
    // Cipher suite and compression stand before the extensions.
    let has_ticket = rest.get(2 + 1..).and_then(|rest| find(rest, SESSION_TICKET)).flatten().is_some();
    Some(SessionId { id: id.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(), has_ticket })
}

/// Whether the ClientHello that these records hold has an extension; `None` where they end before.
fn has_extension(records: &[u8], wanted: u16) -> Option<bool> {
    extension(records, wanted).map(|found| found.is_some())
}

/// The content of an extension of the ClientHello that these records hold; `None` where they end before.
fn extension(records: &[u8], wanted: u16) -> Option<Option<Vec<u8>>> {
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
    Some(find(rest, wanted)?.map(<[u8]>::to_vec))
}

/// The content of an extension among those that stand here.
fn find(extensions: &[u8], wanted: u16) -> Option<Option<&[u8]>> {
    let (mut extensions, _) = prefixed(extensions, 2)?;
    while let Some((kind, after)) = extensions.split_first_chunk::<2>() {
        let content;
        (content, extensions) = prefixed(after, 2)?;
        if u16::from_be_bytes(*kind) == wanted {
            return Some(Some(content));
        }
    }
    Some(None)
}

/// What stands behind its length of `width` bytes, and the rest.
fn prefixed(bytes: &[u8], width: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(width)?;
    rest.split_at_checked(length.iter().fold(0, |all, byte| all << 8 | usize::from(*byte)))
}

/// What BoringSSL says of bytes that begin no handshake, and answers them. HTTP is not answered.
fn no_handshake(start: &[u8; RECORD]) -> Option<(&'static str, Option<AlertDescription>)> {
    match start {
        [b'G', b'E', b'T', b' ', _] | b"POST " | b"HEAD " | [b'P', b'U', b'T', b' ', _] => {
            Some(("268435612:SSL routines:OPENSSL_internal:HTTP_REQUEST", None))
        }
        b"CONNE" => Some(("268435611:SSL routines:OPENSSL_internal:HTTPS_PROXY_REQUEST", None)),
        [HANDSHAKE, 3, ..] => None,
        [_, 3, ..] => {
            let alert = Some(AlertDescription::UnexpectedMessage);
            Some(("268435681:SSL routines:OPENSSL_internal:UNEXPECTED_RECORD", alert))
        }
        _ => {
            let alert = Some(AlertDescription::ProtocolVersion);
            Some(("268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER", alert))
        }
    }
}

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
    fn the_name_of_a_session_is_read_from_what_gives_it() {
        let hello = |id: &[u8], extensions: &[u8]| {
            let length = u8::try_from(id.len()).unwrap();
            let message = [&[2, 0, 0, 0, 3, 3][..], &[0; 32], &[length], id, &[0x13, 1, 0], extensions].concat();
            [&[22, 3, 3, 0, u8::try_from(message.len()).unwrap()][..], &message].concat()
        };
        let named = |has_ticket| Some(SessionId { id: "00ab0c".into(), has_ticket });
        assert_eq!(session_id(&hello(&[0, 0xab, 12], &[])), named(false));
        assert_eq!(session_id(&hello(&[0, 0xab, 12], &[0, 8, 0, 23, 0, 0, 0, 35, 0, 0])), named(true));
        assert_eq!(session_id(&hello(&[0, 0xab, 12], &[0, 4, 0, 23, 0, 0])), named(false));
        assert_eq!(session_id(&hello(&[], &[])), None);
        assert_eq!(session_id(&[21, 3, 3, 0, 2, 2, 40]), None);
        assert_eq!(session_id(&[]), None);
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

    #[test]
    fn who_speaks_the_latest_version_says_so_in_its_extension() {
        // As `hello` has it, one extension with this content.
        let with = |content: &[u8]| {
            let mut records = hello(&[43], 200);
            records.truncate(records.len() - 7);
            let length = u8::try_from(content.len()).unwrap();
            records.extend([&[0, length + 4, 0, 43, 0, length][..], content].concat());
            records[4] = u8::try_from(records.len() - RECORD).unwrap();
            records
        };
        for (content, expected) in [
            (&[4, 3, 4, 3, 3][..], true),
            (&[6, 0x7a, 0x7a, 3, 3, 3, 4], true),
            (&[2, 3, 3], false),
            (&[2, 3, 4, 9], true),
            (&[4, 3, 3], false),
            (&[3, 4], false),
            (&[], false),
        ] {
            assert_eq!(speaks_latest(&with(content)), expected, "{content:?}");
        }
        assert!(!speaks_latest(&hello(&[0, 5], 200)), "suites of TLS 1.3 are no version");
        assert!(!speaks_latest(&[]));
    }
}
