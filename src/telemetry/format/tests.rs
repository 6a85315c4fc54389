//! The expected values were printed by Envoy 1.40 for the same request, where not said otherwise.

mod fuzz;
mod support;

use super::*;
use crate::{Address, FilterValue, LifeSpan, ResponseFlag};
use support::{Exchange, check, check_text, json, refused};

#[test]
fn default_format_is_envoys() {
    let x = Exchange::proxied();
    let format = LineFormat::default_http();
    let mut out = Vec::new();
    format.write(&x.cx(), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "[2026-11-21T01:18:12.533Z] \"GET /a/b?x=1&y=%20z HTTP/1.1\" 200 - 0 5 3 2 \"-\" \"ua\" \
         \"64a9b815-2ad0-46bd-b0c6-cf1c17ad8186\" \"h.example:80\" \"127.0.0.1:43765\"\n"
    );
}

#[test]
fn every_operator_of_a_proxied_request_has_envoys_value_and_type() {
    let x = Exchange::proxied();
    for row in include_str!("tests/proxied.txt").lines().filter(|l| !l.starts_with('#')) {
        let [operator, text, json] = row.split(" | ").collect::<Vec<_>>()[..] else { panic!("{row}") };
        check(&x, operator, text, json);
    }
}

#[test]
fn every_operator_of_a_direct_response_has_envoys_value_and_type() {
    let x = Exchange::direct();
    for row in include_str!("tests/direct.txt").lines().filter(|l| !l.starts_with('#')) {
        let [operator, text, json] = row.split(" | ").collect::<Vec<_>>()[..] else { panic!("{row}") };
        check(&x, operator, text, json);
    }
}

#[test]
fn every_name_of_the_table_parses_or_is_refused_by_name() {
    for (name, takes_argument) in operators::table::names() {
        let argument = match (name, takes_argument) {
            ("COMMON_DURATION", _) => "(DS_RX_BEG:DS_TX_END)",
            ("METADATA", _) => "(DYNAMIC:ns)",
            ("XFCC_VALUE", _) => "(uri)",
            ("COALESCE", _) => r#"({"operators":["PROTOCOL"]})"#,
            (_, true) => "(x)",
            (_, false) => "",
        };
        match Format::parse(&format!("%{name}{argument}%")) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind, FormatErrorKind::NotImplemented { name }),
        }
    }
}

#[test]
fn malformed_operators_are_refused_with_their_place() {
    for (text, position) in [
        ("%", 0),
        ("a%", 1),
        ("%%%", 2),
        ("%req(a)%", 0),
        ("%REQ(a):x%", 0),
        ("%REQ(a):99999999999999999999999%", 0),
        ("%REQ(a\nb)%", 0),
        ("%START_TIME(%Y)", 0),
        ("%START_TIME(%Y)%)%", 17),
        ("%QUERY_PARAM(x):%", 0),
        ("é%(", 2),
    ] {
        let error = Format::parse(text).unwrap_err();
        assert_eq!(error, FormatError { position, kind: FormatErrorKind::NoOperator }, "{text}");
    }
}

#[test]
fn arguments_that_envoy_refuses_are_refused() {
    for text in [
        "REQ",
        "REQ(a?b?c)",
        "REQ(a b)",
        "REQ()",
        "REQ(X-é)",
        "REQ(:)",
        "PROTOCOL(x)",
        "PROTOCOL:3",
        "RESPONSE_CODE_DETAILS(X):3",
        "START_TIME(%n)",
        "START_TIME:3",
        "START_TIME(%Y):3",
        "COMMON_DURATION",
        "COMMON_DURATION(a)",
        "COMMON_DURATION(a:b:c)",
        "COMMON_DURATION(a:b:ms:d)",
        "GRPC_STATUS(X)",
        "GRPC_STATUS(NUMBER):2",
        "PATH(A)",
        "PATH(WQ:B)",
        "QUERY_PARAMS(X)",
        "QUERY_PARAM",
        "METADATA(X:y)",
        "METADATA",
        "DYNAMIC_METADATA",
        "CLUSTER_METADATA(a):3",
        "ENVIRONMENT",
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT():2",
        "REQUESTED_SERVER_NAME(FOO)",
        "REQUESTED_SERVER_NAME(SNI_FIRST:FOO)",
        "REQUESTED_SERVER_NAME(SNI_FIRST:SNI)",
        "COALESCE",
        "COALESCE({})",
        r#"COALESCE({"operators":[]})"#,
        r#"COALESCE({"operators":["FOO"]})"#,
        r#"COALESCE({"operators":[3]})"#,
        r#"COALESCE({"operators":[{"command":"REQ","param":"a","max_length":0}]})"#,
        "LOCAL_REPLY_BODY:3",
        "ACCESS_LOG_TYPE(x)",
        "TRACE_ID(x)",
    ] {
        assert!(matches!(refused(text), FormatErrorKind::Argument { .. }), "{text}");
    }
}

