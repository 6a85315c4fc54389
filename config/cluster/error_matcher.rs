use nuncio_filter_api::{LowerCx, Refused, ResponseHead};
use nuncio_proto::envoy::config::common::matcher::v3 as pb;
use nuncio_proto::envoy::config::common::matcher::v3::match_predicate::{MatchSet, Rule};

use crate::matcher::HeaderMatcher;

/// Which responses are errors of their host.
#[derive(Debug)]
pub enum ErrorMatcher {
    /// All are.
    Any,
    /// Those that are none by the other.
    Not(Box<Self>),
    /// Those that are by all of them.
    And(Box<[Self]>),
    /// Those that are by any of them.
    Or(Box<[Self]>),
    /// Those all of whose headers match.
    Headers(Box<[HeaderMatcher]>),
}

// === impl ErrorMatcher ===

impl ErrorMatcher {
    pub(super) fn lower(proto: pb::MatchPredicate, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::MatchPredicate { rule } = proto;
        let unseen = match rule {
            Some(Rule::OrMatch(MatchSet { rules })) => {
                return cx
                    .at("or_match", |cx| cx.each("rules", rules, Self::lower))
                    .map(|rules| Self::Or(rules.into()));
            }
            Some(Rule::AndMatch(MatchSet { rules })) => {
                return cx
                    .at("and_match", |cx| cx.each("rules", rules, Self::lower))
                    .map(|rules| Self::And(rules.into()));
            }
            Some(Rule::NotMatch(inner)) => {
                return cx.at("not_match", |cx| Self::lower(*inner, cx)).map(|inner| Self::Not(Box::new(inner)));
            }
            Some(Rule::AnyMatch(_)) => return Ok(Self::Any),
            Some(Rule::HttpResponseHeadersMatch(pb::HttpHeadersMatch { headers })) => {
                let headers =
                    cx.at("http_response_headers_match", |cx| cx.each("headers", headers, HeaderMatcher::lower));
                return headers.map(|headers| Self::Headers(headers.into()));
            }
            Some(Rule::HttpRequestHeadersMatch(_)) => "http_request_headers_match",
            Some(Rule::HttpRequestTrailersMatch(_)) => "http_request_trailers_match",
            Some(Rule::HttpResponseTrailersMatch(_)) => "http_response_trailers_match",
            Some(Rule::HttpRequestGenericBodyMatch(_)) => "http_request_generic_body_match",
            Some(Rule::HttpResponseGenericBodyMatch(_)) => "http_response_generic_body_match",
            None => return Err(cx.invalid("a rule is required")),
        };
        // Envoy looks at nothing but the head of the response, so that these never match.
        Err(cx.at(unseen, |cx| cx.not_implemented("a match on anything but the head of the response")))
    }

    /// Whether a response with this head is an error.
    pub fn is_error(&self, head: &ResponseHead) -> bool {
        match self {
            Self::Any => true,
            Self::Not(inner) => !inner.is_error(head),
            Self::And(all) => all.iter().all(|matcher| matcher.is_error(head)),
            Self::Or(any) => any.iter().any(|matcher| matcher.is_error(head)),
            Self::Headers(headers) => headers.iter().all(|header| header.matches_response(head)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    fn headers(name: &'static str) -> pb::MatchPredicate {
        let header = nuncio_proto::envoy::config::route::v3::HeaderMatcher { name: name.into(), ..Default::default() };
        pb::MatchPredicate {
            rule: Some(Rule::HttpResponseHeadersMatch(pb::HttpHeadersMatch { headers: vec![header] })),
        }
    }

    #[test]
    fn rules_are_put_together() {
        let env = crate::testing::env();
        let check = |rule: Rule, expected: bool| {
            let mut cx = LowerCx::new(&env);
            let matcher = ErrorMatcher::lower(pb::MatchPredicate { rule: Some(rule) }, &mut cx).expect("it is lowered");
            let mut head = ResponseHead::new(StatusCode::OK);
            head.headers.insert("x", "y".parse().expect("it is a value"));
            assert_eq!(matcher.is_error(&head), expected, "{matcher:?}");
        };
        let both = || MatchSet { rules: vec![headers("x"), headers("z")] };
        check(Rule::AnyMatch(true), true);
        check(Rule::AndMatch(both()), false);
        check(Rule::OrMatch(both()), true);
        check(Rule::NotMatch(Box::new(headers("x"))), false);
        check(Rule::NotMatch(Box::new(headers("z"))), true);
    }
}
