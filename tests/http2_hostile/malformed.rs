//! Requests and frames that break the rules one at a time.

use super::{GOOD, Outcome, SPLITS, outcome, plain_proxy, serves};
use crate::support::bootstrap::Pieces;
use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM, SETTINGS, encode, literal,
};
use crate::support::proxy::proxy;
use crate::support::split::Split;
use crate::support::upstream::{Received, What, http1};
use std::time::Duration;

type Fields = Vec<(&'static str, &'static str)>;

/// `GOOD` with the value of one field replaced.
fn with(name: &str, value: &'static str) -> Fields {
    GOOD.iter().map(|(n, v)| if *n == name { (*n, value) } else { (*n, *v) }).collect()
}

/// `GOOD` without one field.
fn without(name: &str) -> Fields {
    GOOD.iter().filter(|(n, _)| *n != name).copied().collect()
}

/// `GOOD` with one more field behind it.
fn and(name: &'static str, value: &'static str) -> Fields {
    GOOD.iter().copied().chain([(name, value)]).collect()
}

/// Malformed requests of RFC 9113 §8.1.1 to §8.3.1, by name.
fn malformed_requests() -> Vec<(&'static str, Fields)> {
    vec![
        ("CR in a value", and("x", "a\rb")),
        ("LF in a value", and("x", "a\nb")),
        ("CRLF in a value", and("x", "a\r\ny: b")),
        ("NUL in a value", and("x", "a\0b")),
        ("0x01 in a value", and("x", "a\x01b")),
        ("0x7f in a value", and("x", "a\x7fb")),
        ("CRLF in a name", and("x\r\ny", "b")),
        ("a colon in a name", and("x:y", "b")),
        ("a space in a name", and("x y", "b")),
        ("NUL in a name", and("x\0", "b")),
        ("an upper-case name", and("X-Upper", "b")),
        ("an empty name", and("", "b")),
        ("CRLF in the path", with(":path", "/a\r\nb")),
        ("a space in the path", with(":path", "/a b")),
        ("an empty path", with(":path", "")),
        ("an asterisk as the path of a GET", with(":path", "*")),
        ("an absolute URL as the path", with(":path", "http://evil/")),
        ("CRLF in the method", with(":method", "GET\r\n")),
        ("a space in the method", with(":method", "GET /x")),
        ("an empty method", with(":method", "")),
        ("CRLF in the authority", with(":authority", "a\r\nb")),
        ("a path in the authority", with(":authority", "a/b")),
        ("userinfo in the authority", with(":authority", "x@a")),
        ("a digit as the scheme", with(":scheme", "5")),
        ("an empty scheme", with(":scheme", "")),
        ("a URL in the scheme", with(":scheme", "http://evil/?")),
        ("CONNECT that is not routed", vec![(":method", "CONNECT"), (":authority", "a:80")]),
        ("CONNECT with a path", with(":method", "CONNECT")),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("two methods", and(":method", "GET")),
        ("a late pseudo-header", and("x", "y").into_iter().chain([(":path", "/late")]).collect()),
        ("an unknown pseudo-header", [(":unknown", "x")].into_iter().chain(GOOD.iter().copied()).collect()),
        ("a status in a request", [(":status", "200")].into_iter().chain(GOOD.iter().copied()).collect()),
        ("connection", and("connection", "close")),
        ("transfer-encoding", and("transfer-encoding", "chunked")),
        ("keep-alive", and("keep-alive", "1")),
        ("upgrade", and("upgrade", "websocket")),
        ("proxy-connection", and("proxy-connection", "close")),
        ("te other than trailers", and("te", "gzip")),
        ("a length without a body", and("content-length", "5")),
        ("two lengths", and("content-length", "0").into_iter().chain([("content-length", "5")]).collect()),
        ("a length with a plus", and("content-length", "+0")),
        ("a length that overflows", and("content-length", "18446744073709551616")),
        (":protocol without the setting", and(":protocol", "websocket")),
    ]
}

