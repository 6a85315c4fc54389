//! One test: the request goes through the table as through that of the data path.

// Deprecated fields of header matchers are tests too.
#![allow(deprecated)]

use std::fmt;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::SystemTime;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use nuncio_config::route::{Action, Cluster, EnvoyHeaders, RouteEntry, RouteTable};
use nuncio_filter_api::{RequestHead, ResponseHead};
use nuncio_proto::envoy::config::route::v3 as route;
use nuncio_proto::envoy::r#type::matcher::v3 as matcher;
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::{Address, ConnectionInfo, StreamInfo};
use route::header_matcher::HeaderMatchSpecifier as Specifier;
use tokio::time::Instant;

use super::cases::{Case, Headers};
use super::coverage::{Checked, Coverage};

/// Something that is not as expected.
#[derive(Debug, PartialEq)]
pub(super) struct Mismatch {
    /// What is checked.
    kind: String,
    /// `None` where it cannot be told in a value.
    expected: Option<String>,
    actual: String,
    /// The value is what it must not be.
    is_forbidden: bool,
}

/// In the words of Envoy's tool, which scripts look for.
impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, expected, actual, is_forbidden } = self;
        if let Some(expected) = expected {
            write!(f, "expected: [{expected}], ")?;
        }
        let not = if *is_forbidden { "NOT " } else { "" };
        write!(f, "actual: {not}[{actual}], test type: {kind}")
    }
}

/// What became of the request.
struct Outcome<'a> {
    /// Its number and itself; only if it forwards.
    forward: Option<(usize, &'a RouteEntry)>,
    /// The same, if it does not.
    answer: Option<(usize, &'a RouteEntry)>,
    cluster: String,
    virtual_cluster: String,
    timeout: String,
    location: String,
    request: RequestHead,
    response: ResponseHead,
}

impl Case {
    /// Runs the test. What held is noted in `coverage`.
    pub(super) fn verify(&self, table: &RouteTable, coverage: &mut Coverage) -> Vec<Mismatch> {
        let outcome = self.route(table);
        let (forward, answer) = (outcome.forward, outcome.answer);
        let of_forward = |text: &str| forward.map(|_| text.to_owned()).unwrap_or_default();
        let host = forward.map(|(_, entry)| entry.virtual_host().name.to_string()).unwrap_or_default();
        let status = answer.map_or(0, |_| outcome.response.status.as_u16());
        let e = &self.expect;
        let code = e.code_redirect.map(|code| code.to_string());
        let timeout = e.timeout.map(|timeout| format!("{timeout:?}"));
        let checks = [
            ("cluster_name", &e.cluster, outcome.cluster.clone(), Some(Checked::Cluster)),
            (
                "virtual_cluster_name",
                &e.virtual_cluster,
                outcome.virtual_cluster.clone(),
                Some(Checked::VirtualCluster),
            ),
            ("virtual_host_name", &e.virtual_host, host, Some(Checked::VirtualHost)),
            ("path_rewrite", &e.path_rewrite, of_forward(&outcome.request.path), Some(Checked::PathRewrite)),
            ("host_rewrite", &e.host_rewrite, of_forward(&outcome.request.authority), Some(Checked::HostRewrite)),
            ("path_redirect", &e.path_redirect, outcome.location.clone(), Some(Checked::Redirect)),
            ("code_redirect", &code, status.to_string(), Some(Checked::Redirect)),
            ("timeout", &timeout, outcome.timeout.clone(), None),
        ];
        let mut mismatches = Vec::new();
        for (kind, expected, actual, checked) in checks {
            let Some(expected) = expected else { continue };
            if *expected != actual {
                mismatches.push(Mismatch::new(kind, expected, actual));
            } else if let Some(checked) = checked
                && let Some((entry, _)) = if checked == Checked::Redirect { answer } else { forward }
            {
                coverage.mark(entry, checked);
            }
        }
        let Outcome { request, response, .. } = &outcome;
        e.request.verify("request_header", |m| m.matches_request(request), |n| of_request(request, n), &mut mismatches);
        let value = |name: &str| of_response(response, name);
        e.response.verify("response_header", |m| m.matches_response(response), value, &mut mismatches);
        mismatches
    }

    fn route<'a>(&self, table: &'a RouteTable) -> Outcome<'a> {
        let info = info();
        if !self.metadata.is_empty() {
            *info.metadata.borrow_mut() = Some(Box::new(self.metadata.clone()));
        }
        let cx = FormatCx::new(&info, info.start, info.start_wall);
        let mut outcome = Outcome {
            forward: None,
            answer: None,
            cluster: String::new(),
            virtual_cluster: String::new(),
            timeout: String::new(),
            location: String::new(),
            request: self.head.clone(),
            response: ResponseHead { headers: self.response.clone(), ..ResponseHead::new(http::StatusCode::OK) },
        };
        let Some(number) = table.resolve(&self.head, &info, self.random) else { return outcome };
        let entry = table.entry(number);
        match entry.action() {
            Action::Forward(forward) => {
                outcome.timeout = format!("{:?}", forward.timeout(&self.head).unwrap_or_default());
                outcome.forward = Some((number, entry));
                entry.rewrite_request(&mut outcome.request, &cx, EnvoyHeaders::Add);
            }
            Action::NonForwarding => outcome.forward = Some((number, entry)),
            Action::Redirect(redirect) => outcome.answer(number, entry, redirect.status, &[]),
            Action::TlsRedirect => outcome.answer(number, entry, http::StatusCode::MOVED_PERMANENTLY, &[]),
            Action::DirectResponse(direct) => {
                outcome.answer(number, entry, direct.status, &direct.body(&self.head, &cx));
                if let Some(value) = direct.content_type() {
                    outcome.response.headers.insert(CONTENT_TYPE, value);
                }
            }
        }
        if outcome.forward.is_some() {
            outcome.cluster = cluster(entry, &self.head, &info);
            let counted = entry.virtual_host().virtual_cluster(&self.head);
            // Envoy: what no virtual cluster takes is in one called "other", if there are any.
            outcome.virtual_cluster = counted.map_or("", |(_, name)| name.map_or("other", |n| &**n)).to_owned();
        }
        outcome.location = entry.uri(&self.head, &cx).unwrap_or_default();
        entry.rewrite_response(&mut outcome.response, &outcome.request, &cx);
        outcome
    }
}

