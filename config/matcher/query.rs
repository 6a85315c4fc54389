use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::route::v3 as proto;
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
        match (&self.test, first_value(path, &self.name)) {
            (Test::Present, value) => value.is_some(),
            (Test::Absent, value) => value.is_none(),
            (Test::Value(matcher), value) => value.is_some_and(|value| matcher.matches(value)),
        }
    }
}

/// The first value of the parameter `name` in the query of `path`; empty if it has no `=`.
pub(crate) fn first_value<'a>(path: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let query = &path[memchr::memchr(b'?', path)? + 1..];
    if query.is_empty() {
        return None;
    }
    // Envoy takes no parameter after a final `&`, but takes an empty one between two.
    let query = query.strip_suffix(b"&").unwrap_or(query);
    query.split(|b| *b == b'&').find_map(|parameter| {
        let (key, value) = match memchr::memchr(b'=', parameter) {
            Some(at) => (&parameter[..at], &parameter[at + 1..]),
            None => (parameter, &parameter[..0]),
        };
        (key == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
