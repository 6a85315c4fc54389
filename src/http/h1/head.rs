//! Where a head ends, and where its fields lie.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::{EMPTY_HEADER, Header, Status};
use smallvec::SmallVec;

use super::details::{BadRequest, CODEC_ERROR, HEADERS_TOO_LARGE, INVALID_CHARACTERS, TOO_MANY_HEADERS};
use super::field::{Field, is_framing_field};

/// Which line ends a peer may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnds {
    /// CRLF or LF alone, each of them a line end everywhere (RFC 9112 §2.2): requests, as Envoy.
    Any,
    /// CRLF only: responses and trailers.
    Crlf,
}

/// What a head may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    pub(super) ends: LineEnds,
    /// Bytes, first line and line ends included.
    pub(super) max_bytes: usize,
    /// Fields.
    pub(super) max_count: usize,
}

/// Fields that a usual head has; more cost an allocation.
const USUAL: usize = 24;

/// A whole head, its fields by their places.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) bytes: &'a Bytes,
    /// Length of the first line with its end.
    first_line: usize,
    fields: &'a [Place],
}

/// Offsets of a name and a value.
#[derive(Clone, Copy, Debug)]
struct Place {
    name: (u32, u32),
    value: (u32, u32),
}

type Places = SmallVec<[Place; USUAL]>;

/// A field of a [`Head`].
#[derive(Clone, Copy)]
pub(super) struct HeadField<'a> {
    head: &'a Bytes,
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    place: Place,
}

impl<'a> Head<'a> {
    /// A head without fields: a request line of HTTP/0.9.
    pub(super) fn of_line(bytes: &'a Bytes) -> Self {
        Self { bytes, first_line: bytes.len(), fields: &[] }
    }

    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    pub(super) fn line(&self) -> &'a [u8] {
        &self.bytes[..self.first_line]
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = HeadField<'a>> {
        let head = self.bytes;
        self.fields.iter().map(move |place| HeadField {
            head,
            name: &head[place.name.0 as usize..place.name.1 as usize],
            value: &head[place.value.0 as usize..place.value.1 as usize],
            place: *place,
        })
    }
}

impl HeadField<'_> {
    pub(super) fn shared_name(&self) -> Bytes {
        self.head.slice(self.place.name.0 as usize..self.place.name.1 as usize)
    }

    pub(super) fn shared_value(&self) -> Bytes {
        self.head.slice(self.place.value.0 as usize..self.place.value.1 as usize)
    }

    /// A part of the value.
    pub(super) fn shared(&self, part: &[u8]) -> Bytes {
        self.head.slice_ref(part)
    }

    pub(super) fn header_value(&self) -> HeaderValue {
        // SAFETY: httparse accepts in a value just what `HeaderValue` does: tab, 0x20 to 0x7e and 0x80 to 0xff.
        unsafe { HeaderValue::from_maybe_shared_unchecked(self.shared_value()) }
    }
}

/// The search for a head in a receive buffer. It remembers how far it came, so that a head which arrives byte by byte
/// is searched once (CVE-2019-15226).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeadScan {
    searched: usize,
    /// Length of the first line with its end; 0 until it is known.
    pub(super) first_line: usize,
    line_checked: bool,
    /// A line begins with space or tab (obs-fold).
    folded: bool,
}

impl HeadScan {
    /// Takes a head out of `buf`, if all of it is there, and gives it to `parse`. `buf` only grows until it is.
    ///
    /// `check_line` judges the first line as soon as it is there, and before anything behind it is judged, so that the
    /// outcome does not depend on how the bytes arrive.
    pub(super) fn take(
        &mut self,
        buf: &mut BytesMut,
        limits: &HeadLimits,
        check_line: impl Fn(&[u8]) -> Result<(), BadRequest>,
        parse: impl FnOnce(Head<'_>) -> Result<(), BadRequest>,
    ) -> Result<bool, BadRequest> {
        if self.searched == 0 {
            let mut fields = Places::new();
            if let Some((first_line, end)) = find_plain(buf, limits.ends, &mut fields)
                && end <= limits.max_bytes
                && fields.len() <= limits.max_count
            {
                return parse(Head { bytes: &split_off(buf, end), first_line, fields: &fields }).map(|()| true);
            }
        }
        let found = self.find_end(buf, limits.ends, limits.max_bytes);
        if !self.line_checked && (1..=limits.max_bytes).contains(&self.first_line) {
            check_line(&buf[..self.first_line])?;
            self.line_checked = true;
        }
        let Some(end) = found? else { return Ok(false) };
        let scan = std::mem::take(self);
        let bytes = scan.unfold(split_off(buf, end))?;
        let fields = find_fields(&bytes, scan.first_line, limits.max_count)?;
        parse(Head { bytes: &bytes, first_line: scan.first_line, fields: &fields }).map(|()| true)
    }

    /// The length of the head with its empty line, if it ends within `max_bytes`.
    pub(super) fn find_end(
        &mut self,
        buf: &[u8],
        ends: LineEnds,
        max_bytes: usize,
    ) -> Result<Option<usize>, BadRequest> {
        // No further than a head that came byte by byte would have been searched.
        let limited = &buf[..buf.len().min(max_bytes.saturating_add(1))];
        let end = self.find_end_in(limited, ends)?;
        if end.unwrap_or(buf.len()) > max_bytes { Err(HEADERS_TOO_LARGE) } else { Ok(end) }
    }

    fn find_end_in(&mut self, buf: &[u8], ends: LineEnds) -> Result<Option<usize>, BadRequest> {
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
        }
        self.searched = buf.len();
        Ok(None)
    }

