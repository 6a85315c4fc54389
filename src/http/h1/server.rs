//! The server side of a connection.
//!
//! ```text
//! readable -> poll_head -> take_request -> (request body is pulled | response is written)* -> readable
//! ```

mod body;
mod inner;
mod respond;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use nuncio_filter_api::{Body, Io, ResponseHead};
use nuncio_telemetry::StreamInfo;

use super::details::BadRequest;
use super::request_head::IncomingRequest;
use super::settings::ServerSettings;
use inner::Inner;
pub use respond::{Persistence, RespondError, Sending};

/// What came of waiting for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Bytes of a request are here: its time begins.
    Request,
    /// The client closed or reset the connection between requests.
    Closed,
}

/// What came of reading a request head.
#[derive(Debug)]
pub enum Incoming {
    /// A request.
    Request(IncomingRequest),
    /// The client closed or reset the connection within the head.
    Closed,
    /// No request: answer it with [`ServerConnection::respond`] and close.
    Bad(BadRequest),
}

/// The server side of one HTTP/1 connection. One stream at a time; polled by one task.
pub struct ServerConnection {
    inner: Rc<RefCell<Inner>>,
}

impl ServerConnection {
    /// A connection over `io`, of which `initial` was read already (by protocol detection).
    pub fn new(io: Io, settings: Arc<ServerSettings>, initial: Bytes) -> Self {
        let inner = Inner::new(io, settings, BytesMut::from(initial));
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// Waits for the first byte of the next request. Pipelined bytes count at once.
    pub async fn readable(&self) -> Readiness {
        poll_fn(|cx| self.inner.borrow_mut().poll_readable(cx)).await
    }

    /// Reads the head of the next request, which [`ServerConnection::take_request`] then gives.
    pub fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Result<(), BadRequest>> {
        self.inner.borrow_mut().poll_head(cx).map_ok(|_| ())
    }

    /// Begins the request whose head was read; `None` where the client closed the connection instead. By itself, since
    /// a request handed up through polls would be copied by each.
    pub fn take_request(&self) -> Option<IncomingRequest> {
        body::begin(&self.inner)
    }

    /// The next request, read with [`ServerConnection::readable`] and [`ServerConnection::poll_head`].
    pub async fn next_request(&self) -> Incoming {
        match self.readable().await {
            Readiness::Request => match poll_fn(|cx| self.poll_head(cx)).await {
                Ok(()) => self.take_request().map_or(Incoming::Closed, Incoming::Request),
                Err(bad) => Incoming::Bad(bad),
            },
            Readiness::Closed => Incoming::Closed,
        }
    }

    /// Counts the bytes of the current stream in `info` from now on, those of the request head included.
    pub fn track(&self, info: Rc<StreamInfo>) {
        self.inner.borrow_mut().track(info);
    }

    /// Whether the request has been read to its end. If not, the response closes the connection, as in Envoy.
    pub fn is_request_complete(&self) -> bool {
        self.inner.borrow().is_request_complete()
    }

    /// The fault of the request body, where that is why it ended in an error: the reply to give if none was begun.
    pub fn request_fault(&self) -> Option<BadRequest> {
        self.inner.borrow().fault()
    }

    /// Ready once the client has closed or reset the connection. Reads ahead at most one bounded buffer to find out;
    /// in a tunnel the end of the request body tells instead.
    pub fn poll_disconnected(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.borrow_mut().poll_disconnected(cx)
    }

    /// Queues an interim response (1xx but 101); written by the next flush or response. Dropped for an HTTP/1.0 client
    /// and where too much is queued already.
    pub fn queue_informational(&self, head: &ResponseHead) {
        self.inner.borrow_mut().queue_informational(head);
    }

    /// Writes what is queued.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.inner.borrow_mut().poll_flush(cx)
    }

    /// Writes an interim response.
    pub async fn send_informational(&self, head: &ResponseHead) -> std::io::Result<()> {
        self.queue_informational(head);
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Writes a response to its end; head and first body bytes in one write. Says whether the connection can carry
    /// another request. Dropping the future leaves a connection that can only be dropped.
    ///
    /// The framing, `connection` and interim fields are this codec's own: those in the head are not written. Request
    /// bodies are read while the response body is polled, by whoever pulls them.
    pub fn respond(&self, head: &ResponseHead, body: Body, persistence: Persistence) -> Sending<'_> {
        Sending::begin(&self.inner, head, body, persistence)
    }

    /// Flushes and tells the client that nothing more will be sent.
    pub async fn shutdown(&self) -> std::io::Result<()> {
        poll_fn(|cx| self.inner.borrow_mut().poll_shutdown(cx)).await
    }

    /// Reads and drops what the client still sends until it closes: for use with `delayed_close_timeout` after
    /// [`ServerConnection::shutdown`], so that a reset does not overtake the response. Counts what it drops.
    pub async fn closed_by_client(&self, dropped: &Cell<u64>) {
        poll_fn(|cx| self.inner.borrow_mut().poll_discard(dropped, cx)).await;
    }

    #[cfg(test)]
    pub(super) const STATE_BYTES: usize = size_of::<Inner>();

    #[cfg(test)]
    pub(super) fn holds_no_memory(&self) -> bool {
        self.inner.borrow().holds_no_memory()
    }
}
