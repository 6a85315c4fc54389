use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nuncio_config::cluster::{AssignmentPolicy, LocalityWeight, SubsetFallback, SubsetLb, SubsetSelector};
use nuncio_config::metadata::subset_key;
use serde_json::Value;

use super::change::{Change, Known};
use super::groups::Before;
use super::{HostGroups, HostSet, Layout, Localities};
use crate::host::{Description, Host};

/// Subsets of a host set by metadata. Their places are those of the whole set.
#[derive(Debug)]
pub(crate) struct Subsets {
    /// Those that stay the same are shared with the set before.
    all: Box<[Arc<Subset>]>,
    keys: Arc<Keys>,
    /// That of all hosts.
    pub(crate) any: Option<u32>,
    /// That of the hosts of the default subset.
    pub(crate) default: Option<u32>,
    /// By which they were made.
    policy: Box<AssignmentPolicy>,
}

/// Places in `Subsets::all` by [`subset_key`].
#[derive(Debug, Default)]
struct Keys {
    groups: HashMap<Box<str>, u32>,
    /// Those of selectors that have one host for each.
    singles: HashMap<Box<str>, u32>,
}

#[derive(Debug)]
struct Subset {
    /// In order.
    places: Box<[u32]>,
    /// `None` where there is one host for each key.
    groups: Option<HostGroups>,
}

/// What subsets are made by.
#[derive(Clone, Copy)]
struct Maker<'a> {
    config: &'a SubsetLb,
    hosts: Known<'a>,
    layout: Layout<'a>,
    /// How many hosts there are where weights of localities are scaled, as `locality_weights`.
    totals: &'a [u32],
}

/// What a subset is made for.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Wanted {
    Key(Box<str>),
    Single(Box<str>),
    Any,
    Default,
}

/// Where more than one of so many hosts are others, all subsets are made anew.
const MOST: usize = 8;

// === impl Subsets ===

impl Subsets {
    pub(super) fn new(config: &SubsetLb, hosts: Known<'_>, layout: Layout<'_>) -> Self {
        let totals = totals(config, hosts, layout);
        let maker = Maker { config, hosts, layout, totals: &totals };
        let changed = layout.before.and_then(|set| set.subsets.as_ref()?.changed(set, maker));
        changed.unwrap_or_else(|| Self::whole(maker))
    }

    fn whole(maker: Maker<'_>) -> Self {
        let mut found: HashMap<Wanted, Vec<u32>> = HashMap::new();
        // In the order in which they are found.
        let mut order: Vec<Wanted> = [Wanted::Any, Wanted::Default].into_iter().filter(|w| maker.needs(w)).collect();
        found.extend(order.iter().map(|wanted| (wanted.clone(), Vec::new())));
        for (place, host) in (0..).zip(maker.hosts.hosts) {
            for wanted in maker.subsets_of(host) {
                match found.get_mut(&wanted) {
                    Some(places) => places.push(place),
                    None => {
                        order.push(wanted.clone());
                        found.insert(wanted, vec![place]);
                    }
                }
            }
        }
        let made = order.into_iter().map(|wanted| {
            let subset = maker.make(&wanted, found.remove(&wanted).unwrap_or_default(), None);
            (wanted, Arc::new(subset))
        });
        Self::of(made.collect(), maker)
    }

    fn of(made: Vec<(Wanted, Arc<Subset>)>, maker: Maker<'_>) -> Self {
        let mut keys = Keys::default();
        let (mut any, mut default) = (None, None);
        for (at, (wanted, _)) in (0..).zip(&made) {
            match wanted {
                Wanted::Key(key) => _ = keys.groups.insert(key.clone(), at),
                Wanted::Single(key) => _ = keys.singles.insert(key.clone(), at),
                Wanted::Any => any = Some(at),
                Wanted::Default => default = Some(at),
            }
        }
        let all = made.into_iter().map(|(_, subset)| subset).collect();
        Self { all, keys: keys.into(), any, default, policy: Box::new(maker.layout.policy.clone()) }
    }

