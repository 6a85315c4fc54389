use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::format::{AccessLogType, Format, FormatCx, FormatErrorKind, Missing, RequestView, ResponseView};
use crate::format::{JsonFormat, JsonFormatter};
use crate::{Address, ConnectionInfo, Metadata, Protocol, StreamInfo};

/// One exchange as Envoy saw it when the expectations were printed.
pub(super) struct Exchange {
    pub(super) info: StreamInfo,
    authority: &'static str,
    pub(super) path: String,
    pub(super) request_headers: HeaderMap,
    pub(super) status: u16,
    pub(super) response_headers: HeaderMap,
    pub(super) trailers: Option<HeaderMap>,
    start: Instant,
}

fn address(text: &str) -> Address {
    Address::Ip(text.parse().unwrap())
}

fn metadata(namespace: &str, fields: Value) -> Metadata {
    let Value::Object(fields) = fields else { unreachable!("fixtures are objects") };
    [(Arc::from(namespace), fields)].into_iter().collect()
}

impl Exchange {
    fn new() -> Self {
        let start = Instant::now();
        let mut connection = ConnectionInfo::new(1, address("127.0.0.1:51456"), address("127.0.0.1:45733"), start);
        connection.listener = "lname".into();
        connection.filter_chain = "fcname".into();
        let start = start + Duration::from_micros(213);
        let wall = UNIX_EPOCH + Duration::new(1_795_223_892, 533_495_000);
        let info = StreamInfo::new(Rc::new(connection), start, wall);
        info.protocol.set(Some(Protocol::Http11));
        *info.request_id.borrow_mut() = Some("64a9b815-2ad0-46bd-b0c6-cf1c17ad8186".into());
        *info.virtual_host_metadata.borrow_mut() = Some(Arc::new(metadata("vh", json!({"k": "vv"}))));
        info.times.request_headers_end.set(Some(start + Duration::from_micros(50)));
        info.times.request_end.set(Some(start + Duration::from_micros(60)));
        info.times.complete.set(Some(start + Duration::from_micros(3400)));
        Self {
            info,
            authority: "h",
            path: "/direct".to_owned(),
            request_headers: HeaderMap::new(),
            status: 418,
            response_headers: HeaderMap::new(),
            trailers: None,
            start,
        }
    }

    /// `GET /direct`, answered by a direct response.
    pub(super) fn direct() -> Self {
        let x = Self::new();
        x.info.response_code.set(418);
        x.info.bytes_sent.set(7);
        x.info.set_details("direct_response");
        x
    }

    /// `GET /a/b?x=1&y=%20z`, rewritten to `/rw/a/b?...` and answered by an upstream.
    pub(super) fn proxied() -> Self {
        let mut x = Self::new();
        x.authority = "h.example:80";
        x.path = "/rw/a/b?x=1&y=%20z".to_owned();
        x.status = 200;
        x.request_header("x-envoy-original-path", b"/a/b?x=1&y=%20z");
        x.request_header("user-agent", b"ua");
        x.request_header("x-request-id", b"64a9b815-2ad0-46bd-b0c6-cf1c17ad8186");
        x.response_header("x-envoy-upstream-service-time", b"2");
        x.response_header("server", b"envoy");
        x.fill_info();
        x.fill_upstream();
        x
    }

    fn fill_info(&self) {
        let (info, at) = (&self.info, |micros| Some(self.start + Duration::from_micros(micros)));
        info.response_code.set(200);
        info.bytes_sent.set(5);
        info.wire_bytes_sent.set(129);
        info.wire_bytes_received.set(68);
        info.header_bytes_sent.set(105);
        info.header_bytes_received.set(34);
        info.decompressed_header_bytes_sent.set(105);
        info.decompressed_header_bytes_received.set(34);
        info.set_details("via_upstream");
        *info.route_name.borrow_mut() = Some("rname".into());
        *info.route_metadata.borrow_mut() = Some(Arc::new(metadata("rt", json!({"k": "vr"}))));
        *info.metadata.borrow_mut() = Some(Box::new(metadata(
            "ns",
            json!({"s": "str", "o": {"k": "v", "f": 1.25, "big": 12345678901234567890_u64}, "n": 3,
                   "l": [1, "a", null], "b": true, "nul": null}),
        )));
        info.times.request_headers_end.set(at(50));
        info.times.upstream_connect_start.set(at(100));
        info.times.upstream_connect_end.set(at(200));
        info.times.upstream_request_start.set(at(210));
        info.times.upstream_request_end.set(at(300));
        info.times.upstream_response_start.set(at(3001));
        info.times.upstream_response_body_start.set(at(3002));
        info.times.response_end.set(at(3355));
    }

