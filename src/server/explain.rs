//! `nuncio explain` and `/explain`: what becomes of a request, step by step, and why.
//!
//! In: a configuration and the request. Out: for each listener with a connection manager the virtual host, the routes
//! that were looked at, and where the request goes. The route is the one that the data path's table finds; the reasons
//! against the others come from looking at one after the other.

mod render;
mod report;

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use nuncio_proto::envoy::config::bootstrap::v3::Bootstrap;
use nuncio_telemetry::access_log::{FileManager, FlushPolicy};
use nuncio_telemetry::stats::Store;
use nuncio_upstream::Clusters;
use prost::Message as _;

use crate::Extensions;
use crate::cli::Options;
use crate::startup::Start;

pub(crate) use report::{Config, explain};

/// Tell what becomes of a request, and why.
#[derive(Debug, Parser)]
#[command(name = "nuncio explain", max_term_width = 100)]
struct Args {
    /// Path to the bootstrap: YAML, or by its ending .json, .pb or .pb_text
    #[arg(short, long, value_name = "PATH")]
    config_path: PathBuf,
    /// Method of the request
    #[arg(long, default_value = "GET")]
    method: String,
    /// Its host
    #[arg(long, value_name = "HOST")]
    authority: String,
    /// Its path, with query
    #[arg(long, default_value = "/")]
    path: String,
    /// A header as 'name: value'; may be given again
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The client's IP address
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    source_address: String,
    /// The server name that the client asks for in TLS, by which filter chains are chosen
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// A protocol that it offers there (ALPN); may be given again
    #[arg(long = "alpn", value_name = "PROTOCOL")]
    alpn: Vec<String>,
    /// The port that the client connects to, where it is not that of the listener
    #[arg(long, value_name = "PORT")]
    destination_port: Option<String>,
    /// Only the listener of this name
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Chooses among weighted clusters and decides runtime fractions
    #[arg(long, value_name = "N", default_value = "0")]
    random_value: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A request to be explained.
#[derive(Debug)]
pub(crate) struct Query {
    method: Method,
    authority: String,
    path: String,
    headers: HeaderMap,
    source: IpAddr,
    server_name: Option<String>,
    alpn: Vec<String>,
    destination_port: Option<u16>,
    listener: Option<String>,
    random: u64,
}

// === impl Query ===

impl Query {
    /// From parameters by the names of the command line's flags, in words of which `-` may be `_`.
    pub(crate) fn parse<'a>(parameters: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut query = Self {
            method: Method::GET,
            authority: String::new(),
            path: "/".to_owned(),
            headers: HeaderMap::new(),
            source: Ipv4Addr::LOCALHOST.into(),
            server_name: None,
            alpn: Vec::new(),
            destination_port: None,
            listener: None,
            random: 0,
        };
        for (key, value) in parameters {
            let wrong = |what: &str| format!("{key}: {value:?} is {what}");
            match &*key.replace('-', "_") {
                "method" => query.method = value.parse().map_err(|_| wrong("no method"))?,
                "authority" => query.authority = value.to_owned(),
                "path" => query.path = value.to_owned(),
                "header" => {
                    let (name, value) = header(value).ok_or_else(|| wrong("not 'name: value'"))?;
                    query.headers.append(name, value);
                }
                "source_address" => query.source = value.parse().map_err(|_| wrong("no IP address"))?,
                "server_name" => query.server_name = Some(value.to_ascii_lowercase()),
                "alpn" => query.alpn.push(value.to_owned()),
                "destination_port" => {
                    query.destination_port = Some(value.parse().map_err(|_| wrong("no port"))?);
                }
                "listener" => query.listener = Some(value.to_owned()),
                "random_value" => query.random = value.parse().map_err(|_| wrong("no number"))?,
                "format" => {}
                _ => return Err(format!("there is no parameter {key}")),
            }
        }
        if query.authority.is_empty() {
            return Err("authority is required".to_owned());
        }
        Ok(query)
    }
}

fn header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    Some((name.trim().parse().ok()?, HeaderValue::from_str(value.trim()).ok()?))
}

/// Runs the tool with the words after its name.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>, extensions: Extensions) -> ExitCode {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => return crate::usage(&error),
    };
    match answer(&args, extensions) {
        Ok(text) => {
            // Who reads no further wants no more.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "nuncio explain: {error}");
            ExitCode::FAILURE
        }
    }
}

fn answer(args: &Args, extensions: Extensions) -> Result<String, String> {
    let mut parameters = vec![
        ("method", &*args.method),
        ("authority", &args.authority),
        ("path", &args.path),
        ("source_address", &args.source_address),
        ("random_value", &args.random_value),
    ];
    parameters.extend(args.headers.iter().map(|header| ("header", &**header)));
    parameters.extend(args.server_name.iter().map(|name| ("server_name", &**name)));
    parameters.extend(args.alpn.iter().map(|protocol| ("alpn", &**protocol)));
    parameters.extend(args.destination_port.iter().map(|port| ("destination_port", &**port)));
    parameters.extend(args.listener.iter().map(|listener| ("listener", &**listener)));
    let query = Query::parse(parameters.into_iter())?;
    let words = ["nuncio".into(), "-c".into(), args.config_path.clone().into_os_string()];
    let options = Options::parse_from_argv(words).map_err(|error| error.to_string())?;
    let store = Store::new();
    let policy = FlushPolicy { interval: Duration::from_secs(1), min_size: 0 };
    let files = Arc::new(FileManager::new(policy, &store.scope("filesystem")));
    let start = Start::load(options, extensions, store.clone(), files).map_err(|error| error.to_string())?;
    let clusters = Clusters::new(&store, None);
    clusters.update(start.config.clusters);
    let config = Config {
        // What the loader checked decodes.
        bootstrap: &Bootstrap::decode(start.loaded.bootstrap()).unwrap_or_default(),
        listeners: start.config.listeners,
        clusters: &clusters.snapshot(),
        env: &start.env,
    };
    let reports = explain(&config, &query)?;
    Ok(if args.json { render::json(&reports) } else { render::text(&reports) })
}

/// The answer in the format asked for.
pub(crate) fn render(reports: &[report::Report], is_json: bool) -> String {
    if is_json { render::json(reports) } else { render::text(reports) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(parameters: &[(&str, &str)]) -> String {
        Query::parse(parameters.iter().copied()).expect_err("it is wrong")
    }

    #[test]
    fn parameters_are_checked_by_name_and_value() {
        assert_eq!(wrong(&[("authority", "a"), ("x", "y")]), "there is no parameter x");
        assert_eq!(wrong(&[("header", "a")]), "header: \"a\" is not 'name: value'");
        assert_eq!(wrong(&[("source-address", "a")]), "source-address: \"a\" is no IP address");
        assert_eq!(wrong(&[("random_value", "-1")]), "random_value: \"-1\" is no number");
        assert_eq!(wrong(&[]), "authority is required");
    }

    #[test]
    fn a_header_may_have_colons_in_its_value() {
        let query = Query::parse([("authority", "a"), ("header", "x-a: b:c")].into_iter()).unwrap();
        assert_eq!(query.headers["x-a"], "b:c");
    }
}
