//! Looks for pseudo-header fields in the trailers of a request (RFC 9113 §8.1 forbids them): the h2 crate drops them
//! in silence. The header block is walked, not decoded: values are passed over, and a name that a reference into the
//! dynamic table gives is not known here. Those alone remain to be dropped.

/// PADDED and PRIORITY of HEADERS frames (RFC 9113 §6.2), and END_HEADERS.
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
const END_HEADERS: u8 = 4;

/// Bytes of one block that are looked at. A longer one is beyond what the h2 crate takes of trailers.
const MOST: usize = 64 * 1024;

/// The last of the static table's entries that are pseudo-header fields, which are its first (RFC 7541 appendix A).
const LAST_PSEUDO: u32 = 14;

/// The trailers that are being received.
pub(super) struct TrailerScan {
    flags: u8,
    is_last: bool,
    /// Of the frame under way.
    payload: Vec<u8>,
    block: Vec<u8>,
}

impl TrailerScan {
    /// At a HEADERS frame with these flags.
    pub(super) fn new(flags: u8) -> Self {
        Self { flags, is_last: flags & END_HEADERS != 0, payload: Vec::new(), block: Vec::new() }
    }

    /// At a CONTINUATION frame, which has neither padding nor priority.
    pub(super) fn continues(&mut self, is_last: bool) {
        (self.flags, self.is_last) = (0, is_last);
    }

    /// Takes a piece of a frame's payload, its last one or not; whether the block that it completes names a
    /// pseudo-header field.
    pub(super) fn finds_pseudo(&mut self, piece: &[u8], is_frame_end: bool) -> bool {
        let room = MOST.saturating_sub(self.block.len() + self.payload.len());
        self.payload.extend_from_slice(&piece[..piece.len().min(room)]);
        if !is_frame_end {
            return false;
        }
        let payload = std::mem::take(&mut self.payload);
        self.block.extend_from_slice(fragment(&payload, self.flags).unwrap_or_default());
        self.is_last && Walk(&self.block).finds_pseudo().unwrap_or(false)
    }
}

/// The header block's part of a payload. `None`: the h2 crate refuses the frame.
fn fragment(payload: &[u8], flags: u8) -> Option<&[u8]> {
    let (mut payload, mut padding) = (payload, 0);
    if flags & PADDED != 0 {
        let (length, rest) = payload.split_first()?;
        (padding, payload) = (usize::from(*length), rest);
    }
    if flags & PRIORITY != 0 {
        payload = payload.get(5..)?;
    }
    payload.get(..payload.len().checked_sub(padding)?)
}

/// What is left of a header block.
struct Walk<'a>(&'a [u8]);

impl Walk<'_> {
    /// `None`: the block is broken, which the h2 crate will find as well.
    fn finds_pseudo(&mut self) -> Option<bool> {
        while let Some(first) = self.0.first() {
            // RFC 7541 §6: an indexed field, a literal that is kept, a change of the table's size, another literal.
            let found = match first {
                0x80.. => is_pseudo(self.integer(7)?),
                0x40..0x80 => self.literal(6)?,
                0x20..0x40 => self.integer(5).map(|_| false)?,
                _ => self.literal(4)?,
            };
            if found {
                return Some(true);
            }
        }
        Some(false)
    }

    fn literal(&mut self, prefix: u32) -> Option<bool> {
        let index = self.integer(prefix)?;
        let found = if index == 0 { self.string()? } else { is_pseudo(index) };
        self.string()?;
        Some(found)
    }

    /// Passes over a string; whether it begins with a colon.
    fn string(&mut self) -> Option<bool> {
        let is_huffman = self.0.first()? & 0x80 != 0;
        let length = self.integer(7)? as usize;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        // RFC 7541 appendix B: the code of a colon is 1011100.
        Some(string.first().is_some_and(|b| if is_huffman { b >> 1 == 0b101_1100 } else { *b == b':' }))
    }

    /// RFC 7541 §5.1.
    fn integer(&mut self, prefix: u32) -> Option<u32> {
        let mask = (1u8 << prefix) - 1;
        let (first, mut rest) = self.0.split_first()?;
        let mut value = u32::from(first & mask);
        if first & mask == mask {
            let mut shift = 0;
            loop {
                let (byte, after) = rest.split_first()?;
                rest = after;
                value = value.checked_add(u32::from(byte & 0x7f).checked_shl(shift)?)?;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
                if shift > 28 {
                    return None;
                }
            }
        }
        self.0 = rest;
        Some(value)
    }
}

fn is_pseudo(index: u32) -> bool {
    (1..=LAST_PSEUDO).contains(&index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(block: &[u8], expected: bool) {
        assert_eq!(TrailerScan::new(END_HEADERS).finds_pseudo(block, true), expected, "{block:02x?}");
        let mut scan = TrailerScan::new(END_HEADERS);
        let (last, rest) = block.split_last().unwrap();
        assert!(rest.iter().all(|b| !scan.finds_pseudo(&[*b], false)));
        assert_eq!(scan.finds_pseudo(&[*last], true), expected, "one byte at a time: {block:02x?}");
        let padded = [&[3, 0, 0, 0, 0, 1], block, &[0; 3]].concat();
        assert_eq!(TrailerScan::new(END_HEADERS | PADDED | PRIORITY).finds_pseudo(&padded, true), expected, "padded");
    }

    #[test]
    fn pseudo_fields_are_found_in_every_representation() {
        check(b"\x84", true);
        check(b"\x90\x84", true);
        check(b"\x44\x01/", true);
        check(b"\x04\x01/", true);
        check(b"\x14\x01/", true);
        check(b"\x00\x05:path\x01/", true);
        check(b"\x40\x84\xb9\x58\xd3\x3f\x01/", true);
        check(b"\x00\x01a\x01b\x88", true);
    }

    #[test]
    fn other_fields_pass() {
        check(b"\x90\x3f\xe1\x1f\xbe", false);
        check(b"\x40\x01a\x03:b:", false);
        check(b"\x0f\x00\x01x\x7f\x02\x01y", false);
        check(b"\x00\x83\xa4\x98\x9f\x00", false);
    }

    #[test]
    fn a_block_in_pieces_is_one_block() {
        let mut scan = TrailerScan::new(0);
        assert!(!scan.finds_pseudo(b"\x00\x05:pa", true));
        scan.continues(true);
        assert!(scan.finds_pseudo(b"th\x01/", true));
    }

    #[test]
    fn broken_and_endless_blocks_are_left_to_the_h2_crate() {
        check(b"\xff\xff\xff\xff\xff\xff\xff", false);
        check(b"\x00\x7f\xff\xff\xff\xff\x0f:", false);
        let mut scan = TrailerScan::new(0);
        for _ in 0..100 {
            assert!(!scan.finds_pseudo(&[0x90; 16 * 1024], true));
            scan.continues(false);
        }
        assert!(scan.block.len() <= MOST);
    }
}
