use nuncio_proto::envoy::config::core::v3::health_check::{Payload, payload};
use nuncio_proto::envoy::extensions::filters::network::thrift_proxy::v3::{ProtocolType, TransportType};
use nuncio_proto::envoy::extensions::health_checkers::thrift::v3::Thrift;
use nuncio_proto::envoy::r#type::v3::Int64Range;

use super::*;
use nuncio_proto::CheckName;

fn base(checker: HealthChecker) -> pb::HealthCheck {
    let seconds = |seconds| Some(protobuf::Duration { seconds, nanos: 0 });
    pb::HealthCheck {
        timeout: seconds(1),
        interval: seconds(5),
        unhealthy_threshold: Some(protobuf::UInt32Value { value: 3 }),
        healthy_threshold: Some(protobuf::UInt32Value { value: 2 }),
        health_checker: Some(checker),
        ..Default::default()
    }
}

fn http() -> health_check::HttpHealthCheck {
    health_check::HttpHealthCheck { path: "/hc".to_owned(), ..Default::default() }
}

fn lower(protos: Vec<pb::HealthCheck>) -> Result<HealthCheck, Vec<String>> {
    lower_named(protos, &[]).map(|mut lowered| lowered.remove(0))
}

fn lower_named(protos: Vec<pb::HealthCheck>, names: &[&str]) -> Result<Vec<HealthCheck>, Vec<String>> {
    let env = crate::testing::env();
    let mut cx = LowerCx::new(&env);
    let names = CheckNames { checks: names.iter().map(|name| CheckName { name: (*name).to_owned() }).collect() };
    let lowered = HealthCheck::lower(protos, names, Some(UpstreamProtocol::Http1), &mut cx);
    let said: Vec<String> = cx.finish().iter().map(ToString::to_string).collect();
    assert_eq!(lowered.is_err(), !said.is_empty());
    lowered.map_err(|_| said)
}

fn refusal(proto: pb::HealthCheck) -> String {
    lower(vec![proto]).expect_err("refused").join("; ")
}

fn text(text: &str) -> Payload {
    Payload { payload: Some(payload::Payload::Text(text.to_owned())) }
}

#[test]
fn a_check_that_says_nothing_has_envoys_defaults() {
    let check = lower(vec![base(HealthChecker::HttpHealthCheck(http()))]).unwrap();
    let seconds = Duration::from_secs;
    assert_eq!((check.timeout, check.unhealthy_threshold, check.healthy_threshold), (seconds(1), 3, 2));
    assert!(check.reuse_connection && check.log.files.is_empty());
    let Intervals { healthy, unhealthy, unhealthy_edge, healthy_edge, no_traffic, no_traffic_healthy, .. } =
        check.intervals;
    assert_eq!([healthy, unhealthy, unhealthy_edge, healthy_edge], [seconds(5); 4]);
    assert_eq!([no_traffic, no_traffic_healthy], [seconds(60); 2]);
    let Checker::Http(http) = check.checker else { panic!("an HTTP check") };
    assert_eq!((http.method.as_str(), &*http.path, &*http.host), ("GET", "/hc", ""));
    assert_eq!([199, 200, 201].map(|status| http.expected.contain(status)), [false, true, false]);
    assert_eq!(http.response_bytes, Some(1024));
}

#[test]
fn edge_intervals_follow_those_they_lead_to() {
    let mut proto = base(HealthChecker::TcpHealthCheck(health_check::TcpHealthCheck::default()));
    proto.unhealthy_interval = Some(protobuf::Duration { seconds: 7, nanos: 0 });
    proto.no_traffic_interval = Some(protobuf::Duration { seconds: 9, nanos: 0 });
    let intervals = lower(vec![proto]).unwrap().intervals;
    assert_eq!(intervals.unhealthy_edge, Duration::from_secs(7));
    assert_eq!(intervals.healthy_edge, Duration::from_secs(5));
    assert_eq!(intervals.no_traffic_healthy, Duration::from_secs(9));
}

#[test]
fn payloads_are_found_in_order_and_with_gaps() {
    let tcp = health_check::TcpHealthCheck { receive: vec![text("6162"), text("63")], ..Default::default() };
    let Checker::Tcp(tcp) = lower(vec![base(HealthChecker::TcpHealthCheck(tcp))]).unwrap().checker else {
        panic!("a TCP check")
    };
    let found = |answer: &str| tcp.receive.are_in(answer.as_bytes());
    assert!(found("abc") && found("xxab--cyy"));
    assert!(!found("cab") && !found("ab") && !found("a bc"));
}

