//! Connections whose bytes are copied to a trace.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use nuncio_config::tap::{SocketTap, SocketTrace, TappedConnection};
use nuncio_filter_api::{Io, Transport, forward_transport, forward_write};
use tokio::io::{AsyncRead, ReadBuf};

/// A connection that is tapped.
pub struct Tapped {
    io: Io,
    trace: Box<SocketTrace>,
}

// === impl Tapped ===

impl Tapped {
    /// Taps the connection of `io`, if `tap` takes it.
    pub fn wrap(io: Io, tap: &SocketTap, connection: TappedConnection<'_>) -> Io {
        match tap.begin(connection) {
            Some(trace) => Io::new(Self { io, trace: Box::new(trace) }),
            None => io,
        }
    }

    fn written(&mut self, pieces: &[IoSlice<'_>], done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let sent = ready!(done)?;
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &**piece).collect();
        self.trace.sent(&pieces, sent, SystemTime::now());
        Poll::Ready(Ok(sent))
    }
}

/// The kernel does not move the bytes of such a connection by itself: it has no socket to be asked for.
impl Transport for Tapped {
    forward_transport!(io: reset_on_drop, poll_closed, poll_handshake, deny);
}

impl AsyncRead for Tapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        self.trace.received(&buf.filled()[before..], SystemTime::now());
        Poll::Ready(read)
    }
}

forward_write!(Tapped, io, written);

impl Drop for Tapped {
    fn drop(&mut self) {
        self.trace.closed(SystemTime::now());
    }
}
