use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use nuncio_filter_api::{Io, Transport};
use nuncio_telemetry::stats::GaugePart;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::connection::{ClosedBy, ConnectionRecord};

/// A connection whose bytes are counted, and which notes that its host has closed it.
pub(super) struct Metered {
    io: Io,
    record: Rc<ConnectionRecord>,
    /// Bytes of the last read. Envoy: they count as buffered until the next one.
    received: GaugePart,
    /// Bytes of the last write that the kernel has not taken.
    waiting: GaugePart,
}

// === impl Metered ===

impl Metered {
    pub(super) fn wrap(io: Io, record: Rc<ConnectionRecord>) -> Io {
        Io::new(Self { io, record, received: GaugePart::default(), waiting: GaugePart::default() })
    }

    fn written(&mut self, asked: usize, done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let sent = match &done {
            Poll::Ready(Ok(sent)) => *sent,
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        if sent > 0 {
            self.record.share.cluster.stats.upstream_cx_tx_bytes_total().add(sent as u64);
        }
        let failed = matches!(done, Poll::Ready(Err(_)));
        if failed {
            // A write may find out before a read does.
            self.record.closed_by.set(ClosedBy::Host);
        }
        self.waits(if failed { 0 } else { asked.saturating_sub(sent) });
        done
    }

    fn waits(&mut self, waiting: usize) {
        self.waiting.set(self.record.share.cluster.stats.upstream_cx_tx_bytes_buffered(), waiting);
    }

    fn received(&mut self, received: usize) {
        self.received.set(self.record.share.cluster.stats.upstream_cx_rx_bytes_buffered(), received);
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.waits(0);
        self.received(0);
    }
}

impl Transport for Metered {
    fn reset_on_drop(&mut self) {
        self.io.reset_on_drop();
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_closed(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.io.socket()
    }

    fn moved(&mut self, received: u64, sent: u64) {
        let stats = &self.record.share.cluster.stats;
        stats.upstream_cx_rx_bytes_total().add(received);
        stats.upstream_cx_tx_bytes_total().add(sent);
        if received > 0 {
            self.received(received.try_into().unwrap_or(usize::MAX));
        }
    }

    fn ended(&mut self) {
        self.record.closed_by.set(ClosedBy::Host);
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        let received = buf.filled().len() - before;
        if received > 0 {
            self.record.share.cluster.stats.upstream_cx_rx_bytes_total().add(received as u64);
        } else if buf.remaining() > 0 || result.is_err() {
            self.record.closed_by.set(ClosedBy::Host);
        }
        self.received(received);
        Poll::Ready(result)
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(buf.len(), done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.written(bufs.iter().map(|b| b.len()).sum(), done)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
