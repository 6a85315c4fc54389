use std::any::Any;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::Worker;

/// A filter of a UDP listener as configured; all workers share it.
pub trait UdpListenerFilter: Any + Send + Sync {
    /// Makes what one worker runs of it on one address. Dropping that ends all that it began.
    fn start(self: Arc<Self>, cx: UdpCx) -> Box<dyn UdpFilter>;
}

/// A filter of a UDP listener as one worker runs it.
pub trait UdpFilter {
    /// Looks at datagrams of one client, in the order in which they came.
    fn receive(&mut self, datagrams: &Datagrams<'_>) -> UdpFlow;

    /// The kernel could not give what a client sent.
    fn receive_failed(&mut self) {}
}

/// What becomes of datagrams after a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpFlow {
    /// The next filter gets them.
    Next,
    /// The filter has dealt with them.
    Done,
}

/// Datagrams that came from one client in a row.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams<'a> {
    /// Who sent them.
    pub peer: SocketAddr,
    /// Where they were sent to.
    pub local: SocketAddr,
    /// What is in them; at least one, and each may be empty.
    pub payloads: &'a [&'a [u8]],
    /// When they came.
    pub at: Instant,
}

/// What a filter of a UDP listener works with on one worker.
#[derive(Clone)]
pub struct UdpCx {
    /// The worker.
    pub worker: Rc<Worker>,
    /// Where answers are sent.
    pub replies: Rc<dyn UdpReplies>,
    /// Name of the listener.
    pub listener: Arc<str>,
}

/// Sends datagrams to clients, from the address that they sent theirs to. Nothing waits: what the kernel does not take is
/// lost, as any datagram may be.
pub trait UdpReplies {
    /// Sends `payloads` from `local`, an address that clients send to, to the client `peer`.
    fn send(&self, peer: SocketAddr, local: SocketAddr, payloads: &[&[u8]]) -> UdpSent;
}

/// What the kernel made of datagrams that were to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpSent {
    /// Datagrams that it took.
    pub datagrams: u64,
    /// The bytes in them.
    pub bytes: u64,
    /// Datagrams that it did not take.
    pub errors: u64,
}
