use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::LocalBoxFuture;
use nuncio_telemetry::{Address, Inspected};

/// A listener filter as configured: it looks at a connection before its filter chain is known, and may change what is
/// known of it. All workers share it, and it keeps nothing of a connection.
pub trait ListenerFilter: Any + Send + Sync {
    /// Looks at `incoming`.
    fn inspect<'a>(&'a self, incoming: &'a mut Incoming) -> Inspection<'a>;
}

/// What a listener filter makes of a connection.
pub enum Inspection<'a> {
    /// It has seen what it wanted.
    Done(Result<(), Rejected>),
    /// It waits for bytes of the client, no longer than `listener_filters_timeout`; dropping it ends that.
    Wait(LocalBoxFuture<'a, Result<(), Rejected>>),
}

/// Why a connection is closed before it has a filter chain.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// The client closed it before it sent what a filter wants.
    #[error("the client left")]
    ClosedByClient,
    /// The socket failed, or the bytes are none that a filter takes.
    #[error("{0}")]
    Failed(io::Error),
    /// The configuration of a filter is to come by discovery, and has not come.
    #[error("a filter has no configuration")]
    NotConfigured,
    /// A filter does not want it.
    #[error("the client {0}")]
    Refused(&'static str),
}

/// A connection that was accepted and has no filter chain yet.
pub struct Incoming {
    /// The peer: of the socket, until a filter restores that of a proxy before this one.
    pub remote: Address,
    /// Where the client connected to: the address of the socket, until a filter restores it.
    pub local: Address,
    /// Whether a filter restored `local`.
    pub is_local_restored: bool,
    /// SNI, where a filter has seen it.
    pub server_name: Option<Arc<str>>,
    /// What else filters have found out, where they have.
    pub inspected: Option<Box<Inspected>>,
    socket: Box<dyn IncomingSocket>,
}

/// The socket of a connection, as far as listener filters get to see it.
pub trait IncomingSocket: Any {
    /// Where the client connected to before the kernel redirected it here, where the kernel tells.
    fn original_destination(&self) -> Option<SocketAddr>;

    /// Fills `buffer` with the first bytes that the client sent, and leaves them there to be read. Ready with more than
    /// `seen` bytes, with all that fit, or with fewer where the client has sent its last.
    fn poll_peek(&mut self, buffer: &mut [u8], seen: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;

    /// Takes away `count` bytes, which were peeked at.
    fn consume(&mut self, count: usize) -> io::Result<()>;

    /// The socket itself, to be served.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

// === impl Incoming ===

impl Incoming {
    /// A connection with these ends, of which nothing else is known.
    pub fn new(socket: Box<dyn IncomingSocket>, remote: Address, local: Address) -> Self {
        Self { remote, local, is_local_restored: false, server_name: None, inspected: None, socket }
    }

    /// What filters have found out, to have something added.
    pub fn inspected(&mut self) -> &mut Inspected {
        self.inspected.get_or_insert_default()
    }

    /// See [`IncomingSocket::original_destination`].
    pub fn original_destination(&self) -> Option<SocketAddr> {
        self.socket.original_destination()
    }

    /// Waits for more than `seen` of the client's first bytes, and gives all that are there and fit into `buffer`. A
    /// client that has sent its last before is [`Rejected::ClosedByClient`].
    pub async fn peek<'b>(&mut self, buffer: &'b mut [u8], seen: usize) -> Result<&'b [u8], Rejected> {
        let count = poll_fn(|cx| self.socket.poll_peek(buffer, seen, cx)).await.map_err(Rejected::Failed)?;
        if count <= seen && count < buffer.len() { Err(Rejected::ClosedByClient) } else { Ok(&buffer[..count]) }
    }

    /// Takes away the first `count` bytes, which were peeked at: whoever reads next does not see them.
    pub fn consume(&mut self, count: usize) -> Result<(), Rejected> {
        self.socket.consume(count).map_err(Rejected::Failed)
    }

    /// The socket, once no filter looks any more.
    pub fn into_socket(self) -> Box<dyn Any> {
        self.socket.into_any()
    }
}
