//! One HTTP/2 connection of a scripted upstream.

use super::{Answer, Shared, Then, What};
use crate::support::h2_client::pairs;
use crate::support::http1::{Framing, Kind, Message, parse};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use std::sync::Arc;
use tokio::net::TcpStream;

pub(super) async fn connection(stream: TcpStream, number: usize, shared: Arc<Shared>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return shared.record(number, What::Garbage("(no HTTP/2 preface)".to_owned()));
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(stream_of(request, respond, number, shared.clone()));
    }
}

async fn stream_of(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, number: usize, shared: Arc<Shared>) {
    let (head, mut body) = request.into_parts();
    let mut message = as_message(&head);
    while let Some(chunk) = body.data().await {
        let Ok(chunk) = chunk else {
            message.truncated = true;
            break;
        };
        let _ = body.flow_control().release_capacity(chunk.len());
        message.body.extend_from_slice(&chunk);
    }
    if let Ok(Some(trailers)) = body.trailers().await {
        message.trailers = pairs(&trailers);
    }
    let answer = shared.answer(message.target());
    let to_head = message.method() == "HEAD";
    shared.record(number, What::Request(message));
    tokio::time::sleep(answer.delay).await;
    send(answer, to_head, &mut respond).await;
}

fn as_message(head: &http::request::Parts) -> Message {
    let target = head.uri.path_and_query().map_or_else(|| "(none)".to_owned(), ToString::to_string);
    let mut headers = Vec::new();
    headers.extend(head.uri.scheme_str().map(|scheme| (":scheme".to_owned(), scheme.to_owned())));
    headers.extend(head.uri.authority().map(|authority| (":authority".to_owned(), authority.to_string())));
    headers.extend(pairs(&head.headers));
    Message {
        start: format!("{} {target} HTTP/2", head.method),
        headers,
        body: Vec::new(),
        trailers: Vec::new(),
        framing: Framing::None,
        truncated: false,
    }
}

async fn send(answer: Answer, to_head: bool, respond: &mut SendResponse<Bytes>) {
    let bytes = send_interim(&answer.bytes, respond).await;
    if let Some(mut message) = parse(bytes, Kind::Response).await {
        if to_head {
            message.body.clear();
        }
        let mut response = Response::builder().status(message.status());
        for (name, value) in &message.headers {
            // The framing of HTTP/1 has no meaning here.
            if !name.eq_ignore_ascii_case("transfer-encoding") && !name.eq_ignore_ascii_case("connection") {
                response = response.header(name, value);
            }
        }
        let response = response.body(()).expect("a script's response is well-formed");
        let bodiless = message.body.is_empty() && message.trailers.is_empty() && answer.then == Then::Keep;
        let Ok(mut stream) = respond.send_response(response, bodiless) else { return };
        if !bodiless {
            let ends = message.trailers.is_empty() && answer.then == Then::Keep;
            let _ = stream.send_data(Bytes::from(message.body), ends);
            if !message.trailers.is_empty() {
                let _ = stream.send_trailers(trailers(&message.trailers));
            }
        }
    }
    match answer.then {
        Then::Keep => {}
        Then::Reset | Then::Close => respond.send_reset(Reason::INTERNAL_ERROR),
        Then::Hang | Then::Echo | Then::CloseAtNext => std::future::pending().await,
    }
}

/// Sends the interim responses at the beginning of a script; returns what is behind them.
async fn send_interim<'a>(mut bytes: &'a [u8], respond: &mut SendResponse<Bytes>) -> &'a [u8] {
    const END: &[u8] = b"\r\n\r\n";
    while bytes.starts_with(b"HTTP/1.1 1")
        && let Some(end) = bytes.windows(END.len()).position(|window| window == END)
        && let Some(message) = parse(&bytes[..end + END.len()], Kind::Response).await
    {
        let mut response = Response::builder().status(message.status());
        for (name, value) in &message.headers {
            response = response.header(name, value);
        }
        let response = response.body(()).expect("a script's response is well-formed");
        let _ = respond.send_informational(response);
        bytes = &bytes[end + END.len()..];
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    bytes
}

fn trailers(fields: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a script's trailer has a valid name");
        map.append(name, HeaderValue::from_str(value).expect("a script's trailer has a valid value"));
    }
    map
}
