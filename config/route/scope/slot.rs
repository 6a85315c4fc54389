//! Scopes that are given by discovery (SRDS).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use nuncio_filter_api::{LowerCx, LowerEnv, Readiness, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use nuncio_telemetry::stats::Scope as StatsScope;

use super::super::RouteTable;
use super::{Key, Scope, ScopeRoutes, ScopeTable, lower_inline, lower_key};
use crate::discovery::{ConfigSource, RouteSlot};
use crate::refuse_set;

nuncio_telemetry::stats! {
    /// `http.<prefix>.scoped_rds.<name>`, beside what is counted of every subscription.
    struct ScopeStats {
        /// Scopes that there are.
        all_scopes: Gauge,
        /// Those whose routes are asked for when a request wants them.
        on_demand_scopes: Gauge,
        /// Those whose routes are asked for.
        active_scopes: Gauge,
    }
}

/// A `ScopedRouteConfiguration` that discovery gave.
pub struct ScopeConfig {
    /// `name`
    pub name: Arc<str>,
    routes: Routes,
    on_demand: bool,
    key: Key,
}

/// Where the routes of a scope are.
enum Routes {
    Inline(Arc<RouteTable>),
    /// By discovery, under this name.
    Named(Arc<str>),
}

/// The scopes that a connection manager asks discovery for.
pub struct ScopeSlot {
    /// `name` of the scoped routes.
    pub name: Arc<str>,
    /// Where the scopes come from.
    pub source: ConfigSource,
    /// Whether scopes and the routes of those that are not on demand have come, or are known not to.
    pub ready: Arc<Readiness>,
    routes: ConfigSource,
    scope: StatsScope,
    stats: ScopeStats,
    has_come: AtomicBool,
    table: ArcSwap<ScopeTable>,
}

/// Routes that are asked for once a request wants them.
pub(super) struct OnDemand {
    asked: OnceLock<Arc<RouteSlot>>,
    ask: Box<dyn Fn() -> Arc<RouteSlot> + Send + Sync>,
}

// === impl ScopeConfig ===

impl ScopeConfig {
    /// Lowers the message.
    pub fn lower(message: proto::ScopedRouteConfiguration, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::ScopedRouteConfiguration { on_demand, name, route_configuration_name, route_configuration, key } =
            message;
        let key = cx.at("key", |cx| lower_key(key, cx));
        // Envoy: it is served as one that the bootstrap has, whatever is named beside it.
        let inline = cx.opt("route_configuration", route_configuration, lower_inline);
        let routes = match inline? {
            Some(table) => Routes::Inline(Arc::new(table)),
            None if route_configuration_name.is_empty() => {
                return Err(cx.at("route_configuration_name", |cx| cx.invalid("is required")));
            }
            None => Routes::Named(route_configuration_name.into()),
        };
        Ok(Self { name: name.into(), routes, on_demand, key: key? })
    }

    /// The name of another of these that has the same key.
    pub fn conflict<'a>(mut scopes: impl Iterator<Item = &'a Arc<Self>>) -> Option<(&'a str, &'a str)> {
        let mut by_key: HashMap<&Key, &str> = HashMap::new();
        scopes.find_map(|scope| Some((by_key.insert(&scope.key, &scope.name)?, &*scope.name)))
    }
}

// === impl ScopeSlot ===

