//! `bootstrap.v3.Bootstrap`: what the process starts with.

mod admin;
mod authorities;
mod cluster_manager;
mod dynamic;
mod runtime;
mod stats;

pub use admin::AdminConfig;
pub use authorities::Authorities;
pub use cluster_manager::{ClusterManagerConfig, LocalCluster};
pub use dynamic::DynamicResources;
pub use runtime::{
    RuntimeConfig, RuntimeFolder, RuntimeLayer, RuntimeLayerKind, RuntimeValues, lower_runtime, runtime_value,
};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nuncio_filter_api::{LowerCx, NodeNames, Refused};
use nuncio_proto::envoy::config::bootstrap::v3 as proto;
use nuncio_proto::envoy::config::core::v3::Node;
use nuncio_proto::envoy::config::core::v3::api_config_source::ApiType;
use nuncio_proto::envoy::extensions::bootstrap::internal_listener::v3::InternalListener;
use nuncio_telemetry::NodeInfo;
use nuncio_telemetry::stats::StatsRules;

use crate::cluster::{ClusterConfig, DnsResolverConfig};
use crate::grpc::GrpcServiceConfig;
use crate::listener::ListenerConfig;
use crate::load::StaticClusters;
use crate::protocol::{duration, message_name, resource_name};
use crate::refuse_set;
use crate::secret::{Secret, StaticSecrets};

/// Envoy's default of `stats_flush_interval`.
const DEFAULT_FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// A bootstrap, ready to run.
pub struct BootstrapConfig {
    /// The admin server, if it has an address.
    pub admin: Option<AdminConfig>,
    /// `static_resources.listeners`.
    pub listeners: Vec<Arc<ListenerConfig>>,
    /// `static_resources.clusters`.
    pub clusters: Vec<ClusterConfig>,
    /// `static_resources.secrets`; whoever holds them keeps them.
    pub secrets: Arc<StaticSecrets>,
    /// Those that are others than before, to be put in force.
    pub changed_secrets: Vec<Arc<Secret>>,
    /// Where further resources come from.
    pub dynamic_resources: DynamicResources,
    /// `node`, as control planes are told it.
    pub node: Node,
    /// What all clusters share.
    pub cluster_manager: ClusterManagerConfig,
    /// Who is told of the load of clusters.
    pub load_stats: Option<GrpcServiceConfig>,
    /// For whom hosts are checked.
    pub hds: Option<GrpcServiceConfig>,
    /// Layers of the runtime.
    pub runtime: RuntimeConfig,
    /// How often stats are flushed to sinks and histograms start a new interval.
    pub stats_flush_interval: Duration,
    /// `stats_config`: how metrics are told.
    pub stats: StatsRules,
    /// `stats_server_version_override`: value of the gauge `server.version`.
    pub server_version: Option<u64>,
    /// Paths of fields that are set and cannot change what nuncio does; logged once.
    pub without_effect: Vec<String>,
}

/// The names by which a node calls itself, for the environment of lowering; the command line overrides them.
pub fn node_names(bootstrap: &proto::Bootstrap) -> NodeNames {
    let Some(node) = &bootstrap.node else { return NodeNames::default() };
    NodeNames {
        id: node.id.clone(),
        cluster: node.cluster.clone(),
        zone: node.locality.as_ref().map(|l| l.zone.clone()).unwrap_or_default(),
        info: Arc::new(NodeInfo {
            id: node.id.clone().into(),
            cluster: node.cluster.clone().into(),
            metadata: node.metadata.clone().map(crate::metadata::object),
            locality: node.locality.clone().map(|l| [l.region.into(), l.zone.into(), l.sub_zone.into()]),
            // What control planes are told too.
            user_agent: "envoy",
            client_features: node.client_features.iter().map(|feature| (**feature).into()).collect(),
        }),
    }
}

