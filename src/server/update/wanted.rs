//! What is wanted of the sources, since when, and what is counted of it.

mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nuncio_config::bootstrap::DynamicResources;
use nuncio_config::discovery::Origin;
use nuncio_config::xdstp::collection_of;
use nuncio_telemetry::stats::Store;
use nuncio_upstream::{Cluster, Snapshot};
use tokio::time::Instant;

use super::stats::{Counted, Event};
use super::{Kind, PlaneState, Subscriptions, Target};
use users::endpoints_of;

pub(super) use users::{Users, users};

/// A target that is wanted.
pub(super) struct Watched {
    pub(super) users: Users,
    counted: Option<Counted>,
    /// Its first delivery has come, or nobody waits for it any more.
    pub(super) is_settled: bool,
}

/// All targets that are wanted.
#[derive(Default)]
pub(super) struct Targets {
    /// Of some kinds there may be very many.
    watched: BTreeMap<Kind, BTreeMap<Target, Watched>>,
    /// The clusters whose endpoints are among them.
    clusters: Arc<Snapshot>,
    /// Targets have come or gone since [`Self::news`] told which there are.
    is_news: bool,
    /// When those who wait for a first delivery wait no longer.
    deadlines: BTreeMap<Instant, Vec<Target>>,
    /// How it stands with streams that are for one kind alone.
    planes: BTreeMap<(Kind, Origin), PlaneState>,
}

// === impl Targets ===

impl Targets {
    /// Takes over who wants what, but for the endpoints of clusters; those who are new wait from now on.
    pub(super) fn replace(&mut self, all: BTreeMap<Target, Users>, store: &Store) {
        let of_clusters = [Kind::Endpoints, Kind::LocalityEndpoints];
        let aside: Vec<_> = of_clusters.iter().filter_map(|kind| self.watched.remove_entry(kind)).collect();
        let before = std::mem::take(&mut self.watched);
        self.watched.extend(aside);
        self.put_all(all, before, store);
        let mut planes = std::mem::take(&mut self.planes);
        planes.retain(|(kind, origin), _| self.asks(*kind, origin));
        self.planes = planes;
    }

    /// The same for the endpoints of localities. Says whether some are wanted no longer.
    pub(super) fn replace_collections(&mut self, all: BTreeMap<Target, Users>, store: &Store) -> bool {
        let before = self.watched.remove(&Kind::LocalityEndpoints).into_iter();
        self.put_all(all, before.map(|of_kind| (Kind::LocalityEndpoints, of_kind)).collect(), store)
    }

    fn put_all(
        &mut self,
        all: BTreeMap<Target, Users>,
        mut before: BTreeMap<Kind, BTreeMap<Target, Watched>>,
        store: &Store,
    ) -> bool {
        for (target, users) in all {
            let known = before.get_mut(&target.kind).and_then(|of_kind| of_kind.remove(&target));
            self.put(target, users, known, store);
        }
        let are_gone = before.values().any(|left| !left.is_empty());
        self.is_news |= are_gone;
        are_gone
    }

    /// Looks at the clusters that have come and gone since the last time. Tells the targets that others want now than
    /// before, or nobody.
    pub(super) fn follow_clusters(
        &mut self,
        now: Arc<Snapshot>,
        dynamic: &DynamicResources,
        store: &Store,
    ) -> BTreeSet<Target> {
        let before = std::mem::replace(&mut self.clusters, now.clone());
        let mut touched: BTreeMap<Target, Vec<Arc<Cluster>>> = BTreeMap::new();
        for cluster in before.only_here(&now) {
            let Some(target) = endpoints_of(cluster, dynamic) else { continue };
            let left = touched.entry(target).or_insert_with_key(|target| self.clusters_of(target));
            left.retain(|other| !Arc::ptr_eq(other, cluster));
        }
        for cluster in now.only_here(&before) {
            let Some(target) = endpoints_of(cluster, dynamic) else { continue };
            let all = touched.entry(target).or_insert_with_key(|target| self.clusters_of(target));
            all.push(cluster.clone());
        }
        let targets = touched.keys().cloned().collect();
        for (target, clusters) in touched {
            let of_kind = self.watched.entry(Kind::Endpoints).or_default();
            let known = of_kind.remove(&target);
            if clusters.is_empty() {
                self.is_news |= known.is_some();
                continue;
            }
            let timeouts = clusters.iter().filter_map(|c| c.config.discovery.eds()?.source.initial_fetch_timeout);
            let users = Users { initial_fetch_timeout: timeouts.max(), clusters, ..Users::default() };
            self.put(target, users, known, store);
        }
        targets
    }