    /// Those of the set that follows `old`, whose subsets these are. `None` where they are better made anew.
    fn changed(&self, old: &HostSet, maker: Maker<'_>) -> Option<Self> {
        // All weights depend on how many hosts there are.
        if !maker.totals.is_empty() || *maker.layout.policy != *self.policy {
            return None;
        }
        let change = Change::between(old.known(), maker.hosts);
        let count = |hosts: &HostSet| hosts.facts.hosts().last().map(|last| last.priority);
        let priorities = maker.hosts.facts.hosts().last().map(|last| last.priority);
        if change.size() * MOST > maker.hosts.hosts.len() || count(old) != priorities {
            return None;
        }
        let mut touched: HashMap<Wanted, Vec<u32>> = HashMap::new();
        for &gone in &change.gone {
            maker.subsets_of(&old.hosts[gone as usize]).into_iter().for_each(|w| _ = touched.entry(w).or_default());
        }
        for &other in &change.other {
            let host = &maker.hosts.hosts[other as usize];
            maker.subsets_of(host).into_iter().for_each(|w| _ = touched.entry(w).or_default());
        }
        for &place in &change.come {
            let host = &maker.hosts.hosts[place as usize];
            maker.subsets_of(host).into_iter().for_each(|w| touched.entry(w).or_default().push(place));
        }
        Some(self.with_changes(old, &change, touched, maker))
    }

    fn with_changes(
        &self,
        old: &HostSet,
        change: &Change,
        touched: HashMap<Wanted, Vec<u32>>,
        maker: Maker<'_>,
    ) -> Self {
        let mut all: Vec<Arc<Subset>> = self.all.to_vec();
        let remake = |subset: &Subset, come: &[u32]| {
            let mut places: Vec<u32> = subset.places.iter().filter_map(|place| change.place_now(*place)).collect();
            places.extend_from_slice(come);
            if !places.is_sorted() {
                places.sort_unstable();
            }
            let before = subset.groups.as_ref().map(|groups| Before { groups, hosts: &old.hosts });
            Arc::new(maker.make_of(subset.groups.is_some(), places, before))
        };
        let (mut new, mut remade) = (Vec::new(), HashSet::new());
        let mut has_empty = false;
        for (wanted, come) in touched {
            match self.place_of(&wanted) {
                Some(at) => {
                    let before = &self.all[at as usize];
                    let next = remake(before, &come);
                    has_empty |= next.places.is_empty() && matches!(wanted, Wanted::Key(_) | Wanted::Single(_));
                    all[at as usize] = next;
                    remade.insert(at);
                }
                None => new.push((wanted.clone(), Arc::new(maker.make(&wanted, come, None)))),
            }
        }
        let moves = change.moves_hosts();
        for (_, subset) in (0..).zip(&mut all).filter(|(at, _)| !remade.contains(at)) {
            let is_moved = moves && subset.places.last().is_some_and(|last| change.reaches(*last));
            let is_begun = subset.groups.as_ref().is_some_and(|groups| !groups.can_be_shared());
            if is_moved || is_begun {
                *subset = remake(subset, &[]);
            }
        }
        if new.is_empty() && !has_empty {
            return Self { all: all.into(), keys: self.keys.clone(), policy: self.policy.clone(), ..*self };
        }
        let mut made: Vec<(Wanted, Arc<Subset>)> = Vec::with_capacity(all.len() + new.len());
        let fixed = [(Wanted::Any, self.any), (Wanted::Default, self.default)];
        let fixed = fixed.into_iter().filter_map(|(wanted, at)| Some((wanted, at?)));
        let keyed = self.keys.groups.iter().map(|(key, at)| (Wanted::Key(key.clone()), *at));
        let single = self.keys.singles.iter().map(|(key, at)| (Wanted::Single(key.clone()), *at));
        made.extend(fixed.map(|(wanted, at)| (wanted, all[at as usize].clone())));
        let named = keyed.chain(single).map(|(wanted, at)| (wanted, all[at as usize].clone()));
        made.extend(named.filter(|(_, subset)| !subset.places.is_empty()));
        made.extend(new);
        Self::of(made, maker)
    }

