use nuncio_filter_api::testing::{self, Harness, Outcome};
use nuncio_proto::envoy::config::core::v3::RuntimeFractionalPercent;
use nuncio_proto::envoy::r#type::matcher::v3::StringMatcher as StringMatcherProto;
use nuncio_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use nuncio_proto::envoy::r#type::v3::FractionalPercent;
use nuncio_proto::google::protobuf::BoolValue;
use prost::Message;

use super::*;

const PREFLIGHT: &[&str] = &["access-control-request-method: PUT", "access-control-request-private-network: true"];

fn exactly(origin: &str) -> Vec<StringMatcherProto> {
    let match_pattern = Some(MatchPattern::Exact(origin.into()));
    vec![StringMatcherProto { ignore_case: false, match_pattern }]
}

fn full() -> proto::CorsPolicy {
    proto::CorsPolicy {
        allow_origin_string_match: exactly("http://a"),
        allow_methods: "GET,PUT".into(),
        allow_headers: "x-h".into(),
        expose_headers: "x-e".into(),
        max_age: "10".into(),
        allow_credentials: Some(BoolValue { value: true }),
        allow_private_network_access: Some(BoolValue { value: true }),
        ..Default::default()
    }
}

fn share(numerator: u32) -> Option<RuntimeFractionalPercent> {
    let default_value = Some(FractionalPercent { numerator, denominator: 0 });
    Some(RuntimeFractionalPercent { default_value, runtime_key: String::new() })
}

fn harness(policies: &[proto::CorsPolicy]) -> Harness {
    let harness = Harness::new(&ROW, &proto::Cors {}.encode_to_vec());
    policies.iter().fold(harness, |harness, policy| harness.per_route(&policy.encode_to_vec()))
}

async fn send(harness: &Harness, method: Method, origin: &str, lines: &[&str]) -> Outcome {
    let mut request = testing::request(method, "/", lines);
    if !origin.is_empty() {
        request.head.headers.insert(header::ORIGIN, origin.parse().unwrap());
    }
    harness.run(request, testing::response(204, &["access-control-allow-origin: *"])).await
}

/// Valid and invalid origins counted.
fn counted(harness: &Harness) -> (u64, u64) {
    let stats = CorsStats::new(&harness.scope().scope("cors"));
    (stats.origin_valid().value(), stats.origin_invalid().value())
}

#[tokio::test]
async fn a_preflight_is_answered() {
    let harness = harness(&[full()]);
    let outcome = send(&harness, Method::OPTIONS, "http://a", PREFLIGHT).await;
    assert!(outcome.request.is_none());
    assert!(outcome.local_reply.is_none(), "Envoy's answer is no local reply");
    assert_eq!(outcome.response.head.status, StatusCode::OK);
    assert_eq!(
        testing::lines(&outcome.response.head.headers),
        [
            "access-control-allow-credentials: true",
            "access-control-allow-headers: x-h",
            "access-control-allow-methods: GET,PUT",
            "access-control-allow-origin: http://a",
            "access-control-allow-private-network: true",
            "access-control-expose-headers: x-e",
            "access-control-max-age: 10",
        ]
    );
    assert_eq!(outcome.stream.cx.info.details.borrow().as_deref(), Some("cors_response"));
    assert_eq!(counted(&harness), (1, 0));
}

#[tokio::test]
async fn a_simple_request_passes_and_its_response_is_marked() {
    let harness = harness(&[full()]);
    for (method, lines) in
        [(Method::GET, PREFLIGHT), (Method::OPTIONS, &[][..]), (Method::OPTIONS, &["access-control-request-method:"])]
    {
        let outcome = send(&harness, method, "http://a", lines).await;
        assert!(outcome.request.is_some());
        assert_eq!(
            testing::lines(&outcome.response.head.headers),
            [
                "access-control-allow-credentials: true",
                "access-control-allow-origin: http://a",
                "access-control-expose-headers: x-e",
            ]
        );
    }
    assert_eq!(counted(&harness), (3, 0));
}

#[tokio::test]
async fn a_strangers_preflight_passes_unless_it_is_not_to_be_forwarded() {
    let harness = harness(&[full()]);
    let outcome = send(&harness, Method::OPTIONS, "http://b", PREFLIGHT).await;
    assert!(outcome.request.is_some());
    assert_eq!(testing::lines(&outcome.response.head.headers), ["access-control-allow-origin: *"]);
    assert_eq!(counted(&harness), (0, 1));
    let closed = proto::CorsPolicy { forward_not_matching_preflights: Some(BoolValue { value: false }), ..full() };
    let harness = self::harness(&[closed]);
    let outcome = send(&harness, Method::OPTIONS, "http://b", PREFLIGHT).await;
    assert!(outcome.request.is_none());
    assert_eq!(outcome.response.head.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN), None);
    assert_eq!(outcome.response.head.headers.get(header::ACCESS_CONTROL_EXPOSE_HEADERS), None);
    assert_eq!(outcome.response.head.headers[header::ACCESS_CONTROL_ALLOW_METHODS], "GET,PUT");
    assert!(send(&harness, Method::GET, "http://b", PREFLIGHT).await.request.is_some());
    assert_eq!(counted(&harness), (0, 2));
}

