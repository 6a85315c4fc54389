//! Runs the same requests against nuncio and the real Envoy and compares what the client and the upstream saw.
//!
//! Scenarios are data: `tests/parity/*.txt`, whose format `scenario.rs` describes. Envoy is `$NUNCIO_ENVOY`, or the one
//! that `.ci/run` installs under `.peers`, or `envoy` on PATH; where there is none, the tests say so and pass, unless
//! `NUNCIO_REQUIRE_ENVOY=1`. `NUNCIO_PARITY=envoy-only` prints what Envoy does and compares nothing,
//! `self` compares Envoy with itself, `pending` shows the differences of scenarios that are marked so;
//! `NUNCIO_PARITY_ONLY=text` runs the scenarios whose file or name contains it.

mod compare;
pub(crate) mod envoy;
mod escape;
pub(crate) mod hello;
mod mask;
mod observe;
mod scenario;
mod udp;

use crate::support::proxy::binary;
use crate::support::say;
use crate::support::split::Split;
use observe::{Patience, Report};
use scenario::Scenario;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Scenarios of one file under way at once; they mostly wait for processes to start.
const AT_ONCE: usize = 3;

macro_rules! scenario_files {
    ($($name:ident)*) => {
        const FILES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                check_file(stringify!($name));
            }
        )*
    };
}

scenario_files! {
    access_log
    addresses
    breakers
    cel
    cluster_aggregate
    cluster_forward_proxy
    cluster_original_dst
    cluster_policies
    codec
    config_dump
    discovered
    dns
    dns_filter
    dns_log
    filter_chains
    filters
    formatter
    forwarded
    framing
    happy_eyeballs
    health_check
    holding
    host_health
    http2
    http2_log
    internal
    internal_filter_state
    lb_hash
    lb_input
    lb_load_aware
    lb_least_request
    lb_metadata
    lb_orca
    lb_policy
    lb_priority
    lb_subset
    lb_zone
    listener_filters
    listener_handoff
    listener_log
    listener_update
    local_reply
    matching
    network_filters
    network_grpc
    network_sni_proxy
    original_src
    outlier
    path
    regex_bytes
    repeated_headers
    repeated_responses
    pools
    pools_closed
    proxy_status
    proxy_tlv
    rbac_matcher
    request_id
    response_headers
    route_action
    route_connect_udp
    route_cors
    route_filter_config
    route_hash
    route_headers
    route_hedge
    route_match
    route_mirror
    route_plugin
    route_policy
    route_redirect_internal
    route_retry
    route_scoped
    route_stats
    route_tree
    routing
    runtime
    runtime_keys
    stats
    stats_config
    syntax
    tap
    tcp_connect
    tcp_handshake
    tcp_proxy
    tcp_tunnel
    tls
    tls_certificates
    trace
    transport_auto
    transport_http_proxy
    tls_chain
    tls_inspector
    tls_lists
    tls_on_demand
    tls_parameters
    tls_peers
    tls_spiffe
    tls_trust
    tls_waits
    transport_socket
    transport_tls
    udp_proxy
    udp_tunnel
    upgrade
    upstream
    upstream_filters
    upstream_log
}

#[test]
fn every_scenario_file_is_run() {
    let entries = std::fs::read_dir(folder()).expect("the folder of scenarios is readable");
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "txt"))
    {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        assert!(FILES.contains(&name.as_str()), "{name} is not in scenario_files! of tests/parity.rs");
    }
}

fn envoy_only() -> bool {
    mode_is("envoy-only")
}

fn mode_is(wanted: &str) -> bool {
    std::env::var("NUNCIO_PARITY").is_ok_and(|mode| mode == wanted)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity")
}