#[test]
fn arguments_that_envoy_takes_are_taken() {
    for text in [
        "REQ(a?)",
        "REQ(?b)",
        "PROTOCOL()",
        "START_TIME()",
        "RESPONSE_CODE_DETAILS(FOO)",
        "COMMON_DURATION(:)",
        "PATH(WQ:PATH:C)",
        "PATH()",
        "METADATA(DYNAMIC)",
        "DYNAMIC_METADATA(:)",
        "DYNAMIC_METADATA(a):3",
        "REQUESTED_SERVER_NAME(HOST_FIRST:ORIG_OR_HOST:x)",
        "RESP(:status)",
    ] {
        Format::parse(&format!("%{text}%")).unwrap();
    }
}

#[test]
fn unknown_names_are_refused_with_the_nearest_known_one() {
    let error = Format::parse("ab%RESPONSE_CODES%").unwrap_err();
    assert_eq!(
        error.to_string(),
        "format string, byte 2: unknown operator RESPONSE_CODES, did you mean RESPONSE_CODE?"
    );
    assert_eq!(refused("QQQ"), FormatErrorKind::Unknown { name: "QQQ".to_owned(), near: None });
    assert_eq!(refused("SECRET(a)").to_string(), "operator SECRET is not implemented yet");
}

#[test]
fn what_is_no_text_goes_out_as_it_is() {
    let x = Exchange::direct();
    let mut out = Vec::new();
    let format = Format::parse_bytes(b"\x89PNG\xff%%%REQ(nope)%\xfe").unwrap();
    format.write(&x.cx(), Missing::Dash, &mut out);
    assert_eq!(out, b"\x89PNG\xff%-\xfe");
    assert_eq!(Format::parse_bytes(b"\xff%X%").unwrap_err().position, 1);
}

