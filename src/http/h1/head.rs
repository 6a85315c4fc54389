//! Where a head ends, and the fields of a finished one.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::{EMPTY_HEADER, Header, Status};

use super::details::{BadRequest, CODEC_ERROR, INVALID_CHARACTERS, TOO_MANY_HEADERS};
use super::field::{Field, is_framing_field};

/// Which line ends a peer may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnds {
    /// CRLF or LF alone, each of them a line end everywhere (RFC 9112 §2.2): requests, as Envoy.
    Any,
    /// CRLF only: responses and trailers.
    Crlf,
}

/// The search for the empty line that ends a head. It remembers how far it came, so that a head which arrives byte by
/// byte is searched once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeadScan {
    searched: usize,
    /// Length of the first line with its end; 0 until it is known.
    pub(super) first_line: usize,
    /// Lines seen that are followed by another that is not empty: the fields of a head, one less of trailers.
    lines: usize,
    /// A line begins with space or tab (obs-fold).
    folded: bool,
}

impl HeadScan {
    /// The length of the head with its empty line, if all of it is in `buf`. `buf` only grows between calls.
    pub(super) fn find_end(&mut self, buf: &[u8], ends: LineEnds) -> Result<Option<usize>, BadRequest> {
        while let Some(at) = memchr::memchr(b'\n', buf.get(self.searched..).unwrap_or_default()) {
            let lf = self.searched + at;
            if ends == LineEnds::Crlf && !(lf > 0 && buf[lf - 1] == b'\r') {
                return Err(CODEC_ERROR);
            }
            if self.first_line == 0 {
                self.first_line = lf + 1;
            }
            // What follows decides whether this is the end; if it is not here yet, the same LF is looked at again.
            self.searched = lf;
            match buf.get(lf + 1..lf + 3).unwrap_or(&buf[lf + 1..]) {
                [] | [b'\r'] => return Ok(None),
                [b'\r', b'\n'] => return Ok(Some(lf + 3)),
                [b'\r', _] => return Err(CODEC_ERROR),
                [b'\n', ..] if ends == LineEnds::Any => return Ok(Some(lf + 2)),
                [b' ' | b'\t', ..] => self.folded = true,
                _ => {}
            }
            self.searched = lf + 1;
            self.lines += 1;
        }
        self.searched = buf.len();
        Ok(None)
    }

    /// Undoes obs-fold in a finished head, as RFC 9112 §5.2 allows and Envoy does: the line end goes, its space stays.
    pub(super) fn unfold(&mut self, head: Bytes) -> Result<Bytes, BadRequest> {
        if !self.folded {
            return Ok(head);
        }
        let first_line = self.first_line;
        let unfolded = unfold(&head, first_line).ok_or(CODEC_ERROR)?;
        // Line and empty line are no fields, as the search counts.
        let lines = unfolded.iter().filter(|b| **b == b'\n').count() - 1;
        *self = Self { first_line, lines, ..Self::default() };
        Ok(unfolded.into())
    }

    /// Calls `each` with the fields of `head`, which is finished and unfolded, or fails for all of them.
    pub(super) fn with_fields<R>(
        &self,
        head: &[u8],
        max_count: usize,
        each: impl FnOnce(&[Header<'_>]) -> Result<R, BadRequest>,
    ) -> Result<R, BadRequest> {
        // A head far beyond the limit is not parsed at all.
        if self.lines > max_count.saturating_add(1) {
            return Err(TOO_MANY_HEADERS);
        }
        let block = head.get(self.first_line..).unwrap_or_default();
        const USUAL: usize = 24;
        if self.lines < USUAL {
            parse_fields(block, &mut [EMPTY_HEADER; USUAL], max_count, each)
        } else {
            parse_fields(block, &mut vec![EMPTY_HEADER; self.lines + 1], max_count, each)
        }
    }
}

fn parse_fields<'b, R>(
    block: &'b [u8],
    fields: &mut [Header<'b>],
    max_count: usize,
    each: impl FnOnce(&[Header<'_>]) -> Result<R, BadRequest>,
) -> Result<R, BadRequest> {
    match httparse::parse_headers(block, fields) {
        Ok(Status::Complete((used, fields))) if used == block.len() => {
            if fields.len() > max_count {
                Err(TOO_MANY_HEADERS)
            } else {
                each(fields)
            }
        }
        Err(httparse::Error::TooManyHeaders) => Err(TOO_MANY_HEADERS),
        _ if block.iter().any(|b| is_control(*b)) => Err(INVALID_CHARACTERS),
        _ => Err(CODEC_ERROR),
    }
}

/// A control character that no part of a head may contain; line ends and tab are judged by their place.
pub(super) fn is_control(byte: u8) -> bool {
    (byte < 0x20 && !matches!(byte, b'\t' | b'\r' | b'\n')) || byte == 0x7f
}

/// `None` where the first field line is itself folded, or where framing would depend on what was folded.
fn unfold(head: &[u8], first_line: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(head.len());
    out.extend_from_slice(&head[..first_line]);
    let mut field_start = None;
    for line in head[first_line..].split_inclusive(|b| *b == b'\n') {
        if line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
            let name = out.get(field_start?..)?.split(|b| *b == b':').next()?;
            if is_framing_field(name) {
                return None;
            }
            let end = out.iter().rposition(|b| !matches!(b, b'\r' | b'\n'))? + 1;
            out.truncate(end);
        } else {
            field_start = Some(out.len());
        }
        out.extend_from_slice(line);
    }
    Some(out)
}

/// The value of a field as a slice of `head`, which contains it.
pub(super) fn share_value(head: &Bytes, value: &[u8]) -> HeaderValue {
    // SAFETY: httparse accepts in a value just what `HeaderValue` does: tab, 0x20 to 0x7e and 0x80 to 0xff.
    unsafe { HeaderValue::from_maybe_shared_unchecked(head.slice_ref(value)) }
}

/// The trailers of a chunked body; fields that frame, route or authenticate are dropped (RFC 9110 §6.5.1).
pub(super) fn parse_trailers(scan: &HeadScan, block: Bytes, max_count: usize) -> Result<HeaderMap, BadRequest> {
    scan.with_fields(&block, max_count, |fields| {
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields.iter().filter(|f| !Field::is_forbidden_in_trailers(f.name.as_bytes())) {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| CODEC_ERROR)?;
            trailers.try_append(name, share_value(&block, field.value)).map_err(|_| TOO_MANY_HEADERS)?;
        }
        Ok(trailers)
    })
}
