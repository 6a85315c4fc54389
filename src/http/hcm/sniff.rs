//! `codec_type: AUTO`: HTTP/2 if the connection begins with its preface, else HTTP/1.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use nuncio_filter_api::{Io, Transport, forward_transport, forward_write};
use tokio::io::{AsyncRead, ReadBuf};

use super::Http;
use super::config::CodecType;
use super::stats::{ActiveConnection, Closed};
use crate::timer::earlier;

/// How HTTP/2 connections begin (RFC 9113 §3.4), as far as no HTTP/1 request can.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Bytes read at first: most requests whole, so that they need no second read.
const FIRST_READ: usize = 4096;

/// What a connection turned out to speak, with what was read of it.
pub(super) enum Spoken {
    Http1(Bytes),
    Http2(BytesMut),
    Nothing,
}

/// Whether the handshake of the connection is still to be made.
pub(super) async fn is_handshaking(io: &mut Io) -> bool {
    poll_fn(|cx| Poll::Ready(!matches!(io.poll_handshake(cx), Poll::Ready(Ok(()))))).await
}

/// Waits until the protocol is known.
pub(super) async fn spoken(http: &Http, io: &mut Io, active: &ActiveConnection, is_handshaking: bool) -> Spoken {
    if is_handshaking {
        let made = within_time(http, active, poll_fn(|cx| io.poll_handshake(cx))).await;
        let Some(Ok(())) = made else { return Spoken::Nothing };
    }
    let alpn = http.connection.tls.borrow().as_ref().and_then(|tls| tls.alpn.clone());
    match (http.hcm.codec.codec, alpn.as_deref()) {
        (CodecType::Http1, _) | (CodecType::Auto, Some("http/1.1" | "http/1.0")) => Spoken::Http1(Bytes::new()),
        (CodecType::Http2, _) | (CodecType::Auto, Some("h2")) => Spoken::Http2(BytesMut::new()),
        (CodecType::Auto, _) => {
            let mut first = BytesMut::new();
            match within_time(http, active, read_preface(io, &mut first)).await {
                Some(Ok(true)) => Spoken::Http2(first),
                Some(Ok(false)) if !first.is_empty() => Spoken::Http1(first.freeze()),
                Some(Ok(false) | Err(_)) | None => Spoken::Nothing,
            }
        }
    }
}

/// What comes of `wait`; `None` where a new connection was idle for too long or reached its age meanwhile.
async fn within_time<T>(http: &Http, active: &ActiveConnection, wait: impl Future<Output = T>) -> Option<T> {
    let idle = http.hcm.codec.common.idle_timeout.map(|idle| active.start() + idle);
    let age = http.age(active.start());
    let Some(deadline) = earlier(idle, age) else { return Some(wait.await) };
    if let Ok(done) = tokio::time::timeout_at(deadline, wait).await {
        return Some(done);
    }
    active.closed_by(Closed::Local);
    http.hcm.stats.closed_in_time(&http.connection, age);
    None
}

/// The transport of which these were read already.
pub(super) fn replayed(first: BytesMut, io: Io) -> Io {
    if first.is_empty() { io } else { Io::new(Replayed { first, io }) }
}

/// Whether the bytes that arrive first are HTTP/2's preface.
async fn read_preface(io: &mut Io, first: &mut BytesMut) -> io::Result<bool> {
    loop {
        let n = read_some(io, first).await?;
        let known = first.len().min(PREFACE.len());
        if first[..known] != PREFACE[..known] || n == 0 {
            return Ok(false);
        }
        if known == PREFACE.len() {
            return Ok(true);
        }
    }
}

/// Reads once, into a buffer that does not outlive the poll: a connection that waits holds none.
async fn read_some(io: &mut Io, into: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut space = [MaybeUninit::uninit(); FIRST_READ];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut buf))?;
        into.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    })
    .await
}

/// A transport whose first bytes were read already.
struct Replayed {
    first: BytesMut,
    io: Io,
}

impl Transport for Replayed {
    forward_transport!(io: reset_on_drop, poll_closed);
}

impl AsyncRead for Replayed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..n]);
        self.first.advance(n);
        if self.first.is_empty() {
            self.first = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

forward_write!(Replayed, io);
