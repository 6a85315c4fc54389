//! Balancing among hosts whose metadata is what the route asks for.

use std::sync::Arc;

use nuncio_config::cluster::{ClusterConfig, SelectorFallback, SubsetFallback, SubsetLb, SubsetSelector};
use nuncio_config::metadata::MetadataMatch;
use serde_json::Value;

use super::{LbEnv, LoadBalancer, PickContext};
use crate::blocks::Blocks;
use crate::host_set::Subsets;

/// A balancer for each subset, made when the subset is first used.
#[derive(Debug)]
pub(crate) struct SubsetBalancer {
    /// As those of `Subsets`.
    balancers: Blocks<LoadBalancer>,
}

/// What one pick goes by.
#[derive(Clone, Copy)]
struct Pick<'a> {
    cluster: &'a ClusterConfig,
    config: &'a SubsetLb,
    subsets: &'a Subsets,
    cx: &'a PickContext<'a>,
    env: LbEnv<'a>,
}

/// The field that names further metadata to try.
const FALLBACK_LIST: &str = "fallback_list";

// === impl SubsetBalancer ===

impl SubsetBalancer {
    pub(super) fn new(subsets: &Subsets) -> Self {
        Self { balancers: Blocks::new(subsets.len()) }
    }

    /// The place in `env.set` of the host for the next request.
    pub(super) fn pick(
        &self,
        cluster: &ClusterConfig,
        config: &SubsetLb,
        subsets: &Subsets,
        cx: &PickContext<'_>,
        env: LbEnv<'_>,
    ) -> Option<usize> {
        let pick = Pick { cluster, config, subsets, cx, env };
        let Some(metadata) = cx.metadata.filter(|_| config.metadata_fallback) else {
            return self.pick_for(cx.metadata, pick);
        };
        let list = metadata.criteria().iter().find(|(name, _)| **name == *FALLBACK_LIST);
        let Some((_, Value::Array(list))) = list else { return self.pick_for(cx.metadata, pick) };
        let metadata = metadata.only(|name| name != FALLBACK_LIST);
        match &list[..] {
            [] => self.pick_for(Some(&metadata), pick),
            list => list.iter().find_map(|fallback| match fallback {
                Value::Object(fields) => self.pick_for(Some(&metadata.with(fields)), pick),
                _ => self.pick_for(Some(&metadata), pick),
            }),
        }
    }

    fn pick_for(&self, metadata: Option<&MetadataMatch>, pick: Pick<'_>) -> Option<usize> {
        let stats = pick.env.stats;
        let narrowed = metadata.and_then(|metadata| without_redundant_keys(pick.config, metadata));
        if let Some(metadata) = narrowed.as_ref().or(metadata) {
            if let Some(place) = pick.subsets.single(metadata.key()) {
                stats.lb_subsets_selected().inc();
                return Some(place as usize);
            }
            if let Some(at) = pick.subsets.find(metadata.key()) {
                stats.lb_subsets_selected().inc();
                return self.pick_in(at, pick);
            }
            match selector_for(pick.config, metadata).and_then(|selector| selector.fallback.as_ref()) {
                Some(SelectorFallback::Policy(fallback)) => return self.fall_back(*fallback, pick),
                Some(SelectorFallback::Keys(keys)) => {
                    let fewer = metadata.only(|name| keys.iter().any(|key| **key == *name));
                    return self.pick_for(Some(&fewer), pick);
                }
                None => {}
            }
        }
        if pick.config.fallback == SubsetFallback::None {
            return None;
        }
        if let Some(place) = self.fall_back(pick.config.fallback, pick) {
            stats.lb_subsets_fallback().inc();
            return Some(place);
        }
        let any = pick.subsets.any.filter(|_| pick.config.panic_mode_any)?;
        let place = self.pick_in(any, pick)?;
        stats.lb_subsets_fallback_panic().inc();
        Some(place)
    }

    fn fall_back(&self, fallback: SubsetFallback, pick: Pick<'_>) -> Option<usize> {
        match fallback {
            SubsetFallback::None => None,
            SubsetFallback::Any => self.pick_in(pick.subsets.any?, pick),
            SubsetFallback::Default => self.pick_in(pick.subsets.default?, pick),
        }
    }

    fn pick_in(&self, at: u32, pick: Pick<'_>) -> Option<usize> {
        let env = LbEnv { groups: pick.subsets.groups(at)?, ..pick.env };
        self.balancers.get_or_init(at as usize, || LoadBalancer::new(pick.cluster, env)).pick(pick.cx, env)
    }
}

/// What is left of `metadata` where it asks for more than the keys of a selector, and may.
fn without_redundant_keys(config: &SubsetLb, metadata: &MetadataMatch) -> Option<MetadataMatch> {
    if !config.allow_redundant_keys {
        return None;
    }
    let is_asked = |key: &Arc<str>| metadata.criteria().binary_search_by(|(name, _)| name.cmp(key)).is_ok();
    let selector = config.selectors.iter().find(|selector| selector.keys.iter().all(is_asked))?;
    Some(metadata.only(|name| selector.keys.contains(name)))
}

/// The selector whose keys are those of `metadata`.
fn selector_for<'a>(config: &'a SubsetLb, metadata: &MetadataMatch) -> Option<&'a SubsetSelector> {
    // Both are in order.
    let names = || metadata.criteria().iter().map(|(name, _)| name);
    config.selectors.iter().find(|selector| selector.keys.iter().eq(names()))
}
