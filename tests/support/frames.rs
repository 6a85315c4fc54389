//! An HTTP/2 client of single frames, for those that no library would send.

use super::DEADLINE;
use super::split::{Split, SplitStream, send};
use std::io;
use std::net::SocketAddr;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One frame as RFC 9113 §4.1 lays it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A connection on which the preface and empty SETTINGS were sent.
pub(crate) struct Frames {
    stream: SplitStream<TcpStream>,
}

impl Frames {
    pub(crate) async fn connect(to: SocketAddr, split: Split) -> io::Result<Self> {
        let mut frames = Self::without_settings(to, split).await?;
        frames.frame(SETTINGS, 0, 0, &[]).await?;
        Ok(frames)
    }

    /// A connection on which nothing but the preface was sent.
    pub(crate) async fn without_settings(to: SocketAddr, split: Split) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let mut frames = Self { stream: SplitStream::new(stream, split) };
        frames.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        Ok(frames)
    }

    /// Sends bytes as they are.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        send(&mut self.stream, bytes).await
    }

    pub(crate) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.bytes(&encode(kind, flags, stream, payload)).await
    }

    /// Sends a header block of these fields, with END_HEADERS and these further flags.
    pub(crate) async fn headers(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) -> io::Result<()> {
        self.bytes(&encode_headers(stream, flags, fields)).await
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        timeout(DEADLINE, self.read()).await.unwrap_or_else(|_| Err(io::Error::other("no frame within the deadline")))
    }

    /// The first frame of this kind (and stream, where given); `None` where the connection ends before one comes.
    pub(crate) async fn until(&mut self, kind: u8, stream: Option<u32>) -> io::Result<Option<Frame>> {
        while let Some(frame) = self.next().await? {
            if frame.kind == kind && stream.is_none_or(|wanted| wanted == frame.stream) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 9];
        match self.stream.read_exact(&mut head).await {
            Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                return Ok(None);
            }
            other => other?,
        };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok(Some(Frame { kind: head[3], flags: head[4], stream, payload }))
    }
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub(crate) fn error_code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.payload.get(at..at + 4).map_or(u32::MAX, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// A header block of these fields, with END_HEADERS and these further flags.
pub(crate) fn encode_headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes())).collect();
    encode(HEADERS, flags | END_HEADERS, stream, &block)
}

/// The bytes of one frame; the length is that of the payload.
pub(crate) fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a test's payload fits a frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// An HPACK literal without indexing (RFC 7541 §6.2.2), no Huffman: any bytes in name and value.
pub(crate) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        length(text.len(), &mut block);
        block.extend_from_slice(text);
    }
    block
}

/// An HPACK integer with a prefix of 7 bits (RFC 7541 §5.1).
fn length(mut n: usize, block: &mut Vec<u8>) {
    if n < 127 {
        block.push(n as u8);
        return;
    }
    block.push(127);
    n -= 127;
    while n >= 128 {
        block.push((n % 128) as u8 | 128);
        n /= 128;
    }
    block.push(n as u8);
}
