//! A connection to a proxy that is asked by CONNECT to connect to a host.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nuncio_filter_api::{Io, Transport, forward_transport};
use nuncio_telemetry::Address;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Envoy: the head of the proxy's answer may be so long.
const MAX_ANSWER: usize = 2000;
/// Fields that the head may have.
const MAX_FIELDS: usize = 64;

/// The way to a host through a proxy. Who uses it sees a connection that takes nothing before the proxy has answered,
/// and that ends where the proxy will not.
pub struct HttpTunnel {
    io: Io,
    state: State,
}

enum State {
    /// So much of the request is sent.
    Asking {
        request: Box<[u8]>,
        sent: usize,
    },
    /// What has come of the answer.
    Waiting {
        answer: Vec<u8>,
    },
    /// The proxy has connected. What came after its answer has not been read yet.
    Open {
        rest: Vec<u8>,
    },
    Refused,
}

/// What the first bytes of an answer are.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Unfinished,
    /// The proxy has connected; so long is the head.
    Granted(usize),
    Refused,
}

// === impl HttpTunnel ===

impl HttpTunnel {
    /// Asks the proxy behind `io` for `target`. Tells how long the question is.
    pub fn new(io: Io, target: &Address) -> (Self, u64) {
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes().into_boxed_slice();
        let length = request.len() as u64;
        (Self { io, state: State::Asking { request, sent: 0 } }, length)
    }

    /// Ready once the proxy has answered; false if it will not connect.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            self.state = match &mut self.state {
                State::Open { .. } => return Poll::Ready(Ok(true)),
                State::Refused => return Poll::Ready(Ok(false)),
                State::Asking { request, sent } if *sent == request.len() => State::Waiting { answer: Vec::new() },
                State::Asking { request, sent } => {
                    match ready!(Pin::new(&mut self.io).poll_write(cx, &request[*sent..]))? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        written => *sent += written,
                    }
                    continue;
                }
                State::Waiting { answer } => {
                    let mut space = [0; MAX_ANSWER];
                    let mut buf = ReadBuf::new(&mut space[answer.len()..]);
                    ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
                    let got = buf.filled();
                    answer.extend_from_slice(got);
                    match look_at(answer) {
                        Answer::Unfinished if !got.is_empty() && answer.len() < MAX_ANSWER => continue,
                        Answer::Granted(length) => State::Open { rest: answer.split_off(length) },
                        Answer::Refused | Answer::Unfinished => State::Refused,
                    }
                }
            };
        }
    }
}

fn look_at(answer: &[u8]) -> Answer {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    match head.parse(answer) {
        Ok(httparse::Status::Partial) => Answer::Unfinished,
        Ok(httparse::Status::Complete(length)) if head.code == Some(200) => Answer::Granted(length),
        Ok(httparse::Status::Complete(_)) | Err(_) => Answer::Refused,
    }
}

impl Transport for HttpTunnel {
    forward_transport!(io: reset_on_drop, moved, ended);

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.state {
            State::Refused => Poll::Ready(()),
            _ => self.io.poll_closed(cx),
        }
    }

    fn socket(&self) -> Option<&TcpStream> {
        let is_through = matches!(&self.state, State::Open { rest } if rest.is_empty());
        if is_through { self.io.socket() } else { None }
    }
}

impl AsyncRead for HttpTunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !ready!(self.poll_open(cx))? {
            return Poll::Ready(Ok(()));
        }
        if let State::Open { rest } = &mut self.state
            && !rest.is_empty()
        {
            let count = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..count]);
            rest.drain(..count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for HttpTunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_open(cx))? {
            true => Pin::new(&mut self.io).poll_write(cx, buf),
            false => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_open(cx))? {
            true => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
            false => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internal::pair;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn nothing_but_200_is_a_grant() {
        let check = |answer: &str, expected| assert_eq!(look_at(answer.as_bytes()), expected, "{answer:?}");
        check("HTTP/1.1 200 OK\r\n\r\nrest", Answer::Granted(19));
        check("HTTP/1.1 200 OK\r\na: b\r\n", Answer::Unfinished);
        check("HTTP/1.1 201 Created\r\n\r\n", Answer::Refused);
        check("HTTP/1.1 403 Forbidden\r\n\r\n", Answer::Refused);
        check("garbage\r\n\r\n", Answer::Refused);
        check("", Answer::Unfinished);
    }

    #[tokio::test]
    async fn bytes_go_through_once_the_proxy_has_connected() {
        let (near, mut proxy) = pair(1024);
        let (mut tunnel, length) = HttpTunnel::new(Io::new(near), &Address::Ip(([192, 0, 2, 1], 80).into()));
        let asked = b"CONNECT 192.0.2.1:80 HTTP/1.1\r\nHost: 192.0.2.1:80\r\n\r\n";
        assert_eq!(length, asked.len() as u64);
        let serve = async {
            let mut got = vec![0; asked.len()];
            proxy.read_exact(&mut got).await.expect("the question comes");
            assert_eq!(got, asked);
            proxy.write_all(b"HTTP/1.1 200 OK\r\n").await.expect("it is read");
            tokio::task::yield_now().await;
            proxy.write_all(b"\r\nearly").await.expect("it is read");
            let mut got = [0; 2];
            proxy.read_exact(&mut got).await.expect("the first bytes come");
            assert_eq!(&got, b"hi");
        };
        let ask = async {
            tunnel.write_all(b"hi").await.expect("the proxy connects");
            let mut got = [0; 5];
            tunnel.read_exact(&mut got).await.expect("the rest is there");
            assert_eq!(&got, b"early");
        };
        tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn a_proxy_that_will_not_connect_ends_it() {
        for answer in [&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], &[b'x'; MAX_ANSWER], b"HTTP/1.1 2"] {
            let (near, mut proxy) = pair(4096);
            let (mut tunnel, _) = HttpTunnel::new(Io::new(near), &Address::Ip(([192, 0, 2, 1], 80).into()));
            proxy.write_all(answer).await.expect("there is room");
            proxy.shutdown().await.expect("it is open");
            let mut got = Vec::new();
            assert_eq!(tunnel.read_to_end(&mut got).await.ok(), Some(0));
            assert!(tunnel.write_all(b"hi").await.is_err());
        }
    }
}
