use std::borrow::Cow;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::route::v3 as proto;
use percent_encoding::percent_decode;
use proto::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;

use super::StringMatcher;

/// `envoy.config.route.v3.QueryParameterMatcher`: looks at the first value of a parameter, not percent-decoded.
#[derive(Clone, Debug)]
pub struct QueryMatcher {
    name: Box<[u8]>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Absent,
    Value(StringMatcher),
}

impl QueryMatcher {
    /// Compiles the message.
    pub fn lower(message: proto::QueryParameterMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::QueryParameterMatcher { name, query_parameter_match_specifier } = message;
        let test = match query_parameter_match_specifier {
            None | Some(Specifier::PresentMatch(true)) => Test::Present,
            Some(Specifier::PresentMatch(false)) => Test::Absent,
            Some(Specifier::StringMatch(m)) => Test::Value(cx.at("string_match", |cx| StringMatcher::lower(m, cx))?),
        };
        Ok(Self { name: name.into_bytes().into(), test })
    }

    /// Whether it matches the query of `path`.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.holds(first_value(path, &self.name))
    }

    /// As [`QueryMatcher::matches`], of parameters that are percent-decoded.
    pub fn matches_decoded(&self, path: &[u8]) -> bool {
        self.holds(first_decoded_value(path, &self.name).as_deref())
    }

    fn holds(&self, value: Option<&[u8]>) -> bool {
        match &self.test {
            Test::Present => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Value(matcher) => value.is_some_and(|value| matcher.matches(value)),
        }
    }
}

/// The first value of the parameter `name` in the query of `path`; empty if it has no `=`.
pub(crate) fn first_value<'a>(path: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    parameters(path).find_map(|(key, value)| (key == name).then_some(value))
}

/// The same, where both names and values are percent-decoded.
pub(crate) fn first_decoded_value<'a>(path: &'a [u8], name: &[u8]) -> Option<Cow<'a, [u8]>> {
    let (_, value) = parameters(path).find(|(key, _)| percent_decode(key).eq(name.iter().copied()))?;
    Some(percent_decode(value).into())
}

/// Names and values in the query of `path`.
fn parameters(path: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let query = memchr::memchr(b'?', path).map_or(&path[..0], |at| &path[at + 1..]);
    let is_empty = query.is_empty();
    // Envoy takes no parameter after a final `&`, but takes an empty one between two.
    let query = query.strip_suffix(b"&").unwrap_or(query);
    let all = query.split(|b| *b == b'&').map(|parameter| match memchr::memchr(b'=', parameter) {
        Some(at) => (&parameter[..at], &parameter[at + 1..]),
        None => (parameter, &parameter[..0]),
    });
    all.take(if is_empty { 0 } else { usize::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_can_be_decoded() {
        let value = |path: &'static str, name: &str| {
            first_decoded_value(path.as_bytes(), name.as_bytes()).map(|v| String::from_utf8(v.into_owned()).unwrap())
        };
        assert_eq!(value("/?%78=%31&x=2", "x").as_deref(), Some("1"));
        assert_eq!(value("/?x=%3&y=%zz", "x").as_deref(), Some("%3"));
        assert_eq!(value("/?x", "y"), None);
    }

    #[test]
    fn the_first_value_counts() {
        let value = |path: &'static str, name: &str| {
            first_value(path.as_bytes(), name.as_bytes()).map(|v| std::str::from_utf8(v).unwrap())
        };
        assert_eq!(value("/a?x=1&x=2", "x"), Some("1"));
        assert_eq!(value("/a?y&x=1=2", "x"), Some("1=2"));
        assert_eq!(value("/a?x", "x"), Some(""));
        assert_eq!(value("/a?%78=1", "x"), None);
        assert_eq!(value("/a?b?x=1", "x"), None);
        assert_eq!(value("/a", "x"), None);
        assert_eq!(value("/a?", ""), None);
        assert_eq!(value("/a?x&", ""), None);
        assert_eq!(value("/a?x&&y", ""), Some(""));
        let decoded = |path: &'static str| first_decoded_value(path.as_bytes(), b"x y").map(|v| v.into_owned());
        assert_eq!(decoded("/a?x%20y=%31+").as_deref(), Some(&b"1+"[..]));
        assert_eq!(decoded("/a?x+y=1"), None);
    }
}
