//! Clients that speak HTTP/1: bytes as given, in any split, and the responses as they came.

use super::DEADLINE;
use super::http1::{Kind, Message, Reader};
use super::split::{Split, SplitStream, send};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A connection to the proxy on which a test writes any bytes.
pub(crate) struct Client {
    reader: Reader<SplitStream<TcpStream>>,
    address: SocketAddr,
}

/// How a connection stood when the client stopped reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The proxy kept it open.
    Open,
    /// The proxy closed it with a FIN.
    Closed,
    /// The proxy reset it.
    Reset,
}

impl Client {
    pub(crate) async fn connect(to: SocketAddr, split: Split) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let address = stream.local_addr()?;
        Ok(Self { reader: Reader::new(SplitStream::new(stream, split)), address })
    }

    /// The client's own address, as the proxy sees it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within(send(self.reader.get_mut(), bytes)).await
    }

    /// The next response, an interim (1xx) one too; `None` where the proxy closed instead.
    pub(crate) async fn response(&mut self, to_method: &str) -> io::Result<Option<Message>> {
        let kind = match to_method {
            "HEAD" => Kind::ResponseToHead,
            "CONNECT" => Kind::ResponseToConnect,
            _ => Kind::Response,
        };
        within(self.reader.message(kind)).await
    }

    /// Sends a request without a body or with all of it, and returns the final response.
    pub(crate) async fn request(&mut self, bytes: &[u8]) -> io::Result<Message> {
        self.send(bytes).await?;
        let method = String::from_utf8_lossy(bytes.split(|b| *b == b' ').next().unwrap_or_default()).into_owned();
        loop {
            match self.response(&method).await? {
                Some(message) if (102..200).contains(&message.status()) || message.status() == 100 => {}
                Some(message) => return Ok(message),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before a response")),
            }
        }
    }

    /// Bytes of a tunnel: `wanted` of them, or fewer where it ends.
    pub(crate) async fn raw(&mut self, wanted: usize) -> io::Result<Vec<u8>> {
        within(self.reader.raw(wanted)).await
    }

    /// All bytes until none come for `quiet`, or the proxy closes.
    pub(crate) async fn until_quiet(&mut self, quiet: Duration) -> io::Result<(Vec<u8>, End)> {
        let mut bytes = Vec::new();
        loop {
            match timeout(quiet, self.reader.raw(1)).await {
                Err(_) => return Ok((bytes, End::Open)),
                Ok(Ok(more)) if more.is_empty() => return Ok((bytes, End::Closed)),
                Ok(Ok(more)) => bytes.extend(more),
                Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => return Ok((bytes, End::Reset)),
                Ok(Err(e)) => return Err(e),
            }
        }
    }

    /// What becomes of the connection within `quiet`; bytes that come instead are an error.
    pub(crate) async fn end(&mut self, quiet: Duration) -> io::Result<End> {
        match timeout(quiet, self.reader.raw(1)).await {
            Err(_) => Ok(End::Open),
            Ok(Ok(bytes)) if bytes.is_empty() => Ok(End::Closed),
            Ok(Ok(_)) => Err(io::Error::other("bytes after the last response")),
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => Ok(End::Reset),
            Ok(Err(e)) => Err(e),
        }
    }
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DEADLINE, step).await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "deadline passed")))
}

/// One request on a connection of its own.
pub(crate) async fn fetch(to: SocketAddr, request: &str) -> io::Result<Message> {
    Client::connect(to, Split::Whole).await?.request(request.as_bytes()).await
}

/// GET of a path, as the admin interface is asked.
pub(crate) async fn get(to: SocketAddr, path: &str) -> io::Result<Message> {
    fetch(to, &format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")).await
}
