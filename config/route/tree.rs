//! `VirtualHost.matcher`: a tree of matchers on request headers, whose leaves are lists of routes.

use std::borrow::Cow;
use std::collections::HashMap;

use nuncio_filter_api::{LowerCx, Refused, RequestHead};
use nuncio_proto::envoy::r#type::matcher::v3 as envoy;
use nuncio_proto::xds::core::v3::TypedExtensionConfig;
use nuncio_proto::xds::r#type::matcher::v3 as proto;
use proto::matcher::matcher_list::predicate::{MatchType, PredicateList, SinglePredicate, single_predicate};
use proto::matcher::matcher_list::{FieldMatcher, Predicate as PredicateMessage};
use proto::matcher::matcher_tree::{MatchMap, TreeType};
use proto::matcher::{MatcherTree, MatcherType, OnMatch as OnMatchMessage, on_match};
use smallvec::SmallVec;

use super::trie::{Fold, Trie};
use crate::matcher::{Field, StringMatcher};

/// A tree whose leaves are numbers. A subtree without a match counts as no match of the branch that leads to it.
#[derive(Debug)]
pub(super) struct Tree {
    branches: Branches,
    otherwise: Option<OnMatch>,
}

#[derive(Debug)]
enum OnMatch {
    Leaf(u32),
    Tree(Box<Tree>),
}

#[derive(Debug)]
enum Branches {
    None,
    /// In order.
    List(Box<[(Predicate, OnMatch)]>),
    Exact(Field, HashMap<Box<[u8]>, OnMatch>),
    /// The longest prefix first.
    Prefix(Field, Trie, Box<[OnMatch]>),
}

#[derive(Debug)]
enum Predicate {
    Value(Field, StringMatcher),
    Any(Box<[Predicate]>),
    All(Box<[Predicate]>),
    Not(Box<Predicate>),
}

/// Lowers the action of a leaf to its number.
type LowerLeaf<'f> = dyn FnMut(TypedExtensionConfig, &mut LowerCx<'_>) -> Result<u32, Refused> + 'f;

// === impl Tree ===

impl Tree {
    /// Loading bounds the depth of messages, so that this recursion is bounded too.
    pub(super) fn lower(
        message: proto::Matcher,
        leaf: &mut LowerLeaf<'_>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let proto::Matcher { on_no_match, matcher_type } = message;
        let branches = match matcher_type {
            None => Ok(Branches::None),
            Some(MatcherType::MatcherList(list)) => cx.at("matcher_list", |cx| {
                let matchers = cx.each("matchers", list.matchers, |FieldMatcher { predicate, on_match }, cx| {
                    let predicate = required("predicate", predicate, cx, Predicate::lower);
                    let on_match =
                        required("on_match", on_match, cx, |on_match, cx| OnMatch::lower(on_match, leaf, cx));
                    Ok((predicate?, on_match?))
                });
                matchers.map(|matchers| Branches::List(matchers.into()))
            }),
            Some(MatcherType::MatcherTree(tree)) => cx.at("matcher_tree", |cx| Branches::lower(tree, leaf, cx)),
        };
        let otherwise = cx.opt("on_no_match", on_no_match, |on_match, cx| OnMatch::lower(*on_match, leaf, cx));
        Ok(Self { branches: branches?, otherwise: otherwise? })
    }

    /// The leaf for a request.
    pub(super) fn find(&self, head: &RequestHead) -> Option<u32> {
        self.branches.find(head).or_else(|| self.otherwise.as_ref()?.find(head))
    }
}

// === impl OnMatch ===

impl OnMatch {
    fn lower(message: OnMatchMessage, leaf: &mut LowerLeaf<'_>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let OnMatchMessage { on_match, keep_matching } = message;
        if keep_matching {
            return Err(cx.at("keep_matching", |cx| cx.invalid("is not supported for routes")));
        }
        match on_match {
            None => Err(cx.invalid("one of matcher and action is required")),
            Some(on_match::OnMatch::Matcher(matcher)) => {
                cx.at("matcher", |cx| Tree::lower(*matcher, leaf, cx)).map(|tree| Self::Tree(Box::new(tree)))
            }
            Some(on_match::OnMatch::Action(action)) => cx.at("action", |cx| leaf(action, cx)).map(Self::Leaf),
        }
    }

    fn find(&self, head: &RequestHead) -> Option<u32> {
        match self {
            Self::Leaf(leaf) => Some(*leaf),
            Self::Tree(tree) => tree.find(head),
        }
    }
}

// === impl Branches ===

impl Branches {
    fn lower(message: MatcherTree, leaf: &mut LowerLeaf<'_>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let MatcherTree { input, tree_type } = message;
        let field = required("input", input, cx, lower_input);
        match tree_type {
            None => Err(cx.invalid("tree_type is required")),
            Some(TreeType::ExactMatchMap(map)) => {
                let map = cx.at("exact_match_map", |cx| lower_map(map, leaf, cx))?;
                Ok(Self::Exact(field?, map.into_iter().map(|(key, on)| (key.into_bytes().into(), on)).collect()))
            }
            Some(TreeType::PrefixMatchMap(map)) => {
                let mut map = cx.at("prefix_match_map", |cx| lower_map(map, leaf, cx))?;
                map.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                let (keys, matches): (Vec<_>, Vec<_>) = map.into_iter().unzip();
                Ok(Self::Prefix(field?, Trie::new(&keys), matches.into()))
            }
            Some(TreeType::CustomMatch(custom)) => cx.unsupported("custom_match", &Some(custom)).and(Err(Refused)),
        }
    }

