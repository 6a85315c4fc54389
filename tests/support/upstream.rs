//! Scripted upstream servers on real sockets, which remember all that they received.

mod http1;
mod http2;

use super::http1::Message;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

/// What an upstream does with a request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The response in HTTP/1 syntax; an HTTP/2 upstream translates it, an HTTP/1 one sends it byte for byte.
    pub(crate) bytes: Vec<u8>,
    pub(crate) then: Then,
    /// Waited for before the answer.
    pub(crate) delay: Duration,
    /// How often it is given, after which the next that fits takes its place.
    pub(crate) times: usize,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It serves the next request.
    Keep,
    /// It is closed with a FIN.
    Close,
    /// It is reset; an HTTP/2 upstream resets the stream.
    Reset,
    /// Nothing more is sent, and it stays open.
    Hang,
    /// It is kept until the next request arrives, and closed then without an answer: a stale pooled connection.
    CloseAtNext,
    /// Every byte that follows is sent back: an upgraded connection.
    Echo,
}

impl Answer {
    /// A `200` with this body.
    pub(crate) fn ok(body: &str) -> Self {
        Self::bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }

    /// Exactly these bytes, after which the connection is kept.
    pub(crate) fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), then: Then::Keep, delay: Duration::ZERO, times: usize::MAX }
    }

    pub(crate) fn then(self, then: Then) -> Self {
        Self { then, ..self }
    }

    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// What an upstream received, in order of arrival.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Number of the connection at this upstream, from 0.
    pub(crate) connection: usize,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A request; its start ends in `HTTP/2` where it came over HTTP/2.
    Request(Message),
    /// Bytes that are no whole request.
    Garbage(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    /// A port at which nobody listens.
    Refuse,
    /// Connections are taken and closed.
    Close,
}

/// An upstream to be started: a protocol and what it answers.
pub(crate) struct Script {
    protocol: Protocol,
    routes: Vec<(String, Answer)>,
}

/// An HTTP/1 upstream; without routes it answers `200` and `ok`.
pub(crate) fn http1() -> Script {
    Script { protocol: Protocol::Http1, routes: Vec::new() }
}

/// An HTTP/2 upstream with prior knowledge; without routes it answers `200` and `ok`.
pub(crate) fn http2() -> Script {
    Script { protocol: Protocol::Http2, routes: Vec::new() }
}

/// An upstream that refuses connections.
pub(crate) fn refusing() -> Script {
    Script { protocol: Protocol::Refuse, routes: Vec::new() }
}

/// An upstream that closes each connection as soon as it has it.
pub(crate) fn closing() -> Script {
    Script { protocol: Protocol::Close, routes: Vec::new() }
}

impl Script {
    /// Answers targets that begin with `prefix` with a `200` and this body; the first prefix that fits wins.
    pub(crate) fn route(self, prefix: &str, body: &str) -> Self {
        self.answer(prefix, Answer::ok(body))
    }

    /// As `route`, with any answer.
    pub(crate) fn answer(mut self, prefix: &str, answer: Answer) -> Self {
        self.routes.push((prefix.to_owned(), answer));
        self
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.protocol == Protocol::Http2
    }

    /// Binds to a free port of 127.0.0.1 and serves until dropped.
    pub(crate) async fn start(self) -> Upstream {
        let socket = TcpSocket::new_v4().expect("sockets are to be had");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("loopback has a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let left = self.routes.iter().map(|(_, answer)| AtomicUsize::new(answer.times)).collect();
        let script = Arc::new(Shared { routes: self.routes, left, received: Mutex::new(Vec::new()) });
        let mut tasks = JoinSet::new();
        match self.protocol {
            // Bound, so that nobody else gets the port, and never listened at.
            Protocol::Refuse => drop(tasks.spawn(async move {
                let _socket = socket;
                std::future::pending().await
            })),
            protocol => {
                let listener = socket.listen(1024).expect("it is bound");
                tasks.spawn(serve(listener, protocol, script.clone()));
            }
        }
        Upstream { address, script, _tasks: tasks }
    }
}

/// A running upstream.
pub(crate) struct Upstream {
    address: SocketAddr,
    script: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Everything received since the last call.
    pub(crate) fn take_received(&self) -> Vec<Received> {
        std::mem::take(&mut *self.script.received.lock().expect("no holder of this lock panics"))
    }

    /// The requests received since the last call; garbage fails the test.
    pub(crate) fn take_requests(&self) -> Vec<Message> {
        let received = self.take_received().into_iter();
        received
            .map(|received| match received.what {
                What::Request(message) => message,
                What::Garbage(text) => panic!("the upstream received {text:?}"),
            })
            .collect()
    }
}

struct Shared {
    routes: Vec<(String, Answer)>,
    /// How often each may still be given.
    left: Vec<AtomicUsize>,
    received: Mutex<Vec<Received>>,
}

impl Shared {
    fn record(&self, connection: usize, what: What) {
        self.received.lock().expect("no holder of this lock panics").push(Received { connection, what });
    }

    fn answer(&self, target: &str) -> Answer {
        let fits = self.routes.iter().zip(&self.left).find(|((prefix, _), left)| {
            target.starts_with(prefix.as_str())
                && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        });
        fits.map_or_else(|| Answer::ok("ok"), |((_, answer), _)| answer.clone())
    }
}

async fn serve(listener: TcpListener, protocol: Protocol, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    for number in 0.. {
        let Ok((stream, _)) = listener.accept().await else { return };
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        match protocol {
            Protocol::Close => continue,
            Protocol::Http2 => connections.spawn(http2::connection(stream, number, shared)),
            Protocol::Http1 | Protocol::Refuse => connections.spawn(http1::connection(stream, number, shared)),
        };
    }
}