    pub(super) fn clusters_of(&self, target: &Target) -> Vec<Arc<Cluster>> {
        self.users(target).map_or_else(Vec::new, |users| users.clusters.clone())
    }

    /// Watches a target, of which this was `known` before.
    fn put(&mut self, target: Target, users: Users, known: Option<Watched>, store: &Store) {
        let watched = match known {
            Some(known) if known.users.is_same(&users) => known,
            Some(known) => self.watch(&target, users, known.is_settled, store),
            None => {
                self.is_news = true;
                if let Some(timeout) = users.initial_fetch_timeout {
                    self.deadlines.entry(Instant::now() + timeout).or_default().push(target.clone());
                }
                self.watch(&target, users, false, store)
            }
        };
        self.watched.entry(target.kind).or_default().insert(target, watched);
    }

    fn watch(&self, target: &Target, users: Users, is_settled: bool, store: &Store) -> Watched {
        let mut watched = Watched::new(target, users, is_settled, store);
        if !self.planes.is_empty()
            && let Some(state) = self.planes.get(&(target.kind, target.origin.clone()))
            && let Some(counted) = &mut watched.counted
        {
            counted.join(state);
        }
        watched
    }

    /// The stream that all targets of a kind and source share is in this state.
    pub(super) fn note_plane(&mut self, kind: Kind, origin: Origin, state: PlaneState) {
        let of_kind = self.watched.get_mut(&kind).into_iter().flatten();
        for (_, watched) in of_kind.filter(|(target, _)| target.origin == origin) {
            watched.counted.iter_mut().for_each(|counted| counted.show(&state));
        }
        self.planes.insert((kind, origin), state);
    }

    pub(super) fn find(&self, target: &Target) -> Option<&Watched> {
        self.watched.get(&target.kind)?.get(target)
    }

    fn find_mut(&mut self, target: &Target) -> Option<&mut Watched> {
        self.watched.get_mut(&target.kind)?.get_mut(target)
    }

    /// Who wants this target, if anybody does.
    pub(super) fn users(&self, target: &Target) -> Option<&Users> {
        self.find(target).map(|watched| &watched.users)
    }

    /// The target, if it is wanted, of which a resource of this name is a part, or the whole.
    pub(super) fn covering(&self, kind: Kind, origin: &Origin, name: &str) -> Option<Target> {
        let target = |name: &str| Target::named(kind, origin, name.into());
        let itself = Some(target(name)).filter(|target| self.find(target).is_some());
        let collection = || collection_of(name).map(|name| target(&name));
        itself.or_else(|| collection().filter(|target| self.find(target).is_some()))
    }

    /// Whether anything of this kind is wanted of the source.
    pub(super) fn asks(&self, kind: Kind, origin: &Origin) -> bool {
        self.of(kind, origin).next().is_some()
    }

    /// Whether anything of this kind is wanted.
    pub(super) fn wants(&self, kind: Kind) -> bool {
        self.watched.get(&kind).is_some_and(|of_kind| !of_kind.is_empty())
    }

    /// All of this kind that are wanted of the source.
    pub(super) fn of<'a>(&'a self, kind: Kind, origin: &'a Origin) -> impl Iterator<Item = &'a Target> {
        let first = Target { kind, origin: origin.clone(), name: None };
        let from_first = self.watched.get(&kind).into_iter().flat_map(move |of_kind| of_kind.range(first.clone()..));
        from_first.map(|(target, _)| target).take_while(|target| target.origin == *origin)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Target, &Watched)> {
        self.watched.values().flatten()
    }