#[tokio::test]
async fn without_origin_policy_or_cluster_nothing_happens() {
    let passes = |outcome: Outcome| outcome.request.is_some() && outcome.response.head.headers.len() == 1;
    let harness = harness(&[full()]);
    assert!(passes(send(&harness, Method::OPTIONS, "", PREFLIGHT).await));
    let harness = harness.answering_route();
    assert!(passes(send(&harness, Method::OPTIONS, "http://a", PREFLIGHT).await));
    assert_eq!(counted(&harness), (0, 0));
    assert!(passes(send(&self::harness(&[]), Method::OPTIONS, "http://a", PREFLIGHT).await));
}

#[tokio::test]
async fn several_origins_are_one() {
    let harness = harness(&[proto::CorsPolicy { allow_origin_string_match: exactly("http://a,http://b"), ..full() }]);
    let mut request = testing::request(Method::GET, "/", &["origin: http://a", "origin: http://b"]);
    let response = harness.run(request, testing::response(200, &[])).await.response;
    assert_eq!(response.head.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "http://a,http://b");
    request = testing::request(Method::GET, "/", &["origin:"]);
    assert!(harness.run(request, testing::response(200, &[])).await.response.head.headers.is_empty());
}

#[tokio::test]
async fn a_matcher_that_matches_a_star_matches_every_origin() {
    let harness = harness(&[proto::CorsPolicy { allow_origin_string_match: exactly("*"), ..Default::default() }]);
    let outcome = send(&harness, Method::OPTIONS, "http://x", PREFLIGHT).await;
    assert_eq!(testing::lines(&outcome.response.head.headers), ["access-control-allow-origin: http://x"]);
}

#[tokio::test]
async fn each_setting_is_that_of_the_most_specific_policy_that_has_it() {
    let route = proto::CorsPolicy {
        allow_methods: "ROUTE".into(),
        allow_credentials: Some(BoolValue { value: false }),
        allow_private_network_access: Some(BoolValue { value: false }),
        ..Default::default()
    };
    let cluster = proto::CorsPolicy { allow_headers: "cluster".into(), ..Default::default() };
    let outcome = send(&harness(&[full(), route, cluster]), Method::OPTIONS, "http://a", PREFLIGHT).await;
    assert_eq!(
        testing::lines(&outcome.response.head.headers),
        [
            "access-control-allow-headers: cluster",
            "access-control-allow-methods: ROUTE",
            "access-control-allow-origin: http://a",
            "access-control-expose-headers: x-e",
            "access-control-max-age: 10",
        ]
    );
    let empty = harness(&[Default::default()]);
    assert!(send(&empty, Method::OPTIONS, "http://a", PREFLIGHT).await.request.is_some());
    assert_eq!(counted(&empty), (0, 1));
}

#[tokio::test]
async fn a_share_of_requests_may_be_enforced_or_only_counted() {
    let policy = |filter_enabled, shadow_enabled| proto::CorsPolicy { filter_enabled, shadow_enabled, ..full() };
    for (policies, is_answered, count) in [
        (vec![policy(share(0), None)], false, (0, 0)),
        (vec![policy(share(0), share(100))], false, (1, 0)),
        (vec![policy(share(100), share(100))], true, (1, 0)),
        (vec![policy(None, share(100))], true, (1, 0)),
        (vec![policy(share(0), share(100)), Default::default()], true, (1, 0)),
    ] {
        let harness = harness(&policies);
        let outcome = send(&harness, Method::OPTIONS, "http://a", PREFLIGHT).await;
        assert_eq!((outcome.request.is_none(), counted(&harness)), (is_answered, count));
    }
}

#[test]
fn what_cannot_be_sent_is_refused_with_its_path() {
    let policy = proto::CorsPolicy {
        allow_origin_string_match: vec![StringMatcherProto::default()],
        allow_methods: "a\nb".into(),
        max_age: "\0".into(),
        ..Default::default()
    };
    let refusals = testing::lower_per_route(&ROW, &policy.encode_to_vec(), &testing::env()).err().unwrap();
    let paths: Vec<_> = refusals.iter().map(|refusal| &*refusal.path).collect();
    assert_eq!(paths, ["config.allow_origin_string_match[0]", "config.allow_methods", "config.max_age"]);
}
