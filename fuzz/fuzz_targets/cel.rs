//! Expressions (CEL) of any text: each is refused, or evaluated on a stream, twice with the same result.
#![no_main]

use std::rc::Rc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use nuncio_filter_api::{RequestHead, ResponseHead, Scheme};
use nuncio_telemetry::cel::{Activation, Expression};
use nuncio_telemetry::{Address, ConnectionInfo, Protocol, StreamInfo};
use tokio::time::Instant;

fuzz_target!(|data: (bool, &[u8], &str)| {
    let (has_response, value, text) = data;
    let Ok(expression) = Expression::parse(text) else { return };
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
    let mut activation = Activation::of_request(&info, request.view());
    if has_response {
        activation.response = Some(response.view());
        activation.trailers = Some(&trailers);
    }
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let has_value = expression.write(&activation, &mut first);
    assert_eq!(has_value, expression.write(&activation, &mut second));
    assert_eq!(first, second);
    if expression.matches(&activation) {
        assert_eq!(first, b"true");
    }
    expression.json(&activation);
});
