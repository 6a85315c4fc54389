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
mod write;

#[cfg(test)]
mod tests;

pub use client::{ClientConnection, ExchangeError, ExchangeFailure, ExchangeOptions, OnIdle, RequestSent};
pub use details::BadRequest;
pub use request_head::IncomingRequest;
pub use server::{Incoming, Persistence, Readiness, RespondError, ServerConnection};
pub use settings::{ClientSettings, HeaderFormat, OwnHeaderCase, ServerSettings};

/// Parses the request head at the start of `bytes`; `None` if it is not complete. For fuzzing and benches: a connection
/// does the same without copying.
#[doc(hidden)]
pub fn parse_request_head(bytes: &[u8], settings: &ServerSettings) -> Option<Result<IncomingRequest, BadRequest>> {
    let mut scan = head::HeadScan::default();
    match scan.find_end(bytes, head::LineEnds::Any) {
        Ok(None) => None,
        Err(bad) => Some(Err(bad)),
        Ok(Some(end)) => {
            let head = bytes::Bytes::copy_from_slice(bytes.get(..end)?);
            Some(request_head::parse(head, scan, settings).map(|parsed| parsed.incoming))
        }
    }
}
