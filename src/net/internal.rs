//! Connections to listeners of this process: bytes go from task to task of one worker, without a socket.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::future::LocalBoxFuture;
use nuncio_filter_api::{IncomingSocket, InternalListener, InternalListeners, Io, Passed, Transport};
use nuncio_telemetry::{Address, InternalAddress};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::active::Shared;
use crate::{ConnectError, Connected};

/// Envoy's name of the end that connects.
const CLIENT: &str = "internal_client_address";
/// A buffer that is empty keeps no more than this.
const KEPT: usize = 64 << 10;

/// One end of a connection.
pub struct InternalTransport {
    incoming: Rc<RefCell<Direction>>,
    outgoing: Rc<RefCell<Direction>>,
    resets: bool,
}

/// The bytes under way in one direction.
struct Direction {
    bytes: VecDeque<u8>,
    limit: usize,
    end: Option<End>,
    /// Nobody reads any more.
    is_unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Waits for the end alone.
    watcher: Option<Waker>,
}

/// How the bytes ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Orderly,
    Reset,
}

/// Two ends, each of which buffers `limit` bytes for the other.
pub(crate) fn pair(limit: usize) -> (InternalTransport, InternalTransport) {
    let [one, other] = [(); 2].map(|()| Rc::new(RefCell::new(Direction::new(limit))));
    let transport = |incoming: &Rc<RefCell<Direction>>, outgoing: &Rc<RefCell<Direction>>| InternalTransport {
        incoming: incoming.clone(),
        outgoing: outgoing.clone(),
        resets: false,
    };
    (transport(&one, &other), transport(&other, &one))
}

/// Connects to the internal listener of `address`.
pub async fn connect_internal(
    listeners: &InternalListeners,
    address: &Arc<InternalAddress>,
    passed: Passed,
) -> Result<Connected, ConnectError> {
    let Some(listener) = listeners.find(&address.listener) else { return Err(nobody(address)) };
    match listener.connect(address, passed).await {
        Some(io) => Ok(Connected { io, local: Some(Address::internal(CLIENT, "")) }),
        None => Err(nobody(address)),
    }
}

/// No listener is at `address`.
pub(crate) fn nobody(address: &Arc<InternalAddress>) -> ConnectError {
    let source = io::Error::from_raw_os_error(libc::EINVAL);
    ConnectError::Immediate { address: Address::Internal(address.clone()), source }
}

/// Where connections without a socket come in.
pub(crate) struct Entrance(pub(crate) Rc<Shared>);

impl InternalListener for Entrance {
    fn connect(&self, address: &Arc<InternalAddress>, passed: Passed) -> LocalBoxFuture<'static, Option<Io>> {
        let (near, far) = pair(self.0.listener.config.internal.map_or(0, |limit| limit as usize));
        let (remote, local) = (Address::internal(CLIENT, ""), Address::Internal(address.clone()));
        self.0.take();
        self.0.serve_internal(far, remote, local, passed);
        Box::pin(async move {
            // The task that serves the connection has its turn, and then it is as Envoy has it: who is turned away at
            // once finds nobody there.
            tokio::task::yield_now().await;
            let is_over = near.incoming.borrow().is_over();
            (!is_over).then(|| Io::new(near))
        })
    }
}

// === impl Direction ===

impl Direction {
    fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), limit, end: None, is_unread: false, reader: None, writer: None, watcher: None }
    }

    fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.reader.take().into_iter().chain(self.watcher.take()).for_each(Waker::wake);
    }

    /// Whether there is nothing to read and never will be.
    fn is_over(&self) -> bool {
        self.end == Some(End::Reset) || (self.end.is_some() && self.bytes.is_empty())
    }

    fn poll_read(&mut self, buf: &mut ReadBuf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end == Some(End::Reset) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.bytes.is_empty() {
            if self.end.is_some() {
                return Poll::Ready(Ok(()));
            }
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (first, second) = self.bytes.as_slices();
        let from_first = first.len().min(buf.remaining());
        buf.put_slice(&first[..from_first]);
        let from_second = second.len().min(buf.remaining());
        buf.put_slice(&second[..from_second]);
        self.take(from_first + from_second);
        Poll::Ready(Ok(()))
    }

    /// Drops the first `count` bytes.
    fn take(&mut self, count: usize) {
        self.bytes.drain(..count);
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT {
            self.bytes = VecDeque::new();
        }
        self.writer.take().into_iter().for_each(Waker::wake);
    }

    fn poll_write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.is_unread || self.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(self.limit.saturating_sub(self.bytes.len()));
        if count == 0 && !bytes.is_empty() {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.bytes.extend(&bytes[..count]);
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(count))
    }
}

