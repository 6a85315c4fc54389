//! The route table under test.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hcm::http_connection_manager::RouteSpecifier;
use nuncio_config::load::{Format, Loader, Problem, Source, Sources, UnknownFields};
use nuncio_config::protocol::message_name;
use nuncio_config::route::RouteTable;
use nuncio_filter_api::{ClusterNames, Invalid, LowerCx, LowerEnv, NodeNames, Refused};
use nuncio_proto::envoy::config::bootstrap::v3::Bootstrap;
use nuncio_proto::envoy::config::listener::v3::{Listener, filter::ConfigType};
use nuncio_proto::envoy::config::route::v3::{RouteConfiguration, ScopedRouteConfiguration};
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use nuncio_telemetry::access_log::{FileManager, FlushPolicy};
use nuncio_telemetry::stats::Store;
use prost::{Message, Name};

use super::ToolError;
use crate::{Extensions, registry};

/// A route configuration, and the tables made of it.
pub(super) struct Routes {
    file: String,
    /// Path of the configuration in its file.
    path: String,
    message: RouteConfiguration,
    sources: Sources,
    pub(super) env: LowerEnv,
    /// By the runtime key that is switched on.
    tables: HashMap<String, Rc<RouteTable>>,
}

impl Routes {
    /// Loads a `RouteConfiguration`, or that of a bootstrap, which is called `name` if there are several.
    pub(super) fn load(path: &Path, name: Option<&str>) -> Result<Self, ToolError> {
        let (file, source) = read(path)?;
        let (mut found, sources) = if source.contains("static_resources") || source.contains("staticResources") {
            let loaded = load::<Bootstrap>(&file, source.source)?;
            (inline_tables(&loaded.0), loaded.1)
        } else {
            let (message, sources) = load::<RouteConfiguration>(&file, source.source)?;
            (vec![(String::new(), message)], sources)
        };
        found.retain(|(_, message)| name.is_none_or(|name| message.name == name));
        if found.len() > 1 {
            let names = found.iter().map(|(path, message)| format!("{:?} ({path})", message.name)).collect();
            return Err(ToolError::Several { path: file, names });
        }
        let Some((path, message)) = found.pop() else {
            return Err(ToolError::NoRoutes { path: file, name: name.map(str::to_owned) });
        };
        Ok(Self { file, path, message, sources, env: env(), tables: HashMap::new() })
    }

    /// The table where `runtime` is the one key that is switched on.
    pub(super) fn table(&mut self, runtime: &str) -> Result<Rc<RouteTable>, ToolError> {
        if let Some(table) = self.tables.get(runtime) {
            return Ok(table.clone());
        }
        let mut message = self.message.clone();
        switch(&mut message, runtime);
        let mut cx = LowerCx::new(&self.env);
        let lowered = match self.path.is_empty() {
            true => RouteTable::lower(message, &mut cx),
            false => cx.at(&self.path, |cx| RouteTable::lower(message, cx)),
        };
        let table = finish(lowered, cx.finish(), &self.file, &self.sources)?;
        Ok(self.tables.entry(runtime.to_owned()).or_insert(Rc::new(table)).clone())
    }
}

/// What was lowered, or the places of all that was refused.
pub(super) fn finish<T>(
    lowered: Result<T, Refused>,
    invalid: Vec<Invalid>,
    file: &str,
    sources: &Sources,
) -> Result<T, ToolError> {
    match lowered {
        Ok(lowered) if invalid.is_empty() => Ok(lowered),
        Ok(_) | Err(Refused) => {
            let problems: Vec<Problem> = invalid.into_iter().map(|invalid| sources.explain(invalid)).collect();
            Err(ToolError::Refused { path: file.to_owned(), problems })
        }
    }
}

/// A text that was read.
pub(super) struct Text {
    pub(super) source: Source,
    text: String,
}

impl Text {
    fn contains(&self, word: &str) -> bool {
        self.text.contains(word)
    }
}

pub(super) fn read(path: &Path) -> Result<(String, Text), ToolError> {
    let name = path.to_string_lossy().into_owned();
    let format = Format::of_path(&name);
    if format == Format::Binary {
        return Err(ToolError::Binary { path: name });
    }
    let bytes = std::fs::read(path).map_err(|source| ToolError::Read { path: name.clone(), source })?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let source = Source::new(&name, format, bytes);
    Ok((name, Text { source, text }))
}

pub(super) fn load<T: Message + Name + Default>(file: &str, source: Source) -> Result<(T, Sources), ToolError> {
    let loaded = Loader::new(UnknownFields::Reject).load::<T>(vec![source]);
    let loaded = loaded.map_err(|problems| ToolError::Refused { path: file.to_owned(), problems })?;
    Ok((loaded.message, loaded.sources))
}

