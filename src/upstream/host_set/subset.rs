use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nuncio_config::cluster::{AssignmentPolicy, SubsetFallback, SubsetLb, SubsetSelector};
use nuncio_config::metadata::subset_key;
use serde_json::Value;

use super::{HostSet, Layout};
use crate::host::Host;

/// Subsets of a host set by metadata. Their places are those of the whole set.
#[derive(Debug)]
pub(crate) struct Subsets {
    pub(crate) sets: Box<[HostSet]>,
    /// Places in `sets` by [`subset_key`].
    by_key: HashMap<Box<str>, u32>,
    /// The one host for a key of a selector that has one host for each.
    singles: HashMap<Box<str>, u32>,
    /// That of all hosts.
    pub(crate) any: Option<u32>,
    /// That of the hosts of the default subset.
    pub(crate) default: Option<u32>,
}

/// Hosts by key.
#[derive(Default)]
struct Found {
    /// In the order in which they were found.
    keys: Vec<Box<str>>,
    places: HashMap<Box<str>, Vec<u32>>,
}

// === impl Subsets ===

impl Subsets {
    pub(super) fn new(config: &SubsetLb, hosts: &Arc<[Arc<Host>]>, layout: Layout<'_>) -> Self {
        let before = layout.before.and_then(|set| set.subsets.as_deref());
        let of_before = |at: Option<u32>| before.and_then(|before| before.sets.get(at? as usize));
        let mut found = Found::default();
        let mut singles = HashMap::new();
        for selector in &config.selectors {
            for (place, host) in (0..).zip(&**hosts) {
                for key in keys(selector, host, config.list_as_any) {
                    match selector.single_host {
                        true => _ = singles.entry(key).or_insert(place),
                        false => found.add(key, place),
                    }
                }
            }
        }
        let mut sets: Vec<HostSet> = found
            .keys
            .iter()
            .map(|key| {
                let before = before.and_then(|before| before.find(key));
                set(config, hosts, &found.places[key], Layout { before: of_before(before), ..layout })
            })
            .collect();
        let by_key = (0..).zip(found.keys).map(|(at, key)| (key, at)).collect();
        let mut add = |places: Vec<u32>, before: Option<u32>| {
            sets.push(set(config, hosts, &places, Layout { before: of_before(before), ..layout }));
            Some(sets.len() as u32 - 1)
        };
        let any = needs(config, SubsetFallback::Any)
            .then(|| add((0..hosts.len() as u32).collect(), before.and_then(|before| before.any)))
            .flatten();
        let default = needs(config, SubsetFallback::Default).then(|| {
            let is_in = |host: &Host| config.default_subset.iter().all(|(name, value)| has(host, name, value, config));
            let places = (0..).zip(&**hosts).filter(|(_, host)| is_in(host)).map(|(place, _)| place).collect();
            add(places, before.and_then(|before| before.default))
        });
        Self { any, default: default.flatten(), sets: sets.into(), by_key, singles }
    }

    /// The place in `sets` of the subset with this key.
    pub(crate) fn find(&self, key: &str) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// The place of the only host with this key.
    pub(crate) fn single(&self, key: &str) -> Option<u32> {
        self.singles.get(key).copied()
    }

    /// How many there are, how many of them were not there `before`, and how many are there no more.
    pub(crate) fn changes(&self, before: Option<&Self>) -> (u64, u64, u64) {
        let keys = |subsets: &Self| subsets.by_key.keys().chain(subsets.singles.keys()).cloned().collect();
        let now: HashSet<Box<str>> = keys(self);
        let then: HashSet<Box<str>> = before.map(keys).unwrap_or_default();
        (now.len() as u64, now.difference(&then).count() as u64, then.difference(&now).count() as u64)
    }
}

fn needs(config: &SubsetLb, fallback: SubsetFallback) -> bool {
    use nuncio_config::cluster::SelectorFallback;
    let by_selector = |s: &SubsetSelector| s.fallback == Some(SelectorFallback::Policy(fallback));
    config.fallback == fallback
        || config.selectors.iter().any(by_selector)
        || (fallback == SubsetFallback::Any && config.panic_mode_any)
}

fn fields(host: &Host) -> Option<&serde_json::Map<String, Value>> {
    host.metadata.as_ref()?.get("envoy.lb")
}

fn has(host: &Host, name: &str, wanted: &Value, config: &SubsetLb) -> bool {
    match fields(host).and_then(|fields| fields.get(name)) {
        Some(Value::Array(values)) if config.list_as_any => values.contains(wanted),
        Some(value) => value == wanted,
        None => false,
    }
}

/// The keys of the subsets that a selector puts a host in: none if it lacks a field, several if lists stand for their
/// values.
fn keys(selector: &SubsetSelector, host: &Host, list_as_any: bool) -> Vec<Box<str>> {
    let Some(fields) = fields(host) else { return Vec::new() };
    let mut keys = vec![String::new()];
    for name in &selector.keys {
        let values = match fields.get(&**name) {
            None => return Vec::new(),
            Some(Value::Array(values)) if list_as_any => &values[..],
            Some(value) => std::slice::from_ref(value),
        };
        let longer = |key: &String| {
            let key = key.clone();
            values.iter().map(move |value| key.clone() + &subset_key(std::iter::once((&**name, value))))
        };
        keys = keys.iter().flat_map(longer).collect();
    }
    keys.into_iter().map(String::into_boxed_str).collect()
}

fn set(config: &SubsetLb, hosts: &Arc<[Arc<Host>]>, places: &[u32], layout: Layout<'_>) -> HostSet {
    let weights = match (config.locality_weight_aware, config.scale_locality_weight) {
        (false, _) => Box::default(),
        (true, false) => layout.policy.locality_weights.clone(),
        (true, true) => scaled(hosts, places, layout.policy),
    };
    let policy = AssignmentPolicy { locality_weights: weights, ..layout.policy.clone() };
    HostSet::of_places(hosts.clone(), places, Layout { policy: &policy, subset: None, ..layout })
}

/// The weights of localities by how many of their hosts are in the subset.
fn scaled(
    hosts: &[Arc<Host>],
    places: &[u32],
    policy: &AssignmentPolicy,
) -> Box<[nuncio_config::cluster::LocalityWeight]> {
    let scaled = policy.locality_weights.iter().map(|weight| {
        let is_in = |host: &Host| host.priority == weight.priority && host.locality == weight.locality;
        let all = hosts.iter().filter(|host| is_in(host)).count();
        let here = places.iter().filter(|place| is_in(&hosts[**place as usize])).count();
        let mut scaled = weight.clone();
        if all > 0 {
            scaled.weight = (f64::from(weight.weight) * here as f64 / all as f64).round() as u32;
        }
        scaled
    });
    scaled.collect()
}

// === impl Found ===

impl Found {
    fn add(&mut self, key: Box<str>, place: u32) {
        if !self.places.contains_key(&key) {
            self.keys.push(key.clone());
        }
        let places = self.places.entry(key).or_default();
        // Two selectors may have the same keys.
        if places.binary_search(&place).is_err() {
            places.push(place);
        }
    }
}
