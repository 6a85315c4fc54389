//! `MetadataMatcher` and the values it looks at.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::r#type::matcher::v3 as proto;
use nuncio_telemetry::Metadata;
use proto::metadata_matcher::PathSegment;
use proto::metadata_matcher::path_segment::Segment;
use serde_json::Value;

use super::StringMatcher;

/// `envoy.type.matcher.v3.MetadataMatcher`: a value of metadata, found by namespace and path.
#[derive(Clone, Debug)]
pub struct MetadataMatcher {
    filter: Box<str>,
    path: Box<[String]>,
    value: ValueMatcher,
    invert: bool,
}

/// `envoy.type.matcher.v3.ValueMatcher`
#[derive(Clone, Debug)]
pub(crate) enum ValueMatcher {
    Null,
    Exact(f64),
    /// Start included, end not.
    Range(f64, f64),
    String(StringMatcher),
    Bool(bool),
    Present(bool),
    /// Any element of a list.
    OneOf(Box<ValueMatcher>),
    Or(Box<[ValueMatcher]>),
}

impl MetadataMatcher {
    /// Compiles the message.
    pub fn lower(message: proto::MetadataMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::MetadataMatcher { filter, path, value, invert } = message;
        let path = cx.each("path", path, |PathSegment { segment }, cx| match segment {
            Some(Segment::Key(key)) => Ok(key),
            None => Err(cx.invalid("segment is required")),
        });
        let value = ValueMatcher::lower_required("value", value, cx);
        Ok(Self { filter: filter.into(), path: path?.into(), value: value?, invert })
    }

    /// Whether it matches `metadata`; without any, all values are missing.
    pub fn matches(&self, metadata: Option<&Metadata>) -> bool {
        self.value.matches(metadata.and_then(|m| self.find(m))) != self.invert
    }

    fn find<'a>(&self, metadata: &'a Metadata) -> Option<&'a Value> {
        let (first, rest) = self.path.split_first()?;
        let value = metadata.get(&*self.filter)?.get(first)?;
        rest.iter().try_fold(value, |value, key| value.as_object()?.get(key))
    }
}

impl ValueMatcher {
    /// Lowers a required field.
    pub(crate) fn lower_required(
        field: &str,
        message: Option<proto::ValueMatcher>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        cx.at(field, |cx| match message {
            None => Err(cx.invalid("is required")),
            Some(message) => Self::lower(message, cx),
        })
    }

    /// Loading bounds the depth of messages, so that this recursion is bounded too.
    fn lower(message: proto::ValueMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use proto::value_matcher::{MatchPattern, NullMatch};
        Ok(match message.match_pattern {
            None => return Err(cx.invalid("match_pattern is required")),
            Some(MatchPattern::NullMatch(NullMatch {})) => Self::Null,
            Some(MatchPattern::DoubleMatch(double)) => cx.at("double_match", |cx| Self::lower_double(double, cx))?,
            Some(MatchPattern::StringMatch(m)) => {
                Self::String(cx.at("string_match", |cx| StringMatcher::lower(m, cx))?)
            }
            Some(MatchPattern::BoolMatch(value)) => Self::Bool(value),
            Some(MatchPattern::PresentMatch(present)) => Self::Present(present),
            Some(MatchPattern::ListMatch(list)) => cx.at("list_match", |cx| match list.match_pattern {
                Some(proto::list_matcher::MatchPattern::OneOf(element)) => {
                    cx.at("one_of", |cx| Self::lower(*element, cx)).map(|m| Self::OneOf(Box::new(m)))
                }
                None => Err(cx.invalid("match_pattern is required")),
            })?,
            Some(MatchPattern::OrMatch(proto::OrMatcher { value_matchers })) => {
                Self::Or(cx.at("or_match", |cx| cx.each("value_matchers", value_matchers, Self::lower))?.into())
            }
        })
    }

    fn lower_double(message: proto::DoubleMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        match message.match_pattern {
            None => Err(cx.invalid("match_pattern is required")),
            Some(proto::double_matcher::MatchPattern::Exact(value)) => Ok(Self::Exact(value)),
            Some(proto::double_matcher::MatchPattern::Range(range)) => Ok(Self::Range(range.start, range.end)),
        }
    }

