use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use tokio::time::Instant;

use super::*;
use crate::format::ResponseView;
use crate::{Address, ConnectionInfo, ResponseFlag, StreamInfo};

fn stream() -> StreamInfo {
    let start = Instant::now();
    let address = Address::Pipe("".into());
    let info = StreamInfo::new(Rc::new(ConnectionInfo::new(1, address.clone(), address, start)), start, UNIX_EPOCH);
    info.times.complete.set(Some(start + Duration::from_millis(250)));
    info.response_code.set(503);
    info
}

fn accepts(info: &StreamInfo, filter: &LogFilter) -> bool {
    let mut cx = FormatCx::new(info, info.start, UNIX_EPOCH);
    cx.log_type = AccessLogType::DownstreamEnd;
    cx.random = || 42;
    filter.accepts(&cx)
}

fn compare(op: ComparisonOp, value: u32) -> Comparison {
    Comparison { op, value, setting: None }
}

#[test]
fn numbers_are_compared_with_each_operator() {
    let info = stream();
    for (op, value, expected) in [
        (ComparisonOp::Equal, 503, true),
        (ComparisonOp::Equal, 500, false),
        (ComparisonOp::AtLeast, 503, true),
        (ComparisonOp::AtLeast, 504, false),
        (ComparisonOp::AtMost, 503, true),
        (ComparisonOp::AtMost, 502, false),
        (ComparisonOp::NotEqual, 503, false),
        (ComparisonOp::NotEqual, 0, true),
    ] {
        assert_eq!(accepts(&info, &LogFilter::StatusCode(compare(op, value))), expected, "{op:?} {value}");
    }
    assert!(accepts(&info, &LogFilter::Duration(compare(ComparisonOp::Equal, 250))));
    assert!(!accepts(&info, &LogFilter::Duration(compare(ComparisonOp::AtLeast, 251))));
}

#[test]
fn health_checks_are_left_out() {
    let info = stream();
    assert!(accepts(&info, &LogFilter::NotHealthCheck));
    info.health_check.set(true);
    assert!(!accepts(&info, &LogFilter::NotHealthCheck));
}

#[test]
fn an_empty_flag_filter_wants_any_flag() {
    let info = stream();
    let any = LogFilter::ResponseFlag(ResponseFlags::NONE);
    let no_route = LogFilter::ResponseFlag(ResponseFlag::NoRouteFound.into());
    assert!(!accepts(&info, &any));
    info.flag(ResponseFlag::UpstreamOverflow);
    assert!(accepts(&info, &any));
    assert!(!accepts(&info, &no_route));
    info.flag(ResponseFlag::NoRouteFound);
    assert!(accepts(&info, &no_route));
}

#[test]
fn filters_combine() {
    let info = stream();
    let yes = || LogFilter::StatusCode(compare(ComparisonOp::Equal, 503));
    let no = || LogFilter::StatusCode(compare(ComparisonOp::Equal, 200));
    assert!(accepts(&info, &LogFilter::And(vec![yes(), yes()])));
    assert!(!accepts(&info, &LogFilter::And(vec![yes(), no()])));
    assert!(accepts(&info, &LogFilter::Or(vec![no(), yes()])));
    assert!(!accepts(&info, &LogFilter::Or(vec![no(), no()])));
}

#[test]
fn grpc_statuses_are_sent_or_inferred() {
    let info = stream();
    let only = |status: u32, exclude| LogFilter::GrpcStatus { statuses: 1 << status, exclude };
    // 503 stands for UNAVAILABLE.
    assert!(accepts(&info, &only(14, false)));
    assert!(!accepts(&info, &only(14, true)));
    let headers: HeaderMap = [("grpc-status".parse().unwrap(), "99".parse().unwrap())].into_iter().collect();
    let mut cx = FormatCx::new(&info, info.start, UNIX_EPOCH);
    cx.response = Some(ResponseView { status: 200, headers: &headers });
    assert!(!LogFilter::GrpcStatus { statuses: u32::MAX, exclude: false }.accepts(&cx));
}

#[test]
fn log_types_are_listed_or_excluded() {
    let info = stream();
    let types = LogFilter::log_types([AccessLogType::DownstreamEnd, AccessLogType::TcpConnectionStart]);
    assert!(accepts(&info, &LogFilter::LogType { types, exclude: false }));
    assert!(!accepts(&info, &LogFilter::LogType { types, exclude: true }));
}

#[test]
fn sampling_follows_the_request_id_unless_independent() {
    let info = stream();
    let sampling = |numerator, independent| {
        LogFilter::Runtime(Sampling { numerator, denominator: 100, setting: None, independent })
    };
    // 42 of 100 is drawn.
    assert!(accepts(&info, &sampling(43, false)));
    assert!(!accepts(&info, &sampling(42, false)));
    *info.request_id.borrow_mut() = Some("00000063-0000-4000-8000-000000000000".into());
    assert!(!accepts(&info, &sampling(99, false)));
    assert!(accepts(&info, &sampling(100, false)));
    assert!(accepts(&info, &sampling(43, true)));
    *info.request_id.borrow_mut() = Some("é".into());
    assert!(accepts(&info, &sampling(43, false)));
}

#[derive(Debug)]
struct Is(&'static str);

impl MetadataPredicate for Is {
    fn matches(&self, value: &Value) -> bool {
        value == self.0
    }
}

impl HeaderPredicate for Is {
    fn matches(&self, request: &RequestView<'_>) -> bool {
        request.path == self.0
    }

    fn matches_nothing(&self) -> bool {
        false
    }
}

#[test]
fn metadata_is_looked_up_by_its_path() {
    let info = stream();
    let filter = |keys: &[&str], if_missing| LogFilter::Metadata {
        namespace: "ns".to_owned(),
        path: keys.iter().map(|&k| k.to_owned()).collect(),
        matcher: Box::new(Is("v")),
        if_missing,
    };
    assert!(accepts(&info, &filter(&["a", "b"], true)));
    let serde_json::Value::Object(fields) = serde_json::json!({"a": {"b": "v", "c": "w"}}) else { unreachable!() };
    *info.metadata.borrow_mut() = Some(Box::new([(Arc::from("ns"), fields)].into_iter().collect()));
    assert!(accepts(&info, &filter(&["a", "b"], false)));
    assert!(!accepts(&info, &filter(&["a", "c"], true)));
    assert!(!accepts(&info, &filter(&["a", "d"], false)));
    assert!(!accepts(&info, &filter(&[], false)));
}

#[test]
fn headers_are_asked_of_the_request() {
    let info = stream();
    let filter = LogFilter::Header(Box::new(Is("/a")));
    assert!(!accepts(&info, &filter));
    let headers = HeaderMap::new();
    let mut cx = FormatCx::new(&info, info.start, UNIX_EPOCH);
    cx.request =
        Some(RequestView { method: "GET", scheme: "", authority: "", path: "/a", protocol: None, headers: &headers });
    assert!(filter.accepts(&cx));
}