impl<'a> Outcome<'a> {
    fn answer(&mut self, number: usize, entry: &'a RouteEntry, status: http::StatusCode, body: &[u8]) {
        self.answer = Some((number, entry));
        self.response.status = status;
        if !body.is_empty() {
            let headers = &mut self.response.headers;
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
    }
}

/// The name of the cluster that the request goes to.
fn cluster(entry: &RouteEntry, head: &RequestHead, info: &StreamInfo) -> String {
    match entry.cluster() {
        Some(Cluster::Named(cluster)) => cluster.name.to_string(),
        Some(Cluster::Header(header)) => header.name(head).unwrap_or_default().to_owned(),
        Some(Cluster::Matcher(matcher)) => {
            matcher.find(head, info).map_or(String::new(), |cluster| cluster.name.to_string())
        }
        None => String::new(),
    }
}

/// A stream of a client on this host, as that of Envoy's tool is.
fn info() -> StreamInfo {
    let now = Instant::now();
    let address = Address::Ip((Ipv4Addr::LOCALHOST, 0).into());
    let connection = ConnectionInfo::new(0, address.clone(), address, now);
    StreamInfo::new(Rc::new(connection), now, SystemTime::now())
}

impl Headers {
    fn verify(
        &self,
        side: &str,
        matches: impl Fn(&nuncio_config::matcher::HeaderMatcher) -> bool,
        value: impl Fn(&str) -> Option<String>,
        mismatches: &mut Vec<Mismatch>,
    ) {
        for (message, compiled) in &self.matchers {
            if !matches(compiled) {
                mismatches.push(Mismatch::of_header(side, message, value(&message.name)));
            }
        }
        for header in &self.values {
            let actual = value(&header.key).unwrap_or_default();
            if actual != header.value {
                mismatches.push(Mismatch::new(&format!("{side}_fields"), &header.value, actual));
            }
        }
    }
}

fn of_request(head: &RequestHead, name: &str) -> Option<String> {
    match name {
        ":method" => Some(head.method.to_string()),
        ":scheme" => Some(head.scheme.as_str().to_owned()),
        ":authority" | "host" => Some(head.authority.to_string()),
        ":path" => Some(head.path.to_string()),
        name => first(&head.headers, name),
    }
}

fn of_response(head: &ResponseHead, name: &str) -> Option<String> {
    if name == ":status" { Some(head.status.as_str().to_owned()) } else { first(&head.headers, name) }
}

fn first(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

impl Mismatch {
    fn new(kind: &str, expected: &str, actual: String) -> Self {
        Self { kind: kind.to_owned(), expected: Some(expected.to_owned()), actual, is_forbidden: false }
    }

    fn of_header(side: &str, message: &route::HeaderMatcher, value: Option<String>) -> Self {
        let name = &message.name;
        let invert = message.invert_match;
        let kind = format!("{side}_matches.{}", specifier(message));
        let has = |is: bool| format!("has({name}):{is}");
        let actual = format!("{name}: {}", value.as_deref().unwrap_or("NULL"));
        let exact = match &message.header_match_specifier {
            None | Some(Specifier::PresentMatch(_)) => {
                return Self { kind, expected: Some(has(!invert)), actual: has(invert), is_forbidden: false };
            }
            Some(Specifier::StringMatch(m)) => match &m.match_pattern {
                Some(matcher::string_matcher::MatchPattern::Exact(exact)) => Some(exact),
                _ => None,
            },
            Some(Specifier::ExactMatch(exact)) => Some(exact),
            Some(_) => None,
        };
        let expected = exact.map(|exact| format!("{name}: {exact}"));
        Self { kind, is_forbidden: expected.is_some() && invert, expected, actual }
    }
}

/// The field that says how a header is matched.
fn specifier(message: &route::HeaderMatcher) -> &'static str {
    use matcher::string_matcher::MatchPattern;
    match &message.header_match_specifier {
        None | Some(Specifier::PresentMatch(_)) => "present_match",
        Some(Specifier::ExactMatch(_)) => "exact_match",
        Some(Specifier::SafeRegexMatch(_)) => "safe_regex_match",
        Some(Specifier::RangeMatch(_)) => "range_match",
        Some(Specifier::PrefixMatch(_)) => "prefix_match",
        Some(Specifier::SuffixMatch(_)) => "suffix_match",
        Some(Specifier::ContainsMatch(_)) => "contains_match",
        Some(Specifier::StringMatch(m)) => match &m.match_pattern {
            None => "string_match",
            Some(MatchPattern::Exact(_)) => "string_match.exact",
            Some(MatchPattern::Prefix(_)) => "string_match.prefix",
            Some(MatchPattern::Suffix(_)) => "string_match.suffix",
            Some(MatchPattern::SafeRegex(_)) => "string_match.safe_regex",
            Some(MatchPattern::Contains(_)) => "string_match.contains",
            Some(MatchPattern::Custom(_)) => "string_match.custom",
        },
    }
}
