//! Builders for end-to-end tests: a proxy process, scripted upstreams and clients, all on real sockets of loopback.
//!
//! `proxy(yaml).upstream(http1().route("/", "hi")).run().await` starts both and waits until the proxy is ready. Start
//! reading at `proxy.rs`.

pub(crate) mod bootstrap;
pub(crate) mod client;
pub(crate) mod control_plane;
pub(crate) mod conversation;
pub(crate) mod datagrams;
pub(crate) mod frames;
pub(crate) mod h2_client;
pub(crate) mod http1;
pub(crate) mod name_server;
pub(crate) mod ports;
pub(crate) mod proxy;
pub(crate) mod split;
pub(crate) mod upstream;
pub(crate) mod watch;

use std::io::Write;
use std::time::Duration;

/// How long any single step of a test may take before it fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Writes past the capture of the test harness, so that a passing run shows it too.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
