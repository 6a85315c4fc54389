//! Connections whose bytes are counted for the access logs of their listener.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use nuncio_filter_api::{Io, Transport, forward_transport, forward_write};
use nuncio_telemetry::ConnectionInfo;
use tokio::io::{AsyncRead, ReadBuf};

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

    fn written(&self, _: &[IoSlice<'_>], done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(sent)) = done {
            self.count(0, sent as u64);
        }
        done
    }
}

impl Transport for Logged {
    forward_transport!(io: reset_on_drop, poll_closed, poll_handshake, socket, ended, deny);

    fn moved(&mut self, received: u64, sent: u64) {
        self.count(received, sent);
        self.io.moved(received, sent);
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

forward_write!(Logged, io, written);
