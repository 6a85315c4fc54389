//! Data that is kept in the pieces in which it came, but for small ones.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Pieces of a body, in order. How much they are together is for the caller to bound, by [`Self::bytes`] or
/// [`Self::cost`].
#[derive(Default)]
pub struct Pieces {
    whole: VecDeque<Bytes>,
    /// Small pieces after those, put together: a peer that sends byte by byte is not to cost more than its bytes.
    tail: BytesMut,
    bytes: usize,
}

/// How far a reader that takes nothing out has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    piece: usize,
    /// Bytes of that piece before it.
    within: usize,
}

/// Bytes that a piece costs beside its own, so that many of them are bounded as well.
const PIECE: usize = 64;

/// Pieces of fewer bytes than this are copied together, up to `MERGED` bytes.
const SMALL: usize = 1024;
const MERGED: usize = 16 * 1024;

impl From<Bytes> for Pieces {
    /// One piece, however small.
    fn from(only: Bytes) -> Self {
        Self { bytes: only.len(), whole: [only].into(), tail: BytesMut::new() }
    }
}

impl Pieces {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes of all pieces.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same, with what it costs to keep them.
    pub fn cost(&self) -> usize {
        self.bytes + PIECE * self.whole.len()
    }

    /// Adds what has come.
    pub fn push(&mut self, data: Bytes) {
        self.bytes += data.len();
        if data.len() >= SMALL {
            self.end_tail();
            self.whole.push_back(data);
            return;
        }
        self.tail.extend_from_slice(&data);
        if self.tail.len() >= MERGED {
            self.end_tail();
        }
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.whole.push_back(self.tail.split().freeze());
        }
    }

    /// Takes the first piece out.
    pub fn pop(&mut self) -> Option<Bytes> {
        if self.whole.is_empty() {
            self.end_tail();
        }
        let data = self.whole.pop_front()?;
        self.bytes -= data.len();
        Some(data)
    }

    /// The only piece, where there are no others.
    pub fn single(&self) -> Option<Bytes> {
        match self.whole.front() {
            None => Some(Bytes::copy_from_slice(&self.tail)),
            Some(only) => (self.bytes == only.len()).then(|| only.clone()),
        }
    }

    /// All of it at once.
    pub fn concat(&self) -> Bytes {
        if let Some(only) = self.single() {
            return only;
        }
        let mut all = BytesMut::with_capacity(self.bytes);
        self.whole.iter().for_each(|piece| all.extend_from_slice(piece));
        all.extend_from_slice(&self.tail);
        all.freeze()
    }

    /// The piece at `place`, or what is left of it; `place` is behind it then. `None` at the end. Pieces must not be
    /// taken out meanwhile.
    pub fn read(&self, place: &mut Place) -> Option<Bytes> {
        let rest = match self.whole.get(place.piece) {
            Some(piece) => piece.slice(place.within..),
            None => Bytes::copy_from_slice(&self.tail[place.within.min(self.tail.len())..]),
        };
        if place.piece < self.whole.len() {
            *place = Place { piece: place.piece + 1, within: 0 };
            // What came before was the tail, and was read as such.
            return if rest.is_empty() { self.read(place) } else { Some(rest) };
        }
        place.within = self.tail.len();
        (!rest.is_empty()).then_some(rest)
    }

    /// The place after all that there is.
    pub fn end(&self) -> Place {
        Place { piece: self.whole.len(), within: self.tail.len() }
    }

    /// Bytes from `place` on.
    pub fn bytes_from(&self, place: Place) -> usize {
        let whole: usize = self.whole.iter().skip(place.piece).map(Bytes::len).sum();
        (whole + self.tail.len()).saturating_sub(place.within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lengths: &[usize]) -> Pieces {
        let mut pieces = Pieces::default();
        lengths.iter().for_each(|length| pieces.push(vec![7; *length].into()));
        pieces
    }

    #[test]
    fn small_pieces_become_one_and_large_ones_stay() {
        let mut pieces = of(&[1, 0, 2, SMALL, 3]);
        assert_eq!((pieces.bytes(), pieces.cost()), (6 + SMALL, 6 + SMALL + 2 * PIECE));
        let lengths: Vec<usize> = std::iter::from_fn(|| pieces.pop()).map(|piece| piece.len()).collect();
        assert_eq!(lengths, [3, SMALL, 3]);
        assert!(pieces.is_empty() && pieces.cost() == 0);
    }

    #[test]
    fn single_bytes_cost_little_more_than_they_are() {
        let pieces = of(&vec![1; 2 * MERGED + 5]);
        assert_eq!(pieces.cost(), 2 * MERGED + 5 + 2 * PIECE);
        assert_eq!(pieces.concat().len(), 2 * MERGED + 5);
    }

    #[test]
    fn a_reader_gets_each_byte_once_however_pieces_grow() {
        let mut pieces = Pieces::default();
        let (mut place, mut read, mut pushed) = (Place::default(), 0, 0);
        for (round, length) in [1, 1, SMALL, 5, MERGED - 5, 1, 1, 0, SMALL, 9].into_iter().enumerate() {
            pieces.push(vec![7; length].into());
            pushed += length;
            assert_eq!(pieces.bytes_from(place), pushed - read, "round {round}");
            if round % 2 == 1 {
                read += std::iter::from_fn(|| pieces.read(&mut place)).map(|piece| piece.len()).sum::<usize>();
                assert_eq!((read, place), (pushed, pieces.end()), "round {round}");
            }
        }
        let mut again = Place::default();
        assert_eq!(std::iter::from_fn(|| pieces.read(&mut again)).map(|piece| piece.len()).sum::<usize>(), pushed);
    }
}
