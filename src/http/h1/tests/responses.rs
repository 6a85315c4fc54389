//! Upstream faults of the hostile list and what an exchange makes of them: at once, byte by byte, in random parts.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use http::Method;
use nuncio_filter_api::{Body, Request, RequestHead, Response, Scheme};

use super::pipe::pipe;
use crate::h1::{ClientConnection, ClientSettings, ExchangeError, ExchangeFailure, ExchangeOptions};

#[derive(Clone, Copy)]
enum After {
    Open,
    Close,
    Reset,
}

pub(super) fn request(method: Method) -> Request {
    let path = if method == Method::CONNECT { "" } else { "/" };
    Request { head: RequestHead::new(method, Scheme::Http, "a".into(), path.into()), body: Body::empty() }
}

/// [`ClientConnection::exchange`] of a whole request.
pub(super) fn send(
    connection: ClientConnection,
    request: Request,
    options: ExchangeOptions,
) -> impl Future<Output = Result<Response, ExchangeError>> {
    connection.exchange(&request.head, request.body, options)
}

/// The response in one line: `head | body`, how the body ended if not cleanly, and `reused` if the connection was
/// handed back.
fn exchange(parts: &[&[u8]], after: After, request: Request, settings: &Arc<ClientSettings>) -> String {
    let (io, peer) = pipe();
    parts.iter().filter(|part| !part.is_empty()).for_each(|part| peer.send(part));
    match after {
        After::Open => {}
        After::Close => peer.close(),
        After::Reset => peer.break_off_reads(),
    }
    let reused = Rc::new(Cell::new(false));
    let flag = reused.clone();
    let options =
        ExchangeOptions { on_idle: Some(Rc::new(move |_connection| flag.set(true))), ..ExchangeOptions::default() };
    let connection = ClientConnection::new(io, settings.clone());
    let mut line = match send(connection, request, options).now_or_never() {
        None => "waits".to_owned(),
        Some(Err(error)) => match error.failure {
            ExchangeFailure::Reset
            | ExchangeFailure::Refused
            | ExchangeFailure::TooManyHeaders
            | ExchangeFailure::HeadersTooLarge
            | ExchangeFailure::GoneAway => {
                unreachable!("HTTP/1 has no streams")
            }
            ExchangeFailure::Closed => "closed".to_owned(),
            ExchangeFailure::Io(_) => "io".to_owned(),
            ExchangeFailure::Protocol(_) => "protocol".to_owned(),
            ExchangeFailure::RequestBody(error) => error.details.into_owned(),
        },
        Some(Ok(response)) => {
            let mut line = response.head.status.as_u16().to_string();
            for (name, value) in &response.head.headers {
                line += &format!(" {name}={}", value.as_bytes().escape_ascii());
            }
            line + &read(response.body)
        }
    };
    if reused.get() {
        line += " | reused";
    }
    line
}

fn read(mut body: Body) -> String {
    let mut data = Vec::new();
    let mut end = String::new();
    loop {
        match body.next().now_or_never() {
            None => end += " | waits",
            Some(None) => {}
            Some(Some(Err(error))) => end += &format!(" | {}", error.details),
            Some(Some(Ok(frame))) => {
                match frame.into_data() {
                    Ok(bytes) => data.extend_from_slice(&bytes),
                    Err(frame) => {
                        for (name, value) in &frame.into_trailers().expect("data or trailers") {
                            end += &format!(" trailer:{name}={}", value.as_bytes().escape_ascii());
                        }
                    }
                }
                continue;
            }
        }
        let shown = data[..data.len().min(60)].escape_ascii();
        return if data.is_empty() { end } else { format!(" | {shown}{end}") };
    }
}

fn check_all(
    settings: ClientSettings,
    request: impl Fn() -> Request,
    input: impl AsRef<[u8]>,
    after: After,
    expected: &str,
) {
    let input = input.as_ref();
    let shown = input[..input.len().min(200)].escape_ascii().to_string();
    let settings = Arc::new(settings);
    assert_eq!(exchange(&[input], after, request(), &settings), expected, "at once: {shown}");
    let bytes: Vec<&[u8]> = input.chunks(if input.len() < 4096 { 1 } else { 97 }).collect();
    assert_eq!(exchange(&bytes, after, request(), &settings), expected, "byte by byte: {shown}");
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..8 {
        let mut parts = Vec::new();
        let mut rest = input;
        while !rest.is_empty() {
            let (part, tail) = rest.split_at(random.usize(1..=rest.len().min(30 + input.len() / 5)));
            parts.push(part);
            rest = tail;
        }
        assert_eq!(exchange(&parts, after, request(), &settings), expected, "in parts: {shown}");
    }
}