    /// All but the endpoints of clusters.
    pub(super) fn but_endpoints(&self) -> impl Iterator<Item = (&Target, &Watched)> {
        self.watched.iter().filter(|(kind, _)| **kind != Kind::Endpoints).flat_map(|(_, of_kind)| of_kind)
    }

    /// Whether nobody waits for the first delivery of any of this kind.
    pub(super) fn are_settled(&self, kind: Kind) -> bool {
        self.watched.get(&kind).is_none_or(|of_kind| of_kind.values().all(|watched| watched.is_settled))
    }

    /// All of them, if they are others than when it was asked last.
    pub(super) fn news(&mut self) -> Option<Subscriptions> {
        std::mem::take(&mut self.is_news).then(|| self.iter().map(|(target, _)| target.clone()).collect())
    }

    /// The first delivery of a target has come, or will not. False if it was settled, or is not wanted.
    pub(super) fn settle(&mut self, target: &Target) -> bool {
        self.find_mut(target).is_some_and(|watched| !std::mem::replace(&mut watched.is_settled, true))
    }

    pub(super) fn note(&self, target: &Target, event: Event<'_>) {
        if let Some(counted) = self.find(target).and_then(|watched| watched.counted.as_ref()) {
            counted.note(event);
            // Envoy: nobody asks for what comes over a stream, so that each end of an update stands for an attempt.
            if target.origin.is_streamed() && event.ends_attempt() {
                counted.note(Event::Attempt);
            }
        }
    }

    /// When the next of those who wait give up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.keys().next().copied()
    }

    /// The targets that did not come in time.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Target> {
        let later = self.deadlines.split_off(&(now + Duration::from_nanos(1)));
        let expired = std::mem::replace(&mut self.deadlines, later);
        let is_waited_for = |target: &Target| self.find(target).is_some_and(|watched| !watched.is_settled);
        expired.into_values().flatten().filter(is_waited_for).collect()
    }
}

// === impl Watched ===

impl Watched {
    fn new(target: &Target, users: Users, is_settled: bool, store: &Store) -> Self {
        let counted = match target.kind {
            Kind::Runtime => Some(Counted::runtime(store)),
            Kind::Cluster if target.name.is_some() => Some(Counted::on_demand_clusters(store)),
            Kind::Cluster => Some(Counted::clusters(store)),
            Kind::Listener => Some(Counted::listeners(store)),
            Kind::Secret => target.name.as_ref().map(|name| Counted::secret(name, store)),
            Kind::Extension => Some(Counted::extensions(users.extensions.iter(), store)),
            Kind::Scope => Some(Counted::scopes(users.scopes.iter())),
            Kind::VirtualHost if target.name.is_some() => None,
            Kind::VirtualHost => Some(Counted::virtual_hosts(users.hosts.iter(), store)),
            Kind::LocalityEndpoints => Some(Counted::locality_endpoints(&users.clusters, store)),
            Kind::Endpoints => Some(Counted::endpoints(&users.clusters, store)),
            Kind::Routes => users.routes.iter().next().map(|slot| Counted::routes(&slot.scope, &slot.name)),
        };
        Self { users, counted, is_settled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::stats::ControlPlaneStats;

    fn layers(names: &[&str]) -> BTreeMap<Target, Users> {
        let target = |name: &&str| Target { kind: Kind::Runtime, origin: Origin::Ads, name: Some((*name).into()) };
        names.iter().map(|name| (target(name), Users::default())).collect()
    }

    #[test]
    fn requests_that_were_held_back_are_not_counted_again_for_who_comes_later() {
        let (store, mut targets) = (Store::new(), Targets::default());
        targets.replace(layers(&["a"]), &store);
        let state = PlaneState { rate_limit_enforced: 2, ..PlaneState::default() };
        targets.note_plane(Kind::Runtime, Origin::Ads, state);
        targets.replace(layers(&["a", "b"]), &store);
        let counted = ControlPlaneStats::new(&store.scope("runtime").scope("control_plane"));
        assert_eq!(counted.rate_limit_enforced().value(), 2);
    }
}
