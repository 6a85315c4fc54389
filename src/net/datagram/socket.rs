use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use nuncio_filter_api::UdpSent;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::{Receiver, Sender};
use crate::option::set_flag;

/// A socket for datagrams in the poller of a worker. It is never asked whether it could send: what the kernel does not
/// take at once is lost. (The poller would otherwise be woken for each datagram that has left.)
pub struct DatagramSocket {
    socket: AsyncFd<Socket>,
    /// Where it is not connected.
    to: Option<SocketAddr>,
    /// In whose name it sends.
    source: Option<IpAddr>,
}

/// Something can be received, or was a moment ago.
pub struct Readiness<'a>(AsyncFdReadyGuard<'a, Socket>);

/// What the poller is asked to tell.
const READS: Interest = Interest::READABLE.add(Interest::ERROR);

impl DatagramSocket {
    /// A socket that is set up and bound already.
    pub(crate) fn bound(socket: Socket) -> io::Result<Self> {
        // SAFETY: the socket is given away: nobody can close its descriptor before it is taken out of the poller.
        let socket = unsafe { AsyncFd::register_with_interest(socket, READS)? };
        Ok(Self { socket, to: None, source: None })
    }

    /// A socket whose datagrams go to `to` and come from there.
    pub fn connected(to: SocketAddr, joined: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        socket.connect(&to.into())?;
        if joined {
            set_joined(&socket, true);
        }
        Self::bound(socket)
    }

    /// A socket that sends to `to` in the name of `source`, an address that need not be of this host. Answers come here
    /// only if they are routed here.
    pub fn transparent(to: SocketAddr, source: IpAddr, joined: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        let (level, name) = match to {
            SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
            SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
        };
        set_flag(&socket, level, name, true)?;
        if joined {
            set_joined(&socket, true);
        }
        Ok(Self { to: Some(to), source: Some(source), ..Self::bound(socket)? })
    }

    /// Its own address.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.get_ref().local_addr().ok()?.as_socket()
    }

    /// Waits until something can be received, or an error be told.
    pub async fn ready(&self) -> io::Result<Readiness<'_>> {
        self.socket.ready(READS).await.map(Readiness)
    }

    /// Has the kernel join datagrams of one sender, or not.
    pub(crate) fn set_joined(&self, joined: bool) {
        set_joined(self.socket.get_ref(), joined);
    }

    /// Sends to `to` in the name of `from`, what the kernel takes.
    pub(crate) fn send_to(
        &self,
        sender: &mut Sender,
        to: SocketAddr,
        from: Option<IpAddr>,
        payloads: &[&[u8]],
    ) -> UdpSent {
        sender.send(self.socket.get_ref().as_fd(), Some(to), from, payloads)
    }

    /// Sends what the kernel takes.
    pub fn send(&self, sender: &mut Sender, payloads: &[&[u8]]) -> UdpSent {
        sender.send(self.socket.get_ref().as_fd(), self.to, self.source, payloads)
    }
}

// === impl Readiness ===

impl Readiness<'_> {
    /// Receives what is there into `receiver`, and says how many slots it has filled; `WouldBlock` where nothing is.
    pub fn receive(mut self, receiver: &mut Receiver) -> io::Result<usize> {
        let received = receiver.receive(self.0.get_inner().as_fd());
        // Where not all slots were filled there is no more, and the poller tells of what comes next: to ask for it would
        // be one more call for nothing.
        let is_drained = match &received {
            Ok(count) => *count < receiver.slots(),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        match is_drained {
            true => self.0.clear_ready(),
            false => self.0.retain_ready(),
        }
        received
    }
}

/// Kernels before 5.0 cannot, and give datagrams one by one.
fn set_joined(socket: &Socket, joined: bool) {
    let _ = set_flag(socket, libc::SOL_UDP, libc::UDP_GRO, joined);
}
