//! Holds the table of crate levels (ARCHITECTURE.md) against every Cargo.toml: a crate uses only lower levels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Crate, folder of its Cargo.toml, level. A crate may depend only on crates of a smaller level.
const LEVELS: &[(&str, &str, u8)] = &[
    ("nuncio-proto", "proto", 0),
    ("nuncio-telemetry", "src/telemetry", 1),
    ("nuncio-filter-api", "filters/api", 2),
    ("nuncio-config", "config", 3),
    ("nuncio-net", "src/net", 4),
    ("nuncio-filters-http", "filters/http", 4),
    ("nuncio-filters-network", "filters/network", 4),
    ("nuncio-http", "src/http", 5),
    ("nuncio-upstream", "src/upstream", 6),
    ("nuncio", "", 7),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The crates of this workspace that a Cargo.toml names in a section whose name satisfies `wanted`.
fn own_dependencies(manifest: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').to_owned();
            if let Some((kind, name)) = section.rsplit_once('.')
                && wanted(kind)
                && name.starts_with("nuncio")
            {
                found.push(name.to_owned());
            }
            continue;
        }
        let Some((key, _)) = line.split_once('=') else { continue };
        let name = key.trim().split('.').next().unwrap_or_default();
        if wanted(&section) && name.starts_with("nuncio") {
            found.push(name.to_owned());
        }
    }
    found
}

fn is_shipped(section: &str) -> bool {
    section == "dependencies" || section == "build-dependencies" || section.ends_with(".dependencies")
}

fn manifest(folder: &str) -> String {
    let path = root().join(folder).join("Cargo.toml");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn manifests_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of this repository is readable").flatten() {
        let name = entry.file_name();
        let path = entry.path();
        if name == "Cargo.toml" {
            found.push(path);
        } else if path.is_dir() && name != "target" && name != "third_party" && !name.to_string_lossy().starts_with('.')
        {
            manifests_below(&path, found);
        }
    }
}

#[test]
fn crates_use_only_lower_levels() {
    let level: BTreeMap<&str, u8> = LEVELS.iter().map(|(name, _, level)| (*name, *level)).collect();
    for (name, folder, own) in LEVELS {
        for used in own_dependencies(&manifest(folder), is_shipped) {
            let Some(theirs) = level.get(used.as_str()) else { panic!("{name} uses {used}, which has no level") };
            assert!(theirs < own, "{name} (level {own}) may not use {used} (level {theirs})");
        }
    }
}

#[test]
fn every_crate_of_the_workspace_has_a_level() {
    let mut found = Vec::new();
    manifests_below(&root(), &mut found);
    for path in found {
        let folder = path.parent().expect("a manifest lies in a folder").strip_prefix(root()).expect("below the root");
        let folder = folder.to_string_lossy();
        // fuzz is a package of its own, outside the workspace, and ships nothing.
        if folder != "fuzz" {
            assert!(
                LEVELS.iter().any(|(_, at, _)| *at == folder),
                "{folder}/Cargo.toml has no level in tests/layers.rs"
            );
        }
    }
}

#[test]
fn a_section_of_dependencies_is_recognised_in_every_form() {
    let manifest = "[dependencies]\nnuncio-net = { path = \"x\" }\nnuncio-http.workspace = true\nbytes = \"1\"\n\
                    [dev-dependencies]\nnuncio-upstream.workspace = true\n\
                    [target.'cfg(unix)'.dependencies]\nnuncio-proto = \"1\"\n[dependencies.nuncio-config]\npath = \"y\"\n";
    assert_eq!(own_dependencies(manifest, is_shipped), ["nuncio-net", "nuncio-http", "nuncio-proto", "nuncio-config"]);
}
