//! A UDP listener as one worker runs it on one address: datagrams from the socket to the filters.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use nuncio_config::listener::UdpConfig;
use nuncio_filter_api::{Datagrams, UdpCx, UdpFilter, UdpFlow, UdpReplies, UdpSent};
use nuncio_telemetry::Address;
use nuncio_telemetry::stats::catalogue::UdpListenerStats;
use socket2::Socket;
use tokio::task::{JoinHandle, spawn_local};
use tracing::{debug, warn};

use crate::active::Shared;
use crate::datagram::{DatagramSocket, Received, Receiver, Sender};

/// The pause after a panic, so that one which comes again at once does not spin.
const PAUSE: Duration = Duration::from_millis(50);

/// One socket.
struct UdpListener {
    shared: Rc<Shared>,
    socket: Rc<DatagramSocket>,
    bound: SocketAddr,
    longest: usize,
    filters: Vec<Box<dyn UdpFilter>>,
    /// Of those that the kernel had no room for, so many are counted.
    overflowed: u32,
}

/// Answers leave by the socket that the datagrams came by.
struct Replies {
    socket: Rc<DatagramSocket>,
    sender: RefCell<Sender>,
    /// Whether the socket has several addresses, of which the client knows one.
    is_wildcard: bool,
}

/// Begins to receive on the address numbered `address`, until it is aborted.
pub(crate) fn spawn(
    shared: &Rc<Shared>,
    udp: &UdpConfig,
    socket: Socket,
    address: usize,
) -> io::Result<JoinHandle<()>> {
    let Address::Ip(bound) = shared.listener.addresses()[address] else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let socket = Rc::new(DatagramSocket::bound(socket)?);
    socket.set_joined(udp.socket.prefers_gro);
    let receiver = Receiver::of(&udp.socket);
    Ok(spawn_local(serve(shared.clone(), udp.clone(), socket, bound, receiver)))
}

/// Receives for ever. A panic costs what the filters had begun, and those who sent.
async fn serve(
    shared: Rc<Shared>,
    udp: UdpConfig,
    socket: Rc<DatagramSocket>,
    bound: SocketAddr,
    mut receiver: Receiver,
) {
    loop {
        let cx = UdpCx {
            worker: shared.worker.clone(),
            replies: Rc::new(Replies {
                socket: socket.clone(),
                sender: RefCell::default(),
                is_wildcard: bound.ip().is_unspecified(),
            }),
            listener: shared.listener_name().clone(),
        };
        let mut listener = UdpListener {
            filters: udp.filters.iter().map(|filter| filter.clone().start(cx.clone())).collect(),
            shared: shared.clone(),
            socket: socket.clone(),
            bound,
            longest: udp.socket.longest(),
            overflowed: 0,
        };
        // Only a panic ends it, which the process's hook has logged.
        let _ = AssertUnwindSafe(listener.receive_forever(&mut receiver)).catch_unwind().await;
        tokio::time::sleep(PAUSE).await;
    }
}

impl UdpListener {
    async fn receive_forever(&mut self, receiver: &mut Receiver) {
        let (name, socket) = (self.shared.listener_name().clone(), self.socket.clone());
        loop {
            let ready = match socket.ready().await {
                Ok(ready) => ready,
                Err(error) => {
                    // The runtime is going away.
                    warn!(listener = %name, %error, "no more datagrams are received");
                    return std::future::pending().await;
                }
            };
            match ready.receive(receiver) {
                Ok(count) => {
                    self.deliver(receiver, count);
                    // There may be more; others have their turn first.
                    if count == receiver.slots() {
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    debug!(listener = %name, %error, "receiving failed");
                    self.filters.iter_mut().for_each(|filter| filter.receive_failed());
                }
            }
        }
    }

    /// Gives the filters what the first `count` slots hold: what a client has sent in a row at once.
    fn deliver(&mut self, receiver: &Receiver, count: usize) {
        let at = self.shared.worker.clock.now();
        let mut payloads = Vec::with_capacity(count);
        let mut ends: Option<(SocketAddr, SocketAddr)> = None;
        for slot in 0..count {
            let received = receiver.get(slot);
            let Some(peer) = self.admit(&received) else { continue };
            let of = (peer, SocketAddr::new(received.local.unwrap_or(self.bound.ip()), self.bound.port()));
            if ends.is_some_and(|ends| ends != of) {
                self.pass(ends, &payloads, at);
                payloads.clear();
            }
            ends = Some(of);
            payloads.extend(received.datagrams());
        }
        self.pass(ends, &payloads, at);
    }

    /// The sender of what was received; `None` where it is dropped, which is counted.
    fn admit(&mut self, received: &Received<'_>) -> Option<SocketAddr> {
        let stats = self.shared.listener.udp_stats.as_ref();
        let dropped = |count: u64| stats.map(UdpListenerStats::downstream_rx_datagram_dropped).map(|c| c.add(count));
        if let Some(overflowed) = received.overflowed {
            dropped(overflowed.wrapping_sub(self.overflowed).into());
            self.overflowed = overflowed;
        }
        if !received.fits(self.longest) {
            dropped(1);
            return None;
        }
        // From port 0 nobody can be answered; the kernel tells of no other peer than one of IP.
        received.peer
    }

    fn pass(&mut self, ends: Option<(SocketAddr, SocketAddr)>, payloads: &[&[u8]], at: tokio::time::Instant) {
        let Some((peer, local)) = ends.filter(|_| !payloads.is_empty()) else { return };
        let datagrams = Datagrams { peer, local, payloads, at };
        for filter in &mut self.filters {
            if filter.receive(&datagrams) == UdpFlow::Done {
                return;
            }
        }
    }
}

impl UdpReplies for Replies {
    fn send(&self, peer: SocketAddr, local: SocketAddr, payloads: &[&[u8]]) -> UdpSent {
        let from: Option<IpAddr> = self.is_wildcard.then_some(local.ip());
        self.socket.send_to(&mut self.sender.borrow_mut(), peer, from, payloads)
    }
}