/// Whether aggregated discovery tells changes, for the environment of lowering.
pub fn is_ads_delta(bootstrap: &proto::Bootstrap) -> bool {
    let ads = bootstrap.dynamic_resources.as_ref().and_then(|dynamic| dynamic.ads_config.as_ref());
    ads.is_some_and(|ads| ads.api_type() == ApiType::DeltaGrpc)
}

impl BootstrapConfig {
    /// Lowers a bootstrap, of which the loader kept the static clusters apart.
    pub fn lower(
        bootstrap: proto::Bootstrap,
        clusters: &StaticClusters,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        // node: its names are in the environment of lowering, its locality counts for clusters, the rest is for control
        // planes. stats_flush: without sinks nothing is flushed but what admin computes when asked.
        let proto::Bootstrap {
            node,
            node_context_params,
            static_resources,
            dynamic_resources,
            cluster_manager,
            hds_config,
            flags_path,
            stats_sinks,
            deferred_stat_options,
            stats_config,
            stats_flush_interval,
            watchdog,
            watchdogs,
            tracing,
            layered_runtime,
            admin,
            overload_manager,
            enable_dispatcher_stats,
            header_prefix,
            stats_server_version_override,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            bootstrap_extensions,
            fatal_actions,
            config_sources,
            default_config_source,
            default_socket_interface,
            certificate_provider_instances,
            inline_headers,
            perf_tracing_file_path,
            default_regex_engine,
            xds_delegate_extension,
            xds_config_tracker_extension,
            listener_manager,
            application_log_config,
            grpc_async_client_manager_config,
            memory_allocator_manager,
            enable_worker_cpu_affinity,
            stats_flush: _,
            stats_eviction,
        } = bootstrap;
        let mut without_effect = Vec::new();
        let mut note = |path: &str, set: bool| without_effect.extend(set.then(|| path.to_owned()));
        note("deferred_stat_options", deferred_stat_options.is_some());
        note("grpc_async_client_manager_config", grpc_async_client_manager_config.is_some());
        note("memory_allocator_manager", memory_allocator_manager.is_some());
        note("perf_tracing_file_path", !perf_tracing_file_path.is_empty());
        let stats_eviction_interval = stats_eviction;
        let refused = refuse_set!(cx; flags_path, stats_sinks, watchdog, watchdogs,
            tracing, overload_manager, enable_dispatcher_stats, fatal_actions, certificate_provider_instances,
            inline_headers, xds_delegate_extension, xds_config_tracker_extension, application_log_config,
            enable_worker_cpu_affinity, stats_eviction_interval);
        let defaults = [
            only_name("header_prefix", &header_prefix, "x-envoy", cx),
            only_name("default_socket_interface", &default_socket_interface, DEFAULT_SOCKET_INTERFACE, cx),
            only_type("default_regex_engine", &default_regex_engine, GOOGLE_RE2, cx),
            only_type("listener_manager", &listener_manager, LISTENER_MANAGER, cx),
        ];
        let extensions = cx.each("bootstrap_extensions", bootstrap_extensions, lower_extension);
        let dns = DnsResolverConfig::lower_bootstrap(
            typed_dns_resolver_config,
            dns_resolution_config,
            use_tcp_for_dns_lookups,
            cx,
        );
        let load_stats = cluster_manager.as_ref().and_then(|manager| manager.load_stats_config.clone());
        let cluster_manager = cx.at("cluster_manager", |cx| {
            let manager = cluster_manager.unwrap_or_default();
            ClusterManagerConfig::lower(manager, node.as_ref(), &mut without_effect, cx)
        });
        let admin = cx.opt("admin", admin, |v, cx| AdminConfig::lower(v, &mut without_effect, cx));
        let stats = cx.opt("stats_config", stats_config, stats::lower);
        let flush = cx.opt("stats_flush_interval", stats_flush_interval, duration);
        declare(clusters, cx);
        let authorities = Authorities::lower(config_sources, default_config_source, cx);
        let resources =
            cx.at("static_resources", |cx| lower_static(static_resources.unwrap_or_default(), clusters, cx));
        // Their servers are static clusters.
        let lower_runtime = |v, cx: &mut LowerCx<'_>| RuntimeConfig::lower(v, &mut without_effect, cx);
        let runtime = cx.opt("layered_runtime", layered_runtime, lower_runtime);
        let dynamic = cx.opt("dynamic_resources", dynamic_resources, DynamicResources::lower);
        let load_stats =
            cx.at("cluster_manager", |cx| cx.opt("load_stats_config", load_stats, cluster_manager::lower_service));
        let hds = cx.opt("hds_config", hds_config, cluster_manager::lower_service);
        refused?;
        extensions?;
        defaults.into_iter().collect::<Result<(), Refused>>()?;
        let Resources { listeners, clusters, secrets, changed_secrets } = resources?;
        let cluster_manager = ClusterManagerConfig { dns: dns?, ..cluster_manager? };
        cx.at("cluster_manager", |cx| {
            let local = cluster_manager.local_cluster.as_ref();
            local.map_or(Ok(()), |local| cx.at("local_cluster_name", |cx| local.check(&clusters, cx)))
        })?;
        let runtime = runtime?.unwrap_or_default();
        let (authorities, context_params) = (authorities?.guarded(&runtime), node_context_params);
        Ok(Self {
            admin: admin?.flatten(),
            listeners,
            clusters,
            secrets,
            changed_secrets,
            dynamic_resources: DynamicResources { authorities, context_params, ..dynamic?.unwrap_or_default() },
            node: node.unwrap_or_default(),
            cluster_manager,
            load_stats: load_stats?.flatten(),
            hds: hds?.flatten(),
            runtime,
            stats_flush_interval: flush?.unwrap_or(DEFAULT_FLUSH_INTERVAL),
            stats: stats?.unwrap_or_default(),
            server_version: stats_server_version_override.map(|v| v.value),
            without_effect,
        })
    }
}

