use http::StatusCode;
use nuncio_filter_api::ResponseHead;

use super::*;

fn route(matched: &str, action: &str) -> RouteTable {
    routes(&format!("- {{match: {{{matched}}}, route: {{cluster: c, {action}}}}}"))
}

#[track_caller]
fn check_path(matched: &str, action: &str, path: &str, expected: &str) {
    let head = rewritten(&route(matched, action), get(&format!("h{path}")), EnvoyHeaders::Add);
    assert_eq!(head.path, *expected);
    assert_eq!(head.headers["x-envoy-original-path"], path);
}

#[test]
fn a_path_rewrite_keeps_the_query() {
    check_path("prefix: /a", "prefix_rewrite: /b", "/a/x?q=1", "/b/x?q=1");
    check_path("prefix: /a/", "prefix_rewrite: /", "/a/x", "/x");
    check_path("path: /a", "prefix_rewrite: /b", "/a?q", "/b?q");
    check_path("path_separated_prefix: /a", "prefix_rewrite: /b", "/a/c?q", "/b/c?q");
    check_path("safe_regex: {regex: '/a.*'}", "prefix_rewrite: /b", "/abc?q", "/b?q");
    check_path("prefix: /A, case_sensitive: false", "prefix_rewrite: /b", "/ax", "/bx");
    let regex = "regex_rewrite: {pattern: {regex: '^/s/([^/]+)(/.*)$'}, substitution: '\\2/in/\\1'}";
    check_path("prefix: /", regex, "/s/foo/v1?q=/s/", "/v1/in/foo?q=/s/");
    check_path("prefix: /", regex, "/other?q", "/other?q");
}

#[test]
fn a_rewrite_that_would_leave_nothing_is_not_done() {
    let all = "regex_rewrite: {pattern: {regex: '.*'}, substitution: ''}";
    let head = rewritten(&route("prefix: /", all), get("h/a?q"), EnvoyHeaders::Add);
    assert_eq!((&*head.path, head.headers.len()), ("/a?q", 0));
    check_location("prefix: /", all, "http://h/a?q", "http://h/a?q");
}

#[test]
fn nothing_is_rewritten_unless_asked_for() {
    let head = rewritten(&route("prefix: /", ""), get("h/a?q"), EnvoyHeaders::Add);
    assert_eq!((&*head.path, &*head.authority, head.headers.len()), ("/a?q", "h", 0));
    let head = rewritten(
        &route("prefix: /a", "prefix_rewrite: /b, host_rewrite_literal: new"),
        get("h/a"),
        EnvoyHeaders::Suppress,
    );
    assert_eq!((&*head.path, &*head.authority, head.headers.len()), ("/b", "new", 0));
}

#[track_caller]
fn check_host(action: &str, head: RequestHead, expected: &str) {
    let old = head.authority.clone();
    let head = rewritten(&route("prefix: /", action), head, EnvoyHeaders::Add);
    assert_eq!(head.authority, *expected);
    let original = head.headers.get("x-envoy-original-host").map(|v| v.to_str().unwrap());
    assert_eq!(original, (old != head.authority).then_some(&*old));
}

#[test]
fn the_host_is_rewritten() {
    check_host("host_rewrite_literal: new", get("old/"), "new");
    check_host("host_rewrite_header: x-h", with(get("old/"), "x-h", "new"), "new");
    check_host("host_rewrite_header: x-h", get("old/"), "old");
    check_host("host_rewrite_header: x-h", with(get("old/"), "x-h", ""), "old");
    let regex = "host_rewrite_path_regex: {pattern: {regex: '^/(.+)/.+$'}, substitution: '\\1'}";
    check_host(regex, get("old/new.org/path?/q"), "new.org");
    check_host(regex, get("old/path"), "/path");
}

#[test]
fn the_old_host_is_appended_to_x_forwarded_host_once() {
    let table = route("prefix: /", "host_rewrite_literal: new, append_x_forwarded_host: true");
    let forwarded = |head| rewritten(&table, head, EnvoyHeaders::Add).headers["x-forwarded-host"].clone();
    assert_eq!(forwarded(get("old/")), "old");
    assert_eq!(forwarded(with(get("old/"), "x-forwarded-host", "a")), "a,old");
    assert_eq!(forwarded(with(get("old/"), "x-forwarded-host", "a,old")), "a,old");
    assert_eq!(forwarded(with(get("old/"), "x-forwarded-host", "old,a")), "old,a,old");
}