    /// Whether it matches `value`; `None`: there is none.
    pub(crate) fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Or(matchers), value) => matchers.iter().any(|m| m.matches(value)),
            (_, None) => false,
            (Self::Null, Some(value)) => value.is_null(),
            // Envoy: what is there does not match `present_match: false`, what is missing matches nothing.
            (Self::Present(present), Some(_)) => *present,
            #[expect(clippy::float_cmp, reason = "the field asks for exactly this number")]
            (Self::Exact(exact), Some(value)) => value.as_f64().is_some_and(|n| n == *exact),
            (Self::Range(start, end), Some(value)) => value.as_f64().is_some_and(|n| n >= *start && n < *end),
            (Self::String(matcher), Some(value)) => value.as_str().is_some_and(|s| matcher.matches(s.as_bytes())),
            (Self::Bool(expected), Some(value)) => value.as_bool() == Some(*expected),
            (Self::OneOf(matcher), Some(value)) => {
                value.as_array().is_some_and(|list| list.iter().any(|element| matcher.matches(Some(element))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::value_matcher::MatchPattern;

    use super::*;
    use crate::testing::env;

    fn check(path: &[&str], pattern: MatchPattern, invert: bool, expected: bool) {
        let json = serde_json::json!({"s": "v", "n": 3.5, "b": true, "z": null, "l": ["x", 1], "o": {"k": "w"}});
        let metadata = Metadata::from([("f".into(), json.as_object().unwrap().clone())]);
        let message = proto::MetadataMatcher {
            filter: "f".into(),
            path: path.iter().map(|key| PathSegment { segment: Some(Segment::Key((*key).into())) }).collect(),
            value: Some(proto::ValueMatcher { match_pattern: Some(pattern.clone()) }),
            invert,
        };
        let matcher = MetadataMatcher::lower(message, &mut LowerCx::new(&env())).unwrap();
        assert_eq!(matcher.matches(Some(&metadata)), expected, "{path:?} {pattern:?} {invert}");
        assert_eq!(matcher.matches(None), invert);
    }

    fn exact(s: &str) -> MatchPattern {
        let match_pattern = Some(proto::string_matcher::MatchPattern::Exact(s.into()));
        MatchPattern::StringMatch(proto::StringMatcher { match_pattern, ignore_case: false })
    }

    fn double(pattern: proto::double_matcher::MatchPattern) -> MatchPattern {
        MatchPattern::DoubleMatch(proto::DoubleMatcher { match_pattern: Some(pattern) })
    }

    fn element(pattern: MatchPattern) -> MatchPattern {
        let one_of = Box::new(proto::ValueMatcher { match_pattern: Some(pattern) });
        let match_pattern = Some(proto::list_matcher::MatchPattern::OneOf(one_of));
        MatchPattern::ListMatch(Box::new(proto::ListMatcher { match_pattern }))
    }

    #[test]
    fn values_are_matched_by_their_kind() {
        use proto::double_matcher::MatchPattern as Double;
        let range = |start, end| double(Double::Range(nuncio_proto::envoy::r#type::v3::DoubleRange { start, end }));
        check(&["s"], exact("v"), false, true);
        check(&["n"], exact("3.5"), false, false);
        check(&["o", "k"], exact("w"), false, true);
        check(&["o"], exact("w"), false, false);
        check(&["n"], double(Double::Exact(3.5)), false, true);
        check(&["n"], range(3.5, 4.0), false, true);
        check(&["n"], range(1.0, 3.5), false, false);
        check(&["b"], MatchPattern::BoolMatch(true), false, true);
        check(&["z"], MatchPattern::NullMatch(proto::value_matcher::NullMatch {}), false, true);
        check(&["l"], element(exact("x")), false, true);
        check(&["l"], element(exact("y")), false, false);
        check(&["s"], MatchPattern::PresentMatch(true), false, true);
        check(&["s"], MatchPattern::PresentMatch(false), false, false);
        check(&["none"], MatchPattern::PresentMatch(false), false, false);
    }

    #[test]
    fn inversion_and_alternatives() {
        check(&["s"], exact("w"), true, true);
        check(&["none"], exact("w"), true, true);
        let value = |pattern| proto::ValueMatcher { match_pattern: Some(pattern) };
        let or = proto::OrMatcher { value_matchers: vec![value(exact("a")), value(exact("v"))] };
        check(&["s"], MatchPattern::OrMatch(or), false, true);
    }
}