const DEFAULT_SOCKET_INTERFACE: &str = "envoy.extensions.network.socket_interface.default_socket_interface";
const GOOGLE_RE2: &str = "envoy.extensions.regex_engines.v3.GoogleRE2";
const LISTENER_MANAGER: &str = "envoy.config.listener_manager.v3.ListenerManager";

/// Accepts a name of which nuncio has one: nothing, or `only`.
fn only_name(field: &str, value: &str, only: &str, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    if value.is_empty() || value == only {
        return Ok(());
    }
    Err(cx.at(field, |cx| cx.not_implemented(format_args!("{value:?}, other than {only:?},"))))
}

/// Accepts an extension of which nuncio has one.
fn only_type(
    field: &str,
    value: &Option<nuncio_proto::envoy::config::core::v3::TypedExtensionConfig>,
    only: &str,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    let Some(any) = value.as_ref().and_then(|v| v.typed_config.as_ref()) else { return Ok(()) };
    let message = message_name(any);
    if message == only {
        return Ok(());
    }
    Err(cx.at(field, |cx| cx.not_implemented(format_args!("{message}, other than {only},"))))
}

/// Envoy's default of `buffer_size_kb`.
const INTERNAL_BUFFER_KIB: u32 = 1024;

/// What a bootstrap extension allows, it allows for all that is lowered after it.
fn lower_extension(
    extension: nuncio_proto::envoy::config::core::v3::TypedExtensionConfig,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    let InternalListener { buffer_size_kb } = crate::protocol::extension(extension, cx)?;
    // The rule of the field holds it to 8 MiB. What is there already is of the bootstrap that the process began with.
    cx.env.internal_buffer.get_or_init(|| buffer_size_kb.map_or(INTERNAL_BUFFER_KIB, |v| v.value) * 1024);
    Ok(())
}