impl ScopeSlot {
    /// The slot that `scoped_rds` of a connection manager counting in `scope` asks for; its listener waits for it.
    pub(super) fn lower(
        name: &str,
        message: hcm::ScopedRds,
        routes: Option<core::ConfigSource>,
        scope: &StatsScope,
        cx: &mut LowerCx<'_>,
    ) -> Result<Arc<Self>, Refused> {
        let required = |field: &str, source: Option<core::ConfigSource>, cx: &mut LowerCx<'_>| {
            cx.at(field, |cx| match source {
                Some(source) => ConfigSource::lower(source, cx),
                None => Err(cx.invalid("is required")),
            })
        };
        let routes = required("rds_config_source", routes, cx);
        let source = cx.at("scoped_rds", |cx| {
            let hcm::ScopedRds { scoped_rds_config_source, srds_resources_locator } = message;
            let refused = refuse_set!(cx; srds_resources_locator);
            let source = required("scoped_rds_config_source", scoped_rds_config_source, cx);
            refused.and(source)
        });
        let (routes, source) = (routes?, source?);
        let own = scope.scope("scoped_rds").scope(name);
        let slot = cx.env.slots.share(&format!("{name} {source:?} {routes:?}"), || Self {
            name: name.into(),
            ready: Readiness::new("target ConfigSubscriptionCommonBase init target 'SRDS'".to_owned()),
            source,
            routes,
            scope: scope.clone(),
            stats: ScopeStats::new(&own),
            has_come: AtomicBool::new(false),
            table: ArcSwap::default(),
        });
        cx.wait_for(slot.ready.clone());
        Ok(slot)
    }

    /// Where what is discovered for it is counted.
    pub fn stats_scope(&self) -> StatsScope {
        self.scope.scope("scoped_rds").scope(&self.name)
    }

    /// Whether any scopes have come.
    pub fn has_come(&self) -> bool {
        self.has_come.load(Ordering::Acquire)
    }

    /// Takes these scopes instead of those that there are. Routes that were asked for on demand stay asked for.
    pub fn publish<'a>(&self, scopes: impl Iterator<Item = &'a Arc<ScopeConfig>>, env: &Arc<LowerEnv>) {
        let before = self.table.load_full();
        let asked = before.scopes.iter().filter(|scope| scope.routes.slot().is_some());
        let asked: HashSet<&str> = asked.map(|scope| &*scope.name).collect();
        let scope = |config: &Arc<ScopeConfig>| {
            let (source, stats) = (self.routes.clone(), self.scope.clone());
            let routes = match &config.routes {
                Routes::Inline(table) => ScopeRoutes::Inline(table.clone()),
                Routes::Named(name) if !config.on_demand => {
                    ScopeRoutes::Discovered(RouteSlot::share(name, source, &stats, env))
                }
                Routes::Named(name) => {
                    let (name, env) = (name.clone(), env.clone());
                    let ask = move || RouteSlot::share(&name, source.clone(), &stats, &env);
                    let routes = OnDemand { asked: OnceLock::new(), ask: Box::new(ask) };
                    if asked.contains(&*config.name) {
                        routes.slot();
                    }
                    ScopeRoutes::OnDemand(routes)
                }
            };
            Scope { name: config.name.clone(), key: config.key.clone(), routes }
        };
        let table = ScopeTable::new(scopes.map(scope).collect());
        self.table.store(Arc::new(table));
        self.has_come.store(true, Ordering::Release);
        self.count();
    }

    /// Ends the waiting if nothing more is to be waited for.
    pub fn check(&self) {
        let is_ready = |scope: &Scope| match &scope.routes {
            ScopeRoutes::Discovered(slot) => slot.ready.is_set(),
            ScopeRoutes::Inline(_) | ScopeRoutes::OnDemand(_) => true,
        };
        if self.has_come() && self.table.load().scopes.iter().all(is_ready) {
            self.ready.set();
        }
    }

    pub(super) fn table(&self) -> arc_swap::Guard<Arc<ScopeTable>> {
        self.table.load()
    }

    /// Asks for the routes of the scope of this key; `None` where that need not be done.
    pub(super) fn demand(&self, key: &Key) -> Option<Arc<Readiness>> {
        let table = self.table.load();
        let ScopeRoutes::OnDemand(routes) = &table.scopes[*table.by_key.get(key)? as usize].routes else { return None };
        let ready = routes.slot().ready.clone();
        self.count();
        (!ready.is_set()).then_some(ready)
    }

    fn count(&self) {
        let table = self.table.load();
        let count =
            |counts: fn(&ScopeRoutes) -> bool| table.scopes.iter().filter(|scope| counts(&scope.routes)).count() as u64;
        self.stats.all_scopes().set(count(|_| true));
        self.stats.on_demand_scopes().set(count(|routes| matches!(routes, ScopeRoutes::OnDemand(_))));
        self.stats.active_scopes().set(count(|routes| routes.slot().is_some()));
    }
}

// === impl ScopeRoutes ===

impl ScopeRoutes {
    /// What discovery is asked for.
    fn slot(&self) -> Option<&Arc<RouteSlot>> {
        match self {
            Self::Inline(_) => None,
            Self::Discovered(slot) => Some(slot),
            Self::OnDemand(routes) => routes.asked.get(),
        }
    }
}

// === impl OnDemand ===

impl OnDemand {
    /// The routes; `None` where nobody has asked for them.
    pub(super) fn table(&self) -> Option<Arc<RouteTable>> {
        self.asked.get().map(|slot| slot.table.load_full())
    }

    fn slot(&self) -> &Arc<RouteSlot> {
        self.asked.get_or_init(|| (self.ask)())
    }
}
