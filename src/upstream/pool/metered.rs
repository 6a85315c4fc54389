use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use nuncio_filter_api::{Io, Transport, forward_transport, forward_write};
use nuncio_telemetry::stats::GaugePart;
use tokio::io::{AsyncRead, ReadBuf};

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

    fn written(&mut self, pieces: &[IoSlice<'_>], done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
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
        let asked: usize = pieces.iter().map(|piece| piece.len()).sum();
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
    forward_transport!(io: reset_on_drop, poll_closed, socket);

    fn moved(&mut self, received: u64, sent: u64) {
        let stats = &self.record.share.cluster.stats;
        stats.upstream_cx_rx_bytes_total().add(received);
        stats.upstream_cx_tx_bytes_total().add(sent);
        if received > 0 {
            self.received(received.try_into().unwrap_or(usize::MAX));
        }
    }

    fn ended(&mut self) {
        self.record.host_ends();
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        let received = buf.filled().len() - before;
        if received > 0 {
            self.record.share.cluster.stats.upstream_cx_rx_bytes_total().add(received as u64);
        } else if result.is_err() {
            self.record.closed_by.set(ClosedBy::Host);
        } else if buf.remaining() > 0 {
            self.record.host_ends();
        }
        self.received(received);
        Poll::Ready(result)
    }
}

forward_write!(Metered, io, written);
