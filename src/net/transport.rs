//! Sockets as [`Transport`]s.

use std::io::{self, IoSlice, Read};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use nuncio_filter_api::Transport;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A TCP connection.
#[derive(Debug)]
pub struct TcpTransport {
    stream: TcpStream,
    /// Bytes may be there, whatever the runtime tells (see `forward_io`).
    unread: bool,
}

/// A connection of a unix-domain socket.
#[derive(Debug)]
pub struct UnixTransport {
    stream: UnixStream,
    /// Bytes may be there, whatever the runtime tells (see `forward_io`).
    unread: bool,
}

impl Transport for TcpTransport {
    fn reset_on_drop(&mut self) {
        // Fails only on a socket that is gone already, which needs no reset.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_read_closed(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        (!self.unread).then_some(&self.stream)
    }
}

/// The kernel knows no reset of a unix-domain socket; the peer sees ECONNRESET only where unread bytes are dropped.
impl Transport for UnixTransport {
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_read_closed(cx)
    }
}

/// To wait for the end behind bytes that nobody reads, their readiness has to be forgotten, and the runtime would not
/// tell of it again: `unread` says that bytes may be there all the same, until a read finds none.
macro_rules! forward_io {
    ($transport:ident, $stream:ty) => {
        impl $transport {
            /// A transport of the bytes of `stream`.
            #[must_use]
            pub fn new(stream: $stream) -> Self {
                Self { stream, unread: false }
            }

            /// The same, after bytes were looked at that are still there to be read.
            pub(crate) fn peeked(stream: $stream) -> Self {
                Self { stream, unread: true }
            }

            fn poll_read_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
                loop {
                    if ready!(self.stream.poll_read_ready(cx)).is_err() {
                        return Poll::Ready(());
                    }
                    let now = pin!(self.stream.ready(Interest::READABLE)).poll(&mut Context::from_waker(Waker::noop()));
                    match now {
                        Poll::Ready(Ok(ready)) if !ready.is_read_closed() => {}
                        Poll::Ready(_) => return Poll::Ready(()),
                        Poll::Pending => {}
                    }
                    let forget = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    let _ = self.stream.try_io(Interest::READABLE, forget);
                    self.unread = true;
                }
            }
        }

        impl AsyncRead for $transport {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                if self.unread {
                    match read_now(&SockRef::from(&self.stream), buf) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.unread = false,
                        done => return Poll::Ready(done),
                    }
                }
                Pin::new(&mut self.stream).poll_read(cx, buf)
            }
        }

        impl AsyncWrite for $transport {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.stream).poll_write(cx, buf)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_shutdown(cx)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                true
            }
        }
    };
}

forward_io!(TcpTransport, TcpStream);
forward_io!(UnixTransport, UnixStream);

/// Reads whatever the runtime knows of the socket.
fn read_now(socket: &SockRef<'_>, buf: &mut ReadBuf<'_>) -> io::Result<()> {
    let mut socket: &socket2::Socket = socket;
    let read = socket.read(buf.initialize_unfilled())?;
    buf.advance(read);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpTransport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let peer = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
        let (stream, _) = listener.accept().await.expect("a connection waits");
        (TcpTransport::new(stream), peer)
    }

    #[tokio::test]
    async fn the_end_is_told_while_bytes_before_it_are_unread() {
        let (mut transport, mut peer) = pair().await;
        peer.write_all(b"unread").await.expect("the kernel buffers");
        {
            let mut closed = pin!(poll_fn(|cx| transport.poll_closed(cx)));
            let early = tokio::time::timeout(Duration::from_millis(50), closed.as_mut()).await;
            assert!(early.is_err(), "bytes are no end");
            peer.shutdown().await.expect("it is connected");
            closed.await;
        }
        let mut all = Vec::new();
        transport.read_to_end(&mut all).await.expect("nothing was reset");
        assert_eq!(all, b"unread");
    }

    #[tokio::test]
    async fn waiting_for_the_end_loses_no_bytes() {
        let (mut transport, mut peer) = pair().await;
        for round in 0..3u8 {
            peer.write_all(&[round; 10]).await.expect("the kernel buffers");
            transport.stream.readable().await.expect("it is connected");
            assert!(poll_fn(|cx| transport.poll_closed(cx)).now_or_never().is_none());
            let mut ten = [0; 10];
            transport.read_exact(&mut ten).await.expect("ten bytes are there");
            assert_eq!(ten, [round; 10]);
            assert!(transport.read(&mut ten).now_or_never().is_none(), "there are no more");
        }
        drop(peer);
        poll_fn(|cx| transport.poll_closed(cx)).await;
    }
}
