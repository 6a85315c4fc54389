//! One direction of a session: copied through a buffer of the worker where there is little, by the kernel alone (splice)
//! where it comes in bulk from socket to socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nuncio_filter_api::Io;
use nuncio_net::Pipe;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::Session;

/// One direction: a source is read only when all that it gave before is with its sink.
#[derive(Default)]
pub(super) struct Direction {
    /// Bytes that the sink has not taken yet, from `at` on.
    held: Vec<u8>,
    at: usize,
    /// What carries bulk, while it does.
    pipe: Option<Pipe>,
    /// Something was written that may not have been sent.
    is_dirty: bool,
    /// The source has failed: the sink gets what it has said, and no end.
    is_severed: bool,
    pub(super) state: State,
    /// Bytes passed.
    pub(super) read: u64,
    pub(super) written: u64,
    /// Bytes of the last read.
    pub(super) last_read: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Open,
    /// The source has sent all it has; the sink is to be told.
    Ending,
    Done,
}

/// Whose fault an error is.
pub(super) enum Fault {
    Source(io::Error),
    Sink(io::Error),
}

/// Reads of one direction in a row, before others get their turn.
const TURNS: u32 = 16;

// === impl Direction ===

impl Direction {
    /// One whose source has given these bytes already, and perhaps all that it has.
    pub(super) fn beginning_with(bytes: Vec<u8>, has_ended: bool) -> Self {
        let state = if has_ended { State::Ending } else { State::Open };
        Self { read: bytes.len() as u64, last_read: bytes.len(), held: bytes, state, ..Self::default() }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The source has failed, which whoever writes to it was told first: all that it has said is followed by no orderly
    /// end, although it reads like one from then on.
    pub(super) fn sever(&mut self) {
        self.is_severed = true;
    }

    /// Grows with every byte that moves.
    pub(super) fn passed(&self) -> u64 {
        self.read + self.written
    }

    /// Bytes that the sink has not taken.
    pub(super) fn held(&self) -> usize {
        self.held.len() - self.at + self.piped()
    }

    /// Those of them that are with the kernel, of which the sink knows nothing.
    pub(super) fn piped(&self) -> usize {
        self.pipe.as_ref().map_or(0, |pipe| pipe.held())
    }

    /// Passes on what there is.
    pub(super) fn poll(
        &mut self,
        from: &mut Io,
        to: &mut Io,
        session: &Session,
        cx: &mut Context<'_>,
    ) -> Result<(), Fault> {
        for _ in 0..TURNS {
            match self.poll_once(from, to, session, cx) {
                Poll::Pending => return self.flush(to, cx),
                Poll::Ready(outcome) => outcome?,
            }
            if self.is_done() {
                return Ok(());
            }
        }
        cx.waker().wake_by_ref();
        self.flush(to, cx)
    }

    /// One step: gives on what is held, or else reads.
    fn poll_once(
        &mut self,
        from: &mut Io,
        to: &mut Io,
        session: &Session,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        if self.at < self.held.len() {
            return self.poll_held(to, cx);
        }
        if self.pipe.is_some() {
            return self.poll_pipe(from, to, session, cx);
        }
        match self.state {
            State::Done => Poll::Pending,
            State::Ending if self.is_severed => Poll::Pending,
            State::Ending => {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Fault::Sink)?;
                self.state = State::Done;
                Poll::Ready(Ok(()))
            }
            State::Open => self.poll_copy(from, to, session, cx),
        }
    }

    fn poll_held(&mut self, to: &mut Io, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let written = ready!(Pin::new(to).poll_write(cx, &self.held[self.at..])).map_err(Fault::Sink)?;
        self.wrote(written)?;
        self.at += written;
        if self.at == self.held.len() {
            // Nothing is kept for connections that do nothing.
            (self.held, self.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_copy(
        &mut self,
        from: &mut Io,
        to: &mut Io,
        session: &Session,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        let env = session.clusters.env();
        let mut scratch = env.scratch.borrow_mut();
        let most = scratch.len().min(session.buffer_limit.max(1));
        let mut buffer = ReadBuf::new(&mut scratch[..most]);
        ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer)).map_err(Fault::Source)?;
        let bytes = buffer.filled();
        self.last_read = bytes.len();
        if bytes.is_empty() {
            self.state = State::Ending;
            return Poll::Ready(Ok(()));
        }
        self.read += bytes.len() as u64;
        let written = match Pin::new(&mut *to).poll_write(cx, bytes).map_err(Fault::Sink)? {
            Poll::Pending => 0,
            Poll::Ready(written) => {
                self.wrote(written)?;
                written
            }
        };
        if written < bytes.len() {
            self.held.extend_from_slice(&bytes[written..]);
        }
        if bytes.len() == most && from.socket().is_some() && to.socket().is_some() {
            self.pipe = env.pipes.take();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_pipe(
        &mut self,
        from: &mut Io,
        to: &mut Io,
        session: &Session,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
        if pipe.held() > 0 {
            let Some(socket) = to.socket() else {
                return Poll::Ready(Err(Fault::Sink(io::ErrorKind::NotConnected.into())));
            };
            let sent = ready!(pipe.poll_drain(socket, cx)).map_err(Fault::Sink)? as u64;
            self.written += sent;
            to.moved(0, sent);
            return Poll::Ready(Ok(()));
        }
        let filled = match from.socket() {
            Some(socket) => pipe.poll_fill(socket, cx),
            None => Poll::Pending,
        };
        match filled.map_err(Fault::Source)? {
            Poll::Pending => {
                // The bulk is over, or pauses: a buffer is cheaper for what comes in drops.
                session.clusters.env().pipes.give_back(self.pipe.take());
                if from.socket().is_none() { Poll::Ready(Ok(())) } else { Poll::Pending }
            }
            Poll::Ready(0) => {
                from.ended();
                self.last_read = 0;
                session.clusters.env().pipes.give_back(self.pipe.take());
                self.state = State::Ending;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(filled) => {
                self.read += filled as u64;
                self.last_read = filled;
                from.moved(filled as u64, 0);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn wrote(&mut self, written: usize) -> Result<(), Fault> {
        if written == 0 {
            return Err(Fault::Sink(io::ErrorKind::WriteZero.into()));
        }
        self.written += written as u64;
        self.is_dirty = true;
        Ok(())
    }

    /// Has the transport send what it was given.
    fn flush(&mut self, to: &mut Io, cx: &mut Context<'_>) -> Result<(), Fault> {
        if !self.is_dirty {
            return Ok(());
        }
        self.is_dirty = Pin::new(to).poll_flush(cx).map_err(Fault::Sink)?.is_pending();
        Ok(())
    }
}
