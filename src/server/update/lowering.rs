//! From delivered bytes to ready-to-run configuration. Runs on a thread of its own: ten thousand clusters take a while.

use std::collections::HashSet;
use std::hash::Hasher;
use std::sync::{Arc, Mutex};

use nuncio_config::bootstrap::{RuntimeValues, lower_runtime};
use nuncio_config::cluster::{ClusterAssignment, ClusterConfig, Endpoint, lower_local_endpoint};
use nuncio_config::discovery::Origin;
use nuncio_config::extension::lower_extension;
use nuncio_config::listener::ListenerConfig;
use nuncio_config::load::{Loader, UnknownFields};
use nuncio_config::protocol::{message_name, resource_name};
use nuncio_config::route::{RouteTable, ScopeConfig};
use nuncio_config::secret::Secret;
use nuncio_config::xdstp::canonical;
use nuncio_filter_api::{Invalid, InvalidKind, LowerCx, LowerEnv, Refused};
use nuncio_proto::envoy::config::route::v3::VirtualHost;
use nuncio_proto::google::protobuf::Any;
use prost::{Message, Name};
use tracing::debug;
use twox_hash::XxHash64;

use super::records::{Id, Records};
use super::{Kind, Push, Removed, Resource, invalid, lock};

/// A push, ready to be applied.
pub(super) struct Prepared {
    pub(super) kind: Kind,
    pub(super) origin: Origin,
    pub(super) version: String,
    pub(super) entries: Vec<Entry>,
    pub(super) removed: Removed,
    /// Unknown fields that were let pass.
    pub(super) unknown_fields: u64,
}

pub(super) struct Entry {
    pub(super) resource: Resource,
    pub(super) hash: u64,
    pub(super) lowered: Lowered,
    /// It is no message of its kind, or breaks the rules of its fields.
    pub(super) is_malformed: bool,
}

pub(super) enum Lowered {
    /// It is in force already.
    Unchanged,
    Refused(Vec<Invalid>),
    Runtime(RuntimeValues),
    Cluster(Box<ClusterConfig>),
    Listener(Arc<ListenerConfig>),
    Routes(Arc<RouteTable>),
    Endpoints(Arc<ClusterAssignment>),
    LocalityEndpoint(Arc<Endpoint>),
    Secret(Arc<Secret>),
    Extension(Arc<Any>),
    Scope(Arc<ScopeConfig>),
    VirtualHost(Arc<VirtualHost>),
}

/// Lowers what is new.
pub(super) fn prepare(push: Push, env: &LowerEnv, records: &Mutex<Records>, unknown: UnknownFields) -> Prepared {
    let Push { kind, origin, version, resources, removed } = push;
    let mut seen = HashSet::new();
    let mut lowering = Lowering::new(kind, env, unknown);
    let mut entries = Vec::with_capacity(resources.len());
    for resource in resources {
        let hash = hash(&resource.any.value);
        lowering.is_malformed = false;
        let lowered = if resource.name.is_empty() {
            // What is wrong beyond that tells more: mostly it cannot be decoded.
            let nameless = || vec![invalid("name", "a resource needs a name".to_owned())];
            Lowered::Refused(lowering.lower(&resource.any).map_or_else(|reasons| reasons, |_| nameless()))
        } else if is_seen_by_name(kind, &origin) && seen.contains(&resource.name) {
            continue;
        } else if !seen.insert(resource.name.clone()) {
            let reason = format!("duplicate {} {} found", kind.noun(), resource.name);
            Lowered::Refused(vec![invalid("name", reason)])
        } else if let Some(reason) = misnamed(kind, &resource) {
            let misnamed = || vec![invalid("", reason)];
            Lowered::Refused(lowering.lower(&resource.any).map_or_else(|reasons| reasons, |_| misnamed()))
        } else if is_known(&resource, hash, kind, &origin, records) {
            Lowered::Unchanged
        } else {
            lowering.lower(&resource.any).unwrap_or_else(Lowered::Refused)
        };
        entries.push(Entry { resource, hash, lowered, is_malformed: lowering.is_malformed });
    }
    let known = entries.iter().filter(|entry| matches!(entry.lowered, Lowered::Unchanged)).count();
    if known > 0 {
        debug!(target: "config", "{}: {known} of {} resources are as they were", kind.short(), entries.len());
    }
    Prepared { kind, origin, version, entries, removed, unknown_fields: lowering.unknown_fields }
}

/// A secret as it is now that the files which it names have another content.
pub(super) fn read_again(any: &Any, env: &LowerEnv, unknown: UnknownFields) -> Result<Arc<Secret>, Vec<Invalid>> {
    let mut lowering = Lowering::new(Kind::Secret, env, unknown);
    match lowering.lower(any)? {
        Lowered::Secret(secret) => Ok(secret),
        _ => Err(vec![invalid("", "is no secret".to_owned())]),
    }
}

/// Envoy's hash of a text.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = XxHash64::with_seed(0);
    hasher.write(bytes);
    hasher.finish()
}

