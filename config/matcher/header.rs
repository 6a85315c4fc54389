use http::{HeaderMap, HeaderName, HeaderValue};
use nuncio_filter_api::{LowerCx, Refused, RequestHead, ResponseHead};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::r#type::v3::Int64Range;
use nuncio_telemetry::format::RequestView;
use proto::header_matcher::HeaderMatchSpecifier as Specifier;
use smallvec::SmallVec;

use super::{Regex, StringMatcher};
use crate::header_rules::{Side, is_inline};

/// `envoy.config.route.v3.HeaderMatcher`. Of several fields of one name, one that matches is enough; those of which
/// Envoy keeps one line are matched as one value, joined by commas.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    field: Field,
    test: Test,
    missing: Missing,
    invert: bool,
}

#[derive(Clone, Debug)]
enum Test {
    Present(bool),
    /// Start included, end not.
    Range(i64, i64),
    Value(StringMatcher),
    /// The deprecated `exact_match` with an empty string.
    Anything,
}

/// What a missing header is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Missing {
    Unmatched,
    Empty,
}

/// Where a header's value is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Field {
    Method,
    Scheme,
    Authority,
    Path,
    Status,
    /// HTTP/1's Upgrade, or `:protocol` of an extended CONNECT, which Envoy turns into it.
    Upgrade,
    Header(HeaderName),
    /// A pseudo-header that no message has.
    Nowhere,
}

/// Holds the joined value of a header that occurs more than once.
type JoinBuffer = SmallVec<[u8; 128]>;

impl HeaderMatcher {
    /// Compiles the message.
    pub fn lower(message: proto::HeaderMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::HeaderMatcher { name, invert_match, treat_missing_header_as_empty, header_match_specifier } =
            message;
        let field = cx.at("name", |cx| Field::lower(&name, cx));
        let test = match header_match_specifier {
            None => Ok(Test::Present(true)),
            Some(Specifier::PresentMatch(present)) => Ok(Test::Present(present)),
            Some(Specifier::RangeMatch(Int64Range { start, end })) => Ok(Test::Range(start, end)),
            Some(Specifier::ExactMatch(s)) if s.is_empty() => Ok(Test::Anything),
            Some(Specifier::ExactMatch(s)) => Ok(Test::Value(StringMatcher::exact(s))),
            Some(Specifier::PrefixMatch(s)) => Ok(Test::Value(StringMatcher::prefix(s))),
            Some(Specifier::SuffixMatch(s)) => Ok(Test::Value(StringMatcher::suffix(s))),
            Some(Specifier::ContainsMatch(s)) => Ok(Test::Value(StringMatcher::contains(s))),
            Some(Specifier::SafeRegexMatch(r)) => cx
                .at("safe_regex_match", |cx| Regex::lower(r, cx))
                .map(|regex| Test::Value(StringMatcher::regex(regex))),
            Some(Specifier::StringMatch(m)) => cx.at("string_match", |cx| StringMatcher::lower(m, cx)).map(Test::Value),
        };
        let missing = if treat_missing_header_as_empty { Missing::Empty } else { Missing::Unmatched };
        Ok(Self { field: field?, test: test?, missing, invert: invert_match })
    }

    /// Whether the request's header matches.
    pub fn matches_request(&self, head: &RequestHead) -> bool {
        self.matches_view(&head.view())
    }

    /// Whether the header matches in a request as access logs see it.
    pub fn matches_view(&self, view: &RequestView<'_>) -> bool {
        self.decide(self.field.any_in_request(view, |value| self.matches(value)))
    }

    /// Whether the response's header matches.
    pub fn matches_response(&self, head: &ResponseHead) -> bool {
        self.decide(self.field.any_in_response(head, |value| self.matches(value)))
    }

    /// Whether the field matches among `fields`, which are response trailers.
    pub fn matches_trailers(&self, fields: &HeaderMap) -> bool {
        self.decide(self.field.any_in_map(fields, Side::Response, |value| self.matches(value)))
    }

    fn matches(&self, value: &[u8]) -> bool {
        match &self.test {
            Test::Present(present) => *present,
            Test::Range(start, end) => parse_integer(value).is_some_and(|n| (*start..*end).contains(&n)),
            Test::Value(matcher) => matcher.matches(value),
            Test::Anything => true,
        }
    }

