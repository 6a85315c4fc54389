//! What is tapped.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::common::matcher::v3 as newer;
use nuncio_proto::envoy::config::common::matcher::v3::match_predicate::Rule as NewerRule;
use nuncio_proto::envoy::config::tap::v3 as older;
use nuncio_proto::envoy::config::tap::v3::match_predicate::Rule as OlderRule;

/// A condition on what is tapped. Of a connection nothing is known that HTTP has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Predicate {
    Any,
    Or(Vec<Predicate>),
    And(Vec<Predicate>),
    Not(Box<Predicate>),
    /// Something that only HTTP has.
    Http,
}

/// Conditions within conditions: more would be no configuration that somebody wrote.
const MAX_DEPTH: usize = 32;

/// Both generations of the message, which differ in nothing but their names.
macro_rules! lower_rule {
    ($rule:expr, $depth:expr, $cx:expr, $Rule:ident, $lower:path) => {{
        let (depth, cx) = ($depth + 1, $cx);
        if depth > MAX_DEPTH {
            return Err(cx.invalid(format!("conditions are nested deeper than {MAX_DEPTH}")));
        }
        match $rule {
            Some($Rule::OrMatch(set)) => {
                Self::Or(cx.at("or_match", |cx| cx.each("rules", set.rules, |r, cx| $lower(r, depth, cx)))?)
            }
            Some($Rule::AndMatch(set)) => {
                Self::And(cx.at("and_match", |cx| cx.each("rules", set.rules, |r, cx| $lower(r, depth, cx)))?)
            }
            Some($Rule::NotMatch(rule)) => Self::Not(Box::new(cx.at("not_match", |cx| $lower(*rule, depth, cx))?)),
            Some($Rule::AnyMatch(_)) => Self::Any,
            Some(
                $Rule::HttpRequestHeadersMatch(_)
                | $Rule::HttpRequestTrailersMatch(_)
                | $Rule::HttpResponseHeadersMatch(_)
                | $Rule::HttpResponseTrailersMatch(_)
                | $Rule::HttpRequestGenericBodyMatch(_)
                | $Rule::HttpResponseGenericBodyMatch(_),
            ) => Self::Http,
            None => return Err(cx.invalid("one of the conditions is required")),
        }
    }};
}

// === impl Predicate ===

impl Predicate {
    pub(super) fn lower(proto: newer::MatchPredicate, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        Self::lower_newer_at(proto, 0, cx)
    }

    /// Lowers the message that came before the other.
    pub(super) fn lower_older(proto: older::MatchPredicate, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        Self::lower_older_at(proto, 0, cx)
    }

    fn lower_newer_at(proto: newer::MatchPredicate, depth: usize, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let newer::MatchPredicate { rule } = proto;
        Ok(lower_rule!(rule, depth, cx, NewerRule, Self::lower_newer_at))
    }

    fn lower_older_at(proto: older::MatchPredicate, depth: usize, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let older::MatchPredicate { rule } = proto;
        Ok(lower_rule!(rule, depth, cx, OlderRule, Self::lower_older_at))
    }

    /// Whether a connection is tapped. Envoy: what only HTTP has is never there.
    pub(super) fn takes_connections(&self) -> bool {
        match self {
            Self::Any => true,
            Self::Or(rules) => rules.iter().any(Self::takes_connections),
            Self::And(rules) => rules.iter().all(Self::takes_connections),
            Self::Not(rule) => !rule.takes_connections(),
            Self::Http => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_tapped_where_nothing_of_http_is_asked_for() {
        use Predicate::*;
        let check =
            |predicate: Predicate, expected| assert_eq!(predicate.takes_connections(), expected, "{predicate:?}");
        check(Any, true);
        check(Http, false);
        check(Not(Box::new(Http)), true);
        check(Or(vec![Http, Any]), true);
        check(And(vec![Http, Any]), false);
    }
}