    /// Undoes obs-fold, as RFC 9112 §5.2 allows and Envoy does: the line end goes, its space stays.
    fn unfold(&self, head: Bytes) -> Result<Bytes, BadRequest> {
        if !self.folded {
            return Ok(head);
        }
        unfold(&head, self.first_line).map(Bytes::from).ok_or(CODEC_ERROR)
    }
}

fn split_off(buf: &mut BytesMut, end: usize) -> Bytes {
    // A buffer that is all head is given up: its memory becomes the head's, without a second owner.
    let head = if end == buf.len() { std::mem::take(buf) } else { buf.split_to(end) };
    head.freeze()
}

/// Parses a head that is whole and has nothing unusual, without a search for its end. `None` for every other, be it
/// incomplete, folded, large or wrong: [`HeadScan::find_end`] tells these apart.
fn find_plain(buf: &[u8], ends: LineEnds, places: &mut Places) -> Option<(usize, usize)> {
    let first_line = memchr::memchr(b'\n', buf)? + 1;
    let mut fields = [EMPTY_HEADER; USUAL];
    let Ok(Status::Complete((used, fields))) = httparse::parse_headers(&buf[first_line..], &mut fields) else {
        return None;
    };
    let end = first_line + used;
    if ends == LineEnds::Crlf && !(buf[..end].ends_with(b"\r\n") && fields.iter().all(|f| ends_with_crlf(buf, f))) {
        return None;
    }
    places.extend(fields.iter().map(|field| Place::of(buf, field)));
    Some((first_line, end))
}

/// Whether CR follows the value of `field`, which httparse has trimmed. An empty value may lie anywhere.
fn ends_with_crlf(buf: &[u8], field: &Header<'_>) -> bool {
    let end = Place::of(buf, field).value.1 as usize;
    let rest = buf.get(end..).unwrap_or_default();
    !field.value.is_empty() && rest.iter().find(|b| !matches!(b, b' ' | b'\t')) == Some(&b'\r')
}

impl Place {
    /// Where `field`, a part of `buf`, lies in it.
    fn of(buf: &[u8], field: &Header<'_>) -> Self {
        let place = |part: &[u8]| {
            let start = (part.as_ptr() as usize).wrapping_sub(buf.as_ptr() as usize);
            if part.is_empty() { (0, 0) } else { (start as u32, (start + part.len()) as u32) }
        };
        Self { name: place(field.name.as_bytes()), value: place(field.value) }
    }
}

/// The fields between the first line and the end of a head.
fn find_fields(head: &[u8], first_line: usize, max_count: usize) -> Result<Places, BadRequest> {
    let block = head.get(first_line..).unwrap_or_default();
    let lines = memchr::memchr_iter(b'\n', block).count();
    // The empty line is no field.
    if lines > max_count.saturating_add(1) {
        return Err(TOO_MANY_HEADERS);
    }
    match httparse::parse_headers(block, &mut vec![EMPTY_HEADER; lines]) {
        Ok(Status::Complete((used, fields))) if used == block.len() => {
            Ok(fields.iter().map(|field| Place::of(head, field)).collect())
        }
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

/// The trailers in `block`, which ends with its empty line; fields that frame, route or authenticate are dropped
/// (RFC 9110 §6.5.1).
pub(super) fn parse_trailers(block: Bytes, max_count: usize) -> Result<HeaderMap, BadRequest> {
    let fields = find_fields(&block, 0, max_count)?;
    let block = Head { bytes: &block, first_line: 0, fields: &fields };
    let mut trailers = HeaderMap::with_capacity(block.len());
    for field in block.fields().filter(|f| !Field::is_forbidden_in_trailers(f.name)) {
        let name = HeaderName::from_bytes(field.name).map_err(|_| CODEC_ERROR)?;
        trailers.try_append(name, field.header_value()).map_err(|_| TOO_MANY_HEADERS)?;
    }
    Ok(trailers)
}
