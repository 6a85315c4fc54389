//! Bytes to be sent, written with as few calls as the kernel allows.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use nuncio_filter_api::Io;
use smallvec::SmallVec;
use tokio::io::AsyncWrite;

/// Data up to this is copied behind the head: one buffer to write is cheaper than two.
const COPY: usize = 1024;
/// Parts given to one vectored write.
const MAX_PARTS: usize = 16;
/// A framing buffer larger than this is not kept for reuse.
const KEEP: usize = 16 * 1024;
/// Framing buffers that wait for reuse.
const MAX_SPARE: usize = 16;
/// Bytes queued above which nobody should produce more.
const ENOUGH: usize = 64 * 1024;

thread_local! {
    // Framing buffers of a worker that are not in use: a connection takes one to write a message and gives it back.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
enum Part {
    /// A range of the framing buffer.
    Framing {
        start: usize,
        end: usize,
    },
    Data(Bytes),
}

/// What one connection still has to send. It holds no memory while it is empty.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    /// Heads, chunk sizes and small data; cleared when all is written.
    framing: Vec<u8>,
    parts: SmallVec<[Part; 3]>,
    /// Parts written in full.
    written: usize,
    /// Bytes not written yet.
    len: usize,
    /// Written, but not flushed through the transport.
    unflushed: bool,
    /// Bytes written since this queue was made.
    pub(super) sent: u64,
}

impl WriteQueue {
    /// Appends what `encode` adds to the buffer.
    pub(super) fn encode<R>(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        if self.framing.capacity() == 0 {
            self.framing = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        let start = self.framing.len();
        let result = encode(&mut self.framing);
        let end = self.framing.len();
        self.len += end - start;
        match self.parts.last_mut() {
            Some(Part::Framing { end: last, .. }) if *last == start => *last = end,
            _ => self.parts.push(Part::Framing { start, end }),
        }
        result
    }

    /// Appends `data` without copying, unless it is small.
    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() <= COPY {
            self.encode(|out| out.extend_from_slice(&data));
        } else {
            self.len += data.len();
            self.parts.push(Part::Data(data));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0 && !self.unflushed
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether so many bytes wait.
    pub(super) fn holds(&self, limit: usize) -> bool {
        self.len >= limit
    }

    /// Whether nobody should produce more.
    pub(super) fn is_full(&self) -> bool {
        // The framing buffer is given back only when all is written, so it must not grow while little is.
        self.len >= ENOUGH || self.parts.len() - self.written >= MAX_PARTS - 3 || self.framing.len() >= 2 * ENOUGH
    }

    #[cfg(test)]
    pub(super) fn holds_no_memory(&self) -> bool {
        self.framing.capacity() == 0 && !self.parts.spilled()
    }

    /// Drops what is not written: the peer takes no more.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.written = 0;
        self.len = 0;
        self.unflushed = false;
        self.framing.clear();
        let framing = std::mem::take(&mut self.framing);
        if framing.capacity() != 0 && framing.capacity() <= KEEP {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < MAX_SPARE {
                    spare.push(framing);
                }
            });
        }
    }

    /// Writes and flushes everything.
    pub(super) fn poll_write(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.len > 0 {
            let count = ready!(self.poll_write_once(io, cx))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.sent += count as u64;
            self.advance(count);
        }
        if self.unflushed {
            ready!(Pin::new(&mut *io).poll_flush(cx))?;
        }
        self.clear();
        Poll::Ready(Ok(()))
    }

    fn poll_write_once(&self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let [Part::Framing { start, end }] = &self.parts[self.written..] {
            return Pin::new(io).poll_write(cx, &self.framing[*start..*end]);
        }
        let mut slices = [IoSlice::new(&[]); MAX_PARTS];
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(&self.parts[self.written..]) {
            *slice = IoSlice::new(match part {
                Part::Framing { start, end } => &self.framing[*start..*end],
                Part::Data(data) => data,
            });
            count += 1;
        }
        match count {
            1 => Pin::new(io).poll_write(cx, &slices[0]),
            _ => Pin::new(io).poll_write_vectored(cx, &slices[..count]),
        }
    }

    fn advance(&mut self, mut count: usize) {
        self.len = self.len.saturating_sub(count);
        while count > 0 && self.written < self.parts.len() {
            let part_len = match &mut self.parts[self.written] {
                Part::Framing { start, end } => {
                    let len = *end - *start;
                    *start += count.min(len);
                    len
                }
                Part::Data(data) => {
                    let len = data.len();
                    bytes::Buf::advance(data, count.min(len));
                    len
                }
            };
            if count < part_len {
                return;
            }
            // The memory of data that is written goes at once: its reader may want to use it again.
            self.parts[self.written] = Part::Framing { start: 0, end: 0 };
            self.written += 1;
            count -= part_len;
        }
        if self.written > MAX_PARTS {
            self.parts.drain(..self.written);
            self.written = 0;
        }
    }
}
