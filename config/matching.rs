//! Trees of matchers (`xds.type.matcher.v3.Matcher`): by which data of a request one of several actions is chosen.
//!
//! In: the message, and what an action is lowered to. Out: a [`Tree`], whose leaves are numbers of actions. It neither
//! allocates nor fails while it is asked, but for values that have to be joined or decoded first.

mod cel;
mod domains;
mod input;
mod ip_ranges;
mod predicate;
mod request;

use std::collections::HashMap;
use std::rc::Rc;
use std::time::SystemTime;

use http::Method;
use nuncio_filter_api::{LowerCx, Refused, RequestHead, Scheme};
use nuncio_proto::google::protobuf::Any;
use nuncio_proto::xds::core::v3::TypedExtensionConfig;
use nuncio_proto::xds::r#type::matcher::v3 as proto;
use nuncio_telemetry::{ConnectionInfo, Metadata, StreamInfo};
use proto::matcher::matcher_list::FieldMatcher;
use proto::matcher::matcher_tree::{MatchMap, TreeType};
use proto::matcher::{MatcherTree, MatcherType, OnMatch as OnMatchMessage, on_match};
use smallvec::SmallVec;

pub(crate) use cel::{lower_deprecated, refuse_options};
pub(crate) use input::{Inputs, is_local};
pub use request::{KeepMatching, RequestMatcher};

use crate::route::trie::{Fold, Trie};
use domains::Domains;
use input::Input;
use ip_ranges::IpRanges;
use predicate::Predicate;

/// What a tree is asked about. The response is not there yet.
#[derive(Clone, Copy)]
struct MatchingData<'a> {
    head: &'a RequestHead,
    info: &'a StreamInfo,
    host: HostData<'a>,
}

/// What is known of a host, where the tree is asked about one.
#[derive(Clone, Copy, Default)]
pub(crate) struct HostData<'a> {
    pub(crate) endpoint: Option<&'a Metadata>,
    pub(crate) locality: Option<&'a Metadata>,
}

/// What would decide is not there yet. Envoy: then nothing matches, not even `on_no_match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Insufficient;

/// A tree whose leaves are numbers. A subtree without a match counts as no match of the branch that leads to it.
#[derive(Debug)]
pub(crate) struct Tree {
    branches: Branches,
    otherwise: Option<OnMatch>,
}

#[derive(Debug)]
enum OnMatch {
    Leaf(u32),
    Tree(Box<Tree>),
    /// `keep_matching`: whatever is found here is passed over.
    PassedOver,
}

#[derive(Debug)]
enum Branches {
    None,
    /// In order.
    List(Box<[(Predicate, OnMatch)]>),
    Exact(Input, HashMap<Box<[u8]>, OnMatch>),
    /// The longest prefix first.
    Prefix(Input, Trie, Box<[OnMatch]>),
    IpRanges(Input, IpRanges),
    Domains(Input, Domains),
}

/// What a tree is lowered with.
pub(crate) struct TreeRules<'f> {
    /// The inputs that it may look at.
    pub(crate) inputs: Inputs,
    /// Whether `keep_matching` is allowed.
    pub(crate) keep_matching: bool,
    /// Lowers the message of an action to the number of its leaf.
    pub(crate) leaf: &'f mut dyn FnMut(Any, &mut LowerCx<'_>) -> Result<u32, Refused>,
}

// === impl Tree ===

impl Tree {
    /// Loading bounds the depth of messages, so that this recursion is bounded too.
    pub(crate) fn lower(
        message: proto::Matcher,
        rules: &mut TreeRules<'_>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let proto::Matcher { on_no_match, matcher_type } = message;
        let branches = match matcher_type {
            None => Ok(Branches::None),
            Some(MatcherType::MatcherList(list)) => cx.at("matcher_list", |cx| {
                let matchers = cx.each("matchers", list.matchers, |FieldMatcher { predicate, on_match }, cx| {
                    let inputs = rules.inputs;
                    let predicate = required("predicate", predicate, cx, |p, cx| Predicate::lower(p, inputs, cx));
                    let on_match = required("on_match", on_match, cx, |o, cx| OnMatch::lower(o, rules, cx));
                    Ok((predicate?, on_match?))
                });
                matchers.map(|matchers| Branches::List(matchers.into()))
            }),
            Some(MatcherType::MatcherTree(tree)) => cx.at("matcher_tree", |cx| Branches::lower(tree, rules, cx)),
        };
        let otherwise = cx.opt("on_no_match", on_no_match, |on_match, cx| OnMatch::lower(*on_match, rules, cx));
        Ok(Self { branches: branches?, otherwise: otherwise? })
    }

