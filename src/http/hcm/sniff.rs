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

/// Reads until the protocol is known.
pub(super) async fn read(http: &Http, io: &mut Io, active: &ActiveConnection) -> Spoken {
    let mut first = BytesMut::new();
    let common = &http.hcm.codec.common;
    // Envoy: a connection without a codec has nothing to drain, and is closed at once.
    let idle = common.idle_timeout.map(|idle| active.start() + idle);
    let age = http.age(active.start());
    let read = read_preface(io, &mut first);
    let read = match earlier(idle, age) {
        Some(deadline) => tokio::time::timeout_at(deadline, read).await,
        None => Ok(read.await),
    };
    match read {
        Ok(Ok(true)) => Spoken::Http2(first),
        Ok(Ok(false)) if !first.is_empty() => Spoken::Http1(first.freeze()),
        Ok(Ok(false) | Err(_)) => Spoken::Nothing,
        Err(_) => {
            active.closed_by(Closed::Local);
            let is_old = http.hcm.stats.timed_out(age);
            http.connection.local_close_reason.set(Some(if is_old { "duration_timeout" } else { "on_idle_timeout" }));
            Spoken::Nothing
        }
    }
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