    /// The result, of whether any value matched; `None`: there is none.
    fn decide(&self, any: Option<bool>) -> bool {
        match (any, self.missing) {
            (Some(any), _) => any != self.invert,
            (None, Missing::Empty) => self.matches(b"") != self.invert,
            // Envoy: inversion does not make a missing header match, save that it inverts presence itself.
            (None, Missing::Unmatched) => matches!(self.test, Test::Present(p) if p == self.invert),
        }
    }

    /// The header and the one value it must have for this to match, where that is so.
    pub(crate) fn only(&self) -> Option<(&Field, &[u8])> {
        let Test::Value(matcher) = &self.test else { return None };
        let value = matcher.only().filter(|value| !value.is_empty())?;
        (!self.invert).then_some((&self.field, value))
    }
}

// === impl Field ===

impl Field {
    pub(crate) fn lower(name: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        Ok(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":scheme" => Self::Scheme,
            ":authority" | "host" => Self::Authority,
            ":path" => Self::Path,
            ":status" => Self::Status,
            "upgrade" => Self::Upgrade,
            pseudo if pseudo.starts_with(':') => Self::Nowhere,
            _ => Self::Header(crate::value::header_name(name, cx)?),
        })
    }

    /// Whether `test` holds for any value of it in a request; `None` where there is none.
    pub(crate) fn any_in_request(&self, view: &RequestView<'_>, mut test: impl FnMut(&[u8]) -> bool) -> Option<bool> {
        let mut filled = |s: &str| (!s.is_empty()).then(|| test(s.as_bytes()));
        match self {
            Self::Method => filled(method(view)),
            Self::Scheme => filled(view.scheme),
            Self::Authority => filled(view.authority),
            Self::Path => filled(view.path),
            Self::Upgrade => match view.protocol {
                Some(protocol) if !view.headers.contains_key(http::header::UPGRADE) => filled(protocol),
                _ => self.any_in_map(view.headers, Side::Request, test),
            },
            Self::Header(_) | Self::Status | Self::Nowhere => self.any_in_map(view.headers, Side::Request, test),
        }
    }

    /// Its first value in a request, where that is text.
    pub(crate) fn first_in_request<'a>(&self, head: &'a RequestHead) -> Option<&'a str> {
        match self {
            Self::Method => Some(method(&head.view())),
            Self::Scheme => Some(head.scheme.as_str()),
            Self::Authority => Some(&*head.authority),
            Self::Path => Some(&*head.path),
            Self::Upgrade => head.headers.get(http::header::UPGRADE)?.to_str().ok(),
            Self::Header(name) => head.headers.get(name)?.to_str().ok(),
            Self::Status | Self::Nowhere => None,
        }
    }

    fn any_in_response(&self, head: &ResponseHead, mut test: impl FnMut(&[u8]) -> bool) -> Option<bool> {
        match self {
            Self::Status => Some(test(head.status.as_str().as_bytes())),
            _ => self.any_in_map(&head.headers, Side::Response, test),
        }
    }

    fn any_in_map(&self, headers: &HeaderMap, side: Side, mut test: impl FnMut(&[u8]) -> bool) -> Option<bool> {
        let name = match self {
            Self::Header(name) => name,
            Self::Upgrade => &http::header::UPGRADE,
            _ => return None,
        };
        let mut values = headers.get_all(name).iter();
        let first = values.next()?.as_bytes();
        let Some(second) = values.next() else { return Some(test(first)) };
        let mut all = [first, second.as_bytes()].into_iter().chain(values.map(HeaderValue::as_bytes));
        if !is_inline(side, name) {
            return Some(all.any(test));
        }
        let mut joined = JoinBuffer::new();
        for value in all {
            if !joined.is_empty() {
                joined.push(b',');
            }
            joined.extend_from_slice(value);
        }
        Some(test(&joined))
    }
}

/// The method as routes see it: an extended CONNECT is the GET that it would be in HTTP/1.
fn method<'a>(view: &RequestView<'a>) -> &'a str {
    match view.protocol {
        Some(protocol) if view.method == "CONNECT" && !is_tunnel(protocol) => "GET",
        _ => view.method,
    }
}

/// Whether an extended CONNECT to this protocol remains a CONNECT.
pub(crate) fn is_tunnel(protocol: &str) -> bool {
    protocol.is_empty() || protocol == "bytestream"
}

/// An integer as Envoy reads one from a header: with a sign and surrounding white space, if need be.
fn parse_integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
