//! Access-log formats of any text: each is refused, or written for requests of several kinds without a panic; as JSON
//! what is written is JSON.
#![no_main]

use std::rc::Rc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use nuncio_filter_api::{RequestHead, ResponseHead, Scheme};
use nuncio_telemetry::format::{Format, FormatCx, JsonFormat, JsonFormatter, Missing};
use nuncio_telemetry::{Address, ConnectionInfo, Protocol, StreamInfo};
use tokio::time::Instant;

fuzz_target!(|data: (bool, &[u8], &str)| {
    let (has_response, value, text) = data;
    let address = Address::Ip(([127, 0, 0, 1], 1).into());
    let connection = ConnectionInfo::new(1, address.clone(), address, Instant::now());
    let info = StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::UNIX_EPOCH);
    info.protocol.set(Some(Protocol::Http11));
    let mut request = RequestHead::new(Method::GET, Scheme::Http, "a.test".into(), "/a/b?q=v".into());
    let mut response = ResponseHead::new(StatusCode::OK);
    let mut trailers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(value) {
        request.headers.insert("x", value.clone());
        response.headers.insert("x", value.clone());
        trailers.insert("grpc-status", value);
    }
    let mut cx = FormatCx::new(&info, Instant::now(), SystemTime::UNIX_EPOCH);
    cx.request = Some(request.view());
    if has_response {
        cx.response = Some(response.view());
        cx.trailers = Some(&trailers);
    }
    let mut out = Vec::new();
    if let Ok(format) = Format::parse(text) {
        format.write(&cx, Missing::Dash, &mut out);
    }
    let _ = Format::parse_header_value(text);
    if let Ok(json) = JsonFormatter::compile(&[("key".to_owned(), JsonFormat::String(text.to_owned()))], Missing::Dash)
    {
        out.clear();
        json.write(&cx, &mut out);
        let line: Result<serde_json::Value, _> = serde_json::from_slice(&out);
        assert!(line.is_ok() || std::str::from_utf8(&out).is_err(), "{}", out.escape_ascii());
    }
});
