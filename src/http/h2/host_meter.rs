//! The frames of a host, counted as their bytes go by: one that floods is left.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use nuncio_filter_api::{Io, forward_write};
use tokio::io::{AsyncRead, ReadBuf};

use super::counts::{Counts, Limits};
use super::faults::Faults;

/// The transport of a connection to a host.
pub(super) struct HostMeter {
    io: Io,
    counts: Counts,
    faults: Rc<Faults>,
}

// === impl HostMeter ===

impl HostMeter {
    /// Meters `io`, from which nothing was read yet. Whatever breaks the limits is noted in `faults`.
    pub(super) fn new(io: Io, limits: Limits, faults: Rc<Faults>) -> Self {
        Self { io, counts: Counts::of_host(limits, faults.weights.clone()), faults }
    }

    fn written(&mut self, pieces: &[IoSlice<'_>], done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = done {
            self.faults.weights.sent(pieces, n);
        }
        done
    }
}

impl AsyncRead for HostMeter {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let sent = &this.faults.sent;
        this.counts.streams = sent.streams.get();
        if let Err(flood) = this.counts.take(&buf.filled()[before..], sent.data.get()) {
            this.faults.flooded(flood);
            return Poll::Ready(Err(io::Error::other(flood)));
        }
        Poll::Ready(Ok(()))
    }
}

forward_write!(HostMeter, io, written);
