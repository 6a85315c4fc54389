//! The command line: Envoy's flags.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, ValueEnum};
use nuncio_telemetry::logging::LogLevel;

/// What else the first word may be.
const TOOLS: &str = "Tools, each with a --help of its own:
  nuncio diff         Tell what a reload from one bootstrap to another would change
  nuncio explain      Tell what becomes of a request, and why
  nuncio route-check  Test a route table, as Envoy's router_check_tool does
  nuncio validate     Check a configuration: as --mode validate";

/// An Envoy-compatible L4/L7 proxy.
#[derive(Clone, Debug, Parser)]
#[command(name = "nuncio", disable_version_flag = true, max_term_width = 100, after_help = TOOLS)]
pub struct Options {
    /// Path to the bootstrap: YAML, or by its ending .json, .pb or .pb_text
    #[arg(short = 'c', long, value_name = "PATH")]
    pub config_path: Option<PathBuf>,
    /// Bootstrap as YAML, merged over that of --config-path
    #[arg(long, value_name = "YAML", default_value = "")]
    pub config_yaml: String,
    /// Serve; or check the configuration and exit; or initialise and exit
    #[arg(long, default_value = "serve")]
    pub mode: Mode,
    /// Number of worker threads; by default the CPUs that affinity and cgroup give
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u32>,
    /// Accept unknown fields in the bootstrap
    #[arg(long, alias = "allow-unknown-fields")]
    pub allow_unknown_static_fields: bool,
    /// Refuse unknown fields in dynamic configuration
    #[arg(long)]
    pub reject_unknown_dynamic_fields: bool,
    /// Ignore unknown fields in dynamic configuration without a word
    #[arg(long)]
    pub ignore_unknown_dynamic_fields: bool,
    /// Do not log the use of deprecated fields
    #[arg(long)]
    pub skip_deprecated_logs: bool,
    /// File to write the admin server's address to
    #[arg(long, value_name = "PATH")]
    pub admin_address_path: Option<PathBuf>,
    /// trace, debug, info, warning, error, critical or off
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// Levels of single components, such as upstream:debug,config:trace
    #[arg(long, value_name = "LEVELS", default_value = "")]
    pub component_log_level: String,
    /// Log file instead of standard error
    #[arg(long, value_name = "PATH")]
    pub log_path: Option<PathBuf>,
    /// Tag that all metrics have, as NAME:VALUE; may be given several times
    #[arg(long, value_name = "TAG", value_parser = stats_tag)]
    pub stats_tag: Vec<(String, String)>,
    /// IP version of this host's own address, where one must be given to peers
    #[arg(long, value_name = "VERSION", default_value = "v4")]
    pub local_address_ip_version: IpVersion,
    /// Name of this node; overrides node.id
    #[arg(long, value_name = "NAME", default_value = "")]
    pub service_node: String,
    /// Name of this node's cluster; overrides node.cluster
    #[arg(long, value_name = "NAME", default_value = "")]
    pub service_cluster: String,
    /// Name of this node's zone; overrides node.locality.zone
    #[arg(long, value_name = "NAME", default_value = "")]
    pub service_zone: String,
    /// Milliseconds after which buffered log lines are written
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub file_flush_interval_msec: u32,
    /// Kilobytes of log lines after which they are written
    #[arg(long, value_name = "KB", default_value_t = 64)]
    pub file_flush_min_size_kb: u32,
    /// Seconds that a drain takes
    #[arg(long, value_name = "S", default_value_t = 600)]
    pub drain_time_s: u32,
    /// Close connections little by little during a drain, or all at its start
    #[arg(long, default_value = "gradual")]
    pub drain_strategy: DrainStrategy,
    /// Extensions that may not be used, such as envoy.filters.network/envoy.filters.network.echo
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub disable_extensions: Vec<String>,
    /// Read the bootstrap again whenever its file changes, as SIGHUP asks for
    #[arg(long)]
    pub watch_config: bool,
    /// Folder that keeps what control planes delivered, for a start while they are away
    #[arg(long, value_name = "PATH")]
    pub xds_cache_dir: Option<PathBuf>,
    /// Keep secrets in --xds-cache-dir too
    #[arg(long, requires = "xds_cache_dir")]
    pub xds_cache_secrets: bool,
    /// Print the version
    #[arg(long)]
    pub version: bool,
    /// Print the version of the hot-restart protocol
    #[arg(long)]
    pub hot_restart_version: bool,
    /// Epoch of a hot restart; only 0, as there is no hot restart yet
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = only_first_epoch)]
    pub restart_epoch: u32,
    #[command(flatten)]
    pub no_effect: NoEffect,
}

