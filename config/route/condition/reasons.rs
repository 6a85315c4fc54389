//! Why a route is not for a request, in words.

use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::r#type::matcher::v3 as matcher;
use proto::header_matcher::HeaderMatchSpecifier as Header;
use proto::query_parameter_matcher::QueryParameterMatchSpecifier as Query;
use proto::route_match::PathSpecifier;

use super::{Asked, Match, Path};
use crate::load::{Defaults, to_json};
use crate::matcher::{cookie, first_value};
use crate::route::paths::Place;
use crate::route::trie::Fold;

/// A condition of a route that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What is looked at, such as `header "x-env"`.
    pub condition: String,
    /// What it must be.
    pub expected: String,
    /// What it is.
    pub actual: String,
}

impl Reason {
    /// Envoy: a route whose optional plugin is unknown matches nothing.
    pub(in crate::route) fn unknown_plugin() -> Self {
        let (expected, actual) = ("to be known".into(), "unknown and optional".into());
        Self { condition: "cluster specifier plugin".into(), expected, actual }
    }
}

impl Match {
    /// What of the route, which was lowered from `message`, does not hold; nothing, if the route is for the request.
    /// `connect` says whether the request is one for `connect_matcher`.
    pub(in crate::route) fn reasons(
        &self,
        message: &proto::RouteMatch,
        asked: Asked<'_>,
        connect: bool,
    ) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if !self.path_holds(asked.path, connect) {
            let actual = quoted(Some(asked.path));
            reasons.push(Reason { condition: "path".into(), expected: path(message), actual });
        }
        let Some(conditions) = &self.conditions else { return reasons };
        let holds = conditions.hold(asked);
        if !holds {
            self.name_conditions(message, asked, &mut reasons);
        }
        if !holds && reasons.is_empty() {
            let (expected, actual) = ("to hold".into(), "does not".into());
            reasons.push(Reason { condition: "one of the other conditions".into(), expected, actual });
        }
        reasons
    }

    fn path_holds(&self, path: &[u8], connect: bool) -> bool {
        let Path::Key { key, place, fold } = &self.path else {
            let regex = self.conditions.as_ref().and_then(|c| c.regex.as_ref());
            let is_connect = matches!(self.path, Path::Connect);
            // A request without path is for connect_matcher alone.
            return if is_connect { connect } else { !path.is_empty() && regex.is_none_or(|r| r.is_match(path)) };
        };
        let begins = path.get(..key.len()).is_some_and(|start| match fold {
            Fold::Exact => *start == **key,
            Fold::Lower => start.eq_ignore_ascii_case(key),
        });
        begins
            && !path.is_empty()
            && match place {
                Place::Anywhere => true,
                Place::End => path.len() == key.len(),
                Place::Segment => path.get(key.len()).is_none_or(|next| *next == b'/'),
            }
    }

    fn name_conditions(&self, message: &proto::RouteMatch, asked: Asked<'_>, reasons: &mut Vec<Reason>) {
        let Some(conditions) = &self.conditions else { return };
        let Asked { head, info, random, .. } = asked;
        let mut add = |condition: String, expected: String, actual: String| {
            reasons.push(Reason { condition, expected, actual });
        };
        if let Some((fraction, said)) = conditions.fraction.as_ref().zip(message.runtime_fraction.as_ref())
            && !fraction.holds(random)
        {
            add("runtime_fraction".into(), json(said), format!("random value {random}"));
        }
        if conditions.grpc && !head.is_grpc() {
            add("grpc".into(), "content-type of gRPC".into(), value(head, "content-type"));
        }
        for (compiled, said) in conditions.headers.iter().zip(&message.headers) {
            if !compiled.matches_request(head) {
                add(format!("header {:?}", said.name), header(said), value(head, &said.name));
            }
        }
        for (compiled, said) in conditions.query.iter().zip(&message.query_parameters) {
            let path = head.path.as_bytes();
            if !compiled.matches(path) {
                add(
                    format!("query parameter {:?}", said.name),
                    query(said),
                    quoted(first_value(path, said.name.as_bytes())),
                );
            }
        }
        for (compiled, said) in conditions.cookies.iter().zip(&message.cookies) {
            if !compiled.matches(&head.headers) {
                let expected = said.string_match.as_ref().map_or_else(|| "present".into(), string);
                let actual = quoted(cookie(&head.headers, said.name.as_bytes()));
                add(format!("cookie {:?}", said.name), inverted(expected, said.invert_match), actual);
            }
        }
        if let Some(said) = &message.tls_context
            && !conditions.certificate.is_none_or(|c| c.matches(&info.connection))
        {
            add("tls_context".into(), json(said), "another connection, or one without TLS".into());
        }
        let metadata = info.metadata.borrow();
        for (compiled, said) in conditions.metadata.iter().zip(&message.dynamic_metadata) {
            if !compiled.matches(metadata.as_deref()) {
                add(format!("dynamic metadata {:?}", said.filter), json(said), "another value, or none".into());
            }
        }
        let state = info.filter_state.borrow();
        for (compiled, said) in conditions.filter_state.iter().zip(&message.filter_state) {
            if !compiled.matches(&state) {
                let actual = compiled.looks_at(&state).map_or_else(|| "absent".into(), |value| format!("{value:?}"));
                add(format!("filter state {:?}", said.key), json(said), actual);
            }
        }
    }
}

