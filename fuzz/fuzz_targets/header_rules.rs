//! Rules for header fields, of any name, value and action: refused, or applied to heads, whose fields remain such that
//! they can be sent.
#![no_main]

use std::rc::Rc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use nuncio_config::header_rules::{HeaderRules, Side};
use nuncio_filter_api::{LowerCx, LowerEnv, RequestHead, ResponseHead, Scheme};
use nuncio_proto::envoy::config::core::v3::{HeaderValue as Pair, HeaderValueOption};
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::{Address, ConnectionInfo, StreamInfo};
use tokio::time::Instant;

thread_local! {
    static ENV: LowerEnv = nuncio_filter_api::testing::env();
}

fuzz_target!(|data: (u8, &[u8], Vec<(u8, &str, &str)>, Vec<&str>)| {
    let (side, field, rules, removed) = data;
    let side = if side & 1 == 0 { Side::Request } else { Side::Response };
    let add = rules.into_iter().map(|(how, key, value)| HeaderValueOption {
        header: Some(Pair { key: key.to_owned(), value: value.to_owned(), ..Default::default() }),
        append_action: i32::from(how & 7),
        keep_empty_value: how & 8 != 0,
        ..Default::default()
    });
    let remove = removed.into_iter().map(str::to_owned).collect();
    ENV.with(|env| {
        let mut cx = LowerCx::new(env);
        let rules = HeaderRules::lower(side, add.collect(), remove, &mut cx);
        assert_eq!(rules.is_err(), cx.is_refused(), "a refusal is recorded exactly where lowering fails");
        if let Ok(rules) = rules {
            apply(&rules, side, field);
        }
    });
});

fn apply(rules: &HeaderRules, side: Side, field: &[u8]) {
    let address = Address::Ip(([127, 0, 0, 1], 1).into());
    let connection = ConnectionInfo::new(1, address.clone(), address, Instant::now());
    let info = StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::UNIX_EPOCH);
    let cx = FormatCx::new(&info, Instant::now(), SystemTime::UNIX_EPOCH);
    let mut request = RequestHead::new(Method::GET, Scheme::Http, "a.test".into(), "/a/b?q=v".into());
    let mut response = ResponseHead::new(StatusCode::OK);
    if let Ok(value) = HeaderValue::from_bytes(field) {
        request.headers.append(HeaderName::from_static("x"), value.clone());
        response.headers.append(HeaderName::from_static("x"), value);
    }
    match side {
        Side::Request => rules.apply_request(&mut request, &cx),
        Side::Response => rules.apply_response(&mut response, &request, &cx),
    }
    for value in request.headers.values().chain(response.headers.values()) {
        assert!(HeaderValue::from_bytes(value.as_bytes()).is_ok(), "{value:?}");
    }
}
