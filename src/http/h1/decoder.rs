//! The body of one message, whatever its framing, out of a receive buffer.

use bytes::{Bytes, BytesMut};

use super::chunked::{Chunked, Piece};
use super::details::BadRequest;

/// How far a body has been read.
#[derive(Debug)]
pub(super) enum Decoder {
    /// Content-Length: bytes still to come.
    Length(u64),
    Chunked(Chunked),
    /// Everything until the peer closes.
    UntilEof,
    Done,
}

impl Decoder {
    /// Decodes from `buf`; `None` where it needs more bytes. [`Piece::End`] is given once, and not after the last
    /// byte of a content length: [`Decoder::is_done`] tells that.
    pub(super) fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Piece>, BadRequest> {
        match self {
            Self::Done => Ok(Some(Piece::End)),
            Self::Length(left) => {
                if buf.is_empty() {
                    return Ok(None);
                }
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                *left -= count as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Some(Piece::Data(take(buf, count))))
            }
            Self::Chunked(chunked) => {
                let piece = chunked.decode(buf)?;
                if chunked.is_done() {
                    *self = Self::Done;
                }
                Ok(piece)
            }
            Self::UntilEof if buf.is_empty() => Ok(None),
            Self::UntilEof => Ok(Some(Piece::Data(take(buf, buf.len())))),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Bytes that remain, where the framing tells.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Done => Some(0),
            Self::Chunked(_) | Self::UntilEof => None,
        }
    }
}

/// Splits off bytes and leaves the rest of the allocation for the next read.
pub(super) fn take(buf: &mut BytesMut, count: usize) -> Bytes {
    buf.split_to(count).freeze()
}
