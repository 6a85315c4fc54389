//! Virtual hosts that are given by discovery (VHDS).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwap;
use nuncio_filter_api::{Invalid, LowerCx, LowerEnv, Readiness, Refused, RequestHead};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_telemetry::stats::{Scope, Store};
use tokio::sync::Notify;

use super::RouteTable;
use crate::discovery::{ConfigSource, RouteSlot};

/// Virtual hosts by the names of their resources: `<route configuration>/<name>`.
pub type DiscoveredHosts = BTreeMap<Arc<str>, Arc<proto::VirtualHost>>;

/// The virtual hosts that a route configuration asks for, as those share it who ask for the same.
pub struct HostSlot {
    /// Name of the route configuration.
    pub name: Arc<str>,
    /// Where they come from.
    pub source: ConfigSource,
    /// Whether the first have come, or are known not to.
    pub ready: Arc<Readiness>,
    /// `http.<stat_prefix>` of the connection manager that asked first, where its routes are discovered too.
    scope: OnceLock<Scope>,
    state: Mutex<State>,
    teller: Arc<Notify>,
}

#[derive(Default)]
struct State {
    hosts: Arc<DiscoveredHosts>,
    /// Where the tables are in force that are made of them.
    tables: Vec<Weak<ArcSwap<RouteTable>>>,
    /// What requests have asked for, by `<route configuration>/<host>`.
    asked: BTreeMap<Arc<str>, Asked>,
    /// Those who wait for the first virtual hosts.
    waiting: Vec<Arc<Readiness>>,
}

struct Asked {
    ready: Arc<Readiness>,
    /// The resource that was the answer.
    answer: Option<Arc<str>>,
}

/// What a table is made of beside the virtual hosts that it is given.
pub(super) struct Origin {
    pub(super) slot: Arc<HostSlot>,
    base: proto::RouteConfiguration,
    /// Those that it was given.
    hosts: Arc<DiscoveredHosts>,
}

// === impl Origin ===

impl Origin {
    /// Adds to a message what it asks for, as far as it has come.
    pub(super) fn lower(
        message: &mut proto::RouteConfiguration,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        let Some(proto::Vhds { config_source }) = message.vhds.clone() else { return Ok(None) };
        let source = cx.at("vhds", |cx| {
            cx.at("config_source", |cx| match config_source {
                None => Err(cx.invalid("is required")),
                Some(source) => {
                    let source = ConfigSource::lower(source, cx)?;
                    match source.is_delta(cx) {
                        true => Ok(source),
                        false => Err(cx.invalid("only DELTA_GRPC, or ads that uses it, can give virtual hosts")),
                    }
                }
            })
        })?;
        let slot = HostSlot::share(&message.name, source, cx.env);
        cx.wait_for(slot.ready.clone());
        let base = message.clone();
        let hosts = slot.lock().hosts.clone();
        message.virtual_hosts.extend(hosts.values().map(|host| proto::VirtualHost::clone(host)));
        Ok(Some(Self { slot, base, hosts }))
    }
}

// === impl HostSlot ===

impl HostSlot {
    fn share(name: &str, source: ConfigSource, env: &LowerEnv) -> Arc<Self> {
        env.slots.share(&format!("{name} {source:?}"), || Self {
            name: name.into(),
            ready: Readiness::new(format!("target StaticRouteConfigProvider local-init-target {name}")),
            source,
            scope: OnceLock::new(),
            state: Mutex::default(),
            teller: env.slots.teller(),
        })
    }

    /// Whether a resource is one of its virtual hosts.
    pub fn is_of(&self, resource: &str) -> bool {
        resource.rsplit_once('/').is_some_and(|(routes, _)| *routes == *self.name)
    }

    /// Where they are counted.
    pub fn stats_scope(&self, store: &Store) -> Scope {
        let scope = self.scope.get().map_or_else(|| store.scope("vhds"), |scope| scope.scope("rds").scope("vhds"));
        scope.scope(&self.name)
    }

