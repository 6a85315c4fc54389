//! Conditions of the lists of a tree.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::matching::input_matchers as matchers;
use nuncio_proto::envoy::r#type::matcher::v3 as envoy;
use nuncio_proto::xds::core::v3::TypedExtensionConfig;
use nuncio_proto::xds::r#type::matcher::v3 as proto;
use nuncio_telemetry::cel::{Activation, Expression};
use nuncio_telemetry::stats;
use proto::matcher::matcher_list::Predicate as PredicateMessage;
use proto::matcher::matcher_list::predicate::{MatchType, PredicateList, SinglePredicate, single_predicate};
use twox_hash::XxHash64;

use super::input::{Input, Inputs};
use super::ip_ranges::{Ranges, parse_address};
use super::{Insufficient, MatchingData, required, typed_config, unknown};
use crate::matcher::{Fraction, StringMatcher, ValueMatcher};
use crate::protocol::{any_as, message_name};

#[derive(Debug)]
pub(super) enum Predicate {
    One(Input, InputMatcher),
    Any(Box<[Predicate]>),
    All(Box<[Predicate]>),
    Not(Box<Predicate>),
}

/// What is asked of an input.
#[derive(Debug)]
pub(super) enum InputMatcher {
    Value(StringMatcher),
    Ip(Ranges, IpStats),
    /// The hash of the value modulo the second number is at least the first.
    ConsistentHash {
        threshold: u64,
        modulo: u64,
        seed: u64,
    },
    Fraction(Fraction, u64),
    Metadata {
        value: ValueMatcher,
        invert: bool,
    },
    Cel(Expression),
}

stats! {
    pub(super) struct IpStats { ip_parsing_failed: Counter }
}

// === impl Predicate ===