#[tokio::test]
async fn a_connection_begins_with_settings() {
    let running = plain_proxy().await;
    for split in SPLITS {
        for (kind, flags, payload) in [(6, 0, &[0; 8][..]), (SETTINGS, ACK, &[]), (99, 0, &[])] {
            let mut frames = Frames::without_settings(running.addr(), split).await.unwrap();
            frames.frame(kind, flags, 0, payload).await.unwrap();
            let _ = frames.headers(1, END_STREAM, GOOD).await;
            assert_eq!(outcome(&mut frames, 1).await, Outcome::GoAway(1), "{kind}");
        }
    }
    serves(running.addr()).await;
}

#[tokio::test]
async fn a_malformed_request_is_refused_and_never_forwarded() {
    let proxy = plain_proxy().await;
    for (name, fields) in malformed_requests() {
        for split in SPLITS {
            let mut frames = Frames::connect(proxy.addr(), split).await.expect("the proxy accepts");
            let _ = frames.headers(1, END_STREAM, &fields).await;
            let outcome = outcome(&mut frames, 1).await;
            // An answer can only be a local reply, since nothing is at the upstream.
            assert_ne!(outcome, Outcome::Silence, "{name}, sent {split:?}");
            let received = proxy.upstream(0).take_received();
            assert!(received.is_empty(), "{name}, sent {split:?}: {received:?}");
        }
    }
    serves(proxy.addr()).await;
}

/// Bytes behind preface and SETTINGS that end the connection, by name, with the error codes that may be told.
fn broken_connections() -> Vec<(&'static str, Vec<u8>, &'static [u32])> {
    const PROTOCOL: &[u32] = &[1];
    const FLOW: &[u32] = &[3];
    const SIZE: &[u32] = &[6];
    // RFC 9113 §4.3 has COMPRESSION_ERROR; the h2 crate calls every broken frame a breach of protocol.
    const COMPRESSION: &[u32] = &[1, 9];
    let block = || GOOD.iter().flat_map(|(n, v)| literal(n.as_bytes(), v.as_bytes())).collect::<Vec<u8>>();
    let interrupted = [encode(HEADERS, END_STREAM, 1, &block()), encode(6, 0, 0, &[0; 8])].concat();
    vec![
        ("DATA on stream 0", encode(DATA, 0, 0, b"x"), PROTOCOL),
        ("HEADERS on stream 0", encode(HEADERS, END_HEADERS, 0, &block()), PROTOCOL),
        ("HEADERS on an even stream", encode(HEADERS, END_HEADERS | END_STREAM, 2, &block()), PROTOCOL),
        ("DATA on an idle stream", encode(DATA, 0, 5, b"x"), PROTOCOL),
        ("RST_STREAM on an idle stream", encode(RST_STREAM, 0, 5, &[0; 4]), PROTOCOL),
        ("WINDOW_UPDATE on an idle stream", encode(8, 0, 5, &[0, 0, 0, 1]), PROTOCOL),
        ("a frame that is too long", encode(DATA, 0, 1, &[0; 16_385]), SIZE),
        ("SETTINGS of a bad length", encode(SETTINGS, 0, 0, &[0; 5]), SIZE),
        ("SETTINGS on a stream", encode(SETTINGS, 0, 1, &[]), PROTOCOL),
        ("an ACK with a payload", encode(SETTINGS, ACK, 0, &[0; 6]), SIZE),
        ("PING of a bad length", encode(6, 0, 0, &[0; 7]), SIZE),
        ("PING on a stream", encode(6, 0, 1, &[0; 8]), PROTOCOL),
        ("RST_STREAM of a bad length", encode(RST_STREAM, 0, 1, &[0; 3]), SIZE),
        ("WINDOW_UPDATE of a bad length", encode(8, 0, 0, &[0; 3]), SIZE),
        ("WINDOW_UPDATE of nothing", encode(8, 0, 0, &[0; 4]), PROTOCOL),
        ("a window that overflows", encode(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), FLOW),
        // RFC 9113 §6.5.2 has a FLOW_CONTROL_ERROR; the h2 crate calls it the peer's breach of protocol.
        ("an initial window that is too large", encode(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]), &[1, 3]),
        ("ENABLE_PUSH of 2", encode(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), PROTOCOL),
        ("MAX_FRAME_SIZE that is too small", encode(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]), PROTOCOL),
        ("PUSH_PROMISE from a client", encode(5, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL),
        ("CONTINUATION without HEADERS", encode(9, END_HEADERS, 1, &block()), PROTOCOL),
        ("a header block that is interrupted", interrupted, PROTOCOL),
        ("padding longer than the frame", encode(HEADERS, END_HEADERS | 8, 1, &[200, 0, 0]), PROTOCOL),
        ("HPACK index 0", encode(HEADERS, END_HEADERS | END_STREAM, 1, &[0x80]), COMPRESSION),
        ("HPACK index out of range", encode(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0x0f]), COMPRESSION),
        ("a truncated HPACK literal", encode(HEADERS, END_HEADERS | END_STREAM, 1, &[0, 10, b'x']), COMPRESSION),
        (
            "an HPACK integer that overflows",
            encode(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            ),
            COMPRESSION,
        ),
        (
            "a table size over the limit",
            encode(HEADERS, END_HEADERS | END_STREAM, 1, &[0x3f, 0xe2, 0xff, 0x03]),
            COMPRESSION,
        ),
        (
            "a table size amid a block",
            encode(HEADERS, END_HEADERS | END_STREAM, 1, &[&block()[..], &[0x20], &literal(b"x", b"y")].concat()),
            COMPRESSION,
        ),
        (
            "bad Huffman code",
            encode(HEADERS, END_HEADERS | END_STREAM, 1, &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 0]),
            COMPRESSION,
        ),
    ]
}