    /// Whether it finds the same for whatever it is asked about.
    pub(crate) fn is_constant(&self) -> bool {
        let is_leaf = |on_match: &OnMatch| matches!(on_match, OnMatch::Leaf(_));
        matches!(self.branches, Branches::None) && self.otherwise.as_ref().is_none_or(is_leaf)
    }

    /// The leaf for a request; none where nothing matches, or what would is not known yet.
    pub(crate) fn find_for_request(&self, head: &RequestHead, info: &StreamInfo) -> Option<u32> {
        self.find(MatchingData { head, info, host: HostData::default() }).ok().flatten()
    }

    /// The leaf for a connection. There is no request, and the inputs that look at one are refused.
    pub(crate) fn find_for_connection(&self, connection: Rc<ConnectionInfo>, host: HostData<'_>) -> Option<u32> {
        let head = RequestHead::new(Method::GET, Scheme::Http, "".into(), "/".into());
        let info = StreamInfo::of_connection(connection, SystemTime::UNIX_EPOCH);
        self.find(MatchingData { head: &head, info: &info, host }).ok().flatten()
    }

    fn find(&self, data: MatchingData<'_>) -> Result<Option<u32>, Insufficient> {
        match (self.branches.find(data)?, &self.otherwise) {
            (None, Some(otherwise)) => otherwise.find(data),
            (found, _) => Ok(found),
        }
    }
}

// === impl OnMatch ===

impl OnMatch {
    fn lower(message: OnMatchMessage, rules: &mut TreeRules<'_>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let OnMatchMessage { on_match, keep_matching } = message;
        if keep_matching && !rules.keep_matching {
            return Err(cx.at("keep_matching", |cx| cx.invalid("is not supported here")));
        }
        let lowered = match on_match {
            None => Err(cx.invalid("one of matcher and action is required")),
            Some(on_match::OnMatch::Matcher(matcher)) => {
                cx.at("matcher", |cx| Tree::lower(*matcher, rules, cx)).map(|tree| Self::Tree(Box::new(tree)))
            }
            Some(on_match::OnMatch::Action(action)) => {
                cx.at("action", |cx| typed_config(action, cx, &mut *rules.leaf)).map(Self::Leaf)
            }
        };
        lowered.map(|on_match| if keep_matching { Self::PassedOver } else { on_match })
    }

    fn find(&self, data: MatchingData<'_>) -> Result<Option<u32>, Insufficient> {
        match self {
            Self::Leaf(leaf) => Ok(Some(*leaf)),
            Self::Tree(tree) => tree.find(data),
            Self::PassedOver => Ok(None),
        }
    }
}

// === impl Branches ===

impl Branches {
    fn lower(message: MatcherTree, rules: &mut TreeRules<'_>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let MatcherTree { input, tree_type } = message;
        let input = required("input", input, cx, |input, cx| {
            let input = Input::lower(input, rules.inputs, cx)?;
            if input.is_attributes() {
                return Err(cx.invalid("attributes are matched by a CelMatcher only"));
            }
            Ok(input)
        });
        match tree_type {
            None => Err(cx.invalid("tree_type is required")),
            Some(TreeType::ExactMatchMap(map)) => {
                let map = cx.at("exact_match_map", |cx| lower_map(map, rules, cx))?;
                Ok(Self::Exact(input?, map.into_iter().map(|(key, on)| (key.into_bytes().into(), on)).collect()))
            }
            Some(TreeType::PrefixMatchMap(map)) => {
                let mut map = cx.at("prefix_match_map", |cx| lower_map(map, rules, cx))?;
                map.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                let (keys, matches): (Vec<_>, Vec<_>) = map.into_iter().unzip();
                Ok(Self::Prefix(input?, Trie::new(&keys), matches.into()))
            }
            Some(TreeType::CustomMatch(custom)) => {
                cx.at("custom_match", |cx| Self::lower_custom(custom, input, rules, cx))
            }
        }
    }

