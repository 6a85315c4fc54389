//! Listener filters: what looks at a connection before its network filters get it.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use nuncio_config::listener::ListenerFilters;
use nuncio_filter_api::{Incoming, IncomingSocket, Inspection, Io, Rejected};
use nuncio_telemetry::{Address, Inspected};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::active::Shared;
use crate::tcp_info::round_trip;
use crate::{InternalTransport, TcpTransport, UnixTransport};

/// A socket that may be peeked at.
struct Peeked<S> {
    stream: S,
    transport: fn(S) -> Io,
}

/// A socket with bytes that are only looked at.
trait Peek: AsFd + 'static {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn try_read_io(&self, io: impl FnOnce() -> io::Result<usize>) -> io::Result<usize>;
    /// Whether it may have been redirected.
    fn is_ip(&self) -> bool;
}

macro_rules! peek {
    ($stream:ty, $is_ip:expr) => {
        impl Peek for $stream {
            fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            fn try_read_io(&self, io: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
                self.try_io(Interest::READABLE, io)
            }

            fn is_ip(&self) -> bool {
                $is_ip
            }
        }
    };
}
peek!(TcpStream, true);
peek!(UnixStream, false);

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Accepted,
    /// From a listener that has accepted it for others.
    HandedOff,
}

/// A connection that listener filters look at, counted while they do. Where it ends there, the worker has one less.
struct PreConnection {
    shared: Rc<Shared>,
    is_served: bool,
}

impl Shared {
    /// Has the listener filters look at a TCP connection, and serves it then.
    pub(crate) fn inspect_tcp(self: &Rc<Self>, stream: TcpStream, remote: Address, local: Address) {
        let socket = Peeked { stream, transport: |stream| Io::new(TcpTransport::peeked(stream)) };
        self.inspect(Incoming::new(Box::new(socket), remote, local), Origin::Accepted);
    }

    /// The same for a connection of a unix-domain socket.
    pub(crate) fn inspect_unix(self: &Rc<Self>, stream: UnixStream, remote: Address, local: Address) {
        let socket = Peeked { stream, transport: |stream| Io::new(UnixTransport::peeked(stream)) };
        self.inspect(Incoming::new(Box::new(socket), remote, local), Origin::Accepted);
    }

    /// The same for a connection that came without a socket.
    pub(crate) fn inspect_internal(
        self: &Rc<Self>,
        transport: InternalTransport,
        remote: Address,
        local: Address,
        inspected: Option<Box<Inspected>>,
    ) {
        let mut incoming = Incoming::new(Box::new(transport), remote, local);
        incoming.inspected = inspected;
        self.inspect(incoming, Origin::Accepted);
    }

    fn inspect(self: &Rc<Self>, mut incoming: Incoming, origin: Origin) {
        let shared = self.clone();
        let (remote, local) = (incoming.remote.clone(), incoming.local.clone());
        let counted = PreConnection::begin(self);
        let mut inspecting = Box::pin(async move {
            match shared.run_listener_filters(&mut incoming).await {
                Ok(()) => {
                    counted.end();
                    match shared.successor(&incoming, origin) {
                        Some(other) => shared.hand_off(incoming, &other),
                        None => shared.serve_inspected(incoming, remote, local),
                    }
                }
                Err(error) => {
                    tracing::debug!(listener = %shared.listener.config.name, %error, "a connection was closed");
                    let info = shared.describe(Ends::of(&mut incoming, remote, local));
                    shared.log(Rc::new(info), |_| {});
                }
            }
        });
        // Most filters have no need to wait, and a task costs more than they do.
        if inspecting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.spawn(inspecting);
        }
    }

    /// The listener that a connection is for, where this one has accepted it for others. Envoy: one that was given to a
    /// listener is given to no other.
    fn successor(self: &Rc<Self>, incoming: &Incoming, origin: Origin) -> Option<Rc<Self>> {
        let is_for_others = self.listener.config.use_original_dst && incoming.is_local_restored;
        if !is_for_others || origin == Origin::HandedOff {
            return None;
        }
        self.directory.find(&incoming.local).filter(|other| !Rc::ptr_eq(self, other))
    }

    /// Gives a connection to another listener, whose listener filters look at it in turn.
    fn hand_off(&self, incoming: Incoming, other: &Rc<Self>) {
        self.release();
        other.take();
        other.inspect(incoming, Origin::HandedOff);
    }

    async fn run_listener_filters(&self, incoming: &mut Incoming) -> Result<(), Rejected> {
        let ListenerFilters { filters, timeout: limit, continue_on_timeout } = &self.listener.config.listener_filters;
        let inspecting = async {
            for filter in &**filters {
                if filter.is_disabled(incoming.local.port()) {
                    continue;
                }
                match filter.filter.inspect(incoming) {
                    Inspection::Done(outcome) => outcome?,
                    Inspection::Wait(waiting) => waiting.await?,
                }
            }
            Ok(())
        };
        let stats = &self.listener.stats;
        let outcome = match limit {
            None => inspecting.await,
            Some(limit) => match timeout(*limit, inspecting).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    stats.downstream_pre_cx_timeout().inc();
                    return match continue_on_timeout {
                        true => Ok(()),
                        false => Err(Rejected::Failed(io::ErrorKind::TimedOut.into())),
                    };
                }
            },
        };
        match &outcome {
            Ok(()) | Err(Rejected::Refused(_)) => {}
            Err(Rejected::NotConfigured) => stats.extension_config_missing().inc(),
            Err(Rejected::ClosedByClient) => stats.downstream_listener_filter_remote_close().inc(),
            Err(Rejected::Failed(_)) => stats.downstream_listener_filter_error().inc(),
        }
        outcome
    }

    fn serve_inspected(self: &Rc<Self>, mut incoming: Incoming, direct_remote: Address, direct_local: Address) {
        let mut ends = Ends::of(&mut incoming, direct_remote, direct_local);
        let socket = incoming.into_socket();
        let io = match socket.downcast::<Peeked<TcpStream>>() {
            Ok(tcp) => {
                ends.round_trip = round_trip(&tcp.stream);
                tcp.into_io()
            }
            Err(socket) => match socket.downcast::<Peeked<UnixStream>>() {
                Ok(unix) => unix.into_io(),
                Err(socket) => match socket.downcast::<InternalTransport>() {
                    Ok(internal) => Io::new(*internal),
                    Err(_) => unreachable!("there are three kinds of sockets"),
                },
            },
        };
        self.serve(io, ends);
    }
}

