# What a developer runs; `.ci/run` runs the same and installs what it needs first.

default:
    @just --list

# All that must be green before a push.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test --workspace
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
    if cargo deny --version >/dev/null 2>&1; then cargo deny check; else echo "cargo-deny is not installed: skipped"; fi

# The same requests against nuncio and the real Envoy, one scenario by name or all of them.
parity name="":
    NUNCIO_PARITY_ONLY={{name}} cargo test --test main parity -- --nocapture

# Side by side with Envoy, HAProxy and nginx; writes benches/RESULTS.md. See benches/compare/run --help.
bench *args:
    cargo build --release
    benches/compare/run {{args}}

# Pushes of a control plane, nuncio beside Envoy ($NUNCIO_ENVOY); writes its section of benches/RESULTS.md.
bench-xds:
    cargo build --release --bin nuncio --example xds_push
    cd "${CARGO_TARGET_DIR:-target}/release" && examples/xds_push --into {{justfile_directory()}}/benches/RESULTS.md nuncio=./nuncio envoy="$NUNCIO_ENVOY"

# Every fuzz target for a minute each; needs cargo-fuzz and a nightly toolchain.
fuzz-smoke seconds="60":
    cd fuzz && for target in $(cargo fuzz list); do \
        mkdir -p "corpus/$target" && \
        cargo +nightly fuzz run "$target" "corpus/$target" "seeds/$target" -- -max_total_time={{seconds}} -rss_limit_mb=2048 -timeout=10 || exit 1; \
    done
