//! From the command line to lowered configuration: nothing runs yet, and all that is wrong is told at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;

use nuncio_config::bootstrap::{BootstrapConfig, is_ads_delta, node_names};
use nuncio_config::load::{Format, Loaded, Loader, Problem, Source, Sources, StaticClusters, UnknownFields, follows};
use nuncio_filter_api::{ClusterNames, LowerCx, LowerEnv, Refused, Slots};
use nuncio_net::BindError;
use nuncio_proto::envoy::config::bootstrap::v3::Bootstrap;
use nuncio_proto::envoy::config::core::v3::Locality;
use nuncio_telemetry::access_log::FileManager;
use nuncio_telemetry::access_log::OpenError;
use nuncio_telemetry::stats::Store;
use tracing::{info, warn};

use crate::Extensions;
use crate::cli::{IpVersion, Options};
use crate::listeners::{GoLiveError, PutError};
use crate::registry;

/// Why the process cannot start. Its text is what the user sees.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("at least one of --config-path and --config-yaml is needed")]
    NoConfig,
    #[error("cannot read the configuration {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("the configuration is refused for {}:\n  {}", reasons(.0), lines(.0))]
    Config(Vec<Problem>),
    #[error("listener '{listener}': {source}")]
    Listener { listener: Arc<str>, source: PutError },
    #[error("{0}")]
    GoLive(#[from] GoLiveError),
    #[error("admin: {0}")]
    Admin(BindError),
    #[error("--log-path: {0}")]
    LogPath(OpenError),
    #[error("--component-log-level: {0}")]
    ComponentLevel(String),
    #[error("cannot {what}: {source}")]
    System { what: &'static str, source: std::io::Error },
}

pub(crate) fn reasons(problems: &[Problem]) -> String {
    if problems.len() == 1 { "one reason".to_owned() } else { format!("{} reasons", problems.len()) }
}

pub(crate) fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
}

/// A configuration that can be run.
pub(crate) struct Start {
    pub(crate) options: Options,
    pub(crate) env: LowerEnv,
    pub(crate) config: BootstrapConfig,
    /// The bootstrap as merged, for `/config_dump`.
    pub(crate) loaded: StaticClusters,
    /// Unknown fields passed over.
    pub(crate) unknown_fields: u64,
}

impl Start {
    /// Loads and lowers what `options` name.
    pub(crate) fn load(
        options: Options,
        extensions: Extensions,
        store: Store,
        files: Arc<FileManager>,
    ) -> Result<Self, StartError> {
        let unknown = if options.allow_unknown_static_fields { UnknownFields::Count } else { UnknownFields::Reject };
        let loaded = Loader::new(unknown).load_bootstrap(sources(&options)?);
        let (loaded, clusters) = match loaded {
            Ok(loaded) => loaded,
            Err(problems) => return Err(all_problems(problems, &options, extensions, store, files)?),
        };
        if !options.skip_deprecated_logs {
            loaded.warnings.iter().for_each(|warning| warn!(target: "config", "{warning}"));
        }
        let unknown_fields = loaded.unknown_fields;
        let (env, config) = lower(loaded, &clusters, &options, extensions, store, files).map_err(StartError::Config)?;
        for path in &config.without_effect {
            info!(target: "config", "{path} is set and has no effect here");
        }
        for flag in options.without_effect() {
            info!(target: "main", "{flag} is given and has no effect here");
        }
        Ok(Self { options, env, config, loaded: clusters, unknown_fields })
    }
}

/// What is wrong beyond the `problems` found while loading: what is left of the configuration is lowered without the
/// values that are wrong, so that one run tells all.
fn all_problems(
    mut problems: Vec<Problem>,
    options: &Options,
    extensions: Extensions,
    store: Store,
    files: Arc<FileManager>,
) -> Result<StartError, StartError> {
    if let Some((loaded, clusters)) = Loader::new(UnknownFields::Ignore).salvage_bootstrap(sources(options)?)
        && let Err(mut more) = lower(loaded, &clusters, options, extensions, store, files)
    {
        more.retain(|problem| !follows(&problem.invalid.path, &problems));
        problems.extend(more);
    }
    problems.sort_by_cached_key(|problem| problem.place.as_ref().map(|place| (place.source.clone(), place.position)));
    Ok(StartError::Config(problems))
}

