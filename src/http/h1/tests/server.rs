//! Responses on the wire, and the life of a server connection.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body::Frame;
use nuncio_filter_api::{Body, BodyError, OriginalResponse, Response, ResponseHead};
use nuncio_telemetry::ResponseFlag;

use super::pipe::{Peer, pipe};
use super::respond;
use crate::h1::{
    HeaderFormat, Incoming, IncomingRequest, OwnHeaderCase, Persistence, Readiness, RespondError, ServerConnection,
    ServerSettings,
};

/// A body that gives these frames and then waits, ends or fails.
pub(super) struct Script {
    frames: std::vec::IntoIter<Frame<Bytes>>,
    end: Option<Result<(), BodyError>>,
}

pub(super) fn script(data: &[&str], end: Option<Result<(), BodyError>>) -> Body {
    let frames: Vec<_> = data.iter().map(|d| Frame::data(Bytes::copy_from_slice(d.as_bytes()))).collect();
    Body::stream(Script { frames: frames.into_iter(), end })
}

impl http_body::Body for Script {
    type Data = Bytes;
    type Error = BodyError;
    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match (self.frames.next(), &self.end) {
            (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
            (None, None) => Poll::Pending,
            (None, Some(Ok(()))) => Poll::Ready(None),
            (None, Some(Err(error))) => Poll::Ready(Some(Err(error.clone()))),
        }
    }
}

pub(super) fn broken() -> BodyError {
    BodyError::new(ResponseFlag::UpstreamConnectionTermination, "broken")
}

fn connect_with(settings: ServerSettings, input: &str) -> (ServerConnection, Peer) {
    let (io, peer) = pipe();
    peer.send(input);
    (ServerConnection::new(io, Arc::new(settings), Bytes::new()), peer)
}