#[tokio::test]
async fn a_broken_frame_ends_its_connection_alone() {
    let proxy = plain_proxy().await;
    for (name, bytes, codes) in broken_connections() {
        for split in SPLITS {
            let mut frames = Frames::connect(proxy.addr(), split).await.expect("the proxy accepts");
            let _ = frames.bytes(&bytes).await;
            match outcome(&mut frames, 1).await {
                Outcome::GoAway(code) => assert!(codes.contains(&code), "{name}, sent {split:?}: GOAWAY {code}"),
                Outcome::Closed => {}
                // RFC 9113 §5.4.1 lets a stream error stand for some of these.
                Outcome::Reset(code) => assert!(codes.contains(&code), "{name}, sent {split:?}: RST_STREAM {code}"),
                other => panic!("{name}, sent {split:?}: {other:?}"),
            }
        }
    }
    serves(proxy.addr()).await;
    let requests = proxy.upstream(0).take_requests();
    assert!(requests.iter().all(|request| request.target() == "/good"), "{requests:?}");
}

/// A request with a body whose length is a lie: refused before the end of it could reach the upstream.
#[tokio::test]
async fn a_body_that_differs_from_its_length_is_reset() {
    let proxy = plain_proxy().await;
    for (length, body) in [("3", "hello"), ("9", "hello")] {
        let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
        let mut fields = with(":method", "POST");
        fields.push(("content-length", length));
        frames.headers(1, 0, &fields).await.expect("the proxy reads");
        let _ = frames.frame(DATA, END_STREAM, 1, body.as_bytes()).await;
        let outcome = outcome(&mut frames, 1).await;
        assert!(matches!(outcome, Outcome::Reset(_) | Outcome::GoAway(_) | Outcome::Closed), "{length}: {outcome:?}");
        assert!(proxy.upstream(0).take_received().iter().all(is_cut), "length {length} reached the upstream whole");
    }
    serves(proxy.addr()).await;
}

fn is_cut(received: &Received) -> bool {
    !matches!(&received.what, What::Request(message) if !message.truncated)
}

#[tokio::test]
async fn trailers_without_end_stream_are_refused() {
    let proxy = plain_proxy().await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    frames.headers(1, 0, &with(":method", "POST")).await.expect("the proxy reads");
    let _ = frames.headers(1, 0, &[("x-late", "1")]).await;
    let outcome = outcome(&mut frames, 1).await;
    assert!(matches!(outcome, Outcome::Reset(1) | Outcome::GoAway(1) | Outcome::Closed), "{outcome:?}");
    serves(proxy.addr()).await;
}

