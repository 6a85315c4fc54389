//! The bytes of a client that should begin with TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nuncio_filter_api::{Io, Transport, forward_write};
use tokio::io::{AsyncRead, ReadBuf};

/// First byte of a record that holds a handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// A connection whose first byte is looked at: whoever does not speak TLS is not answered in it, as by Envoy.
pub(super) struct Hello {
    pub(super) io: Io,
    pub(super) is_checked: bool,
}

/// What BoringSSL says of whoever begins otherwise; methods of HTTP are told by their first letter.
fn what_it_is(first: u8) -> &'static str {
    match first {
        b'G' | b'H' | b'P' => "268435612:SSL routines:OPENSSL_internal:HTTP_REQUEST",
        b'C' => "268435613:SSL routines:OPENSSL_internal:HTTPS_PROXY_REQUEST",
        _ => "268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER",
    }
}

impl Transport for Hello {
    fn reset_on_drop(&mut self) {
        self.io.reset_on_drop();
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_closed(cx)
    }
}

impl AsyncRead for Hello {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if !self.is_checked
            && let Some(first) = buf.filled().get(before)
        {
            if *first != HANDSHAKE {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what_it_is(*first))));
            }
            self.is_checked = true;
        }
        Poll::Ready(Ok(()))
    }
}

forward_write!(Hello, io);
