use http::HeaderMap;
use http::header::COOKIE;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::route::v3 as proto;

use super::StringMatcher;

/// `envoy.config.route.v3.CookieMatcher`: looks at the first cookie of a name. One that is missing does not match, and
/// matches where the result is inverted.
#[derive(Clone, Debug)]
pub struct CookieMatcher {
    name: Box<[u8]>,
    value: StringMatcher,
    invert: bool,
}

impl CookieMatcher {
    /// Compiles the message.
    pub fn lower(message: proto::CookieMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::CookieMatcher { name, string_match, invert_match } = message;
        let value = string_match.ok_or_else(|| cx.at("string_match", |cx| cx.invalid("is required")))?;
        let value = cx.at("string_match", |cx| StringMatcher::lower(value, cx))?;
        Ok(Self { name: name.into_bytes().into(), value, invert: invert_match })
    }

    /// Whether it matches the cookies of a request.
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        cookie(headers, &self.name).is_some_and(|value| self.value.matches(value)) != self.invert
    }
}

/// The value of the first cookie named `name`, without the quotes around it.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let all = headers.get_all(COOKIE).into_iter().flat_map(|field| field.as_bytes().split(|b| *b == b';'));
    // Envoy: white space before a cookie is nothing, everywhere else it is part of name or value.
    let mut pairs = all.map(<[u8]>::trim_ascii_start).filter_map(|pair| {
        let at = memchr::memchr(b'=', pair)?;
        Some((&pair[..at], &pair[at + 1..]))
    });
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(match value {
        [b'"', inner @ .., b'"'] => inner,
        value => value,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_first_cookie_of_a_name_counts() {
        let value = |fields: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(COOKIE, HeaderValue::from_static(field));
            }
            cookie(&headers, b"a").map(|v| std::str::from_utf8(v).unwrap().to_owned())
        };
        assert_eq!(value(&["a=1; a=2"]).as_deref(), Some("1"));
        assert_eq!(value(&["x=1", "b; a=2"]).as_deref(), Some("2"));
        assert_eq!(value(&[" a=\"q\""]).as_deref(), Some("q"));
        assert_eq!(value(&["a=\""]).as_deref(), Some("\""));
        assert_eq!(value(&["a=1 ;b"]).as_deref(), Some("1 "));
        assert_eq!(value(&["a=b=c"]).as_deref(), Some("b=c"));
        assert_eq!(value(&["a = 1"]), None);
        assert_eq!(value(&["a"]), None);
        assert_eq!(value(&[]), None);
    }
}
