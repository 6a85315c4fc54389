//! A connection whose first bytes are held back until it is known whether it may go on.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_util::future::LocalBoxFuture;
use nuncio_filter_api::{Io, Transport, forward_transport, forward_write};
use nuncio_telemetry::ConnectionInfo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// The connection. An end counts as first bytes.
pub(super) struct Checked {
    io: Io,
    info: Rc<ConnectionInfo>,
    /// The client is told why it is closed.
    tells_denial: bool,
    state: State,
    /// Bytes that nobody has been given yet, from `at` on.
    held: Vec<u8>,
    at: usize,
}

enum State {
    /// Nothing has come yet.
    Waiting(LocalBoxFuture<'static, bool>),
    Checking(LocalBoxFuture<'static, bool>),
    Passed,
    Denied,
}

// === impl Checked ===

impl Checked {
    /// `check` is awaited once something has come; it says whether the connection may go on.
    pub(super) fn new(
        io: Io,
        info: Rc<ConnectionInfo>,
        tells_denial: bool,
        check: LocalBoxFuture<'static, bool>,
    ) -> Self {
        Self { io, info, tells_denial, state: State::Waiting(check), held: Vec::new(), at: 0 }
    }

    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let count = (self.held.len() - self.at).min(buf.remaining());
        buf.put_slice(&self.held[self.at..self.at + count]);
        self.at += count;
        if self.at == self.held.len() {
            (self.held, self.at) = (Vec::new(), 0);
        }
    }
}

impl AsyncRead for Checked {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match std::mem::replace(&mut self.state, State::Denied) {
                State::Waiting(check) => {
                    self.state = State::Waiting(check);
                    let before = buf.filled().len();
                    ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
                    self.held = buf.filled()[before..].to_vec();
                    buf.set_filled(before);
                    if let State::Waiting(check) = std::mem::replace(&mut self.state, State::Denied) {
                        self.state = State::Checking(check);
                    }
                }
                State::Checking(mut check) => match check.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.state = State::Checking(check);
                        return Poll::Pending;
                    }
                    Poll::Ready(true) => self.state = State::Passed,
                    Poll::Ready(false) => {
                        self.info.withheld.set(self.held.len() as u64);
                        if self.tells_denial {
                            self.io.deny(cx);
                        }
                    }
                },
                State::Passed => {
                    self.state = State::Passed;
                    if self.held.is_empty() {
                        return Pin::new(&mut self.io).poll_read(cx, buf);
                    }
                    self.give(buf);
                    return Poll::Ready(Ok(()));
                }
                State::Denied => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            }
        }
    }
}

forward_write!(Checked, io);

impl Transport for Checked {
    forward_transport!(io: reset_on_drop, poll_closed, moved, ended, deny);

    fn socket(&self) -> Option<&TcpStream> {
        if matches!(self.state, State::Passed) && self.held.is_empty() { self.io.socket() } else { None }
    }
}
