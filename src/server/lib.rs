//! The process: command line, configuration, threads, admin, signals.
//!
//! In: the command line, signals, requests to admin. Out: workers that accept and serve connections, until the process
//! is told to stop.
//! Invariants: everything that can be wrong with the configuration is told before anything is bound; a listener
//! accepts only once all it needs is ready; no panic ends the process.
//! Start reading at [`run`], then `startup` and `control`.

mod admin;
pub mod cli;
mod clients;
mod control;
mod deadline;
mod explain;
mod files;
mod health_discovery;
mod listeners;
mod load_reports;
mod logs;
mod memory;
mod node;
mod own_services;
mod panics;
mod registry;
mod reload;
mod route_check;
mod runtime;
mod snapshot;
mod startup;
mod statics;
mod stats;
mod task;
mod update;
mod watchdog;
mod worker;
mod xds;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use cli::{Mode, Options};
use logs::Logs;
use nuncio_filter_api::{HttpFilterRow, NetworkFilterRow};
use nuncio_telemetry::stats::Store;
use nuncio_telemetry::stats::catalogue::ServerStats;
use startup::{Start, StartError};

/// Does what the command line `argv` says, the program's name included; returns when the process is to end.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    run_with(argv, Extensions::default())
}

/// Extensions of whoever embeds nuncio, beside those that it has.
#[derive(Clone, Copy, Default)]
pub struct Extensions {
    /// HTTP filters.
    pub http: &'static [HttpFilterRow],
    /// Network filters.
    pub network: &'static [NetworkFilterRow],
}

/// As [`run`], with further extensions.
pub fn run_with(argv: impl IntoIterator<Item = OsString>, extensions: Extensions) -> ExitCode {
    let argv: Vec<OsString> = argv.into_iter().collect();
    // A tool is named by the first word, which is never one of Envoy's flags: those parse as if there were no tools.
    match argv.get(1).and_then(|word| word.to_str()) {
        Some("route-check") => return route_check::run(argv.into_iter().skip(1)),
        Some("diff") => return reload::diff(argv.into_iter().skip(1), extensions),
        Some("validate") => {
            let rest = argv.into_iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, word)| word);
            return serve(rest.chain(["--mode".into(), "validate".into()]), extensions);
        }
        Some("explain") => return explain::run(argv.into_iter().skip(1), extensions),
        _ => {}
    }
    serve(argv, extensions)
}

/// Does what Envoy's flags say.
fn serve(argv: impl IntoIterator<Item = OsString>, extensions: Extensions) -> ExitCode {
    let options = match Options::parse_from_argv(argv) {
        Ok(options) => options,
        Err(error) => return usage(&error),
    };
    if options.version {
        return print(format_args!("nuncio  version: {}", cli::version()));
    }
    if options.hot_restart_version {
        return print(format_args!("disabled"));
    }
    match start(options, extensions) {
        Ok(code) => code,
        Err(error) => {
            // One block for the eyes of whoever started it, whatever the log's level and place.
            let _ = writeln!(std::io::stderr(), "nuncio: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what is wrong with the command line, or the help that was asked for, which is no failure.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done where printing fails.
    let _ = error.print();
    if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn start(options: Options, extensions: Extensions) -> Result<ExitCode, StartError> {
    let store = Store::new();
    let logs = Logs::start(&options, &store)?;
    panics::install(ServerStats::new(&store.scope("server")));
    let started = configured(options, extensions, store, logs.clone());
    logs.flush();
    started
}

fn configured(options: Options, extensions: Extensions, store: Store, logs: Logs) -> Result<ExitCode, StartError> {
    let mode = options.mode;
    let name = options.config_path.as_ref().map_or_else(|| "--config-yaml".into(), |p| p.display().to_string());
    let start = Start::load(options, extensions, store, logs.files.clone())?;
    if mode == Mode::Validate {
        return Ok(print(format_args!("configuration '{name}' OK")));
    }
    control::run(start, logs)?;
    Ok(ExitCode::SUCCESS)
}

fn print(text: std::fmt::Arguments<'_>) -> ExitCode {
    let printed = writeln!(std::io::stdout(), "{text}");
    if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
