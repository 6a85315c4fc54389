//! A route configuration of any bytes, lowered or refused; if lowered, requests find their routes and are rewritten.
#![no_main]

use std::rc::Rc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use nuncio_config::load::{Format, Loader, Source, UnknownFields};
use nuncio_config::route::{EnvoyHeaders, RouteTable};
use nuncio_filter_api::{LowerCx, LowerEnv, RequestHead, ResponseHead, Scheme};
use nuncio_proto::envoy::config::route::v3::RouteConfiguration;
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::{Address, ConnectionInfo, StreamInfo};
use prost::Message;
use tokio::time::Instant;

thread_local! {
    static ENV: LowerEnv = nuncio_filter_api::testing::env();
}

// Two bytes for the request, then the configuration: YAML, or wire format that no rule was held against.
fuzz_target!(|data: &[u8]| {
    let [kind, seed, rest @ ..] = data else { return };
    let message = match kind % 2 {
        0 => RouteConfiguration::decode(rest).ok(),
        _ => {
            let source = Source::new("x", Format::Yaml, rest.to_vec());
            Loader::new(UnknownFields::Reject).load::<RouteConfiguration>(vec![source]).ok().map(|l| l.message)
        }
    };
    let Some(message) = message else { return };
    ENV.with(|env| {
        let mut cx = LowerCx::new(env);
        let lowered = RouteTable::lower(message, &mut cx);
        assert_eq!(lowered.is_err(), cx.is_refused(), "a refusal is recorded exactly where lowering fails");
        if let Ok(table) = lowered {
            serve(&table, *seed);
        }
    });
});

fn serve(table: &RouteTable, seed: u8) {
    for authority in ["a.test", "x.test:80", "b.x", "[::1]:80", ""] {
        for path in ["/", "/a/b?q=v&r", "/r12", "/S/x;p#f", ""] {
            let mut head = RequestHead::new(Method::GET, Scheme::Http, authority.into(), path.into());
            if seed & 1 != 0 {
                head.method = Method::CONNECT;
            }
            for name in ["x", "x-c"] {
                let value = HeaderValue::from_maybe_shared(vec![b'0' + seed % 10]).expect("a digit is a value");
                head.headers.append(HeaderName::from_static(name), value);
            }
            request(table, head, u64::from(seed) << 7);
        }
    }
}

fn request(table: &RouteTable, mut head: RequestHead, random: u64) {
    let address = Address::Ip(([127, 0, 0, 1], 1).into());
    let connection = ConnectionInfo::new(1, address.clone(), address, Instant::now());
    let info = StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::UNIX_EPOCH);
    let Some(index) = table.resolve(&head, &info, random) else { return };
    let entry = table.entry(index);
    let cx = FormatCx::new(&info, Instant::now(), SystemTime::UNIX_EPOCH);
    entry.location(&head, &cx);
    entry.rewrite_request(&mut head, &cx, EnvoyHeaders::Add);
    entry.rewrite_response(&mut ResponseHead::new(StatusCode::OK), &head, &cx);
    table.resolve(&head, &info, random);
}
