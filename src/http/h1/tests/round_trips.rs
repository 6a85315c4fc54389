//! What one side writes, the other side reads.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use nuncio_filter_api::{Body, Request, RequestHead, ResponseHead, Scheme};

use super::pipe::pipe;
use super::responses::send;
use super::server::script;
use crate::h1::{ClientConnection, ExchangeOptions, Incoming, Persistence, ServerConnection};

const ROUNDS: usize = 300;
const NAME: &[u8] = b"abcxyz019-_.!~";

fn fields(random: &mut fastrand::Rng) -> HeaderMap {
    let mut map = HeaderMap::new();
    for _ in 0..random.usize(..30) {
        let name: String = (0..random.usize(1..40)).map(|_| char::from(NAME[random.usize(..NAME.len())])).collect();
        let value: Vec<u8> = (0..random.usize(..60)).map(|_| random.u8(0x21..)).filter(|b| *b != 0x7f).collect();
        let name = HeaderName::try_from("x-".to_owned() + &name).expect("a name");
        map.append(name, HeaderValue::from_bytes(&value).expect("a value"));
    }
    map
}

/// A body and its bytes; perhaps with a length in `fields`.
fn body(random: &mut fastrand::Rng, fields: &mut HeaderMap) -> (Body, String) {
    let parts: Vec<String> = (0..random.usize(..5)).map(|_| "0123456789abcdef".repeat(random.usize(..2000))).collect();
    let whole = parts.concat();
    if random.bool() {
        fields.insert("content-length", HeaderValue::from(whole.len()));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    (if random.bool() { script(&parts, Some(Ok(()))) } else { Body::full(whole.clone()) }, whole)
}

/// Feeds `bytes` in random parts to a new pipe.
fn fed(random: &mut fastrand::Rng, bytes: &[u8]) -> nuncio_filter_api::Io {
    let (io, peer) = pipe();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (part, tail) = rest.split_at(random.usize(1..=rest.len()));
        peer.send(part);
        rest = tail;
    }
    io
}

fn read(mut body: Body) -> String {
    let mut whole = Vec::new();
    while let Some(frame) = body.next().now_or_never().expect("all is there") {
        whole.extend_from_slice(&frame.expect("unbroken").into_data().expect("no trailers"));
    }
    String::from_utf8(whole).expect("as sent")
}

/// The fields but for those that frame.
fn end_to_end(mut fields: HeaderMap) -> HeaderMap {
    fields.remove("content-length");
    fields
}

#[test]
fn a_server_reads_what_a_client_writes() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..ROUNDS {
        let mut head = RequestHead::new(Method::POST, Scheme::Http, "a.example:8080".into(), "/p?q=%20".into());
        head.headers = fields(&mut random);
        let (body, whole) = body(&mut random, &mut head.headers);
        let sent = head.headers.clone();
        let (io, peer) = pipe();
        let exchange =
            send(ClientConnection::new(io, Arc::default()), Request { head, body }, ExchangeOptions::default());
        assert!(exchange.now_or_never().is_none());
        let server = ServerConnection::new(fed(&mut random, &peer.raw_output()), Arc::default(), Bytes::new());
        let Some(Incoming::Request(read_back)) = server.next_request().now_or_never() else { panic!("a request") };
        assert_eq!((&*read_back.head.authority, &*read_back.head.path), ("a.example:8080", "/p?q=%20"));
        assert_eq!(end_to_end(read_back.head.headers), end_to_end(sent));
        assert_eq!(read(read_back.body), whole);
        assert!(server.is_request_complete());
    }
}

#[test]
fn a_client_reads_what_a_server_writes() {
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..ROUNDS {
        let mut head = ResponseHead::new(StatusCode::OK);
        head.headers = fields(&mut random);
        let (body, whole) = body(&mut random, &mut head.headers);
        let sent = head.headers.clone();
        let (io, peer) = pipe();
        peer.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let server = ServerConnection::new(io, Arc::default(), Bytes::new());
        assert!(matches!(server.next_request().now_or_never(), Some(Incoming::Request(_))));
        let done = server.respond(&head, body, Persistence::KeepAlive).now_or_never();
        assert_eq!(done.and_then(Result::ok), Some(Persistence::KeepAlive));
        let client = ClientConnection::new(fed(&mut random, &peer.raw_output()), Arc::default());
        let response = send(client, super::responses::request(Method::GET), ExchangeOptions::default()).now_or_never();
        let response = response.and_then(Result::ok).expect("a response");
        assert_eq!(end_to_end(response.head.headers), end_to_end(sent));
        assert_eq!(read(response.body), whole);
    }
}

// An idle connection is this and its transport; the design allows 10 KB with all that the kernel and TLS need.
const _: () = assert!(ServerConnection::STATE_BYTES <= 1536 && ClientConnection::STATE_BYTES <= 1536);