fn lower(
    loaded: Loaded<Bootstrap>,
    clusters: &StaticClusters,
    options: &Options,
    extensions: Extensions,
    stats: Store,
    files: Arc<FileManager>,
) -> Result<(LowerEnv, BootstrapConfig), Vec<Problem>> {
    let Loaded { mut message, sources, .. } = loaded;
    override_node(&mut message, options);
    let (registry, unknown) = registry::registry(extensions, &options.disable_extensions);
    unknown.iter().for_each(|name| warn!(target: "config", "--disable-extensions: there is no {name}"));
    let env = LowerEnv {
        internal_buffer: Default::default(),
        own_services: Default::default(),
        shared: nuncio_filter_api::SharedConfigs::default(),
        registry,
        clusters: Arc::new(ClusterNames::default()),
        stats,
        files,
        concurrency: concurrency(options),
        local_ip: local_ip(options.local_address_ip_version),
        node: node_names(&message),
        slots: Slots::default(),
        runtime: Arc::default(),
        is_ads_delta: is_ads_delta(&message),
    };
    let config = lower_within(message, clusters, &sources, &env)?;
    Ok((env, config))
}

fn lower_within(
    message: Bootstrap,
    clusters: &StaticClusters,
    sources: &Sources,
    env: &LowerEnv,
) -> Result<BootstrapConfig, Vec<Problem>> {
    let mut cx = LowerCx::new(env);
    let lowered = BootstrapConfig::lower(message, clusters, &mut cx);
    let invalid = cx.finish();
    match lowered {
        Ok(config) if invalid.is_empty() => Ok(config),
        Ok(_) | Err(Refused) => Err(invalid.into_iter().map(|invalid| sources.explain(invalid)).collect()),
    }
}

/// Loads what `options` name again, for a process that runs with `env`. What a start refuses is refused.
pub(crate) fn load_again(options: &Options, env: &LowerEnv) -> Result<(BootstrapConfig, StaticClusters), StartError> {
    let unknown = if options.allow_unknown_static_fields { UnknownFields::Count } else { UnknownFields::Reject };
    let loaded = Loader::new(unknown).load_bootstrap(sources(options)?);
    let (loaded, clusters) = loaded.map_err(StartError::Config)?;
    let Loaded { mut message, sources, .. } = loaded;
    override_node(&mut message, options);
    // A start knows nothing of the clusters that this process still has.
    lower_within(message.clone(), &clusters, &sources, &env.afresh()).map_err(StartError::Config)?;
    let config = lower_within(message, &clusters, &sources, env).map_err(StartError::Config)?;
    Ok((config, clusters))
}

/// The texts to load, in the order in which they are merged.
fn sources(options: &Options) -> Result<Vec<Source>, StartError> {
    let mut sources = Vec::new();
    if let Some(path) = &options.config_path {
        sources.push(read(path)?);
    }
    if !options.config_yaml.is_empty() {
        sources.push(Source::new("--config-yaml", Format::Yaml, options.config_yaml.clone().into()));
    }
    if sources.is_empty() { Err(StartError::NoConfig) } else { Ok(sources) }
}

fn read(path: &Path) -> Result<Source, StartError> {
    let name = path.to_string_lossy();
    let bytes = std::fs::read(path).map_err(|source| StartError::Read { path: name.to_string(), source })?;
    Ok(Source::new(&name, Format::of_path(&name), bytes))
}

/// The command line's names go over those of the bootstrap.
pub(crate) fn override_node(bootstrap: &mut Bootstrap, options: &Options) {
    let Options { service_node, service_cluster, service_zone, .. } = options;
    if [service_node, service_cluster, service_zone].iter().all(|name| name.is_empty()) {
        return;
    }
    let node = bootstrap.node.get_or_insert_default();
    if !service_node.is_empty() {
        node.id.clone_from(service_node);
    }
    if !service_cluster.is_empty() {
        node.cluster.clone_from(service_cluster);
    }
    if !service_zone.is_empty() {
        node.locality.get_or_insert_with(Locality::default).zone.clone_from(service_zone);
    }
}

/// Workers to run. By default one for each CPU that affinity and the cgroup's quota (v1 or v2) leave to this process,
/// which is what the standard library looks at.
fn concurrency(options: &Options) -> usize {
    match options.concurrency {
        Some(given) => usize::try_from(given).unwrap_or(usize::MAX).max(1),
        None => available_parallelism().map_or(1, usize::from),
    }
}

/// The address of this host by which others reach it: that of the interface towards everywhere else, and loopback where
/// there is none. Connecting a datagram socket asks the kernel's routing table and sends nothing; the address asked
/// about is reserved for documentation (RFC 5737, RFC 3849).
fn local_ip(version: IpVersion) -> IpAddr {
    let (any, elsewhere, loopback): (IpAddr, IpAddr, IpAddr) = match version {
        IpVersion::V4 => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::LOCALHOST.into()),
        IpVersion::V6 => {
            let elsewhere = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
            (Ipv6Addr::UNSPECIFIED.into(), elsewhere.into(), Ipv6Addr::LOCALHOST.into())
        }
    };
    let ask = || {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(SocketAddr::new(elsewhere, 9))?;
        socket.local_addr()
    };
    ask().map_or(loopback, |address: SocketAddr| address.ip())
}
