//! What discovery has delivered so far.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use nuncio_config::cluster::{ClusterAssignment, Endpoint};
use nuncio_config::discovery::Origin;
use nuncio_config::route::{RouteTable, ScopeConfig};
use nuncio_config::secret::Secret;
use nuncio_proto::envoy::config::route::v3::VirtualHost;
use nuncio_proto::google::protobuf::Any;

use super::{Kind, Removed, Resource, Status};

/// Every resource that discovery gave and that is still wanted.
#[derive(Default)]
pub(crate) struct Records {
    by_kind: HashMap<Kind, BTreeMap<Id, Record>>,
    /// Listeners that were removed, for as long as they drain.
    left: BTreeMap<Id, Accepted>,
    /// Those of which nothing was ever accepted, in the order in which they were refused.
    refused: HashMap<Kind, VecDeque<Id>>,
    /// Version of the last push of which something was applied.
    versions: HashMap<Kind, String>,
    statuses: BTreeMap<(Kind, Origin), Status>,
    /// What came from the cache, and not from its source since.
    cached: BTreeSet<(Kind, Origin)>,
}

/// How many resources of a kind are kept of which nothing was ever accepted: a server may send others for ever.
const MAX_REFUSED: usize = 256;

/// A resource of a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) name: Arc<str>,
    pub(crate) origin: Origin,
}

/// One resource.
pub(crate) struct Record {
    /// What is in force; `None` where nothing was ever accepted.
    pub(crate) accepted: Option<Accepted>,
    /// What was in force before that: it may still serve while the other gets ready, or drain.
    pub(crate) before: Option<Accepted>,
    /// The last delivery, if it was rejected.
    pub(crate) failed: Option<Failed>,
}

/// A resource as it is in force.
pub(crate) struct Accepted {
    pub(crate) resource: Resource,
    pub(super) hash: u64,
    pub(crate) updated: SystemTime,
    pub(super) kept: Kept,
}

/// A delivery that was rejected.
pub(crate) struct Failed {
    pub(crate) any: Any,
    pub(crate) version: String,
    pub(crate) at: SystemTime,
    pub(crate) details: String,
}

/// What is kept ready for those who ask for the same later.
#[derive(Clone)]
pub(super) enum Kept {
    Nothing,
    Endpoints(Arc<ClusterAssignment>),
    LocalityEndpoint(Arc<Endpoint>),
    Routes(Arc<RouteTable>),
    Secret(Arc<Secret>),
    Extension(Arc<Any>),
    Scope(Arc<ScopeConfig>),
    VirtualHost(Arc<VirtualHost>),
}

// === impl Records ===

impl Records {
    /// All of one kind, by name.
    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = (&Id, &Record)> {
        self.by_kind.get(&kind).into_iter().flatten()
    }

