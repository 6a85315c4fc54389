//! The chunked coding (RFC 9112 §7.1), read strictly: every line end is CRLF and stands where it must.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::details::{BadRequest, CODEC_ERROR};
use super::head::{HeadScan, LineEnds, parse_trailers};

/// Limits of the trailers of one side, and whether they are passed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrailerLimits {
    pub(super) enabled: bool,
    pub(super) max_bytes: usize,
    pub(super) max_count: usize,
}

/// What was decoded.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

/// ```text
/// Size -> SizeEnd -> Data -> DataCr -> DataLf -> Size
///   \-> Blank -> Extension -> SizeEnd      size 0: SizeEnd -> Trailers -> Done
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Within the digits of a size; `digits` have been read.
    Size {
        digits: u32,
    },
    /// Space between size and extension or line end.
    Blank,
    /// Within an extension, which is dropped.
    Extension,
    /// After the CR of a size line.
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// Bytes of size lines beyond the plain digits that a body may spend before its data outweighs them.
const FREE_OVERHEAD: u64 = 16 * 1024;
/// Data below this is copied so that many tiny chunks become one frame.
const SMALL: usize = 2 * 1024;
/// Bytes of small chunks merged into one frame.
const MERGED: usize = 16 * 1024;

/// A decoder of one chunked body.
#[derive(Debug)]
pub(super) struct Chunked {
    state: State,
    /// Bytes of the chunk that are still to come.
    left: u64,
    /// Extension bytes that may still come; grows with the data.
    overhead: u64,
    scan: HeadScan,
    limits: TrailerLimits,
}

impl Chunked {
    pub(super) fn new(limits: TrailerLimits) -> Self {
        let state = State::Size { digits: 0 };
        Self { state, left: 0, overhead: FREE_OVERHEAD, scan: HeadScan::default(), limits }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes from `buf`; `None` where it needs more bytes.
    pub(super) fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Piece>, BadRequest> {
        let mut merged = BytesMut::new();
        loop {
            match self.state {
                State::Data if !buf.is_empty() => {
                    let available = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
                    if available >= SMALL {
                        if merged.is_empty() {
                            return Ok(Some(Piece::Data(self.take(buf, available).freeze())));
                        }
                        break;
                    }
                    merged.extend_from_slice(&self.take(buf, available));
                    if merged.len() >= MERGED {
                        break;
                    }
                }
                State::Trailers if merged.is_empty() => return self.decode_trailers(buf),
                State::Trailers | State::Done if !merged.is_empty() => break,
                State::Done => return Ok(Some(Piece::End)),
                _ if buf.is_empty() => break,
                _ => self.framing_byte(buf.get_u8())?,
            }
        }
        Ok(if merged.is_empty() { None } else { Some(Piece::Data(merged.freeze())) })
    }

    fn take(&mut self, buf: &mut BytesMut, count: usize) -> BytesMut {
        self.left -= count as u64;
        self.overhead = self.overhead.saturating_add(count as u64);
        if self.left == 0 {
            self.state = State::DataCr;
        }
        buf.split_to(count)
    }

    fn framing_byte(&mut self, byte: u8) -> Result<(), BadRequest> {
        self.state = match (self.state, byte) {
            (State::Size { digits }, b) if b.is_ascii_hexdigit() => {
                self.add_digit(b)?;
                State::Size { digits: digits + 1 }
            }
            (State::Size { digits: 0 }, _) => return Err(CODEC_ERROR),
            (State::Size { .. } | State::Blank, b' ' | b'\t') => {
                self.spend()?;
                State::Blank
            }
            (State::Size { .. } | State::Blank, b';') => State::Extension,
            (State::Size { .. } | State::Blank | State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, b) if b >= 0x20 && b != 0x7f || b == b'\t' => {
                self.spend()?;
                State::Extension
            }
            (State::SizeEnd, b'\n') if self.left == 0 => State::Trailers,
            (State::SizeEnd, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { digits: 0 },
            _ => return Err(CODEC_ERROR),
        };
        Ok(())
    }

    fn add_digit(&mut self, digit: u8) -> Result<(), BadRequest> {
        let value = (digit as char).to_digit(16).map_or(0, u64::from);
        if self.left > u64::MAX >> 4 {
            return Err(CODEC_ERROR);
        }
        self.left = self.left << 4 | value;
        // Leading zeros make a size longer, not larger.
        if self.left == 0 { self.spend() } else { Ok(()) }
    }

    /// Extensions and padding may not outgrow the data without bound.
    fn spend(&mut self) -> Result<(), BadRequest> {
        self.overhead = self.overhead.checked_sub(1).ok_or(CODEC_ERROR)?;
        Ok(())
    }

    fn decode_trailers(&mut self, buf: &mut BytesMut) -> Result<Option<Piece>, BadRequest> {
        let end = match buf.get(..2).unwrap_or(buf) {
            b"\r\n" => Some(2),
            [] | b"\r" => None,
            [b'\r', ..] => return Err(CODEC_ERROR),
            _ => self.scan.find_end(buf, LineEnds::Crlf, self.limits.max_bytes)?,
        };
        let Some(end) = end else { return Ok(None) };
        let block = buf.split_to(end).freeze();
        self.state = State::Done;
        if end == 2 {
            return Ok(Some(Piece::End));
        }
        // Trailers that are dropped are still checked, but not counted, as in Envoy.
        let max_count = if self.limits.enabled { self.limits.max_count } else { usize::MAX - 1 };
        let trailers = parse_trailers(block, max_count)?;
        Ok(Some(if self.limits.enabled && !trailers.is_empty() { Piece::Trailers(trailers) } else { Piece::End }))
    }
}
