use std::rc::Rc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, Method};
use nuncio_filter_api::Scheme;
use nuncio_telemetry::{Address, ConnectionInfo, StreamInfo};
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::load::{Format as Text, Loader, Source, UnknownFields};
use crate::route::RouteTable;
use crate::testing::env;

/// A request to `/p?q=1&d=%32` with some headers, and what there is around it.
struct Request {
    head: RequestHead,
    info: StreamInfo,
}

impl Request {
    fn new(headers: &[(&'static str, &'static str)]) -> Self {
        let mut head = RequestHead::new(Method::GET, Scheme::Http, "a.test".into(), "/p?q=1&d=%32".into());
        for (name, value) in headers {
            head.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let address = Address::Ip(([10, 200, 3, 4], 1).into());
        let connection = ConnectionInfo::new(1, address.clone(), address, Instant::now());
        let info = StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::UNIX_EPOCH);
        let metadata = json!({"s": "text", "n": 5, "l": ["a", "b"], "empty": "",
            "limit": {"requests_per_unit": 7, "unit": "HOUR"}, "odd": {"requests_per_unit": 7, "unit": "AEON"}});
        let fields = metadata.as_object().expect("it is an object").clone();
        *info.metadata.borrow_mut() = Some(Box::new(Metadata::from([("f".into(), fields)])));
        Self { head, info }
    }

    fn of(self, address: &str) -> Self {
        *self.info.remote.borrow_mut() = Address::Ip((address.parse::<std::net::IpAddr>().expect("valid"), 0).into());
        self
    }
}

fn table(rate_limits: &str) -> Result<RouteTable, Vec<String>> {
    let yaml = format!(
        "virtual_hosts: [{{name: h, domains: ['*'], routes: [{{match: {{prefix: /}}, \
         metadata: {{filter_metadata: {{f: {{s: of-route}}}}}}, \
         route: {{cluster: c, rate_limits: [{rate_limits}]}}}}]}}]"
    );
    let text = Source::new("test", Text::Yaml, yaml.into_bytes());
    let message = Loader::new(UnknownFields::Reject).load(vec![text]).expect("loads").message;
    let mut env = env();
    env.node.cluster = "here".to_owned();
    let mut cx = LowerCx::new(&env);
    RouteTable::lower(message, &mut cx).map_err(|Refused| cx.finish().iter().map(ToString::to_string).collect())
}