/// `static_resources`
struct Resources {
    listeners: Vec<Arc<ListenerConfig>>,
    clusters: Vec<ClusterConfig>,
    secrets: Arc<StaticSecrets>,
    changed_secrets: Vec<Arc<Secret>>,
}

/// A server that a cluster asks for its secrets may be a later one.
fn declare(loaded: &StaticClusters, cx: &LowerCx<'_>) {
    for encoded in loaded.encoded() {
        let name = resource_name(encoded).unwrap_or_default();
        cx.env.clusters.declare(&cx.env.clusters.intern(&name));
    }
}

fn lower_static(
    resources: proto::bootstrap::StaticResources,
    loaded: &StaticClusters,
    cx: &mut LowerCx<'_>,
) -> Result<Resources, Refused> {
    let proto::bootstrap::StaticResources { listeners, clusters, secrets } = resources;
    debug_assert!(clusters.is_empty(), "the loader keeps clusters apart");
    let known = StaticSecrets::of(cx.env);
    let changed_secrets = known.lower(secrets, cx);
    let names = unique_names("listeners", listeners.iter().map(|l| &*l.name), cx);
    // Clusters first: what listeners refer to. All are declared, also where one is refused: routes that name it are not
    // at fault.
    let clusters = cx.each("clusters", loaded.iter().zip(loaded.encoded()), |(cluster, encoded), cx| match cluster {
        Ok(cluster) => ClusterConfig::lower_encoded(cluster, encoded, cx),
        Err(error) => Err(cx.invalid(error.to_string())),
    });
    let listeners = cx.each("listeners", listeners, |v, cx| ListenerConfig::lower(v, cx).map(Arc::new));
    names?;
    let (listeners, clusters) = (listeners?, clusters?);
    let names = unique_names("clusters", clusters.iter().map(|c| &*c.name.name), cx);
    names.and(unique_addresses(&listeners, cx))?;
    Ok(Resources { listeners, clusters, secrets: known, changed_secrets: changed_secrets? })
}

/// Refuses names that are given twice; resources without name are no matter.
fn unique_names<'a>(field: &str, names: impl Iterator<Item = &'a str>, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let mut first: HashMap<&str, usize> = HashMap::new();
    let mut result = Ok(());
    for (i, name) in names.enumerate().filter(|(_, name)| !name.is_empty()) {
        if let Some(other) = first.insert(name, i) {
            let reason = format!("duplicate name {name:?}, which {field}[{other}] has too");
            result = Err(cx.at(field, |cx| cx.at_index(i, |cx| cx.at("name", |cx| cx.invalid(reason)))));
        }
    }
    result
}

/// Refuses an address that two listeners would bind. Envoy: one listener may have it several times, and then so many
/// sockets share its connections.
fn unique_addresses(listeners: &[Arc<ListenerConfig>], cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let mut first: HashMap<_, usize> = HashMap::new();
    let mut result = Ok(());
    for (i, listener) in listeners.iter().enumerate() {
        for (number, socket) in listener.sockets.iter().enumerate() {
            let Some(place) = socket.address.place() else { continue };
            let other = *first.entry(place).or_insert(i);
            if other != i {
                let (address, name) = (&socket.address.address, &listeners[other].name);
                let reason = format!("duplicate address {address}, which listener {name:?} has too");
                let refuse = |cx: &mut LowerCx<'_>| at_address(number, cx, |cx| cx.invalid(reason));
                result = Err(cx.at("listeners", |cx| cx.at_index(i, refuse)));
            }
        }
    }
    result
}

/// At the address of the socket that has this number in its listener.
fn at_address<R>(number: usize, cx: &mut LowerCx<'_>, then: impl FnOnce(&mut LowerCx<'_>) -> R) -> R {
    match number.checked_sub(1) {
        None => cx.at("address", then),
        Some(i) => cx.at("additional_addresses", |cx| cx.at_index(i, |cx| cx.at("address", then))),
    }
}

#[cfg(test)]
mod tests;
