//! Upstreams that fail in one way each, at every request.

use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, SETTINGS, encode, literal,
};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Long enough for what was sent before to arrive as a piece of its own.
const APART: Duration = Duration::from_millis(50);

/// Codes of RFC 9113 §7.
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody listens.
    ConnectRefused,
    /// The kernel never answers.
    ConnectHang,
    /// The request is read, and that is all.
    Silence,
    RstBeforeHeaders,
    FinBeforeHeaders,
    RstMidHeaders,
    FinMidHeaders,
    RstMidBody,
    FinMidBody,
    /// What comes instead of a response is none.
    Garbage,
    GarbageMidBody,
    /// Header fields without end.
    EndlessHeaders,
    /// Half a head, and no more.
    StalledHeaders,
    /// A body that takes its time, but comes.
    SlowBody,
    /// Half a body, and no more.
    StalledBody,
    /// The host says that it failed.
    Status503,
    /// The connection is to end after this response (GOAWAY, or `connection: close`).
    Leaves,
    /// GOAWAY that leaves out the request.
    GoawayBefore,
    /// GOAWAY for an error, and the end of the connection, while the body is on its way.
    GoawayMidBody,
    StreamReset,
    StreamRefused,
    StreamResetMidBody,
}

pub(super) const ALL: [Fault; 22] = [
    Fault::ConnectRefused,
    Fault::ConnectHang,
    Fault::Silence,
    Fault::RstBeforeHeaders,
    Fault::FinBeforeHeaders,
    Fault::RstMidHeaders,
    Fault::FinMidHeaders,
    Fault::RstMidBody,
    Fault::FinMidBody,
    Fault::Garbage,
    Fault::GarbageMidBody,
    Fault::EndlessHeaders,
    Fault::StalledHeaders,
    Fault::SlowBody,
    Fault::StalledBody,
    Fault::Status503,
    Fault::Leaves,
    Fault::GoawayBefore,
    Fault::GoawayMidBody,
    Fault::StreamReset,
    Fault::StreamRefused,
    Fault::StreamResetMidBody,
];

impl Fault {
    /// Whether it can happen at all.
    pub(super) fn is_of(self, protocol: Protocol) -> bool {
        let of_http2 = matches!(
            self,
            Self::GoawayBefore
                | Self::GoawayMidBody
                | Self::StreamReset
                | Self::StreamRefused
                | Self::StreamResetMidBody
        );
        protocol == Protocol::Http2 || !of_http2
    }
}

/// A running upstream that fails. Dropping it ends all its connections.
pub(super) struct Faulty {
    pub(super) port: u16,
    _tasks: JoinSet<()>,
    /// Connections that fill the queue of a listener that never accepts.
    _fill: Vec<TcpStream>,
}

impl Faulty {
    pub(super) async fn start(fault: Fault, protocol: Protocol) -> Self {
        let socket = TcpSocket::new_v4().expect("sockets are to be had");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("loopback has a free port");
        let port = socket.local_addr().expect("it is bound").port();
        let (mut tasks, mut fill) = (JoinSet::new(), Vec::new());
        match fault {
            // Bound, so that nobody else gets the port, and never listened at.
            Fault::ConnectRefused => drop(tasks.spawn(async move {
                let _socket = socket;
                std::future::pending().await
            })),
            Fault::ConnectHang => {
                let listener = socket.listen(1).expect("it is bound");
                // The kernel queues one more than asked, and drops the SYN of everybody else.
                for _ in 0..2 {
                    fill.push(TcpStream::connect(("127.0.0.1", port)).await.expect("the queue has room"));
                }
                tasks.spawn(async move {
                    let _listener = listener;
                    std::future::pending::<()>().await;
                });
            }
            fault => {
                let listener = socket.listen(64).expect("it is bound");
                tasks.spawn(serve(listener, fault, protocol));
            }
        }
        Self { port, _tasks: tasks, _fill: fill }
    }
}

async fn serve(listener: TcpListener, fault: Fault, protocol: Protocol) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        connections.spawn(async move {
            // The proxy may go first.
            let _ = match protocol {
                Protocol::Http1 => http1(stream, fault).await,
                Protocol::Http2 => http2(stream, fault).await,
            };
        });
        while connections.try_join_next().is_some() {}
    }
}

fn reset(stream: TcpStream) -> io::Result<()> {
    // With a linger of nothing the kernel sends RST instead of FIN.
    stream.set_zero_linger()
}

/// Says no more, but stays.
async fn stay(mut stream: TcpStream) -> io::Result<()> {
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    tokio::time::sleep(APART).await;
    Ok(())
}

// === HTTP/1 ===

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n";
const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345";