    /// Has the table there changed with the virtual hosts.
    pub fn attach(&self, table: &Arc<ArcSwap<RouteTable>>) {
        let mut state = self.lock();
        state.tables.retain(|known| known.strong_count() > 0);
        if !state.tables.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(table))) {
            state.tables.push(Arc::downgrade(table));
        }
    }

    /// The same as `attach` for routes that are discovered, whose table may be of other virtual hosts than there are now.
    pub fn attach_discovered(&self, routes: &RouteSlot, env: &LowerEnv) -> Result<(), Vec<Invalid>> {
        self.scope.get_or_init(|| routes.scope.clone());
        self.attach(&routes.table);
        let (table, hosts) = (routes.table.load(), self.lock().hosts.clone());
        let is_current = table.discovered.as_ref().is_none_or(|origin| Arc::ptr_eq(&origin.hosts, &hosts));
        if !is_current && let Some(remade) = remade(&table, env)? {
            routes.table.store(Arc::new(remade));
        }
        Ok(())
    }

    /// Ends the waiting of `readiness` when the first virtual hosts are there.
    pub fn release(&self, readiness: Arc<Readiness>) {
        if self.ready.is_set() {
            return readiness.set();
        }
        self.lock().waiting.push(readiness);
    }

    /// The first virtual hosts are there, or known not to come.
    pub fn settle(&self) {
        self.ready.set();
        let waiting = std::mem::take(&mut self.lock().waiting);
        waiting.iter().for_each(|readiness| readiness.set());
    }

    /// Takes these virtual hosts instead of those that there are, unless a table cannot have them.
    pub fn publish(&self, hosts: DiscoveredHosts, env: &LowerEnv) -> Result<(), Vec<Invalid>> {
        let (before, tables) = {
            let mut state = self.lock();
            let tables: Vec<_> = state.tables.iter().filter_map(Weak::upgrade).collect();
            (std::mem::replace(&mut state.hosts, Arc::new(hosts)), tables)
        };
        match tables.iter().map(|table| remade(&table.load(), env)).collect::<Result<Vec<_>, _>>() {
            Ok(remade) => {
                let remade = tables.iter().zip(remade).filter_map(|(place, table)| Some((place, table?)));
                remade.for_each(|(place, table)| place.store(Arc::new(table)));
                Ok(())
            }
            Err(reasons) => {
                self.lock().hosts = before;
                Err(reasons)
            }
        }
    }

    /// Asks for the virtual host of a host that has none: whether it has come, or is known not to.
    fn demand(&self, host: &str) -> Option<Arc<Readiness>> {
        let name = format!("{}/{}", self.name, host.to_ascii_lowercase());
        let mut state = self.lock();
        if let Some(asked) = state.asked.get(&*name) {
            return (!asked.ready.is_set()).then(|| asked.ready.clone());
        }
        let ready = Readiness::new(format!("VHDS {name}"));
        state.asked.insert(name.into(), Asked { ready: ready.clone(), answer: None });
        self.teller.notify_one();
        Some(ready)
    }

    /// The names that are asked for.
    pub fn asked(&self) -> Vec<Arc<str>> {
        self.lock().asked.keys().cloned().collect()
    }

    /// Whoever asked for any of these names waits no longer: the resource is there.
    pub fn answer<'a>(&self, resource: &str, names: impl Iterator<Item = &'a str>) {
        let mut state = self.lock();
        for name in names {
            if let Some(asked) = state.asked.get_mut(name) {
                asked.answer = Some(resource.into());
                asked.ready.set();
            }
        }
    }

    /// There is no virtual host for this name: whoever wants it asks again.
    pub fn miss(&self, name: &str) {
        self.forget(|asked_name, asked| asked_name == name && asked.answer.is_none());
    }

    /// A resource is there no longer: whoever wants it asks again.
    pub fn remove(&self, resource: &str) {
        self.forget(|_, asked| asked.answer.as_deref() == Some(resource));
    }

    /// Names that clients make up are not kept.
    fn forget(&self, is_gone: impl Fn(&str, &Asked) -> bool) {
        self.lock().asked.retain(|name, asked| {
            let stays = !is_gone(name, asked);
            if !stays {
                asked.ready.set();
                self.teller.notify_one();
            }
            stays
        });
    }

    /// Held to look at the names, by requests only where they want a virtual host that is not there.
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done with it held can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table with the virtual hosts of now; `None` where it asks for none.
fn remade(table: &RouteTable, env: &LowerEnv) -> Result<Option<RouteTable>, Vec<Invalid>> {
    let Some(origin) = &table.discovered else { return Ok(None) };
    LowerCx::whole(env, |cx| RouteTable::lower_discovered(origin.base.clone(), cx)).map(Some)
}

impl RouteTable {
    /// Lowers one that discovery gives, or gives a part of.
    pub fn lower_discovered(message: proto::RouteConfiguration, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let table = Self::lower(message, cx)?;
        // Envoy: its routes may go to clusters that are still to come.
        if table.validate_clusters().unwrap_or(false) {
            table.check_clusters(cx)?;
        }
        Ok(table)
    }

    /// The virtual hosts that it asks for.
    pub fn discovered_hosts(&self) -> Option<&Arc<HostSlot>> {
        self.discovered.as_ref().map(|origin| &origin.slot)
    }

    /// Asks for the virtual host of a request, where it has none and more can be asked for.
    pub fn demand(&self, head: &RequestHead) -> Option<Arc<Readiness>> {
        let origin = self.discovered.as_ref()?;
        let name = match &self.config.host_field {
            None => &*head.authority,
            Some(field) => field.first_in_request(head)?,
        };
        if name.is_empty() || self.hosts.find(name).is_some() {
            return None;
        }
        origin.slot.demand(name)
    }
}