/// The two ends of a connection, and what listener filters found out of them.
pub(crate) struct Ends {
    pub(crate) remote: Address,
    pub(crate) local: Address,
    pub(crate) is_local_restored: bool,
    pub(crate) server_name: Option<std::sync::Arc<str>>,
    pub(crate) inspected: Option<Box<Inspected>>,
    pub(crate) direct_remote: Address,
    pub(crate) direct_local: Address,
    /// As the kernel has measured it, where it can be asked before the connection is read.
    pub(crate) round_trip: Option<Duration>,
}

// === impl Ends ===

impl Ends {
    /// Those of the socket.
    pub(crate) fn new(remote: Address, local: Address) -> Self {
        Self {
            direct_remote: remote.clone(),
            remote,
            direct_local: local.clone(),
            local,
            is_local_restored: false,
            server_name: None,
            inspected: None,
            round_trip: None,
        }
    }
}

impl Ends {
    /// Those that listener filters found out.
    fn of(incoming: &mut Incoming, direct_remote: Address, direct_local: Address) -> Self {
        Self {
            remote: incoming.remote.clone(),
            local: incoming.local.clone(),
            is_local_restored: incoming.is_local_restored,
            server_name: incoming.server_name.clone(),
            inspected: incoming.inspected.take(),
            direct_remote,
            direct_local,
            round_trip: None,
        }
    }
}

// === impl Peeked ===

impl<S> Peeked<S> {
    fn into_io(self) -> Io {
        (self.transport)(self.stream)
    }
}

impl<S: Peek> IncomingSocket for Peeked<S> {
    fn original_destination(&self) -> Option<SocketAddr> {
        self.stream.is_ip().then(|| original_destination(&self.stream)).flatten()
    }

    fn poll_peek(&mut self, buffer: &mut [u8], seen: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Whether the bytes seen before are all that there are, and the runtime was told to forget them.
        let mut has_forgotten = false;
        loop {
            ready!(self.stream.poll_readable(cx))?;
            let peeked = self.stream.try_read_io(|| {
                let count = peek(&self.stream, buffer)?;
                match count > seen || count == buffer.len() || count == 0 || has_forgotten {
                    true => Ok(count),
                    false => {
                        has_forgotten = true;
                        Err(io::ErrorKind::WouldBlock.into())
                    }
                }
            });
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn consume(&mut self, mut count: usize) -> io::Result<()> {
        let socket = SockRef::from(&self.stream);
        let mut buffer = [0; 256];
        while count > 0 {
            let wanted = count.min(buffer.len());
            // They were peeked at: they are there.
            match io::Read::read(&mut &*socket, &mut buffer[..wanted])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => count -= read,
            }
        }
        Ok(())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// As `recv`, but the bytes stay.
fn peek(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes no more than the length of the buffer that it is given.
    let count =
        unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

// === impl PreConnection ===

impl PreConnection {
    fn begin(shared: &Rc<Shared>) -> Self {
        shared.listener.stats.downstream_pre_cx_active().inc();
        Self { shared: shared.clone(), is_served: false }
    }

    /// The filters have seen enough.
    fn end(mut self) {
        self.is_served = true;
    }
}

impl Drop for PreConnection {
    fn drop(&mut self) {
        self.shared.listener.stats.downstream_pre_cx_active().dec();
        if !self.is_served {
            self.shared.release();
        }
    }
}

/// Where the client of a TCP connection connected to before it was redirected here. A connection that was not redirected
/// has no such place, unless its socket is transparent: then it is the socket's own.
fn original_destination(socket: &impl AsFd) -> Option<SocketAddr> {
    let socket = SockRef::from(socket);
    let local = socket.local_addr().ok()?.as_socket()?;
    match local {
        SocketAddr::V4(_) if socket.ip_transparent_v4().unwrap_or(false) => Some(local),
        SocketAddr::V6(_) if socket.ip_transparent_v6().unwrap_or(false) => Some(local),
        SocketAddr::V4(_) => socket.original_dst_v4().ok()?.as_socket(),
        SocketAddr::V6(_) => socket.original_dst_v6().ok()?.as_socket(),
    }
}

#[cfg(test)]
mod tests;
