//! Where configuration comes from that is given later: `core.v3.ConfigSource`, and what is asked of it.

mod clusters;

pub use clusters::{FoundCluster, OnDemandClusters};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use core::api_config_source::ApiType;
use nuncio_filter_api::{LowerCx, LowerEnv, Readiness, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use nuncio_telemetry::stats::Scope;
use prost::Message;

use crate::control_plane::{Dialect, Plane};
use crate::followed::Trigger;
use crate::protocol::{duration, non_zero};
use crate::refuse_set;
use crate::route::RouteTable;

/// Envoy's default of `initial_fetch_timeout`.
const DEFAULT_INITIAL_FETCH: Duration = Duration::from_secs(15);

/// A source of configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigSource {
    /// Where it is.
    pub origin: Origin,
    /// How long those who need it wait for the first answer; `None`: for ever.
    pub initial_fetch_timeout: Option<Duration>,
}

/// Where a source is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// A file that is replaced by a move.
    Path {
        /// The file.
        path: Arc<str>,
        /// What announces another content of the file, where it is not that another takes its place.
        watched_directory: Option<Trigger>,
    },
    /// The server of aggregated discovery (`ads_config` of the bootstrap).
    Ads,
    /// A server of its own.
    Server(Arc<Server>),
}

/// A server that is asked for resources. Two are the same whose configuration is.
#[derive(Debug)]
pub struct Server {
    /// How it is asked.
    pub plane: Plane,
    key: Vec<u8>,
}

/// A route table that is given by discovery, as those share it who ask for the same.
pub struct RouteSlot {
    /// `route_config_name`
    pub name: Arc<str>,
    /// Where it comes from.
    pub source: ConfigSource,
    /// `http.<stat_prefix>` of the connection manager that asked first.
    pub scope: Scope,
    /// Empty until one has come.
    pub table: Arc<ArcSwap<RouteTable>>,
    /// Whether one has come, or is known not to.
    pub ready: Arc<Readiness>,
}

// === impl ConfigSource ===

impl ConfigSource {
    /// Lowers the message.
    pub fn lower(proto: core::ConfigSource, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // resource_api_version: there is but one version of the resources.
        let core::ConfigSource { authorities, config_source_specifier, initial_fetch_timeout, resource_api_version: _ } =
            proto;
        let refused = refuse_set!(cx; authorities);
        let timeout = cx.opt("initial_fetch_timeout", initial_fetch_timeout, duration);
        let origin = Origin::lower(config_source_specifier, cx);
        refused?;
        let initial_fetch_timeout = timeout?.map_or(Some(DEFAULT_INITIAL_FETCH), non_zero);
        Ok(Self { origin: origin?, initial_fetch_timeout })
    }
}

impl ConfigSource {
    /// Whether it tells changes, and so can be asked for more names at any time.
    pub(crate) fn is_delta(&self, cx: &LowerCx<'_>) -> bool {
        match &self.origin {
            Origin::Path { .. } => false,
            Origin::Ads => cx.env.is_ads_delta,
            Origin::Server(server) => matches!(&server.plane, Plane::Grpc(plane) if plane.dialect == Dialect::Delta),
        }
    }
}

// === impl Origin ===

impl Origin {
    fn lower(
        specifier: Option<core::config_source::ConfigSourceSpecifier>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        use core::config_source::ConfigSourceSpecifier as Specifier;
        match specifier {
            Some(Specifier::Path(path)) => {
                cx.at("path", |cx| existing(&path, cx))?;
                Ok(Self::Path { path: path.into(), watched_directory: None })
            }
            Some(Specifier::PathConfigSource(source)) => cx.at("path_config_source", |cx| {
                let core::PathConfigSource { path, watched_directory, poll_interval } = source;
                let refused = refuse_set!(cx; poll_interval);
                let folder = cx.opt("watched_directory", watched_directory, crate::value::existing_directory);
                cx.at("path", |cx| existing(&path, cx))?;
                refused?;
                Ok(Self::Path { path: path.into(), watched_directory: folder? })
            }),
            Some(Specifier::ApiConfigSource(source)) => {
                // Envoy: these two of a single source mean the stream that is there for all.
                if matches!(source.api_type(), ApiType::AggregatedGrpc | ApiType::AggregatedDeltaGrpc) {
                    return Ok(Self::Ads);
                }
                cx.at("api_config_source", |cx| Self::lower_server(source, cx))
            }
            Some(Specifier::Ads(core::AggregatedConfigSource {})) => Ok(Self::Ads),
            Some(Specifier::Self_(_)) => Err(cx.at("self", |cx| cx.not_implemented("discovery from the same server"))),
            None => Err(cx.invalid("one of path_config_source, api_config_source, ads and self is required")),
        }
    }
}

impl Origin {
    /// Whether it tells of changes by itself.
    pub fn is_streamed(&self) -> bool {
        match self {
            Self::Ads => true,
            Self::Server(server) => matches!(server.plane, Plane::Grpc(_)),
            Self::Path { .. } => false,
        }
    }

