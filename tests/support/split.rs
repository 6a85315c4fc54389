//! How bytes are cut on their way to the proxy: a codec must not care.

use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use tokio::io::{self, AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Bytes that are sent one at a time before larger pieces follow; keeps tests of large bodies short.
const SINGLE_BYTES: usize = 1500;

/// The size of the pieces in which a client writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// As few writes as the kernel takes.
    Whole,
    /// One byte in each write for the first 1,500 bytes, then pieces of 1,009.
    Bytes,
    /// Pieces of this many bytes.
    Pieces(usize),
}

impl Split {
    /// What `$NUNCIO_SPLIT` says instead of [`Split::Whole`], `bytes` or the size of the pieces: so that every test can
    /// be run with its bytes cut anywhere.
    fn or_of_environment(self) -> Self {
        static SPLIT: LazyLock<Option<Split>> = LazyLock::new(|| match &*std::env::var("NUNCIO_SPLIT").ok()? {
            "bytes" => Some(Split::Bytes),
            size => Some(Split::Pieces(size.parse().expect("NUNCIO_SPLIT is `bytes` or a number"))),
        });
        if self == Split::Whole { SPLIT.unwrap_or(self) } else { self }
    }

    /// How many bytes the next write may carry, after `sent` bytes.
    fn next(self, sent: usize) -> usize {
        match self {
            Split::Whole => usize::MAX,
            Split::Bytes if sent < SINGLE_BYTES => 1,
            // A prime, so that the cuts fall everywhere.
            Split::Bytes => 1009,
            Split::Pieces(size) => size.max(1),
        }
    }
}

/// A stream whose writes are cut as `Split` says; reads pass through.
pub(crate) struct SplitStream<S> {
    inner: S,
    split: Split,
    sent: usize,
    /// Gives the other side a turn between two pieces.
    rest: bool,
}

impl<S> SplitStream<S> {
    pub(crate) fn new(inner: S, split: Split) -> Self {
        Self { inner, split: split.or_of_environment(), sent: 0, rest: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SplitStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SplitStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.split != Split::Whole && !std::mem::replace(&mut self.rest, false) {
            self.rest = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let size = self.split.next(self.sent).min(bytes.len());
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &bytes[..size]))?;
        self.sent += written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Writes all bytes, cut as the stream says.
pub(crate) async fn send<S: AsyncWrite + Unpin>(stream: &mut SplitStream<S>, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}