/// Flags of Envoy that change nothing in what nuncio does. They are accepted, and logged once.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Accepted without effect")]
pub struct NoEffect {
    /// There is no hot restart to disable yet
    #[arg(long)]
    pub disable_hot_restart: bool,
    /// Of hot restart
    #[arg(long, value_name = "N")]
    pub base_id: Option<u64>,
    /// Of hot restart
    #[arg(long)]
    pub use_dynamic_base_id: bool,
    /// Of hot restart
    #[arg(long, value_name = "PATH")]
    pub base_id_path: Option<PathBuf>,
    /// Of hot restart
    #[arg(long)]
    pub skip_hot_restart_on_no_parent: bool,
    /// Of hot restart
    #[arg(long)]
    pub skip_hot_restart_parent_stats: bool,
    /// Of hot restart
    #[arg(long, value_name = "PATH")]
    pub socket_path: Option<String>,
    /// Of hot restart
    #[arg(long, value_name = "MODE")]
    pub socket_mode: Option<String>,
    /// Of hot restart
    #[arg(long, value_name = "S")]
    pub parent_shutdown_time_s: Option<u32>,
    /// Affinity is always respected
    #[arg(long)]
    pub cpuset_threads: bool,
    /// Log lines have one format
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log lines are always escaped
    #[arg(long)]
    pub log_format_escaped: bool,
    /// Components are the same at every granularity
    #[arg(long)]
    pub enable_fine_grain_logging: bool,
    /// A panic is one line in any case
    #[arg(long)]
    pub log_stacktrace_single_entry: bool,
    /// There is no lock to trace on the data path
    #[arg(long)]
    pub enable_mutex_tracing: bool,
    /// Left to ulimit
    #[arg(long)]
    pub enable_core_dump: bool,
    /// Flags of old releases of Envoy
    #[command(flatten)]
    pub removed: Removed,
}

/// Flags that Envoy itself has removed, but that scripts still pass.
#[derive(Args, Clone, Debug)]
pub struct Removed {
    #[arg(long, hide = true)]
    pub v2_config_only: bool,
    #[arg(long, hide = true, value_name = "N")]
    pub bootstrap_version: Option<u32>,
    #[arg(long, hide = true, value_name = "N")]
    pub max_stats: Option<u64>,
    #[arg(long, hide = true, value_name = "N")]
    pub max_obj_name_len: Option<u64>,
    #[arg(long, hide = true, value_name = "N")]
    pub log_format_prefix_with_location: Option<String>,
    #[arg(long, hide = true, value_name = "N")]
    pub use_fake_symbol_table: Option<String>,
    #[arg(long, hide = true, action = ArgAction::SetTrue)]
    pub use_libevent_buffers: bool,
}

/// Envoy's default of `--log-format`, which is near to what is printed.
pub const DEFAULT_LOG_FORMAT: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Mode {
    /// Serve.
    Serve,
    /// Check the configuration and exit.
    Validate,
    /// Initialise and exit.
    InitOnly,
}

/// `--drain-strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DrainStrategy {
    /// Connections close with a probability that grows over the drain time.
    Gradual,
    /// Every connection closes at its next response.
    Immediate,
}

