//! The filter chains of a listener, and which of them a connection gets.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::listener::v3 as proto;
use nuncio_proto::google::protobuf::{Any, StringValue};
use nuncio_proto::xds::r#type::matcher::v3::Matcher;
use nuncio_telemetry::ConnectionInfo;

use super::FilterChainConfig;
use super::chain_match::{Criteria, Table};
use crate::matching::{HostData, Inputs, Tree, TreeRules};
use crate::protocol::any_as;

/// The filter chains of a listener.
#[derive(Clone, Debug)]
pub struct FilterChains {
    chains: Vec<Arc<FilterChainConfig>>,
    /// The number of `default_filter_chain`.
    default: Option<usize>,
    choice: Arc<Choice>,
}

/// How a chain is chosen.
#[derive(Debug)]
enum Choice {
    /// It is the same for all connections.
    Only(Option<usize>),
    /// By `filter_chain_match`.
    Table(Table),
    /// By `filter_chain_matcher`, whose leaves stand for chains, or for one that there is not.
    Tree(Tree, Box<[Option<usize>]>),
}

impl FilterChains {
    /// One chain for all connections.
    pub fn only(chain: FilterChainConfig) -> Self {
        Self { chains: vec![Arc::new(chain)], default: None, choice: Arc::new(Choice::Only(Some(0))) }
    }

    /// None: there are no connections.
    pub fn none() -> Self {
        Self { chains: Vec::new(), default: None, choice: Choice::Only(None).into() }
    }

    pub(super) fn lower(
        protos: Vec<proto::FilterChain>,
        default: Option<proto::FilterChain>,
        matcher: Option<Matcher>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        if protos.is_empty() && default.is_none() {
            return Err(cx.at("filter_chains", |cx| cx.invalid("no filter chains specified")));
        }
        let by_rules = matcher.is_none();
        // Envoy: where there is a matcher, they are not looked at.
        let criteria = |proto: &proto::FilterChain| proto.filter_chain_match.clone().filter(|_| by_rules);
        let lowered = cx.each("filter_chains", protos, |proto, cx| {
            let criteria = criteria(&proto).unwrap_or_default();
            let criteria = cx.at("filter_chain_match", |cx| Criteria::lower(criteria, cx));
            Ok((Arc::new(FilterChainConfig::lower(proto, cx)?), criteria?))
        });
        let default = cx.opt("default_filter_chain", default, |mut proto, cx| {
            // Every connection gets it that gets no other.
            proto.filter_chain_match = None;
            FilterChainConfig::lower(proto, cx).map(Arc::new)
        });
        let (mut chains, criteria): (Vec<_>, Vec<_>) = lowered?.into_iter().unzip();
        let choice = match matcher {
            Some(matcher) => lower_tree(matcher, &chains, cx)?,
            None => lower_table(&criteria, &chains, cx)?,
        };
        let default = default?.map(|chain| {
            chains.push(chain);
            chains.len() - 1
        });
        let choice = match choice {
            Choice::Only(None) => Choice::Only(default),
            other => other,
        };
        Ok(Self { chains, default, choice: Arc::new(choice) })
    }

    /// Has chains that say what those of `before` say be these, with all that their filters have counted.
    pub(super) fn inherit(&mut self, before: &Self) {
        // No two of them say the same: their criteria or names are different.
        let known = before.chains.iter().enumerate();
        let known = known.map(|(number, chain)| ((chain.fingerprint, before.default == Some(number)), chain));
        let known: HashMap<_, _> = known.collect();
        for (number, chain) in self.chains.iter_mut().enumerate() {
            if let Some(same) = known.get(&(chain.fingerprint, self.default == Some(number))) {
                *chain = Arc::clone(same);
            }
        }
    }

    /// All chains, the default one last.
    pub fn all(&self) -> &[Arc<FilterChainConfig>] {
        &self.chains
    }

    /// The number of the chain that a connection gets, if there is one for it.
    pub fn find(&self, connection: &ConnectionInfo) -> Option<usize> {
        match &*self.choice {
            Choice::Only(chain) => *chain,
            Choice::Table(table) => match table.find(connection) {
                Some(chain) => Some(chain as usize),
                None => self.default,
            },
            Choice::Tree(tree, leaves) => match find_leaf(tree, connection) {
                Some(leaf) => leaves[leaf as usize],
                None => self.default,
            },
        }
    }
}

fn lower_table(
    criteria: &[Criteria],
    chains: &[Arc<FilterChainConfig>],
    cx: &mut LowerCx<'_>,
) -> Result<Choice, Refused> {
    if criteria.is_empty() {
        return Ok(Choice::Only(None));
    }
    if let [only] = criteria
        && only.is_none()
    {
        return Ok(Choice::Only(Some(0)));
    }
    let mut table = Table::default();
    let mut refused = Ok(());
    for (number, criteria) in (0..).zip(criteria) {
        if let Err(other) = table.add(criteria, number) {
            let name = |number: u32| &chains[number as usize].name;
            let reason = format!(
                "filter chain '{}' has the same matching rules defined as '{}' (filter_chains[{other}])",
                name(number),
                name(other)
            );
            let at = |cx: &mut LowerCx<'_>| cx.at_index(number as usize, |cx| cx.invalid(reason));
            refused = Err(cx.at("filter_chains", at));
        }
    }
    table.finish();
    refused.map(|()| Choice::Table(table))
}

fn lower_tree(matcher: Matcher, chains: &[Arc<FilterChainConfig>], cx: &mut LowerCx<'_>) -> Result<Choice, Refused> {
    let mut by_name = HashMap::new();
    let mut refused = Ok(());
    cx.at("filter_chains", |cx| {
        for (number, chain) in chains.iter().enumerate() {
            let reason = match (chain.name.is_empty(), by_name.insert(chain.name.clone(), number)) {
                (true, _) => "is required when using a listener matcher",
                (false, Some(_)) => "is that of another filter chain",
                (false, None) => continue,
            };
            refused = Err(cx.at_index(number, |cx| cx.at("name", |cx| cx.invalid(reason))));
        }
    });
    let mut leaves = Vec::new();
    let mut leaf = |any: Any, cx: &mut LowerCx<'_>| {
        let StringValue { value } = any_as(&any, cx)?;
        leaves.push(by_name.get(&*value).copied());
        Ok(u32::try_from(leaves.len() - 1).unwrap_or(u32::MAX))
    };
    let mut rules = TreeRules { inputs: Inputs::Connection, keep_matching: true, leaf: &mut leaf };
    let tree = cx.at("filter_chain_matcher", |cx| Tree::lower(matcher, &mut rules, cx))?;
    refused.map(|()| Choice::Tree(tree, leaves.into()))
}

fn find_leaf(tree: &Tree, connection: &ConnectionInfo) -> Option<u32> {
    let ConnectionInfo { id, remote, local, start, .. } = connection;
    let mut known = ConnectionInfo::new(*id, remote.clone(), local.clone(), *start);
    known.direct_remote = connection.direct_remote.clone();
    *known.server_name.get_mut() = connection.server_name.borrow().clone();
    known.inspected = connection.inspected.clone();
    tree.find_for_connection(Rc::new(known), HostData::default())
}