/// RFC 9113 §8.1.
#[tokio::test]
async fn a_pseudo_header_in_trailers_ends_the_connection() {
    let proxy = plain_proxy().await;
    for split in SPLITS {
        let mut frames = Frames::connect(proxy.addr(), split).await.expect("the proxy accepts");
        frames.headers(1, 0, &with(":method", "POST")).await.expect("the proxy reads");
        let _ = frames.headers(1, END_STREAM, &[("x", "y"), (":path", "/other")]).await;
        let outcome = outcome(&mut frames, 1).await;
        assert!(matches!(outcome, Outcome::GoAway(1) | Outcome::Closed), "sent {split:?}: {outcome:?}");
        assert!(proxy.upstream(0).take_received().iter().all(is_cut), "the request reached the upstream whole");
    }
    serves(proxy.addr()).await;
}

#[tokio::test]
async fn trailers_without_pseudo_headers_pass() {
    let proxy = plain_proxy().await;
    for split in SPLITS {
        let mut frames = Frames::connect(proxy.addr(), split).await.expect("the proxy accepts");
        frames.headers(1, 0, &with(":method", "POST")).await.expect("the proxy reads");
        frames.frame(DATA, 0, 1, b"body").await.expect("the proxy reads");
        frames.headers(1, END_STREAM, &[("x", ":y"), ("a", "b")]).await.expect("the proxy reads");
        assert_eq!(outcome(&mut frames, 1).await, Outcome::Answered, "sent {split:?}");
    }
    assert_eq!(proxy.upstream(0).take_requests().len(), SPLITS.len());
}

/// Nothing else may come on the connection before the block ends: it is of use to nobody.
#[tokio::test]
async fn a_header_block_that_does_not_end_is_awaited_as_long_as_a_head() {
    let pieces = Pieces { hcm: "request_headers_timeout: 0.3s\n".to_owned(), ..Pieces::default() };
    let proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
    let block: Vec<u8> = GOOD.iter().flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes())).collect();
    let whole = encode(HEADERS, END_STREAM | END_HEADERS, 1, &block);
    let mut first = encode(HEADERS, END_STREAM, 1, &block);
    let begun = [first.clone(), whole[..whole.len() - 1].to_vec(), {
        first.extend(encode(CONTINUATION, 0, 1, &literal(b"x", b"y")));
        first
    }];
    for bytes in &begun {
        let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
        frames.bytes(bytes).await.expect("the proxy reads");
        assert_eq!(outcome(&mut frames, 1).await, Outcome::GoAway(11));
    }
    assert_eq!(proxy.stat("http.in.downstream_rq_header_timeout").await, begun.len() as u64);
    // One that ends in time, behind another that did, is no part of it.
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    for stream in [1, 3, 5, 7] {
        let whole = encode(HEADERS, END_STREAM | END_HEADERS, stream, &block);
        frames.bytes(&whole[..5]).await.expect("the proxy reads");
        tokio::time::sleep(Duration::from_millis(150)).await;
        frames.bytes(&whole[5..]).await.expect("the proxy reads");
        assert_eq!(outcome(&mut frames, stream).await, Outcome::Answered);
    }
}

/// Either is right; what may not happen is that it is forgotten.
#[tokio::test]
async fn a_request_behind_a_goaway_is_served_or_refused() {
    let proxy = plain_proxy().await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    frames.frame(GOAWAY, 0, 0, &[0; 8]).await.expect("the proxy reads");
    let _ = frames.headers(1, END_STREAM, GOOD).await;
    assert_ne!(outcome(&mut frames, 1).await, Outcome::Silence);
    serves(proxy.addr()).await;
}

#[tokio::test]
async fn a_body_in_single_bytes_arrives_whole() {
    let proxy = plain_proxy().await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    frames.headers(1, 0, &with(":method", "POST")).await.expect("the proxy reads");
    let bytes = encode(DATA, 0, 1, b"x").repeat(50_000);
    frames.bytes(&bytes).await.expect("the proxy reads");
    frames.frame(DATA, END_STREAM, 1, b"").await.expect("the proxy reads");
    assert_eq!(outcome(&mut frames, 1).await, Outcome::Answered);
    assert_eq!(proxy.upstream(0).take_requests()[0].body.len(), 50_000);
}

#[tokio::test]
async fn the_authority_wins_over_the_host() {
    let proxy = plain_proxy().await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    frames.headers(1, END_STREAM, &and("host", "evil")).await.expect("the proxy reads");
    assert_eq!(outcome(&mut frames, 1).await, Outcome::Answered);
    assert_eq!(proxy.upstream(0).take_requests()[0].header_values("host"), ["a"]);
}
