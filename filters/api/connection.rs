use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use nuncio_telemetry::ConnectionInfo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A byte stream to a peer: a socket, or TLS over one.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Closes so that the peer sees a reset rather than an orderly end (SO_LINGER 0), at drop.
    fn reset_on_drop(&mut self) {}

    /// Ready once the peer has closed or reset the connection, whatever is still unread of it: nothing is read to find
    /// out. A transport that cannot tell is never ready.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Pending
    }

    /// Ready once its handshake is made, where it has one that reads and writes make otherwise.
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// The socket, where its bytes are those of the transport: the kernel may then move them itself. `None` where
    /// anything stands between, if only for now.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }

    /// The kernel has moved so many bytes out of the socket and into it.
    fn moved(&mut self, received: u64, sent: u64) {
        let _ = (received, sent);
    }

    /// The socket has told that its peer sends no more.
    fn ended(&mut self) {}

    /// Tells the peer that it is denied access, where the transport has words for that and room for them now. They are
    /// the last that it sends.
    fn deny(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }
}

/// A transport of any kind. Not `Send`: it belongs to the worker that accepted or dialled it.
pub struct Io(Box<dyn Transport>);

impl Io {
    /// Erases the kind of `transport`.
    pub fn new(transport: impl Transport + 'static) -> Self {
        Self(Box::new(transport))
    }

    /// See [`Transport::reset_on_drop`].
    pub fn reset_on_drop(&mut self) {
        self.0.reset_on_drop();
    }

    /// See [`Transport::poll_closed`].
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_closed(cx)
    }

    /// See [`Transport::poll_handshake`].
    pub fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_handshake(cx)
    }

    /// See [`Transport::socket`].
    pub fn socket(&self) -> Option<&TcpStream> {
        self.0.socket()
    }

    /// See [`Transport::moved`].
    pub fn moved(&mut self, received: u64, sent: u64) {
        self.0.moved(received, sent);
    }

    /// See [`Transport::ended`].
    pub fn ended(&mut self) {
        self.0.ended();
    }

    /// See [`Transport::deny`].
    pub fn deny(&mut self, cx: &mut Context<'_>) {
        self.0.deny(cx);
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// A downstream connection on its way through the network filters.
pub struct Connection {
    /// The bytes.
    pub io: Io,
    /// What is known of it.
    pub info: Rc<ConnectionInfo>,
}