#[test]
fn header_rules_are_applied_from_the_most_specific_level_on() {
    let yaml = |order: &str| {
        format!(
            "
{order}
request_headers_to_add: [{{header: {{key: x, value: config}}}}]
response_headers_to_add: [{{header: {{key: x-y, value: config}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]
virtual_hosts:
- name: h
  domains: ['*']
  request_headers_to_add: [{{header: {{key: x, value: host}}}}]
  response_headers_to_add: [{{header: {{key: x-y, value: host}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]
  routes:
  - match: {{prefix: /}}
    request_headers_to_add: [{{header: {{key: x, value: route}}}}]
    route:
      weighted_clusters:
        clusters:
        - name: c
          weight: 1
          host_rewrite_literal: weighted
          request_headers_to_add: [{{header: {{key: x, value: cluster}}}}]
          response_headers_to_add: [{{header: {{key: x-y, value: cluster}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]
"
        )
    };
    let values = |order: &str| {
        let table = table(&yaml(order));
        let head = rewritten(&table, get("h/"), EnvoyHeaders::Add);
        assert_eq!(head.authority, "weighted");
        let mut response = ResponseHead::new(StatusCode::OK);
        let info = info();
        let cx = FormatCx::new(&info, Instant::now(), SystemTime::UNIX_EPOCH);
        table.entry(0).rewrite_response(&mut response, &head, &cx);
        let request: Vec<_> = head.headers.get_all("x").iter().map(|v| v.to_str().unwrap()).collect();
        (request.join(" "), response.headers["x-y"].clone())
    };
    assert_eq!(values(""), ("cluster route host config".into(), HeaderValue::from_static("config")));
    let (request, response) = values("most_specific_header_mutations_wins: true");
    assert_eq!((&*request, response.to_str().unwrap()), ("cluster config host route", "host"));
}

#[track_caller]
fn check_location(matched: &str, redirect: &str, url: &str, expected: &str) {
    let table = routes(&format!("- {{match: {{{matched}}}, redirect: {{{redirect}}}}}"));
    let (scheme, rest) = url.split_once("://").unwrap();
    let mut head = get(rest);
    head.scheme = Scheme::parse(scheme.as_bytes()).unwrap();
    head.headers.insert("x-forwarded-proto", scheme.parse().unwrap());
    assert_eq!(location(table.entry(0), &head).as_deref(), Some(expected), "{redirect} of {url}");
}

#[test]
fn a_redirect_changes_what_it_names() {
    let check = |redirect, url, expected| check_location("prefix: /", redirect, url, expected);
    check("https_redirect: true", "http://h/p?q", "https://h/p?q");
    check("https_redirect: true", "http://h:80/p", "https://h/p");
    check("https_redirect: true", "http://h:8080/p", "https://h:8080/p");
    check("https_redirect: true", "https://h:443/p", "https://h:443/p");
    check("scheme_redirect: http", "https://h:443/p", "http://h/p");
    check("https_redirect: true, port_redirect: 8443", "http://h:80/p", "https://h:8443/p");
    check("port_redirect: 81", "http://h:8080/p", "http://h:81/p");
    check("port_redirect: 81", "http://[::1]:8080/p", "http://[::1]:81/p");
    check("https_redirect: true", "http://[::1]/p", "https://[::1]/p");
    check("host_redirect: new", "http://h:80/p", "http://new/p");
    check("host_redirect: 'n:81', port_redirect: 82", "http://h/p", "http://n:81:82/p");
    check("path_redirect: /n", "http://h/p?q=1", "http://h/n?q=1");
    check("path_redirect: new", "http://h/p", "http://h/new");
    check("path_redirect: /n, strip_query: true", "http://h/p?q=1", "http://h/n");
    check("path_redirect: '/n?a=b', strip_query: true", "http://h/p?q=1", "http://h/n?a=b");
    check("strip_query: true, host_redirect: new", "http://h/p?q=1", "http://new/p");
}

#[test]
fn a_redirect_rewrites_the_path() {
    check_location("prefix: /a", "prefix_rewrite: /b", "http://h/a/x?q", "http://h/b/x?q");
    check_location("path: /a", "prefix_rewrite: b", "http://h/a?q", "http://h/b?q");
    check_location("safe_regex: {regex: '/a.*'}", "prefix_rewrite: /b", "http://h/abc?q", "http://h/b?q");
    let regex = "regex_rewrite: {pattern: {regex: '/a/(.*)'}, substitution: '/\\1/b'}, strip_query: true";
    check_location("prefix: /a", regex, "http://h/a/x?q=/a/", "http://h/x/b");
}

#[test]
fn a_redirect_has_its_status() {
    for (code, status) in [
        ("MOVED_PERMANENTLY", 301),
        ("FOUND", 302),
        ("SEE_OTHER", 303),
        ("TEMPORARY_REDIRECT", 307),
        ("PERMANENT_REDIRECT", 308),
    ] {
        let table = routes(&format!("- {{match: {{prefix: /}}, redirect: {{response_code: {code}}}}}"));
        let Action::Redirect(redirect) = table.entry(0).action() else { panic!("a redirect") };
        assert_eq!(redirect.status.as_u16(), status);
    }
}

#[test]
fn formats_make_paths_and_hosts() {
    let table = routes(
        "- {match: {prefix: /}, route: {cluster: c, path_rewrite: '/n%REQ(x-a)%', host_rewrite: 'h%REQ(x-a)%'}}",
    );
    let head = rewritten(&table, with(get("old/a?q"), "x-a", "v"), EnvoyHeaders::Add);
    assert_eq!((&*head.path, &*head.authority), ("/nv?q", "hv"));
    assert_eq!(head.headers["x-envoy-original-path"], "/a?q");
    let head = rewritten(&table, get("old/a"), EnvoyHeaders::Add);
    assert_eq!((&*head.path, &*head.authority), ("/n", "h-"));
}

#[test]
fn a_format_never_breaks_the_request_line() {
    let table = routes("- {match: {prefix: /}, route: {cluster: c, path_rewrite: '/%REQ(x-a)%'}}");
    let head = rewritten(&table, with(get("h/a"), "x-a", "b HTTP/1.1"), EnvoyHeaders::Add);
    assert_eq!(&*head.path, "/a");
}
