#![no_main]
//! Requests of one HTTP/1 connection: whatever comes, nothing panics, and how the bytes are split changes nothing.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use http::StatusCode;
use libfuzzer_sys::fuzz_target;
use nuncio_filter_api::{Body, Io, ResponseHead, Transport};
use nuncio_http::h1::{Incoming, Persistence, ServerConnection, ServerSettings};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One read gives one part; writes vanish.
struct Parts(VecDeque<Bytes>);

impl Transport for Parts {}

impl AsyncRead for Parts {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(mut part) = self.0.pop_front() else { return Poll::Pending };
        buf.put_slice(&part.split_to(part.len().min(buf.remaining())));
        if !part.is_empty() {
            self.0.push_front(part);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Parts {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What the connection made of its input.
fn serve(parts: VecDeque<Bytes>, settings: &Arc<ServerSettings>) -> String {
    let connection = ServerConnection::new(Io::new(Parts(parts)), settings.clone(), Bytes::new());
    let mut seen = String::new();
    while let Some(incoming) = connection.next_request().now_or_never() {
        match incoming {
            Incoming::Closed => return seen + "closed",
            Incoming::Bad(bad) => return seen + bad.details,
            Incoming::Request(mut request) => {
                seen += &format!("{:?}", request.head);
                // How much of a body comes before its fault depends on how its bytes arrive.
                let mut body = String::new();
                loop {
                    match request.body.next().now_or_never() {
                        None => return seen + &body + "waits",
                        Some(None) => break,
                        Some(Some(Err(error))) => return seen + &error.details,
                        Some(Some(Ok(frame))) => match frame.into_data() {
                            Ok(data) => body += &data.escape_ascii().to_string(),
                            Err(frame) => body += &format!("{:?}", frame.trailers_ref()),
                        },
                    }
                }
                seen += &body;
            }
        }
        let head = ResponseHead::new(StatusCode::OK);
        match connection.respond(&head, Body::empty(), Persistence::KeepAlive).now_or_never() {
            Some(Ok(Persistence::KeepAlive)) => {}
            _ => return seen + "close",
        }
    }
    seen
}

fuzz_target!(|input: (u8, &[u8])| {
    let (flags, bytes) = input;
    // A read of nothing is the end of a connection.
    if bytes.is_empty() {
        return;
    }
    let flag = |bit: u8| flags & (1 << bit) != 0;
    let settings = Arc::new(ServerSettings {
        accept_http_10: flag(0),
        enable_trailers: flag(1),
        allow_chunked_length: flag(2),
        allow_custom_methods: flag(3),
        allow_absolute_url: flag(4),
        max_headers_bytes: if flag(5) { 64 } else { 60 * 1024 },
        max_headers_count: if flag(6) { 3 } else { 100 },
        ..ServerSettings::default()
    });
    let bytes = Bytes::copy_from_slice(bytes);
    let single = bytes.iter().map(|byte| Bytes::copy_from_slice(&[*byte])).collect();
    assert_eq!(serve([bytes].into(), &settings), serve(single, &settings));
});
