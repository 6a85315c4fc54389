//! Counts the frames of a downstream HTTP/2 connection as their bytes go by, ends the connection that floods, and
//! closes what is left of one that has ended.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use h2::Reason;
use nuncio_filter_api::Io;
use nuncio_telemetry::stats::GaugePart;
use nuncio_telemetry::stats::catalogue::{Http2Stats, HttpStats};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use super::counts::{Counts, FloodKind, HEADER, Limits, data_frames, kind};
use super::weights::{Peer, Weights};

/// What the connection's tasks and its meter share.
#[derive(Default)]
pub(crate) struct Metered {
    /// DATA frames sent: they earn WINDOW_UPDATE frames.
    pub(crate) data_sent: Cell<u64>,
    /// Streams that the peer opened.
    pub(crate) opened: Cell<u64>,
    /// Since when a header block is awaited that has begun.
    pub(crate) awaited: Cell<Option<Instant>>,
    /// Bytes have come.
    pub(crate) has_begun: Cell<bool>,
    /// The limit broken, once one is.
    pub(crate) flood: Cell<Option<FloodKind>>,
    /// What its streams weigh, if that is logged.
    pub(crate) weights: Option<Rc<Weights>>,
    /// The transport, once the h2 crate has let go of it: for [`Metered::close`].
    left: Cell<Option<Left>>,
}

/// What remains of a connection whose protocol has ended.
struct Left {
    io: Io,
    last_stream: u32,
    /// The last write was taken whole, so that a frame may begin here.
    between_frames: bool,
}

impl Metered {
    /// Of a connection whose streams are logged or not.
    pub(crate) fn new(is_logged: bool) -> Rc<Self> {
        Rc::new(Self { weights: is_logged.then(|| Weights::new(Peer::Client, 0)), ..Self::default() })
    }

    /// Counts the frames that data of this length is sent in, at least.
    pub(crate) fn count_data(&self, length: usize) {
        self.data_sent.set(self.data_sent.get() + data_frames(length));
    }

    /// Ends the connection so that the peer can read what was sent last: a reset would overtake it. The h2 crate sends
    /// GOAWAY for the faults that it finds, this for those that the meter finds.
    pub(crate) async fn close(&self) -> io::Result<()> {
        let Some(mut left) = self.left.take() else { return Ok(()) };
        if let Some(flood) = self.flood.get()
            && left.between_frames
        {
            let reason = match flood {
                FloodKind::FrameSize => Reason::FRAME_SIZE_ERROR,
                FloodKind::PseudoTrailers | FloodKind::Preface => Reason::PROTOCOL_ERROR,
                _ => Reason::ENHANCE_YOUR_CALM,
            };
            left.io.write_all(&go_away(left.last_stream, reason)).await?;
        }
        left.io.shutdown().await?;
        // Filled anew by each read: what a peer still says to a closed connection is of no interest.
        let mut space = [0; 2048];
        while left.io.read(&mut space).await? > 0 {}
        Ok(())
    }
}

/// RFC 9113 §6.8.
fn go_away(last_stream: u32, reason: Reason) -> BytesMut {
    let mut frame = BytesMut::with_capacity(HEADER + 8);
    frame.put_slice(&[0, 0, 8, kind::GOAWAY, 0, 0, 0, 0, 0]);
    frame.put_u32(last_stream);
    frame.put_u32(reason.into());
    frame
}

/// A transport whose incoming frames, and bytes both ways, are counted.
pub(crate) struct FrameMeter {
    /// There until drop.
    io: Option<Io>,
    counts: Counts,
    shared: Rc<Metered>,
    http: HttpStats,
    http2: Http2Stats,
    between_frames: bool,
    /// The header block that is awaited.
    block: Option<u64>,
    /// Bytes of the last read. Envoy: they count as buffered until the next one.
    received: GaugePart,
    /// Bytes of the last write that the kernel has not taken.
    waiting: GaugePart,
}

impl FrameMeter {
    /// Meters `io`, from which nothing, not even the preface, was read yet.
    pub(crate) fn new(io: Io, limits: Limits, shared: Rc<Metered>, http: HttpStats, http2: Http2Stats) -> Self {
        Self {
            io: Some(io),
            counts: Counts::new(limits, shared.weights.clone()),
            shared,
            http,
            http2,
            between_frames: true,
            block: None,
            received: GaugePart::default(),
            waiting: GaugePart::default(),
        }
    }

    fn io(&mut self) -> Pin<&mut Io> {
        Pin::new(self.io.as_mut().expect("only drop takes it"))
    }

    /// Notes since when a header block is awaited.
    fn note_awaited(&mut self) {
        let block = self.counts.awaited_block();
        if block != self.block {
            self.block = block;
            self.shared.awaited.set(block.map(|_| Instant::now()));
        }
    }

    fn written(&mut self, pieces: &[IoSlice<'_>], done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let asked: usize = pieces.iter().map(|piece| piece.len()).sum();
        if let Poll::Ready(Ok(n)) = done {
            if let Some(weights) = &self.shared.weights {
                weights.sent(pieces, n);
            }
            self.http.downstream_cx_tx_bytes_total().add(n as u64);
        }
        self.between_frames = matches!(done, Poll::Ready(Ok(n)) if n == asked);
        let waiting = match done {
            Poll::Pending => asked,
            Poll::Ready(Ok(n)) => asked.saturating_sub(n),
            Poll::Ready(Err(_)) => 0,
        };
        self.waiting.set(self.http.downstream_cx_tx_bytes_buffered(), waiting);
        done
    }
}

impl Drop for FrameMeter {
    fn drop(&mut self) {
        self.received.set(self.http.downstream_cx_rx_bytes_buffered(), 0);
        self.waiting.set(self.http.downstream_cx_tx_bytes_buffered(), 0);
        let (last_stream, between_frames) = (self.counts.last_stream, self.between_frames);
        self.shared.left.set(self.io.take().map(|io| Left { io, last_stream, between_frames }));
    }
}

impl AsyncRead for FrameMeter {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(this.io().poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        this.http.downstream_cx_rx_bytes_total().add(read.len() as u64);
        this.received.set(this.http.downstream_cx_rx_bytes_buffered(), read.len());
        if !read.is_empty() {
            this.shared.has_begun.set(true);
        }
        let trailers = this.counts.trailers;
        let taken = this.counts.take(read, this.shared.data_sent.get());
        this.shared.opened.set(this.counts.opened);
        this.note_awaited();
        if this.counts.trailers != trailers {
            this.http2.trailers().add(this.counts.trailers - trailers);
        }
        if let Err(flood) = taken {
            this.shared.flood.set(Some(flood));
            return Poll::Ready(Err(io::Error::other(flood)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FrameMeter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = self.io().poll_write(cx, buf);
        self.written(&[IoSlice::new(buf)], done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = self.io().poll_write_vectored(cx, bufs);
        self.written(bufs, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}