#[test]
fn missing_values_are_dashes_or_nothing() {
    let x = Exchange::direct();
    for (missing, expected) in [(Missing::Dash, "x-y-z100%"), (Missing::Empty, "xy-z100%")] {
        let mut out = Vec::new();
        Format::parse("x%REQ(nope)%y%RESPONSE_FLAGS%z100%%").unwrap().write(&x.cx(), missing, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn header_values_understand_the_bracket_form_of_metadata() {
    let x = Exchange::proxied();
    for (text, expected) in [
        (r#"%UPSTREAM_METADATA(["hm", "k"])%"#, "vh"),
        (r#"a%%%DYNAMIC_METADATA(["ns","o","k"])%b"#, "a%vb"),
        ("%REQ(nope)%", ""),
        ("100%%", "100%"),
    ] {
        let mut out = Vec::new();
        Format::parse_header_value(text).unwrap().write(&x.cx(), Missing::Empty, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{text}");
    }
    x.info.filter_state.borrow_mut().set("k", FilterValue::Text("left".into()), LifeSpan::Request);
    let mut out = Vec::new();
    Format::parse_header_value("%PER_REQUEST_STATE(k)%").unwrap().write(&x.cx(), Missing::Empty, &mut out);
    assert_eq!(out, b"left");
    assert!(Format::parse_header_value("%DYNAMIC_METADATA([1])% %").is_err());
}

#[test]
fn filter_state_is_text_or_json() {
    let x = Exchange::direct();
    let set = |name, value| x.info.filter_state.borrow_mut().set(name, value, LifeSpan::FilterChain);
    set("t", FilterValue::Text("text".into()));
    set("n", FilterValue::Number(7));
    for (operator, text, json) in [
        ("FILTER_STATE(t:PLAIN)", "text", r#""text""#),
        ("FILTER_STATE(t)", r#""text""#, r#""text""#),
        ("FILTER_STATE(t:PLAIN):2", "te", r#""te""#),
        ("FILTER_STATE(n)", "7", "7"),
        ("FILTER_STATE(n:PLAIN)", "7", r#""7""#),
        ("FILTER_STATE(none)", "-", "null"),
        ("FILTER_STATE(t:FIELD:f)", "-", "null"),
    ] {
        check(&x, operator, text, json);
    }
    for refused in ["FILTER_STATE()", "FILTER_STATE(:PLAIN)", "FILTER_STATE(k:JSON)", "FILTER_STATE(k:FIELD)"] {
        assert!(Format::parse(&format!("%{refused}%")).is_err(), "{refused}");
    }
}

#[test]
fn hostile_bytes_stay_in_text_and_are_escaped_in_json() {
    let mut x = Exchange::proxied();
    x.request_header("user-agent", b"u\"a\tb\\c\x80\xff\xe2\x82\xac");
    x.request_header("dup", b"1");
    x.request_headers.append("dup", "2".parse().unwrap());
    x.request_header("empty", b"");
    assert_eq!(x.text("%REQ(user-agent)%"), b"u\"a\tb\\c\x80\xff\xe2\x82\xac");
    check(&x, "REQ(dup)", "1", r#""1""#);
    check(&x, "REQ(empty)", "", r#""""#);
    check(&x, "REQ(empty?dup)", "", r#""""#);
    check(&x, "REQ(user-agent):5", "u\"a\tb", r#""u\"a\tb""#);
    assert_eq!(x.json("%REQ(user-agent)%"), r#""u\u0022a\u0009b\u005cc\u0080\u00ff\u00e2\u0082\u00ac""#);
    assert_eq!(
        x.json("%PROTOCOL% x %REQ(nope)% %REQ(user-agent)%"),
        r#""HTTP/1.1 x - u\u0022a\u0009b\u005cc\u0080\u00ff\u00e2\u0082\u00ac""#
    );
}

#[test]
fn query_parameters_are_found_and_decoded() {
    let mut x = Exchange::proxied();
    x.path = "/rw/a%41/b?x=%41&y=%20z&e&q=1&q=2&p=a+b&%6b=v".to_owned();
    check(&x, "QUERY_PARAMS(DECODED)", "x=A&y=%20z&e&q=1&q=2&p=a+b&k=v", r#""x=A&y=%20z&e&q=1&q=2&p=a+b&k=v""#);
    for (name, expected) in [("x", "A"), ("y", " z"), ("q", "1"), ("e", ""), ("p", "a+b"), ("k", "v"), ("%6b", "-")] {
        check_text(&x, &format!("QUERY_PARAM({name})"), expected);
    }
    x.path = "/x?a=%zz%4&&b=%41=%42&c=&=v&d=1#f".to_owned();
    check_text(&x, "QUERY_PARAMS(DECODED)", "a=zz4&&b=A=B&c=&=v&d=1#f");
    check_text(&x, "QUERY_PARAM(a)", "%zz%4");
    x.path = "/x?%22%3C%7b%7F%80%2b%26%3d%25%2f".to_owned();
    check_text(&x, "QUERY_PARAMS(DECODED)", "%22%3C%7b%7F%80+&=%/");
    for (path, query) in [("/x?", ""), ("/x", "-"), ("/x#y?z=1", "z=1")] {
        x.path = path.to_owned();
        check_text(&x, "QUERY_PARAMS", query);
    }
}

#[test]
fn address_masks_follow_envoy() {
    let x = Exchange::proxied();
    for (mask, expected) in [
        ("33", "127.0.0.1/32"),
        ("129", "127.0.0.1/32"),
        ("x", "127.0.0.1"),
        ("0", "0.0.0.0/0"),
        ("-1", ""),
        ("", "127.0.0.1"),
    ] {
        check_text(&x, &format!("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT({mask})"), expected);
    }
    *x.info.remote.borrow_mut() = Address::Ip("[2001:db8:1234:5678:9abc:def0:1234:5678]:80".parse().unwrap());
    check_text(&x, "DOWNSTREAM_REMOTE_ADDRESS", "[2001:db8:1234:5678:9abc:def0:1234:5678]:80");
    check_text(&x, "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "2001:db8:1234:5678:9abc:def0:1234:5678");
    check_text(&x, "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(64)", "2001:db8:1234:5678::/64");
    *x.info.remote.borrow_mut() = Address::Pipe("@abstract".into());
    check(&x, "DOWNSTREAM_REMOTE_ADDRESS", "@abstract", r#""@abstract""#);
    check(&x, "DOWNSTREAM_REMOTE_PORT", "", "null");
}

#[test]
fn grpc_status_is_read_from_trailers_headers_or_the_http_status() {
    let mut x = Exchange::proxied();
    x.request_header("content-type", b"application/grpc");
    check(&x, "GRPC_STATUS", "Unknown", r#""Unknown""#);
    for (sent, camel, snake, number) in [
        ("0", "OK", "OK", "0"),
        ("1", "Canceled", "CANCELLED", "1"),
        ("3", "InvalidArgument", "INVALID_ARGUMENT", "3"),
        ("17", "17", "17", "17"),
        ("x", "-1", "-1", "-1"),
        ("-1", "-1", "-1", "-1"),
        ("", "Unknown", "UNKNOWN", "2"),
        ("+3", "InvalidArgument", "INVALID_ARGUMENT", "3"),
        ("03", "InvalidArgument", "INVALID_ARGUMENT", "3"),
    ] {
        x.response_header("grpc-status", sent.as_bytes());
        check(&x, "GRPC_STATUS", camel, &format!("{camel:?}"));
        check(&x, "GRPC_STATUS(SNAKE_STRING)", snake, &format!("{snake:?}"));
        check(&x, "GRPC_STATUS_NUMBER", number, number);
    }
    x.trailers = Some([("grpc-status".parse().unwrap(), "5".parse().unwrap())].into_iter().collect());
    check_text(&x, "GRPC_STATUS", "NotFound");
    x.request_header("content-type", b"application/grpc-web");
    check(&x, "GRPC_STATUS", "-", "null");
}

#[test]
fn the_last_attempt_alone_is_listed() {
    let x = Exchange::proxied();
    check_text(&x, "UPSTREAM_HOSTS_ATTEMPTED", "127.0.0.1:43765");
    check_text(&x, "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT", "127.0.0.1");
    check_text(&x, "UPSTREAM_HOST_NAMES_ATTEMPTED", "localhost");
    check_text(&x, "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT", "localhost");
    check_text(&x, "UPSTREAM_CONNECTION_IDS_ATTEMPTED", "2");
}

#[test]
fn flags_and_details_are_printed_for_grep() {
    let x = Exchange::proxied();
    x.info.flag(ResponseFlag::UpstreamRetryLimitExceeded);
    x.info.flag(ResponseFlag::UpstreamConnectionFailure);
    x.info.set_details("a b\tc{d}");
    x.info.upstream.borrow_mut().transport_failure = Some("delayed connect error: 111".into());
    check_text(&x, "RESPONSE_FLAGS", "URX,UF");
    check_text(&x, "RESPONSE_FLAGS_LONG", "UpstreamRetryLimitExceeded,UpstreamConnectionFailure");
    check_text(&x, "RESPONSE_CODE_DETAILS", "a_b_c{d}");
    check_text(&x, "RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)", "a b\tc{d}");
    check_text(&x, "UPSTREAM_TRANSPORT_FAILURE_REASON", "delayed_connect_error:_111");
}

#[test]
fn hostile_server_names_are_marked_and_cleaned() {
    // CVE-2024-45808: text that the client chose must not forge log lines.
    let x = Exchange::proxied();
    for (sni, expected) in [
        ("a.example-1.com", "a.example-1.com"),
        ("outbound_.80_._.a", "outbound_.80_._.a"),
        ("a\n\"b", "invalid:a__b"),
        ("", "-"),
        ("é.x", "invalid:__.x"),
    ] {
        *x.info.connection.server_name.borrow_mut() = Some(sni.into());
        check_text(&x, "REQUESTED_SERVER_NAME", expected);
    }
    check_text(&x, "REQUESTED_SERVER_NAME(HOST_FIRST:ORIG)", "invalid:__.x");
    check_text(&x, "REQUESTED_SERVER_NAME(HOST_FIRST)", "h.example:80");
}

#[test]
fn unique_ids_are_version_4_uuids() {
    let x = Exchange::proxied();
    check_text(&x, "UNIQUE_ID", "ffffffff-ffff-4fff-bfff-ffffffffffff");
}

#[test]
fn json_keeps_types_sorts_keys_and_ends_the_line() {
    let x = Exchange::proxied();
    let fields = json(include_str!("tests/format.json"));
    let line = |missing| {
        let mut out = Vec::new();
        JsonFormatter::compile(&fields, missing).unwrap().write(&x.cx(), &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(line(Missing::Dash), include_str!("tests/format.null.json"));
    assert_eq!(line(Missing::Empty), include_str!("tests/format.omit.json"));
}

#[test]
fn json_that_omits_everything_is_an_empty_object() {
    let x = Exchange::direct();
    for missing in [Missing::Dash, Missing::Empty] {
        let mut out = Vec::new();
        JsonFormatter::compile(&[], missing).unwrap().write(&x.cx(), &mut out);
        assert_eq!(out, b"{}\n");
    }
}