fn check(input: impl AsRef<[u8]>, expected: &str) {
    check_all(ClientSettings::default(), || request(Method::GET), input, After::Open, expected);
}

fn check_then(input: impl AsRef<[u8]>, after: After, expected: &str) {
    check_all(ClientSettings::default(), || request(Method::GET), input, after, expected);
}

fn check_for(method: Method, input: impl AsRef<[u8]>, expected: &str) {
    check_all(ClientSettings::default(), || request(method.clone()), input, After::Open, expected);
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const TWO: &str = "200 content-length=2 | ok | reused";

#[test]
fn a_connection_that_ends_before_the_head_is_told_apart_from_garbage() {
    check_then("", After::Close, "closed");
    check_then("", After::Reset, "io");
    check_then("HT", After::Close, "protocol");
    check_then("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n", After::Close, "protocol");
    check_then("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n", After::Reset, "protocol");
}

#[test]
fn what_is_no_http_1_is_refused_at_its_first_bytes() {
    for input in ["SSH-2.0-x\r\n", "hello world\r\n\r\n", "\r\nHTTP/1.1 200 OK\r\n\r\n", "http/1.1 200 OK\r\n\r\n"] {
        check(input, "protocol");
    }
    check(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "protocol");
    check("HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "protocol");
}

#[test]
fn status_lines_have_three_digits_and_single_spaces() {
    for line in
        ["99 OK", "000 OK", "1000 OK", "2x0 OK", "20 OK", " 200 OK", "+200 OK", "200\tOK", "200 O\x01K", "200 O\rK"]
    {
        check(format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n"), "protocol");
    }
    check("HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", TWO);
    check("HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok", TWO);
    check("HTTP/1.2 200 OK\r\ncontent-length: 2\r\n\r\nok", TWO);
    check("HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n", "999 content-length=0 | reused");
}

#[test]
fn ambiguous_framing_is_refused() {
    for fields in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5\r\ncontent-length: 5",
        "content-length: -1",
        "content-length: 18446744073709551616",
        "content-length: 5, 5",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: gzip",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    ] {
        check(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "protocol");
    }
}

#[test]
fn malformed_fields_are_refused() {
    check(b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n", "protocol");
    check("HTTP/1.1 200 OK\r\nx : a\r\n\r\n", "protocol");
    check("HTTP/1.1 200 OK\r\nx\r\n\r\n", "protocol");
    check("HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n", "protocol");
    check("HTTP/1.1 200 OK\ncontent-length: 2\n\nok", "protocol");
    check("HTTP/1.1 200 OK\r\ncontent-length: 2\n\r\nok", "protocol");
    check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: a\r\n b\r\n\r\nok", "200 content-length=2 x=a b | ok | reused");
}

#[test]
fn heads_are_limited() {
    check(format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(1 << 17)), "protocol");
    check(format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: a\r\n".repeat(5000)), "protocol");
}

#[test]
fn statuses_without_body_have_none() {
    check("HTTP/1.1 204 No\r\n\r\n", "204 | reused");
    check("HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n", "204 | reused");
    check("HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\nhello", "protocol");
    check("HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n", "protocol");
    check("HTTP/1.1 304 No\r\ncontent-length: 5\r\n\r\n", "304 content-length=5 | reused");
    check("HTTP/1.1 304 No\r\ntransfer-encoding: chunked\r\n\r\n", "304 | reused");
    check_for(Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "200 content-length=5 | reused");
    check_for(Method::HEAD, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "200 | reused");
}

#[test]
fn bodies_that_break_off_never_end_cleanly() {
    let gone = "upstream_reset_after_response_started{protocol_error}";
    check_then(
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",
        After::Close,
        &format!("200 content-length=9 | hello | {gone}"),
    );
    check_then(format!("{CHUNKED}5\r\nhel"), After::Close, &format!("200 | hel | {gone}"));
    check_then(format!("{CHUNKED}5\r\nhello\r\n0\r\n"), After::Close, &format!("200 | hello | {gone}"));
    check(format!("{CHUNKED}Z\r\nhello\r\n"), &format!("200 | {gone}"));
    check_then(format!("{CHUNKED}5\r\nhel"), After::Reset, &format!("200 | hel | {gone}"));
    check_then("HTTP/1.1 200 OK\r\n\r\nhello", After::Reset, &format!("200 | hello | {gone}"));
}

#[test]
fn every_framing_is_read_to_its_end() {
    check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", TWO);
    check("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "200 content-length=0 | reused");
    check(format!("{CHUNKED}5\r\nhello\r\n0\r\n\r\n"), "200 | hello | reused");
    check(format!("{CHUNKED}0\r\n\r\n"), "200 | reused");
    check_then("HTTP/1.1 200 OK\r\n\r\nhello", After::Close, "200 | hello");
    check_then("HTTP/1.0 200 OK\r\n\r\nhello", After::Close, "200 | hello");
    check("HTTP/1.1 200 OK\r\n\r\nhello", "200 | hello | waits");
}

#[test]
fn a_connection_is_reused_only_if_the_upstream_keeps_it() {
    let with = |fields: &str| format!("{fields}\r\ncontent-length: 2\r\n\r\nok");
    check(with("HTTP/1.1 200 OK\r\nconnection: close"), "200 content-length=2 | ok");
    check(with("HTTP/1.1 200 OK\r\nproxy-connection: close"), "200 content-length=2 | ok");
    check(with("HTTP/1.0 200 OK"), "200 content-length=2 | ok");
    check(with("HTTP/1.0 200 OK\r\nconnection: keep-alive"), TWO);
    // Envoy keeps what is nominated in a response.
    let kept = "200 x-a=1 content-length=2 | ok | reused";
    check(with("HTTP/1.1 200 OK\r\nconnection: x-a\r\nx-a: 1\r\nkeep-alive: 5\r\nupgrade: h2c"), kept);
}

#[test]
fn bytes_behind_a_response_poison_nobody() {
    let (io, peer) = pipe();
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n");
    let options = ExchangeOptions { on_idle: Some(Rc::new(|_| panic!("handed back"))), ..Default::default() };
    let response = send(ClientConnection::new(io, Arc::default()), request(Method::GET), options).now_or_never();
    assert!(response.is_some_and(|r| r.is_ok()) && peer.is_dropped());
}

#[test]
fn interim_responses_are_swallowed() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000);
    check(format!("{interim}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"), TWO);
    check("HTTP/1.1 103 Early\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", TWO);
}

#[test]
fn a_101_that_nobody_asked_for_is_refused() {
    check("HTTP/1.1 101 Sw\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nraw", "protocol");
}

#[test]
fn a_101_that_was_asked_for_opens_a_tunnel() {
    let asked = || {
        let mut request = request(Method::GET);
        request.head.protocol = Some("websocket".into());
        request
    };
    let switching = "HTTP/1.1 101 Sw\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nraw";
    let expected = "101 connection=upgrade upgrade=websocket | raw \
                    | upstream_reset_after_response_started{connection_termination}";
    check_all(ClientSettings::default(), asked, switching, After::Close, expected);
    check_all(
        ClientSettings::default(),
        asked,
        "HTTP/1.1 403 F\r\ncontent-length: 2\r\n\r\nno",
        After::Open,
        "403 content-length=2 | no",
    );
    for untold in ["", "connection: upgrade\r\n", "upgrade: websocket\r\n"] {
        let response = format!("HTTP/1.1 101 Sw\r\n{untold}\r\nraw");
        check_all(ClientSettings::default(), asked, &response, After::Open, "protocol");
    }
}

#[test]
fn a_connect_opens_a_tunnel_with_its_2xx() {
    let connect = || request(Method::CONNECT);
    let opened = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nraw";
    let expected = "200 | raw | upstream_reset_after_response_started{connection_termination}";
    check_all(ClientSettings::default(), connect, opened, After::Close, expected);
}

#[test]
fn trailers_are_passed_on_only_where_enabled() {
    let input = format!("{CHUNKED}5\r\nhello\r\n0\r\nt: v\r\ncontent-length: 1\r\n\r\n");
    check(&input, "200 | hello | reused");
    let settings = ClientSettings { enable_trailers: true, ..Default::default() };
    check_all(settings, || request(Method::GET), &input, After::Open, "200 | hello trailer:t=v | reused");
    let many = format!("{CHUNKED}5\r\nhello\r\n0\r\nt: {}", "v".repeat(1 << 17));
    check(&many, "200 | hello | upstream_reset_after_response_started{protocol_error}");
}

#[test]
fn fields_of_requests_alone_pass_in_responses() {
    check(
        "HTTP/1.1 200 OK\r\nHost: h\r\nTE: x\r\nExpect: y\r\ncontent-length: 0\r\n\r\n",
        "200 host=h te=x expect=y content-length=0 | reused",
    );
}