/// The path that a route is for.
pub(in crate::route) fn path(message: &proto::RouteMatch) -> String {
    let path = match &message.path_specifier {
        None => String::new(),
        Some(PathSpecifier::Prefix(prefix)) => format!("prefix {prefix:?}"),
        Some(PathSpecifier::Path(path)) => format!("path {path:?}"),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => format!("path_separated_prefix {prefix:?}"),
        Some(PathSpecifier::SafeRegex(regex)) => format!("safe_regex {:?}", regex.regex),
        Some(PathSpecifier::ConnectMatcher(_)) => "connect_matcher".into(),
        Some(PathSpecifier::PathMatchPolicy(policy)) => format!("path_match_policy {}", json(policy)),
    };
    match &message.case_sensitive {
        Some(case) if !case.value => path + " in any case",
        _ => path,
    }
}

fn header(message: &proto::HeaderMatcher) -> String {
    let expected = match &message.header_match_specifier {
        None | Some(Header::PresentMatch(true)) => "present".into(),
        Some(Header::PresentMatch(false)) => "absent".into(),
        Some(Header::ExactMatch(text)) => format!("exact {text:?}"),
        Some(Header::PrefixMatch(text)) => format!("prefix {text:?}"),
        Some(Header::SuffixMatch(text)) => format!("suffix {text:?}"),
        Some(Header::ContainsMatch(text)) => format!("contains {text:?}"),
        Some(Header::SafeRegexMatch(regex)) => format!("safe_regex {:?}", regex.regex),
        Some(Header::RangeMatch(range)) => format!("a number from {} to below {}", range.start, range.end),
        Some(Header::StringMatch(text)) => string(text),
    };
    inverted(expected, message.invert_match)
}

fn query(message: &proto::QueryParameterMatcher) -> String {
    match &message.query_parameter_match_specifier {
        None | Some(Query::PresentMatch(true)) => "present".into(),
        Some(Query::PresentMatch(false)) => "absent".into(),
        Some(Query::StringMatch(text)) => string(text),
    }
}

fn string(message: &matcher::StringMatcher) -> String {
    use matcher::string_matcher::MatchPattern;
    let pattern = match &message.match_pattern {
        None => String::new(),
        Some(MatchPattern::Exact(text)) => format!("exact {text:?}"),
        Some(MatchPattern::Prefix(text)) => format!("prefix {text:?}"),
        Some(MatchPattern::Suffix(text)) => format!("suffix {text:?}"),
        Some(MatchPattern::Contains(text)) => format!("contains {text:?}"),
        Some(MatchPattern::SafeRegex(regex)) => format!("safe_regex {:?}", regex.regex),
        Some(MatchPattern::Custom(custom)) => json(custom),
    };
    if message.ignore_case { pattern + " in any case" } else { pattern }
}

fn inverted(expected: String, invert: bool) -> String {
    if invert { format!("not {expected}") } else { expected }
}

/// Every value of a header or pseudo-header.
fn value(head: &nuncio_filter_api::RequestHead, name: &str) -> String {
    match name {
        ":method" => format!("{:?}", head.method.as_str()),
        ":scheme" => format!("{:?}", head.scheme.as_str()),
        ":authority" => format!("{:?}", &*head.authority),
        ":path" => format!("{:?}", &*head.path),
        _ if name.eq_ignore_ascii_case("host") => format!("{:?}", &*head.authority),
        _ => {
            let values: Vec<_> = head.headers.get_all(name).iter().map(|v| quoted(Some(v.as_bytes()))).collect();
            if values.is_empty() { quoted(None) } else { values.join(", ") }
        }
    }
}

fn quoted(value: Option<&[u8]>) -> String {
    value.map_or_else(|| "absent".into(), |value| format!("{:?}", String::from_utf8_lossy(value)))
}

/// A message in one line.
fn json<T: prost::Message + prost::Name>(message: &T) -> String {
    to_json(message, Defaults::Omit).lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
