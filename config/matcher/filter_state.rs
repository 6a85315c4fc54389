use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::r#type::matcher::v3 as proto;
use nuncio_telemetry::{FilterState, FilterValue};
use proto::filter_state_matcher::Matcher;

use super::{Cidr, StringMatcher};

/// `envoy.type.matcher.v3.FilterStateMatcher`: a value that a filter left under a name.
#[derive(Clone, Debug)]
pub struct FilterStateMatcher {
    key: Box<str>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Text(StringMatcher),
    /// An address in one of the ranges.
    Among(Box<[Cidr]>),
    /// An address in none of them.
    NotAmong(Box<[Cidr]>),
}

impl FilterStateMatcher {
    /// Compiles the message.
    pub fn lower(message: proto::FilterStateMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::FilterStateMatcher { key, matcher } = message;
        let test = match matcher {
            None => return Err(cx.invalid("matcher is required")),
            Some(Matcher::StringMatch(text)) => Test::Text(cx.at("string_match", |cx| StringMatcher::lower(text, cx))?),
            Some(Matcher::AddressMatch(proto::AddressMatcher { ranges, invert_match })) => {
                let ranges = cx.at("address_match", |cx| cx.each("ranges", ranges, Cidr::lower_xds))?;
                if invert_match { Test::NotAmong(ranges.into()) } else { Test::Among(ranges.into()) }
            }
        };
        Ok(Self { key: key.into(), test })
    }

    /// Whether there is a value in `state`, of the right kind, that matches.
    pub fn matches(&self, state: &FilterState) -> bool {
        let Some(value) = state.get(&self.key) else { return false };
        let among = |ranges: &[Cidr]| value.ip().map(|ip| ranges.iter().any(|range| range.contains(ip)));
        match &self.test {
            Test::Text(matcher) => value.text().is_some_and(|text| matcher.matches(text.as_bytes())),
            Test::Among(ranges) => among(ranges) == Some(true),
            Test::NotAmong(ranges) => among(ranges) == Some(false),
        }
    }

    /// The value it looks at, for people.
    pub(crate) fn looks_at<'a>(&self, state: &'a FilterState) -> Option<&'a FilterValue> {
        state.get(&self.key)
    }
}

#[cfg(test)]
mod tests {
    use nuncio_proto::xds::core::v3::CidrRange;
    use nuncio_telemetry::{Address, LifeSpan};
    use proto::string_matcher::MatchPattern;

    use super::*;
    use crate::testing::env;

    fn check(matcher: Matcher, expected: [bool; 3]) {
        let mut state = FilterState::default();
        state.set("text", FilterValue::Text("10.0.0.1:80".into()), LifeSpan::Request);
        let address = Address::Ip("10.0.0.1:80".parse().unwrap());
        state.set("address", FilterValue::Address(address), LifeSpan::Request);
        let matches = ["text", "address", "none"].map(|key| {
            let message = proto::FilterStateMatcher { key: key.into(), matcher: Some(matcher.clone()) };
            FilterStateMatcher::lower(message, &mut LowerCx::new(&env())).unwrap().matches(&state)
        });
        assert_eq!(matches, expected, "{matcher:?}");
    }

    fn range(prefix: &str, invert_match: bool) -> Matcher {
        let len = nuncio_proto::google::protobuf::UInt32Value { value: 8 };
        let range = CidrRange { address_prefix: prefix.into(), prefix_len: Some(len) };
        Matcher::AddressMatch(proto::AddressMatcher { ranges: vec![range], invert_match })
    }

    #[test]
    fn texts_are_matched_as_text_and_addresses_by_ranges() {
        let exact = MatchPattern::Exact("10.0.0.1:80".into());
        check(
            Matcher::StringMatch(proto::StringMatcher { match_pattern: Some(exact), ignore_case: false }),
            [true, true, false],
        );
        check(range("10.0.0.0", false), [false, true, false]);
        check(range("11.0.0.0", false), [false, false, false]);
        check(range("11.0.0.0", true), [false, true, false]);
        check(range("10.0.0.0", true), [false, false, false]);
    }
}
