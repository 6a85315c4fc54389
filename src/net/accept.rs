//! The accept loop.

use std::future::poll_fn;
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use nuncio_config::listener::ListenerConfig;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tracing::{debug, warn};

use crate::active::Shared;
use crate::balance::{Handoff, HandoffStream};

/// The pause after accept(2) first failed for want of descriptors or memory; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: how late a connection may be accepted after descriptors are free again.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// A socket to accept from.
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Accepted {
    Tcp(TcpStream, std::net::SocketAddr),
    Unix(UnixStream),
}

impl Acceptor {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(cx).map_ok(|(stream, peer)| Accepted::Tcp(stream, peer)),
            Self::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

/// Accepts connections of the address numbered `address` until it is aborted. A panic on the way from accept(2) to the
/// connection's own task costs that connection alone.
pub(crate) async fn accept_forever(shared: Rc<Shared>, acceptor: Acceptor, address: usize) {
    loop {
        let accepting = AssertUnwindSafe(accept_loop(&shared, &acceptor, address));
        // Only a panic ends it, which the process's hook has logged.
        let _ = accepting.catch_unwind().await;
        tokio::time::sleep(MIN_PAUSE).await;
    }
}

/// Accepts connections batch by batch.
async fn accept_loop(shared: &Rc<Shared>, acceptor: &Acceptor, address: usize) {
    let limit = shared.listener.config.accept_batch.unwrap_or(u32::MAX);
    let mut pause = MIN_PAUSE;
    loop {
        let (accepted, failure) = poll_fn(|cx| poll_batch(shared, acceptor, address, limit, cx)).await;
        if accepted > 0 {
            shared.listener.stats.connections_accepted_per_socket_event().record(accepted.into());
            pause = MIN_PAUSE;
        }
        match failure {
            Some(error) => {
                report(&shared.listener.config, shared, &error, pause);
                tokio::time::sleep(pause).await;
                pause = MAX_PAUSE.min(pause * 2);
            }
            // What this batch brought runs first; then the rest of the queue is accepted.
            None if accepted == limit => tokio::task::yield_now().await,
            None => {}
        }
    }
}

/// Accepts what waits, at most `limit`. Pending only if nothing waits.
fn poll_batch(
    shared: &Rc<Shared>,
    acceptor: &Acceptor,
    address: usize,
    limit: u32,
    cx: &mut Context<'_>,
) -> Poll<(u32, Option<io::Error>)> {
    let mut accepted = 0;
    while accepted < limit {
        match acceptor.poll_accept(cx) {
            Poll::Ready(Ok(stream)) => {
                accepted += 1;
                place(shared, stream, address);
            }
            Poll::Ready(Err(error)) if is_of_one_connection(&error) => {
                debug!(%error, "a connection was lost in accept")
            }
            Poll::Ready(Err(error)) => return Poll::Ready((accepted, Some(error))),
            Poll::Pending if accepted == 0 => return Poll::Pending,
            Poll::Pending => break,
        }
    }
    Poll::Ready((accepted, None))
}

/// accept(2): these errors are of the connection that was to be accepted, not of the listening socket.
fn is_of_one_connection(error: &io::Error) -> bool {
    let of_one = [
        libc::ECONNABORTED,
        libc::ECONNRESET,
        libc::EINTR,
        libc::EPROTO,
        libc::EPERM,
        libc::ENOPROTOOPT,
        libc::ENETDOWN,
        libc::ENETUNREACH,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::ENONET,
        libc::EOPNOTSUPP,
    ];
    error.raw_os_error().is_some_and(|code| of_one.contains(&code))
}

/// Anything else is a want of descriptors or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM) or unheard of: trying again at
/// once would fail again and spin. Said once, when the pause is still the shortest; the counter says how often.
fn report(config: &ListenerConfig, shared: &Shared, error: &io::Error, pause: Duration) {
    shared.listener.stats.accept_error().inc();
    if pause == MIN_PAUSE {
        warn!(listener = %config.name, %error, "accepting connections is slowed down");
    }
}

/// Serves a connection here, or hands it to the worker that exact balance picks.
fn place(shared: &Rc<Shared>, accepted: Accepted, address: usize) {
    if let Err(overflow) = shared.listener.admit() {
        return debug!(listener = %shared.listener.config.name, ?overflow, "a connection is closed at once");
    }
    let own = shared.worker.index;
    let Some(balancer) = &shared.listener.balancer else { return serve(shared, accepted, address) };
    let picked = balancer.pick(own);
    if picked == own {
        return serve(shared, accepted, address);
    }
    let stream = match accepted {
        Accepted::Tcp(stream, peer) => stream.into_std().map(|s| HandoffStream::Tcp(s, peer)),
        Accepted::Unix(stream) => stream.into_std().map(HandoffStream::Unix),
    };
    // Taking a socket out of the poller fails only where the socket is broken: it is closed.
    let Ok(stream) = stream else {
        shared.listener.open.note_closed();
        return balancer.release(picked);
    };
    if let Err(Handoff { stream, address }) = balancer.send(picked, Handoff { stream, address }) {
        balancer.release(picked);
        balancer.take(own);
        adopt(shared, stream, address);
    }
}

fn serve(shared: &Rc<Shared>, accepted: Accepted, address: usize) {
    match accepted {
        Accepted::Tcp(stream, peer) => shared.serve_tcp(stream, peer, address),
        Accepted::Unix(stream) => shared.serve_unix(stream, address),
    }
}

/// Serves a socket that is not in this worker's poller yet; the balancer has counted it for this worker.
fn adopt(shared: &Rc<Shared>, stream: HandoffStream, address: usize) {
    let adopted = match stream {
        HandoffStream::Tcp(stream, peer) => TcpStream::from_std(stream).map(|s| Accepted::Tcp(s, peer)),
        HandoffStream::Unix(stream) => UnixStream::from_std(stream).map(Accepted::Unix),
    };
    match adopted {
        Ok(accepted) => serve(shared, accepted, address),
        Err(_) => shared.release(),
    }
}

/// Serves what other workers accepted and exact balance gave to this one.
pub(crate) async fn receive_loop(shared: Rc<Shared>) {
    let Some(balancer) = &shared.listener.balancer else { return };
    let mut queue = balancer.receiver(shared.worker.index).lock_owned().await;
    while let Some(Handoff { stream, address }) = queue.recv().await {
        adopt(&shared, stream, address);
    }
}
