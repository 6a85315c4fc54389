//! Bytes received and not yet used.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use nuncio_filter_api::Io;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Bytes read at once while it is unknown how many will come.
const SCRATCH: usize = 16 * 1024;
/// Bytes read at once of a body that is known to be large: 10 MiB take a third less CPU than by 64 KiB, most of it the
/// kernel's for waking peers.
const BULK: usize = 256 * 1024;
/// Room below which a body buffer is replaced rather than filled up: half a read is worth no allocation.
const MIN_ROOM: usize = BULK / 2;

thread_local! {
    // One for all connections of a worker, so that none of them holds a buffer while it waits. No state: nothing is
    // left in it between two polls.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// The receive buffer of one connection. It holds no memory while it is empty.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) buf: BytesMut,
    /// The last read of a body filled the room it had.
    bulk: bool,
}

impl Reader {
    pub(super) fn with(initial: BytesMut) -> Self {
        Self { buf: initial, bulk: false }
    }

    /// Reads what is there, at most `limit` bytes, through the worker's scratch buffer. 0 is the end.
    pub(super) fn poll_read(&mut self, io: &mut Io, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<usize>> {
        BUFFER.with_borrow_mut(|scratch| {
            let limit = limit.min(scratch.len());
            let mut read = ReadBuf::new(&mut scratch[..limit]);
            ready!(Pin::new(io).poll_read(cx, &mut read))?;
            self.buf.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
    }

    /// Reads body bytes into the buffer itself, without copying. `expected` is how many are known to come.
    pub(super) fn poll_read_body(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        expected: Option<u64>,
    ) -> Poll<io::Result<usize>> {
        let most = if expected.is_some_and(|n| n > SCRATCH as u64) { BULK } else { self.unknown_read() };
        let want = expected.map_or(most, |n| usize::try_from(n).unwrap_or(most).min(most));
        if self.buf.capacity() - self.buf.len() < want.min(MIN_ROOM) {
            // The same allocation again, if all that was read into it has been passed on.
            self.buf.reserve(want);
        }
        let room = self.buf.capacity() - self.buf.len();
        let read = ready!(pin!(io.read_buf(&mut self.buf)).poll(cx))?;
        self.bulk = read == room && read >= SCRATCH;
        Poll::Ready(Ok(read))
    }

    /// Bytes that the next read of a body takes at most, where it is unknown how many will come.
    pub(super) fn unknown_read(&self) -> usize {
        if self.bulk { BULK } else { SCRATCH }
    }

    /// Gives the memory back where nothing is held.
    pub(super) fn release(&mut self) {
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
            self.bulk = false;
        }
    }
}