    /// Those of one kind and source whose names begin so, by name. There may be very many others.
    pub(super) fn beginning<'a>(
        &'a self,
        kind: Kind,
        origin: &'a Origin,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a Id, &'a Record)> {
        let first = Id { name: prefix.into(), origin: origin.clone() };
        let from_first = self.by_kind.get(&kind).into_iter().flat_map(move |all| all.range(first.clone()..));
        from_first.take_while(move |(id, _)| id.name.starts_with(prefix)).filter(move |(id, _)| id.origin == *origin)
    }

    /// All of all kinds.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Kind, &Id, &Record)> {
        self.by_kind.iter().flat_map(|(kind, all)| all.iter().map(|(id, record)| (*kind, id, record)))
    }

    /// Version of the last push of this kind.
    pub(crate) fn version(&self, kind: Kind) -> &str {
        self.versions.get(&kind).map_or("", String::as_str)
    }

    /// How it stands with each source that was ever asked.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = ((Kind, &Origin), &Status)> {
        self.statuses.iter().map(|((kind, origin), status)| ((*kind, origin), status))
    }

    /// What is served from the cache, as its source is away.
    pub(crate) fn cached(&self) -> &BTreeSet<(Kind, Origin)> {
        &self.cached
    }

    pub(super) fn set_cached(&mut self, kind: Kind, origin: &Origin, is_cached: bool) {
        let pair = (kind, origin.clone());
        if is_cached {
            self.cached.insert(pair);
        } else {
            self.cached.remove(&pair);
        }
    }

    pub(super) fn status_mut(&mut self, kind: Kind, origin: &Origin) -> &mut Status {
        self.statuses.entry((kind, origin.clone())).or_default()
    }

    /// Forgets how it stood with sources of which nothing is wanted any more.
    pub(super) fn retain_statuses(&mut self, mut is_kept: impl FnMut(Kind, &Origin) -> bool) {
        self.statuses.retain(|(kind, origin), _| is_kept(*kind, origin));
    }

    pub(crate) fn find(&self, kind: Kind, id: &Id) -> Option<&Record> {
        self.by_kind.get(&kind)?.get(id)
    }

    pub(super) fn set_version(&mut self, kind: Kind, version: &str) {
        self.versions.insert(kind, version.to_owned());
    }

    pub(super) fn accept(&mut self, kind: Kind, id: Id, accepted: Accepted) {
        let record = self.by_kind.entry(kind).or_default().entry(id).or_insert(Record::EMPTY);
        record.before = record.accepted.replace(accepted).filter(|_| matches!(kind, Kind::Cluster | Kind::Listener));
        record.failed = None;
    }

    /// What is kept of a resource is another, while the resource is the same.
    pub(super) fn keep(&mut self, kind: Kind, id: &Id, kept: Kept) {
        let record = self.by_kind.get_mut(&kind).and_then(|all| all.get_mut(id));
        if let Some(accepted) = record.and_then(|record| record.accepted.as_mut()) {
            accepted.kept = kept;
            accepted.updated = SystemTime::now();
        }
    }

    /// It was delivered again as it is.
    pub(super) fn confirm(&mut self, kind: Kind, id: &Id) {
        if let Some(record) = self.by_kind.get_mut(&kind).and_then(|all| all.get_mut(id)) {
            record.failed = None;
        }
    }

    pub(super) fn fail(&mut self, kind: Kind, id: Id, failed: Failed) {
        let all = self.by_kind.entry(kind).or_default();
        let record = all.entry(id.clone()).or_insert(Record::EMPTY);
        let is_new = record.accepted.is_none() && record.failed.is_none();
        record.failed = Some(failed);
        if !is_new {
            return;
        }
        let refused = self.refused.entry(kind).or_default();
        refused.push_back(id);
        while refused.len() > MAX_REFUSED {
            let Some(oldest) = refused.pop_front() else { return };
            if all.get(&oldest).is_some_and(|record| record.accepted.is_none()) {
                all.remove(&oldest);
            }
        }
    }

    /// Forgets one. False where there was none.
    pub(super) fn forget(&mut self, kind: Kind, id: &Id) -> bool {
        let record = self.by_kind.get_mut(&kind).and_then(|all| all.remove(id));
        let was_there = record.is_some();
        if let (Kind::Listener, Some(accepted)) = (kind, record.and_then(|record| record.accepted)) {
            self.left.insert(id.clone(), accepted);
        }
        was_there
    }

    /// Listeners that were removed and may drain still.
    pub(crate) fn left(&self) -> impl Iterator<Item = (&Id, &Accepted)> {
        self.left.iter()
    }

    /// Forgets listeners that were removed and do not drain.
    pub(super) fn retain_left(&mut self, mut drains: impl FnMut(&str) -> bool) {
        self.left.retain(|id, _| drains(&id.name));
    }

    /// Forgets what is gone of a source, and tells the names.
    pub(super) fn take_out(
        &mut self,
        kind: Kind,
        origin: &Origin,
        removed: &Removed,
        present: &HashSet<String>,
    ) -> Vec<Arc<str>> {
        match removed {
            // There may be very many others.
            Removed::Named(names) => {
                let ids = names.iter().map(|name| Id { name: name.as_str().into(), origin: origin.clone() });
                ids.filter(|id| self.forget(kind, id)).map(|id| id.name).collect()
            }
            Removed::AllBut(_) => self.retain(kind, |id| id.origin != *origin || !removed.takes(&id.name, present)),
        }
    }

    /// Forgets those for which `is_kept` is false, and tells their names.
    pub(super) fn retain(&mut self, kind: Kind, mut is_kept: impl FnMut(&Id) -> bool) -> Vec<Arc<str>> {
        let gone: Vec<Id> = self.all(kind).map(|(id, _)| id).filter(|id| !is_kept(id)).cloned().collect();
        gone.into_iter().filter(|id| self.forget(kind, id)).map(|id| id.name).collect()
    }
}

impl Record {
    const EMPTY: Self = Self { accepted: None, before: None, failed: None };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_was_never_accepted_so_much_is_kept_and_no_more() {
        let id = |name: String| Id { name: name.into(), origin: Origin::Ads };
        let failed = || Failed {
            any: Any::default(),
            version: String::new(),
            at: SystemTime::UNIX_EPOCH,
            details: "no".to_owned(),
        };
        let mut records = Records::default();
        let accepted = Accepted {
            resource: Resource {
                name: "good".into(),
                aliases: Vec::new(),
                version: String::new(),
                any: Any::default(),
            },
            hash: 0,
            updated: SystemTime::UNIX_EPOCH,
            kept: Kept::Nothing,
        };
        records.accept(Kind::Cluster, id("good".into()), accepted);
        records.fail(Kind::Cluster, id("good".into()), failed());
        for number in 0..2 * MAX_REFUSED {
            records.fail(Kind::Cluster, id(format!("bad {number}")), failed());
        }
        let kept: Vec<&str> = records.all(Kind::Cluster).map(|(id, _)| &*id.name).collect();
        assert_eq!(kept.len(), 1 + MAX_REFUSED);
        assert!(kept.contains(&"good") && kept.contains(&"bad 511") && !kept.contains(&"bad 255"), "{kept:?}");
    }
}
