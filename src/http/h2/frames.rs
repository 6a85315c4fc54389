//! Where frames begin in bytes as they go by, however those are cut.

use super::counts::{HEADER, payload_length};

/// Finds the headers of frames.
pub(super) struct Frames {
    /// Bytes to pass over before the next one.
    pub(super) skip: usize,
    /// The last one.
    pub(super) header: [u8; HEADER],
    have: usize,
}

/// What comes next.
pub(super) enum Piece<'b> {
    /// Some of what is passed over.
    Passed(&'b [u8]),
    /// A header has come whole.
    Header([u8; HEADER]),
}

impl Frames {
    /// Of bytes that have so many before the first frame.
    pub(super) fn new(before: usize) -> Self {
        Self { skip: before, header: [0; HEADER], have: 0 }
    }

    /// Takes what comes next off `bytes`; none where they are at an end.
    pub(super) fn next<'b>(&mut self, bytes: &mut &'b [u8]) -> Option<Piece<'b>> {
        if self.skip > 0 && !bytes.is_empty() {
            let (passed, rest) = bytes.split_at(self.skip.min(bytes.len()));
            self.skip -= passed.len();
            *bytes = rest;
            return Some(Piece::Passed(passed));
        }
        let (part, rest) = bytes.split_at((HEADER - self.have).min(bytes.len()));
        self.header[self.have..self.have + part.len()].copy_from_slice(part);
        self.have += part.len();
        *bytes = rest;
        if self.have < HEADER {
            return None;
        }
        self.have = 0;
        let [l0, l1, l2, ..] = self.header;
        self.skip = payload_length([l0, l1, l2]);
        Some(Piece::Header(self.header))
    }
}

#[cfg(test)]
mod tests {
    use super::super::counts::kind;
    use super::*;

    #[test]
    fn headers_of_frames_are_found_however_the_bytes_are_cut() {
        let bytes = b"PRI\0\0\x03\0\x01\0\0\0\x01abc\0\0\0\x01\x05\0\0\0\x03";
        for size in 1..=bytes.len() {
            let mut frames = Frames::new(3);
            let mut found = Vec::new();
            for mut piece in bytes.chunks(size) {
                while let Some(next) = frames.next(&mut piece) {
                    if let Piece::Header([_, _, length, kind, _, _, _, _, stream]) = next {
                        found.push((length, kind, stream));
                    }
                }
            }
            assert_eq!(found, [(3, kind::DATA, 1), (0, kind::HEADERS, 3)], "pieces of {size}");
        }
    }
}
