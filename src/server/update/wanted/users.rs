//! Who wants what.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nuncio_config::bootstrap::DynamicResources;
use nuncio_config::discovery::{ConfigSource, OnDemandClusters, RouteSlot};
use nuncio_config::extension::{Category, ExtensionSlot};
use nuncio_config::route::{HostSlot, ScopeSlot};
use nuncio_config::secret::SecretSlot;
use nuncio_config::xdstp::{ResourceName, is_xdstp};
use nuncio_filter_api::Slots;
use nuncio_upstream::Cluster;

use crate::runtime::Layers;
use crate::update::{Kind, Phase, Target};

/// Those who want one target.
#[derive(Default)]
pub(in crate::update) struct Users {
    pub(in crate::update) clusters: Vec<Arc<Cluster>>,
    pub(in crate::update) routes: Held<RouteSlot>,
    pub(in crate::update) secrets: Held<SecretSlot>,
    pub(in crate::update) extensions: Held<ExtensionSlot>,
    pub(in crate::update) scopes: Held<ScopeSlot>,
    pub(in crate::update) hosts: Held<HostSlot>,
    /// Those who asked for one cluster.
    pub(in crate::update) on_demand: Held<OnDemandClusters>,
    pub(in crate::update) initial_fetch_timeout: Option<Duration>,
}

/// Slots of one kind. They live as long as the listeners and clusters that hold them.
pub(in crate::update) struct Held<T>(Vec<Weak<T>>);

/// Who wants what now, but for the endpoints of clusters.
pub(in crate::update) fn users(
    phase: Phase,
    dynamic: &DynamicResources,
    slots: &Slots,
    runtime: &Layers,
) -> BTreeMap<Target, Users> {
    let mut all = BTreeMap::new();
    for (name, source) in runtime.wanted() {
        entry(&mut all, dynamic, Kind::Runtime, &source, Some(&name));
    }
    if phase < Phase::Clusters {
        return all;
    }
    let list = |kind: Kind, source: &Option<ConfigSource>, all: &mut BTreeMap<Target, Users>| {
        if let Some(ConfigSource { origin, initial_fetch_timeout }) = source {
            let users = Users { initial_fetch_timeout: *initial_fetch_timeout, ..Users::default() };
            all.insert(Target { kind, origin: origin.clone(), name: None }, users);
        }
    };
    list(Kind::Cluster, &dynamic.cds, &mut all);
    for slot in slots.all::<OnDemandClusters>() {
        for name in slot.asked() {
            entry(&mut all, dynamic, Kind::Cluster, &slot.source, Some(&name)).on_demand.add(&slot);
        }
    }
    for slot in slots.all::<SecretSlot>() {
        if let Some(source) = &slot.source {
            entry(&mut all, dynamic, Kind::Secret, source, Some(&slot.name)).secrets.add(&slot);
        }
    }
    for slot in slots.all::<ExtensionSlot>() {
        // Clusters wait for theirs.
        if phase >= Phase::Listeners || slot.category == Category::UpstreamHttpFilter {
            entry(&mut all, dynamic, Kind::Extension, &slot.source, Some(&slot.name)).extensions.add(&slot);
        }
    }
    if phase >= Phase::Listeners {
        list(Kind::Listener, &dynamic.lds, &mut all);
        for slot in slots.all::<ScopeSlot>() {
            entry(&mut all, dynamic, Kind::Scope, &slot.source, None).scopes.add(&slot);
        }
        for slot in slots.all::<HostSlot>() {
            entry(&mut all, dynamic, Kind::VirtualHost, &slot.source, None).hosts.add(&slot);
            for name in slot.asked() {
                entry(&mut all, dynamic, Kind::VirtualHost, &slot.source, Some(&name)).hosts.add(&slot);
            }
        }
        for slot in slots.all::<RouteSlot>() {
            entry(&mut all, dynamic, Kind::Routes, &slot.source, Some(&slot.name)).routes.add(&slot);
        }
    }
    all
}

fn entry<'a>(
    all: &'a mut BTreeMap<Target, Users>,
    dynamic: &DynamicResources,
    kind: Kind,
    source: &ConfigSource,
    name: Option<&Arc<str>>,
) -> &'a mut Users {
    let users = all.entry(target(dynamic, kind, source, name)).or_default();
    users.initial_fetch_timeout = users.initial_fetch_timeout.max(source.initial_fetch_timeout);
    users
}

pub(super) fn endpoints_of(cluster: &Cluster, dynamic: &DynamicResources) -> Option<Target> {
    let eds = cluster.config.discovery.eds()?;
    Some(target(dynamic, Kind::Endpoints, &eds.source, Some(&eds.service_name)))
}

/// What is asked for, and of whom, where `source` refers to a resource of this name.
fn target(dynamic: &DynamicResources, kind: Kind, source: &ConfigSource, name: Option<&Arc<str>>) -> Target {
    let parsed = name.filter(|name| is_xdstp(name)).and_then(|name| ResourceName::parse(name).ok());
    let Some(parsed) = parsed else { return Target { kind, origin: source.origin.clone(), name: name.cloned() } };
    // Envoy asks for these alone by their authority.
    let has_authority = matches!(kind, Kind::Endpoints | Kind::Routes);
    let of_authority = dynamic.authorities.origin(&parsed).filter(|_| has_authority);
    Target { kind, origin: of_authority.unwrap_or(&source.origin).clone(), name: Some(parsed.to_string().into()) }
}

// === impl Users ===

impl Users {
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.clusters.len() == other.clusters.len()
            && self.clusters.iter().zip(&other.clusters).all(|(a, b)| Arc::ptr_eq(a, b))
            && self.routes.is_same(&other.routes)
            && self.secrets.is_same(&other.secrets)
            && self.extensions.is_same(&other.extensions)
            && self.scopes.is_same(&other.scopes)
            && self.hosts.is_same(&other.hosts)
            && self.on_demand.is_same(&other.on_demand)
    }
}

// === impl Held ===

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Held<T> {
    fn add(&mut self, slot: &Arc<T>) {
        self.0.push(Arc::downgrade(slot));
    }

    /// Those that somebody still holds.
    pub(in crate::update) fn iter(&self) -> impl Iterator<Item = Arc<T>> {
        self.0.iter().filter_map(Weak::upgrade)
    }

    /// Whether these are the same slots, in whatever order.
    fn is_same(&self, other: &Self) -> bool {
        let places = |held: &Self| held.0.iter().map(Weak::as_ptr).collect::<HashSet<_>>();
        self.0.len() == other.0.len() && places(self) == places(other)
    }
}
