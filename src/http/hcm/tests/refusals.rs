use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::google::protobuf::UInt32Value;

use super::*;

#[track_caller]
fn refused(message: proto::HttpConnectionManager, expected: &str) {
    assert_eq!(try_lower(message).map(drop), Err(vec![expected.to_owned()]));
}

#[test]
fn schemes_stay_where_nothing_is_said_of_them() {
    use core::scheme_header_transformation::Transformation;
    let hcm = |match_upstream, scheme: Option<&str>| proto::HttpConnectionManager {
        scheme_header_transformation: Some(core::SchemeHeaderTransformation {
            match_upstream,
            transformation: scheme.map(|scheme| Transformation::SchemeToOverwrite(scheme.to_owned())),
        }),
        ..message()
    };
    assert_eq!(lower(hcm(false, None)).head.scheme_overwrite, None);
    // Envoy: of both, this one counts.
    assert_eq!(lower(hcm(true, Some("https"))).head.scheme_overwrite, Some(nuncio_filter_api::Scheme::Https));
    refused(hcm(true, None), "scheme_header_transformation.match_upstream: not implemented yet");
}

#[test]
fn limits_that_contradict_each_other_or_are_of_responses_are_refused() {
    let kilobytes = |value| Some(UInt32Value { value });
    let hcm = |all, one| proto::HttpConnectionManager {
        max_request_headers_kb: all,
        http2_protocol_options: Some(core::Http2ProtocolOptions {
            max_header_field_size_kb: one,
            ..Default::default()
        }),
        ..message()
    };
    lower(hcm(kilobytes(64), kilobytes(64)));
    let reason = "http2_protocol_options.max_header_field_size_kb: must not exceed max_request_headers_kb";
    refused(hcm(kilobytes(64), kilobytes(65)), reason);
    // The default of all is 60.
    refused(hcm(None, kilobytes(64)), reason);
    let common = core::HttpProtocolOptions { max_response_headers_kb: kilobytes(80), ..Default::default() };
    refused(
        proto::HttpConnectionManager { common_http_protocol_options: Some(common), ..message() },
        "common_http_protocol_options.max_response_headers_kb: cannot be set on http_connection_manager",
    );
}

#[test]
fn tracers_are_refused_by_name_and_what_spans_cannot_be_made_of() {
    use nuncio_proto::envoy::config::trace::v3::tracing::Http;
    use proto::http_connection_manager::Tracing;
    let hcm = |tracing| proto::HttpConnectionManager { tracing: Some(tracing), ..message() };
    lower(hcm(Tracing { verbose: true, operation: "%REQ(:path)%".to_owned(), ..Default::default() }));
    let provider = Some(Http { name: "t".to_owned(), ..Default::default() });
    refused(hcm(Tracing { provider, ..Default::default() }), "tracing.provider: not implemented yet");
    let operation = "%FOO%".to_owned();
    refused(
        hcm(Tracing { operation, ..Default::default() }),
        "tracing.operation: format string, byte 0: unknown operator FOO",
    );
}
