//! Runs h2spec, the conformance suite of HTTP/2 (RFC 9113, 7541), in its strict mode against a direct response.
//!
//! h2spec is `$NUNCIO_H2SPEC`, or what `.ci/run` installs under `.peers`, or the one on PATH; where there is none the
//! test says so and passes, unless `NUNCIO_REQUIRE_H2SPEC=1`.

use crate::support::bootstrap::Pieces;
use crate::support::proxy::proxy;
use crate::support::say;
use crate::support::upstream::http1;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The cases of h2spec in strict mode: 146 or 147 by its version.
const CASES: u32 = 146;

/// Has requests answered when they have ended.
const BUFFER: &str = r#"- name: buffer
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer
    max_request_bytes: 65536
"#;

#[tokio::test]
async fn every_case_of_h2spec_passes_in_strict_mode() {
    let required = std::env::var("NUNCIO_REQUIRE_H2SPEC").is_ok_and(|v| v == "1");
    let Some(h2spec) = find() else {
        assert!(!required, "NUNCIO_REQUIRE_H2SPEC=1 and there is no h2spec");
        return say(
            "H2SPEC SKIPPED: no h2spec (set NUNCIO_H2SPEC, or `go install github.com/summerwind/h2spec/cmd/h2spec@latest`)",
        );
    };
    let pieces = Pieces {
        routes: "- match: { prefix: / }\n  direct_response: { status: 200, body: { inline_string: hello } }\n".into(),
        // Bytes that are no preface would be answered as HTTP/1 by the AUTO codec, rightly.
        hcm: "codec_type: HTTP2\n".into(),
        // An answer to half a request ends its stream with NO_ERROR, and frames sent after it would find a closed one.
        filters: BUFFER.into(),
        ..Pieces::default()
    };
    let proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
    let port = proxy.addr().port().to_string();
    let output = Command::new(h2spec).args(["-S", "-o", "2", "-h", "127.0.0.1", "-p", &port]).output();
    let output = output.expect("h2spec can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    let all_passed = text.contains(" 0 skipped, 0 failed") && cases(&text) >= CASES;
    assert!(all_passed, "{}\n{}", failures(&text), String::from_utf8_lossy(&output.stderr));
}

/// The number in the last line, `146 tests, 146 passed, ...`.
fn cases(text: &str) -> u32 {
    let summary = text.lines().rev().find_map(|line| line.split_once(" tests, "));
    summary.and_then(|(number, _)| number.trim().parse().ok()).unwrap_or(0)
}

/// What h2spec prints from its list of failures on.
fn failures(text: &str) -> &str {
    text.find("Failures:").map_or(text, |at| &text[at..])
}

fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("NUNCIO_H2SPEC") {
        return Some(PathBuf::from(named)).filter(|path| path.exists());
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".peers/bin/h2spec");
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&folders).map(|folder| folder.join("h2spec"));
    std::iter::once(installed).chain(on_path).find(|path| path.exists())
}
