//! A client that speaks well-formed HTTP/2 with prior knowledge, over the h2 crate.

use super::DEADLINE;
use super::http1::{Framing, Message};
use super::split::{Split, SplitStream};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// One HTTP/2 connection to the proxy.
pub(crate) struct H2Client {
    send: SendRequest<Bytes>,
    address: SocketAddr,
    connection: JoinHandle<()>,
}

impl Drop for H2Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// How a stream ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A response, as an HTTP/1 message with `HTTP/2 <status>` as its start.
    Response(Message),
    /// The stream or the connection was reset, with this reason.
    Reset(String),
}

impl H2Client {
    pub(crate) async fn connect(to: SocketAddr, split: Split) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let address = stream.local_addr()?;
        let (send, connection) =
            h2::client::handshake(SplitStream::new(stream, split)).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { send, address, connection })
    }

    /// The client's own address, as the proxy sees it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends one request with its whole body and waits for the end of the response.
    pub(crate) async fn request(&mut self, head: Request<()>, body: &[u8], trailers: Option<HeaderMap>) -> Outcome {
        match timeout(DEADLINE, self.exchange(head, body, trailers)).await {
            Ok(Ok(message)) => Outcome::Response(message),
            Ok(Err(e)) => Outcome::Reset(e.reason().map_or_else(|| e.to_string(), |reason| format!("{reason:?}"))),
            Err(_) => Outcome::Reset("deadline passed".to_owned()),
        }
    }

    /// Whether the connection takes no more requests.
    pub(crate) async fn is_closed(&mut self) -> bool {
        std::future::poll_fn(|cx| self.send.poll_ready(cx)).await.is_err()
    }

    async fn exchange(
        &mut self,
        head: Request<()>,
        body: &[u8],
        trailers: Option<HeaderMap>,
    ) -> Result<Message, h2::Error> {
        std::future::poll_fn(|cx| self.send.poll_ready(cx)).await?;
        let bodiless = body.is_empty() && trailers.is_none();
        let (mut response, mut stream) = self.send.send_request(head, bodiless)?;
        if !bodiless {
            // The proxy may answer before it read the body: what the response says decides, not this error.
            let _ = stream.send_data(Bytes::copy_from_slice(body), trailers.is_none());
            if let Some(trailers) = trailers {
                let _ = stream.send_trailers(trailers);
            }
        }
        let interim = interim(&mut response).await;
        let response = response.await?;
        let (parts, mut stream) = response.into_parts();
        let mut message = Message {
            start: format!("HTTP/2 {}", parts.status.as_u16()),
            headers: interim.into_iter().chain(pairs(&parts.headers)).collect(),
            body: Vec::new(),
            trailers: Vec::new(),
            framing: Framing::None,
            truncated: false,
        };
        while let Some(chunk) = stream.data().await {
            let Ok(chunk) = chunk else {
                message.truncated = true;
                return Ok(message);
            };
            let _ = stream.flow_control().release_capacity(chunk.len());
            message.body.extend_from_slice(&chunk);
        }
        if let Ok(Some(trailers)) = stream.trailers().await {
            message.trailers = pairs(&trailers);
        }
        Ok(message)
    }
}

/// The interim responses, as headers by which they are seen.
async fn interim(response: &mut h2::client::ResponseFuture) -> Vec<(String, String)> {
    let mut seen = Vec::new();
    while let Some(Ok(head)) = std::future::poll_fn(|cx| response.poll_informational(cx)).await {
        seen.push(("(interim)".to_owned(), format!("{} {:?}", head.status().as_u16(), pairs(head.headers()))));
    }
    seen
}

/// Names and values in the order of the wire, values as Latin-1.
pub(crate) fn pairs(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter().map(|(name, value)| (name.to_string(), super::http1::latin1(value.as_bytes()))).collect()
}
