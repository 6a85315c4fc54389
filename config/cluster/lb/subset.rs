use std::collections::BTreeSet;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::cluster::LbSubsetConfig;
use nuncio_proto::envoy::extensions::load_balancing_policies::subset::v3 as pb;
use nuncio_proto::envoy::extensions::load_balancing_policies::subset::v3::subset as parts;
use prost::Message;

use super::LocalityLb;
use crate::metadata::object;

/// Hosts are chosen among those whose metadata is what the route asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubsetLb {
    /// Where there is no such host.
    pub fallback: SubsetFallback,
    /// Fields of the hosts of the default subset.
    pub default_subset: serde_json::Map<String, serde_json::Value>,
    /// Which fields make subsets.
    pub selectors: Box<[SubsetSelector]>,
    /// Whether a route may ask for more than the keys of a selector.
    pub allow_redundant_keys: bool,
    /// Whether weights of localities count in subsets.
    pub locality_weight_aware: bool,
    /// Whether they are scaled by how many hosts of a locality are in the subset.
    pub scale_locality_weight: bool,
    /// Whether any host is chosen where the fallback has none.
    pub panic_mode_any: bool,
    /// Whether a list in the metadata of a host stands for each of its values.
    pub list_as_any: bool,
    /// Whether `fallback_list` of the metadata that a route asks for names further metadata to try.
    pub metadata_fallback: bool,
    /// How often Envoy counts a subset: once for each worker, and once for the main thread.
    pub counted: u64,
}

/// Where there is no host in the subset that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubsetFallback {
    /// There is no host.
    #[default]
    None,
    /// Any host.
    Any,
    /// One of the default subset.
    Default,
}

/// Fields that make subsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetSelector {
    /// Their names.
    pub keys: BTreeSet<Arc<str>>,
    /// Where there is no host in the subset that was asked for; `None`: as the policy has it.
    pub fallback: Option<SelectorFallback>,
    /// Whether there is one host at most for each set of values.
    pub single_host: bool,
}

/// Where there is no host in the subset that a selector made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectorFallback {
    /// As the policies that are not of a selector.
    Policy(SubsetFallback),
    /// As if the route had asked for these fields alone.
    Keys(BTreeSet<Arc<str>>),
}

// === impl SubsetLb ===

impl SubsetLb {
    /// `lb_subset_config`. `None` where it makes no subsets.
    pub(in crate::cluster) fn lower_config(
        proto: &LbSubsetConfig,
        locality: &LocalityLb,
        cluster: &str,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        if proto.subset_selectors.is_empty() {
            return Ok(None);
        }
        // The policy took over the fields of the older message, numbers included.
        let proto = pb::Subset::decode(&*proto.encode_to_vec()).map_err(|e| cx.invalid(e.to_string()))?;
        Self::lower(proto, locality, cluster, cx).map(Some)
    }

    /// The policy `Subset`, whose own policy was lowered before.
    pub(super) fn lower(
        proto: pb::Subset,
        locality: &LocalityLb,
        cluster: &str,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let pb::Subset {
            fallback_policy,
            default_subset,
            subset_selectors,
            allow_redundant_keys,
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            metadata_fallback_policy,
            subset_lb_policy: _,
        } = proto;
        if locality_weight_aware && *locality != LocalityLb::Weighted {
            return Err(cx.invalid(format!(
                "Locality weight aware subset LB requires that a locality_weighted_lb_config be set in {cluster}"
            )));
        }
        use parts::LbSubsetFallbackPolicy as Fallback;
        let fallback = match Fallback::try_from(fallback_policy) {
            Ok(Fallback::NoFallback) => SubsetFallback::None,
            Ok(Fallback::AnyEndpoint) => SubsetFallback::Any,
            Ok(Fallback::DefaultSubset) => SubsetFallback::Default,
            Err(_) => return Err(cx.at("fallback_policy", |cx| cx.invalid("is no fallback policy"))),
        };
        let metadata_fallback = metadata_fallback_policy == parts::LbSubsetMetadataFallbackPolicy::FallbackList as i32;
        let mut selectors = cx.each("subset_selectors", subset_selectors, SubsetSelector::lower)?;
        // Envoy: a selector without keys is none.
        selectors.retain(|selector| !selector.keys.is_empty());
        if allow_redundant_keys {
            // Of several whose keys a route asks for, the one with the most counts.
            selectors.sort_by_key(|selector| std::cmp::Reverse(selector.keys.len()));
        }
        Ok(Self {
            fallback,
            default_subset: default_subset.map(object).unwrap_or_default(),
            selectors: selectors.into(),
            allow_redundant_keys,
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            metadata_fallback,
            counted: cx.env.concurrency as u64 + 1,
        })
    }
}

// === impl SubsetSelector ===

impl SubsetSelector {
    fn lower(proto: parts::LbSubsetSelector, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use parts::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Fallback;
        let parts::LbSubsetSelector { keys, single_host_per_subset, fallback_policy, fallback_keys_subset } = proto;
        let names = |keys: Vec<String>| keys.into_iter().map(Arc::from).collect::<BTreeSet<Arc<str>>>();
        let (keys, fallback_keys) = (names(keys), names(fallback_keys_subset));
        let fallback = match Fallback::try_from(fallback_policy) {
            Ok(Fallback::NotDefined) => None,
            Ok(Fallback::NoFallback) => Some(SelectorFallback::Policy(SubsetFallback::None)),
            Ok(Fallback::AnyEndpoint) => Some(SelectorFallback::Policy(SubsetFallback::Any)),
            Ok(Fallback::DefaultSubset) => Some(SelectorFallback::Policy(SubsetFallback::Default)),
            Ok(Fallback::KeysSubset) => {
                check_fallback_keys(&keys, &fallback_keys, cx)?;
                Some(SelectorFallback::Keys(fallback_keys.clone()))
            }
            Err(_) => return Err(cx.at("fallback_policy", |cx| cx.invalid("is no fallback policy"))),
        };
        if !fallback_keys.is_empty() && !matches!(fallback, Some(SelectorFallback::Keys(_))) {
            return Err(cx.invalid("fallback_keys_subset can be set only for KEYS_SUBSET fallback_policy"));
        }
        Ok(Self { keys, fallback, single_host: single_host_per_subset })
    }
}

fn check_fallback_keys(
    keys: &BTreeSet<Arc<str>>,
    fallback: &BTreeSet<Arc<str>>,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    if fallback.is_empty() {
        return Err(cx.invalid("fallback_keys_subset cannot be empty"));
    }
    if !fallback.is_subset(keys) {
        return Err(cx.invalid("fallback_keys_subset must be a subset of selector keys"));
    }
    if fallback.len() == keys.len() {
        return Err(cx.invalid("fallback_keys_subset cannot be equal to keys"));
    }
    Ok(())
}
