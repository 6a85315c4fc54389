//! Holds the shape of the sources: size of files and functions, file names, no `unwrap()` on input, no citations of
//! lines. Reads the text alone, so that it also sees code that is compiled out.

mod source;

use source::Source;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Lines of a file, its tests not counted, above which it must be split or listed below.
const MAX_FILE_LINES: usize = 600;
/// Lines of a function above which a reader no longer takes it in at one look.
const MAX_FUNCTION_LINES: usize = 60;

/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the repository, as a path from its root.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root(), &mut found);
    found.sort();
    let mut sources: Vec<Source> = found.into_iter().map(|path| Source::read(&root(), &path)).collect();
    let of_tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    sources.iter_mut().filter(|s| of_tests.contains(&s.path)).for_each(Source::mark_as_tests);
    sources
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of this repository is readable").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && name != "third_party" && !name.starts_with('.') {
            collect(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Fails with all findings at once; a list that must be run ten times to be emptied is not worth having.
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn files_are_short_or_listed_with_a_reason() {
    none(
        sources()
            .iter()
            .filter(|s| s.code_lines() > MAX_FILE_LINES && !LONG_FILES.iter().any(|(path, _)| *path == s.path))
            .map(|s| format!("{}: {} lines without tests, at most {MAX_FILE_LINES}", s.path, s.code_lines()))
            .collect(),
    );
}

#[test]
fn the_list_of_long_files_has_no_stale_row() {
    let sources = sources();
    none(
        LONG_FILES
            .iter()
            .filter(|(path, _)| !sources.iter().any(|s| s.path == *path && s.code_lines() > MAX_FILE_LINES))
            .map(|(path, _)| format!("{path} is listed as long and is not"))
            .collect(),
    );
}

/// Reports only: an exhaustive match may be longer, and a reviewer decides.
#[test]
fn long_functions_are_reported() {
    let mut report = String::new();
    for source in sources() {
        for function in source.functions().iter().filter(|f| f.lines > MAX_FUNCTION_LINES) {
            report += &format!("tidy: {}: fn {} has {} lines\n", source.path, function.name, function.lines);
        }
    }
    // Written past the capture of the test harness, so that a passing run shows it too.
    let _ = std::io::stderr().write_all(report.as_bytes());
}

#[test]
fn no_file_is_named_mod_rs() {
    none(sources().iter().filter(|s| s.path.ends_with("mod.rs")).map(|s| s.path.clone()).collect());
}

#[test]
fn unwrap_is_only_in_tests() {
    let needle = concat!(".unwrap", "()");
    none(
        sources()
            .iter()
            .flat_map(|s| s.code_lines_containing(needle).into_iter().map(|line| format!("{}: {line}", s.path)))
            .collect(),
    );
}

#[test]
fn comments_cite_no_lines_of_files() {
    none(sources().iter().flat_map(|s| s.line_citations()).collect());
}