    fn find(&self, head: &RequestHead) -> Option<u32> {
        match self {
            Self::None => None,
            Self::List(list) => {
                list.iter().filter(|(predicate, _)| predicate.holds(head)).find_map(|(_, on_match)| on_match.find(head))
            }
            Self::Exact(field, map) => map.get(&*field.joined_in_request(head)?)?.find(head),
            Self::Prefix(field, trie, matches) => {
                let mut found: SmallVec<[u32; 8]> = SmallVec::new();
                trie.walk(&field.joined_in_request(head)?, Fold::Exact, |_, key| found.push(key));
                found.into_iter().rev().find_map(|key| matches[key as usize].find(head))
            }
        }
    }
}

fn lower_map(
    message: MatchMap,
    leaf: &mut LowerLeaf<'_>,
    cx: &mut LowerCx<'_>,
) -> Result<Vec<(String, OnMatch)>, Refused> {
    let mut entries: Vec<_> = message.map.into_iter().collect();
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut all = Vec::with_capacity(entries.len());
    let mut refused = Ok(());
    cx.at("map", |cx| {
        for (key, on_match) in entries {
            match cx.at_key(&key, |cx| OnMatch::lower(on_match, leaf, cx)) {
                Ok(on_match) => all.push((key, on_match)),
                Err(Refused) => refused = Err(Refused),
            }
        }
    });
    refused.map(|()| all)
}

// === impl Predicate ===

impl Predicate {
    fn lower(message: PredicateMessage, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        match message.match_type {
            None => Err(cx.invalid("match_type is required")),
            Some(MatchType::SinglePredicate(single)) => cx.at("single_predicate", |cx| Self::lower_single(single, cx)),
            Some(MatchType::OrMatcher(list)) => cx.at("or_matcher", |cx| Self::lower_list(list, cx)).map(Self::Any),
            Some(MatchType::AndMatcher(list)) => cx.at("and_matcher", |cx| Self::lower_list(list, cx)).map(Self::All),
            Some(MatchType::NotMatcher(not)) => {
                cx.at("not_matcher", |cx| Self::lower(*not, cx)).map(|not| Self::Not(Box::new(not)))
            }
        }
    }

    fn lower_list(PredicateList { predicate }: PredicateList, cx: &mut LowerCx<'_>) -> Result<Box<[Self]>, Refused> {
        cx.each("predicate", predicate, Self::lower).map(Vec::into)
    }

    fn lower_single(message: SinglePredicate, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let SinglePredicate { input, matcher } = message;
        let field = required("input", input, cx, lower_input);
        match matcher {
            None => Err(cx.invalid("matcher is required")),
            Some(single_predicate::Matcher::ValueMatch(value)) => {
                let value = cx.at("value_match", |cx| StringMatcher::lower(to_envoy(value), cx));
                Ok(Self::Value(field?, value?))
            }
            Some(single_predicate::Matcher::CustomMatch(custom)) => {
                cx.unsupported("custom_match", &Some(custom)).and(Err(Refused))
            }
        }
    }

    fn holds(&self, head: &RequestHead) -> bool {
        match self {
            Self::Value(field, matcher) => field.joined_in_request(head).is_some_and(|value| matcher.matches(&value)),
            Self::Any(any) => any.iter().any(|predicate| predicate.holds(head)),
            Self::All(all) => all.iter().all(|predicate| predicate.holds(head)),
            Self::Not(not) => !not.holds(head),
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

/// Envoy: routes are chosen by request headers alone.
fn lower_input(message: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<Field, Refused> {
    let TypedExtensionConfig { name: _, typed_config } = message;
    let any = typed_config.ok_or_else(|| cx.at("typed_config", |cx| cx.invalid("is required")))?;
    cx.at("typed_config", |cx| {
        let envoy::HttpRequestHeaderMatchInput { header_name } = crate::protocol::any_as(&any, cx)?;
        cx.at("header_name", |cx| Field::lower(&header_name, cx))
    })
}

fn required<T, R>(
    field: &str,
    value: Option<T>,
    cx: &mut LowerCx<'_>,
    lower: impl FnOnce(T, &mut LowerCx<'_>) -> Result<R, Refused>,
) -> Result<R, Refused> {
    cx.at(field, |cx| match value {
        Some(value) => lower(value, cx),
        None => Err(cx.invalid("is required")),
    })
}

impl Field {
    /// All its values in a request, joined by commas.
    fn joined_in_request<'a>(&self, head: &'a RequestHead) -> Option<Cow<'a, [u8]>> {
        let Self::Header(name) = self else {
            return self.first_in_request(head).filter(|text| !text.is_empty()).map(|text| text.as_bytes().into());
        };
        let mut values = head.headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
        let first = values.next()?;
        Some(values.fold(Cow::Borrowed(first), |joined, value| [&*joined, value].join(&b","[..]).into()))
    }
}
