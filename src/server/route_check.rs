//! `nuncio route-check`: holds route tables against a file of expectations, in the format of Envoy's router_check_tool.
//!
//! In: a bootstrap or a `RouteConfiguration`, and a test file. Out: what is not as expected, how many of the routes were
//! tested, and the exit code. The tables are those of the data path.

mod cases;
mod coverage;
mod source;
mod verify;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nuncio_config::load::Problem;

use crate::startup::{lines, reasons};
use cases::Case;
use coverage::Coverage;
use source::Routes;

pub(crate) use source::{Inline, of_listener};

/// Test a route table.
#[derive(Debug, Parser)]
#[command(name = "nuncio route-check", max_term_width = 100)]
struct Args {
    /// Bootstrap or RouteConfiguration: .yaml, .json or .pb_text
    #[arg(short, long, value_name = "PATH")]
    config_path: PathBuf,
    /// Tests, as Envoy's router_check_tool takes them: .yaml, .json or .pb_text
    #[arg(short, long, alias = "test-path", value_name = "PATH")]
    tests: PathBuf,
    /// Name of the route configuration, where a bootstrap has several
    #[arg(long, value_name = "NAME")]
    route_config: Option<String>,
    /// Name the tests that pass, too
    #[arg(short, long)]
    details: bool,
    /// Name only the tests that fail
    #[arg(long)]
    only_show_failures: bool,
    /// Fail if the coverage is less
    #[arg(short, long, value_name = "PERCENT", default_value_t = 0.0)]
    fail_under: f64,
    /// Coverage counts the share of its checks that were made of each route, not only whether there was one
    #[arg(long)]
    covall: bool,
    /// Name the routes that no test is about
    #[arg(long)]
    detailed_coverage: bool,
}

/// Why nothing can be tested. Its text is what the user sees.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} is refused for {}:\n  {}", reasons(.problems), lines(.problems))]
    Refused { path: String, problems: Vec<Problem> },
    #[error("{path} is no text: give .yaml, .json or .pb_text")]
    Binary { path: String },
    #[error("{path} has no inline route_config{}", .name.as_ref().map(|n| format!(" named {n:?}")).unwrap_or_default())]
    NoRoutes { path: String, name: Option<String> },
    #[error("{path} has several route configurations; say which by --route-config: {}", .names.join(", "))]
    Several { path: String, names: Vec<String> },
}

/// Runs the tool with the words after its name.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => return crate::usage(&error),
    };
    match check(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            err(format_args!("nuncio route-check: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether all is as expected.
fn check(args: &Args) -> Result<bool, ToolError> {
    let mut routes = Routes::load(&args.config_path, args.route_config.as_deref())?;
    let cases = Case::load(&args.tests, &routes)?;
    let mut coverage = Coverage::new(routes.table("")?);
    let mut passed = true;
    for case in &cases {
        let table = routes.table(&case.runtime)?;
        let mismatches = case.verify(&table, &mut coverage);
        passed &= mismatches.is_empty();
        if !mismatches.is_empty() {
            err(&case.name);
            mismatches.iter().for_each(err);
        } else if args.details && !args.only_show_failures {
            out(&case.name);
        }
    }
    let percent = if args.covall { coverage.of_checks() } else { coverage.of_routes() };
    if args.covall || args.detailed_coverage {
        coverage.untested().for_each(|route| out(format_args!("Missing test for {route}")));
    }
    out(format_args!("Current route coverage: {}%", rounded(percent)));
    if percent < args.fail_under {
        err(format_args!("Failed to meet coverage requirement: {}%", args.fail_under));
        passed = false;
    }
    Ok(passed)
}

/// With as many digits as Envoy's tool prints of 66.6667.
fn rounded(percent: f64) -> String {
    let text = format!("{percent:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Who reads no further wants no more.
fn out(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn err(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
