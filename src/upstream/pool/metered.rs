use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use nuncio_filter_api::{Io, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{ClosedBy, ConnectionRecord};

/// A connection whose bytes are counted, and which notes that its host has closed it.
pub(super) struct Metered {
    io: Io,
    record: Rc<ConnectionRecord>,
}

// === impl Metered ===

impl Metered {
    pub(super) fn wrap(io: Io, record: Rc<ConnectionRecord>) -> Io {
        Io::new(Self { io, record })
    }

    fn sent(&self, result: io::Result<usize>) -> io::Result<usize> {
        if let Ok(sent) = result {
            self.record.share.cluster.stats.upstream_cx_tx_bytes_total().add(sent as u64);
        }
        result
    }
}

impl Transport for Metered {
    fn reset_on_drop(&mut self) {
        self.io.reset_on_drop();
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
        Poll::Ready(result)
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        Poll::Ready(self.sent(result))
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
        let result = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        Poll::Ready(self.sent(result))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
