//! Endpoints that tell about the process.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use nuncio_config::address::to_proto;
use nuncio_config::load::{Defaults, to_json};
use nuncio_config::protocol::to_duration;
use nuncio_config::tls::contexts_in_use;
use nuncio_filter_api::ServerState;
use nuncio_proto::envoy::admin::v3 as proto;
use nuncio_proto::envoy::admin::v3::command_line_options::{
    DrainStrategy as ProtoDrainStrategy, IpVersion as ProtoIpVersion, Mode as ProtoMode,
};
use nuncio_telemetry::stats::render::{Format, Query, render};

use super::{Admin, Params, Reply, TEXT};
use crate::cli::{self, DrainStrategy, IpVersion, Mode, Options};
use crate::memory::Memory;
use crate::runtime::Entry;
use crate::stats;
use crate::update::lock;

/// What Envoy says instead of a version where hot restart is off.
const NO_HOT_RESTART: &str = "disabled";

/// `/ready`
pub(super) fn ready(admin: &Admin) -> Reply {
    let state = state(&admin.shared.state);
    let status =
        if state == proto::server_info::State::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let records = lock(&admin.shared.records);
    let cached = records.cached().iter().map(|(kind, origin)| format!("{} from {origin}", kind.short()));
    let cached: Vec<String> = cached.collect();
    let note = if cached.is_empty() { String::new() } else { format!("from the cache: {}\n", cached.join(", ")) };
    Reply::text(format!("{}\n{note}", state.as_str_name())).status(status)
}

/// Envoy: a process that fails its health checks is draining.
pub(super) fn state(server: &ServerState) -> proto::server_info::State {
    use proto::server_info::State;
    match State::try_from(i32::from(server.state())) {
        Ok(State::Live) if server.is_health_check_failed() => State::Draining,
        Ok(state) => state,
        Err(_) => State::PreInitializing,
    }
}

/// `/stats`
pub(super) fn metrics(admin: &Admin, params: &Params) -> Reply {
    rendered(admin, Query::parse(params.iter()))
}

/// `/stats/prometheus`
pub(super) fn prometheus(admin: &Admin, params: &Params) -> Reply {
    let params = params.iter().filter(|(key, _)| *key != "format");
    rendered(admin, Query::parse(params.chain([("format", "prometheus")])))
}

fn rendered(admin: &Admin, query: Result<Query, impl ToString>) -> Reply {
    let query = match query {
        Ok(query) => query,
        Err(error) => return Reply::bad_request(error.to_string()),
    };
    let connections = admin.shared.snapshot.load().listeners.iter().map(|listener| listener.connections()).sum();
    stats::refresh(&admin.shared.stats, state(&admin.shared.state), admin.started, connections);
    stats::refresh_certificates(&admin.shared.stats, &contexts_in_use(&admin.env.slots));
    admin.shared.clusters.snapshot().iter().for_each(|cluster| cluster.refresh_stats());
    let mut body = String::new();
    render(&admin.shared.store, &query, &mut body);
    match query.format {
        Format::Html => Reply::html(body),
        Format::Json => Reply { content_type: super::JSON, ..Reply::text(body) },
        Format::Text | Format::Prometheus => Reply { content_type: TEXT, ..Reply::text(body) },
    }
}

/// `/memory`
pub(super) fn memory() -> Reply {
    let Memory { allocated, heap, physical } = Memory::read();
    let memory = proto::Memory {
        allocated,
        heap_size: heap,
        // What the allocator keeps for itself is not told apart.
        pageheap_unmapped: 0,
        pageheap_free: 0,
        total_thread_cache: 0,
        total_physical_bytes: physical,
    };
    Reply::json(to_json(&memory, Defaults::Print))
}

/// `/runtime`
pub(super) fn runtime(admin: &Admin) -> Reply {
    let last = |values: &[String]| values.iter().rev().find(|v| !v.is_empty()).cloned().unwrap_or_default();
    let entry = |Entry { values }| serde_json::json!({ "final_value": last(&values), "layer_values": values });
    let (layers, entries) = admin.shared.runtime.entries();
    let entries: BTreeMap<String, _> = entries.into_iter().map(|(key, e)| (key, entry(e))).collect();
    Reply::json(format!("{:#}", serde_json::json!({ "entries": entries, "layers": layers })))
}

/// `/hot_restart_version`
pub(super) fn hot_restart_version() -> Reply {
    Reply::text(NO_HOT_RESTART)
}