#[test]
fn bad_values_are_refused_by_path() {
    let check = |change: fn(&mut health_check::HttpHealthCheck), said: &str| {
        let mut proto = http();
        change(&mut proto);
        assert_eq!(refusal(base(HealthChecker::HttpHealthCheck(proto))), format!("health_checks[0].{said}"));
    };
    check(|http| http.send = Some(text("00")), "http_health_check.send: a request with method GET can have no payload");
    check(|http| http.receive = vec![text("0g")], "http_health_check.receive[0].text: invalid hex string '0g'");
    check(|http| http.receive = vec![text("000")], "http_health_check.receive[0].text: invalid hex string '000'");
    check(|http| http.codec_client_type = 2, "http_health_check.codec_client_type: HTTP3 is not implemented yet");
    check(
        |http| http.expected_statuses = vec![Int64Range { start: 300, end: 200 }],
        "http_health_check.expected_statuses[0]: invalid http expected status range: expecting start < end, but found \
         start=300 and end=200",
    );
    check(
        |http| http.retriable_statuses = vec![Int64Range { start: 200, end: 601 }],
        "http_health_check.retriable_statuses[0]: invalid http retriable status range: expecting end <= 600, but found \
         end=601",
    );
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let typed = |value| {
        let config_type = Some(health_check::custom_health_check::ConfigType::TypedConfig(value));
        let name = "x".to_owned();
        base(HealthChecker::CustomHealthCheck(health_check::CustomHealthCheck { name, config_type }))
    };
    let udp = protobuf::Any {
        type_url: "type.googleapis.com/envoy.extensions.health_checkers.udp.v3.Udp".to_owned(),
        value: Vec::new(),
    };
    assert_eq!(
        refusal(typed(udp)),
        "health_checks[0].custom_health_check.typed_config: health checker envoy.extensions.health_checkers.udp.v3.Udp \
         is not implemented yet"
    );
}

/// Envoy 1.40 has the field, and asks nobody.
#[test]
fn a_service_of_events_has_no_effect() {
    let mut proto = base(HealthChecker::HttpHealthCheck(http()));
    proto.event_service = Some(Default::default());
    assert!(lower_named(vec![proto], &[]).is_ok());
}

#[test]
fn a_check_of_thrift_names_transport_and_protocol() {
    let lower = |transport: TransportType, protocol: ProtocolType| {
        let message = Thrift { method_name: "ping".to_owned(), transport: transport.into(), protocol: protocol.into() };
        let config_type = Some(health_check::custom_health_check::ConfigType::TypedConfig(protobuf::Any {
            type_url: "type.googleapis.com/envoy.extensions.health_checkers.thrift.v3.Thrift".to_owned(),
            value: prost::Message::encode_to_vec(&message),
        }));
        let name = "envoy.health_checkers.thrift".to_owned();
        base(HealthChecker::CustomHealthCheck(health_check::CustomHealthCheck { name, config_type }))
    };
    let good = lower(TransportType::Header, ProtocolType::Compact);
    let lowered = lower_named(vec![good], &[]).expect("it is complete").remove(0);
    let Checker::Thrift(thrift) = lowered.checker else { panic!("another check") };
    let (transport, protocol) = (ThriftTransport::Header, ThriftProtocol::Compact);
    assert_eq!(thrift, ThriftHealthCheck { method: "ping".into(), transport, protocol });
    let at = "health_checks[0].custom_health_check.typed_config";
    let check = |transport, protocol, reason| assert_eq!(refusal(lower(transport, protocol)), format!("{at}.{reason}"));
    check(TransportType::AutoTransport, ProtocolType::Binary, "transport: must be one of FRAMED, UNFRAMED and HEADER");
    check(TransportType::Framed, ProtocolType::Twitter, "protocol: must be one of BINARY, LAX_BINARY and COMPACT");
    check(TransportType::Header, ProtocolType::LaxBinary, "protocol: the HEADER transport does not carry LAX_BINARY");
}

#[test]
fn several_checks_have_names_of_their_own() {
    let two = || vec![base(HealthChecker::HttpHealthCheck(http())), base(HealthChecker::HttpHealthCheck(http()))];
    let names = lower_named(two(), &["a", "b"]).expect("names differ");
    assert_eq!(names.iter().map(|check| &*check.name).collect::<Vec<_>>(), ["a", "b"]);
    let check = |names: &[&str], reason| assert_eq!(lower_named(two(), names).unwrap_err(), [reason]);
    check(&["a"], "health_checks[1].name: is missing, and several health checks must have names");
    check(&["a", "a"], "health_checks[1].name: duplicate health check name 'a'");
}

#[test]
fn a_grpc_check_needs_a_cluster_of_http2() {
    let proto = base(HealthChecker::GrpcHealthCheck(health_check::GrpcHealthCheck::default()));
    assert_eq!(
        refusal(proto),
        "health_checks[0].grpc_health_check: the cluster must support HTTP/2 for gRPC health checks"
    );
}