    fn lower_custom(
        custom: TypedExtensionConfig,
        input: Result<Input, Refused>,
        rules: &mut TreeRules<'_>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        use nuncio_proto::xds_matcher::{IpMatcher, ServerNameMatcher};
        typed_config(custom, cx, |any, cx| match crate::protocol::message_name(&any) {
            "xds.type.matcher.v3.IPMatcher" => {
                let IpMatcher { range_matchers } = crate::protocol::any_as(&any, cx)?;
                let ranges = IpRanges::lower(range_matchers, rules, cx);
                Ok(Self::IpRanges(input?, ranges?))
            }
            "xds.type.matcher.v3.ServerNameMatcher" => {
                let ServerNameMatcher { domain_matchers } = crate::protocol::any_as(&any, cx)?;
                let domains = Domains::lower(domain_matchers, rules, cx);
                Ok(Self::Domains(input?, domains?))
            }
            other => Err(unknown("custom matcher of a tree", other, CUSTOM, cx)),
        })
    }

    fn find(&self, data: MatchingData<'_>) -> Result<Option<u32>, Insufficient> {
        match self {
            Self::None => Ok(None),
            Self::List(list) => {
                for (predicate, on_match) in list {
                    if predicate.holds(data)?
                        && let Some(found) = on_match.find(data)?
                    {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
            Self::Exact(input, map) => {
                let Some(value) = input.text(data)? else { return Ok(None) };
                map.get(&*value).map_or(Ok(None), |on_match| on_match.find(data))
            }
            Self::Prefix(input, trie, matches) => {
                let Some(value) = input.text(data)? else { return Ok(None) };
                let mut found: SmallVec<[u32; 8]> = SmallVec::new();
                trie.walk(&value, Fold::Exact, |_, key| found.push(key));
                first(found.into_iter().rev().map(|key| &matches[key as usize]), data)
            }
            Self::IpRanges(input, ranges) => {
                let Some(value) = input.text(data)? else { return Ok(None) };
                ranges.find(&value, data)
            }
            Self::Domains(input, domains) => {
                let Some(value) = input.text(data)? else { return Ok(None) };
                domains.find(&value, data)
            }
        }
    }
}

/// The custom matchers of trees.
const CUSTOM: &[&str] = &["xds.type.matcher.v3.IPMatcher", "xds.type.matcher.v3.ServerNameMatcher"];

/// What the first of `candidates` that finds anything finds.
fn first<'t>(
    mut candidates: impl Iterator<Item = &'t OnMatch>,
    data: MatchingData<'_>,
) -> Result<Option<u32>, Insufficient> {
    candidates.find_map(|on_match| on_match.find(data).transpose()).transpose()
}

fn lower_map(
    message: MatchMap,
    rules: &mut TreeRules<'_>,
    cx: &mut LowerCx<'_>,
) -> Result<Vec<(String, OnMatch)>, Refused> {
    let mut entries: Vec<_> = message.map.into_iter().collect();
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut all = Vec::with_capacity(entries.len());
    let mut refused = Ok(());
    cx.at("map", |cx| {
        for (key, on_match) in entries {
            match cx.at_key(&key, |cx| OnMatch::lower(on_match, rules, cx)) {
                Ok(on_match) => all.push((key, on_match)),
                Err(Refused) => refused = Err(Refused),
            }
        }
    });
    refused.map(|()| all)
}

/// Lowers a required field.
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

/// Lowers the message of an extension, whose name does not matter.
fn typed_config<R>(
    extension: TypedExtensionConfig,
    cx: &mut LowerCx<'_>,
    lower: impl FnOnce(Any, &mut LowerCx<'_>) -> Result<R, Refused>,
) -> Result<R, Refused> {
    let TypedExtensionConfig { name: _, typed_config } = extension;
    required("typed_config", typed_config, cx, lower)
}

/// Refuses a message that is no `what`.
fn unknown(what: &str, message: &str, known: &[&str], cx: &mut LowerCx<'_>) -> Refused {
    crate::extension::refuse_unknown(what, message, known.iter().copied(), cx)
}
