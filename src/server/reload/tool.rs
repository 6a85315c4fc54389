//! `nuncio diff`: what a reload would change.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use nuncio_config::load::StaticClusters;
use nuncio_telemetry::access_log::{FileManager, FlushPolicy};
use nuncio_telemetry::stats::Store;

use super::outline::{Changes, Outline};
use crate::Extensions;
use crate::cli::Options;
use crate::startup::Start;

/// Tell what a reload from one bootstrap to another would change.
#[derive(Debug, Parser)]
#[command(name = "nuncio diff", max_term_width = 100)]
struct Args {
    /// The bootstrap in force
    old: PathBuf,
    /// The one to be taken over
    new: PathBuf,
}

/// Runs the tool with the words after its name.
pub(crate) fn diff(arguments: impl IntoIterator<Item = OsString>, extensions: Extensions) -> ExitCode {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => return crate::usage(&error),
    };
    match lines(&args, extensions) {
        Ok(lines) => {
            for line in lines {
                // Who reads no further wants no more.
                let _ = writeln!(std::io::stdout(), "{line}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "nuncio diff: {error}");
            ExitCode::FAILURE
        }
    }
}

fn lines(args: &Args, extensions: Extensions) -> Result<Vec<String>, String> {
    let (old, new) = (load(&args.old, extensions)?, load(&args.new, extensions)?);
    Ok(Changes::between(&Outline::of(&old), &Outline::of(&new)).lines())
}

/// Loads and validates a bootstrap.
fn load(path: &Path, extensions: Extensions) -> Result<StaticClusters, String> {
    let words = ["nuncio".into(), "-c".into(), path.as_os_str().to_owned()];
    let options = Options::parse_from_argv(words).map_err(|error| error.to_string())?;
    let store = Store::new();
    let policy = FlushPolicy { interval: Duration::from_secs(1), min_size: 0 };
    let files = Arc::new(FileManager::new(policy, &store.scope("filesystem")));
    let start = Start::load(options, extensions, store, files).map_err(|error| error.to_string())?;
    Ok(start.loaded)
}