    /// A server of its own.
    pub(crate) fn lower_server(source: core::ApiConfigSource, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let key = source.encode_to_vec();
        let plane = Plane::lower(source, cx)?;
        Ok(Self::Server(Arc::new(Server { plane, key })))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { path, .. } => write!(f, "path {path}"),
            Self::Ads => f.write_str("ads"),
            Self::Server(server) => write!(f, "{}", server.plane),
        }
    }
}

/// As Envoy, which looks for the file when it learns of it.
fn existing(path: &str, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    if std::fs::exists(path).unwrap_or(false) {
        return Ok(());
    }
    Err(cx.invalid(format!("paths must refer to an existing path in the system: '{path}' does not exist")))
}

impl Origin {
    /// What tells it from all others, in this process and the next.
    pub fn identity(&self) -> String {
        let settings = match self {
            Self::Server(server) => server.key.iter().map(|byte| format!("{byte:02x}")).collect(),
            Self::Path { .. } | Self::Ads => String::new(),
        };
        format!("{self} {settings}")
    }
}

// === impl Server ===

impl PartialEq for Server {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Server {}

impl std::hash::Hash for Server {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl PartialOrd for Server {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Server {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

// === impl RouteSlot ===

impl RouteSlot {
    /// The slot that `rds` of a connection manager counting in `scope` asks for; its listener waits for it.
    pub fn lower(proto: hcm::Rds, scope: &Scope, cx: &mut LowerCx<'_>) -> Result<Arc<Self>, Refused> {
        let hcm::Rds { config_source, route_config_name } = proto;
        let Some(source) = config_source else {
            return Err(cx.at("config_source", |cx| cx.invalid("is required")));
        };
        let source = cx.at("config_source", |cx| ConfigSource::lower(source, cx))?;
        let slot = Self::share(&route_config_name, source, scope, cx.env);
        cx.wait_for(slot.ready.clone());
        Ok(slot)
    }

    /// The slot of the routes called `name`; who asks first says where they are counted.
    pub(crate) fn share(name: &str, source: ConfigSource, scope: &Scope, env: &LowerEnv) -> Arc<Self> {
        let is_new = std::cell::Cell::new(false);
        let slot = env.slots.share(&format!("{name} {source:?}"), || {
            is_new.set(true);
            Self {
                ready: Readiness::new(format!("shared target RdsRouteConfigSubscription RDS init {name}")),
                table: Arc::new(ArcSwap::from_pointee(RouteTable::empty())),
                scope: scope.clone(),
                name: name.into(),
                source,
            }
        });
        if is_new.get() {
            env.slots.tell();
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nuncio_filter_api::Invalid;

    fn lower(proto: core::ConfigSource) -> Result<ConfigSource, Vec<Invalid>> {
        let env = crate::testing::env();
        let mut cx = LowerCx::new(&env);
        ConfigSource::lower(proto, &mut cx).map_err(|Refused| cx.finish())
    }

    fn path(path: &str) -> core::ConfigSource {
        let specifier = core::config_source::ConfigSourceSpecifier::Path(path.to_owned());
        core::ConfigSource { config_source_specifier: Some(specifier), ..Default::default() }
    }

    #[test]
    fn a_file_must_exist_and_is_waited_for_so_long() {
        let refused = lower(path("/no/such/file")).unwrap_err();
        assert_eq!(
            refused[0].to_string(),
            "path: paths must refer to an existing path in the system: '/no/such/file' does not exist"
        );
        let source = lower(path("/proc/self/stat")).unwrap();
        assert_eq!(source.initial_fetch_timeout, Some(DEFAULT_INITIAL_FETCH));
        assert_eq!(source.origin, Origin::Path { path: "/proc/self/stat".into(), watched_directory: None });
        let zero = core::ConfigSource { initial_fetch_timeout: Some(Default::default()), ..path("/proc/self/stat") };
        assert_eq!(lower(zero).unwrap().initial_fetch_timeout, None);
    }

    #[test]
    fn a_folder_that_is_watched_must_exist() {
        let watching = |folder: &str| {
            let watched = core::WatchedDirectory { path: folder.to_owned(), watch_modify: false };
            let path = core::PathConfigSource {
                path: "/proc/self/stat".to_owned(),
                watched_directory: Some(watched),
                ..Default::default()
            };
            let specifier = core::config_source::ConfigSourceSpecifier::PathConfigSource(path);
            lower(core::ConfigSource { config_source_specifier: Some(specifier), ..Default::default() })
        };
        assert!(watching("/proc").is_ok());
        assert_eq!(
            watching("/no/such/folder").unwrap_err()[0].to_string(),
            "path_config_source.watched_directory.path: unable to add filesystem watch for \"/no/such/folder\": no such \
             file or directory"
        );
    }

    #[test]
    fn connection_managers_that_ask_for_the_same_routes_share_them() {
        let env = crate::testing::env();
        let mut cx = LowerCx::new(&env);
        let mut slot = |name: &str| {
            let rds = hcm::Rds { config_source: Some(path("/proc/self/stat")), route_config_name: name.to_owned() };
            RouteSlot::lower(rds, &env.stats.scope("http.a"), &mut cx).unwrap()
        };
        let (first, second, other) = (slot("r"), slot("r"), slot("s"));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
        assert_eq!(cx.take_waits().len(), 3);
    }
}
