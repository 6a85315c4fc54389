//! Requests on the wire, and the life of a client connection.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Method};
use nuncio_filter_api::{Body, Request, ResponseHead};

use super::pipe::{Peer, pipe};
use super::responses::{request, send};
use super::server::{broken, script};
use crate::h1::{
    ClientConnection, ClientSettings, ExchangeFailure, ExchangeOptions, HeaderFormat, OwnHeaderCase, RequestSent,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn connect(settings: ClientSettings) -> (ClientConnection, Peer) {
    let (io, peer) = pipe();
    (ClientConnection::new(io, Arc::new(settings)), peer)
}

/// The bytes that `request` becomes, which are one write.
fn sent_with(settings: ClientSettings, request: Request) -> String {
    let (connection, peer) = connect(settings);
    assert!(send(connection, request, ExchangeOptions::default()).now_or_never().is_none());
    assert_eq!(peer.writes(), 1);
    peer.output()
}

fn sent(request: Request) -> String {
    sent_with(ClientSettings::default(), request)
}

fn with_body(method: Method, body: Body) -> Request {
    Request { body, ..request(method) }
}

#[test]
fn a_request_is_one_write_with_host_first() {
    let mut get = request(Method::GET);
    get.head.headers.insert("x", HeaderValue::from_static("y"));
    assert_eq!(sent(get), "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n");
    assert_eq!(sent(request(Method::DELETE)), "DELETE / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(sent(request(Method::POST)), "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(sent(request(Method::OPTIONS)), "OPTIONS / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(sent(request(Method::CONNECT)), "CONNECT a HTTP/1.1\r\nhost: a\r\n\r\n");
}

#[test]
fn bodies_are_framed_by_their_length_or_by_chunks() {
    let body = || script(&["hello"], Some(Ok(())));
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(sent(with_body(Method::POST, body())), chunked);
    assert_eq!(sent(with_body(Method::POST, Body::full("hello"))), chunked);
    let mut with_length = with_body(Method::POST, body());
    with_length.head.headers.insert("content-length", HeaderValue::from_static("5"));
    assert_eq!(sent(with_length), "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
}

#[test]
fn an_upgrade_is_a_get_with_connection_and_upgrade() {
    let expected = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut extended = request(Method::CONNECT);
    extended.head.path = "/".into();
    extended.head.protocol = Some("websocket".into());
    assert_eq!(sent(extended), expected);
    let mut received = request(Method::GET);
    received.head.protocol = Some("websocket".into());
    received.head.headers.insert("connection", HeaderValue::from_static("Upgrade"));
    received.head.headers.insert("upgrade", HeaderValue::from_static("websocket"));
    assert_eq!(sent(received), expected.replace("connection: upgrade", "connection: Upgrade"));
}

#[test]
fn an_upgrade_that_was_not_accepted_is_not_passed_on() {
    let mut refused = request(Method::GET);
    refused.head.headers.insert("connection", HeaderValue::from_static("Upgrade"));
    refused.head.headers.insert("upgrade", HeaderValue::from_static("websocket"));
    assert_eq!(sent(refused), "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
}

#[test]
fn the_target_is_absolute_where_configured() {
    let settings = ClientSettings { send_fully_qualified_url: true, ..Default::default() };
    assert_eq!(sent_with(settings, request(Method::GET)), "GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n");
}

#[test]
fn names_are_written_in_the_case_that_is_configured() {
    let of = |header_format| ClientSettings { header_format, ..Default::default() };
    assert_eq!(
        sent_with(of(HeaderFormat::ProperCase), request(Method::POST)),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    );
    let preserve = HeaderFormat::PreserveCase { forward_reason_phrase: true, own: OwnHeaderCase::Lower };
    let mut received = request(Method::POST);
    received.head.headers.insert("x-foo", HeaderValue::from_static("1"));
    received.head.original_case = Some(Box::new(vec!["HOST".into(), "X-fOO".into()]));
    assert_eq!(
        sent_with(of(preserve), received),
        "POST / HTTP/1.1\r\nHOST: a\r\nX-fOO: 1\r\ncontent-length: 0\r\n\r\n"
    );
    let (connection, peer) = connect(of(preserve));
    peer.send("HTTP/1.1 200 Fine\r\nX-YyY: 1\r\ncontent-length: 0\r\n\r\n");
    let response = send(connection, request(Method::GET), ExchangeOptions::default()).now_or_never();
    let original = response.and_then(Result::ok).and_then(|r| r.head.original).expect("kept");
    assert_eq!(&*original.reason, "Fine");
    assert!(original.names.iter().map(|n| n.as_str()).eq(["X-YyY", "content-length"]));
}

#[test]
fn a_request_body_that_does_not_match_its_length_is_not_completed() {
    for (length, end) in [("4", None), ("6", Some(Ok(())))] {
        let (connection, peer) = connect(ClientSettings::default());
        let mut wrong = with_body(Method::POST, script(&["hello"], end));
        wrong.head.headers.insert("content-length", HeaderValue::from_static(length));
        let error = send(connection, wrong, ExchangeOptions::default()).now_or_never().and_then(Result::err);
        assert!(matches!(error.expect("an error").failure, ExchangeFailure::RequestBody(_)));
        assert!(peer.is_dropped());
    }
}

#[test]
fn a_request_body_that_breaks_off_ends_the_exchange() {
    let (connection, peer) = connect(ClientSettings::default());
    let post = with_body(Method::POST, script(&["hello"], Some(Err(broken()))));
    let error = send(connection, post, ExchangeOptions::default()).now_or_never().and_then(Result::err);
    let error = error.expect("an error");
    assert!(matches!(error.failure, ExchangeFailure::RequestBody(_)) && error.body.is_none());
    assert!(!peer.output().ends_with("0\r\n\r\n") && peer.is_dropped());
}

#[test]
fn a_connection_is_handed_back_before_the_body_is_given_out() {
    let (connection, peer) = connect(ClientSettings::default());
    let mut connection = Some(connection);
    for _ in 0..3 {
        peer.send(OK);
        let idle = Rc::new(RefCell::new(None));
        let slot = idle.clone();
        let options =
            ExchangeOptions { on_idle: Some(Rc::new(move |c| *slot.borrow_mut() = Some(c))), ..Default::default() };
        let exchange = send(connection.take().expect("handed back"), request(Method::GET), options);
        let mut response = exchange.now_or_never().and_then(Result::ok).expect("a response");
        connection = idle.borrow_mut().take();
        assert_eq!(response.body.take_full(), Some(Bytes::from("ok")));
    }
    let mut connection = connection.expect("handed back");
    assert!(connection.holds_no_memory());
    let mut closed = std::future::poll_fn(|cx| connection.poll_idle_closed(cx));
    assert!((&mut closed).now_or_never().is_none());
    peer.send("x");
    assert!((&mut closed).now_or_never().is_some());
}

#[test]
fn a_response_before_the_end_of_the_request_is_given_out_and_the_connection_closed() {
    let (connection, peer) = connect(ClientSettings::default());
    peer.send("HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno");
    let options = ExchangeOptions { on_idle: Some(Rc::new(|_| panic!("handed back"))), ..Default::default() };
    let post = with_body(Method::POST, script(&["hello"], None));
    let mut response = send(connection, post, options).now_or_never().and_then(Result::ok).expect("a response");
    assert_eq!(response.body.take_full(), Some(Bytes::from("no")));
    assert!(peer.is_dropped());
}

#[test]
fn an_upstream_that_takes_no_more_is_still_heard_out() {
    let (connection, peer) = connect(ClientSettings::default());
    peer.send("HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno");
    peer.break_off_writes();
    let post = with_body(Method::POST, script(&["hello"], Some(Ok(()))));
    let response = send(connection, post, ExchangeOptions::default()).now_or_never().and_then(Result::ok);
    assert_eq!(response.expect("a response").head.status.as_u16(), 413);
}

#[test]
fn both_directions_flow_at_once() {
    let (connection, peer) = connect(ClientSettings::default());
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n");
    peer.allow_writes(60);
    let post = with_body(Method::POST, script(&["0123456789", "0123456789"], Some(Ok(()))));
    let response = send(connection, post, ExchangeOptions::default()).now_or_never().and_then(Result::ok);
    let mut body = response.expect("a response").body;
    assert!(body.next().now_or_never().flatten().is_some());
    peer.allow_writes(1000);
    assert!(body.next().now_or_never().is_none());
    assert!(peer.output().ends_with("a\r\n0123456789\r\n0\r\n\r\n"), "pulling the response sends the request");
    peer.send("0\r\n\r\n");
    assert!(matches!(body.next().now_or_never(), Some(None)));
}

#[test]
fn the_end_of_a_request_closes_its_half_of_a_tunnel() {
    let (connection, peer) = connect(ClientSettings::default());
    peer.send("HTTP/1.1 200 OK\r\n\r\nhello");
    let tunnel = with_body(Method::CONNECT, script(&["early"], Some(Ok(()))));
    let response = send(connection, tunnel, ExchangeOptions::default()).now_or_never().and_then(Result::ok);
    let mut body = response.expect("a response").body;
    assert!(peer.output().ends_with("\r\n\r\nearly") && peer.is_shut_down());
    assert!(body.next().now_or_never().flatten().is_some());
    assert!(body.next().now_or_never().is_none(), "the upstream may go on");
    peer.close();
    // Envoy: a host that closes its half has broken the tunnel off.
    let error = body.next().now_or_never().flatten().and_then(Result::err).expect("an error");
    assert_eq!(error.details, "upstream_reset_after_response_started{connection_termination}");
}

#[test]
fn a_stale_connection_gives_the_request_back() {
    let (connection, peer) = connect(ClientSettings::default());
    peer.close();
    let put = with_body(Method::PUT, Body::full("data"));
    let error = send(connection, put, ExchangeOptions::default()).now_or_never().and_then(Result::err);
    let error = error.expect("an error");
    assert!(matches!(error.failure, ExchangeFailure::Closed));
    assert_eq!((error.response_started, error.sent), (false, RequestSent::Whole));
    let mut body = error.body.expect("nothing of it is lost");
    assert_eq!(body.take_full(), Some(Bytes::from("data")));
    let request = with_body(Method::PUT, body);
    let (connection, peer) = connect(ClientSettings::default());
    peer.break_off();
    let error = send(connection, request, ExchangeOptions::default()).now_or_never().and_then(Result::err);
    let error = error.expect("an error");
    assert!(matches!(error.failure, ExchangeFailure::Io(_)) && error.sent == RequestSent::Nothing);
    assert!(error.body.is_some());
}

#[test]
fn a_body_that_was_pulled_is_not_given_back() {
    let (connection, peer) = connect(ClientSettings::default());
    peer.close();
    let post = with_body(Method::POST, script(&["data"], Some(Ok(()))));
    let error = send(connection, post, ExchangeOptions::default()).now_or_never().and_then(Result::err);
    assert!(error.expect("an error").body.is_none());
}

#[test]
fn interim_responses_are_reported() {
    let (connection, peer) = connect(ClientSettings::default());
    peer.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: a\r\n\r\n");
    peer.send(OK);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let list = seen.clone();
    let informational: Rc<dyn Fn(ResponseHead)> = Rc::new(move |head| list.borrow_mut().push(head.status.as_u16()));
    let options = ExchangeOptions { informational: Some(informational), ..Default::default() };
    assert!(send(connection, request(Method::GET), options).now_or_never().is_some_and(|r| r.is_ok()));
    assert_eq!(*seen.borrow(), [100, 103]);
}

#[test]
fn dropping_a_response_body_closes_its_connection() {
    let (connection, peer) = connect(ClientSettings::default());
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok");
    let response = send(connection, request(Method::GET), ExchangeOptions::default()).now_or_never();
    assert!(response.as_ref().is_some_and(|r| r.is_ok()) && !peer.is_dropped());
    drop(response);
    assert!(peer.is_dropped());
}
