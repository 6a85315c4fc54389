//! Capsules (RFC 9297 §3.2), and the datagrams in them that carry UDP (RFC 9298 §5).
//!
//! ```text
//! capsule:  type (varint) | length (varint) | value
//! DATAGRAM: type 0; value: context (varint) | payload, which is UDP's where the context is 0
//! ```

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of capsules that are not whole yet, at most, as in Envoy.
const MAX_BUFFERED: usize = 1 << 20;

/// The type of a capsule that holds a datagram.
const DATAGRAM: u64 = 0;

/// The context of datagrams that are UDP's.
const UDP: u64 = 0;

/// Why bytes are no capsules. The words are Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CapsuleError {
    /// A datagram without context.
    #[error("Visitor failed to process capsule")]
    NoContext,
    #[error("Refusing to buffer too much capsule data")]
    TooLong,
    #[error("Incomplete capsule left at the end of the stream")]
    Incomplete,
}

/// Takes capsules out of a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct Capsules {
    buffer: BytesMut,
}

impl Capsules {
    /// Adds bytes of the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The payload of the next datagram that is UDP's, if it is here as a whole. What is of other types or contexts is
    /// passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, CapsuleError> {
        loop {
            let Some((kind, length, header)) = self.header() else { return self.incomplete() };
            let whole = usize::try_from(length).ok().and_then(|length| length.checked_add(header));
            let Some(whole) = whole.filter(|whole| *whole <= self.buffer.len()) else { return self.incomplete() };
            let mut value = self.buffer.split_to(whole).freeze();
            value.advance(header);
            if kind != DATAGRAM {
                continue;
            }
            let (context, length) = varint(&value).ok_or(CapsuleError::NoContext)?;
            value.advance(length);
            if context == UDP {
                return Ok(Some(value));
            }
        }
    }

    /// The stream has ended.
    pub(crate) fn end(&self) -> Result<(), CapsuleError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(CapsuleError::Incomplete) }
    }

    /// Type and length of the capsule at the front, and the length of both.
    fn header(&self) -> Option<(u64, u64, usize)> {
        let (kind, first) = varint(&self.buffer)?;
        let (length, second) = varint(&self.buffer[first..])?;
        Some((kind, length, first + second))
    }

    fn incomplete(&self) -> Result<Option<Bytes>, CapsuleError> {
        if self.buffer.len() > MAX_BUFFERED { Err(CapsuleError::TooLong) } else { Ok(None) }
    }
}

/// A capsule with a datagram of UDP.
pub(crate) fn datagram(payload: &[u8]) -> Bytes {
    let mut capsule = Vec::with_capacity(payload.len() + 10);
    put_varint(&mut capsule, DATAGRAM);
    put_varint(&mut capsule, payload.len() as u64 + 1);
    put_varint(&mut capsule, UDP);
    capsule.extend_from_slice(payload);
    capsule.into()
}

/// A variable-length integer (RFC 9000 §16) and its length.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    Some((value, length))
}

/// `value` is below 2^30 here: no datagram is longer.
fn put_varint(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_be_bytes();
    match value {
        0..0x40 => out.push(bytes[7]),
        0x40..0x4000 => out.extend([0x40 | bytes[6], bytes[7]]),
        _ => out.extend([0x80 | bytes[4], bytes[5], bytes[6], bytes[7]]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[&[u8]], expected: &[&[u8]]) {
        let mut capsules = Capsules::default();
        let mut found = Vec::new();
        for piece in pieces {
            capsules.push(piece);
            while let Some(payload) = capsules.next().unwrap() {
                found.push(payload);
            }
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn datagrams_are_found_however_the_bytes_are_cut() {
        check(&[b"\x00\x03\x00hi\x00\x01\x00"], &[b"hi", b""]);
        check(&[b"\x00", b"\x03", b"\x00h", b"i"], &[b"hi"]);
        check(&[b"\x40\x00\x80\x00\x00\x04\x40\x00hi"], &[b"hi"]);
    }

    #[test]
    fn other_types_and_contexts_are_passed_over() {
        check(&[b"\x05\x02xx\x00\x02\x02z\x00\x02\x00y"], &[b"y"]);
    }

    #[test]
    fn a_datagram_without_context_is_refused() {
        for bytes in [&b"\x00\x00"[..], b"\x00\x01\x40"] {
            let mut capsules = Capsules::default();
            capsules.push(bytes);
            assert_eq!(capsules.next(), Err(CapsuleError::NoContext));
        }
    }

    #[test]
    fn what_is_not_whole_is_bounded() {
        let mut capsules = Capsules::default();
        capsules.push(b"\x00\xff\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!((capsules.next(), capsules.end()), (Ok(None), Err(CapsuleError::Incomplete)));
        capsules.push(&vec![0; MAX_BUFFERED]);
        assert_eq!(capsules.next(), Err(CapsuleError::TooLong));
    }

    #[test]
    fn what_is_made_is_read_again() {
        for len in [0, 1, 62, 63, 64, 16_382, 16_383, 16_384, 65_507] {
            let payload = vec![7; len];
            let mut capsules = Capsules::default();
            capsules.push(&datagram(&payload));
            assert_eq!(capsules.next().unwrap().as_deref(), Some(&payload[..]));
            assert_eq!(capsules.end(), Ok(()));
        }
    }
}