async fn http1(mut stream: TcpStream, fault: Fault) -> io::Result<()> {
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        match fault {
            Fault::RstBeforeHeaders => return reset(stream),
            Fault::FinBeforeHeaders => return Ok(()),
            Fault::RstMidHeaders => {
                send(&mut stream, &HEAD[..25]).await?;
                return reset(stream);
            }
            Fault::FinMidHeaders => return send(&mut stream, &HEAD[..25]).await,
            Fault::RstMidBody => {
                send(&mut stream, HALF).await?;
                return reset(stream);
            }
            Fault::FinMidBody => return send(&mut stream, HALF).await,
            Fault::Garbage => {
                send(&mut stream, b"\x16\x03\x01 this is no HTTP\r\n\r\n").await?;
                return stay(stream).await;
            }
            Fault::GarbageMidBody => {
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n";
                send(&mut stream, head).await?;
                send(&mut stream, b"this is no length\r\n").await?;
                return stay(stream).await;
            }
            Fault::EndlessHeaders => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
                loop {
                    stream.write_all(format!("x: {}\r\n", "y".repeat(1000)).as_bytes()).await?;
                }
            }
            Fault::StalledHeaders => {
                send(&mut stream, &HEAD[..25]).await?;
                return stay(stream).await;
            }
            Fault::SlowBody => {
                send(&mut stream, HEAD).await?;
                for _ in 0..10 {
                    stream.write_all(b"x").await?;
                    tokio::time::sleep(APART / 5).await;
                }
            }
            Fault::StalledBody => {
                send(&mut stream, HALF).await?;
                return stay(stream).await;
            }
            Fault::Status503 => {
                stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy").await?;
            }
            Fault::Leaves => {
                let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\n1234567890";
                return stream.write_all(head).await;
            }
            // The others begin with the connection, or are none of HTTP/1's.
            _ => return stay(stream).await,
        }
    }
}

// === HTTP/2 ===

async fn http2(mut stream: TcpStream, fault: Fault) -> io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&encode(SETTINGS, 0, 0, &[])).await?;
    loop {
        let frame = read_frame(&mut stream).await?;
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => stream.write_all(&encode(SETTINGS, ACK, 0, &[])).await?,
            HEADERS => match answer(&mut stream, frame.stream, fault).await? {
                After::Serve => {}
                After::Close => return Ok(()),
                After::Reset => return reset(stream),
                After::Stay => return stay(stream).await,
            },
            _ => {}
        }
    }
}

async fn read_frame(stream: &mut TcpStream) -> io::Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await?;
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Ok(Frame { kind: head[3], flags: head[4], stream: id, payload })
}

/// What becomes of the connection.
enum After {
    Serve,
    Close,
    Reset,
    Stay,
}

fn status(code: &str) -> Vec<u8> {
    literal(b":status", code.as_bytes())
}

fn half(id: u32) -> Vec<u8> {
    [encode(HEADERS, END_HEADERS, id, &status("200")), encode(DATA, 0, id, b"12345")].concat()
}

fn rst(id: u32, code: u32) -> Vec<u8> {
    encode(RST_STREAM, 0, id, &code.to_be_bytes())
}

fn goaway(last: u32, code: u32) -> Vec<u8> {
    encode(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

async fn answer(stream: &mut TcpStream, id: u32, fault: Fault) -> io::Result<After> {
    let half_head = encode(HEADERS, 0, id, &status("200"));
    Ok(match fault {
        Fault::RstBeforeHeaders => After::Reset,
        Fault::FinBeforeHeaders => After::Close,
        Fault::RstMidHeaders => {
            send(stream, &half_head).await?;
            After::Reset
        }
        Fault::FinMidHeaders => {
            send(stream, &half_head).await?;
            After::Close
        }
        Fault::RstMidBody => {
            send(stream, &half(id)).await?;
            After::Reset
        }
        Fault::FinMidBody => {
            send(stream, &half(id)).await?;
            After::Close
        }
        Fault::Garbage => {
            send(stream, b"HTTP/1.1 400 this is no HTTP/2\r\n\r\n").await?;
            After::Stay
        }
        Fault::GarbageMidBody => {
            send(stream, &half(id)).await?;
            send(stream, b"HTTP/1.1 400 this is no HTTP/2\r\n\r\n").await?;
            After::Stay
        }
        Fault::EndlessHeaders => {
            stream.write_all(&half_head).await?;
            let field = encode(CONTINUATION, 0, id, &literal(b"x", "y".repeat(1000).as_bytes()));
            loop {
                stream.write_all(&field).await?;
            }
        }
        Fault::StalledHeaders => {
            send(stream, &half_head).await?;
            After::Stay
        }
        Fault::SlowBody => {
            send(stream, &encode(HEADERS, END_HEADERS, id, &status("200"))).await?;
            for at in 1..=10 {
                let flags = if at == 10 { END_STREAM } else { 0 };
                stream.write_all(&encode(DATA, flags, id, b"x")).await?;
                tokio::time::sleep(APART / 5).await;
            }
            After::Serve
        }
        Fault::StalledBody => {
            send(stream, &half(id)).await?;
            After::Serve
        }
        Fault::Status503 => {
            let busy =
                [encode(HEADERS, END_HEADERS, id, &status("503")), encode(DATA, END_STREAM, id, b"busy")].concat();
            stream.write_all(&busy).await?;
            After::Serve
        }
        Fault::Leaves => {
            send(stream, &goaway(id, 0)).await?;
            stream.write_all(&[half(id), encode(DATA, END_STREAM, id, b"67890")].concat()).await?;
            After::Stay
        }
        Fault::GoawayBefore => {
            send(stream, &goaway(id.saturating_sub(2), 0)).await?;
            After::Stay
        }
        Fault::GoawayMidBody => {
            send(stream, &half(id)).await?;
            send(stream, &goaway(id, INTERNAL_ERROR)).await?;
            After::Close
        }
        Fault::StreamReset => {
            stream.write_all(&rst(id, INTERNAL_ERROR)).await?;
            After::Serve
        }
        Fault::StreamRefused => {
            stream.write_all(&rst(id, REFUSED_STREAM)).await?;
            After::Serve
        }
        Fault::StreamResetMidBody => {
            send(stream, &half(id)).await?;
            stream.write_all(&rst(id, INTERNAL_ERROR)).await?;
            After::Serve
        }
        Fault::ConnectRefused | Fault::ConnectHang | Fault::Silence => After::Serve,
    })
}