    fn place_of(&self, wanted: &Wanted) -> Option<u32> {
        match wanted {
            Wanted::Key(key) => self.find(key),
            Wanted::Single(key) => self.keys.singles.get(key).copied(),
            Wanted::Any => self.any,
            Wanted::Default => self.default,
        }
    }

    /// How many there are, in what [`Self::groups`] counts.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The hosts of a subset that is not of a selector with one host for each.
    pub(crate) fn groups(&self, at: u32) -> Option<&HostGroups> {
        self.all[at as usize].groups.as_ref()
    }

    /// The place of the subset with this key.
    pub(crate) fn find(&self, key: &str) -> Option<u32> {
        self.keys.groups.get(key).copied()
    }

    /// The place in the host set of the only host with this key.
    pub(crate) fn single(&self, key: &str) -> Option<u32> {
        let at = *self.keys.singles.get(key)?;
        self.all[at as usize].places.first().copied()
    }

    /// How many there are, how many of them were not there `before`, and how many are there no more.
    pub(crate) fn changes(&self, before: Option<&Self>) -> (u64, u64, u64) {
        let Keys { groups, singles } = &*self.keys;
        if before.is_some_and(|before| Arc::ptr_eq(&before.keys, &self.keys)) {
            let others = singles.keys().filter(|key| !groups.contains_key(&**key)).count();
            return ((groups.len() + others) as u64, 0, 0);
        }
        let keys = |subsets: &Self| -> HashSet<Box<str>> {
            subsets.keys.groups.keys().chain(subsets.keys.singles.keys()).cloned().collect()
        };
        let now = keys(self);
        let then = before.map(keys).unwrap_or_default();
        (now.len() as u64, now.difference(&then).count() as u64, then.difference(&now).count() as u64)
    }
}

#[cfg(test)]
impl Subsets {
    /// All of them, by what they are for.
    pub(super) fn described(&self) -> std::collections::BTreeMap<String, String> {
        let Keys { groups, singles } = &*self.keys;
        let named = groups.iter().map(|(key, at)| (format!("group {key}"), *at));
        let single = singles.iter().map(|(key, at)| (format!("single {key}"), *at));
        let fixed = [("any", self.any), ("default", self.default)];
        let fixed = fixed.into_iter().filter_map(|(name, at)| Some((name.to_owned(), at?)));
        let describe = |(name, at): (String, u32)| {
            let Subset { places, groups } = &*self.all[at as usize];
            (name, format!("{places:?} {:?}", groups.as_ref().map(super::tests::changes::seen)))
        };
        named.chain(single).chain(fixed).map(describe).collect()
    }

    /// How many are those of `other`.
    pub(super) fn shared_with(&self, other: &Self) -> usize {
        self.all.iter().filter(|a| other.all.iter().any(|b| Arc::ptr_eq(a, b))).count()
    }
}

// === impl Maker ===

