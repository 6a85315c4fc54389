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

/// Whether this build of nuncio has a connection manager yet; says so once where it has not.
pub(crate) fn nuncio_serves() -> bool {
    static SERVES: LazyLock<bool> = LazyLock::new(|| {
        let yaml = bootstrap::Pieces::default().yaml().replace("$UPSTREAM", "1");
        let output = Command::new(proxy::binary()).args(["--mode", "validate", "--config-yaml", &yaml]).output();
        let serves = output.is_ok_and(|output| output.status.success());
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
