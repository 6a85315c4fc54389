//! SETTINGS that the h2 crate does not know how to send.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use nuncio_filter_api::{Io, Transport, forward_transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::counts::{HEADER, payload_length};

/// Length of a client's connection preface (RFC 9113 §3.4).
pub(super) const PREFACE: usize = 24;

/// A transport on which the first frame, which is SETTINGS, gets further parameters.
pub(crate) struct FurtherSettings {
    io: Io,
    /// The parameters as they are sent.
    further: BytesMut,
    stage: Stage,
    /// What waits to be written.
    queue: BytesMut,
}

/// What is written next.
enum Stage {
    /// So many bytes before the frame.
    Preface(usize),
    /// Its header, as far as it is here.
    Header(BytesMut),
    /// What is left of its payload.
    Payload(usize),
    Done,
}

// === impl FurtherSettings ===

impl FurtherSettings {
    /// `io`, on which the h2 crate writes `preface` bytes before its first frame.
    pub(crate) fn wrap(io: Io, preface: usize, settings: &[(u16, u32)]) -> Io {
        if settings.is_empty() {
            return io;
        }
        let mut further = BytesMut::new();
        for (id, value) in settings {
            further.put_u16(*id);
            further.put_u32(*value);
        }
        Io::new(Self { io, further, stage: Stage::Preface(preface), queue: BytesMut::new() })
    }

    fn take(&mut self, mut bytes: &[u8]) {
        loop {
            match &mut self.stage {
                Stage::Preface(0) => self.stage = Stage::Header(BytesMut::with_capacity(HEADER)),
                Stage::Payload(0) => {
                    self.queue.unsplit(std::mem::take(&mut self.further));
                    self.stage = Stage::Done;
                }
                Stage::Header(header) if header.len() == HEADER => {
                    let length = payload_length([header[0], header[1], header[2]]);
                    // A few parameters of 6 bytes each.
                    let longer = (length + self.further.len()).to_be_bytes();
                    header[..3].copy_from_slice(&longer[longer.len() - 3..]);
                    self.queue.extend_from_slice(header);
                    self.stage = Stage::Payload(length);
                }
                _ if bytes.is_empty() => return,
                Stage::Preface(left) | Stage::Payload(left) => {
                    let (now, rest) = bytes.split_at((*left).min(bytes.len()));
                    *left -= now.len();
                    self.queue.extend_from_slice(now);
                    bytes = rest;
                }
                Stage::Header(header) => {
                    let (now, rest) = bytes.split_at((HEADER - header.len()).min(bytes.len()));
                    header.extend_from_slice(now);
                    bytes = rest;
                }
                Stage::Done => return self.queue.extend_from_slice(bytes),
            }
        }
    }

    fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.queue))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.queue.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for FurtherSettings {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for FurtherSettings {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_queue(cx))?;
        if self.is_done() {
            return Pin::new(&mut self.io).poll_write(cx, buf);
        }
        self.take(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_queue(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_queue(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_queue(cx))?;
        if self.is_done() {
            return Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        }
        bufs.iter().for_each(|buf| self.take(buf));
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl Transport for FurtherSettings {
    forward_transport!(io: reset_on_drop, poll_closed, poll_handshake, socket, moved, ended);
}

#[cfg(test)]
mod tests {
    use nuncio_filter_api::forward_write;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Pipe(tokio::io::DuplexStream);

    impl Transport for Pipe {}

    impl AsyncRead for Pipe {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    forward_write!(Pipe, 0);

    /// What is written in pieces of `piece` bytes comes out so, through a pipe that takes little at once.
    async fn check(preface: usize, frames: &[u8], piece: usize, expected: &[u8]) {
        let (ours, mut peer) = tokio::io::duplex(7);
        let mut io = FurtherSettings::wrap(Io::new(Pipe(ours)), preface, &[(16, 3), (0xabcd, 4)]);
        let mut written = vec![b'p'; preface];
        written.extend_from_slice(frames);
        let writes = async move {
            for piece in written.chunks(piece) {
                io.write_all(piece).await.unwrap();
            }
            io.flush().await.unwrap();
        };
        let mut read = Vec::new();
        let (_, got) = tokio::join!(writes, peer.read_to_end(&mut read));
        got.unwrap();
        assert_eq!(&read[preface..], expected, "{piece} bytes at once");
    }

    #[tokio::test]
    async fn the_first_frame_gets_further_parameters() {
        let further = [0, 16, 0, 0, 0, 3, 0xab, 0xcd, 0, 0, 0, 4];
        let second = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        let one = [0, 2, 0, 0, 0, 0];
        for piece in [1, 2, 5, 9, 1000] {
            let frames = [&[0, 0, 6, 4, 0, 0, 0, 0, 0][..], &one, &second].concat();
            let expected = [&[0, 0, 18, 4, 0, 0, 0, 0, 0][..], &one, &further, &second].concat();
            check(PREFACE, &frames, piece, &expected).await;
            check(0, &frames, piece, &expected).await;
            let empty = [&[0, 0, 0, 4, 0, 0, 0, 0, 0][..], &second].concat();
            let expected = [&[0, 0, 12, 4, 0, 0, 0, 0, 0][..], &further, &second].concat();
            check(0, &empty, piece, &expected).await;
        }
    }
}
