//! Connections whose handshake is still to be made.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nuncio_filter_api::{Io, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::TlsError;

/// A connection that makes its handshake when it is first read or written: what needs none comes before it.
pub(crate) enum Deferred {
    Handshake(Pin<Box<dyn Future<Output = Result<Io, TlsError>>>>),
    Made(Io),
    Failed,
}

// === impl Deferred ===

impl Deferred {
    pub(crate) fn new(handshake: impl Future<Output = Result<Io, TlsError>> + 'static) -> Self {
        Self::Handshake(Box::pin(handshake))
    }

    /// The connection, once the handshake is made.
    fn poll_made(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut Io>>> {
        if let Self::Handshake(handshake) = self {
            match ready!(handshake.as_mut().poll(cx)) {
                Ok(io) => *self = Self::Made(io),
                Err(error) => {
                    *self = Self::Failed;
                    return Poll::Ready(Err(match error {
                        TlsError::Failed { source, flaw: _ } => source,
                        other => io::Error::other(other),
                    }));
                }
            }
        }
        Poll::Ready(match self {
            Self::Made(io) => Ok(Pin::new(io)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl Transport for Deferred {
    fn reset_on_drop(&mut self) {
        if let Self::Made(io) = self {
            io.reset_on_drop();
        }
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Made(io) => io.poll_closed(cx),
            // Whoever makes it finds out.
            Self::Handshake(_) => Poll::Pending,
            Self::Failed => Poll::Ready(()),
        }
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_made(cx).map_ok(|_| ())
    }

    fn deny(&mut self, cx: &mut Context<'_>) {
        if let Self::Made(io) = self {
            io.deny(cx);
        }
    }
}

impl AsyncRead for Deferred {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_made(cx))?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Deferred {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_made(cx))?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_made(cx))?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Made(io) if io.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Made(io) => Pin::new(io).poll_flush(cx),
            // Nothing was written yet.
            Self::Handshake(_) | Self::Failed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_made(cx))?.poll_shutdown(cx)
    }
}