fn request(connection: &ServerConnection) -> IncomingRequest {
    match connection.next_request().now_or_never() {
        Some(Incoming::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn response(status: u16, headers: &[(&'static str, &'static str)], body: Body) -> Response {
    let mut head = ResponseHead::new(StatusCode::from_u16(status).expect("a status"));
    for (name, value) in headers {
        head.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Response { head, body }
}

/// Answers `input` with `response`; the bytes written, the writes it took and what became of the connection.
fn answer_with(
    settings: ServerSettings,
    input: &str,
    response: Response,
) -> (String, usize, Option<Result<Persistence, String>>) {
    let (connection, peer) = connect_with(settings, input);
    let _request = request(&connection);
    let result = respond(&connection, response, Persistence::KeepAlive).now_or_never();
    (peer.output(), peer.writes(), result.map(|r| r.map_err(|e| e.to_string())))
}

fn check(input: &str, response: Response, expected: &str) {
    let (output, writes, result) = answer_with(ServerSettings::default(), input, response);
    assert_eq!(output, expected);
    assert_eq!(writes, 1, "head and body are one write");
    let close = expected.contains("connection: close");
    assert_eq!(result, Some(Ok(if close { Persistence::Close } else { Persistence::KeepAlive })));
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_content_length_is_kept_and_otherwise_chunks_are_written() {
    let length = response(200, &[("content-length", "2"), ("x", "y")], Body::full("ok"));
    check(GET, length, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: y\r\n\r\nok");
    check(
        GET,
        response(200, &[], script(&["hello", "0123456789abcdef"], Some(Ok(())))),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
    );
    check(GET, response(200, &[], Body::empty()), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
}

#[test]
fn responses_without_body_have_none() {
    check(
        HEAD,
        response(200, &[("content-length", "5")], Body::empty()),
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
    );
    check(HEAD, response(200, &[], Body::full("hi")), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    check(HEAD, response(200, &[], Body::empty()), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    check(GET, response(204, &[("content-length", "0")], Body::empty()), "HTTP/1.1 204 No Content\r\n\r\n");
    check(GET, response(204, &[], Body::full("hi")), "HTTP/1.1 204 No Content\r\n\r\n");
    check(
        GET,
        response(304, &[("content-length", "5")], Body::empty()),
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    );
    check(GET, response(304, &[], Body::empty()), "HTTP/1.1 304 Not Modified\r\n\r\n");
}

#[test]
fn fields_of_the_connection_are_the_codecs_own() {
    let headers = [("connection", "x"), ("keep-alive", "5"), ("transfer-encoding", "gzip"), ("proxy-connection", "y")];
    check(GET, response(200, &headers, Body::empty()), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
}

#[test]
fn reasons_are_those_of_envoy() {
    for (status, reason) in
        [(418, "Unknown"), (451, "Unknown"), (413, "Payload Too Large"), (425, "Too Early"), (999, "Unknown")]
    {
        check(
            GET,
            response(status, &[], Body::empty()),
            &format!("HTTP/1.1 {status} {reason}\r\ncontent-length: 0\r\n\r\n"),
        );
    }
}

#[test]
fn a_request_that_is_not_read_to_its_end_closes_the_connection() {
    let post = "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\n\r\nhello";
    let expected = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    check(post, response(200, &[], Body::empty()), expected);
    check("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", response(200, &[], Body::empty()), expected);
}

#[test]
fn http_10_gets_neither_chunks_nor_persistence_unasked() {
    let settings = || ServerSettings { accept_http_10: true, ..Default::default() };
    let stream = || response(200, &[], script(&["hello"], Some(Ok(()))));
    let keep = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let (output, writes, result) = answer_with(settings(), keep, stream());
    assert_eq!(output, "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nhello");
    assert_eq!((writes, result), (1, Some(Ok(Persistence::Close))));
    let (output, _, result) =
        answer_with(settings(), keep, response(200, &[("content-length", "2")], Body::full("ok")));
    assert_eq!(output, "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok");
    assert_eq!(result, Some(Ok(Persistence::KeepAlive)));
    let (output, ..) = answer_with(settings(), "GET /\r\n\r\n", response(200, &[], Body::empty()));
    assert_eq!(output, "HTTP/1.0 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
}

#[test]
fn trailers_are_written_only_where_enabled() {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let with = || response(200, &[], Body::with_trailers("hi".into(), trailers.clone()));
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n";
    check(GET, with(), &format!("{head}\r\n"));
    let settings = ServerSettings { enable_trailers: true, ..Default::default() };
    let (output, ..) = answer_with(settings, GET, with());
    assert_eq!(output, format!("{head}grpc-status: 0\r\n\r\n"));
}

#[test]
fn names_are_written_in_the_case_that_is_configured() {
    let of = |header_format| ServerSettings { header_format, ..Default::default() };
    let plain = || response(200, &[("foo$b#$are", "1"), ("x_y-9z", "2")], Body::empty());
    let (output, ..) = answer_with(of(HeaderFormat::ProperCase), GET, plain());
    assert_eq!(output, "HTTP/1.1 200 OK\r\nFoo$B#$Are: 1\r\nX_Y-9z: 2\r\nContent-Length: 0\r\n\r\n");
    let preserve = HeaderFormat::PreserveCase { forward_reason_phrase: true, own: OwnHeaderCase::ProperCase };
    let mut received = plain();
    received.head.original =
        Some(Box::new(OriginalResponse { reason: "Fine".into(), names: vec!["X_Y-9Z".into(), "other".into()] }));
    let (output, ..) = answer_with(of(preserve), GET, received);
    assert_eq!(output, "HTTP/1.1 200 Fine\r\nFoo$B#$Are: 1\r\nX_Y-9Z: 2\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn received_names_are_kept_where_they_are_wanted() {
    let preserve = HeaderFormat::PreserveCase { forward_reason_phrase: false, own: OwnHeaderCase::Lower };
    let settings = ServerSettings { header_format: preserve, ..Default::default() };
    let (connection, _peer) = connect_with(settings, "GET / HTTP/1.1\r\nHOST: a\r\nX-fOO: bAr\r\n\r\n");
    let names = request(&connection).head.original_case.expect("names are kept");
    assert!(names.iter().map(|n| n.as_str()).eq(["HOST", "X-fOO"]));
}

#[test]
fn a_body_that_breaks_off_has_no_end() {
    let (output, _, result) =
        answer_with(ServerSettings::default(), GET, response(200, &[], script(&["hello"], Some(Err(broken())))));
    assert_eq!(output, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
    assert_eq!(result, Some(Err("response body broke off: broken".into())));
}

#[test]
fn a_body_whose_end_is_the_connections_is_reset_where_it_breaks_off() {
    let settings = ServerSettings { accept_http_10: true, ..Default::default() };
    let (connection, peer) = connect_with(settings, "GET / HTTP/1.0\r\n\r\n");
    request(&connection);
    let body = script(&["hello"], Some(Err(broken())));
    let result = respond(&connection, response(200, &[], body), Persistence::KeepAlive).now_or_never();
    assert!(matches!(result, Some(Err(RespondError::Body(_)))));
    assert!(peer.is_reset());
}

#[test]
fn a_body_must_be_as_long_as_its_length() {
    for (data, length) in [("hello", "4"), ("hello", "6")] {
        let wrong = response(200, &[("content-length", length)], script(&[data], Some(Ok(()))));
        let (_, _, result) = answer_with(ServerSettings::default(), GET, wrong);
        assert_eq!(result, Some(Err("response body does not match its content-length".into())));
    }
}

#[test]
fn a_slow_client_holds_the_body_back_and_gets_all_of_it() {
    let (connection, peer) = connect_with(ServerSettings::default(), GET);
    request(&connection);
    peer.allow_writes(10);
    let pulled = Rc::new(Cell::new(0));
    let counter = pulled.clone();
    let chunk = "x".repeat(40_000);
    let body = Body::stream(http_body_stream(move || {
        counter.set(counter.get() + 1);
        if counter.get() <= 10 { Some(chunk.clone()) } else { None }
    }));
    let mut sending = Box::pin(respond(&connection, response(200, &[], body), Persistence::KeepAlive));
    assert!(sending.as_mut().now_or_never().is_none());
    assert_eq!(pulled.get(), 2, "no more is pulled than the queue holds");
    let mut received = peer.output().len();
    loop {
        peer.allow_writes(30_001);
        let done = sending.as_mut().now_or_never();
        received += peer.output().len();
        if let Some(done) = done {
            assert_eq!(done.ok(), Some(Persistence::KeepAlive));
            break;
        }
    }
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".len();
    assert_eq!(received, head + 10 * (40_000 + "9c40\r\n\r\n".len()) + "0\r\n\r\n".len());
}

fn http_body_stream(
    next: impl FnMut() -> Option<String> + Unpin,
) -> impl http_body::Body<Data = Bytes, Error = BodyError> {
    struct Produced<F>(F);
    impl<F: FnMut() -> Option<String> + Unpin> http_body::Body for Produced<F> {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready((self.0)().map(|data| Ok(Frame::data(data.into()))))
        }
    }
    Produced(next)
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let (connection, peer) = connect_with(ServerSettings::default(), GET);
    for _ in 0..2 {
        let request = request(&connection);
        drop(request);
        let ok = response(200, &[("content-length", "2")], Body::full("ok"));
        assert_eq!(
            respond(&connection, ok, Persistence::KeepAlive).now_or_never().and_then(Result::ok),
            Some(Persistence::KeepAlive)
        );
        assert!(connection.readable().now_or_never().is_none());
        assert!(connection.holds_no_memory());
        peer.send(GET);
    }
}

#[test]
fn a_disconnect_is_noticed_while_nothing_is_read() {
    let (connection, peer) = connect_with(ServerSettings::default(), GET);
    request(&connection);
    let mut disconnected = Box::pin(std::future::poll_fn(|cx| connection.poll_disconnected(cx)));
    assert!(disconnected.as_mut().now_or_never().is_none());
    peer.send(vec![b'x'; 100_000]);
    assert!(disconnected.as_mut().now_or_never().is_none());
    assert!(peer.unread() > 80_000, "reading ahead is bounded");
    let (connection, peer) = connect_with(ServerSettings::default(), GET);
    request(&connection);
    peer.send(GET);
    peer.close();
    assert!(std::future::poll_fn(|cx| connection.poll_disconnected(cx)).now_or_never().is_some());
}

#[test]
fn a_client_that_leaves_while_the_body_is_awaited_ends_the_response() {
    let (connection, peer) = connect_with(ServerSettings::default(), GET);
    request(&connection);
    let mut sending = Box::pin(respond(&connection, response(200, &[], script(&["x"], None)), Persistence::KeepAlive));
    assert!(sending.as_mut().now_or_never().is_none());
    peer.close();
    assert!(matches!(sending.as_mut().now_or_never(), Some(Err(RespondError::Disconnected(_)))));
}

#[test]
fn a_disconnect_within_a_body_is_an_error() {
    let (connection, peer) = connect_with(ServerSettings::default(), "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhel");
    let mut request = request(&connection);
    peer.close();
    assert!(request.body.next().now_or_never().flatten().is_some_and(|f| f.is_ok()));
    let error = request.body.next().now_or_never().flatten().and_then(Result::err).expect("an error");
    assert_eq!(error.details, "downstream_remote_disconnect");
    assert!(error.flags.has(ResponseFlag::DownstreamConnectionTermination));
}

#[test]
fn closing_between_requests_is_no_error() {
    let (connection, peer) = connect_with(ServerSettings::default(), "");
    peer.close();
    assert_eq!(connection.readable().now_or_never(), Some(Readiness::Closed));
}

#[test]
fn an_accepted_upgrade_lets_the_held_bytes_flow() {
    let input = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nearly";
    let (connection, peer) = connect_with(ServerSettings::default(), input);
    let mut request = request(&connection);
    assert_eq!(request.upgrade.as_deref(), Some("websocket"));
    assert!(request.body.next().now_or_never().is_none());
    let headers = [("upgrade", "websocket"), ("connection", "upgrade")];
    let switching = response(101, &headers, script(&["raw"], None));
    let mut sending = Box::pin(respond(&connection, switching, Persistence::KeepAlive));
    assert!(sending.as_mut().now_or_never().is_none());
    assert_eq!(
        peer.output(),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nraw"
    );
    let data = request.body.next().now_or_never().flatten().and_then(Result::ok).and_then(|f| f.into_data().ok());
    assert_eq!(data.as_deref(), Some(&b"early"[..]));
    peer.close();
    // Envoy: a client that closes its half has left the tunnel.
    let error = request.body.next().now_or_never().flatten().and_then(Result::err).expect("an error");
    assert_eq!(error.details, "downstream_remote_disconnect");
}

#[test]
fn cve_2024_23326_only_101_is_an_upgrade() {
    let input = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nearly";
    let ok = response(200, &[("content-length", "2")], Body::full("ok"));
    check(input, ok, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    let (output, _, result) = answer_with(ServerSettings::default(), GET, response(101, &[], Body::empty()));
    assert_eq!((&*output, result), ("", Some(Err("101 without a request for it".into()))));
}

#[test]
fn a_connect_is_a_tunnel_from_its_2xx() {
    let (connection, peer) = connect_with(ServerSettings::default(), "CONNECT a:80 HTTP/1.1\r\n\r\nearly");
    let mut request = request(&connection);
    assert!(request.body.next().now_or_never().is_none());
    let established = response(200, &[("content-length", "0")], script(&["pong"], Some(Ok(()))));
    let result = respond(&connection, established, Persistence::KeepAlive).now_or_never();
    assert_eq!(result.and_then(Result::ok), Some(Persistence::Close));
    assert_eq!(peer.output(), "HTTP/1.1 200 OK\r\n\r\npong");
    assert!(request.body.next().now_or_never().flatten().is_some());
}

#[test]
fn the_content_of_an_upgrade_request_flows_before_it_is_accepted() {
    let input = "POST / HTTP/1.1\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhiearly";
    let (connection, _peer) = connect_with(ServerSettings::default(), input);
    let mut request = request(&connection);
    let data = request.body.next().now_or_never().flatten().and_then(Result::ok).and_then(|f| f.into_data().ok());
    assert_eq!(data.as_deref(), Some(&b"hi"[..]));
    assert!(request.body.next().now_or_never().is_none());
}

#[test]
fn interim_responses_come_before_the_final_one() {
    let (connection, peer) = connect_with(ServerSettings::default(), GET);
    request(&connection);
    let interim = ResponseHead::new(StatusCode::CONTINUE);
    assert!(connection.send_informational(&interim).now_or_never().is_some_and(|r| r.is_ok()));
    assert_eq!(peer.output(), "HTTP/1.1 100 Continue\r\n\r\n");
}

#[test]
fn a_refused_request_is_answered_and_closed() {
    let (connection, peer) = connect_with(ServerSettings::default(), "GARBAGE\r\n\r\n");
    assert!(matches!(connection.next_request().now_or_never(), Some(Incoming::Bad(_))));
    let bad = response(400, &[("content-length", "11")], Body::full("Bad Request"));
    let result = respond(&connection, bad, Persistence::KeepAlive).now_or_never();
    assert_eq!(result.and_then(Result::ok), Some(Persistence::Close));
    assert_eq!(peer.output(), "HTTP/1.1 400 Bad Request\r\ncontent-length: 11\r\nconnection: close\r\n\r\nBad Request");
    assert_eq!(connection.readable().now_or_never(), Some(Readiness::Closed));
    assert!(connection.shutdown().now_or_never().is_some_and(|r| r.is_ok()) && peer.is_shut_down());
}

#[test]
fn a_body_kept_beyond_its_stream_reads_nothing_of_the_next() {
    let posts = "POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi".repeat(2);
    let (connection, _peer) = connect_with(ServerSettings::default(), &posts);
    let mut first = request(&connection);
    assert!(first.body.next().now_or_never().flatten().is_some());
    assert!(respond(&connection, response(200, &[], Body::empty()), Persistence::KeepAlive).now_or_never().is_some());
    let _second = request(&connection);
    assert!(first.body.next().now_or_never().flatten().is_some_and(|f| f.is_err()));
}

#[test]
fn a_reset_client_fails_the_write() {
    let (connection, peer) = connect_with(ServerSettings::default(), GET);
    request(&connection);
    peer.break_off();
    let result = respond(&connection, response(200, &[], Body::empty()), Persistence::KeepAlive).now_or_never();
    assert!(matches!(result, Some(Err(RespondError::Disconnected(_)))));
    drop(connection);
    assert!(peer.is_dropped());
}
