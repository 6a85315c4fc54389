//! Builders for end-to-end tests: a proxy process, scripted upstreams and clients, all on real sockets of loopback.
//!
//! `proxy(yaml).upstream(http1().route("/", "hi")).run().await` starts both and waits until the proxy is ready. Start
//! reading at `proxy.rs`.

pub(crate) mod bootstrap;
pub(crate) mod client;
pub(crate) mod frames;
pub(crate) mod h2_client;
pub(crate) mod http1;
pub(crate) mod proxy;
pub(crate) mod split;
pub(crate) mod upstream;

use std::io::Write;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

/// How long any single step of a test may take before it fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Whether this build of nuncio is more than an empty main; says so once where it is not.
pub(crate) fn nuncio_serves() -> bool {
    static SERVES: LazyLock<bool> = LazyLock::new(|| {
        let output = Command::new(proxy::binary()).arg("--version").output();
        let serves = output.is_ok_and(|output| !output.stdout.is_empty());
        if !serves {
            say("SKIPPED: this nuncio does not serve yet");
        }
        serves
    });
    *SERVES
}

/// Writes past the capture of the test harness, so that a passing run shows it too.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