fn with<R>(rate_limit: &str, request: &Request, f: impl FnOnce(&RateLimit, &RateLimitCx<'_>) -> R) -> R {
    let table = table(rate_limit).map_err(|refused| refused.join("\n")).expect("is accepted");
    let entry = table.entry(0);
    let mut format = FormatCx::new(&request.info, Instant::now(), SystemTime::UNIX_EPOCH);
    format.request = Some(request.head.view());
    f(&entry.route_rate_limits()[0], &RateLimitCx { head: &request.head, entry, cluster: "c", format })
}

fn descriptor(rate_limit: &str, request: &Request) -> Option<Descriptor> {
    with(rate_limit, request, |limit, cx| limit.descriptor(cx))
}

/// The entries that `actions` make, as `key=value`.
fn entries(actions: &str, request: &Request) -> Option<String> {
    let descriptor = descriptor(&format!("{{actions: [{actions}]}}"), request)?;
    let entries: Vec<_> = descriptor.entries.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Some(entries.join(","))
}

#[track_caller]
fn check(actions: &str, expected: Option<&str>) {
    let request = Request::new(&[("x-a", "1"), ("x-a", "2"), ("x-empty", "")]);
    assert_eq!(entries(actions, &request).as_deref(), expected, "{actions}");
}

#[test]
fn clusters_and_keys_are_told() {
    check("{source_cluster: {}}, {destination_cluster: {}}", Some("source_cluster=here,destination_cluster=c"));
    check("{generic_key: {descriptor_value: v}}", Some("generic_key=v"));
    check("{generic_key: {descriptor_value: '%REQ(x-a)%', descriptor_key: k}}", Some("k=%REQ(x-a)%"));
}

#[test]
fn headers_and_parameters_are_told_or_skipped() {
    check("{request_headers: {header_name: X-A, descriptor_key: k}}", Some("k=1"));
    check("{request_headers: {header_name: x-empty, descriptor_key: k}}", Some("k="));
    check("{request_headers: {header_name: ':path', descriptor_key: k}}", Some("k=/p?q=1&d=%32"));
    check("{request_headers: {header_name: x-b, descriptor_key: k}}, {remote_address: {}}", None);
    check(
        "{request_headers: {header_name: x-b, descriptor_key: k, skip_if_absent: true}}, {remote_address: {}}",
        Some("remote_address=10.200.3.4"),
    );
    check("{request_headers: {header_name: x-b, descriptor_key: k, skip_if_absent: true}}", None);
    check("{query_parameters: {query_parameter_name: q, descriptor_key: k}}", Some("k=1"));
    check("{query_parameters: {query_parameter_name: d, descriptor_key: k}}", Some("k=2"));
    check("{query_parameters: {query_parameter_name: r, descriptor_key: k}}", None);
}

#[test]
fn addresses_are_told_and_masked() {
    check("{masked_remote_address: {}}", Some("masked_remote_address=10.200.3.4/32"));
    check("{masked_remote_address: {v4_prefix_mask_len: 9}}", Some("masked_remote_address=10.128.0.0/9"));
    check("{masked_remote_address: {v4_prefix_mask_len: 0}}", Some("masked_remote_address=0.0.0.0/0"));
    let request = Request::new(&[]).of("2001:abcd:ef01:2345:6789:abcd:ef01:234");
    let masked = |length: &str| entries(&format!("{{masked_remote_address: {{{length}}}}}"), &request);
    assert_eq!(masked("v6_prefix_mask_len: 64").as_deref(), Some("masked_remote_address=2001:abcd:ef01:2345::/64"));
    assert_eq!(masked("").as_deref(), Some("masked_remote_address=2001:abcd:ef01:2345:6789:abcd:ef01:234/128"));
}

#[test]
fn what_matches_is_told() {
    let headers = "headers: [{name: x-a, string_match: {exact: '2'}}]";
    check(&format!("{{header_value_match: {{descriptor_value: v, {headers}}}}}"), Some("header_match=v"));
    check(&format!("{{header_value_match: {{descriptor_value: v, expect_match: false, {headers}}}}}"), None);
    check(
        "{header_value_match: {descriptor_value: v, descriptor_key: k, expect_match: false, headers: [{name: x-b}]}}",
        Some("k=v"),
    );
    let parameters = "query_parameters: [{name: q, string_match: {exact: '1'}}]";
    check(&format!("{{query_parameter_value_match: {{descriptor_value: v, {parameters}}}}}"), Some("query_match=v"));
    check(
        &format!("{{query_parameter_value_match: {{descriptor_value: v, expect_match: false, {parameters}}}}}"),
        None,
    );
    check(
        "{query_parameter_value_match: {descriptor_value: v, query_parameters: [{name: d, string_match: {exact: '2'}}]}}",
        Some("query_match=v"),
    );
    let ranges = "ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]";
    let address = |rest: &str, invert: bool| {
        format!("{{remote_address_match: {{{rest}, address_matcher: {{{ranges}, invert_match: {invert}}}}}}}")
    };
    check(&address("descriptor_value: '%REQ(x-a)%'", false), Some("remote_address_match=1"));
    check(&address("descriptor_value: '%REQ(x-b)%', default_value: d, descriptor_key: k", false), Some("k=d"));
    check(&address("descriptor_value: '%REQ(x-b)%'", false), None);
    check(&address("descriptor_value: v", true), None);
}

#[test]
fn texts_of_metadata_are_told() {
    let metadata = |path: &str, rest: &str| {
        format!("{{metadata: {{descriptor_key: k, metadata_key: {{key: f, path: [{path}]}}, {rest}}}}}")
    };
    check(&metadata("{key: s}", "source: DYNAMIC"), Some("k=text"));
    check(&metadata("{key: s}", "source: ROUTE_ENTRY"), Some("k=of-route"));
    check(&metadata("{key: s}", "source: CLUSTER_LOCALITY_ENTRY, default_value: d"), Some("k=d"));
    check(&metadata("{key: s}", "source: CLUSTER_LOCALITY_ENTRY"), None);
    check(&metadata("{key: l}, {index: 1}", "source: DYNAMIC"), Some("k=b"));
    check(&metadata("{key: n}", "source: DYNAMIC").replace("{key: n}", "{key: 'n'}"), None);
    check(&metadata("{key: empty}", "default_value: d"), Some("k=d"));
    check(&metadata("{key: s}", "source: CLUSTER_ENTRY"), None);
    check(
        &format!("{}, {{generic_key: {{descriptor_value: v}}}}", metadata("{key: none}", "skip_if_absent: true")),
        Some("generic_key=v"),
    );
}

#[test]
fn a_limit_takes_the_place_of_the_services() {
    let limit = |text: &str| {
        let descriptor =
            descriptor(&format!("{{actions: [{{remote_address: {{}}}}], limit: {{{text}}}}}"), &Request::new(&[]));
        descriptor.expect("there is one").limit
    };
    let dynamic = |key: &str| limit(&format!("dynamic_metadata: {{metadata_key: {{key: f, path: [{{key: {key}}}]}}}}"));
    let minute = Some(LimitOverride { requests: 5, unit: LimitUnit::Minute });
    assert_eq!(limit("rate_limit: {requests_per_unit: 5, unit: MINUTE}"), minute);
    assert_eq!(dynamic("limit"), Some(LimitOverride { requests: 7, unit: LimitUnit::Hour }));
    assert_eq!((dynamic("odd"), dynamic("s"), dynamic("none")), (None, None, None));
}

#[test]
fn hits_are_numbers() {
    let request = Request::new(&[("x-n", "12"), ("x-large", "1000000001")]);
    let hits = |text: &str| {
        let limit = format!("{{actions: [{{remote_address: {{}}}}], hits_addend: {{{text}}}}}");
        with(&limit, &request, |limit, cx| limit.hits(cx))
    };
    assert_eq!(hits(""), Ok(None));
    assert_eq!(hits("number: 3"), Ok(Some(Hits { number: 3, is_negative: false })));
    assert_eq!(hits("format: '%REQ(x-n)%', is_negative_hits: true"), Ok(Some(Hits { number: 12, is_negative: true })));
    assert_eq!((hits("format: '%REQ(x-large)%'"), hits("format: '%REQ(x-none)%'")), (Err(NoHits), Err(NoHits)));
}

#[test]
fn what_else_is_said_is_kept() {
    let limit = "{actions: [{remote_address: {}}], stage: 3, disable_key: k, apply_on_stream_done: true, \
                 x_ratelimit_option: DRAFT_VERSION_03}";
    with(limit, &Request::new(&[]), |limit, _| {
        assert_eq!((limit.stage, limit.disable_key.as_deref(), limit.apply_on_stream_done), (3, Some("k"), true));
        assert_eq!(limit.headers, RateLimitHeaders::Draft03);
    });
}

#[test]
fn what_cannot_be_is_refused_by_its_place() {
    let actions =
        "{extension: {name: x, typed_config: {'@type': type.googleapis.com/google.protobuf.Struct, value: {}}}}";
    let refused = table(&format!("{{actions: [{actions}], hits_addend: {{number: 1, format: '%REQ(a)%'}}}}"));
    let path = "virtual_hosts[0].routes[0].route.rate_limits[0]";
    assert_eq!(
        refused.err().expect("is refused"),
        [
            format!("{path}.actions[0].extension.typed_config: \"google.protobuf.Struct\" is no rate limit descriptor"),
            format!("{path}.hits_addend: only one of number and format may be set"),
        ]
    );
    let refused = table("{actions: [{remote_address: {}}], hits_addend: {format: '%REQ(a)%%REQ(b)%'}}");
    assert_eq!(
        refused.err().expect("is refused"),
        [format!("{path}.hits_addend.format: must be one operator and nothing else")]
    );
}

#[test]
fn the_virtual_hosts_limits_hold_where_the_route_has_none_or_includes_them() {
    let table = |route: &str| {
        let yaml = format!(
            "virtual_hosts: [{{name: h, domains: ['*'], rate_limits: [{{actions: [{{remote_address: {{}}}}]}}], \
             routes: [{{match: {{prefix: /}}, {route}}}]}}]"
        );
        let text = Source::new("test", Text::Yaml, yaml.into_bytes());
        let message = Loader::new(UnknownFields::Reject).load(vec![text]).expect("loads").message;
        let table = RouteTable::lower(message, &mut LowerCx::new(&env())).expect("is accepted");
        let entry = table.entry(0);
        (entry.route_rate_limits().len(), entry.virtual_host_rate_limits().len())
    };
    let own = "rate_limits: [{actions: [{source_cluster: {}}]}]";
    assert_eq!(table("route: {cluster: c}"), (0, 1));
    assert_eq!(table(&format!("route: {{cluster: c, {own}}}")), (1, 0));
    assert_eq!(table(&format!("route: {{cluster: c, include_vh_rate_limits: true, {own}}}")), (1, 1));
    assert_eq!(table("direct_response: {status: 200}"), (0, 0));
}

#[test]
fn values_of_expressions_are_told() {
    let expression = |fields: &str| {
        let kind = "'@type': type.googleapis.com/envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor";
        format!("{{extension: {{name: e, typed_config: {{{kind}, {fields}}}}}}}")
    };
    check(&expression("descriptor_key: k, text: request.method"), Some("k=GET"));
    check(&expression("descriptor_key: k, text: '1 + 2'"), Some("k=3"));
    check(&expression("descriptor_key: k, parsed: {const_expr: {string_value: s}}"), Some("k=s"));
    check(&expression("descriptor_key: k, text: 'request.headers[\"none\"]'"), None);
    check(
        &format!("{}, {{remote_address: {{}}}}", expression("descriptor_key: k, skip_if_error: true, text: '1 / 0'")),
        Some("remote_address=10.200.3.4"),
    );
    for (fields, expected) in [
        ("descriptor_key: k", "expr_specifier is required"),
        ("descriptor_key: k, text: '1 +'", "text: is no expression: "),
    ] {
        let refused = table(&format!("{{actions: [{}]}}", expression(fields))).err().expect("is refused");
        assert!(
            refused[0]
                .contains(&format!("typed_config{}{expected}", if expected.starts_with("expr") { ": " } else { "." })),
            "{refused:?}"
        );
    }
}