    fn fill_upstream(&self) {
        let mut up = self.info.upstream.borrow_mut();
        up.cluster = Some("calt".into());
        up.cluster_raw = Some("c".into());
        up.host = Some(address("127.0.0.1:43765"));
        up.remote = up.host.clone();
        up.host_name = Some("localhost".into());
        up.local = Some(address("127.0.0.1:44154"));
        up.connection_id = Some(2);
        up.protocol = Some(Protocol::Http11);
        up.attempts = 1;
        up.pool_ready = Some(Duration::from_micros(100));
        up.wire_bytes_sent = 227;
        up.wire_bytes_received = 116;
        up.header_bytes_sent = 192;
        up.header_bytes_received = 89;
        up.decompressed_header_bytes_sent = 192;
        up.decompressed_header_bytes_received = 89;
        up.cluster_metadata = Some(Arc::new(metadata("cm", json!({"k": "vc", "o": {"b": 1}}))));
        up.host_metadata = Some(Arc::new(metadata("hm", json!({"k": "vh", "n": 3, "f": 1.5, "t": true}))));
    }

    pub(super) fn request_header(&mut self, name: &'static str, value: &[u8]) {
        self.request_headers.insert(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
    }

    pub(super) fn response_header(&mut self, name: &'static str, value: &[u8]) {
        self.response_headers.insert(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
    }

    pub(super) fn cx(&self) -> FormatCx<'_> {
        let mut cx = FormatCx::new(&self.info, self.start, self.info.start_wall + Duration::from_millis(5));
        cx.request = Some(RequestView {
            method: "GET",
            scheme: "http",
            authority: self.authority,
            path: &self.path,
            protocol: None,
            headers: &self.request_headers,
        });
        cx.response = Some(ResponseView { status: self.status, headers: &self.response_headers });
        cx.trailers = self.trailers.as_ref();
        cx.log_type = AccessLogType::DownstreamEnd;
        cx.random = || u128::MAX;
        cx
    }

    pub(super) fn text(&self, format: &str) -> Vec<u8> {
        let mut out = Vec::new();
        Format::parse(format).unwrap().write(&self.cx(), Missing::Dash, &mut out);
        out
    }

    /// The value of `{"v": format}`.
    pub(super) fn json(&self, format: &str) -> String {
        let mut out = Vec::new();
        let fields = [("v".to_owned(), JsonFormat::String(format.to_owned()))];
        JsonFormatter::compile(&fields, Missing::Dash).unwrap().write(&self.cx(), &mut out);
        let line = String::from_utf8(out).unwrap();
        serde_json::from_str::<Value>(&line).unwrap();
        line.strip_prefix(r#"{"v":"#).and_then(|l| l.strip_suffix("}\n")).unwrap().to_owned()
    }
}

pub(super) fn check(x: &Exchange, operator: &str, text: &str, json: &str) {
    check_text(x, operator, text);
    assert_eq!(x.json(&format!("%{operator}%")), json, "{operator} in JSON");
}

pub(super) fn check_text(x: &Exchange, operator: &str, text: &str) {
    assert_eq!(String::from_utf8(x.text(&format!("%{operator}%"))).unwrap(), text, "{operator}");
}

pub(super) fn refused(operator: &str) -> FormatErrorKind {
    Format::parse(&format!("%{operator}%")).unwrap_err().kind
}

/// The fields of a JSON object as configuration has them.
pub(super) fn json(text: &str) -> Vec<(String, JsonFormat)> {
    fn convert(value: Value) -> JsonFormat {
        match value {
            Value::Null => JsonFormat::Null,
            Value::Bool(b) => JsonFormat::Bool(b),
            Value::Number(n) => JsonFormat::Number(n.as_f64().unwrap()),
            Value::String(s) => JsonFormat::String(s),
            Value::Array(items) => JsonFormat::List(items.into_iter().map(convert).collect()),
            Value::Object(fields) => JsonFormat::Object(fields.into_iter().map(|(k, v)| (k, convert(v))).collect()),
        }
    }
    match convert(serde_json::from_str(text).unwrap()) {
        JsonFormat::Object(fields) => fields,
        other => panic!("{other:?} is no object"),
    }
}