/// Envoy's tool: a route with a runtime fraction is there only if its key is switched on, and then for some requests
/// at least.
fn switch(message: &mut RouteConfiguration, key: &str) {
    let routes = message.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes);
    for fraction in routes.filter_map(|route| route.r#match.as_mut()?.runtime_fraction.as_mut()) {
        let is_on = !key.is_empty() && fraction.runtime_key == key;
        let share = fraction.default_value.get_or_insert_default();
        share.numerator = if is_on { share.numerator.max(1) } else { 0 };
    }
}

/// The route configurations of all connection managers that have one inline, with their paths.
fn inline_tables(bootstrap: &Bootstrap) -> Vec<(String, RouteConfiguration)> {
    let listeners = bootstrap.static_resources.iter().flat_map(|resources| &resources.listeners).enumerate();
    listeners
        .flat_map(|(i, listener)| {
            let tables = of_listener(listener).into_iter().flat_map(|(path, inline)| inline.tables(&path));
            tables.map(move |(path, table)| (format!("static_resources.listeners[{i}].{path}"), table))
        })
        .collect()
}

/// Routes that a connection manager holds itself.
pub(crate) enum Inline {
    /// `route_config`
    Table(RouteConfiguration),
    /// `scoped_routes`
    Scoped(hcm::ScopedRoutes),
}

impl Inline {
    /// All tables, with their paths behind that of the connection manager.
    fn tables(self, manager: &str) -> Vec<(String, RouteConfiguration)> {
        let scopes = match self {
            Self::Table(table) => return vec![(format!("{manager}.route_config"), table)],
            Self::Scoped(routes) => scopes(routes),
        };
        let path = format!("{manager}.scoped_routes.scoped_route_configurations_list.scoped_route_configurations");
        let tables = scopes
            .into_iter()
            .enumerate()
            .filter_map(|(i, scope)| Some((format!("{path}[{i}].route_configuration"), scope.route_configuration?)));
        tables.collect()
    }

    /// The table alone, or that of the scope numbered `scope`, which is called so.
    pub(crate) fn table(self, scope: Option<usize>) -> Option<(Option<String>, RouteConfiguration)> {
        match (self, scope) {
            (Self::Table(table), _) => Some((None, table)),
            (Self::Scoped(routes), Some(scope)) => {
                let scope = scopes(routes).into_iter().nth(scope)?;
                Some((Some(scope.name), scope.route_configuration?))
            }
            (Self::Scoped(_), None) => None,
        }
    }
}

/// The scopes that are given inline.
fn scopes(routes: hcm::ScopedRoutes) -> Vec<ScopedRouteConfiguration> {
    match routes.config_specifier {
        Some(hcm::scoped_routes::ConfigSpecifier::ScopedRouteConfigurationsList(list)) => {
            list.scoped_route_configurations
        }
        _ => Vec::new(),
    }
}

/// The routes that the connection managers of a listener hold themselves, with the paths of these.
pub(crate) fn of_listener(listener: &Listener) -> Vec<(String, Inline)> {
    let chains = listener.filter_chains.iter().enumerate().map(|(i, chain)| (format!("filter_chains[{i}]"), chain));
    let default = listener.default_filter_chain.iter().map(|chain| ("default_filter_chain".to_owned(), chain));
    let mut found = Vec::new();
    for (path, chain) in chains.chain(default) {
        for (i, filter) in chain.filters.iter().enumerate() {
            let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { continue };
            if message_name(any) != hcm::HttpConnectionManager::full_name() {
                continue;
            }
            // What the loader checked decodes.
            let manager = hcm::HttpConnectionManager::decode(&*any.value).unwrap_or_default();
            let inline = match manager.route_specifier {
                Some(RouteSpecifier::RouteConfig(table)) => Inline::Table(table),
                Some(RouteSpecifier::ScopedRoutes(scopes)) => Inline::Scoped(scopes),
                Some(RouteSpecifier::Rds(_)) | None => continue,
            };
            found.push((format!("{path}.filters[{i}].typed_config"), inline));
        }
    }
    found
}

/// An environment in which nothing runs.
fn env() -> LowerEnv {
    let stats = Store::new();
    let policy = FlushPolicy { interval: Duration::from_secs(1), min_size: 0 };
    LowerEnv {
        internal_buffer: Default::default(),
        own_services: Default::default(),
        shared: nuncio_filter_api::SharedConfigs::default(),
        registry: registry::registry(Extensions::default(), &[]).0,
        clusters: Arc::new(ClusterNames::default()),
        files: Arc::new(FileManager::new(policy, &stats.scope("filesystem"))),
        stats,
        concurrency: 1,
        local_ip: std::net::Ipv4Addr::LOCALHOST.into(),
        node: NodeNames::default(),
        slots: Default::default(),
        runtime: Default::default(),
        is_ads_delta: true,
    }
}
