//! Connections whose bytes are counted for the access logs of their listener.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use nuncio_filter_api::{Io, Transport};
use nuncio_telemetry::ConnectionInfo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection whose listener logs how many bytes it carried.
pub(crate) struct Logged {
    io: Io,
    info: Rc<ConnectionInfo>,
}

// === impl Logged ===

impl Logged {
    /// Counts what the network filters read and write.
    pub(crate) fn wrap(io: Io, info: Rc<ConnectionInfo>) -> Io {
        Io::new(Self { io, info })
    }

    fn count(&self, received: u64, sent: u64) {
        let grow = |count: &Cell<u64>, by| count.set(count.get() + by);
        if let Some(log) = &self.info.log {
            grow(&log.bytes_received, received);
            grow(&log.bytes_sent, sent);
        }
    }
}

impl Transport for Logged {
    fn reset_on_drop(&mut self) {
        self.io.reset_on_drop();
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_closed(cx)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_handshake(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.io.socket()
    }

    fn moved(&mut self, received: u64, sent: u64) {
        self.count(received, sent);
        self.io.moved(received, sent);
    }

    fn ended(&mut self) {
        self.io.ended();
    }

    fn deny(&mut self, cx: &mut Context<'_>) {
        self.io.deny(cx);
    }
}

impl AsyncRead for Logged {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        self.count((buf.filled().len() - before) as u64, 0);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Logged {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.count(0, sent as u64);
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.count(0, sent as u64);
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
