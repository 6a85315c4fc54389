//! Sockets as [`Transport`]s.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nuncio_filter_api::Transport;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A TCP connection.
#[derive(Debug)]
pub struct TcpTransport(pub TcpStream);

/// A connection of a unix-domain socket.
#[derive(Debug)]
pub struct UnixTransport(pub UnixStream);

impl Transport for TcpTransport {
    fn reset_on_drop(&mut self) {
        // Fails only on a socket that is gone already, which needs no reset.
        let _ = SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }
}

/// The kernel knows no reset of a unix-domain socket; the peer sees ECONNRESET only where unread bytes are dropped.
impl Transport for UnixTransport {}

macro_rules! forward_io {
    ($transport:ty) => {
        impl AsyncRead for $transport {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_read(cx, buf)
            }
        }

        impl AsyncWrite for $transport {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.0).poll_write(cx, buf)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_shutdown(cx)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                true
            }
        }
    };
}

forward_io!(TcpTransport);
forward_io!(UnixTransport);