/// Envoy: what comes over a stream is looked up by the name that was asked for, so that a second one is never seen.
fn is_seen_by_name(kind: Kind, origin: &Origin) -> bool {
    let is_by_name = matches!(kind, Kind::Runtime | Kind::Endpoints | Kind::Secret | Kind::Extension | Kind::Routes);
    is_by_name && origin.is_streamed()
}

/// Whether those who ask by name for such resources look at how they call themselves.
pub(crate) fn says_its_name(kind: Kind) -> bool {
    matches!(kind, Kind::Runtime | Kind::Endpoints | Kind::Secret | Kind::Routes)
}

fn misnamed(kind: Kind, resource: &Resource) -> Option<String> {
    let inner = resource_name(&resource.any.value).unwrap_or_default();
    let is_so = !says_its_name(kind) || inner == resource.name || canonical(&inner).is_some_and(|n| n == resource.name);
    (!is_so).then(|| kind.misnamed(&resource.name, &inner))
}

fn is_known(resource: &Resource, hash: u64, kind: Kind, origin: &Origin, records: &Mutex<Records>) -> bool {
    let id = Id { name: resource.name.as_str().into(), origin: origin.clone() };
    let records = lock(records);
    let accepted = records.find(kind, &id).and_then(|record| record.accepted.as_ref());
    accepted.is_some_and(|accepted| accepted.hash == hash)
}

struct Lowering<'a> {
    kind: Kind,
    env: &'a LowerEnv,
    loader: Loader,
    unknown_fields: u64,
    /// Of the last resource.
    is_malformed: bool,
}

// === impl Lowering ===

impl<'a> Lowering<'a> {
    fn new(kind: Kind, env: &'a LowerEnv, unknown: UnknownFields) -> Self {
        Self { kind, env, loader: Loader::new(unknown), unknown_fields: 0, is_malformed: false }
    }

    fn lower(&mut self, any: &Any) -> Result<Lowered, Vec<Invalid>> {
        if message_name(any) != self.kind.message_name() {
            self.is_malformed = true;
            let reason = format!("{} is no {}", any.type_url, self.kind.message_name());
            return Err(vec![Invalid { path: "@type".to_owned(), reason, kind: InvalidKind::UnknownType }]);
        }
        match self.kind {
            Kind::Runtime => {
                let message = self.load(any)?;
                self.run(|cx| lower_runtime(message, cx)).map(Lowered::Runtime)
            }
            Kind::Cluster => {
                let message = self.load(any)?;
                let lower = |cx: &mut LowerCx<'_>| ClusterConfig::lower_encoded(message, &any.value, cx);
                self.run(lower).map(|config| Lowered::Cluster(Box::new(config)))
            }
            Kind::Endpoints => {
                let message = self.load(any)?;
                self.run(|cx| ClusterAssignment::lower(message, cx)).map(|config| Lowered::Endpoints(Arc::new(config)))
            }
            Kind::LocalityEndpoints => {
                let message = self.load(any)?;
                let lower = |cx: &mut LowerCx<'_>| lower_local_endpoint(message, cx);
                self.run(lower).map(|endpoint| Lowered::LocalityEndpoint(Arc::new(endpoint)))
            }
            Kind::Secret => {
                let message = self.load(any)?;
                self.run(|cx| Secret::lower(message, cx)).map(|secret| Lowered::Secret(Arc::new(secret)))
            }
            Kind::Extension => {
                let message = self.load(any)?;
                self.run(|cx| lower_extension(message, cx)).map(|config| Lowered::Extension(Arc::new(config)))
            }
            Kind::Listener => {
                let message = self.load(any)?;
                self.run(|cx| ListenerConfig::lower(message, cx)).map(|config| Lowered::Listener(Arc::new(config)))
            }
            Kind::Scope => {
                let message = self.load(any)?;
                self.run(|cx| ScopeConfig::lower(message, cx)).map(|scope| Lowered::Scope(Arc::new(scope)))
            }
            // It is lowered with the table that it is a part of.
            Kind::VirtualHost => self.load(any).map(|host| Lowered::VirtualHost(Arc::new(host))),
            Kind::Routes => {
                let message = self.load(any)?;
                self.run(|cx| RouteTable::lower_discovered(message, cx)).map(|table| Lowered::Routes(Arc::new(table)))
            }
        }
    }

    fn load<T: Message + Name + Default>(&mut self, any: &Any) -> Result<T, Vec<Invalid>> {
        let loaded = self.loader.load_wire::<T>(self.kind.noun(), any.value.clone());
        let loaded = loaded.map_err(|problems| {
            // Envoy: what is in an Any is looked at by whoever wants it, which costs that resource alone.
            self.is_malformed |= self.loader.is_malformed::<T>(&any.value);
            problems.into_iter().map(|problem| problem.invalid).collect::<Vec<_>>()
        })?;
        self.unknown_fields += loaded.unknown_fields;
        Ok(loaded.message)
    }

    fn run<T>(&self, lower: impl FnOnce(&mut LowerCx<'_>) -> Result<T, Refused>) -> Result<T, Vec<Invalid>> {
        LowerCx::whole(self.env, lower)
    }
}