fn check_file(name: &'static str) {
    let Some(envoy) = envoy::find() else { return };
    let text = std::fs::read_to_string(folder().join(format!("{name}.txt"))).expect("a listed file exists");
    let only = std::env::var("NUNCIO_PARITY_ONLY").unwrap_or_default();
    let mut scenarios = scenario::parse(&text).unwrap_or_else(|e| panic!("{name}.txt: {e}"));
    scenarios.retain(|s| name.contains(&only) || s.name.contains(&only));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let findings = runtime.expect("a runtime can be built").block_on(check_all(name, scenarios, envoy));
    assert!(findings.is_empty(), "\n{}\n{} scenarios of {name} differ", findings.join("\n"), findings.len());
}

async fn check_all(file: &'static str, scenarios: Vec<Scenario>, envoy: PathBuf) -> Vec<String> {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (at, scenario) in scenarios.into_iter().enumerate() {
        let (permits, envoy) = (permits.clone(), envoy.clone());
        running.spawn(async move {
            let _permit = permits.acquire().await.expect("the semaphore is never closed");
            (at, check_scenario(file, &scenario, &envoy).await)
        });
    }
    let mut findings = Vec::new();
    while let Some(done) = running.join_next().await {
        match done {
            Ok((at, Err(finding))) => findings.push((at, finding)),
            Ok((_, Ok(()))) => {}
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    findings.sort();
    findings.into_iter().map(|(_, finding)| finding).collect()
}

async fn check_scenario(file: &str, scenario: &Scenario, envoy: &Path) -> Result<(), String> {
    let title = format!("=== {file}: {}", scenario.name);
    if envoy_only() {
        if scenario.alone {
            return Ok(());
        }
        let report =
            observe::run(scenario, envoy, Split::Whole, Patience::Normal).await.map_err(|e| format!("{title}\n{e}"))?;
        say(&format!("{title}\n{}", report.render(scenario)));
        return Ok(());
    }
    let result = check_patiently(scenario, envoy).await;
    match (result, &scenario.pending) {
        (Ok(()), Some(_)) => {
            say(&format!("NO LONGER PENDING {title}: remove its `--- pending`"));
            Ok(())
        }
        (Err(_), Some(reason)) if !mode_is("pending") => {
            say(&format!("PENDING {title}: {reason}"));
            Ok(())
        }
        (Err(finding), _) => Err(format!("{title}\n{finding}")),
        (Ok(()), None) => Ok(()),
    }
}

async fn check_patiently(scenario: &Scenario, envoy: &Path) -> Result<(), String> {
    // A loaded machine may cut an observation short: only what differs twice, the second time with patience, differs.
    match check_once(scenario, envoy, Patience::Normal).await {
        Ok(()) => Ok(()),
        Err(_) => check_once(scenario, envoy, Patience::Long).await,
    }
}

async fn check_alone(scenario: &Scenario, patience: Patience) -> Result<(), String> {
    if let Some(step) = scenario.steps.iter().find(|step| step.expect.is_none()) {
        return Err(format!("[{}] states no outcome", step.label));
    }
    let ours = observe::run(scenario, &binary(), Split::Whole, patience).await.map_err(|e| format!("nuncio: {e}"))?;
    compare::compare(scenario, &ours, &ours)
}

async fn check_once(scenario: &Scenario, envoy: &Path, patience: Patience) -> Result<(), String> {
    // Envoy against itself: what differs then is the harness's own doing, or a deviation that a scenario states.
    let itself = mode_is("self");
    let nuncio = &if itself { envoy.to_owned() } else { binary() };
    if scenario.alone {
        return check_alone(scenario, patience).await;
    }
    let theirs = observe::run(scenario, envoy, Split::Whole, patience).await.map_err(|e| format!("Envoy: {e}"))?;
    for split in [Split::Whole, Split::Bytes] {
        let ours: Report = observe::run(scenario, nuncio, split, patience).await.map_err(|e| format!("nuncio: {e}"))?;
        compare::compare(scenario, &theirs, &ours).map_err(|e| format!("{e}(requests sent {split:?})"))?;
    }
    Ok(())
}