// === impl InternalTransport ===

impl Transport for InternalTransport {
    fn reset_on_drop(&mut self) {
        self.resets = true;
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut incoming = self.incoming.borrow_mut();
        if incoming.end.is_some() {
            return Poll::Ready(());
        }
        incoming.watcher = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncRead for InternalTransport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.incoming.borrow_mut().poll_read(buf, cx)
    }
}

impl AsyncWrite for InternalTransport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.outgoing.borrow_mut().poll_write(buf, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.borrow_mut().end(End::Orderly);
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut outgoing = self.outgoing.borrow_mut();
        let mut written = 0;
        for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
            match outgoing.poll_write(buf, cx) {
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) if written == 0 => return Poll::Ready(Err(error)),
                Poll::Pending if written == 0 => return Poll::Pending,
                _ => break,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl Drop for InternalTransport {
    fn drop(&mut self) {
        self.outgoing.borrow_mut().end(if self.resets { End::Reset } else { End::Orderly });
        let mut incoming = self.incoming.borrow_mut();
        incoming.is_unread = true;
        incoming.writer.take().into_iter().for_each(Waker::wake);
    }
}

/// For listener filters.
impl IncomingSocket for InternalTransport {
    fn original_destination(&self) -> Option<SocketAddr> {
        None
    }

    fn poll_peek(&mut self, buffer: &mut [u8], seen: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut incoming = self.incoming.borrow_mut();
        if incoming.end == Some(End::Reset) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let count = incoming.bytes.len().min(buffer.len());
        if count <= seen && count < buffer.len() && incoming.end.is_none() {
            incoming.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        buffer.iter_mut().zip(&incoming.bytes).for_each(|(to, byte)| *to = *byte);
        Poll::Ready(Ok(count))
    }

    fn consume(&mut self, count: usize) -> io::Result<()> {
        self.incoming.borrow_mut().take(count);
        Ok(())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_wait_for_who_reads_them() {
        let (mut one, mut other) = pair(4);
        assert_eq!(one.write(b"abcdef").await.ok(), Some(4), "no more fit");
        assert!(one.write(b"ef").now_or_never().is_none());
        let mut got = [0; 3];
        other.read_exact(&mut got).await.expect("they are there");
        assert_eq!(&got, b"abc");
        assert_eq!(one.write(b"ef").await.ok(), Some(2));
        one.shutdown().await.expect("it is open");
        let mut rest = Vec::new();
        other.read_to_end(&mut rest).await.expect("the end is orderly");
        assert_eq!(rest, b"def");
        other.write_all(b"hi").await.expect("the other direction is open");
    }

    #[tokio::test]
    async fn an_end_that_is_dropped_ends_both_directions() {
        let (one, mut other) = pair(4);
        assert!(poll_fn(|cx| other.poll_closed(cx)).now_or_never().is_none());
        drop(one);
        poll_fn(|cx| other.poll_closed(cx)).await;
        assert_eq!(other.read(&mut [0; 4]).await.ok(), Some(0));
        assert!(other.write(b"x").await.is_err());
    }

    #[tokio::test]
    async fn a_reset_drops_what_is_under_way() {
        let (mut one, mut other) = pair(4);
        one.write_all(b"x").await.expect("it fits");
        one.reset_on_drop();
        drop(one);
        assert!(other.read(&mut [0; 4]).await.is_err());
    }

    #[tokio::test]
    async fn what_was_peeked_at_is_read_again() {
        let (mut one, mut other) = pair(8);
        let mut buffer = [0; 8];
        assert!(poll_fn(|cx| other.poll_peek(&mut buffer, 0, cx)).now_or_never().is_none());
        one.write_all(b"abc").await.expect("it fits");
        assert_eq!(poll_fn(|cx| other.poll_peek(&mut buffer, 0, cx)).await.ok(), Some(3));
        assert!(poll_fn(|cx| other.poll_peek(&mut buffer, 3, cx)).now_or_never().is_none());
        other.consume(1).expect("it was seen");
        let mut got = [0; 2];
        other.read_exact(&mut got).await.expect("they are there");
        assert_eq!(&got, b"bc");
    }
}