impl Predicate {
    /// Loading bounds the depth of messages, so that this recursion is bounded too.
    pub(super) fn lower(message: PredicateMessage, inputs: Inputs, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let list = |field, list: PredicateList, cx: &mut LowerCx<'_>| {
            let PredicateList { predicate } = list;
            cx.at(field, |cx| cx.each("predicate", predicate, |p, cx| Self::lower(p, inputs, cx)))
        };
        match message.match_type {
            None => Err(cx.invalid("match_type is required")),
            Some(MatchType::SinglePredicate(one)) => cx.at("single_predicate", |cx| Self::lower_one(one, inputs, cx)),
            Some(MatchType::OrMatcher(any)) => list("or_matcher", any, cx).map(|any| Self::Any(any.into())),
            Some(MatchType::AndMatcher(all)) => list("and_matcher", all, cx).map(|all| Self::All(all.into())),
            Some(MatchType::NotMatcher(not)) => {
                cx.at("not_matcher", |cx| Self::lower(*not, inputs, cx)).map(|not| Self::Not(Box::new(not)))
            }
        }
    }

    fn lower_one(message: SinglePredicate, inputs: Inputs, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let SinglePredicate { input, matcher } = message;
        let input = required("input", input, cx, |input, cx| Input::lower(input, inputs, cx));
        let matcher = match matcher {
            None => Err(cx.invalid("matcher is required")),
            Some(single_predicate::Matcher::ValueMatch(value)) => {
                cx.at("value_match", |cx| StringMatcher::lower(to_envoy(value), cx)).map(InputMatcher::Value)
            }
            Some(single_predicate::Matcher::CustomMatch(custom)) => {
                cx.at("custom_match", |cx| InputMatcher::lower(custom, cx))
            }
        };
        let (input, matcher) = (input?, matcher?);
        if input.is_attributes() != matches!(matcher, InputMatcher::Cel(_)) {
            return Err(cx.invalid("a CelMatcher and HttpAttributesCelMatchInput go together only"));
        }
        Ok(Self::One(input, matcher))
    }

    pub(super) fn holds(&self, data: MatchingData<'_>) -> Result<bool, Insufficient> {
        match self {
            Self::One(input, matcher) => matcher.matches(input, data),
            Self::All(all) => {
                for predicate in all {
                    if !predicate.holds(data)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            // One that holds is enough, even if others cannot be told.
            Self::Any(any) => {
                let mut none = Ok(false);
                for predicate in any {
                    match predicate.holds(data) {
                        Ok(true) => return Ok(true),
                        Ok(false) => {}
                        Err(Insufficient) => none = Err(Insufficient),
                    }
                }
                none
            }
            Self::Not(not) => not.holds(data).map(|holds| !holds),
        }
    }
}

// === impl InputMatcher ===

/// The messages of matchers.
const KNOWN: &[&str] = &[
    "envoy.extensions.matching.input_matchers.consistent_hashing.v3.ConsistentHashing",
    "envoy.extensions.matching.input_matchers.ip.v3.Ip",
    "envoy.extensions.matching.input_matchers.metadata.v3.Metadata",
    "envoy.extensions.matching.input_matchers.runtime_fraction.v3.RuntimeFraction",
    "xds.type.matcher.v3.CelMatcher",
];

impl InputMatcher {
    fn lower(custom: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        typed_config(custom, cx, |any, cx| match message_name(&any) {
            "envoy.extensions.matching.input_matchers.ip.v3.Ip" => {
                let matchers::ip::v3::Ip { cidr_ranges, stat_prefix } = any_as(&any, cx)?;
                let ranges = Ranges::lower("cidr_ranges", cidr_ranges, cx)?;
                Ok(Self::Ip(ranges, IpStats::new(&cx.env.stats.scope(&stat_prefix))))
            }
            "envoy.extensions.matching.input_matchers.consistent_hashing.v3.ConsistentHashing" => {
                let matchers::consistent_hashing::v3::ConsistentHashing { threshold, modulo, seed } = any_as(&any, cx)?;
                if threshold > modulo {
                    let reason = format!("{threshold} must not be greater than modulo, which is {modulo}");
                    return Err(cx.at("threshold", |cx| cx.invalid(reason)));
                }
                let (threshold, modulo) = (threshold.into(), u64::from(modulo).max(1));
                Ok(Self::ConsistentHash { threshold, modulo, seed })
            }
            "envoy.extensions.matching.input_matchers.runtime_fraction.v3.RuntimeFraction" => {
                let matchers::runtime_fraction::v3::RuntimeFraction { runtime_fraction, seed } = any_as(&any, cx)?;
                let fraction =
                    required("runtime_fraction", runtime_fraction, cx, |f, cx| Ok(Fraction::lower_runtime(f, cx)));
                Ok(Self::Fraction(fraction?, seed))
            }
            "envoy.extensions.matching.input_matchers.metadata.v3.Metadata" => {
                let matchers::metadata::v3::Metadata { value, invert } = any_as(&any, cx)?;
                Ok(Self::Metadata { value: ValueMatcher::lower_required("value", value, cx)?, invert })
            }
            "xds.type.matcher.v3.CelMatcher" => super::cel::lower_matcher(any_as(&any, cx)?, cx).map(Self::Cel),
            other => Err(unknown("matcher", other, KNOWN, cx)),
        })
    }

    fn matches(&self, input: &Input, data: MatchingData<'_>) -> Result<bool, Insufficient> {
        match self {
            Self::Metadata { value: matcher, invert } => {
                // Asked for its text, an input that is not there yet says so.
                input.text(data)?;
                Ok(input.with_metadata(data, |value| matcher.matches(value) != *invert).unwrap_or(false))
            }
            Self::Cel(expression) => {
                let activation = Activation::of_request(data.info, data.head.view());
                match expression.matches(&activation) {
                    true => Ok(true),
                    // Envoy: what looks at the response is not decided before there is one.
                    false if expression.looks_at_response() => Err(Insufficient),
                    false => Ok(false),
                }
            }
            _ => Ok(input.text(data)?.is_some_and(|text| self.matches_text(&text))),
        }
    }

    fn matches_text(&self, text: &[u8]) -> bool {
        match self {
            Self::Value(matcher) => matcher.matches(text),
            Self::Ip(_, _) if text.is_empty() => false,
            Self::Ip(ranges, stats) => match parse_address(text) {
                Some(address) => ranges.find(address).next().is_some(),
                None => {
                    stats.ip_parsing_failed().inc();
                    false
                }
            },
            Self::ConsistentHash { threshold, modulo, seed } => XxHash64::oneshot(*seed, text) % modulo >= *threshold,
            Self::Fraction(fraction, seed) => fraction.holds(XxHash64::oneshot(*seed, text)),
            Self::Metadata { .. } | Self::Cel(_) => false,
        }
    }
}

/// The same message, of another package.
fn to_envoy(message: proto::StringMatcher) -> envoy::StringMatcher {
    use envoy::string_matcher::MatchPattern as To;
    use proto::string_matcher::MatchPattern as From;
    let match_pattern = message.match_pattern.map(|pattern| match pattern {
        From::Exact(s) => To::Exact(s),
        From::Prefix(s) => To::Prefix(s),
        From::Suffix(s) => To::Suffix(s),
        From::Contains(s) => To::Contains(s),
        From::SafeRegex(regex) => To::SafeRegex(envoy::RegexMatcher { regex: regex.regex, engine_type: None }),
        From::Custom(custom) => To::Custom(custom),
    });
    envoy::StringMatcher { match_pattern, ignore_case: message.ignore_case }
}
