use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::r#type::matcher::v3 as proto;
use proto::string_matcher::MatchPattern;

use super::Regex;

/// `envoy.type.matcher.v3.StringMatcher`, on bytes.
#[derive(Clone, Debug)]
pub struct StringMatcher {
    pattern: Pattern,
    case: Case,
}

#[derive(Clone, Debug)]
enum Pattern {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Contains(Box<[u8]>),
    Regex(Regex),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Case {
    Sensitive,
    /// ASCII letters match without case; regular expressions do not care.
    Ignored,
}

impl StringMatcher {
    /// Compiles the message.
    pub fn lower(message: proto::StringMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::StringMatcher { match_pattern, ignore_case } = message;
        let pattern = match match_pattern {
            None => return Err(cx.invalid("match_pattern is required")),
            Some(MatchPattern::Exact(s)) => Pattern::Exact(bytes(s)),
            Some(MatchPattern::Prefix(s)) => Pattern::Prefix(bytes(s)),
            Some(MatchPattern::Suffix(s)) => Pattern::Suffix(bytes(s)),
            Some(MatchPattern::Contains(s)) => Pattern::Contains(bytes(s)),
            Some(MatchPattern::SafeRegex(regex)) => Pattern::Regex(cx.at("safe_regex", |cx| Regex::lower(regex, cx))?),
            Some(MatchPattern::Custom(_)) => return Err(cx.at("custom", |cx| cx.not_implemented("a custom matcher"))),
        };
        Ok(Self { pattern, case: if ignore_case { Case::Ignored } else { Case::Sensitive } })
    }

    pub(super) fn exact(s: String) -> Self {
        Self { pattern: Pattern::Exact(bytes(s)), case: Case::Sensitive }
    }

    pub(super) fn prefix(s: String) -> Self {
        Self { pattern: Pattern::Prefix(bytes(s)), case: Case::Sensitive }
    }

    pub(super) fn suffix(s: String) -> Self {
        Self { pattern: Pattern::Suffix(bytes(s)), case: Case::Sensitive }
    }

    pub(super) fn contains(s: String) -> Self {
        Self { pattern: Pattern::Contains(bytes(s)), case: Case::Sensitive }
    }

    pub(super) fn regex(regex: Regex) -> Self {
        Self { pattern: Pattern::Regex(regex), case: Case::Sensitive }
    }

    /// Whether it matches `input`.
    pub fn matches(&self, input: &[u8]) -> bool {
        match (&self.pattern, self.case) {
            (Pattern::Regex(regex), _) => regex.is_match(input),
            (Pattern::Exact(s), Case::Sensitive) => input == &**s,
            (Pattern::Prefix(s), Case::Sensitive) => input.starts_with(s),
            (Pattern::Suffix(s), Case::Sensitive) => input.ends_with(s),
            (Pattern::Contains(s), Case::Sensitive) => memchr::memmem::find(input, s).is_some(),
            (Pattern::Exact(s), Case::Ignored) => input.eq_ignore_ascii_case(s),
            (Pattern::Prefix(s), Case::Ignored) => {
                input.get(..s.len()).is_some_and(|head| head.eq_ignore_ascii_case(s))
            }
            (Pattern::Suffix(s), Case::Ignored) => {
                input.len().checked_sub(s.len()).is_some_and(|at| input[at..].eq_ignore_ascii_case(s))
            }
            (Pattern::Contains(s), Case::Ignored) => {
                s.is_empty() || input.windows(s.len()).any(|part| part.eq_ignore_ascii_case(s))
            }
        }
    }

    /// The only input it matches, where there is but one.
    pub(crate) fn only(&self) -> Option<&[u8]> {
        match (&self.pattern, self.case) {
            (Pattern::Exact(s), Case::Sensitive) => Some(s),
            _ => None,
        }
    }
}

fn bytes(s: String) -> Box<[u8]> {
    s.into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::env;

    #[track_caller]
    fn check(pattern: MatchPattern, ignore_case: bool, input: &str, expected: bool) {
        let env = env();
        let message = proto::StringMatcher { ignore_case, match_pattern: Some(pattern.clone()) };
        let matcher = StringMatcher::lower(message, &mut LowerCx::new(&env)).unwrap();
        assert_eq!(matcher.matches(input.as_bytes()), expected, "{pattern:?} on {input}");
    }

    #[test]
    fn each_kind_matches_as_its_name_says() {
        check(MatchPattern::Exact("ab".into()), false, "ab", true);
        check(MatchPattern::Exact("ab".into()), false, "AB", false);
        check(MatchPattern::Prefix("ab".into()), false, "abc", true);
        check(MatchPattern::Prefix("ab".into()), false, "a", false);
        check(MatchPattern::Suffix("bc".into()), false, "abc", true);
        check(MatchPattern::Contains("bc".into()), false, "abcd", true);
        check(MatchPattern::Contains("bd".into()), false, "abcd", false);
    }

    #[test]
    fn ignore_case_folds_all_but_regular_expressions() {
        check(MatchPattern::Exact("aB".into()), true, "Ab", true);
        check(MatchPattern::Prefix("aB".into()), true, "AbC", true);
        check(MatchPattern::Suffix("bC".into()), true, "ABc", true);
        check(MatchPattern::Suffix("abcd".into()), true, "abc", false);
        check(MatchPattern::Contains("Bc".into()), true, "abCd", true);
        let regex = proto::RegexMatcher { regex: "ab".into(), engine_type: None };
        check(MatchPattern::SafeRegex(regex), true, "AB", false);
    }
}
