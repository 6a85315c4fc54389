//! Bytes between a socket and a session of TLS.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use nuncio_filter_api::Io;
use tokio::io::{AsyncRead, ReadBuf};

/// Most bytes of plaintext in a record (RFC 8446 §5.1).
pub(super) const RECORD: usize = 16 << 10;
/// Most bytes of plaintext that are made ready to be written at once.
pub(super) const MOST: usize = 4 * RECORD;
/// Room for them, for what records cost beside their content, and for what else a session wants to say.
const SIZE: usize = MOST + 2048;
/// Bytes from which a handshake is given up that has still not brought its message to an end, as in rustls.
const MOST_OF_HANDSHAKE: usize = 0xffff;
/// Least room that a read is given.
const LEAST_READ: usize = 1024;
/// Buffers that a worker keeps for the next connection that has to do with bytes.
const KEPT: usize = 3;

thread_local! {
    // For all connections of a worker, so that none of them holds a buffer while it waits. No state.
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn take() -> Box<[u8]> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into())
}

fn give_back(bytes: Box<[u8]>) {
    if bytes.len() == SIZE {
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(bytes);
            }
        });
    }
}

/// Bytes in order. After [`Buffer::settle`] it holds no memory while it is empty, and little while it holds few.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Drops the first bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }

    pub(super) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Where the next bytes go: room for `least` of them, or more.
    pub(super) fn room(&mut self, least: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < least {
            self.make_room(least);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes were written into the room.
    pub(super) fn fill(&mut self, count: usize) {
        self.end += count;
    }

    pub(super) fn extend(&mut self, more: &[u8]) {
        self.room(more.len())[..more.len()].copy_from_slice(more);
        self.fill(more.len());
    }

    fn make_room(&mut self, least: usize) {
        let held = self.end - self.start;
        if held + least <= self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
        } else {
            let mut larger = if held + least <= SIZE { take() } else { vec![0; held + least].into() };
            larger[..held].copy_from_slice(self.filled());
            give_back(std::mem::replace(&mut self.bytes, larger));
        }
        (self.start, self.end) = (0, held);
    }

    /// Whoever works with it waits, or has done: memory that is not needed for what it holds goes back.
    pub(super) fn settle(&mut self) {
        let held = self.end - self.start;
        if held == self.bytes.len() || self.bytes.len() <= SIZE / 4 && held > 0 {
            return;
        }
        if held <= SIZE / 4 {
            let exact = self.filled().into();
            give_back(std::mem::replace(&mut self.bytes, exact));
            (self.start, self.end) = (0, held);
        }
    }

    #[cfg(test)]
    pub(super) fn holds_no_memory(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Reads what is there. 0 is the end.
    pub(super) fn poll_fill(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.filled().len() >= MOST_OF_HANDSHAKE {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "message buffer full")));
        }
        let mut read = ReadBuf::new(self.room(LEAST_READ));
        match Pin::new(io).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) => {
                let count = read.filled().len();
                self.fill(count);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.settle();
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_whatever_settles_between() {
        let mut buffer = Buffer::default();
        let (mut put, mut got) = (0u8, 0u8);
        for round in 0..2000usize {
            let more: Vec<u8> = (0..round * 37 % 3000)
                .map(|_| {
                    put = put.wrapping_add(1);
                    put
                })
                .collect();
            buffer.extend(&more);
            if round % 3 == 0 {
                buffer.settle();
            }
            let count = buffer.filled().len().min(round * 53 % 3000);
            for byte in &buffer.filled()[..count] {
                got = got.wrapping_add(1);
                assert_eq!(*byte, got);
            }
            buffer.consume(count);
        }
    }

    #[test]
    fn what_is_empty_holds_nothing_and_what_holds_little_little() {
        let mut buffer = Buffer::default();
        buffer.extend(b"abc");
        assert_eq!(buffer.bytes.len(), SIZE);
        buffer.settle();
        assert_eq!((buffer.bytes.len(), buffer.filled()), (3, &b"abc"[..]));
        buffer.extend(b"def");
        buffer.consume(4);
        buffer.settle();
        assert_eq!((buffer.bytes.len(), buffer.filled()), (2, &b"ef"[..]));
        buffer.clear();
        buffer.settle();
        assert_eq!(buffer.bytes.len(), 0);
    }

    #[test]
    fn more_than_usual_goes_in() {
        let mut buffer = Buffer::default();
        buffer.extend(&vec![1; 2 * SIZE]);
        assert_eq!(buffer.filled().len(), 2 * SIZE);
        buffer.consume(2 * SIZE);
        buffer.settle();
        assert_eq!(buffer.bytes.len(), 0);
    }
}
