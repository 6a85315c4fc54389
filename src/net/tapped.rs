//! Connections whose bytes are copied to a trace.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use nuncio_config::tap::{SocketTap, SocketTrace, TappedConnection};
use nuncio_filter_api::{Io, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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
}

/// The kernel does not move the bytes of such a connection by itself: it has no socket to be asked for.
impl Transport for Tapped {
    fn reset_on_drop(&mut self) {
        self.io.reset_on_drop();
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_closed(cx)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_handshake(cx)
    }

    fn deny(&mut self, cx: &mut Context<'_>) {
        self.io.deny(cx);
    }
}

impl AsyncRead for Tapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        self.trace.received(&buf.filled()[before..], SystemTime::now());
        Poll::Ready(read)
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.trace.sent(&[buf], sent, SystemTime::now());
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let parts: Vec<&[u8]> = bufs.iter().map(|part| &**part).collect();
        self.trace.sent(&parts, sent, SystemTime::now());
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Drop for Tapped {
    fn drop(&mut self) {
        self.trace.closed(SystemTime::now());
    }
}
