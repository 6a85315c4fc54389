//! Reads HTTP/1 messages exactly as they came over the wire: names keep their case, headers their order.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How the end of a body was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// The message has no body.
    None,
    /// `content-length`.
    Length,
    /// `transfer-encoding: chunked`.
    Chunked,
    /// The end of the connection.
    Close,
}

/// One message. Bytes are kept as Latin-1, so that every byte is visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The request line or status line.
    pub(crate) start: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) framing: Framing,
    /// Whether the connection ended before the message did, or its framing broke.
    pub(crate) truncated: bool,
}

impl Message {
    /// The value of the first header of this name, of any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All values of the headers of this name, of any case.
    pub(crate) fn header_values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    /// The status of a response; 0 where the status line has none.
    pub(crate) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// The target of a request.
    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        latin1(&self.body)
    }
}

/// What the other side of a message expects of its body.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Request,
    /// A response to a HEAD has no body.
    ResponseToHead,
    /// A 2xx response to a CONNECT has no body: a tunnel follows.
    ResponseToConnect,
    Response,
}

/// Cuts a stream of bytes into messages.
pub(crate) struct Reader<R> {
    source: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, buffer: Vec::new() }
    }

    pub(crate) fn get_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// The next message; `None` at a clean end. An error carries what was left over in its text.
    pub(crate) async fn message(&mut self, kind: Kind) -> io::Result<Option<Message>> {
        let Some(head) = self.until(b"\r\n\r\n").await? else {
            return if self.buffer.is_empty() { Ok(None) } else { Err(self.left_over()) };
        };
        let mut lines = head.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let headers = lines.take_while(|line| !line.is_empty()).map(field).collect();
        let mut message = Message {
            start,
            headers,
            body: Vec::new(),
            trailers: Vec::new(),
            framing: Framing::None,
            truncated: false,
        };
        message.framing = framing(&message, kind);
        self.body(&mut message).await?;
        Ok(Some(message))
    }

    /// Everything that is still to come, up to `wanted` bytes; for tunnels.
    pub(crate) async fn raw(&mut self, wanted: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < wanted && self.fill().await? {}
        let taken = wanted.min(self.buffer.len());
        Ok(self.buffer.drain(..taken).collect())
    }

    /// Whether nothing is buffered that was not yet returned.
    pub(crate) fn is_drained(&self) -> bool {
        self.buffer.is_empty()
    }

    async fn body(&mut self, message: &mut Message) -> io::Result<()> {
        match message.framing {
            Framing::None => {}
            Framing::Length => {
                let length = message.header("content-length").and_then(|v| v.trim().parse().ok()).unwrap_or(0);
                message.body = self.raw(length).await?;
                message.truncated = message.body.len() < length;
            }
            Framing::Close => message.body = self.raw(usize::MAX).await?,
            Framing::Chunked => self.chunks(message).await?,
        }
        Ok(())
    }

    async fn chunks(&mut self, message: &mut Message) -> io::Result<()> {
        loop {
            let Some(line) = self.until(b"\r\n").await? else {
                message.truncated = true;
                return Ok(());
            };
            let digits = line.trim_end().split(';').next().unwrap_or_default().to_owned();
            let Ok(size) = usize::from_str_radix(&digits, 16) else {
                message.truncated = true;
                return Ok(());
            };
            if size == 0 {
                return self.trailers(message).await;
            }
            let chunk = self.raw(size).await?;
            message.body.extend_from_slice(&chunk);
            if chunk.len() < size || self.raw(2).await? != b"\r\n" {
                message.truncated = true;
                return Ok(());
            }
        }
    }

    async fn trailers(&mut self, message: &mut Message) -> io::Result<()> {
        loop {
            match self.until(b"\r\n").await? {
                None => message.truncated = true,
                Some(line) if line == "\r\n" => {}
                Some(line) => {
                    message.trailers.push(field(line.trim_end_matches("\r\n")));
                    continue;
                }
            }
            return Ok(());
        }
    }

    /// Takes everything up to and with `end`; `None` where the stream ends first.
    async fn until(&mut self, end: &[u8]) -> io::Result<Option<String>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end) {
                let taken: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                return Ok(Some(latin1(&taken)));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Reads once; false at the end of the stream.
    async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.source.read_buf(&mut self.buffer).await? > 0)
    }

    fn left_over(&mut self) -> io::Error {
        io::Error::other(latin1(&std::mem::take(&mut self.buffer)))
    }
}

/// The message that these bytes are, as a script writes one.
pub(crate) async fn parse(bytes: &[u8], kind: Kind) -> Option<Message> {
    Reader::new(bytes).message(kind).await.ok().flatten()
}

/// Each byte as the character of that number.
pub(crate) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

fn field(line: &str) -> (String, String) {
    match line.split_once(':') {
        Some((name, value)) => (name.to_owned(), value.trim_matches([' ', '\t']).to_owned()),
        None => (format!("(no colon) {line}"), String::new()),
    }
}

fn framing(message: &Message, kind: Kind) -> Framing {
    let status = message.status();
    let bodiless = (100..200).contains(&status) || status == 204 || status == 304;
    match kind {
        Kind::ResponseToHead => return Framing::None,
        Kind::ResponseToConnect if (200..300).contains(&status) => return Framing::None,
        Kind::Response | Kind::ResponseToConnect if bodiless => return Framing::None,
        Kind::Request | Kind::Response | Kind::ResponseToConnect => {}
    }
    if message.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked")) {
        Framing::Chunked
    } else if message.header("content-length").is_some() {
        Framing::Length
    } else if !matches!(kind, Kind::Request) {
        Framing::Close
    } else {
        Framing::None
    }
}
