//! The client side of a connection.
//!
//! One exchange takes the connection, writes the request and reads the response; whoever pulls the response body also
//! drives what is left of the request. At the clean end of both the connection is handed back.

mod body;
mod exchange;
mod upload;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use nuncio_filter_api::{Body, BodyError, Io, RequestHead, Response, ResponseHead};
use nuncio_telemetry::StreamInfo;
use tokio::io::{AsyncRead, ReadBuf};

use super::settings::ClientSettings;
use exchange::Exchange;

/// The client side of one HTTP/1 connection that carries no exchange. It holds no buffer.
pub struct ClientConnection {
    exchange: Box<Exchange>,
}

/// What an exchange reports to, and what becomes of its connection.
#[derive(Default)]
pub struct ExchangeOptions {
    /// The stream whose upstream bytes are counted.
    pub info: Option<Rc<StreamInfo>>,
    /// Receives interim responses (1xx but 101); they are dropped without it.
    pub informational: Option<Rc<dyn Fn(ResponseHead)>>,
    /// Receives the connection at the clean end of the exchange, if it can carry another: before the last bytes of the
    /// response body are given out. The connection is closed in every other case.
    pub on_idle: Option<Rc<dyn OnIdle>>,
}

/// Takes a connection back. A reference-counted object rather than a closure: one serves all exchanges of a
/// connection, and none costs an allocation.
pub trait OnIdle {
    /// `connection` can carry another exchange.
    fn on_idle(self: Rc<Self>, connection: ClientConnection);

    /// A response says that the connection ends with it.
    fn on_close_notify(&self) {}
}

impl<F: Fn(ClientConnection)> OnIdle for F {
    fn on_idle(self: Rc<Self>, connection: ClientConnection) {
        self(connection);
    }
}

/// How much of a request reached the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestSent {
    /// No byte of it.
    Nothing,
    /// Some of it.
    Partly,
    /// All of it.
    Whole,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeFailure {
    /// The upstream closed the connection and no byte of the final response had come (flag `UC`).
    #[error("connection termination")]
    Closed,
    /// The transport failed (flag `UC`).
    #[error("connection termination: {0}")]
    Io(#[source] io::Error),
    /// What came is no HTTP/1 response, or broke off within its head (flag `UPE`).
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The upstream reset the stream (HTTP/2, flag `UR`).
    #[error("remote reset")]
    Reset,
    /// The upstream refused the stream unprocessed (HTTP/2 REFUSED_STREAM, flag `UR`).
    #[error("remote refused stream reset")]
    Refused,
    /// The response has more fields than it may (HTTP/2, flag `UR`: so Envoy tells of streams that it resets itself).
    #[error("remote reset: too many headers")]
    TooManyHeaders,
    /// The fields of the response are too large (HTTP/2, flag `UR`).
    #[error("remote reset: headers too large")]
    HeadersTooLarge,
    /// The upstream went away without the stream, which it did not process (HTTP/2 GOAWAY, flag `UR`).
    #[error("remote refused stream reset")]
    GoneAway,
    /// The request body broke off: the client's fault or its departure.
    #[error("request body: {0}")]
    RequestBody(#[source] BodyError),
}

/// An exchange without response. Its connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct ExchangeError {
    /// What happened.
    pub failure: ExchangeFailure,
    /// Whether any byte of a response came, interim ones included.
    pub response_started: bool,
    /// How much of the request was sent.
    pub sent: RequestSent,
    /// The request's body, unless some of it was consumed: to be sent again on another connection. A pooled connection
    /// may be retried so where it failed with [`ExchangeFailure::Closed`] or [`ExchangeFailure::Io`] and no response
    /// had started.
    pub body: Option<Body>,
}

impl ClientConnection {
    /// A connection over `io`, fresh from connecting.
    pub fn new(io: Io, settings: Arc<ClientSettings>) -> Self {
        Self { exchange: Box::new(Exchange::new(io, settings)) }
    }

    /// Ready once an idle connection cannot be used any more: the upstream closed it, or sent what nobody asked for,
    /// which must not become the response to the next request.
    pub fn poll_idle_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut byte = [0];
        Pin::new(&mut self.exchange.io).poll_read(cx, &mut ReadBuf::new(&mut byte)).map(|_| ())
    }

    /// Sends a request and waits for the head of its response. Head and first body bytes are one write. Dropping the
    /// future or the response body closes the connection.
    ///
    /// After a 101 (only where `head.protocol` is set) or the 2xx of a CONNECT, the bodies are the two directions of a
    /// tunnel: the end of the request body closes the upstream's receiving half.
    pub fn exchange(
        self,
        head: &RequestHead,
        body: Body,
        options: ExchangeOptions,
    ) -> impl Future<Output = Result<Response, ExchangeError>> + use<> {
        let mut exchange = self.exchange;
        exchange.begin(head, body, options);
        async move {
            match poll_fn(|cx| exchange.poll_head(cx)).await {
                Ok(()) => Ok(body::response(exchange)),
                Err(failure) => Err(exchange.into_error(failure)),
            }
        }
    }

    /// Makes the connection one end of a tunnel without HTTP: `body` is sent as it is, its end closes the peer's
    /// receiving half, and what the peer sends is returned.
    pub fn tunnel(self, body: Body, info: Option<Rc<StreamInfo>>) -> Body {
        let mut exchange = self.exchange;
        exchange.begin_raw(body, ExchangeOptions { info, ..ExchangeOptions::default() });
        body::raw(exchange)
    }

    #[cfg(test)]
    pub(super) const STATE_BYTES: usize = size_of::<Exchange>();

    #[cfg(test)]
    pub(super) fn holds_no_memory(&self) -> bool {
        self.exchange.holds_no_memory()
    }
}
