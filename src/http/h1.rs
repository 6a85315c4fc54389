//! HTTP/1 on both sides: bytes of one connection to requests and responses, and back.
//!
//! In: an [`Io`](nuncio_filter_api::Io). Out: [`IncomingRequest`]s on the server side, a
//! [`Response`](nuncio_filter_api::Response) for each [`ClientConnection::exchange`] on the client side. Start reading
//! at [`ServerConnection`] and [`ClientConnection`].
//!
//! Why not hyper's codec: every outcome on malformed input, Envoy's exact local replies and detail strings, header
//! case, byte counts as Envoy counts them, no buffer on an idle connection, and one write for head and first body
//! bytes must be ours to decide, and this is the hottest path of the proxy. Header syntax is left to httparse.
//!
//! Invariants:
//! - A connection carries one stream at a time and is polled by one task. Reading and writing share the waker.
//! - Nothing of a message whose framing is ambiguous leaves this module (RFC 9112 §6.3, §11.2).
//! - A message that breaks off never gets a clean end: the connection is closed, or reset where closing would be one.
//! - Bodies are pulled: what is not polled is not read, but for one bounded read-ahead that notices a disconnect.
//! - An idle connection holds no buffer: bytes arrive in a scratch buffer of the worker.

mod chunked;
mod client;
mod connection_field;
mod decoder;
mod details;
mod encode;
mod field;
mod head;
mod reader;
mod request_head;
mod response_head;
mod server;
mod settings;
mod target;
mod turn;
mod write;

#[cfg(test)]
mod tests;

pub use client::{ClientConnection, ExchangeError, ExchangeFailure, ExchangeOptions, OnIdle, RequestSent};
pub use details::BadRequest;
pub use request_head::IncomingRequest;
pub use server::{Incoming, Persistence, Readiness, RespondError, Sending, ServerConnection};
pub use settings::{ClientSettings, HeaderFormat, OwnHeaderCase, ServerSettings};
pub(crate) use target::is_authority;

/// Parses the request head at the start of `bytes`; `None` if it is not complete. For fuzzing and benches: a connection
/// does the same without copying.
#[doc(hidden)]
pub fn parse_request_head(bytes: &[u8], settings: &ServerSettings) -> Option<Result<IncomingRequest, BadRequest>> {
    let limits = head::HeadLimits {
        ends: head::LineEnds::Any,
        max_bytes: settings.max_headers_bytes,
        max_count: settings.max_headers_count,
    };
    let mut parsed = None;
    let parse = |head: head::Head<'_>| request_head::parse(head, settings, &mut parsed);
    match head::HeadScan::default().take(&mut bytes::BytesMut::from(bytes), &limits, |_| Ok(()), parse) {
        Ok(_) => parsed.map(|parsed| Ok(parsed.incoming)),
        Err(bad) => Some(Err(bad)),
    }
}
