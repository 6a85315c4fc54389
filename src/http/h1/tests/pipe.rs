//! A transport in memory, whose other end a test holds.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use nuncio_filter_api::{Io, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Default)]
struct State {
    /// One read gives at most one of these.
    incoming: VecDeque<Vec<u8>>,
    eof: bool,
    reads_broken: bool,
    writes_broken: bool,
    output: Vec<u8>,
    writes: usize,
    /// Bytes that may still be written; `None` for any number.
    window: Option<usize>,
    shut_down: bool,
    reset: bool,
    dropped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The test's end.
#[derive(Clone, Default)]
pub(super) struct Peer(Rc<RefCell<State>>);

/// The codec's end.
struct Pipe(Rc<RefCell<State>>);

pub(super) fn pipe() -> (Io, Peer) {
    let peer = Peer::default();
    (Io::new(Pipe(peer.0.clone())), peer)
}

impl Peer {
    pub(super) fn send(&self, bytes: impl AsRef<[u8]>) {
        let mut state = self.0.borrow_mut();
        state.incoming.push_back(bytes.as_ref().to_vec());
        if let Some(waker) = state.reader.take() {
            waker.wake();
        }
    }

    pub(super) fn close(&self) {
        self.0.borrow_mut().eof = true;
    }

    pub(super) fn break_off(&self) {
        self.break_off_reads();
        self.break_off_writes();
    }

    /// What was sent is read, then a reset.
    pub(super) fn break_off_reads(&self) {
        self.0.borrow_mut().reads_broken = true;
    }

    pub(super) fn break_off_writes(&self) {
        self.0.borrow_mut().writes_broken = true;
    }

    pub(super) fn allow_writes(&self, window: usize) {
        self.0.borrow_mut().window = Some(window);
    }

    /// What was written since the last call.
    pub(super) fn raw_output(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().output)
    }

    /// [`Peer::raw_output`] as text.
    pub(super) fn output(&self) -> String {
        String::from_utf8_lossy(&self.raw_output()).into_owned()
    }

    pub(super) fn writes(&self) -> usize {
        self.0.borrow().writes
    }

    pub(super) fn is_shut_down(&self) -> bool {
        self.0.borrow().shut_down
    }

    pub(super) fn is_reset(&self) -> bool {
        self.0.borrow().reset
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.0.borrow().dropped
    }

    pub(super) fn unread(&self) -> usize {
        self.0.borrow().incoming.iter().map(Vec::len).sum()
    }
}

impl Transport for Pipe {
    fn reset_on_drop(&mut self) {
        self.0.borrow_mut().reset = true;
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.0.borrow_mut().dropped = true;
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        if let Some(mut bytes) = state.incoming.pop_front() {
            let rest = bytes.split_off(bytes.len().min(buf.remaining()));
            buf.put_slice(&bytes);
            if !rest.is_empty() {
                state.incoming.push_front(rest);
            }
            return Poll::Ready(Ok(()));
        }
        if state.reads_broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if state.eof {
            return Poll::Ready(Ok(()));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.borrow_mut();
        if state.writes_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if state.window == Some(0) {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let whole: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        let count = whole.len().min(state.window.unwrap_or(usize::MAX));
        state.output.extend_from_slice(&whole[..count]);
        state.window = state.window.map(|window| window - count);
        state.writes += 1;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().shut_down = true;
        Poll::Ready(Ok(()))
    }
}