impl Maker<'_> {
    fn needs(&self, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::Any => needs(self.config, SubsetFallback::Any),
            Wanted::Default => needs(self.config, SubsetFallback::Default),
            Wanted::Key(_) | Wanted::Single(_) => true,
        }
    }

    /// The subsets that a host is in. Two selectors may have the same keys.
    fn subsets_of(&self, host: &Host) -> Vec<Wanted> {
        let config = self.config;
        let is_default = || config.default_subset.iter().all(|(name, value)| has(host, name, value, config));
        let mut wanted = Vec::new();
        if self.needs(&Wanted::Any) {
            wanted.push(Wanted::Any);
        }
        if self.needs(&Wanted::Default) && is_default() {
            wanted.push(Wanted::Default);
        }
        for selector in &config.selectors {
            let named = keys(selector, host, config.list_as_any).into_iter().map(|key| match selector.single_host {
                true => Wanted::Single(key),
                false => Wanted::Key(key),
            });
            for next in named {
                if !wanted.contains(&next) {
                    wanted.push(next);
                }
            }
        }
        wanted
    }

    fn make(&self, wanted: &Wanted, places: Vec<u32>, before: Option<Before<'_>>) -> Subset {
        self.make_of(!matches!(wanted, Wanted::Single(_)), places, before)
    }

    fn make_of(&self, has_groups: bool, places: Vec<u32>, before: Option<Before<'_>>) -> Subset {
        let groups = has_groups.then(|| {
            let weights = self.weights(&places);
            let policy = AssignmentPolicy { locality_weights: weights, ..self.layout.policy.clone() };
            HostGroups::new(self.hosts, &places, Layout { policy: &policy, ..self.layout }, before)
        });
        Subset { places: places.into(), groups }
    }

    /// The weights of localities in the subset of the hosts at `places`.
    fn weights(&self, places: &[u32]) -> Box<[LocalityWeight]> {
        let all = &self.layout.policy.locality_weights;
        if !self.config.locality_weight_aware {
            return Box::default();
        }
        if self.totals.is_empty() {
            return all.clone();
        }
        let here = counts(all, self.hosts, places.iter().copied());
        let scaled = all.iter().zip(self.totals).zip(here).map(|((weight, total), here)| {
            let mut scaled = weight.clone();
            if *total > 0 {
                scaled.weight = (f64::from(weight.weight) * f64::from(here) / f64::from(*total)).round() as u32;
            }
            scaled
        });
        scaled.collect()
    }
}

/// How many hosts there are where the weights of localities are scaled by how many of them are in a subset.
fn totals(config: &SubsetLb, hosts: Known<'_>, layout: Layout<'_>) -> Vec<u32> {
    let is_scaled = config.locality_weight_aware && config.scale_locality_weight;
    match is_scaled && layout.localities != Localities::Ignored {
        true => counts(&layout.policy.locality_weights, hosts, 0..hosts.hosts.len() as u32),
        false => Vec::new(),
    }
}

/// How many of the hosts at `places` are where each of `weights` is given.
fn counts(weights: &[LocalityWeight], hosts: Known<'_>, places: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut counts: HashMap<(u32, u32), u32> = HashMap::new();
    for place in places {
        let fact = hosts.facts.at(place);
        *counts.entry((fact.priority, fact.locality)).or_default() += 1;
    }
    let of = |weight: &LocalityWeight| {
        let number = hosts.facts.number_of(weight.locality.as_ref())?;
        counts.get(&(weight.priority, number)).copied()
    };
    weights.iter().map(|weight| of(weight).unwrap_or(0)).collect()
}

fn needs(config: &SubsetLb, fallback: SubsetFallback) -> bool {
    use nuncio_config::cluster::SelectorFallback;
    let by_selector = |s: &SubsetSelector| s.fallback == Some(SelectorFallback::Policy(fallback));
    config.fallback == fallback
        || config.selectors.iter().any(by_selector)
        || (fallback == SubsetFallback::Any && config.panic_mode_any)
}

/// The fields of its metadata that subsets are made by.
fn fields(description: &Description) -> Option<&serde_json::Map<String, Value>> {
    description.metadata.as_ref()?.get("envoy.lb")
}

fn has(host: &Host, name: &str, wanted: &Value, config: &SubsetLb) -> bool {
    match fields(&host.description()).and_then(|fields| fields.get(name)) {
        Some(Value::Array(values)) if config.list_as_any => values.contains(wanted),
        Some(value) => value == wanted,
        None => false,
    }
}

/// The keys of the subsets that a selector puts a host in: none if it lacks a field, several if lists stand for their
/// values.
fn keys(selector: &SubsetSelector, host: &Host, list_as_any: bool) -> Vec<Box<str>> {
    let description = host.description();
    let Some(fields) = fields(&description) else { return Vec::new() };
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