/// `/listeners`
pub(super) fn listeners(admin: &Admin, params: &Params) -> Reply {
    let snapshot = admin.shared.snapshot.load();
    if params.value("format") == Some("json") {
        let status = |listener: &nuncio_net::Listener| {
            let mut addresses = listener.shown_addresses().map(to_proto);
            proto::ListenerStatus {
                name: listener.config.name.to_string(),
                local_address: addresses.next(),
                additional_local_addresses: addresses.collect(),
            }
        };
        let listener_statuses = snapshot.listeners.iter().map(|l| status(l)).collect();
        return Reply::json(to_json(&proto::Listeners { listener_statuses }, Defaults::Omit));
    }
    let lines = snapshot.listeners.iter().flat_map(|listener| {
        listener.shown_addresses().map(|address| format!("{}::{address}\n", listener.config.name))
    });
    Reply::text(lines.collect::<String>())
}

/// `/server_info`
pub(super) fn server_info(admin: &Admin) -> Reply {
    let uptime = to_duration(Duration::from_secs(admin.started.elapsed().as_secs()));
    let info = proto::ServerInfo {
        version: cli::version(),
        state: state(&admin.shared.state) as i32,
        uptime_current_epoch: Some(uptime),
        uptime_all_epochs: Some(uptime),
        hot_restart_version: NO_HOT_RESTART.to_owned(),
        command_line_options: Some(command_line_options(&admin.options, admin.env.concurrency)),
        node: admin.bootstrap().node,
        hot_restart_initializing: false,
    };
    Reply::json(to_json(&info, Defaults::Print))
}

fn command_line_options(options: &Options, concurrency: usize) -> proto::CommandLineOptions {
    let no_effect = &options.no_effect;
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    proto::CommandLineOptions {
        base_id: no_effect.base_id.unwrap_or_default(),
        use_dynamic_base_id: no_effect.use_dynamic_base_id,
        skip_hot_restart_on_no_parent: no_effect.skip_hot_restart_on_no_parent,
        skip_hot_restart_parent_stats: no_effect.skip_hot_restart_parent_stats,
        base_id_path: path(&no_effect.base_id_path),
        concurrency: u32::try_from(concurrency).unwrap_or(u32::MAX),
        config_path: path(&options.config_path),
        config_yaml: options.config_yaml.clone(),
        allow_unknown_static_fields: options.allow_unknown_static_fields,
        reject_unknown_dynamic_fields: options.reject_unknown_dynamic_fields,
        ignore_unknown_dynamic_fields: options.ignore_unknown_dynamic_fields,
        skip_deprecated_logs: options.skip_deprecated_logs,
        admin_address_path: path(&options.admin_address_path),
        local_address_ip_version: match options.local_address_ip_version {
            IpVersion::V4 => ProtoIpVersion::V4,
            IpVersion::V6 => ProtoIpVersion::V6,
        } as i32,
        log_level: options.log_level.as_str().to_owned(),
        component_log_level: options.component_log_level.clone(),
        log_format: no_effect.log_format.clone().unwrap_or_else(|| cli::DEFAULT_LOG_FORMAT.to_owned()),
        log_format_escaped: no_effect.log_format_escaped,
        log_path: path(&options.log_path),
        service_cluster: options.service_cluster.clone(),
        service_node: options.service_node.clone(),
        service_zone: options.service_zone.clone(),
        file_flush_interval: Some(to_duration(Duration::from_millis(options.file_flush_interval_msec.into()))),
        file_flush_min_size: options.file_flush_min_size_kb,
        drain_time: Some(to_duration(Duration::from_secs(options.drain_time_s.into()))),
        drain_strategy: match options.drain_strategy {
            DrainStrategy::Gradual => ProtoDrainStrategy::Gradual,
            DrainStrategy::Immediate => ProtoDrainStrategy::Immediate,
        } as i32,
        parent_shutdown_time: Some(to_duration(Duration::from_secs(
            no_effect.parent_shutdown_time_s.unwrap_or(900).into(),
        ))),
        mode: match options.mode {
            Mode::Serve => ProtoMode::Serve,
            Mode::Validate => ProtoMode::Validate,
            Mode::InitOnly => ProtoMode::InitOnly,
        } as i32,
        // There is none to enable.
        disable_hot_restart: true,
        enable_mutex_tracing: no_effect.enable_mutex_tracing,
        restart_epoch: options.restart_epoch,
        cpuset_threads: no_effect.cpuset_threads,
        disabled_extensions: options.disable_extensions.clone(),
        enable_fine_grain_logging: no_effect.enable_fine_grain_logging,
        log_stacktrace_single_entry: no_effect.log_stacktrace_single_entry,
        socket_path: no_effect.socket_path.clone().unwrap_or_else(|| "@envoy_domain_socket".to_owned()),
        socket_mode: 0,
        enable_core_dump: no_effect.enable_core_dump,
        stats_tag: options.stats_tag.iter().map(|(name, value)| format!("{name}:{value}")).collect(),
    }
}
