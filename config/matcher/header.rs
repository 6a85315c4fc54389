use http::{HeaderMap, HeaderName, Method};
use nuncio_filter_api::{LowerCx, Refused, RequestHead, ResponseHead};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::r#type::v3::Int64Range;
use nuncio_telemetry::format::RequestView;
use proto::header_matcher::HeaderMatchSpecifier as Specifier;
use smallvec::SmallVec;

use super::{Regex, StringMatcher};

/// `envoy.config.route.v3.HeaderMatcher`. Several fields of one name are matched as one value, joined by commas.
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
pub(crate) type JoinBuffer = SmallVec<[u8; 128]>;

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
        let mut joined = JoinBuffer::new();
        self.matches(self.field.in_request(head, &mut joined))
    }

    /// Whether the header matches in a request as access logs see it.
    pub fn matches_view(&self, view: &RequestView<'_>) -> bool {
        let mut joined = JoinBuffer::new();
        let value = match self.field {
            Field::Method => Some(view.method.as_bytes()),
            Field::Scheme => Some(view.scheme.as_bytes()).filter(|v| !v.is_empty()),
            Field::Authority => Some(view.authority.as_bytes()).filter(|v| !v.is_empty()),
            Field::Path => Some(view.path.as_bytes()).filter(|v| !v.is_empty()),
            Field::Upgrade => view.protocol.map(str::as_bytes),
            Field::Header(_) | Field::Status | Field::Nowhere => self.field.in_map(view.headers, &mut joined),
        };
        self.matches(value)
    }

    /// Whether the response's header matches.
    pub fn matches_response(&self, head: &ResponseHead) -> bool {
        let mut joined = JoinBuffer::new();
        self.matches(self.field.in_response(head, &mut joined))
    }

    /// Whether the field matches among `fields`, which are trailers or otherwise without pseudo-headers.
    pub fn matches_fields(&self, fields: &HeaderMap) -> bool {
        let mut joined = JoinBuffer::new();
        self.matches(self.field.in_map(fields, &mut joined))
    }

    fn matches(&self, value: Option<&[u8]>) -> bool {
        let value = match (value, self.missing) {
            (Some(value), _) => value,
            (None, Missing::Empty) => &[],
            // Envoy: inversion does not make a missing header match, save that it inverts presence itself.
            (None, Missing::Unmatched) => return matches!(self.test, Test::Present(p) if p == self.invert),
        };
        let matched = match &self.test {
            Test::Present(present) => *present,
            Test::Range(start, end) => parse_integer(value).is_some_and(|n| (*start..*end).contains(&n)),
            Test::Value(matcher) => matcher.matches(value),
            Test::Anything => true,
        };
        matched != self.invert
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
    fn lower(name: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
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

    /// The value in a request; `None` where it is missing.
    pub(crate) fn in_request<'a>(&self, head: &'a RequestHead, joined: &'a mut JoinBuffer) -> Option<&'a [u8]> {
        let filled = |s: &'a str| (!s.is_empty()).then_some(s.as_bytes());
        match self {
            Self::Method => Some(method(head).as_str().as_bytes()),
            Self::Scheme => filled(head.scheme.as_str()),
            Self::Authority => filled(&head.authority),
            Self::Path => filled(&head.path),
            Self::Upgrade => match &head.protocol {
                Some(protocol) if !head.headers.contains_key(http::header::UPGRADE) => Some(protocol.as_bytes()),
                _ => self.in_map(&head.headers, joined),
            },
            Self::Header(_) | Self::Status | Self::Nowhere => self.in_map(&head.headers, joined),
        }
    }

    fn in_response<'a>(&self, head: &'a ResponseHead, joined: &'a mut JoinBuffer) -> Option<&'a [u8]> {
        match self {
            Self::Status => Some(head.status.as_str().as_bytes()),
            _ => self.in_map(&head.headers, joined),
        }
    }

    fn in_map<'a>(&self, headers: &'a HeaderMap, joined: &'a mut JoinBuffer) -> Option<&'a [u8]> {
        let name = match self {
            Self::Header(name) => name,
            Self::Upgrade => &http::header::UPGRADE,
            _ => return None,
        };
        let mut values = headers.get_all(name).iter();
        let first = values.next()?.as_bytes();
        let Some(second) = values.next() else { return Some(first) };
        joined.extend_from_slice(first);
        for value in std::iter::once(second).chain(values) {
            joined.push(b',');
            joined.extend_from_slice(value.as_bytes());
        }
        Some(joined)
    }
}

/// The method as routes see it: an extended CONNECT is the GET that it would be in HTTP/1.
fn method(head: &RequestHead) -> &Method {
    match &head.protocol {
        Some(protocol) if head.method == Method::CONNECT && !is_tunnel(protocol) => &Method::GET,
        _ => &head.method,
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