/// `--local-address-ip-version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A name of letters and digits and a value without dots, as Envoy wants them.
fn stats_tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("not of the form NAME:VALUE")?;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(format!("the name {name:?} is not one of letters and digits"));
    }
    if value.is_empty() || value.contains('.') {
        return Err(format!("the value {value:?} is empty or has a dot"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn only_first_epoch(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Ok(0),
        Ok(_) => Err("hot restart is not implemented yet: only epoch 0 can be started".to_owned()),
        Err(_) => Err("not a number".to_owned()),
    }
}

impl Options {
    /// Parses `argv`, the program's name included.
    pub fn parse_from_argv(argv: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(argv)
    }

    /// How long a drain takes.
    pub fn drain_time(&self) -> Duration {
        Duration::from_secs(self.drain_time_s.into())
    }

    /// The flags given that change nothing, by name.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let NoEffect {
            // Said to silence Envoy's hot restart, and so no news.
            disable_hot_restart: _,
            base_id,
            use_dynamic_base_id,
            base_id_path,
            skip_hot_restart_on_no_parent,
            skip_hot_restart_parent_stats,
            socket_path,
            socket_mode,
            parent_shutdown_time_s,
            cpuset_threads,
            log_format,
            log_format_escaped,
            enable_fine_grain_logging,
            log_stacktrace_single_entry,
            enable_mutex_tracing,
            enable_core_dump,
            removed,
        } = &self.no_effect;
        let given = [
            ("--base-id", base_id.is_some()),
            ("--use-dynamic-base-id", *use_dynamic_base_id),
            ("--base-id-path", base_id_path.is_some()),
            ("--skip-hot-restart-on-no-parent", *skip_hot_restart_on_no_parent),
            ("--skip-hot-restart-parent-stats", *skip_hot_restart_parent_stats),
            ("--socket-path", socket_path.is_some()),
            ("--socket-mode", socket_mode.is_some()),
            ("--parent-shutdown-time-s", parent_shutdown_time_s.is_some()),
            ("--cpuset-threads", *cpuset_threads),
            ("--log-format", log_format.as_ref().is_some_and(|format| format != DEFAULT_LOG_FORMAT)),
            ("--log-format-escaped", *log_format_escaped),
            ("--enable-fine-grain-logging", *enable_fine_grain_logging),
            ("--log-stacktrace-single-entry", *log_stacktrace_single_entry),
            ("--enable-mutex-tracing", *enable_mutex_tracing),
            ("--enable-core-dump", *enable_core_dump),
        ];
        given.into_iter().chain(removed.given()).filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
}

impl Removed {
    fn given(&self) -> [(&'static str, bool); 7] {
        let Self {
            v2_config_only,
            bootstrap_version,
            max_stats,
            max_obj_name_len,
            log_format_prefix_with_location,
            use_fake_symbol_table,
            use_libevent_buffers,
        } = self;
        [
            ("--v2-config-only", *v2_config_only),
            ("--bootstrap-version", bootstrap_version.is_some()),
            ("--max-stats", max_stats.is_some()),
            ("--max-obj-name-len", max_obj_name_len.is_some()),
            ("--log-format-prefix-with-location", log_format_prefix_with_location.is_some()),
            ("--use-fake-symbol-table", use_fake_symbol_table.is_some()),
            ("--use-libevent-buffers", *use_libevent_buffers),
        ]
    }
}

/// What `--version` prints: like Envoy, the release's number among what scripts cut out by slashes.
pub fn version() -> String {
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    format!("nuncio/{}/Clean/{build}/AWS-LC", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Options, clap::Error> {
        Options::parse_from_argv(std::iter::once("nuncio").chain(flags.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_flags_that_istio_passes_are_accepted() {
        let options = parse(&[
            "-c",
            "etc/istio/proxy/envoy-rev.json",
            "--drain-time-s",
            "45",
            "--drain-strategy",
            "immediate",
            "--local-address-ip-version",
            "v4",
            "--file-flush-interval-msec",
            "1000",
            "--disable-hot-restart",
            "--allow-unknown-static-fields",
            "-l",
            "warning",
            "--component-log-level",
            "misc:error",
            "--skip-deprecated-logs",
            "--concurrency",
            "2",
        ])
        .unwrap();
        assert_eq!(options.drain_time(), Duration::from_secs(45));
        assert_eq!(options.drain_strategy, DrainStrategy::Immediate);
        assert_eq!(options.concurrency, Some(2));
        assert!(options.without_effect().is_empty());
    }

    #[test]
    fn defaults_are_envoys() {
        let options = parse(&[]).unwrap();
        assert_eq!(options.mode, Mode::Serve);
        assert_eq!(options.log_level, LogLevel::Info);
        assert_eq!((options.drain_time_s, options.file_flush_interval_msec), (600, 10_000));
        assert_eq!(options.drain_strategy, DrainStrategy::Gradual);
    }

    #[test]
    fn flags_of_old_envoys_are_accepted_without_effect() {
        let options = parse(&["--max-stats", "1000", "--bootstrap-version", "3", "--use-libevent-buffers"]).unwrap();
        assert_eq!(options.without_effect(), ["--bootstrap-version", "--max-stats", "--use-libevent-buffers"]);
    }

    #[test]
    fn unknown_flags_and_values_are_errors() {
        for flags in [&["--no-such-flag"][..], &["--mode", "half"], &["-l", "loud"], &["--restart-epoch", "1"]] {
            assert!(parse(flags).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn both_modes_of_spelling_init_only_and_warn_work() {
        assert_eq!(parse(&["--mode", "init_only"]).unwrap().mode, Mode::InitOnly);
        assert_eq!(parse(&["-l", "warn"]).unwrap().log_level, LogLevel::Warning);
    }
}
